"""Reading by number on PostgreSQL, where transactions commit in another order than they take numbers: nothing is
skipped, and nothing is waited for that does not write here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest

from .numbers import read_horizon, take_ids

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Connect = Callable[[], Awaitable[Connection]]


@pytest.fixture
async def connect(postgres_dsn: str, postgres_schema: psycopg.Connection[Any]) -> AsyncIterator[Connect]:
    """Opens connections to the database with the schema."""
    opened: list[Connection] = []

    async def connect() -> Connection:
        connection = await psycopg.AsyncConnection.connect(
            postgres_dsn, autocommit=True, options="-c search_path=recollect_probe"
        )
        opened.append(connection)
        return connection

    postgres_schema.execute("CREATE TABLE IF NOT EXISTS written (id BIGINT PRIMARY KEY)")
    yield connect
    for connection in opened:
        await connection.close()
    postgres_schema.execute("DROP TABLE written")


async def test_what_an_open_transaction_may_still_write_lies_beyond_the_horizon(connect: Connect):
    """Until it is committed or undone, however many others commit meanwhile."""
    slow, quick, reader = [await connect() for _ in range(3)]
    async with slow.transaction():
        (first, *_) = await take_ids(slow, 2)
        assert await read_horizon(reader) < first
        async with quick.transaction():
            (later,) = await take_ids(quick, 1)
        assert later > first
        assert await read_horizon(reader) < first
    assert await read_horizon(reader) >= later
    await slow.execute("BEGIN")
    (undone,) = await take_ids(slow, 1)
    assert await read_horizon(reader) < undone
    await slow.execute("ROLLBACK")
    assert await read_horizon(reader) >= undone


async def test_a_transaction_that_takes_no_numbers_holds_nothing_up(connect: Connect):
    """However long it is open: a backup, somebody's report."""
    idle, writer, reader = [await connect() for _ in range(3)]
    async with idle.transaction():
        await idle.execute("SELECT COUNT(*) FROM sessions")
        async with writer.transaction():
            (id,) = await take_ids(writer, 1)
        assert await read_horizon(reader) >= id


async def test_nobody_who_reads_up_to_the_horizon_misses_a_row(connect: Connect):
    """Six writers of different pace, one reader who goes on from where he was: he sees each row that was committed,
    once, in order."""
    dice = random.Random(1)
    committed: list[int] = []
    done = asyncio.Event()

    async def write(connection: Connection, rounds: int) -> None:
        for _ in range(rounds):
            async with connection.transaction(force_rollback=(undone := dice.random() < 0.1)):
                ids = await take_ids(connection, dice.randint(1, 5))
                await asyncio.sleep(dice.random() / 200)
                ids += await take_ids(connection, 1)
                for id in ids:
                    await connection.execute("INSERT INTO written VALUES (%s)", (id,))
            if not undone:
                committed.extend(ids)

    async def read(connection: Connection) -> list[int]:
        seen: list[int] = []
        reached = 0
        while True:
            last_time = done.is_set()
            horizon = await read_horizon(connection)
            rows = await connection.execute(
                "SELECT id FROM written WHERE id > %s AND id <= %s ORDER BY id", (reached, horizon)
            )
            seen += [id for (id,) in await rows.fetchall()]
            reached = horizon
            if last_time:
                return seen

    reading = asyncio.create_task(read(await connect()))
    await asyncio.gather(*[write(await connect(), 30) for _ in range(6)])
    done.set()
    assert await reading == sorted(committed)
    assert len(committed) > 300
