"""What happens to sessions, recorded as events of kind `store.*` in the transaction it happens in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from .encoding import now
from .engine.operation import Operation, Statement, execute, ids, many, tuples

OURS = "store."
"""how kinds begin that the store records itself"""

OTHERS = f"NOT (kind >= '{OURS}' AND kind < 'store/')"
"""the condition of events that are not the store's own"""

VISIBLE = (
    "NOT EXISTS (SELECT 1 FROM sessions g WHERE g.gone_id = e.session_id AND e.id < g.gone_before"
    " AND (e.user_id IS NULL OR e.user_id = g.user_id))"
)
"""the condition of events `e` that do not go with a session that was deleted: those wait to be erased. What
another user recorded of it is his"""


def record_event(id: int, kind: str, session_id: str, at: int, name: str | None = None) -> Statement:
    """The event of something that happened to a session."""
    return execute(
        "INSERT INTO events (id, at, kind, session_id, name, user_id)"
        " VALUES (:id, :at, :kind, :session_id, :name, (SELECT user_id FROM sessions WHERE id = :session_id))",
        id=id,
        at=at,
        kind=kind,
        session_id=session_id,
        name=name,
    )


def happened(kind: str, session_id: str, name: str | None = None) -> Operation[None]:
    """Records that something of this kind happened to a session."""
    (event,) = yield ids(1)
    yield record_event(event, kind, session_id, now(), name)


def deleted(session_ids: Sequence[str]) -> Operation[int]:
    """Records that these sessions were deleted; the lowest id of these events.

    They outlive what they tell of, so they name no user: a pseudonym tells his own watchers whose it was.
    """
    rows = yield tuples("SELECT id, user_id FROM sessions WHERE id IN :ids AND user_id IS NOT NULL", ids=session_ids)
    users = dict(rows)
    events = yield ids(len(session_ids))
    at = now()
    yield many(
        "INSERT INTO events (id, at, kind, session_id, user_id) VALUES (?, ?, 'store.deleted', ?, ?)",
        [(event, at, id, pseudonym(users.get(id))) for event, id in zip(events, session_ids, strict=True)],
    )
    return events[0]


def pseudonym(user_id: str | None) -> str | None:
    """What stands for a user in what is kept when all that was his is gone."""
    return user_id and "gone:" + hashlib.blake2b(user_id.encode(), digest_size=12).hexdigest()


def claim_events(session_id: str, user_id: str | None) -> Operation[bool]:
    """The session of these events has got a user, and so have they; whether there were any. That a session of
    this id was deleted before is not his."""
    if user_id is None:
        return False
    claimed = yield execute(
        "UPDATE events AS e SET user_id = :user_id, user_late = 1"
        f" WHERE session_id = :id AND user_id IS NULL AND kind <> 'store.deleted' AND {VISIBLE}",
        id=session_id,
        user_id=user_id,
    )
    return claimed > 0
