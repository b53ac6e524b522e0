"""The agent's state in a session: its round, and what it left to do."""

from __future__ import annotations

from ..access import missing
from ..encoding import json_value
from ..engine.operation import Operation, execute, lock, one
from ..models import State

_STATE = "SELECT next_seq, round_index, send_index, last_compaction_seq, pending FROM sessions WHERE id = :id"


def read_state(session_id: str) -> Operation[State | None]:
    """The state of the session, or None."""
    row = yield one(_STATE, id=session_id)
    return row and State(
        row.next_seq, row.round_index, row.send_index, row.last_compaction_seq, json_value(row.pending)
    )


def set_round(session_id: str, round_index: int) -> Operation[None]:
    """Sets the current round."""
    yield lock(session_id)
    changed = yield execute(
        "UPDATE sessions SET round_index = :round_index, revision = revision + 1 WHERE id = :id",
        id=session_id,
        round_index=round_index,
    )
    if not changed:
        raise missing(session_id)


def set_pending(session_id: str, pending: str | None) -> Operation[None]:
    """Sets what is left to do; None clears."""
    yield lock(session_id)
    changed = yield execute(
        "UPDATE sessions SET pending = :pending, revision = revision + 1 WHERE id = :id",
        id=session_id,
        pending=pending,
    )
    if not changed:
        raise missing(session_id)
