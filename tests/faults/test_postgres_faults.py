"""A PostgreSQL server that fails: what was acknowledged is there, errors tell the truth, and the store goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest

from recollect import (
    AsyncSessionStore,
    Limits,
    MessageRef,
    SearchTimeout,
    SessionNotFound,
    StoreBusy,
    StoreClosed,
    StoreError,
    Timeouts,
    WriteUnknown,
)

from .postgres_server import OwnServer, own_server

SESSIONS = [f"s{n}" for n in range(8)]
TASKS = 16


@pytest.fixture(scope="module")
def _server() -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


@pytest.fixture
def server(_server: OwnServer) -> OwnServer:
    """A server with nothing on it, which may be hurt."""
    _server.revive()
    _server.empty()
    return _server


# -- crashes under load ----------------------------------------------------------------------------


def kill_a_backend(server: OwnServer) -> None:
    """The postmaster then restarts all of them."""
    os.kill(server.backends()[0], signal.SIGKILL)


def crash(server: OwnServer) -> None:
    """Everything stops at once, and is back a second later."""
    server.stop("immediate")
    time.sleep(1)
    server.start()


def restart(server: OwnServer) -> None:
    """As for an upgrade: transactions are broken off."""
    server.stop("fast")
    server.start()


def kill_the_postmaster(server: OwnServer) -> None:
    """…and start it again, when its children have ended."""
    server.kill()
    server.start()


class Load:
    """Tasks that append, each message once, and one that reads; what became of every call."""

    def __init__(self, store: AsyncSessionStore) -> None:
        self._store = store
        self._stop = asyncio.Event()
        self.acknowledged: dict[tuple[str, str], MessageRef] = {}
        self.failed: dict[tuple[str, str], BaseException] = {}
        self.reads: list[str] = []
        self.reading_failed: list[StoreError] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._append(n)) for n in range(TASKS)]
        tasks.append(asyncio.create_task(self._read()))
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.gather(*tasks)

    async def more(self, count: int, eventually: Callable[..., Awaitable[None]]) -> None:
        """Returns when so many more are acknowledged, and something more was read."""
        goal, reads = len(self.acknowledged) + count, len(self.reads)

        async def are_there() -> bool:
            return len(self.acknowledged) >= goal and len(self.reads) >= reads + 2

        await eventually(are_there)

    async def _append(self, n: int) -> None:
        k = 0
        while not self._stop.is_set():
            session, key = SESSIONS[(n + k) % len(SESSIONS)], f"{n}.{k}"
            k += 1
            try:
                ref = await self._store.messages.append(session, role="user", content=f"word {key}", external_id=key)
            except StoreError as error:
                self.failed[session, key] = error
            else:
                self.acknowledged[session, key] = ref

    async def _read(self) -> None:
        while not self._stop.is_set():
            try:
                page = await self._store.messages.list(SESSIONS[0], limit=10)
                hits = [hit.seq async for hit in self._store.search("word", order="newest", limit=5)]
                self.reads.append(f"{len(page.items)} {hits}")
            except StoreError as error:
                self.reading_failed.append(error)


async def stored(store: AsyncSessionStore) -> dict[tuple[str, str], list[MessageRef]]:
    """Where each message is, by session and external id."""
    rows = await store.query(
        "SELECT s.id AS session, m.id, m.seq, m.external_id FROM messages m JOIN sessions s ON s.session = m.session"
    )
    found: dict[tuple[str, str], list[MessageRef]] = {}
    for row in rows:
        found.setdefault((row.session, row.external_id), []).append(MessageRef(row.id, row.seq))
    return found


@pytest.mark.parametrize(
    "fault",
    [kill_a_backend, crash, *(pytest.param(each, marks=pytest.mark.slow) for each in (restart, kill_the_postmaster))],
    ids=lambda fault: fault.__name__,
)
async def test_a_server_that_crashes_under_load_loses_nothing(
    server: OwnServer, fault: Callable[[OwnServer], None], eventually
):
    """Acknowledged: there, once. Not stored: not there. Unknown: there or not, and repeating it is harmless. It took
    less than busy_s, so nobody else noticed; the same store goes on, also with reading."""
    async with AsyncSessionStore(server.dsn, timeouts=Timeouts(busy_s=20)) as store:
        await asyncio.gather(*[store.sessions.create(id) for id in SESSIONS])
        load = Load(store)
        async with load.running():
            await load.more(200, eventually)
            await asyncio.to_thread(fault, server)
            await load.more(200, eventually)
        assert load.reading_failed == []
        assert {type(error) for error in load.failed.values()} <= {WriteUnknown}
        assert {error.stored for error in load.failed.values()} <= {None}
        found = await stored(store)
        for place, ref in load.acknowledged.items():
            assert found.get(place) == [ref], place
        assert set(found) <= set(load.acknowledged) | set(load.failed)
        for session, key in load.failed:
            ref = await store.messages.append(session, role="user", content=f"word {key}", external_id=key)
            assert found.get((session, key), [ref]) == [ref]
        found = await stored(store)
        assert set(found) == set(load.acknowledged) | set(load.failed)
        assert Counter(map(len, found.values())).keys() == {1}
        assert (await store.check()).is_sound
        await store.flush(index=True)
        assert len([hit async for hit in store.search("word", order="oldest", limit=None)]) == len(found)


async def test_batches_of_several_are_all_or_none_over_a_crash(server: OwnServer, eventually):
    """append_many of five, while backends are killed three times: no session has a part of one."""
    async with AsyncSessionStore(server.dsn, timeouts=Timeouts(busy_s=20)) as store:
        await asyncio.gather(*[store.sessions.create(id) for id in SESSIONS])
        done = asyncio.Event()

        async def work(n: int) -> None:
            k = 0
            while not done.is_set():
                k += 1
                many = [{"role": "user", "content": f"{n}.{k}", "external_id": f"{n}.{k}/{m}"} for m in range(5)]
                try:
                    await store.messages.append_many(SESSIONS[n % 8], many)
                except (WriteUnknown, StoreBusy):
                    continue

        tasks = [asyncio.create_task(work(n)) for n in range(TASKS)]
        for _ in range(3):
            await asyncio.sleep(0.2)
            await asyncio.to_thread(kill_a_backend, server)
            await eventually(lambda: asyncio.to_thread(_answers, server))
        done.set()
        await asyncio.gather(*tasks)
        parts = await store.query("SELECT session, content, COUNT(*) AS n FROM messages GROUP BY session, content")
        assert {row.n for row in parts} == {5}


def _answers(server: OwnServer) -> bool:
    try:
        return bool(server.backends())
    except psycopg.Error:
        return False


# -- away for longer -------------------------------------------------------------------------------


async def test_a_server_that_is_away_for_longer_than_busy_s_is_told_in_time(server: OwnServer, eventually):
    """Every caller gets StoreBusy, nothing of it is stored; when the server is back, the same store works at once."""
    timeouts = Timeouts(busy_s=0.5, reader_wait_s=0.5)
    async with AsyncSessionStore(server.dsn, timeouts=timeouts) as store:
        for id in SESSIONS:
            await store.sessions.create(id)
            await store.messages.append(id, role="user", content="before")
        await asyncio.to_thread(server.stop)
        for _ in range(2):
            began = time.monotonic()
            calls = [store.messages.append(id, role="user", content="refused") for id in SESSIONS]
            calls += [store.messages.count(SESSIONS[0]), store.sessions.create("refused"), store.flush()]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(each) for each in outcomes} == {StoreBusy}, outcomes
            assert {each.stored for each in outcomes} == {False}
            assert 0.4 < time.monotonic() - began < 2
        await asyncio.to_thread(server.start)
        began = time.monotonic()
        assert [(await store.messages.append(id, role="user", content="after")).seq for id in SESSIONS] == [2] * 8
        assert await store.messages.count() == 16
        assert time.monotonic() - began < 2
        assert await store.sessions.get("refused") is None
        await eventually(lambda: _is_found(store, "after"))
        for id in SESSIONS:
            assert [message.content async for message in store.messages.stream(id)] == ["before", "after"]


async def _is_found(store: AsyncSessionStore, word: str) -> bool:
    return len([hit async for hit in store.search(word)]) == len(SESSIONS)


async def test_reading_goes_on_as_soon_as_the_server_is_back(server: OwnServer):
    """However long it was away, and however often somebody asked meanwhile."""
    async with AsyncSessionStore(server.dsn, timeouts=Timeouts(busy_s=0.3, reader_wait_s=0.3)) as store:
        await store.sessions.create("s")
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                with suppress(StoreBusy):
                    await store.messages.count("s")
                await asyncio.sleep(0.05)

        asking = [asyncio.create_task(ask()) for _ in range(6)]
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(1)
        await asyncio.to_thread(server.start)
        done.set()
        await asyncio.gather(*asking)
        async with asyncio.timeout(1):
            assert await store.messages.count("s") == 0
            assert [row.n for row in await store.query("SELECT 7 AS n")] == [7]


async def test_opening_a_store_on_a_server_that_is_away_says_so(server: OwnServer):
    """StoreBusy, within busy_s; it can be repeated when the server is back."""
    store = AsyncSessionStore(server.dsn, timeouts=Timeouts(busy_s=0.5))
    await asyncio.to_thread(server.stop)
    began = time.monotonic()
    with pytest.raises(StoreBusy):
        await store.open()
    assert time.monotonic() - began < 2
    await asyncio.to_thread(server.start)
    async with store:
        await store.sessions.create("s")


# -- closing without a server ----------------------------------------------------------------------


async def test_closing_waits_for_no_server_that_is_away(server: OwnServer):
    """aclose(timeout_s=0.5) returns in time; what was queued fails as not stored, and is not stored."""
    store = await AsyncSessionStore(server.dsn, timeouts=Timeouts(busy_s=30)).open()
    await asyncio.gather(*[store.sessions.create(id) for id in SESSIONS])
    await asyncio.to_thread(server.stop)
    calls = [asyncio.ensure_future(store.messages.append(id, role="user", content="late")) for id in SESSIONS]
    receipts = [store.messages.append_nowait(id, role="user", content="late") for id in SESSIONS]
    alone = asyncio.ensure_future(store.sessions.delete("s0"))
    reading = asyncio.ensure_future(store.messages.count())
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await store.aclose(timeout_s=0.5)
    assert 0.3 < time.monotonic() - began < 2
    outcomes = await asyncio.gather(*calls, *receipts, alone, reading, return_exceptions=True)
    assert {type(each) for each in outcomes} <= {StoreClosed, StoreBusy}, outcomes
    assert {each.stored for each in outcomes} == {False}
    await asyncio.to_thread(server.start)
    async with store:
        assert await store.messages.count() == 0
        assert await store.sessions.get("s0") is not None


async def test_closing_writes_what_is_queued(server: OwnServer):
    """A server that answers gets everything before aclose returns; a lock that is released in time is waited for."""
    store = await AsyncSessionStore(server.dsn).open()
    await asyncio.gather(*[store.sessions.create(id) for id in SESSIONS])
    async with held(server, "s3"):
        receipts = [store.messages.append_nowait(SESSIONS[n % 8], role="user", content=str(n)) for n in range(500)]
        closing = asyncio.ensure_future(store.aclose(timeout_s=10))
        _, waiting = await asyncio.wait([closing], timeout=0.3)
        assert waiting
    async with asyncio.timeout(5):
        await closing
    refs = [await receipt for receipt in receipts]
    assert len({ref.id for ref in refs}) == 500
    async with store:
        assert await store.messages.count() == 500


async def test_closing_writes_also_what_stands_behind_a_write_that_touches_every_session(server: OwnServer):
    """A flush and a deletion among the appends are done too, in their place."""
    store = await AsyncSessionStore(server.dsn).open()
    await asyncio.gather(*[store.sessions.create(id) for id in SESSIONS])
    async with held(server, "s3"):
        receipts = [store.messages.append_nowait("s3", role="user", content=str(n)) for n in range(5)]
        alone = [asyncio.ensure_future(call) for call in (store.flush(), store.sessions.delete("s7"))]
        await asyncio.sleep(0)
        receipts += [store.messages.append_nowait("s3", role="user", content=str(n)) for n in range(5, 10)]
        late = asyncio.ensure_future(store.messages.append("s7", role="user", content="too late"))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.aclose(timeout_s=10))
        await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await closing
    outcomes = await asyncio.gather(*receipts, *alone, late, return_exceptions=True)
    assert [type(each).__name__ for each in outcomes[:10]] == ["MessageRef"] * 10
    assert outcomes[10:12] == [None, ["s7"]]
    assert type(outcomes[12]) is SessionNotFound
    async with store:
        assert [message.content async for message in store.messages.stream("s3")] == [str(n) for n in range(10)]


async def test_closing_gives_up_what_waits_for_a_lock(server: OwnServer):
    """Past timeout_s what is not written fails as not stored, and is not stored afterwards; the rest was written."""
    store = await AsyncSessionStore(server.dsn, limits=Limits(writers=4)).open()
    await asyncio.gather(*[store.sessions.create(id) for id in SESSIONS])
    async with held(server, "s0"):
        calls = [asyncio.ensure_future(store.messages.append(id, role="user", content="late")) for id in SESSIONS]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await store.aclose(timeout_s=0.5)
        assert 0.3 < time.monotonic() - began < 2
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert type(outcomes[0]) is StoreClosed
    async with store:
        for id, outcome in zip(SESSIONS, outcomes, strict=True):
            assert await store.messages.count(id) == (1 if isinstance(outcome, MessageRef) else 0)
            assert getattr(outcome, "stored", False) is False


@pytest.mark.slow
async def test_a_frozen_server_does_not_hold_up_closing(server: OwnServer):
    """It says nothing at all: aclose returns all the same, and tells what it does not know."""
    store = await AsyncSessionStore(server.dsn, timeouts=Timeouts(busy_s=0.5, reader_wait_s=0.5)).open()
    await asyncio.gather(*[store.sessions.create(id) for id in SESSIONS])
    await store.messages.count()
    with server.frozen():
        calls = [asyncio.ensure_future(store.messages.append(id, role="user", content="late")) for id in SESSIONS]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await store.aclose(timeout_s=0.5)
        took = time.monotonic() - began
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in outcomes} <= {StoreClosed, StoreBusy, WriteUnknown}
    assert took < 15


async def test_a_frozen_server_holds_up_no_reader_beyond_its_deadline(server: OwnServer):
    """Whoever gives up is let go within about a second of it, and a reader that came back to life is used again."""
    timeouts = Timeouts(search_s=0.3, reader_wait_s=0.5)
    async with AsyncSessionStore(server.dsn, timeouts=timeouts, limits=Limits(readers=2)) as store:
        await store.messages.count()
        with server.frozen():
            began = time.monotonic()
            with pytest.raises(SearchTimeout):
                await store.query("SELECT 1")
            with pytest.raises(StoreBusy):
                await store.messages.count()
            assert time.monotonic() - began < 4
        assert await store.messages.count() == 0
        assert (await store.stats()).readers_busy == 0


# -- too slow --------------------------------------------------------------------------------------


async def running(server: OwnServer, text: str) -> int:
    """How many statements with that text the server is at."""
    async with await psycopg.AsyncConnection.connect(server.dsn, autocommit=True) as connection:
        cursor = await connection.execute(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'recollect' AND state <> 'idle'"
            " AND query LIKE %s",
            (f"%{text}%",),
        )
        (count,) = await cursor.fetchone() or (0,)
        return count


async def until(server: OwnServer, text: str, count: int) -> None:
    """Returns when the server is at so many statements with that text."""
    end = time.monotonic() + 5
    while await running(server, text) != count:
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)


async def test_a_query_that_takes_too_long_is_stopped_on_the_server(server: OwnServer):
    """SearchTimeout at search_s; the server is not at it any more, and the readers are as good as new."""
    async with AsyncSessionStore(server.dsn, timeouts=Timeouts(search_s=0.3), limits=Limits(readers=2)) as store:
        for _ in range(3):
            began = time.monotonic()
            calls = [store.query("SELECT pg_sleep(30)") for _ in range(2)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(each) for each in outcomes} == {SearchTimeout}
            assert 0.25 < time.monotonic() - began < 1.5
            assert await running(server, "recollect_query") == 0
        assert [row.n for row in await store.query("SELECT 7 AS n")] == [7]
        assert (await store.stats()).readers_busy == 0


async def test_a_cancelled_query_is_stopped_on_the_server(server: OwnServer):
    """Whoever goes away leaves nothing running; the only reader serves the next."""
    async with AsyncSessionStore(server.dsn, timeouts=Timeouts(search_s=30), limits=Limits(readers=1)) as store:
        for _ in range(3):
            task = asyncio.ensure_future(store.query("SELECT pg_sleep(30)"))
            await until(server, "FETCH ALL FROM recollect_query", 1)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await running(server, "FETCH ALL FROM recollect_query") == 0
            assert [row.n for row in await store.query("SELECT 7 AS n")] == [7]
            assert time.monotonic() - began < 1


async def test_a_search_that_is_held_up_ends_and_so_does_a_cancelled_one(server: OwnServer):
    """SearchTimeout at search_s; cancelled, at once; the server is at neither any more."""
    timeouts = Timeouts(search_s=0.3, search_catch_up_s=0.1)
    async with AsyncSessionStore(server.dsn, timeouts=timeouts, limits=Limits(readers=2)) as store:
        await store.sessions.create("s")
        await store.messages.append("s", role="user", content="word")
        await store.flush(index=True)

        async def search() -> list[int | None]:
            return [hit.seq async for hit in store.search("word")]

        async with await psycopg.AsyncConnection.connect(server.dsn) as foreign:
            await foreign.execute("LOCK TABLE search_terms IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            with pytest.raises(SearchTimeout):
                await search()
            assert 0.25 < time.monotonic() - began < 2
            assert await running(server, "search_terms") == 0
            task = asyncio.ensure_future(search())
            await until(server, "search_terms", 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await running(server, "search_terms") == 0
        assert await search() == [1]


async def test_a_cancelled_append_is_stored_whole_or_not_at_all(server: OwnServer):
    """Given up while it waits for a lock, or at any other moment; its neighbours are stored, the writer goes on."""
    async with AsyncSessionStore(server.dsn) as store:
        await store.sessions.create("s")
        many = [{"role": "user", "content": f"torn {k}"} for k in range(5)]
        async with held(server, "s"):
            given_up = asyncio.ensure_future(store.messages.append_many("s", many))
            await until(server, "FOR UPDATE", 1)
            queued = asyncio.ensure_future(store.messages.append_many("s", many))
            kept = asyncio.ensure_future(store.messages.append("s", role="user", content="kept"))
            await asyncio.sleep(0)
            for task in (given_up, queued):
                task.cancel()
            await asyncio.wait([given_up, queued])
            assert given_up.cancelled()
            assert queued.cancelled()
        ref = await kept
        assert ref.seq in (1, 6), "the first was under way, the second was not begun"
        assert await store.messages.count("s") == ref.seq
        for n in range(40):
            task = asyncio.ensure_future(store.messages.append_many("s", many))
            await asyncio.sleep(n / 10_000)
            task.cancel()
            await asyncio.wait([task])
        await store.flush()
        assert (await store.messages.count("s") - ref.seq) % 5 == 0
        last = await store.messages.append("s", role="user", content="last")
        assert last.seq == await store.messages.count("s")


async def test_a_statement_that_the_server_cancels_says_that_nothing_is_stored(server: OwnServer):
    """By an administrator, or at a statement_timeout of his: a StoreBusy, and the next write works."""
    async with AsyncSessionStore(server.dsn) as store:
        await store.sessions.create("s")
        async with held(server, "s"):
            task = asyncio.ensure_future(store.messages.append("s", role="user", content="refused"))
            await until(server, "FOR UPDATE", 1)
            async with await psycopg.AsyncConnection.connect(server.dsn) as foreign:
                await foreign.execute(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                )
            with pytest.raises(StoreBusy, match="not stored"):
                await task
        assert (await store.messages.append("s", role="user", content="after")).seq == 1


# -- locks of others -------------------------------------------------------------------------------


@asynccontextmanager
async def held(server: OwnServer, session: str) -> AsyncIterator[None]:
    """Another program's transaction has locked the row of that session."""
    async with await psycopg.AsyncConnection.connect(server.dsn) as foreign:
        await foreign.execute("SELECT 1 FROM sessions WHERE id = %s FOR UPDATE", (session,))
        yield


async def test_patience_with_a_lock_ends_in_store_busy_and_nothing_is_stored(server: OwnServer):
    """At busy_s every caller is told; what was refused never appears; reads went on; writing resumes."""
    async with AsyncSessionStore(server.dsn, timeouts=Timeouts(busy_s=0.4)) as store:
        await store.sessions.create("s")
        await store.messages.append("s", role="user", content="before")
        await store.flush(index=True)
        async with held(server, "s"):
            began = time.monotonic()
            calls = [store.messages.append("s", role="user", content="refused") for _ in range(5)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert 0.3 < time.monotonic() - began < 3
            assert [type(each) for each in outcomes] == [StoreBusy] * 5
            assert {(each.stored, "not stored" in str(each)) for each in outcomes} == {(False, True)}
            assert await store.messages.count("s") == 1
            assert [hit.seq async for hit in store.search("before")] == [1]
        async with asyncio.timeout(5):
            assert (await store.messages.append("s", role="user", content="after")).seq == 2
        assert [m.content async for m in store.messages.stream("s")] == ["before", "after"]
        assert (await store.stats()).retries >= 1


async def test_patience_with_a_lock_that_is_rewarded_stores(server: OwnServer):
    """Released before the deadline, the write goes through, once; sessions of other writers did not wait."""
    async with AsyncSessionStore(server.dsn, timeouts=Timeouts(busy_s=20), limits=Limits(writers=4)) as store:
        await asyncio.gather(*[store.sessions.create(id) for id in SESSIONS])
        async with held(server, "s0"):
            calls = {id: asyncio.create_task(store.messages.append(id, role="user", content="x")) for id in SESSIONS}
            done, waiting = await asyncio.wait(calls.values(), timeout=0.5)
            assert calls["s0"] in waiting
            assert done
        async with asyncio.timeout(5):
            assert [(await task).seq for task in calls.values()] == [1] * 8
        assert await store.messages.count() == 8


async def test_a_batch_in_which_somebody_wants_a_locked_session_tells_everybody_the_truth(server: OwnServer):
    """Those who share it with him are stored, or told that they are not."""
    async with AsyncSessionStore(server.dsn, timeouts=Timeouts(busy_s=0.4), limits=Limits(writers=1)) as store:
        await asyncio.gather(*[store.sessions.create(id) for id in SESSIONS])
        await store.flush(index=True)
        async with held(server, "s3"):
            calls = [store.messages.append(id, role="user", content="x") for id in SESSIONS]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert type(outcomes[3]) is StoreBusy
            assert {type(each) for each in outcomes} <= {StoreBusy, MessageRef}
            for id, outcome in zip(SESSIONS, outcomes, strict=True):
                assert await store.messages.count(id) == isinstance(outcome, MessageRef)
