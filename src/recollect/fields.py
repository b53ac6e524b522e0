"""What callers may give by keyword; the meanings are in the methods and records that are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

from .events.mapping import EventMapping
from .models import Lifecycle, NewUsage, Relation
from .options import Overflow


class NextFields(TypedDict, total=False):
    """What the next session of a gateway key can be created with; the meanings are in `sessions.create`."""

    source: str
    user_id: str | None
    model: str | None
    config: Mapping[str, Any] | None
    system_prompt: str | None
    title: str | None
    metadata: Mapping[str, Any] | None
    parent_id: str | None
    relation: Relation | str | None
    lifecycle: Lifecycle | str
    spawn_tool_call_id: str | None
    created_at: datetime | None


class SessionFields(NextFields, total=False):
    """What any session can be created with."""

    key: str | None


class SessionFilters(TypedDict, total=False):
    """What sessions can be listed by; the meanings are in `sessions.list`."""

    source: str | Sequence[str] | None
    exclude_source: str | Sequence[str] | None
    user_id: str | Sequence[str] | None
    key: str | Sequence[str] | None
    status: str | Sequence[str] | None
    kind: str | Sequence[str] | None
    parent_id: str | Sequence[str] | None
    title_contains: str | None
    since: datetime | None
    until: datetime | None


class UsageFields(TypedDict, total=False):
    """The figures of `store.usage`; their meanings are at `NewUsage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int | None
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    estimated_cost_usd: float | None
    actual_cost_usd: float | None
    model: str | None
    source: str | None
    cost_status: str | None
    cost_source: str | None
    pricing_version: str | None
    billing_provider: str | None
    billing_base_url: str | None
    billing_mode: str | None
    created_at: datetime | None


class MessageFields(TypedDict, total=False):
    """The further keywords of `messages.append`; their meanings are there."""

    name: str | None
    tool_calls: Any
    tool_call_id: str | None
    reasoning: str | None
    reasoning_details: Any
    provider_items: Any
    token_count: int | None
    finish_reason: str | None
    round_index: int | None
    send_index: int | None
    external_id: str | None
    metadata: Mapping[str, Any] | None
    created_at: datetime | None
    expected_seq: int | None
    fence: int | None
    pending: Any
    usage: NewUsage | Mapping[str, Any] | None


class EventFilters(TypedDict, total=False):
    """What events can be filtered by; the meanings are in `events.stream`."""

    kind: str | Sequence[str] | None
    session_id: str | Sequence[str] | None
    run_id: str | Sequence[str] | None
    issue_id: str | Sequence[str] | None
    path: str | Sequence[str] | None
    since: datetime | None
    until: datetime | None


class SearchOptions(TypedDict, total=False):
    """What a search can be given beside its query and user; the meanings are in `store.search`."""

    kinds: str | Sequence[str]
    session: str | Sequence[str] | None
    source: str | Sequence[str] | None
    exclude_source: str | Sequence[str] | None
    role: str | Sequence[str] | None
    since: datetime | None
    until: datetime | None
    order: Literal["relevance", "newest", "oldest"]
    limit: int | None
    after: str | None
    context: int
    snippet_tokens: int
    marks: tuple[str, str]
    include_rewound: bool
    with_text: bool


class TransportFields(TypedDict, total=False):
    """How a transport can be set up; the meanings are in `store.transport`."""

    mapping: EventMapping
    exclude: str | Sequence[str]
    only: str | Sequence[str] | None
    bulk: str | Sequence[str]
    buffer: int
    buffer_bytes: int
    overflow: Overflow
