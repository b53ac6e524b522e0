"""What we rely on in aiosqlite, and what its thread promises us."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import threading
import weakref

import aiosqlite
import pytest
from aiosqlite import core

from recollect.engine.sqlite.thread import ThreadedConnection, connect


def test_aiosqlite_is_built_as_we_use_it():
    """The protected names thread.py touches are there and mean what they meant: when this fails, read
    aiosqlite's core.py before widening the version in pyproject.toml."""
    connection = aiosqlite.Connection(lambda: sqlite3.connect(":memory:"), 64)
    assert isinstance(connection._thread, threading.Thread)
    assert not connection._thread.is_alive()
    assert connection._connection is None
    assert connection._running is True
    assert hasattr(connection._tx, "put_nowait")
    worker = inspect.getsource(core._connection_worker_thread)
    assert "future, function = tx.get()" in worker
    assert "if result is _STOP_RUNNING_SENTINEL" in worker
    assert "if future:" in worker


async def test_hops_run_one_after_the_other_in_order():
    """What is submitted runs in that order, on one thread that is not the loop's."""
    connection = await connect(lambda: sqlite3.connect(":memory:", check_same_thread=False))
    seen: list[tuple[int, int]] = []
    hops = [connection.submit(lambda _, n=n: seen.append((n, threading.get_ident()))) for n in range(50)]
    await asyncio.gather(*hops)
    assert [n for n, _ in seen] == list(range(50))
    assert {thread for _, thread in seen} == {connection._thread.ident}
    await connection.close()


async def test_an_error_in_a_hop_is_the_hops_alone():
    """It reaches its caller; the next hop runs."""
    connection = await connect(lambda: sqlite3.connect(":memory:"))
    with pytest.raises(ZeroDivisionError):
        await connection.submit(lambda _: 1 // 0)
    assert await connection.submit(lambda c: c.execute("SELECT 7").fetchone()[0]) == 7
    await connection.close()


async def test_an_opening_that_was_cancelled_leaves_nothing_open():
    """The connection that arrives late is closed, and its thread ends."""
    let_go = threading.Event()
    opened: list[weakref.ref[sqlite3.Connection]] = []

    class Watched(sqlite3.Connection):
        pass

    def slowly() -> sqlite3.Connection:
        let_go.wait()
        connection = sqlite3.connect(":memory:", check_same_thread=False, factory=Watched)
        opened.append(weakref.ref(connection))
        return connection

    opening = asyncio.ensure_future(connect(slowly))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    let_go.set()
    deadline = asyncio.get_running_loop().time() + 10
    while not (opened and opened[0]() is None):
        assert asyncio.get_running_loop().time() < deadline, "what was opened too late stays open"
        await asyncio.sleep(0)


async def test_a_thread_does_not_hold_the_interpreter():
    """It is a daemon: what nobody closed ends with the process."""
    connection = await connect(lambda: sqlite3.connect(":memory:"))
    assert connection._thread.daemon
    await connection.close()


async def test_closing_ends_the_thread_after_what_is_queued():
    """What was submitted before is done."""
    connection: ThreadedConnection = await connect(lambda: sqlite3.connect(":memory:"))
    hop = connection.submit(lambda c: c.execute("SELECT 1").fetchone())
    await connection.close()
    assert await hop == (1,)
    connection._thread.join(5)
    assert not connection._thread.is_alive()
    with pytest.raises(ValueError, match="no active connection"):
        connection.submit(lambda c: None)
