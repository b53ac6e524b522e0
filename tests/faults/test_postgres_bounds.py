"""What the PostgreSQL engine keeps within bounds, and what a caller's own SQL cannot do to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from recollect import AsyncSessionStore, InvalidQuery, Limits, QueueFull, StoreBusy, StoreError, Timeouts, WriteUnknown
from recollect.engine.operation import execute, ids

OURS = "application_name = 'recollect'"


def admin(dsn: str) -> psycopg.Connection:
    """A connection beside the store's."""
    return psycopg.connect(dsn, autocommit=True)


# -- queries of one's own --------------------------------------------------------------------------

REFUSED = [
    "COPY (SELECT 1) TO '{file}'", "COPY (SELECT 1) TO PROGRAM 'touch {file}'", "COPY (SELECT 1) TO STDOUT",
    "DEALLOCATE ALL", "PREPARE recollect_9 AS SELECT 1", "SET search_path TO nowhere", "LISTEN x", "COMMIT",
    "SELECT 1; SELECT 2", "DELETE FROM sessions", "WITH gone AS (DELETE FROM sessions RETURNING id) SELECT * FROM gone",
    "SELECT 1 INTO TEMP kept", "", "--", "SELECT 1\x00 of it",
]  # fmt: skip


@pytest.mark.parametrize("sql", REFUSED)
async def test_what_is_no_query_is_refused_before_it_does_anything(
    recollect_postgres_dsn: str, tmp_path: Path, sql: str
):
    """InvalidQuery, no file is written, and the readers are as good as before."""
    file = tmp_path / "written"
    async with AsyncSessionStore(recollect_postgres_dsn, limits=Limits(readers=1)) as store:
        await store.sessions.create("s")
        assert await store.messages.count("s") == 0
        with pytest.raises(InvalidQuery):
            await store.query(sql.format(file=file))
        assert not file.exists()
        assert [row.n for row in await store.query("SELECT COUNT(*) AS n FROM sessions")] == [1]
        assert await store.messages.count("s") == 0
        assert (await store.messages.list("s")).items == []


async def test_a_query_is_asked_again_when_its_connection_was_lost(recollect_postgres_dsn: str):
    """As every read: a server that was restarted meanwhile is not noticed."""
    async with AsyncSessionStore(recollect_postgres_dsn, limits=Limits(readers=2)) as store:
        await asyncio.gather(*[store.query("SELECT 1 AS n") for _ in range(2)])
        _end_all(recollect_postgres_dsn)
        assert [row.n for row in await store.query("SELECT 7 AS n")] == [7]


def _end_all(dsn: str) -> None:
    with admin(dsn) as other:
        other.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}".encode())


# -- bounds ----------------------------------------------------------------------------------------


async def test_failing_statements_leave_no_prepared_ones_behind(recollect_postgres_dsn: str):
    """However many fail: a connection keeps as many as it knows of, and no more than its bound."""
    async with AsyncSessionStore(recollect_postgres_dsn, limits=Limits(writers=1)) as store:
        for n in range(300):
            with pytest.raises(StoreError):
                await store.write(_failing, n)
        (shard,) = store._engine._shards  # pyright: ignore[reportAttributeAccessIssue]
        cursor = await shard.connection.execute("SELECT COUNT(*) FROM pg_prepared_statements")
        (there,) = await cursor.fetchone()
        assert there == len(shard.connection._names) <= 200


def _failing(n: int):
    yield execute(f"UPDATE sessions SET session = {n} / 0 WHERE session = :n", n=n)
    yield execute("SELECT 1 / 0")


async def test_a_transaction_claims_its_numbers_once(recollect_postgres_dsn: str, hold):
    """However many operations of a batch take some: the server's table of locks is everybody's."""
    async with AsyncSessionStore(recollect_postgres_dsn, limits=Limits(writers=1)) as store:
        async with hold(store):
            calls = [asyncio.ensure_future(store.sessions.ensure(f"s{n}")) for n in range(100)]
            await asyncio.sleep(0)
            counting = asyncio.ensure_future(store.write(_claims))
            await asyncio.sleep(0)
        await asyncio.gather(*calls)
        assert await counting <= 1


def _claims():
    from recollect.engine.operation import one

    yield ids(1)
    yield ids(5)
    row = yield one("SELECT COUNT(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
    return row.n


async def test_an_operation_that_is_undone_takes_its_claim_along(recollect_postgres_dsn: str, hold):
    """What comes behind it in the batch makes one of its own: a watch misses nothing of it."""
    async with AsyncSessionStore(recollect_postgres_dsn, limits=Limits(writers=1)) as store:
        async with hold(store):
            bad = asyncio.ensure_future(store.write(_take_and_fail))
            await asyncio.sleep(0)
            good = asyncio.ensure_future(store.write(_claims))
            await asyncio.sleep(0)
        assert isinstance((await asyncio.gather(bad, return_exceptions=True))[0], StoreError)
        assert await good == 1


def _take_and_fail():
    yield ids(3)
    yield execute("SELECT 1 / 0")


async def test_what_waits_behind_a_crossing_is_bounded_in_bytes(recollect_postgres_dsn: str, hold):
    """QueueFull beyond queue_bytes, and the statistics know of it."""
    limits = Limits(writers=1, queue_bytes=1_000_000)
    async with AsyncSessionStore(recollect_postgres_dsn, limits=limits) as store:
        await store.sessions.create("s")
        async with hold(store):
            deleting = asyncio.ensure_future(store.sessions.delete("nobody"))
            await asyncio.sleep(0)
            receipts = []
            with pytest.raises(QueueFull, match="not stored"):
                for _ in range(20):
                    receipts.append(store.messages.append_nowait("s", role="user", content="x" * 100_000))
            assert 5 <= len(receipts) <= 10
            assert store._engine._crossing.depth == len(receipts)  # pyright: ignore[reportAttributeAccessIssue]
        await deleting
        assert len(await asyncio.gather(*receipts)) == await store.messages.count("s")


# -- order, and truth ------------------------------------------------------------------------------


async def test_a_session_with_a_key_waits_for_what_was_called_before(recollect_postgres_dsn: str):
    """The end of the session that has the key, which another writer may be at."""
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        await store.sessions.create("chat 0", key="chat")
        for n in range(30):
            ending = asyncio.ensure_future(store.sessions.end(f"chat {n}", "next"))
            await asyncio.gather(ending, store.sessions.create(f"chat {n + 1}", key="chat"))


async def test_after_an_unknown_commit_others_are_told_the_truth(
    recollect_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    """What never left for the server is not stored, and not unknown."""
    timeouts = Timeouts(busy_s=0.3)
    async with AsyncSessionStore(recollect_postgres_dsn, timeouts=timeouts, limits=Limits(writers=1)) as store:
        await store.sessions.create("s")
        (shard,) = store._engine._shards  # pyright: ignore[reportAttributeAccessIssue]
        shard.connection.is_undecided = True  # as a COMMIT leaves it that nobody answered
        await shard.connection.close()

        async def silent(**_: object) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(store._engine._server, "connect", silent)  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(StoreBusy) as caught:
            await store.messages.append("s", role="user", content="never sent")
        assert not isinstance(caught.value, WriteUnknown)
        monkeypatch.undo()
        assert await store.messages.count("s") == 0


async def test_an_unknown_database_is_named(recollect_postgres_dsn: str):
    """What the server said to it is in the error."""
    dsn = psycopg.conninfo.make_conninfo(recollect_postgres_dsn, dbname="nosuch")
    place = "postgresql://?" + "&".join(
        f"{name}={value}" for name, value in psycopg.conninfo.conninfo_to_dict(dsn).items() if name != "options"
    )
    with pytest.raises(StoreBusy, match=r"does not let us in.*nosuch"):
        await AsyncSessionStore(place, timeouts=Timeouts(busy_s=0.2)).open()
