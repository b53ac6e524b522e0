"""The records that go in and come out. Those that come out are frozen; times are aware, in UTC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from .events.typed import RecordedEvent

T = TypeVar("T")


class Kind(StrEnum):
    """What a session is: a sub-agent's (it was spawned), or one of its own."""

    ROOT = "root"
    SUBAGENT = "subagent"


class Status(StrEnum):
    """Where a session is in its life."""

    ACTIVE = "active"
    ENDED = "ended"
    ARCHIVED = "archived"


class Relation(StrEnum):
    """Why a session has a parent."""

    SPAWN = "spawn"
    CONTINUATION = "continuation"
    FORK = "fork"
    FOLLOWUP = "followup"


class Lifecycle(StrEnum):
    """What becomes of a spawned session: EPHEMERAL goes when it returned completed or its parent
    goes, LINKED when its parent goes, DETACHED stays."""

    EPHEMERAL = "ephemeral"
    LINKED = "linked"
    DETACHED = "detached"


class MessageState(StrEnum):
    """Where a message stands: in the transcript, put away under a note, or taken back."""

    ACTIVE = "active"
    COMPACTED = "compacted"
    REWOUND = "rewound"


class MessageRef(NamedTuple):
    """Where an appended message is: `id` in the store, `seq` in its session (1, 2, 3…)."""

    id: int
    seq: int


class Session(msgspec.Struct, frozen=True):
    """A session with its counters. Token counters and costs equal the sums of its usage ledger."""

    id: str
    kind: Kind
    source: str
    user_id: str | None
    key: str | None
    model: str | None
    config: dict[str, Any]
    system_prompt: str | None
    title: str | None
    metadata: dict[str, Any]
    status: Status
    end_reason: str | None
    parent_id: str | None
    relation: Relation | None
    lifecycle: Lifecycle
    spawn_depth: int
    spawn_tool_call_id: str | None
    created_at: datetime
    updated_at: datetime
    last_active_at: datetime
    """time of the newest message, or of creation"""
    ended_at: datetime | None
    preview: str | None
    """first words of the user: 60 characters, `...` where there was more"""
    message_count: int
    tool_call_count: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    estimated_cost_usd: float | None
    actual_cost_usd: float | None
    cost_status: str | None
    cost_source: str | None
    pricing_version: str | None
    billing_provider: str | None
    billing_base_url: str | None
    billing_mode: str | None


class Message(msgspec.Struct, frozen=True):
    """A message as it was appended."""

    id: int
    session_id: str
    seq: int
    position: int
    """order in the transcript; differs from `seq` in compaction notes"""
    role: str
    content: Any
    """as given: text, a list, a dict, or None"""
    text: str | None
    """its words: the content itself, or the texts found in it"""
    name: str | None
    tool_calls: Any
    tool_call_id: str | None
    round_index: int | None
    send_index: int
    state: MessageState
    compacted_by: int | None
    reasoning: str | None
    reasoning_details: Any
    provider_items: Any
    token_count: int | None
    finish_reason: str | None
    external_id: str | None
    metadata: dict[str, Any]
    created_at: datetime

    @property
    def parts(self) -> list[Any] | dict[str, Any] | None:
        """The content where it was structured, else None."""
        return None if self.content is None or isinstance(self.content, str) else self.content


class NewUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens and cost of one round of a model. Prompt counts include cached tokens, as providers
    report them; `total_tokens` left out is prompt and completion together. Costs are US dollars."""

    round_index: int | None = None
    send_index: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_cost_usd: float | None = None
    actual_cost_usd: float | None = None
    model: str | None = None
    source: str | None = None
    cost_status: str | None = None
    cost_source: str | None = None
    pricing_version: str | None = None
    billing_provider: str | None = None
    billing_base_url: str | None = None
    billing_mode: str | None = None
    created_at: datetime | None = None


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message to append: the fields of `messages.append`."""

    role: str
    content: Any = None
    name: str | None = None
    tool_calls: Any = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_details: Any = None
    provider_items: Any = None
    token_count: int | None = None
    finish_reason: str | None = None
    round_index: int | None = None
    send_index: int | None = None
    external_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    created_at: datetime | None = None
    pending: Any | UnsetType = UNSET
    usage: NewUsage | Mapping[str, Any] | None = None


class State(msgspec.Struct, frozen=True):
    """Where the agent of a session is."""

    next_seq: int
    """what the next message will have"""
    round_index: int
    """the current round of the model, as the agent set it"""
    send_index: int
    """the current send: how many user messages began one"""
    last_compaction_seq: int
    pending: Any
    """what the agent left to do, as it gave it; None: nothing"""


class Compaction(msgspec.Struct, frozen=True):
    """Messages that were put away under a note."""

    session_id: str
    seq: int
    """1, 2, 3… per session"""
    note_seq: int
    """seq of the note, a message that stands where the first of them stood"""
    from_seq: int
    to_seq: int
    """the places in the transcript that it covers"""
    count: int
    """messages put away"""
    before_tokens: int | None
    after_tokens: int | None
    round_index: int | None
    created_at: datetime
    undone_at: datetime | None


class UsageRound(msgspec.Struct, frozen=True):
    """A row of the ledger; `round_index` is None in a correction."""

    id: int
    session_id: str
    send_index: int | None
    round_index: int | None
    model: str | None
    source: str | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    estimated_cost_usd: float | None
    actual_cost_usd: float | None
    created_at: datetime


class UsageTotal(msgspec.Struct, frozen=True):
    """Sums over the rows of the ledger that share `group` (a session id, model, source or day)."""

    group: str | None
    rounds: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    estimated_cost_usd: float
    actual_cost_usd: float


class ContextLine(msgspec.Struct, frozen=True):
    """A message next to a hit, or the hit: role and the first 200 characters."""

    role: str
    content: str


class Hit(msgspec.Struct, frozen=True):
    """Something a search found."""

    kind: str
    """`message` or `event`"""
    id: int
    session_id: str | None
    seq: int | None
    role: str | None
    name: str | None
    ref: str | None
    """of an event: its issue, loop, tool or path"""
    anchor: str | None
    snippet: str
    text: str | None
    """the whole text, with `with_text=True`"""
    score: float
    """higher is better; 0.0 in an order by time, where nothing is ranked"""
    at: datetime
    source: str | None
    model: str | None
    session_started: datetime | None
    context: list[ContextLine]
    cursor: str
    """`after=hit.cursor` continues behind this hit"""


class Change(msgspec.Struct, frozen=True):
    """Something that was committed: a message appended, an event recorded, something that happened to a session."""

    cursor: str
    """`after=change.cursor` continues behind this change, also after a restart"""
    kind: str
    """`message`, or the kind of the event; `store.created`, `store.titled`… of what happened to a session"""
    id: int
    """of the message or the event: it grows with the order of commits"""
    session_id: str | None
    at: datetime
    message: Message | None
    event: RecordedEvent | None


class Row(tuple[Any, ...]):
    """A row of `store.query`: by position, by the name of the column as attribute or key, `dict(row)`."""

    __slots__ = ()
    columns: tuple[str, ...] = ()

    def keys(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return self.columns

    def __getitem__(self, key: Any) -> Any:
        return tuple.__getitem__(self, self.columns.index(key) if isinstance(key, str) else key)

    def __getattr__(self, name: str) -> Any:
        if name in self.columns:
            return self[name]
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={value!r}' for name, value in zip(self.columns, self, strict=True))})"


def rows_of(columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[Row]:
    """Rows with these columns."""
    kind = type("Row", (Row,), {"__slots__": (), "columns": columns})
    return [kind(row) for row in rows]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some rows, and in `next` the cursor of the page after it (None: there is none)."""

    items: list[T]
    next: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> T:
        return self.items[index]
