"""Taking numbers and reading the horizon, with plain psycopg."""

from __future__ import annotations

from typing import Any

import psycopg

from recollect.engine.postgres.horizon import CLAIMED, LAST, TAKE, horizon_of

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


async def rows_of(connection: Connection, sql: bytes, *params: Any) -> list[Any]:
    """What a statement gives."""
    cursor = psycopg.AsyncRawCursor(connection)
    return await (await cursor.execute(sql, params)).fetchall()


async def take_ids(connection: Connection, n: int) -> list[int]:
    """The next numbers."""
    return [id for (id,) in await rows_of(connection, TAKE, n)]


async def read_horizon(connection: Connection) -> int:
    """The number up to which all are decided."""
    return horizon_of(await rows_of(connection, LAST), await rows_of(connection, CLAIMED))
