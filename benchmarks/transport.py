"""An agent's events: what publishing costs, how the loop fares, and how fast the store takes them afterwards.

Four threads publish while another connection holds the store; then it lets go.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from recollect import AsyncSessionStore, EventTransport

from .report import Row, alone, percentile

EVENTS = 100_000
THREADS = 4
PAUSE_S = 0.001
"""after every 50 events, for agents do something else in between"""
HELD_S = 3.0


def publish(transport: EventTransport, thread: int, took: list[float]) -> None:
    """One thread's share, each call timed."""
    for n in range(EVENTS // THREADS):
        event = {"event": "state_enter", "ts": "2026-03-01T09:00:00Z", "loop": f"loop-{thread}", "run_id": "r1",
                 "state": "verify", "iteration": n}  # fmt: skip
        began = time.perf_counter()
        transport.publish(event)
        took.append(time.perf_counter() - began)
        if n % 50 == 49:
            time.sleep(PAUSE_S)


async def watch(lags: list[float]) -> None:
    """How late the loop is, a thousand times a second."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append(time.perf_counter() - began - 0.001)


async def measure(path: Path) -> tuple[float, float, float, float]:
    """Microseconds of a publish (p50, p99), milliseconds the loop was late (p99), events written a second."""
    took: list[list[float]] = [[] for _ in range(THREADS)]
    lags: list[float] = []
    async with AsyncSessionStore(path) as store, store.transport() as transport:
        threads = [threading.Thread(target=publish, args=(transport, k, took[k])) for k in range(THREADS)]
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            watching = asyncio.create_task(watch(lags))
            for thread in threads:
                thread.start()
            await asyncio.sleep(HELD_S)
            await asyncio.to_thread(lambda: [thread.join() for thread in threads])
            holder.execute("ROLLBACK")
        began = time.perf_counter()
        statistics = await transport.flush()
        seconds = time.perf_counter() - began
        watching.cancel()
        assert statistics.written == EVENTS
    every = [each for thread in took for each in thread]
    return percentile(every, 0.5) * 1e6, percentile(every, 0.99) * 1e6, percentile(lags, 0.99) * 1e3, EVENTS / seconds


def rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """The table of the transport."""
    measured = [asyncio.run(measure(folder / f"transport-{n}.db")) for n in range(repetitions)]
    p50, p99, lag, rate = zip(*measured, strict=True)
    note = f"{EVENTS:,} of {THREADS} threads, the store held for {HELD_S:g} s"
    yield alone("publish an event, p50", p50, "µs", note)
    yield alone("publish an event, p99", p99, "µs")
    yield alone("event loop late meanwhile and after, p99", lag, "ms")
    yield alone("events written afterwards", rate, "events/s")
