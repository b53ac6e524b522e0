"""Watchers that are killed, slow, cancelled, shared, forgotten: each change reaches each of them once, in order."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import select
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from recollect import BEGINNING, AsyncSessionStore, Change, Limits, StoreBusy, StoreError, Timeouts, Watch, watch
from recollect.changes import Wanted

PATIENCE_S = 20.0

# -- killed ----------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from recollect import AsyncSessionStore, Durability

async def main(path, name, rounds, commits):
    async with AsyncSessionStore(path, durability=Durability.PROCESS) as store:
        print("ready", flush=True)
        for n in range(rounds * commits):
            if n % commits == 0:
                sys.stdin.readline()
            match n % 8:
                case _ if n == 0: await store.sessions.create(name)
                case 1: await store.events.record({"kind": "note", "session_id": name})
                case 3: await store.sessions.set_title(name, f"{name} {n}")
                case 5: await (store.sessions.end(name, "r") if n % 16 == 5 else store.sessions.reopen(name))
                case 7: await store.sessions.create(f"{name} {n}")
                case _: await store.messages.append(name, role="user", content=f"{n}")

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""

WATCHER = """
import asyncio, os, sys
from recollect import AsyncSessionStore, Limits

async def main(path, after, buffer, readonly):
    limits = Limits(watch_buffer=int(buffer))
    async with AsyncSessionStore(path, limits=limits, readonly=readonly == "readonly") as store:
        async for change in store.watch(after=after):
            os.write(1, f"{change.cursor} {change.id} {change.kind} {change.session_id}\\n".encode())

asyncio.run(main(*sys.argv[1:]))
"""


def committed(path: Path) -> list[tuple[int, str, str]]:
    """Every change there is, as the tables have it."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(
            "SELECT m.id, 'message', s.id FROM messages m JOIN sessions s ON s.session = m.session"
            " UNION ALL SELECT id, kind, session_id FROM events ORDER BY 1"
        ).fetchall()


def lines_until_killed(process: Any, enough: int) -> list[str]:
    """What the process writes until there are that many lines, and until it is dead then."""
    pipe = process.stdout.buffer.raw
    data = b""
    deadline = time.monotonic() + PATIENCE_S
    while data.count(b"\n") < enough:
        assert time.monotonic() < deadline
        if select.select([pipe], [], [], 0.1)[0]:
            chunk = os.read(pipe.fileno(), 4096)
            assert chunk, process.stderr.read()
            data += chunk
    process.kill()
    while chunk := os.read(pipe.fileno(), 1 << 20):
        data += chunk
    process.wait()
    return data.decode().rpartition("\n")[0].splitlines()


def killed_again_and_again(path: Path, start, sound, rounds: int, each: int) -> None:
    """A watcher in a process, killed at any moment, goes on behind the last line that came through its pipe,
    while in every round four others commit so often `each`."""
    chance = random.Random(rounds)
    writers = [start(WRITER, path, f"w{n}", rounds, each) for n in range(4)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
    cursor, told, commits = BEGINNING, [], 4 * rounds * each
    for round_ in range(rounds):
        process = start(WATCHER, path, cursor, chance.choice([1, 8, 1024]), chance.choice(["readonly", "writable"]))
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        enough = commits - len(told) if round_ == rounds - 1 else chance.randint(1, 4 * each)
        for line in lines_until_killed(process, enough):
            cursor, id, kind, session_id = line.split(" ", 3)
            told.append((int(id), kind, session_id))
    for writer in writers:
        assert (writer.wait(), writer.stderr.read()) == (0, "")
    assert len(told) == commits
    assert told == committed(path)
    sound(path)


def test_a_killed_watcher_sees_each_of_a_thousand_commits_once(path: Path, start, sound):
    """Of four processes, in order, whatever the moment of its death."""
    killed_again_and_again(path, start, sound, rounds=4, each=63)


@pytest.mark.slow
def test_a_killed_watcher_sees_each_of_ten_thousand_commits_once(path: Path, start, sound):
    """The same, more often and for longer."""
    killed_again_and_again(path, start, sound, rounds=25, each=100)


# -- slow, and many --------------------------------------------------------------------------------

Told = list[int]


async def follow(watching: Watch, told: Told, pause: Callable[[], Awaitable[Any]]) -> None:
    async for change in watching:
        told.append(change.id)
        await pause()


def pausing(chance: random.Random, longest: int) -> Callable[[], Awaitable[None]]:
    async def pause() -> None:
        for _ in range(chance.randint(0, longest)):
            await asyncio.sleep(0)

    return pause


FILTERS: list[tuple[dict[str, Any], Callable[[int, str, str], bool]]] = [
    ({}, lambda id, kind, session: True),
    ({"session_id": "s1"}, lambda id, kind, session: session == "s1"),
    ({"kinds": "message"}, lambda id, kind, session: kind == "message"),
    ({"kinds": "store.*"}, lambda id, kind, session: kind.startswith("store.")),
    ({"kinds": ["note"], "session_id": ["s1", "s2"]}, lambda id, kind, session: kind == "note" and session in ("s1", "s2")),
]  # fmt: skip


async def write_some(store: AsyncSessionStore, session: str, n: int, chance: random.Random) -> None:
    for at in range(n):
        match chance.randint(0, 5):
            case 0:
                await store.events.record({"kind": "note", "session_id": session})
            case 1:
                await store.sessions.set_title(session, f"{session} {at}")
            case 2:
                texts = [{"role": "user", "content": f"{n}"} for n in range(chance.randint(2, 12))]
                await store.messages.append_many(session, texts)
            case _:
                await store.messages.append(session, role="user", content=f"{at}")


@asynccontextmanager
async def following(store: AsyncSessionStore, watches: list[Watch], pause) -> AsyncIterator[list[Told]]:
    """Tasks that follow these watches until each has all there is for it."""
    told: list[Told] = [[] for _ in watches]
    tasks = [asyncio.create_task(follow(*each, pause)) for each in zip(watches, told, strict=True)]
    yield told
    last = max((await store.query("SELECT MAX(last) FROM sequence"))[0])
    await store.events.record({"kind": "the.end"})
    async with asyncio.timeout(PATIENCE_S):
        while any(int(watching.cursor or 0) <= last for watching in watches):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("buffer", [1, 2, 8, 1024])
async def test_slow_watchers_miss_nothing(path: Path, buffer: int):
    """Several at once, of different things, some slow, with a buffer that is too small: none has another's pace,
    each is told all that is its."""
    chance = random.Random(buffer)
    async with AsyncSessionStore(path, limits=Limits(watch_buffer=buffer)) as store:
        for n in range(4):
            await store.sessions.create(f"s{n}")
        watches = [store.watch(after=BEGINNING, **filters) for filters, _ in FILTERS for _ in range(2)]
        async with following(store, watches, pausing(chance, 5)) as told:
            await asyncio.gather(*(write_some(store, f"s{n}", 60, chance) for n in range(4)))
        for at, ids in enumerate(told):
            wanted = FILTERS[at // 2][1]
            assert ids == [id for id, *rest in committed(path) if wanted(id, *rest) and rest[0] != "the.end"] or (
                at < 2 and ids == [id for id, *_ in committed(path)]
            )


async def test_watchers_come_and_go_while_others_stay(path: Path):
    """Left, forgotten, cancelled, at any time: who stays is told everything, once."""
    chance = random.Random(7)
    async with AsyncSessionStore(path, limits=Limits(watch_buffer=4)) as store:
        await store.sessions.create("s1")

        async def come_and_go() -> None:
            for _ in range(60):
                async with store.watch(after=chance.choice([None, BEGINNING])) as visiting:
                    for _ in range(chance.randint(0, 4)):
                        await anext(visiting)
                forgotten = store.watch(after=BEGINNING)
                await anext(forgotten)
                task = asyncio.ensure_future(anext(store.watch()))
                await pausing(chance, 6)()
                task.cancel()
                await asyncio.wait([task])

        watches = [store.watch(after=BEGINNING) for _ in range(3)]
        async with following(store, watches, pausing(chance, 2)) as told:
            visits = [asyncio.create_task(come_and_go()) for _ in range(3)]
            while not all(visit.done() for visit in visits):
                await write_some(store, "s1", 3, chance)
            await asyncio.gather(*visits)
        everything = [id for id, *_ in committed(path)]
        assert told == [everything] * 3


# -- cancelled -------------------------------------------------------------------------------------


async def take(watching: Watch, n: int) -> list[Change]:
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(watching) for _ in range(n)]


@pytest.mark.parametrize("kind", ["joining", "replaying", "live"])
async def test_asking_can_be_cancelled_at_every_moment(path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    """After each number of turns of the loop, again and again on the same watch: what it was about to give is
    still to come, and comes once."""
    monkeypatch.setattr(watch, "PAGE", 2)
    async with AsyncSessionStore(path, limits=Limits(watch_buffer=2)) as store:
        await store.sessions.create("s")
        for turns in range(40):
            watching = store.watch(after=None if kind == "joining" else BEGINNING)
            given: list[int] = []
            if kind == "live":
                given += [change.id for change in await take(watching, len(committed(path)))]
            for _ in range(4):
                write = asyncio.ensure_future(store.messages.append("s", role="user", content="x"))
                given += await asked_for(watching, turns)
                await write
            ids = [id for id, *_ in committed(path)]
            begin = 0
            if kind == "joining":  # it began with whichever asking got so far
                begin = ids.index(given[0]) if given else sum([id <= int(watching.cursor or ids[-1]) for id in ids])
            given += [change.id for change in await take(watching, len(ids) - begin - len(given))]
            assert given == ids[begin:]
            await watching.aclose()


async def asked_for(watching: Watch, turns: int) -> list[int]:
    """What it gave within so many turns of the loop; then it is cancelled."""
    task = asyncio.ensure_future(anext(watching))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return [(await task).id]
    except asyncio.CancelledError:
        return []


async def test_a_timeout_around_each_change_loses_none(path: Path):
    """Of any length, while others write."""
    chance = random.Random(3)
    async with AsyncSessionStore(path, limits=Limits(watch_buffer=3)) as store:
        await store.sessions.create("s1")
        writing = asyncio.create_task(write_some(store, "s1", 300, chance))
        watching = store.watch(after=BEGINNING)
        told: list[int] = []
        expired = 0
        while not writing.done() or told != [id for id, *_ in committed(path)]:
            try:
                async with asyncio.timeout(chance.choice([0, 0.00005, 0.0005, 0.002])):
                    told.append((await anext(watching)).id)
            except TimeoutError:
                expired += 1
            if writing.done():
                assert told == [id for id, *_ in committed(path)][: len(told)]
        await writing
        assert expired > 20
        assert len(told) > 300


# -- shared ----------------------------------------------------------------------------------------


async def test_tasks_may_share_a_watch(path: Path):
    """Each change goes to one of them, to who asked first; each has its own in order; also if some are cancelled."""
    async with AsyncSessionStore(path, limits=Limits(watch_buffer=4)) as store:
        await store.sessions.create("s1")
        watching = store.watch(after=BEGINNING)
        told: list[Told] = [[] for _ in range(8)]
        tasks = [asyncio.create_task(follow(watching, each, pausing(random.Random(1), 2))) for each in told]
        await write_some(store, "s1", 100, random.Random(1))
        tasks[3].cancel()
        await write_some(store, "s1", 100, random.Random(2))
        expected = [id for id, *_ in committed(path)]
        async with asyncio.timeout(PATIENCE_S):
            while sum(map(len, told)) < len(expected):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [at == 3 for at in range(8)], "closing the store ended the others"
    assert sorted(id for each in told for id in each) == expected
    assert all(each == sorted(each) for each in told)
    assert sum(bool(each) for each in told) > 1


async def test_who_asked_first_is_served_first(memory: AsyncSessionStore):
    """Of those that wait for one watch."""
    await memory.sessions.create("s")
    async with memory.watch() as watching:
        tasks = [asyncio.ensure_future(anext(watching)) for _ in range(5)]
        tasks[0].cancel()
        refs = await memory.messages.append_many("s", [{"role": "user", "content": "x"}] * 4)
        assert [change.id for change in await asyncio.gather(*tasks[1:])] == [ref.id for ref in refs]


# -- what goes wrong -------------------------------------------------------------------------------


def _occupy(entered: threading.Event, release: threading.Event):
    entered.set()
    release.wait(PATIENCE_S)
    return
    yield


@asynccontextmanager
async def no_reader(store: AsyncSessionStore) -> AsyncIterator[None]:
    """The only reader is busy."""
    entered, release = threading.Event(), threading.Event()
    busy = asyncio.ensure_future(store.read(_occupy, entered, release))
    await asyncio.to_thread(entered.wait, PATIENCE_S)
    yield
    release.set()
    await busy


async def test_busy_readers_delay_and_do_not_end_a_watch(path: Path):
    """Who reads from the store is told so and may go on; who waits is not."""
    limits, timeouts = Limits(readers=1), Timeouts(reader_wait_s=0.01)
    async with AsyncSessionStore(path, limits=limits, timeouts=timeouts) as store:
        await store.sessions.create("s")
        async with store.watch() as live:
            old, new = store.watch(after=BEGINNING), store.watch()
            async with no_reader(store):
                task = asyncio.ensure_future(anext(live))
                for each in (old, new, old, new):
                    with pytest.raises(StoreBusy):
                        await asyncio.wait_for(_retried(each), PATIENCE_S)
                await store.messages.append("s", role="user", content="x")
                assert not (await asyncio.wait([task], timeout=0.05))[0]
            async with asyncio.timeout(PATIENCE_S):
                assert (await task).kind == "message"
            assert [change.kind for change in await take(old, 2)] == ["store.created", "message"]
            later = asyncio.ensure_future(anext(new))
            while new.cursor is None or not new._tail.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            ref = await store.messages.append("s", role="user", content="y")
            assert (await later).id == ref.id


async def _retried(watching: Watch) -> Change:
    return await anext(watching)


async def test_a_row_that_cannot_be_read_is_told_to_every_watcher(path: Path, caplog: pytest.LogCaptureFixture):
    """With its cause, after what lies before it; a new watch from the cursor goes on when it can be read."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        watches = [await store.watch(kinds="message").__aenter__() for _ in range(2)]
        await store.messages.append("s", role="user", content="good")
        ids = [(await take(watching, 1))[0].id for watching in watches]
        await store.write(_insert_broken)
        for watching in watches:
            for _ in range(2):
                with pytest.raises(StoreError, match="watching failed"):
                    await anext(watching)
            assert int(watching.cursor) >= ids[0]
        with pytest.raises(Exception, match="JSON"):
            await anext(store.watch(after=watches[0].cursor))
        await store.write(_mend)
        again = store.watch(after=watches[0].cursor)
        assert (await take(again, 1))[0].message.metadata == {}
        live = await store.watch().__aenter__()
        await store.messages.append("s", role="user", content="next")
        assert (await take(live, 1))[0].message.text == "next"
    assert "watching failed" in caplog.text


def _insert_broken():
    from recollect.engine.operation import execute, ids, one

    (id,) = yield ids(1)
    row = yield one("SELECT session FROM sessions WHERE id = 's'")
    yield execute(
        "INSERT INTO messages (id, session, seq, position, role, send_index, metadata, created_at)"
        " VALUES (:id, :session, 99, 99, 'user', 0, '{broken', 0)",
        id=id, session=row.session,
    )  # fmt: skip


def _mend():
    from recollect.engine.operation import execute

    yield execute("UPDATE messages SET metadata = '{}' WHERE metadata = '{broken'")


# -- what is left ----------------------------------------------------------------------------------


async def test_watches_leak_nothing(path: Path, descriptors, eventually):
    """Broken off, forgotten, cancelled, ended, hundreds of times: no task, thread, descriptor or object stays."""
    async with AsyncSessionStore(path, limits=Limits(readers=1)) as store:
        await store.sessions.create("s")
        await store.messages.append_many("s", [{"role": "user", "content": "x"}] * 5)

        async def some(n: int) -> None:
            for _ in range(n):
                async for _ in store.watch(after=BEGINNING):
                    break
                async with store.watch(after=BEGINNING) as left:
                    await anext(left)
                tasks = [asyncio.ensure_future(anext(store.watch())) for _ in range(2)]
                await asyncio.sleep(0)
                tasks[0].cancel()
                await store.messages.append("s", role="user", content="x")
                await asyncio.wait(tasks[:1])
                tasks[1].cancel()
                await asyncio.wait(tasks)
                tasks.clear()  # a cancelled task holds, by its traceback, what it waited for
            await eventually(nobody_watches)
            await store.flush(index=True)

        async def nobody_watches() -> bool:
            gc.collect()
            tasks = {task.get_name() for task in asyncio.all_tasks()}
            return "recollect-watch" not in tasks and not store._tail._watches

        await some(50)
        before = descriptors(), threading.active_count()
        await some(200)
        assert not store._tail.waiting
        assert descriptors() <= before[0]
        assert threading.active_count() <= before[1]
        of_ours = [each for each in gc.get_objects() if isinstance(each, Watch | Change | Wanted)]
        assert of_ours == []
