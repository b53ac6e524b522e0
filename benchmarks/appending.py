"""Appending by 1, 64 and 256 tasks, and how late the event loop is meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from recollect import AsyncSessionStore

from . import plain, texts
from .report import Row, alone, paired, percentile

TASKS = ((1, 2_000), (64, 200), (256, 100))
"""tasks, and messages appended by each"""

TEXTS = texts.messages(2_000)


class Run:
    """What one run of the store gave."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.lags: list[float] = []
        self.elapsed = 0.0
        self.indexed = 0.0


async def store_run(path: Path, tasks: int, each: int) -> Run:
    """`tasks` tasks append to a session each, awaiting each append; then the index catches up."""
    run = Run()
    async with AsyncSessionStore(path) as store:
        ids = [(await store.sessions.create(f"s{n + 1}", source="bench")).id for n in range(tasks)]
        ticker = asyncio.create_task(_tick(run.lags))
        began = time.perf_counter()
        await asyncio.gather(*[_appender(store, id, n, tasks, each, run.waits) for n, id in enumerate(ids)])
        run.elapsed = time.perf_counter() - began
        await store.flush(index=True)
        run.indexed = time.perf_counter() - began
        ticker.cancel()
    return run


async def _appender(
    store: AsyncSessionStore, session_id: str, n: int, tasks: int, each: int, waits: list[float]
) -> None:
    for turn in range(each):
        began = time.perf_counter()
        await store.messages.append(session_id, role="user", content=TEXTS[(turn * tasks + n) % len(TEXTS)])
        waits.append(time.perf_counter() - began)


async def _tick(lags: list[float]) -> None:
    """How late a task is that sleeps for a millisecond: what a heartbeat would feel."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append(time.perf_counter() - began - 0.001)


def rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """The table of appending."""
    for tasks, each in TASKS:
        pairs: list[tuple[Run, Sequence[float]]] = []
        for n in range(repetitions):
            times = plain.append(folder / f"plain-{tasks}-{n}.db", tasks, each, tasks, TEXTS)
            pairs.append((asyncio.run(store_run(folder / f"ours-{tasks}-{n}.db", tasks, each)), times))
        yield from _rows(tasks, each, pairs)


def _rows(tasks: int, each: int, pairs: list[tuple[Run, Sequence[float]]]) -> Iterator[Row]:
    total = tasks * each
    name = f"append, {tasks} task{'s' if tasks > 1 else ''}"
    yield paired(name, [(total / run.elapsed, total / sum(times)) for run, times in pairs], "rows/s",
                 f"plain: batches of {tasks}")  # fmt: skip
    yield paired(f"{name}, index kept up", [(total / run.indexed, total / sum(times)) for run, times in pairs],
                 "rows/s", "plain keeps no index")  # fmt: skip
    if tasks == 1:
        medians = [(statistics.median(run.waits) * 1000, statistics.median(times) * 1000) for run, times in pairs]
        yield paired(f"{name}, p50", medians, "ms", "plain: one commit")
    yield alone(f"{name}, p99", [percentile(run.waits, 0.99) * 1000 for run, _ in pairs], "ms")
    yield alone(f"{name}, loop lag p99", [percentile(run.lags, 0.99) * 1000 for run, _ in pairs], "ms")
