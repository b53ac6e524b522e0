"""What a user has, found by pages and erased; how far erasing is."""

from __future__ import annotations

from ..engine.fulltext import FullText
from ..engine.operation import Operation, Row, one, tuples
from ..search.erase import ERASED_AT_ONCE, erase_events


def sessions_of(user_id: str) -> Operation[list[str]]:
    """Some sessions of a user."""
    rows = yield tuples(
        "SELECT id FROM sessions WHERE id IS NOT NULL AND user_id = :user_id LIMIT :n",
        user_id=user_id,
        n=ERASED_AT_ONCE,
    )
    return [id for (id,) in rows]


def erase_events_of(fulltext: FullText, user_id: str) -> Operation[int]:
    """Erases some events of a user; how many."""
    rows = yield tuples(
        "SELECT id FROM events WHERE user_id = :user_id ORDER BY id LIMIT :n", user_id=user_id, n=ERASED_AT_ONCE
    )
    if rows:
        yield from erase_events(fulltext, [id for (id,) in rows])
    return len(rows)


def last_gone() -> Operation[int]:
    """The number of the last deleted session that waits to be erased; 0: there is none."""
    row = yield one("SELECT MAX(session) AS session FROM sessions WHERE id IS NULL")
    return row.session or 0


def is_waiting(top: int) -> Operation[bool]:
    """Whether a deleted session up to that number waits to be erased."""
    row = yield one("SELECT 1 AS n FROM sessions WHERE id IS NULL AND session <= :top LIMIT 1", top=top)
    return row is not None


def read_purged() -> Operation[Row]:
    """How many rows were ever taken out of the index, of how many the words are out of its pages, its version."""
    return (yield one("SELECT erased, purged, version FROM index_state"))
