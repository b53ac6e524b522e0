"""Numbers of the store's one sequence, and the horizon up to which every one of them is decided.

Transactions commit in another order than they take numbers. So with its first numbers, each takes a shared
advisory lock named after the last number there was: nothing it writes has that one or a lower. The least of
these names, or the last number if there are none, is the horizon: what lies up to it is committed, or will
never come. Whoever reads by number (the search index, watches) goes no further. Unlike the oldest snapshot of
the server, it is held up by nobody who does not write here.

A transaction counts as committed before its locks are released, so whoever reads looks at the locks first and
takes his snapshot afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncRawCursor

from ...errors import ReadOnly
from .pipeline import Connection

_TAG = "(CAST(CAST(CAST('store_sequence' AS regclass) AS oid) AS BIGINT) & 65535)"
"""the schema's own, in the upper 16 bits of the lock's name; the number is in the other 48"""

# The target list is computed for rows of the join, so after the lock was taken.
TAKE = f"""
WITH claim AS MATERIALIZED (
  SELECT pg_advisory_xact_lock_shared(last_value | ({_TAG} << 48)) FROM store_sequence)
SELECT nextval('store_sequence') FROM claim, generate_series(1, CAST($1 AS BIGINT))""".encode()
"""the first numbers of a transaction, ascending; others may have got some in between"""

MORE = b"SELECT nextval('store_sequence') FROM generate_series(1, CAST($1 AS BIGINT))"
"""further ones: the lock is there, one is enough"""

LAST = b"SELECT last_value FROM store_sequence"
_OF_CLAIMS = f"""l.locktype = 'advisory' AND l.objsubid = 1 AND CAST(l.classid AS BIGINT) >> 16 = {_TAG}
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
CLAIMED = f"""
SELECT MIN(((CAST(l.classid AS BIGINT) & 65535) << 32) | CAST(l.objid AS BIGINT)), pg_is_in_recovery()
FROM pg_locks l WHERE {_OF_CLAIMS}""".encode()


def horizon_of(last: Sequence[tuple[int]], claimed: Sequence[tuple[int | None, bool]]) -> int:
    """The number up to which all are decided, of the rows of LAST and CLAIMED, in that order. To be read before the
    snapshot that relies on it is taken. Raises ReadOnly on a standby, which knows neither the locks of the primary nor
    how many numbers of its sequence are taken."""
    lowest, is_standby = claimed[0]
    if is_standby:
        raise ReadOnly("a standby cannot tell what is still to come: watch on the primary")
    return last[0][0] if lowest is None else min(last[0][0], lowest)


_STALLED = f"""
SELECT CAST(COALESCE(EXTRACT(EPOCH FROM MAX(clock_timestamp() - a.xact_start)), 0) AS DOUBLE PRECISION)
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE {_OF_CLAIMS}""".encode()

_FACTS = b"SELECT pg_database_size(current_database()), current_setting('server_version')"


async def read_stalled(connection: Connection) -> float:
    """The age in seconds of the oldest transaction that holds the horizon back. Of other roles' it is told to members
    of pg_read_all_stats."""
    cursor = AsyncRawCursor(connection)
    await cursor.execute(_STALLED)
    (stalled_s,) = await cursor.fetchone() or (0.0,)
    return stalled_s


async def read_facts(connection: Connection) -> tuple[int, str, float]:
    """Bytes of the database, the server's version, and what `read_stalled` says."""
    cursor = AsyncRawCursor(connection)
    await cursor.execute(_FACTS)
    size, version = await cursor.fetchone() or (0, "")
    return size, version, await read_stalled(connection)
