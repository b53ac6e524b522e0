"""A table that refuses to be written, as a full disk or a damaged one would: to fail half way through an operation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from recollect import AsyncSessionStore
from recollect.engine.operation import execute

from .outside import is_server


@asynccontextmanager
async def failing(store: AsyncSessionStore, event: str, when: str = "TRUE") -> AsyncIterator[None]:
    """While inside, every `event` ("INSERT ON events", "UPDATE OF title ON sessions") on a row for which `when`
    ("NEW.kind = 'bad'") is true fails, with the word `broken`."""
    trigger = f"CREATE TRIGGER broken BEFORE {event} FOR EACH ROW WHEN ({when})"
    if not is_server(store._engine.name):
        await store.write(_execute, f"{trigger} BEGIN SELECT RAISE(ABORT, 'broken'); END")
        yield
        await store.write(_execute, "DROP TRIGGER broken")
        return
    dsn = store._engine._server.dsn  # type: ignore[attr-defined]
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(_FUNCTION)
        try:
            await connection.execute(f"{trigger} EXECUTE FUNCTION broken()".encode())
            yield
        finally:  # the next test has the same tables
            await connection.execute("DROP FUNCTION broken CASCADE")


def _execute(sql: str):
    yield execute(sql)


_FUNCTION = """
CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE check_violation USING MESSAGE = 'broken'; END $$"""
