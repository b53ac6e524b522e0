"""Several processes on one file: no word lost, no number given twice, patience with an end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from recollect import AsyncSessionStore, StoreBusy, Timeouts

APPENDING = """
import asyncio, sys
from recollect import AsyncSessionStore

async def main():
    async with AsyncSessionStore(sys.argv[1]) as store:
        await store.sessions.ensure("s")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        async def work(task):
            for n in range(25):
                text = f"{sys.argv[2]} {task} {n}"
                ref = await store.messages.append("s", role="user", content=text)
                print(ref.id, ref.seq, text)
        await asyncio.gather(*(work(task) for task in range(8)))

asyncio.run(main())
"""


def test_four_processes_append_to_one_session(path: Path, start, sound):
    """800 appends: no error, seq without a gap, every id once, each process's own in order."""
    processes = [start(APPENDING, path, n) for n in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    acknowledged = {}
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        for line in out.splitlines():
            id, seq, text = line.split(" ", 2)
            acknowledged[int(id), int(seq)] = text
    with closing(sqlite3.connect(path)) as db:
        rows = {(id, seq): text for id, seq, text in db.execute("SELECT id, seq, content FROM messages ORDER BY id")}
    assert rows == acknowledged
    assert sorted(seq for _, seq in rows) == list(range(1, 801))
    assert [seq for _, seq in sorted(rows)] == list(range(1, 801)), "ids and seqs in one order"
    for writer in (f"{n} {task} " for n in range(4) for task in range(8)):
        own = [text for _, text in sorted(rows.items()) if text.startswith(writer)]
        assert own == [f"{writer}{n}" for n in range(25)]
    sound(path)


OPENING = """
import asyncio, sys
from recollect import AsyncSessionStore

async def main():
    store = AsyncSessionStore(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    async with store:
        await store.sessions.create(sys.argv[2])
        await store.messages.append(sys.argv[2], role="user", content="word")
        print([hit.session_id async for hit in store.search("word", session=sys.argv[2])])

asyncio.run(main())
"""


def test_first_opens_at_once_all_succeed(path: Path, start, sound):
    """Eight processes race to make one file: all open it, and all that they wrote is in it."""
    for attempt in range(2):
        place = path.with_name(f"fresh{attempt}.db")
        processes = [start(OPENING, place, f"p{n}") for n in range(8)]
        for process in processes:
            process.stdout.readline()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for n, process in enumerate(processes):
            out, err = process.communicate(timeout=30)
            assert (out, err, process.returncode) == (f"['p{n}']\n", "", 0)
        with closing(sqlite3.connect(place)) as db:
            assert db.execute("SELECT COUNT(*) FROM sessions").fetchone() == (8,)
        sound(place)


# -- patience --------------------------------------------------------------------------------------


class Lock:
    """`<db>.lock`, held as another process holds it."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(f"{path}.lock", os.O_RDWR)

    def __enter__(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


class Transaction:
    """A connection of another program, in the middle of a write."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self.db.execute("ROLLBACK")
        self.db.close()


@pytest.mark.parametrize("holder", [Lock, Transaction])
async def test_patience_ends_in_store_busy_and_nothing_is_stored(path: Path, holder: type):
    """At busy_s every caller is told; what was refused never appears; reads went on; writing resumes."""
    async with AsyncSessionStore(path, timeouts=Timeouts(busy_s=0.4)) as store:
        await store.sessions.create("s")
        await store.messages.append("s", role="user", content="before")
        await store.flush(index=True)
        with holder(path):
            began = time.monotonic()
            calls = [store.messages.append("s", role="user", content="refused") for _ in range(5)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert 0.3 < time.monotonic() - began < 15
            assert [type(each) for each in outcomes] == [StoreBusy] * 5
            assert {(each.stored, "not stored" in str(each)) for each in outcomes} == {(False, True)}
            assert await store.messages.count("s") == 1
            assert [hit.seq async for hit in store.search("before")] == [1]
        async with asyncio.timeout(5):
            assert (await store.messages.append("s", role="user", content="after")).seq == 2
        assert [m.content async for m in store.messages.stream("s")] == ["before", "after"]
        assert (await store.stats()).retries >= 1


@pytest.mark.parametrize("holder", [Lock, Transaction])
async def test_patience_that_is_rewarded_stores(path: Path, holder: type):
    """Released before the deadline, the write goes through, once."""
    async with AsyncSessionStore(path, timeouts=Timeouts(busy_s=20)) as store:
        await store.sessions.create("s")
        await store.flush(index=True)
        with holder(path):
            append = asyncio.create_task(store.messages.append("s", role="user", content="patient"))
            _, waiting = await asyncio.wait([append], timeout=0.3)
            assert waiting
        async with asyncio.timeout(5):
            assert (await append).seq == 1
        assert await store.messages.count("s") == 1


async def test_an_open_that_finds_the_store_busy_says_so(path: Path):
    """An open behind somebody who holds the file ends in StoreBusy, leaves nothing, and can be repeated."""
    async with AsyncSessionStore(path) as first:
        await first.sessions.create("s")
    store = AsyncSessionStore(path, timeouts=Timeouts(busy_s=0.2))
    with Lock(path):
        async with asyncio.timeout(5):
            with pytest.raises(StoreBusy):
                await store.open()
    async with asyncio.timeout(5), store:
        await store.messages.append("s", role="user")


STOPPED = """
import asyncio, sys, time
from recollect import AsyncSessionStore

def hold():
    print("held", flush=True)
    sys.stdin.readline()
    return
    yield

async def main():
    async with AsyncSessionStore(sys.argv[1]) as store:
        await store.write(hold)

asyncio.run(main())
"""


async def test_a_process_killed_in_its_transaction_frees_the_store(path: Path, start):
    """Its lock goes with it: who waited is served at once."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        await store.flush(index=True)
        process = start(STOPPED, path)
        assert await asyncio.to_thread(process.stdout.readline) == "held\n"
        append = asyncio.create_task(store.messages.append("s", role="user"))
        _, waiting = await asyncio.wait([append], timeout=0.2)
        assert waiting
        process.kill()
        async with asyncio.timeout(5):
            assert (await append).seq == 1
