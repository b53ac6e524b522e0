"""Opening and closing: who comes at the wrong moment, what a path may be, what another SQLite may be."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recollect import (
    AsyncSessionStore,
    InvalidRecord,
    Limits,
    StoreBusy,
    StoreClosed,
    StoreFull,
    Timeouts,
    WriteUnknown,
)
from recollect.engine.operation import execute, one
from recollect.engine.sqlite.lockfile import LockFile


async def test_opening_while_closing_waits_and_opens_anew(tmp_path: Path):
    """The new opening is a whole one; the old one is closed to its end first."""
    store = AsyncSessionStore(tmp_path / "s.db")
    await store.open()
    await store.sessions.create("s")
    receipts = [store.messages.append_nowait("s", role="user", content=str(n)) for n in range(500)]
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0)
    await store.open()
    await closing
    assert [(await receipt).seq for receipt in receipts] == list(range(1, 501))
    await store.messages.append("s", role="user", content="after")
    assert await store.messages.count("s") == 501
    await store.aclose()


async def test_closing_while_opening_closes(tmp_path: Path):
    """It waits for the opening; afterwards the store is closed."""
    store = AsyncSessionStore(tmp_path / "s.db")
    opening = asyncio.create_task(store.open())
    await asyncio.sleep(0)
    await store.aclose()
    await opening
    with pytest.raises(StoreClosed):
        await store.sessions.get("s")


async def test_no_patience_still_writes_where_nobody_is_in_the_way(tmp_path: Path):
    """`busy_s=0` refuses only what has to wait."""
    timeouts = Timeouts(busy_s=0, reader_wait_s=0, search_catch_up_s=0, close_s=0)
    async with AsyncSessionStore(tmp_path / "s.db", timeouts=timeouts) as store:
        await store.sessions.create("s")
        for _ in range(20):
            await store.messages.append("s", role="user", content="word")
        assert await store.messages.count("s") == 20


async def test_one_file_has_one_lock_however_it_is_spelled(tmp_path: Path):
    """A store opened through a link waits for the lock of the file itself, and knows its log."""
    real = tmp_path / "real.db"
    async with AsyncSessionStore(real) as store:
        await store.sessions.create("s")
    link = tmp_path / "link.db"
    link.symlink_to(real)
    async with AsyncSessionStore(link, timeouts=Timeouts(busy_s=0.1)) as store:
        await store.messages.append("s", role="user", content="word")
        assert (await store.stats()).wal_bytes > 0
        lock = os.open(f"{real}.lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreBusy):
            await store.messages.append("s", role="user", content="refused")
        os.close(lock)
        await store.messages.append("s", role="user", content="word")
    assert not (tmp_path / "link.db.lock").exists()


def slow(rows: int):
    """A read that takes long."""
    counted = yield one(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows) SELECT COUNT(*) AS n FROM n",
        rows=rows,
    )
    return counted.n


async def test_reads_that_outlast_the_closing_are_stopped_and_leave_nothing(tmp_path: Path):
    """The one under way and the ones that wait for a reader; no connection and no thread stays."""
    before = threading.active_count()
    store = AsyncSessionStore(tmp_path / "s.db", limits=Limits(readers=1))
    await store.open()
    reads = [asyncio.create_task(store.read(slow, 10**9)) for _ in range(3)]
    while (await asyncio.sleep(0)) or not store._engine._requests:
        pass
    await store.aclose(timeout_s=0)
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    deadline = asyncio.get_running_loop().time() + 10
    while threading.active_count() > before:
        assert asyncio.get_running_loop().time() < deadline, "a reader's thread outlives the store"
        await asyncio.sleep(0.01)
    assert not [name for name in os.listdir("/proc/self/fd") if _target(name).startswith(str(tmp_path))]


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


async def test_a_cancelled_open_leaves_no_descriptor(tmp_path: Path):
    """Neither the connection nor the lock, whenever the cancellation comes."""
    for turns in range(40):
        store = AsyncSessionStore(tmp_path / "s.db")
        opening = asyncio.create_task(store.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        await store.aclose()
    deadline = asyncio.get_running_loop().time() + 10
    while left := [name for name in os.listdir("/proc/self/fd") if _target(name).startswith(str(tmp_path))]:
        assert asyncio.get_running_loop().time() < deadline, left
        await asyncio.sleep(0.01)


async def test_what_was_committed_is_never_called_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A writer that dies after COMMIT leaves its batch unknown; a lock that cannot be released is no reason to die."""
    async with AsyncSessionStore(tmp_path / "s.db") as store:
        await store.sessions.create("s")

        def broken(*_: object) -> None:
            raise RuntimeError("after COMMIT")

        monkeypatch.setattr(store._engine._writer, "_count", broken)
        with pytest.raises(WriteUnknown) as unknown:
            await store.messages.append("s", role="user", content="word")
        assert unknown.value.stored is None
        with pytest.raises(StoreClosed):
            await store.messages.append("s", role="user", content="later")
    async with AsyncSessionStore(tmp_path / "s.db") as store:
        assert await store.messages.count("s") == 1


async def test_a_lock_that_cannot_be_released_fails_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    """The batch is committed, and its callers are told so."""
    flock = fcntl.flock

    def stubborn(descriptor: int, what: int) -> None:
        flock(descriptor, what)
        if what == fcntl.LOCK_UN:
            raise OSError(5, "stubborn")

    monkeypatch.setattr("recollect.engine.sqlite.lockfile.fcntl.flock", stubborn)
    async with AsyncSessionStore(tmp_path / "s.db") as store:
        await store.sessions.create("s")
        assert (await store.messages.append("s", role="user", content="word")).seq == 1
    assert "stubborn" in caplog.text


FULL = """
import asyncio, resource, sys
from recollect import AsyncSessionStore, StoreFull

async def main():
    async with AsyncSessionStore(sys.argv[1]) as store:
        await store.sessions.create("s")
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
        stored = 0
        try:
            for n in range(1000):
                await store.messages.append("s", role="user", content="x" * 5000)
                stored += 1
        except StoreFull as error:
            print("full", error.stored)
        assert await store.messages.count("s") == stored
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await store.messages.append("s", role="user", content="room again")
        assert await store.messages.count("s") == stored + 1
        print("resumed")

import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
asyncio.run(main())
"""


def test_a_limit_on_the_size_of_files_is_met_and_writing_resumes(tmp_path: Path):
    """StoreFull, not stored; reads go on; when there is room again, so does writing."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", FULL, str(tmp_path / "s.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("full False\nresumed\n", "")
    assert StoreFull.stored is False


async def test_another_build_of_sqlite_is_a_store_like_any(tmp_path: Path):
    """`connect=`: opened, written, searched, asked, closed; its errors are ours, its version is told."""
    other = pytest.importorskip("pysqlite3", reason="no other build of SQLite is installed")
    async with AsyncSessionStore(tmp_path / "s.db", connect=other.connect) as store:
        await store.sessions.create("s", title="one")
        await store.messages.append("s", role="user", content="words of another build")
        assert [hit.seq async for hit in store.search("another")] == [1]
        with pytest.raises(Exception, match="nowhere") as refused:
            await store.query("SELECT * FROM nowhere")
        assert type(refused.value).__module__ == "recollect.errors"
        assert (await store.stats()).sqlite_version == other.sqlite_version != sqlite3.sqlite_version


async def test_a_reader_is_patient_with_a_locked_database(tmp_path: Path):
    """It waits as long as a writer would, and says that nothing was read."""
    path = tmp_path / "s.db"
    async with AsyncSessionStore(path, timeouts=Timeouts(busy_s=0.5)) as store:
        await store.sessions.create("s")
        await store.sessions.get("s")
        locker = await asyncio.to_thread(_start_locker, path)
        assert locker.stdout
        assert await asyncio.to_thread(locker.stdout.readline) == "locked\n"
        with pytest.raises(StoreBusy):
            await store.sessions.create("t")
        locker.communicate("go\n")
        await store.sessions.create("t")
        assert await store.sessions.get("t") is not None


def _start_locker(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOCKED, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


LOCKED = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


def test_a_path_that_is_none_is_refused_in_the_caller():
    """NUL, or the home of nobody."""
    for target in ("a\0b", "~nobody-of-that-name/x.db"):
        with pytest.raises(InvalidRecord):
            AsyncSessionStore(target)


def test_the_lock_is_let_go_of_in_a_forked_child(tmp_path: Path):
    """A child that lives on does not hold the parent's lock."""
    lock = LockFile(str(tmp_path / "x.lock"))
    with lock.held():
        child = os.fork()
        if child == 0:
            lock.close()
            os.pause() if hasattr(os, "pause") else __import__("signal").pause()
    lock.close()
    other = os.open(tmp_path / "x.lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    os.kill(child, 9)
    os.waitpid(child, 0)


async def test_a_raising_operation_of_ones_own_is_undone_alone(tmp_path: Path):
    """Also when it is the only one of its batch, and so has no savepoint."""
    async with AsyncSessionStore(tmp_path / "s.db") as store:
        await store.sessions.create("s")

        def half_done():
            yield execute("UPDATE sessions SET source = 'half'")
            raise ValueError("in the middle")

        with pytest.raises(ValueError, match="middle"):
            await store.write(half_done)
        assert [session.source async for session in store.sessions.stream()] == ["unknown"]
