"""Moving messages between states, and what that does to the counters of their session."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..access import locked
from ..encoding import now
from ..engine.operation import Operation, Row, execute, one
from ..sessions.turns import check_fence
from .append import preview
from .transcript import ACTIVE

COMPACTED, REWOUND, CLEARED = 1, 2, 3
"""beside ACTIVE; what is cleared is nowhere any more, and is erased"""


class Moved(NamedTuple):
    """How many messages were moved, and the tool calls they ask for."""

    messages: int
    calls: int


_OPENED = "session, next_seq, send_index, round_index, last_compaction_seq, last_active_at"


def opened(session_id: str, fence: int | None = None) -> Operation[Row]:
    """The locked session's numbers. Raises SessionNotFound, and TurnLost for a stale fence."""
    row = yield from locked(session_id, _OPENED)
    yield from check_fence(row.session, fence, session_id)
    return row


def move(session: int, condition: str, to: int, *, compacted_by: int | None = None, **params: Any) -> Operation[Moved]:
    """Gives the messages that meet the condition another state."""
    asked = yield one(
        f"SELECT CAST(SUM(calls) AS BIGINT) AS calls FROM messages WHERE session = :session AND {condition}",
        session=session,
        **params,
    )
    moved = yield execute(
        f"UPDATE messages SET state = :to, compacted_by = :compacted_by WHERE session = :session AND {condition}",
        session=session,
        to=to,
        compacted_by=compacted_by,
        **params,
    )
    return Moved(moved, asked.calls or 0)


_COUNT = """
UPDATE sessions SET message_count = message_count + :messages, tool_call_count = tool_call_count + :calls,
  preview = :preview, updated_at = :now, revision = revision + 1
WHERE session = :session"""


def count(session: int, *changes: Moved) -> Operation[None]:
    """Adds these changes to the counters of the active transcript; the preview follows it."""
    first_words = yield from read_preview(session)
    yield execute(
        _COUNT,
        session=session,
        messages=sum(change.messages for change in changes),
        calls=sum(change.calls for change in changes),
        preview=first_words,
        now=now(),
    )


def less(moved: Moved) -> Moved:
    """The same, taken away."""
    return Moved(-moved.messages, -moved.calls)


_USER_TEXT = f"""
SELECT position, seq, content FROM messages
WHERE session = :session AND state = {ACTIVE} AND (position, seq) > (:position, :seq) AND role = 'user'
  AND content <> '' ORDER BY position, seq LIMIT 1"""


def read_preview(session: int) -> Operation[str | None]:
    """The first words of the first user text in the transcript that has any."""
    position = seq = 0
    while row := (yield one(_USER_TEXT, session=session, position=position, seq=seq)):
        if words := preview(row.content):
            return words
        position, seq = row.position, row.seq
    return None
