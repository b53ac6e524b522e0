"""Moving messages between states, and what that does to the counters of their session."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..access import missing
from ..encoding import json_value, now
from ..engine.operation import Operation, Row, execute, lock, one, tuples
from ..sessions.turns import check_fence
from .append import preview
from .transcript import ACTIVE

COMPACTED, REWOUND = 1, 2

_PAGE = 256
"""rows whose tool calls are looked at in one statement"""


class Moved(NamedTuple):
    """How many messages were moved, and the tool calls they ask for."""

    messages: int
    calls: int


_OPENED = """
SELECT session, next_seq, send_index, round_index, last_compaction_seq, last_active_at FROM sessions WHERE id = :id"""


def opened(session_id: str, fence: int | None = None) -> Operation[Row]:
    """The locked session's numbers. Raises SessionNotFound, and TurnLost for a stale fence."""
    yield lock(session_id)
    row = yield one(_OPENED, id=session_id)
    if row is None:
        raise missing(session_id)
    yield from check_fence(row.session, fence, session_id)
    return row


def move(session: int, condition: str, to: int, *, compacted_by: int | None = None, **params: Any) -> Operation[Moved]:
    """Gives the messages that meet the condition another state."""
    calls = yield from read_calls(session, condition, params)
    moved = yield execute(
        f"UPDATE messages SET state = :to, compacted_by = :compacted_by WHERE session = :session AND {condition}",
        session=session,
        to=to,
        compacted_by=compacted_by,
        **params,
    )
    return Moved(moved, calls)


def read_calls(session: int, condition: str, params: dict[str, Any]) -> Operation[int]:
    """How many tool calls the messages that meet the condition ask for."""
    total, place = 0, {"p": -1, "q": -1}
    while True:
        rows = yield tuples(
            f"SELECT position, seq, tool_calls FROM messages WHERE session = :session AND {condition}"
            " AND tool_calls IS NOT NULL AND (position, seq) > (:p, :q) ORDER BY position, seq LIMIT :n",
            session=session,
            n=_PAGE,
            **place,
            **params,
        )
        total += sum(calls_in(calls) for *_, calls in rows)
        if len(rows) < _PAGE:
            return total
        place = {"p": rows[-1][0], "q": rows[-1][1]}


def calls_in(tool_calls: str | None) -> int:
    """How many calls a message asks for: parallel ones count one each."""
    calls = json_value(tool_calls)
    return len(calls) if isinstance(calls, list) else int(calls is not None)


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
