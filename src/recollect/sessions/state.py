"""The agent's state in a session: its round, and what it left to do."""

from __future__ import annotations

from ..access import locked
from ..encoding import json_value
from ..engine.operation import Operation, execute, one
from ..models import State

STATE = "SELECT next_seq, round_index, send_index, last_compaction_seq, pending FROM sessions WHERE id = :id"
"""what a record of a session takes along, too"""


def read_state(session_id: str) -> Operation[State | None]:
    """The state of the session, or None."""
    row = yield one(STATE, id=session_id)
    return row and State(
        row.next_seq, row.round_index, row.send_index, row.last_compaction_seq, json_value(row.pending)
    )


def set_round(session_id: str, round_index: int) -> Operation[None]:
    """Sets the current round."""
    yield from _set(session_id, "round_index", round_index)


def set_pending(session_id: str, pending: str | None) -> Operation[None]:
    """Sets what is left to do; None clears."""
    yield from _set(session_id, "pending", pending)


def _set(session_id: str, column: str, value: int | str | None) -> Operation[None]:
    """Without moving `updated_at`, as `change` would."""
    row = yield from locked(session_id, "session")
    yield execute(
        f"UPDATE sessions SET {column} = :value, revision = revision + 1 WHERE session = :session",
        session=row.session,
        value=value,
    )
