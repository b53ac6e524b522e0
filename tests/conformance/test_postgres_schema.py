"""The schema on PostgreSQL: made once, whoever comes first, and refused where it is not ours or too new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest

from recollect import NotAStore, ReadOnly, SchemaTooNew
from recollect.engine.postgres.migrate import migrate, newest

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Connect = Callable[[], Awaitable[Connection]]


@pytest.fixture
async def connect(postgres_dsn: str) -> AsyncIterator[Connect]:
    """Opens connections to an empty schema of its own."""
    opened: list[Connection] = []

    async def connect() -> Connection:
        connection = await psycopg.AsyncConnection.connect(
            postgres_dsn, autocommit=True, options="-c search_path=recollect_boot"
        )
        opened.append(connection)
        return connection

    await (await connect()).execute("CREATE SCHEMA recollect_boot")
    yield connect
    await opened[0].execute("DROP SCHEMA recollect_boot CASCADE")
    for connection in opened:
        await connection.close()


async def version(connection: Connection) -> int:
    rows = await connection.execute("SELECT version FROM recollect_schema")
    return (await rows.fetchone() or (0,))[0]


async def test_of_many_first_boots_one_makes_the_schema(connect: Connect):
    """The others wait for it, and find it made."""
    connections = [await connect() for _ in range(8)]
    await asyncio.gather(*[migrate(connection, readonly=False) for connection in connections])
    assert await version(connections[0]) == newest()
    rows = await connections[0].execute("SELECT COUNT(*) FROM sessions")
    assert await rows.fetchone() == (0,)


async def test_a_schema_of_a_newer_recollect_is_refused(connect: Connect):
    """And left as it is."""
    connection = await connect()
    await migrate(connection, readonly=False)
    await connection.execute("UPDATE recollect_schema SET version = version + 1")
    with pytest.raises(SchemaTooNew):
        await migrate(connection, readonly=False)
    assert await version(connection) == newest() + 1


async def test_anothers_tables_are_refused(connect: Connect):
    """Nothing is made beside them."""
    connection = await connect()
    await connection.execute("CREATE TABLE messages (words TEXT)")
    with pytest.raises(NotAStore):
        await migrate(connection, readonly=False)
    rows = await connection.execute("SELECT to_regclass('recollect_schema')")
    assert await rows.fetchone() == (None,)


async def test_reading_makes_no_schema(connect: Connect):
    """Not even where there is none."""
    connection = await connect()
    with pytest.raises(ReadOnly):
        await migrate(connection, readonly=True)
    await migrate(connection, readonly=False)
    await migrate(connection, readonly=True)
