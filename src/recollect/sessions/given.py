"""What callers give for sessions → what is stored or asked for: checked, cleaned, encoded."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import UNSET

from ..encoding import Encoder, instant, now
from ..errors import InvalidRecord
from ..filters import Filter, as_list, texts_of
from ..models import Kind, Lifecycle, Relation, Status
from . import listing
from .life import UNKNOWN_SOURCE, NewSession
from .titles import as_title

_OVERHEAD = 256
"""bytes of a session beside its texts, for the bounds of the queue"""

Several = str | Sequence[str] | None


def new_session(
    encoder: Encoder, within: str | None, session_id: str | None, *, source: str = UNKNOWN_SOURCE,
    user_id: str | None = None, key: str | None = None, model: str | None = None, config: Any = None,
    system_prompt: str | None = None, title: str | None = None, metadata: Any = None, parent_id: str | None = None,
    relation: str | None = None, lifecycle: str = Lifecycle.EPHEMERAL, spawn_tool_call_id: str | None = None,
    created_at: datetime | None = None,
) -> NewSession:  # fmt: skip
    """A session to create; `within` a user, it is his."""
    if within is not None and user_id not in (None, within):
        raise InvalidRecord("this store is limited to one user, and user_id is another; not stored")
    if relation is not None and parent_id is None:
        raise InvalidRecord(f"relation {relation!r} needs a parent_id")
    if parent_id is not None:
        relation = one_of(Relation, relation or Relation.SPAWN, "relation")
        encoder.identifier(parent_id, "parent_id")
    created = instant(created_at, "created_at")
    return NewSession(
        id="sess_" + secrets.token_hex(12) if session_id is None else encoder.identifier(session_id, "session_id"),
        source=encoder.identifier(source, "source"),
        user_id=encoder.text(user_id if within is None else within, "user_id"),
        key=None if key is None else encoder.identifier(key, "key"),
        model=encoder.text(model, "model"),
        config=encoder.json_object(config, "config"),
        system_prompt=encoder.text(system_prompt, "system_prompt"),
        title=as_title(encoder, title),
        metadata=encoder.json_object(metadata, "metadata"),
        parent_id=parent_id,
        relation=relation,
        lifecycle=one_of(Lifecycle, lifecycle, "lifecycle"),
        spawn_tool_call_id=encoder.text(spawn_tool_call_id, "spawn_tool_call_id"),
        created_at=now() if created is None else created,
        within=within,
    )


def changes(encoder: Encoder, **given: Any) -> tuple[dict[str, Any], dict[str, str | None]]:
    """The columns and the long texts to set; what is UNSET is left out."""
    values = {} if given["model"] is UNSET else {"model": encoder.text(given["model"], "model")}
    texts: dict[str, str | None] = {}
    if given["system_prompt"] is not UNSET:
        texts["system_prompt"] = encoder.text(given["system_prompt"], "system_prompt")
    for name in ("config", "metadata"):
        if given[name] is not UNSET:
            texts[name] = encoder.json_object(given[name], name)
    return values, texts


def size_of(encoder: Encoder, *values: Any) -> int:
    """What a session takes in the queue. Raises InvalidRecord over `limits.row_bytes`."""
    size = _OVERHEAD + sum(len(value.encode()) for value in values if isinstance(value, str))
    return encoder.within(size, "the session")


def filter_of(
    order: str, within: str | None = None, *, source: Several = None, exclude_source: Several = None,
    user_id: Several = None, key: Several = None, status: Several = None, kind: Several = None,
    parent_id: Several = None, title_contains: str | None = None, since: datetime | None = None,
    until: datetime | None = None,
) -> Filter:  # fmt: skip
    """The conditions of a listing; the times are those of its order. `within` a user, nothing of others counts."""
    where = Filter()
    column = f"s.{listing.ORDERS[one_of(listing.ORDERS, order, 'order')]}"
    where.among("s.source", source)
    where.excluding("s.source", exclude_source)
    where.among("s.user_id", user_id)
    where.among("s.key", key)
    where.among("s.status", _each_of(Status, status, "status"))
    where.among("s.kind", _each_of(Kind, kind, "kind"))
    if parent_id is not None:
        parents = texts_of(parent_id, "parent_id")
        own = "" if within is None else " AND user_id = :within"
        where.add(f"s.parent IN (SELECT session FROM sessions WHERE id IN :parents{own})", parents=parents)
    if within is not None:
        where.add("s.user_id = :within", within=within)
    if title_contains is not None:
        where.contains("s.title", title_contains)
    where.between(column, since, until)
    return where


def relations_of(relation: Several) -> Filter:
    """The condition on the relation of children."""
    where = Filter()
    where.among("s.relation", _each_of(Relation, relation, "relation"))
    return where


def one_of(allowed: Any, value: Any, name: str) -> str:
    """The value, if it is one of an enumeration's."""
    values = [str(each) for each in allowed]
    if value not in values:
        raise InvalidRecord(f"{name} must be one of {', '.join(values)}, not {value!r}")
    return str(value)


def _each_of(allowed: Any, values: Several, name: str) -> list[str] | None:
    if values is None:
        return None
    return [one_of(allowed, value, name) for value in as_list(values)]


def milliseconds(seconds: float | None, name: str) -> int | None:
    """A span of time as given."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < _LONGEST_S:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"{name} must be a number of seconds, not {seconds!r}")
    return int(seconds * 1000)


_LONGEST_S = 10**10
"""longer than there have been computers"""


def is_storable(text: str) -> bool:
    """Whether there can be a text like that in the store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text
