"""The store itself: its life, queries and operations of one's own, flush, stats, read-only."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from recollect import (
    AsyncSessionStore,
    Durability,
    InvalidQuery,
    InvalidRecord,
    Limits,
    ReadOnly,
    SearchTimeout,
    SessionNotFound,
    StoreError,
    Timeouts,
)
from recollect.engine.operation import all, execute, many, one
from recollect.testing.engines import Target

from .engines import ON_FILES, ON_SQLITE, WITH_READERS
from .outside import is_server, long_read, rows, tables

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"


# -- life ------------------------------------------------------------------------------------------


async def test_what_was_stored_is_there_after_reopening(path: Path):
    """Everything survives a close; the same object can be opened again."""
    store = AsyncSessionStore(path)
    async with store:
        await store.sessions.create("s", title="T", metadata={"a": 1})
        await store.messages.append("s", role="user", content="word", usage={"prompt_tokens": 3})
        before = (await store.sessions.get("s"), await store.messages.get("s", 1), await store.usage.rounds("s"))
    async with store:
        after = (await store.sessions.get("s"), await store.messages.get("s", 1), await store.usage.rounds("s"))
        assert after == before
        assert [hit.seq async for hit in store.search("word")] == [1]
        assert (await store.messages.append("s", role="user")).seq == 2


async def test_nothing_happens_before_open(tmp_path: Path):
    """Constructing a store touches no file; missing folders are made when it is opened, for the owner only."""
    path = tmp_path / "deep" / "er" / "s.db"
    store = AsyncSessionStore(str(path))
    assert list(tmp_path.iterdir()) == []
    async with store:
        await store.sessions.create("s")
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        assert set(modes.values()) == {0o600}
        assert set(modes) == {"s.db", "s.db-wal", "s.db-shm", "s.db.lock"}


async def test_a_home_path_is_expanded_and_signs_in_a_path_are_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`~` is the home folder; `?mode=memory`, `%20`, `#` and quotes are part of a file's name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.db", "b.db?mode=memory", "c%20d.db", "e#f'g.db", "ü 京.db"):
        async with AsyncSessionStore(f"~/{name}") as store:
            await store.sessions.create("s")
            assert await store.sessions.count() == 1
        assert (tmp_path / name).is_file()


async def test_opening_twice_is_harmless(path: Path, eventually):
    """open() of an open store returns it, also when called at once; one aclose closes it."""
    await asyncio.to_thread(int)  # the loop's own thread stays
    before = threading.active_count()
    store = AsyncSessionStore(path)
    try:
        assert await asyncio.gather(store.open(), store.open()) == [store, store]
        assert await store.open() is store
        await store.sessions.create("s")
    finally:
        await store.aclose()

    async def no_thread_is_left() -> bool:
        return threading.active_count() <= before

    await eventually(no_thread_is_left)


async def test_stores_on_one_file_see_each_other(path: Path):
    """Two stores in one process: each commits, both read all of it, no seq is given twice."""
    async with AsyncSessionStore(path) as one_, AsyncSessionStore(path) as other:
        await one_.sessions.create("s")
        stores = [one_, other] * 20
        refs = await asyncio.gather(*(each.messages.append("s", role="user", content="word") for each in stores))
        assert sorted(ref.seq for ref in refs) == list(range(1, 41))
        assert len({ref.id for ref in refs}) == 40
        for each in (one_, other):
            assert await each.messages.count("s") == 40
            assert len([hit async for hit in each.search("word", limit=None)]) == 40


@ON_FILES
@pytest.mark.parametrize("durability", list(Durability))
async def test_durability_is_what_was_asked_for(path: Path, durability: Durability):
    """COMMIT flushes each batch, PROCESS does not; both write ahead."""
    async with AsyncSessionStore(path, durability=durability) as store:
        pragmas = await store.write(_pragmas)
        assert pragmas == ("wal", 2 if durability is Durability.COMMIT else 1, 1, 0)
        assert (await store.stats()).durability == durability


def _pragmas():
    names = ("journal_mode", "synchronous", "foreign_keys", "mmap_size")
    values = []
    for name in names:
        values.append((yield one(f"PRAGMA {name}"))[0])
    return tuple(values)


@ON_FILES
async def test_another_sqlite_can_be_connected(path: Path):
    """`connect=` is used for every connection, with what sqlite3.connect takes."""
    calls = []

    def connect(database: str, **options: object) -> sqlite3.Connection:
        calls.append(database)
        return sqlite3.connect(database, **options)

    async with AsyncSessionStore(path, connect=connect) as store:
        await store.sessions.create("s")
        await store.sessions.get("s")
    assert calls == [str(path), path.as_uri() + "?mode=ro"]


# -- a query of one's own --------------------------------------------------------------------------


async def test_a_query_returns_rows_by_name_and_position(any_store: AsyncSessionStore):
    """Parameters by name, lists with IN; rows are tuples with attributes, keys and dict()."""
    for name in "abc":
        await any_store.sessions.create(name)
    rows = await any_store.query("SELECT id, source AS s FROM sessions WHERE id IN :ids ORDER BY id", ids=["a", "c"])
    assert rows == [("a", "unknown"), ("c", "unknown")]
    assert (rows[0].id, rows[0]["s"], rows[0][1], dict(rows[1])) == (
        "a",
        "unknown",
        "unknown",
        {"id": "c", "s": "unknown"},
    )
    assert await any_store.query("SELECT id FROM sessions WHERE id = :id", id="nobody") == []


FORBIDDEN = [
    "DELETE FROM sessions", "UPDATE sessions SET id = 'x'", "INSERT INTO sequence VALUES (2, 2)", "DROP TABLE messages",
    "CREATE TABLE t (x)", "CREATE TEMP TABLE t (x)", "ATTACH 'other.db' AS o", "DETACH main", "PRAGMA user_version",
    "PRAGMA user_version = 7", "PRAGMA journal_mode = DELETE", "VACUUM", "VACUUM INTO 'copy.db'", "REINDEX", "ANALYZE",
    "SAVEPOINT x", "SELECT load_extension('x')", "SELECT * FROM pragma_table_info('sessions')", "COMMIT", "ROLLBACK",
    "WITH x AS (SELECT 1) DELETE FROM messages", "INSERT INTO search_index(search_index) VALUES ('rebuild')",
    "REPLACE INTO sequence VALUES (1, 0)", "SELECT 1; DELETE FROM sessions",
    "SELEKT 1", "SELECT * FROM nowhere", "SELECT :missing", "", "SELECT 1 WHERE 1 IN :missing",
]  # fmt: skip


@pytest.mark.parametrize("sql", FORBIDDEN)
async def test_a_query_can_only_read(any_store: AsyncSessionStore, sql: str, tmp_path: Path):
    """Anything but a SELECT is InvalidQuery and changes nothing; the store works on."""
    await any_store.sessions.create("s")
    with pytest.raises(InvalidQuery):
        await any_store.query(sql)
    assert [row.id for row in await any_store.query("SELECT id FROM sessions")] == ["s"]
    await any_store.messages.append("s", role="user")
    assert {each.name.split(".")[0] for each in tmp_path.iterdir()} <= {"sessions"}


async def test_a_query_that_takes_too_long_is_stopped(path: Path):
    """SearchTimeout at the deadline; the reader is free again and nobody else was held up."""
    for target in (path, ":memory:"):
        async with AsyncSessionStore(target, timeouts=Timeouts(search_s=0.2), limits=Limits(readers=1)) as store:
            await store.sessions.create("s")
            began = asyncio.get_running_loop().time()
            with pytest.raises(SearchTimeout):
                await store.query(ENDLESS)
            assert asyncio.get_running_loop().time() - began < 20
            assert await store.query("SELECT 1 AS n") == [(1,)]
            await store.messages.append("s", role="user")


async def test_a_query_that_is_cancelled_is_stopped(store: AsyncSessionStore):
    """Cancelled callers are let go at once, and the readers are soon free: more of them than there are readers."""
    endless = [asyncio.create_task(store.query(ENDLESS)) for _ in range(12)]
    await store.messages.count()  # waits for its turn among them, or not: it ends below
    await asyncio.sleep(0)
    for task in endless:
        task.cancel()
    async with asyncio.timeout(5):
        assert {type(each) for each in await asyncio.gather(*endless, return_exceptions=True)} == {
            asyncio.CancelledError
        }
        assert await store.sessions.count() == 0


# -- operations of one's own -----------------------------------------------------------------------


def _note(text: str):
    yield execute("INSERT INTO import_cursors VALUES (:t, 1, '', 0, 0, 0, 0, '', NULL)", t=text)
    found = yield one("SELECT COUNT(*) AS n FROM import_cursors")
    return found.n


def _notes():
    rows = yield all("SELECT importer FROM import_cursors ORDER BY importer")
    return [row.importer for row in rows]


def _note_and_fail(text: str):
    yield from _note(text)
    yield many("INSERT INTO index_state VALUES (?, 0, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING", [(1,)])
    raise ZeroDivisionError(text)


async def test_an_operation_of_ones_own_runs_in_a_transaction(any_store: AsyncSessionStore):
    """Its result comes after COMMIT; a read sees it."""
    assert await any_store.write(_note, "a") == 1
    assert await any_store.read(_notes) == ["a"]


async def test_an_operation_that_raises_is_undone_alone(any_store: AsyncSessionStore, hold):
    """Its error reaches its caller; the writes of the same batch are kept."""
    await any_store.sessions.create("s")
    async with hold(any_store):
        tasks = [
            asyncio.create_task(each)
            for each in (
                any_store.write(_note, "kept"), any_store.write(_note_and_fail, "lost"),
                any_store.messages.append("s", role="user"), any_store.messages.append("nobody", role="user"),
                any_store.write(_note, "kept too"),
            )
        ]  # fmt: skip
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert outcomes[2].seq == 1
    assert isinstance(outcomes[3], SessionNotFound)
    assert outcomes[4] == 2
    assert await any_store.read(_notes) == ["kept", "kept too"]


@ON_SQLITE  # on PostgreSQL an error of the database ends the operation
async def test_an_operation_may_handle_an_error_of_the_database(any_store: AsyncSessionStore):
    """Errors are raised in it as ours; if it catches them, it goes on and commits."""

    def stubborn():
        try:
            yield execute("INSERT INTO import_cursors (importer) VALUES (NULL)")
        except StoreError as error:
            yield from _note(type(error).__name__)

    await any_store.write(stubborn)
    assert await any_store.read(_notes) == ["InvalidRecord"]


async def test_a_read_cannot_write(any_store: AsyncSessionStore):
    """ReadOnly, and nothing is changed; the store still writes."""
    with pytest.raises(ReadOnly):
        await any_store.read(_note, "x")
    assert await any_store.read(_notes) == []
    await any_store.write(_note, "y")


@WITH_READERS
async def test_a_read_is_one_snapshot(store: AsyncSessionStore):
    """Statements of one read see one state, whatever is committed between them."""
    async with long_read(store) as reading:
        await store.sessions.create("s")
    assert reading.result() == (0, 0)
    assert await store.sessions.count() == 1


# -- flush and stats -------------------------------------------------------------------------------


async def test_flush_waits_for_what_was_queued_before(any_store: AsyncSessionStore):
    """After it, unawaited appends are there, and with `index` they are indexed."""
    await any_store.sessions.create("s")
    receipts = [any_store.messages.append_nowait("s", role="user", content=f"word{n}") for n in range(300)]
    await any_store.flush()
    assert all_done(receipts)
    assert await any_store.messages.count("s") == 300
    await any_store.flush(index=True)
    assert (await any_store.stats()).index_lag == 0


def all_done(receipts: list) -> bool:
    return [receipt.done() for receipt in receipts] == [True] * len(receipts)


async def test_stats_tell_and_change_nothing(store: AsyncSessionStore, path: Path):
    """Counts, sizes and states; taking them writes nothing, neither log nor database."""
    await store.sessions.create("s")
    for _ in range(5):
        await store.messages.append("s", role="user", content="word")
    await store.flush(index=True)
    first = await store.stats()
    before = files(path)
    for _ in range(3):
        again = await store.stats()
    assert files(path) == before
    assert (first.sessions, first.messages, first.events) == (1, 5, 1)
    assert (first.queue_depth, first.dropped, first.replaced, first.search_behind, first.retries) == (0, 0, 0, 0, 0)
    assert (first.index_lag, first.index_state, first.durability) == (0, "ready", "commit")
    assert first.writes >= first.batches >= 6
    assert again.writes <= first.writes + 2, "but for the keeper, who may still be tidying"
    assert first.database_bytes > 0
    if is_server(path):
        assert (first.wal_bytes, first.sqlite_version, first.postgres_version > "") == (0, "", True)
    else:
        assert (first.wal_bytes > 0, first.sqlite_version, first.postgres_version) == (True, sqlite3.sqlite_version, "")


def files(place: Target) -> list[tuple[str, int, int]]:
    """The files of a store, with what changes when they are written; what a server has is its own affair."""
    if is_server(place):
        return []
    found = sorted(Path(place).parent.iterdir())
    return [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in found]


# -- read-only -------------------------------------------------------------------------------------


@pytest.fixture
async def closed(path: Target) -> Target:
    """A store with one session, closed."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s", user_id="u")
        await store.messages.append("s", role="user", content="word", usage={"prompt_tokens": 1})
        await store.flush(index=True)
    return path


async def test_a_store_can_be_opened_for_reading_only(closed: Target):
    """Reads and search work; every write is ReadOnly; no byte is changed, but for the empty log that SQLite keeps
    beside a database that is open."""
    before = contents(closed)
    async with AsyncSessionStore(closed, readonly=True) as store:
        assert (await store.sessions.get("s")).message_count == 1
        assert [m.content async for m in store.messages.stream("s")] == ["word"]
        assert [hit.seq async for hit in store.search("word", user_id="u")] == [1]
        assert len(await store.usage.rounds("s")) == 1
        assert (await store.query("SELECT COUNT(*) AS n FROM messages"))[0].n == 1
        assert (await store.stats()).messages == 1
        for write in (
            store.sessions.create, lambda: store.sessions.ensure("s"), lambda: store.sessions.end("s", "r"),
            lambda: store.sessions.delete("s"), lambda: store.messages.append("s", role="user"),
            lambda: store.messages.append_many("s", [{"role": "user"}]),
            lambda: store.usage.record_round("s", round_index=0), lambda: store.write(_note, "x"),
        ):  # fmt: skip
            with pytest.raises(ReadOnly):
                await write()
        with pytest.raises(ReadOnly):
            store.messages.append_nowait("s", role="user")
    assert contents(closed) == before


def contents(place: Target) -> dict[str, Any]:
    """Every byte of a store's files, but for its shared memory, which readers write too; of a server, every row."""
    if is_server(place):
        return {name: rows(place, f"SELECT * FROM {name}") for name in tables(place)}
    files = {each.name: each.read_bytes() for each in Path(place).parent.iterdir() if each.suffix != ".db-shm"}
    return {name: found for name, found in files.items() if found or not name.endswith("-wal")}


async def test_a_reader_follows_a_writer(closed: Target):
    """A read-only store beside a writing one sees what is committed, and finds what was indexed."""
    async with AsyncSessionStore(closed) as writer, AsyncSessionStore(closed, readonly=True) as reader:
        await writer.messages.append("s", role="user", content="word two")
        assert await reader.messages.count("s") == 2
        await writer.flush(index=True)
        assert sorted([hit.seq async for hit in reader.search("word")]) == [1, 2]


async def test_read_only_creates_nothing(tmp_path: Path):
    """A store that is not there is ReadOnly, and is still not there; one in memory makes no sense."""
    with pytest.raises(ReadOnly, match="not exist"):
        async with AsyncSessionStore(tmp_path / "new" / "s.db", readonly=True):
            pass
    assert os.listdir(tmp_path) == []
    with pytest.raises(InvalidRecord):
        AsyncSessionStore(":memory:", readonly=True)


def test_limits_and_timeouts_are_checked_when_built():
    """Whole numbers of at least 1; seconds of at least 0."""
    for bad in ({"readers": 0}, {"row_bytes": -1}, {"ranked": 1.5}, {"batch_operations": True}, {"batch_bytes": "1"}):
        with pytest.raises(InvalidRecord, match=next(iter(bad))):
            Limits(**bad)
    for bad in ({"busy_s": -1}, {"search_s": float("nan")}, {"close_s": "1"}, {"lease_s": None}):
        with pytest.raises(InvalidRecord, match=next(iter(bad))):
            Timeouts(**bad)
    assert Timeouts(busy_s=0).busy_s == 0


async def test_a_name_that_is_no_place_is_refused():
    """An empty path, bytes, None, an unknown durability: InvalidRecord when built."""
    for bad in ("", b"bytes.db", None, 7):
        with pytest.raises(InvalidRecord):
            AsyncSessionStore(bad)
    with pytest.raises(InvalidRecord):
        AsyncSessionStore(":memory:", durability="maybe")


@ON_FILES
async def test_the_repr_has_the_place_and_no_content(store: AsyncSessionStore, path: Path):
    """What a log line shows of a store."""
    assert repr(store) == f"AsyncSessionStore({str(path)!r})"
