"""Appending by 1, 64 and 256 tasks, and how late the event loop is meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
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


async def store_run(path: Path, tasks: int, each: int, *, watched: bool) -> Run:
    """`tasks` tasks append to a session each, awaiting each append; then the index catches up.

    Waits and the loop's lag are taken in a run of their own: the clockwork is not the store's work.
    """
    run = Run()
    appender = _watched_appender if watched else _appender
    async with AsyncSessionStore(path) as store:
        ids = [(await store.sessions.create(f"s{n + 1}", source="bench")).id for n in range(tasks)]
        ticker = asyncio.create_task(_tick(run.lags)) if watched else None
        began = time.perf_counter()
        await asyncio.gather(*[appender(store, id, n, tasks, each, run.waits) for n, id in enumerate(ids)])
        run.elapsed = time.perf_counter() - began
        await store.flush(index=True)
        run.indexed = time.perf_counter() - began
        if ticker:
            ticker.cancel()
    return run


async def _appender(store: AsyncSessionStore, session_id: str, n: int, tasks: int, each: int, _: list[float]) -> None:
    for turn in range(each):
        await store.messages.append(session_id, role="user", content=TEXTS[(turn * tasks + n) % len(TEXTS)])


async def _watched_appender(
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
        pairs: list[tuple[Run, tuple[float, list[float]]]] = []
        watched: list[Run] = []
        for n in range(repetitions):
            baseline = plain.append(folder / f"plain-{tasks}-{n}.db", tasks, each, tasks, TEXTS)
            run = store_run(folder / f"ours-{tasks}-{n}.db", tasks, each, watched=False)
            pairs.append((asyncio.run(run), baseline))
            watched.append(asyncio.run(store_run(folder / f"watched-{tasks}-{n}.db", tasks, each, watched=True)))
        yield from _rows(tasks, each, pairs, watched)


def _rows(
    tasks: int, each: int, pairs: list[tuple[Run, tuple[float, list[float]]]], watched: list[Run]
) -> Iterator[Row]:
    total = tasks * each
    name = f"append, {tasks} task{'s' if tasks > 1 else ''}"
    rates = [(total / run.elapsed, total / elapsed) for run, (elapsed, _) in pairs]
    yield paired(name, rates, "rows/s", f"plain: batches of {tasks}")
    sustained = [(total / run.indexed, total / elapsed) for run, (elapsed, _) in pairs]
    yield paired(f"{name}, index kept up", sustained, "rows/s", "plain keeps no index")
    if tasks == 1:
        waits = [(statistics.median(run.waits), times) for run, (_, (_, times)) in zip(watched, pairs, strict=True)]
        medians = [(wait * 1000, statistics.median(times) * 1000) for wait, times in waits]
        yield paired(f"{name}, p50", medians, "ms", "plain: one commit")
    yield alone(f"{name}, p99", [percentile(run.waits, 0.99) * 1000 for run in watched], "ms")
    yield alone(f"{name}, loop lag p99", [percentile(run.lags, 0.99) * 1000 for run in watched], "ms")
