"""Rewriting a transcript: replaced by another, or cleared."""

from __future__ import annotations

import msgspec

from ..encoding import now, second
from ..engine.operation import Failed, Operation, execute, one
from ..journal import happened
from ..models import MessageRef
from .append import append
from .prepare import Append
from .shift import CLEARED, COMPACTED, REWOUND, count, less, move, opened
from .transcript import ACTIVE


def replace(session_id: str, item: Append) -> Operation[list[MessageRef]]:
    """Puts the active transcript away and these messages in its place.

    They take over the external ids of those they replace, and begin no new send.
    """
    session = yield from opened(session_id, item.fence)
    away = yield from move(session.session, f"state = {ACTIVE}", COMPACTED)
    yield from move(session.session, f"state = {REWOUND}", COMPACTED)  # nothing of before can be restored into it
    yield from move(session.session, f"state = {COMPACTED} AND compacted_by IS NOT NULL", COMPACTED)
    yield execute(
        "UPDATE compactions SET undone_at = :at WHERE session = :session AND undone_at IS NULL",
        session=session.session,
        at=now(),
    )
    external_ids = [row.external_id for row in item.rows if row.external_id is not None]
    if external_ids:
        yield execute(
            "UPDATE messages SET external_id = NULL WHERE session = :session AND external_id IN :external_ids",
            session=session.session,
            external_ids=external_ids,
        )
    yield from count(session.session, less(away))
    rows = [msgspec.structs.replace(row, send_index=_send(row.send_index, session.send_index)) for row in item.rows]
    refs = yield from _appended(msgspec.structs.replace(item, rows=tuple(rows)))
    yield from happened("store.replaced", session_id)
    return refs


def _send(given: int | None, current: int) -> int:
    return current if given is None else given


def _appended(item: Append) -> Operation[list[MessageRef]]:
    (outcome,) = yield from append([item])
    if isinstance(outcome, Failed):
        raise outcome.error
    return outcome


def clear(session_id: str, fence: int | None) -> Operation[int]:
    """Takes every message away from a session; how many there were in its transcript. They are gone from
    everywhere at once, and the keeper erases them in chunks."""
    session = yield from opened(session_id, fence)
    row = yield one("SELECT message_count, created_at FROM sessions WHERE session = :session", session=session.session)
    yield execute(
        f"UPDATE messages SET state = {CLEARED}, compacted_by = NULL, external_id = NULL"
        " WHERE session = :session AND state IN (0, 1, 2)",
        session=session.session,
    )
    yield execute("DELETE FROM compactions WHERE session = :session", session=session.session)
    yield execute(_EMPTY, session=session.session, now=now(), activity=second(row.created_at))
    yield from happened("store.cleared", session_id)
    return row.message_count


_EMPTY = """
UPDATE sessions SET message_count = 0, tool_call_count = 0, preview = NULL, pending = NULL,
  last_active_at = created_at, activity = :activity, updated_at = :now, revision = revision + 1
WHERE session = :session"""
