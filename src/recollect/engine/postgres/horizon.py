"""Numbers of the store's one sequence, and the horizon up to which every one of them is decided.

Transactions commit in another order than they take numbers. So before its first numbers, each takes a shared
advisory lock named after the last number there was: nothing it writes has that one or a lower. The least of
these names, or the last number if there are none, is the horizon: what lies up to it is committed, or will
never come. Whoever reads by number (the search index, watches) goes no further. Unlike the oldest snapshot of
the server, it is held up by nobody who does not write here.

A transaction counts as committed before its locks are released, so whoever reads looks at the locks first and
takes his snapshot afterwards.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import AsyncRawCursor

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

TAG = 0x7265
"""'re', in the upper 16 bits of the lock's name; the number is in the other 48"""

_CLAIM = f"SELECT pg_advisory_xact_lock_shared(last_value | (CAST({TAG} AS BIGINT) << 48)) FROM store_sequence".encode()
_IDS = "SELECT nextval('store_sequence') FROM generate_series(1, CAST($1 AS BIGINT))"
_LAST = "SELECT last_value FROM store_sequence"
_CLAIMED = f"""
SELECT MIN(((CAST(classid AS BIGINT) & 65535) << 32) | CAST(objid AS BIGINT)) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND CAST(classid AS BIGINT) >> 16 = {TAG}
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())""".encode()


async def take_ids(connection: Connection, n: int) -> list[int]:
    """The next numbers, ascending; others may have got some in between."""
    cursor = AsyncRawCursor(connection)
    await cursor.execute(_CLAIM)
    await cursor.execute(_IDS, (n,))
    return [id for (id,) in await cursor.fetchall()]


async def read_horizon(connection: Connection) -> int:
    """The number up to which all are decided. To be read before the snapshot that relies on it is taken."""
    cursor = AsyncRawCursor(connection)
    await cursor.execute(_LAST)
    (last,) = await cursor.fetchone() or (0,)
    await cursor.execute(_CLAIMED)
    (claimed,) = await cursor.fetchone() or (None,)
    return last if claimed is None else min(last, claimed)
