"""Moving sessions: whole ones out as records and in again, every column as it was.

A record is what JSON can hold: times are ISO 8601 in UTC, costs dollars. The counters in it tell its
reader something; on the way in they are made anew from the messages and the ledger. The ids of messages
are not in it, for they number one store.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from ..encoding import json_value
from ..engine.operation import Operation, all, one
from ..filters import Filter
from ..messages.compact import read_compactions
from ..messages.transcript import read_page
from ..models import Kind, Lifecycle, Message, MessageState, Relation, Session, Status
from ..usage.ledger import read_rounds
from .record import read_session
from .state import STATE


class MessageRecord(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A message of a record."""

    role: str
    seq: int | None = None
    position: int | None = None
    content: Any = None
    name: str | None = None
    tool_calls: Any = None
    tool_call_id: str | None = None
    round_index: int | None = None
    send_index: int = 0
    state: MessageState = MessageState.ACTIVE
    compacted_by: int | None = None
    reasoning: str | None = None
    reasoning_details: Any = None
    provider_items: Any = None
    token_count: int | None = None
    finish_reason: str | None = None
    external_id: str | None = None
    metadata: dict[str, Any] = {}
    created_at: datetime | None = None


class CompactionRecord(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A compaction of a record."""

    seq: int
    note_seq: int
    from_seq: int
    to_seq: int
    count: int
    before_tokens: int | None = None
    after_tokens: int | None = None
    round_index: int | None = None
    created_at: datetime
    undone_at: datetime | None = None


class UsageRecord(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A row of the ledger of a record; without a `round_index` it is a correction."""

    send_index: int | None = None
    round_index: int | None = None
    model: str | None = None
    source: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_cost_usd: float | None = None
    actual_cost_usd: float | None = None
    created_at: datetime | None = None


class SessionRecord(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A session with everything that belongs to it. Only the id must be given."""

    recollect: Literal[1] = 1
    """the version of this format"""
    id: str
    kind: Kind = Kind.ROOT
    source: str = "unknown"
    user_id: str | None = None
    key: str | None = None
    model: str | None = None
    config: dict[str, Any] = {}
    system_prompt: str | None = None
    title: str | None = None
    metadata: dict[str, Any] = {}
    status: Status = Status.ACTIVE
    end_reason: str | None = None
    parent_id: str | None = None
    relation: Relation | None = None
    lifecycle: Lifecycle = Lifecycle.EPHEMERAL
    spawn_depth: int = 0
    spawn_tool_call_id: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    last_active_at: datetime | None = None
    ended_at: datetime | None = None
    preview: str | None = None
    message_count: int = 0
    tool_call_count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_cost_usd: float | None = None
    actual_cost_usd: float | None = None
    cost_status: str | None = None
    cost_source: str | None = None
    pricing_version: str | None = None
    billing_provider: str | None = None
    billing_base_url: str | None = None
    billing_mode: str | None = None
    next_seq: int | None = None
    round_index: int = 0
    send_index: int | None = None
    last_compaction_seq: int | None = None
    pending: Any = None
    messages: list[MessageRecord] = []
    compactions: list[CompactionRecord] = []
    usage: list[UsageRecord] = []


# -- out -------------------------------------------------------------------------------------------


def read_record(session_id: str, within: str | None) -> Operation[dict[str, Any] | None]:
    """The whole session in one snapshot, as JSON has it."""
    session: Session | None = yield from read_session(session_id, within)
    if session is None:
        return None
    state = yield one(STATE, id=session_id)
    messages = yield from read_page(session_id, "all", None, None)
    compactions = yield from read_compactions(session_id, True)
    rounds = yield from read_rounds(session_id)
    record = SessionRecord(
        **msgspec.structs.asdict(session),
        **{**state._asdict(), "pending": json_value(state.pending)},
        messages=[_message(message) for message in sorted(messages.items, key=lambda message: message.seq)],
        compactions=[CompactionRecord(**without(compaction, "session_id")) for compaction in compactions],
        usage=[UsageRecord(**without(row, "id", "session_id")) for row in rounds],
    )
    return msgspec.to_builtins(record)


def _message(message: Message) -> MessageRecord:
    return MessageRecord(**without(message, "id", "session_id", "text"))


def without(record: msgspec.Struct, *names: str) -> dict[str, Any]:
    """The fields of a record but these."""
    return {name: value for name, value in msgspec.structs.asdict(record).items() if name not in names}


Place = tuple[int, int]
"""time of creation and number of a session: where the next page begins"""

FIRST: Place = (-(2**63), 0)


def read_ids(where: Filter, after: Place, n: int) -> Operation[list[tuple[str, Place]]]:
    """The next sessions in the order of creation, each with its place."""
    rows = yield all(
        "SELECT s.id, s.created_at, s.session FROM sessions s WHERE s.id IS NOT NULL"
        f" AND (s.created_at, s.session) > (:created, :number){where.sql} ORDER BY s.created_at, s.session LIMIT :n",
        created=after[0],
        number=after[1],
        n=n,
        **where.params,
    )
    return [(row.id, (row.created_at, row.session)) for row in rows]
