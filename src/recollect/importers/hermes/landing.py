"""What an import reads and writes here, as operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ...encoding import now
from ...engine.operation import Failed, Operation, Row, execute, lock, one, tuples
from ...messages.append import append
from ...messages.prepare import Append, NewRow
from ...messages.shift import count, less, move
from ...messages.transcript import ACTIVE
from ...sessions.arrival import Arrival, Arrived, arrive
from ...sessions.life import end_row
from .rows import EXTERNAL


class Present(NamedTuple):
    """A session that is here, and its messages from there: the state of each by its id there."""

    row: Row
    states: Mapping[int, int]


_SESSION = """
SELECT s.session, s.status, s.ended_at, s.next_seq, s.title, s.model, t.system_prompt, t.config
FROM sessions s LEFT JOIN session_texts t ON t.session = s.session WHERE s.id = :id"""

_STATES = "SELECT external_id, state FROM messages WHERE session = :session AND external_id IS NOT NULL"


def read_present(session_id: str) -> Operation[Present | None]:
    """What is here of a session."""
    row = yield one(_SESSION, id=session_id)
    if row is None:
        return None
    found = yield tuples(_STATES, session=row.session)
    numbers = {
        external_id.removeprefix(EXTERNAL): state for external_id, state in found if external_id.startswith(EXTERNAL)
    }
    return Present(row, {int(number): state for number, state in numbers.items() if number.isdecimal()})


def create(arrival: Arrival, rows: tuple[NewRow, ...], away: Mapping[int, list[str]]) -> Operation[tuple[Arrived, int]]:
    """Makes a session with its first messages, unless its id has been used meanwhile; how many those are."""
    arrived = yield from arrive(arrival)
    if not arrived.is_new or not rows:
        return arrived, 0
    return arrived, (yield from grow(arrival.new.id, rows, away))


def grow(session_id: str, rows: tuple[NewRow, ...], away: Mapping[int, list[str]]) -> Operation[int]:
    """Appends messages, those of the assistant numbered as the rounds of the session, and puts away those
    that are away there; how many are new."""
    yield lock(session_id)
    before = yield one("SELECT session, next_seq, round_index FROM sessions WHERE id = :id", id=session_id)
    round_index = before.round_index if before else 0
    numbered: list[NewRow] = []
    for row in rows:
        if row.role == "assistant":
            round_index += 1
            row = msgspec.structs.replace(row, optional={**row.optional, "round_index": round_index})
        numbered.append(row)
    (outcome,) = yield from append([Append(session_id, tuple(numbered), now())])
    if isinstance(outcome, Failed):
        raise outcome.error
    yield execute(
        "UPDATE sessions SET round_index = :round WHERE session = :session", round=round_index, session=before.session
    )
    yield from _put_away(before.session, away)
    return sum(ref.seq >= before.next_seq for ref in outcome)


def put_away(session_id: str, away: Mapping[int, list[str]]) -> Operation[int]:
    """Gives messages that are active here another state; how many."""
    yield lock(session_id)
    row = yield one("SELECT session FROM sessions WHERE id = :id", id=session_id)
    return (yield from _put_away(row.session, away)) if row else 0


def _put_away(session: int, away: Mapping[int, list[str]]) -> Operation[int]:
    moved = 0
    for state, external_ids in away.items():
        taken = yield from move(
            session, f"state = {ACTIVE} AND external_id IN :external_ids", state, external_ids=external_ids
        )
        moved += taken.messages
        if taken.messages:
            yield from count(session, less(taken))
    return moved


def end(session_id: str, ended_at: int, reason: str | None) -> Operation[bool]:
    """Ends a session at the time it ended there, unless it has."""
    yield lock(session_id)
    row = yield one("SELECT session, status, ended_at FROM sessions WHERE id = :id", id=session_id)
    if row is None or row.ended_at is not None:
        return False
    yield from end_row(row, session_id, reason, ended_at)
    return True
