"""Every engine does what the rooms ask of it: all of it is run on each."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from recollect import AsyncSessionStore, InvalidQuery, ReadOnly, SessionNotFound, StoreBusy, Timeouts, WriteUnknown

from .exercise import exercise
from .numbers import take_ids


@pytest.fixture
def dsn(recollect_postgres_dsn: str) -> str:
    """An empty schema on the server, as a store is given it."""
    return recollect_postgres_dsn


async def test_postgresql_does_all_that_the_rooms_ask(dsn: str):
    """Every operation of every room, with every filter and on every branch."""
    async with AsyncSessionStore(dsn) as store:
        await exercise(store)
        assert (await store.check()).is_sound


async def test_what_a_store_on_postgresql_has_acknowledged_is_there_for_the_next(dsn: str):
    """Appended by many tasks at once, in the order of each session's calls; found again, read by another store."""
    async with AsyncSessionStore(dsn) as store:
        for n in range(8):
            await store.sessions.create(f"s{n}", user_id=f"u{n % 2}")

        async def say(session_id: str) -> None:
            for k in range(25):
                await store.messages.append(session_id, role="user", content=f"word {k} of {session_id}")

        await asyncio.gather(*[say(f"s{n}") for n in range(8)])
        await asyncio.gather(*[store.messages.append("s0", role="user", content=f"at once {k}") for k in range(20)])
        hits = [hit async for hit in store.search("word", user_id="u1", limit=None)]
        assert {hit.session_id for hit in hits} == {"s1", "s3", "s5", "s7"}
        assert len(hits) == 100
    async with AsyncSessionStore(dsn, readonly=True) as other:
        said = [message.content async for message in other.messages.stream("s0")]
        assert said == [f"word {k} of s0" for k in range(25)] + [f"at once {k}" for k in range(20)]
        with pytest.raises(ReadOnly):
            await other.messages.append("s0", role="user", content="x")


async def test_an_operation_that_raises_on_postgresql_fails_alone(dsn: str):
    """Its batch-mates are stored, and the engine goes on."""
    async with AsyncSessionStore(dsn) as store:
        await store.sessions.create("s")
        calls = [store.messages.append(id, role="user", content=id) for id in ("s", "missing", "s", "absent", "s")]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(outcome, SessionNotFound) for outcome in outcomes] == [False, True, False, True, False]
        assert await store.messages.count("s") == 3
        with pytest.raises(InvalidQuery):
            await store.query("SELECT nonsense FROM nowhere")
        with pytest.raises(InvalidQuery):
            await store.query("DELETE FROM messages")
        assert (await store.query("SELECT COUNT(*) AS n FROM messages"))[0].n == 3


async def test_a_watch_on_postgresql_tells_what_other_stores_commit(dsn: str):
    """In one order, each once, though their transactions overlap."""
    async with AsyncSessionStore(dsn) as store, AsyncSessionStore(dsn) as other:
        for n in range(4):
            await store.sessions.create(f"s{n}")
        async with asyncio.timeout(20), store.watch(kinds="message") as live:
            writes = [
                each.messages.append(f"s{n % 4}", role="user", content=str(n))
                for n in range(100)
                for each in (store, other)
            ]
            told = asyncio.create_task(_take(live, len(writes)))
            refs = await asyncio.gather(*writes)
            seen = await told
        assert seen == sorted(ref.id for ref in refs)


async def _take(live, n: int) -> list[int]:
    return [(await anext(live)).id for _ in range(n)]


async def test_whoever_kills_the_connections_to_postgresql_loses_nothing_that_was_acknowledged(
    dsn: str, postgres_dsn: str
):
    """Batches run again on a new connection; where COMMIT was under way that is told, and repeating is harmless."""
    async with AsyncSessionStore(dsn) as store:
        for n in range(4):
            await store.sessions.create(f"s{n}")
        acknowledged: dict[str, set[str]] = {f"s{n}": set() for n in range(4)}

        async def say(n: int, k: int) -> None:
            for m in range(40):
                word = f"{k}.{m}"
                for _ in range(20):
                    try:
                        await store.messages.append(f"s{n}", role="user", content=word, external_id=word)
                        break
                    except (WriteUnknown, StoreBusy):
                        continue
                acknowledged[f"s{n}"].add(word)

        async def kill() -> int:
            killed = 0
            async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
                for _ in range(12):
                    await asyncio.sleep(0.03)
                    rows = await connection.execute(
                        "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity"
                        " WHERE application_name = 'recollect'"
                    )
                    killed += (await rows.fetchone() or (0,))[0]
            return killed

        killing = asyncio.create_task(kill())
        await asyncio.gather(*[say(n, k) for n in range(4) for k in range(4)])
        assert await killing > 4
        for session_id, words in acknowledged.items():
            for _ in range(5):  # the readers' connections were killed as well
                try:
                    found = [message.content async for message in store.messages.stream(session_id)]
                    break
                except StoreBusy:
                    continue
            assert sorted(found) == sorted(words), "each once"


async def test_what_lies_beyond_an_open_transaction_is_indexed_when_it_ends_and_once(dsn: str):
    """Neither an event nor a message is indexed before those with lower numbers are decided; nor twice after."""
    async with (
        AsyncSessionStore(dsn, timeouts=Timeouts(search_catch_up_s=0.2)) as store,
        await psycopg.AsyncConnection.connect(dsn) as slow,
    ):
        await store.sessions.create("s")
        await take_ids(slow, 1)
        await store.events.record({"kind": "note", "text": "beyond"})
        await store.messages.append("s", role="user", content="beyond too")
        assert [hit async for hit in store.search("beyond")] == []
        assert (await store.stats()).horizon_stalled_s > 0
        await slow.commit()
        assert (await store.stats()).horizon_stalled_s == 0
        await store.flush(index=True)
        assert len([hit async for hit in store.search("beyond")]) == 2
        rows = await store.query("SELECT id, COUNT(*) AS n FROM search_terms GROUP BY id")
        assert [row.n for row in rows] == [1, 1]
