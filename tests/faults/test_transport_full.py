"""The transport with a store that is full, or refuses rows: written when there is room, lost alone, and told."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from recollect import AsyncSessionStore
from recollect.engine.operation import execute, one

from .events import PATIENCE_S, check_sums, numbers, outside, small, told, until


def room(pages: int):
    yield one(f"PRAGMA max_page_count={pages:d}")


async def test_a_full_store_is_written_to_when_there_is_room(path: Path, sound, caplog: pytest.LogCaptureFixture):
    """Everything buffered meanwhile is in it then, once, in order; it was told once."""
    async with AsyncSessionStore(path, connect=small) as store, store.transport() as transport:
        for n in range(600):
            transport.publish({"event": "x", "n": n, "v": "y" * 2_000})
        await until(lambda: transport.statistics().retries >= 2)
        assert transport.statistics().state == "waiting"
        assert transport.statistics().written < 600
        await store.write(room, 100_000)
        async with asyncio.timeout(PATIENCE_S):
            statistics = await transport.flush()
        assert (statistics.written, statistics.unwritten, statistics.state) == (600, 0, "open")
    assert numbers(path) == list(range(600))
    assert len([record for record in caplog.records if "waits" in record.message]) == 1
    sound(path)


async def test_closing_a_full_store(path: Path, sound):
    """In its time, with the exact number, and none of what is called unwritten."""
    async with AsyncSessionStore(path, connect=small) as store:
        transport = store.transport(buffer=400)
        await transport.open()
        for n in range(1_000):
            transport.publish({"event": "x", "n": n, "v": "y" * 2_000})
            if n % 100 == 0:
                await asyncio.sleep(0.01)
        await until(lambda: transport.statistics().state == "waiting")
        began = time.monotonic()
        unwritten = await transport.aclose(0.2)
        assert time.monotonic() - began < 3
        statistics = transport.statistics()
        check_sums(statistics)
        assert (statistics.unwritten, statistics.waiting) == (unwritten.events, 0)
        assert statistics.dropped == unwritten.untold + told(path)
    assert len(outside(path)) == statistics.written
    sound(path)


LIMITED = """
import asyncio, resource, signal, sys
from recollect import AsyncSessionStore

async def main():
    async with AsyncSessionStore(sys.argv[1]) as store, store.transport() as transport:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
        for n in range(1_000):
            transport.publish({"event": "x", "n": n, "v": "y" * 2_000})
        while transport.statistics().retries < 2 and transport.statistics().state != "disabled":
            await asyncio.sleep(0.02)
        print(transport.statistics().state, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        statistics = await transport.flush()
        print(statistics.written, statistics.unwritten, flush=True)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
asyncio.run(main())
"""


def test_a_quota_that_is_reached_and_raised(path: Path, run):
    """The system refuses to let files grow, then allows it: waited for, and everything is written."""
    done = run(LIMITED, path, timeout_s=PATIENCE_S)
    assert done.stdout.split() == ["waiting", "1000", "0"], done.stderr
    assert numbers(path) == list(range(1_000))


def _trigger(sql: str):
    yield execute(sql)


# -- rows that the database refuses ----------------------------------------------------------------

REFUSING = """CREATE TRIGGER refusing BEFORE INSERT ON events WHEN NEW.kind IN ({kinds})
 BEGIN SELECT RAISE(ABORT, 'refused'); END"""


async def test_a_row_that_the_database_refuses_is_lost_alone(store: AsyncSessionStore, path: Path, caplog):
    """A trigger of the owner's: its events are rejected and told of, all others of the batch are stored, in order."""
    await store.write(_trigger, REFUSING.format(kinds="'poison'"))
    async with store.transport() as transport:
        for n in range(1_000):
            transport.publish({"event": "poison" if n % 97 == 5 else "x", "n": n})
        statistics = await transport.flush()
        check_sums(statistics)
        assert (statistics.written, statistics.rejected, statistics.state) == (989, 11, "open")
    assert numbers(path) == [n for n in range(1_000) if n % 97 != 5]
    assert told(path) == 11
    assert len([record for record in caplog.records if "could not be stored" in record.message]) == 1


async def test_gap_records_that_the_database_refuses(store: AsyncSessionStore, path: Path):
    """The events beside them are stored, it does not try for ever, and at the end it says how many are untold."""
    await store.write(_trigger, REFUSING.format(kinds="'poison', 'transport.gap'"))
    transport = store.transport()
    await transport.open()
    for n in range(100):
        transport.publish({"event": "poison" if n % 10 == 5 else "x", "n": n})
    async with asyncio.timeout(PATIENCE_S):
        await transport.flush()
        unwritten = await transport.aclose()
    assert (unwritten.events, unwritten.untold, bool(unwritten)) == (0, 10, True)
    assert (len(outside(path)), told(path)) == (90, 0)


async def test_what_a_lost_transport_says_is_not_a_flood(path: Path, caplog: pytest.LogCaptureFixture):
    """Ten thousand losses of a kind are one line in the log, and one at the end."""
    with caplog.at_level(logging.INFO, "recollect"):
        async with AsyncSessionStore(path, readonly=False) as store, store.transport(buffer=1) as transport:
            for n in range(10_000):
                transport.publish({"event": "x", "n": n})
            await transport.flush()
    assert len([record for record in caplog.records if record.name == "recollect"]) == 1
    assert told(path) == 10_000 - len(outside(path))
