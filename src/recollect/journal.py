"""What happens to sessions, recorded as events of kind `store.*` in the transaction it happens in."""

from __future__ import annotations

from collections.abc import Sequence

from .encoding import now
from .engine.operation import Operation, Statement, execute, ids, many


def record_event(id: int, kind: str, session_id: str, at: int, name: str | None = None) -> Statement:
    """The event of something that happened to a session."""
    return execute(
        "INSERT INTO events (id, at, kind, session_id, name) VALUES (:id, :at, :kind, :session_id, :name)",
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
    """Records that these sessions were deleted; the lowest id of these events."""
    events = yield ids(len(session_ids))
    at = now()
    yield many(
        "INSERT INTO events (id, at, kind, session_id) VALUES (?, ?, 'store.deleted', ?)",
        [(event, at, id) for event, id in zip(events, session_ids, strict=True)],
    )
    return events[0]
