"""Session ↔ rows: what is selected for a session, and the record made of it."""

from __future__ import annotations

from typing import Any

from ..access import missing
from ..encoding import decode_json, dollars, moment, moment_or_none
from ..engine.operation import Operation, Row, one
from ..models import Kind, Lifecycle, Relation, Session, Status

COLUMNS = """
s.id, s.kind, s.source, s.user_id, s.key, s.model, t.config, t.system_prompt, s.title, t.metadata, s.status,
s.end_reason, p.id AS parent_id, p.user_id AS parent_user, s.relation, s.lifecycle, s.spawn_depth,
s.spawn_tool_call_id, s.created_at, s.updated_at, s.last_active_at, s.ended_at, s.preview, s.message_count,
s.tool_call_count, s.input_tokens, s.output_tokens, s.cache_read_tokens, s.cache_write_tokens,
s.reasoning_tokens, s.estimated_cost, s.actual_cost, s.cost_status, s.cost_source, s.pricing_version,
s.billing_provider, s.billing_base_url, s.billing_mode"""

JOINS = "LEFT JOIN session_texts t ON t.session = s.session LEFT JOIN sessions p ON p.session = s.parent"

TABLES = f"sessions s {JOINS}"

_SELECT = f"SELECT {COLUMNS} FROM {TABLES} WHERE s.id = :id"


def session(row: Row, within: str | None = None) -> Session:
    """A row of COLUMNS as a record. `within` a user, another's parent is not named."""
    parent_id = row.parent_id if within is None or row.parent_user == within else None
    return Session(
        row.id, Kind(row.kind), row.source, row.user_id, row.key, row.model, _object(row.config), row.system_prompt,
        row.title, _object(row.metadata), Status(row.status), row.end_reason, parent_id,
        row.relation and Relation(row.relation), Lifecycle(row.lifecycle), row.spawn_depth, row.spawn_tool_call_id,
        moment(row.created_at), moment(row.updated_at), moment(row.last_active_at), moment_or_none(row.ended_at),
        row.preview, row.message_count, row.tool_call_count, row.input_tokens, row.output_tokens,
        row.cache_read_tokens, row.cache_write_tokens, row.reasoning_tokens, dollars(row.estimated_cost),
        dollars(row.actual_cost), row.cost_status, row.cost_source, row.pricing_version, row.billing_provider,
        row.billing_base_url, row.billing_mode,
    )  # fmt: skip


def read_session(session_id: str, within: str | None = None) -> Operation[Session | None]:
    """The session of that id, or None."""
    row = yield one(_SELECT, id=session_id)
    return row and session(row, within)


def existing(session_id: str, within: str | None = None) -> Operation[Session]:
    """The session that a write has just touched."""
    found = yield from read_session(session_id, within)
    if found is None:
        raise missing(session_id)
    return found


def _object(text: str | None) -> dict[str, Any]:
    return {} if text is None else decode_json(text)
