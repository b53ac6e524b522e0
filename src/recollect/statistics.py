"""Counts for `store.stats()`, read from counters where there are any."""

from __future__ import annotations

from .engine.operation import Operation, one
from .search.index import Lag, read_lag


def read_counts() -> Operation[tuple[dict[str, int], Lag]]:
    """How many of everything, and where the index stands."""
    sessions = yield one(
        "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(message_count), 0) AS BIGINT) AS messages"
        " FROM sessions WHERE id IS NOT NULL"
    )
    events = yield one("SELECT COUNT(*) AS n FROM events")
    lag = yield from read_lag()
    return {"sessions": sessions.n, "messages": sessions.messages, "events": events.n}, lag
