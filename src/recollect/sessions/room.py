"""The room of sessions: a line per method; what it does is in the operations beside it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from ..encoding import Encoder, as_id, instant, now
from ..engine import Engine
from ..errors import InvalidRecord
from ..filters import Filter, as_list, page_size, texts_of
from ..models import Kind, Lifecycle, Page, Relation, Session, Status
from ..options import Limits
from . import life, listing
from .record import read_session
from .titles import clean_title

_PAGE = 100
"""sessions fetched in one hop by `stream`"""

_OVERHEAD = 256
"""bytes of a session beside its texts, for the bounds of the queue"""

Order = Literal["activity", "created"]
Several = str | Sequence[str] | None


class Sessions:
    """Creating, finding and ending sessions; `store.sessions`."""

    def __init__(self, engine: Engine, encoder: Encoder, limits: Limits) -> None:
        self._engine = engine
        self._encoder = encoder
        self._limits = limits

    async def create(
        self,
        session_id: str | None = None,
        *,
        source: str = life.UNKNOWN_SOURCE,
        user_id: str | None = None,
        key: str | None = None,
        model: str | None = None,
        config: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        parent_id: str | None = None,
        relation: Relation | str | None = None,
        lifecycle: Lifecycle | str = Lifecycle.EPHEMERAL,
        spawn_tool_call_id: str | None = None,
        created_at: datetime | None = None,
    ) -> Session:
        """Creates a session; an id is made up where none is given.

        A parent without a relation means it was spawned: a sub-agent's session, one deeper than its
        parent, at most `limits.spawn_depth` (SpawnTooDeep). Raises SessionExists, SessionNotFound (of
        the parent), InvalidRecord.
        """
        new = self._new(**_given(locals()))
        return await self._engine.write(
            life.create, new, self._limits.spawn_depth, session=_alone(new), size=self._size(*new)
        )

    async def ensure(
        self,
        session_id: str,
        *,
        source: str = life.UNKNOWN_SOURCE,
        user_id: str | None = None,
        key: str | None = None,
        model: str | None = None,
        config: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        parent_id: str | None = None,
        relation: Relation | str | None = None,
        lifecycle: Lifecycle | str = Lifecycle.EPHEMERAL,
        spawn_tool_call_id: str | None = None,
        created_at: datetime | None = None,
    ) -> Session:
        """Creates the session, or fills only those fields of an existing one that are still empty.

        An existing one is never an error: a title that is taken, or a parent that is unknown, too deep,
        or below it, is left out. With its parent it gets relation, depth and, if nothing was said, lifecycle.
        """
        new = self._new(**_given(locals()))
        return await self._engine.write(
            life.ensure, new, self._limits.spawn_depth, session=_alone(new), size=self._size(*new)
        )

    def _new(
        self, *, session_id: str | None, relation: str | None, lifecycle: str, created_at: datetime | None,
        parent_id: str | None, source: str, config: Any, metadata: Any, title: str | None, **texts: Any,
    ) -> life.NewSession:  # fmt: skip
        encoder = self._encoder
        if relation is not None and parent_id is None:
            raise InvalidRecord(f"relation {relation!r} needs a parent_id")
        if parent_id is not None:
            relation = one_of(Relation, relation or Relation.SPAWN, "relation")
            encoder.identifier(parent_id, "parent_id")
        created = instant(created_at, "created_at")
        return life.NewSession(
            id="sess_" + secrets.token_hex(12) if session_id is None else encoder.identifier(session_id, "session_id"),
            source=encoder.identifier(source, "source"),
            config=encoder.json_object(config, "config"),
            metadata=encoder.json_object(metadata, "metadata"),
            parent_id=parent_id,
            relation=relation,
            title=encoder.text(clean_title(title), "title"),
            lifecycle=one_of(Lifecycle, lifecycle, "lifecycle"),
            created_at=now() if created is None else created,
            **{name: encoder.text(value, name) for name, value in texts.items()},
        )

    def _size(self, *values: Any) -> int:
        """What it takes in the queue. Raises InvalidRecord over `limits.row_bytes`."""
        size = _OVERHEAD + sum(len(value.encode()) for value in values if isinstance(value, str))
        return self._encoder.within(size, "the session")

    async def get(self, session_id: str) -> Session | None:
        """The session, or None."""
        return await self._engine.read(read_session, as_id(session_id))

    async def resolve(self, id_or_prefix: str) -> str | None:
        """The id of exactly that session, else of the only one whose id begins so (case counts, `%` and
        `_` are themselves). Blank, none or several: None."""
        if not as_id(id_or_prefix).strip() or not _storable(id_or_prefix):
            return None
        return await self._engine.read(listing.resolve, id_or_prefix)

    async def update(
        self,
        session_id: str,
        *,
        system_prompt: str | UnsetType | None = UNSET,
        model: str | UnsetType | None = UNSET,
        config: Mapping[str, Any] | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | UnsetType | None = UNSET,
    ) -> Session:
        """Changes what is given: None clears, metadata and config are replaced. Raises SessionNotFound."""
        encoder = self._encoder
        values = {} if model is UNSET else {"model": encoder.text(model, "model")}
        texts: dict[str, str | None] = {}
        if system_prompt is not UNSET:
            texts["system_prompt"] = encoder.text(system_prompt, "system_prompt")
        if config is not UNSET:
            texts["config"] = encoder.json_object(config, "config")
        if metadata is not UNSET:
            texts["metadata"] = encoder.json_object(metadata, "metadata")
        id = encoder.identifier(session_id, "session_id")
        size = self._size(id, *values.values(), *texts.values())
        return await self._engine.write(life.update, id, values, texts, session=id, size=size)

    async def end(self, session_id: str, reason: str, *, replace: bool = False) -> Session:
        """Ends the session. The first reason stays unless `replace`. An ended session still takes
        messages, and stays ended. Raises SessionNotFound."""
        id = self._encoder.identifier(session_id, "session_id")
        text = self._encoder.identifier(reason, "reason")
        return await self._engine.write(life.end, id, text, replace, session=id)

    async def reopen(self, session_id: str) -> Session:
        """Makes an ended session active again. Raises SessionNotFound."""
        id = self._encoder.identifier(session_id, "session_id")
        return await self._engine.write(life.reopen, id, session=id)

    async def delete(self, session_id: str, *, cascade: bool = True) -> list[str]:
        """Deletes the session with its messages, usage and events: invisible at once, erased soon after.

        `cascade` follows spawned children: ephemeral and linked ones go too, detached ones and those of
        every other relation stay, without a parent. `cascade=False`: all children stay. Returns the ids
        that are gone, [] if there was no such session. Events with a text of their own stay for now.
        """
        id = self._encoder.identifier(session_id, "session_id")
        while (gone := await self._engine.write(life.delete, id, cascade)) is None:
            pass
        return gone

    async def list(
        self,
        *,
        source: Several = None,
        exclude_source: Several = None,
        user_id: Several = None,
        key: Several = None,
        status: Several = None,
        kind: Several = None,
        parent_id: Several = None,
        title_contains: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        order: Order = "activity",
        limit: int | None = 20,
        after: str | None = None,
    ) -> Page[Session]:
        """Sessions, newest first by last activity or creation; `page.next` goes into `after`. A limit of
        None gives all of them at once: `stream` is kinder.

        Archived and child sessions are included unless filtered. An empty include matches nothing, an
        empty exclude excludes nothing. `since` (inclusive) and `until` (exclusive) bound the time of
        the chosen order.
        """
        where = self._where(**_given(locals(), without=("limit", "after")))
        return await self._engine.read(listing.read_page, where, order, page_size(limit), after)

    async def stream(
        self,
        *,
        source: Several = None,
        exclude_source: Several = None,
        user_id: Several = None,
        key: Several = None,
        status: Several = None,
        kind: Several = None,
        parent_id: Several = None,
        title_contains: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        order: Order = "activity",
        after: str | None = None,
    ) -> AsyncIterator[Session]:
        """Every session that `list` would page through; nothing is held between pages."""
        where = self._where(**_given(locals(), without=("after",)))
        while True:
            page: Page[Session] = await self._engine.read(listing.read_page, where, order, _PAGE, after)
            for session in page.items:
                yield session
            if page.next is None:
                return
            after = page.next

    async def count(
        self,
        *,
        source: Several = None,
        exclude_source: Several = None,
        user_id: Several = None,
        key: Several = None,
        status: Several = None,
        kind: Several = None,
        parent_id: Several = None,
        title_contains: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        order: Order = "activity",
    ) -> int:
        """How many sessions `list` would page through."""
        return await self._engine.read(listing.read_count, self._where(**_given(locals())))

    def _where(
        self, *, order: str, source: Several, exclude_source: Several, user_id: Several, key: Several,
        status: Several, kind: Several, parent_id: Several, title_contains: str | None,
        since: datetime | None, until: datetime | None,
    ) -> Filter:  # fmt: skip
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
            where.add("s.parent IN (SELECT session FROM sessions WHERE id IN :parents)", parents=parents)
        if title_contains is not None:
            where.contains("s.title", title_contains)
        where.between(column, since, until)
        return where


def _given(given: dict[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in ("self", *without)}


def _alone(new: life.NewSession) -> str | None:
    """The one session it touches; with a parent they are two."""
    return new.id if new.parent_id is None else None


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


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
