"""What others do at a store's place, without its code: look at its rows, and keep it from reading or writing."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import psycopg

from recollect import AsyncSessionStore
from recollect.engine.operation import one
from recollect.testing.engines import Target

PATIENCE_S = 10.0
"""how long a test waits for what must happen"""


def is_server(place: Target) -> bool:
    """Whether it is a PostgreSQL database; else a file."""
    return os.fspath(place).startswith("postgresql://")


def rows(place: Target, sql: str) -> list[tuple[Any, ...]]:
    """What another process finds there."""
    if is_server(place):
        with psycopg.connect(os.fspath(place)) as connection:
            return connection.execute(sql.encode()).fetchall()
    with closing(sqlite3.connect(place)) as connection:
        return connection.execute(sql).fetchall()


LOCK_ALL = """
DO $$ BEGIN EXECUTE (SELECT 'LOCK TABLE ' || string_agg(tablename, ', ' ORDER BY tablename) || ' IN EXCLUSIVE MODE'
  FROM pg_tables WHERE schemaname = current_schema() AND tablename NOT SIMILAR TO '(search|index)_%'); END $$"""
"""all but what the keeper of the search index alone writes: he may be at work"""


@asynccontextmanager
async def occupied(place: Target) -> AsyncIterator[None]:
    """While inside, another process is in the middle of a transaction that lets nobody else write."""
    if is_server(place):
        async with await psycopg.AsyncConnection.connect(os.fspath(place)) as connection:
            await connection.execute(LOCK_ALL)
            yield
        return
    with closing(sqlite3.connect(place, isolation_level=None, timeout=60)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@asynccontextmanager
async def long_read(store: AsyncSessionStore) -> AsyncIterator[asyncio.Task[tuple[int, int]]]:
    """While inside, one of the store's readers is busy with a read that began before. It gets how many sessions there
    are at its beginning and at its end."""
    entered, release = threading.Event(), threading.Event()
    if is_server(store._engine.name):
        dsn = store._engine._server.dsn  # type: ignore[attr-defined]
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(7)")
            reading = asyncio.create_task(store.read(_waits_for_the_server, entered))
            await asyncio.to_thread(entered.wait, PATIENCE_S)
            yield reading
    else:
        reading = asyncio.create_task(store.read(_waits, entered, release))
        await asyncio.to_thread(entered.wait, PATIENCE_S)
        try:
            yield reading
        finally:
            release.set()
    await reading


_COUNT = "SELECT COUNT(*) AS n FROM sessions"


def _waits(entered: threading.Event, release: threading.Event):
    before = yield one(_COUNT)
    entered.set()
    release.wait(PATIENCE_S)
    after = yield one(_COUNT)
    return before.n, after.n


def _waits_for_the_server(entered: threading.Event):
    before = yield one(_COUNT)
    entered.set()
    yield one("SELECT pg_advisory_xact_lock(7)")
    after = yield one(_COUNT)
    return before.n, after.n


async def last_number(store: AsyncSessionStore) -> int:
    """The last number that was taken from the store's sequence."""
    on_server = is_server(store._engine.name)
    sql = "SELECT last_value AS last FROM store_sequence" if on_server else "SELECT last FROM sequence"
    return (await store.query(sql))[0].last


async def indexed(store: AsyncSessionStore) -> set[int]:
    """The rows of which the search index has anything."""
    table = "search_terms" if is_server(store._engine.name) else "search_index_docsize"
    return {row.id for row in await store.query(f"SELECT id FROM {table}")}


def tables(place: Target) -> list[str]:
    """The tables there, those of the search index too."""
    if is_server(place):
        return [name for (name,) in rows(place, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")]
    return [name for (name,) in rows(place, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
