"""Rows of a `state.db` → the fields of a session's record and of a message. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ...encoding import EPOCH, decode_json
from ...models import Kind, Lifecycle, MessageState, Relation, Status

Fields = Mapping[str, Any]
"""a row by column; columns that the file's release does not have are missing"""

LINEAGE_COLUMNS = (
    "id", "source", "parent_session_id", "started_at", "ended_at", "end_reason", "session_key", "archived",
)  # fmt: skip
"""what must be known of all sessions at once"""

_DESCRIBING = (
    "chat_id", "chat_type", "thread_id", "display_name", "cwd", "git_branch", "git_repo_root", "profile_name",
)  # fmt: skip
"""columns of a session that go into its metadata as they are"""

BILLING = ("cost_status", "cost_source", "pricing_version", "billing_provider", "billing_base_url", "billing_mode")

SESSION_COLUMNS = frozenset(
    {
        *LINEAGE_COLUMNS, *_DESCRIBING, *BILLING, "user_id", "model", "model_config", "system_prompt", "title",
        "origin_json", "archived", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens",
        "reasoning_tokens", "estimated_cost_usd", "actual_cost_usd",
    }
)  # fmt: skip

MESSAGE_COLUMNS = frozenset(
    {
        "role", "content", "tool_call_id", "tool_calls", "tool_name", "timestamp", "token_count", "finish_reason",
        "reasoning", "reasoning_content", "reasoning_details", "codex_reasoning_items", "codex_message_items",
        "platform_message_id", "observed", "effect_disposition", "api_content", "active", "compacted",
    }
)  # fmt: skip

EXTERNAL = "hermes:"
"""external ids are this and the id of the message there"""

# -- values ----------------------------------------------------------------------------------------


def time_of(value: Any) -> datetime | None:
    """Seconds since the epoch as a time; None for what is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return EPOCH + timedelta(milliseconds=round(value * 1000))
    except (OverflowError, ValueError):
        return None


def text_of(value: Any) -> str | None:
    """Text, of whatever type the value is: SQLite's columns take any."""
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def json_of(value: Any) -> Any:
    """What a JSON column holds; the text itself where it is not JSON, None where it is empty."""
    text = text_of(value)
    if not text:
        return None
    try:
        return decode_json(text)
    except (ValueError, RecursionError):  # msgspec's are ValueErrors
        pass
    try:  # lone surrogates, which the store replaces
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def object_of(value: Any) -> dict[str, Any]:
    """The same for a column that holds an object; anything else is kept as `text`."""
    found = json_of(value)
    if found is None:
        return {}
    return found if isinstance(found, dict) else {"text": text_of(value)}


_STRUCTURED = "\x00json:"
"""what content begins with that is structured; no text can, for SQLite's users do not write NUL"""


def content_of(value: Any) -> Any:
    """The content of a message: text, or the list or dict that it was encoded from."""
    text = text_of(value)
    if text is None or not text.startswith(_STRUCTURED):
        return text
    found = json_of(text.removeprefix(_STRUCTURED))
    return found if isinstance(found, list | dict) else text


# -- sessions --------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """A session as its relatives must know it."""

    number: int
    """its rowid"""
    id: str
    source: str | None
    parent_id: str | None
    started_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    key: str | None
    is_archived: bool

    @property
    def is_live(self) -> bool:
        """Whether it goes on."""
        return self.ended_at is None and not self.is_archived


def listed(number: int, row: Fields) -> Listed:
    """A session of the listing."""
    return Listed(
        number,
        text_of(row.get("id")) or "",
        text_of(row.get("source")),
        text_of(row.get("parent_session_id")) or None,
        time_of(row.get("started_at")),
        time_of(row.get("ended_at")),
        text_of(row.get("end_reason")),
        text_of(row.get("session_key")) or None,
        bool(row.get("archived")),
    )


_RACE = timedelta(minutes=1)
"""a continuation may be written before its parent's end is, but not by more"""


def relation_of(child: Listed, config: Fields, parent: Listed | None) -> Relation:
    """Why the session has a parent: by the marks of later releases, else by how the parent ended."""
    if config.get("_delegate_from"):
        return Relation.SPAWN
    if config.get("_branched_from"):
        return Relation.FORK
    if parent is None or child.source == "tool":
        return Relation.SPAWN
    if parent.end_reason == "branched" and _gap(parent, child) >= timedelta():
        return Relation.FORK
    if parent.end_reason == "compression" and _gap(parent, child) >= -_RACE and not _ended_within(parent, child):
        return Relation.CONTINUATION
    return Relation.SPAWN


def _ended_within(parent: Listed, child: Listed) -> bool:
    """Whether the child was over when its parent ended: nothing goes on like that."""
    if parent.ended_at is None or child.ended_at is None:
        return False
    return child.ended_at <= parent.ended_at


def _gap(parent: Listed, child: Listed) -> timedelta:
    """How long after the parent's end the child began."""
    if parent.ended_at is None or child.started_at is None:
        return timedelta()
    return child.started_at - parent.ended_at


class Lineage(NamedTuple):
    """Where a session stands among the others."""

    relation: Relation | None
    depth: int
    has_key: bool
    """of the live sessions of a key only the newest can have it"""


def session_of(one: Listed, row: Fields, lineage: Lineage) -> dict[str, Any]:
    """The record of a session, without its messages and its usage."""
    config = object_of(row.get("model_config"))
    is_spawned = lineage.relation is Relation.SPAWN or bool(config.get("_delegate_from"))
    ended_at = one.ended_at
    status = Status.ENDED if ended_at else Status.ACTIVE
    return {
        "id": one.id,
        "kind": Kind.SUBAGENT if is_spawned else Kind.ROOT,
        "source": one.source or "unknown",
        "key": one.key if lineage.has_key else None,
        "config": config,
        "metadata": _metadata(one, row, lineage),
        "status": Status.ARCHIVED if one.is_archived else status,
        "end_reason": one.end_reason if ended_at else None,
        "parent_id": one.parent_id,
        "relation": lineage.relation,
        # there, what was delegated goes when its parent is deleted, and not before
        "lifecycle": Lifecycle.LINKED if is_spawned else Lifecycle.EPHEMERAL,
        "spawn_depth": lineage.depth,
        "created_at": one.started_at,
        "ended_at": ended_at,
        **{name: text_of(row.get(name)) for name in ("user_id", "model", "system_prompt", "title", *BILLING)},
    }


def _metadata(one: Listed, row: Fields, lineage: Lineage) -> dict[str, Any]:
    known = {name: text_of(row.get(name)) for name in _DESCRIBING}
    known["origin"] = json_of(row.get("origin_json"))
    known["session_key"] = None if lineage.has_key else one.key
    return {name: value for name, value in known.items() if value is not None}


# -- messages --------------------------------------------------------------------------------------


def message_of(number: int, row: Fields, before: datetime) -> dict[str, Any]:
    """The fields of a message; one without a time that can be read gets that of the one before it."""
    reasoning = text_of(row.get("reasoning"))
    other_reasoning = text_of(row.get("reasoning_content"))
    tokens = row.get("token_count")
    return {
        "role": text_of(row.get("role")) or "",
        "content": content_of(row.get("content")),
        "name": text_of(row.get("tool_name")),
        "tool_calls": json_of(row.get("tool_calls")),
        "tool_call_id": text_of(row.get("tool_call_id")),
        "reasoning": other_reasoning if reasoning is None else reasoning,
        "reasoning_details": json_of(row.get("reasoning_details")),
        "provider_items": json_of(row.get("codex_reasoning_items")),
        "token_count": tokens if type(tokens) is int and 0 <= tokens < 2**53 else None,
        "finish_reason": text_of(row.get("finish_reason")),
        "external_id": f"{EXTERNAL}{number}",
        "metadata": _message_metadata(row, other_reasoning if other_reasoning != reasoning and reasoning else None),
        "created_at": time_of(row.get("timestamp")) or before,
    }


def _message_metadata(row: Fields, other_reasoning: str | None) -> dict[str, Any]:
    known: dict[str, Any] = {
        name: text_of(row.get(name)) for name in ("platform_message_id", "effect_disposition", "api_content")
    }
    known["reasoning_content"] = other_reasoning
    known["codex_message_items"] = json_of(row.get("codex_message_items"))
    known["observed"] = True if row.get("observed") else None
    return {name: value for name, value in known.items() if value is not None}


def state_of(row: Fields) -> MessageState:
    """Where a message stands there: NULL, and no such column, is active."""
    if row.get("active") in (1, None):
        return MessageState.ACTIVE
    return MessageState.COMPACTED if row.get("compacted") else MessageState.REWOUND
