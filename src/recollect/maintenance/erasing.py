"""What a user has, found by pages and erased."""

from __future__ import annotations

from ..engine.fulltext import FullText
from ..engine.operation import Operation, tuples
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
