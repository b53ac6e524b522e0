"""The room of sessions: a line per method; what it does is in the operations beside it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Literal, Unpack

from msgspec import UNSET, UnsetType

from ..access import Access
from ..encoding import Encoder, as_id, bounded
from ..engine.writer import Lane
from ..errors import InvalidRecord, InvalidTitle
from ..fields import NextFields, SessionFields, SessionFilters
from ..filters import Filter, page_size
from ..models import Page, Session, State
from ..options import Limits, Timeouts
from ..reports import Imported
from . import keys, life, lineage, listing, retention, state, titles, transfer
from .fork import fork
from .given import (
    Several,
    changes,
    filter_of,
    is_storable,
    milliseconds,
    new_session,
    relations_of,
    size_of,
)
from .imports import import_records
from .record import read_session
from .retention import as_idle
from .turns import Lease, Turn

_PAGE = 100
"""sessions fetched in one hop by `stream`"""

Order = Literal["activity", "created"]


class Sessions:
    """Creating, finding and ending sessions; `store.sessions`."""

    def __init__(self, access: Access, encoder: Encoder, limits: Limits, timeouts: Timeouts, held: set[Lease]) -> None:
        self._access = access
        self._user = access.user_id
        self._encoder = encoder
        self._limits = limits
        self._timeouts = timeouts
        self._held = held

    # -- life ----------------------------------------------------------------------------------

    async def create(self, session_id: str | None = None, **fields: Unpack[SessionFields]) -> Session:
        """Creates a session; an id is made up where none is given.

        source: where it comes from ("unknown"). key: of a gateway's chat or thread, which has one live
        session (KeyTaken). title: unique (TitleTaken). metadata, config: JSON objects. created_at: aware.
        parent_id, relation: a parent without a relation means it was spawned: a sub-agent's session, one
        deeper than its parent, at most `limits.spawn_depth` (SpawnTooDeep). lifecycle: what becomes of a
        spawned one when it returns or its parent goes. Raises SessionExists, SessionNotFound (of the
        parent), InvalidTitle, InvalidRecord.
        """
        return await self._make(life.create, self._new(session_id, fields))

    async def ensure(self, session_id: str, **fields: Unpack[SessionFields]) -> Session:
        """Creates the session, or fills only those fields of an existing one that are still empty.

        An existing one is never an error: a title or live key that is taken, or a parent that is unknown,
        too deep, or below it, is left out. With its parent it gets relation, depth and, if nothing was
        said, lifecycle.
        """
        return await self._make(life.ensure, self._new(session_id, fields))

    async def for_key(
        self, key: str, *, idle_s: float | None = None, reset: str | None = None, session_id: str | None = None,
        **fields: Unpack[NextFields],
    ) -> Session:  # fmt: skip
        """The live session of a gateway key, or the next one, made of `fields`.

        The next one begins when there is none that is active (what has ended or was archived is left
        alone), when it was idle for `idle_s` seconds (it ends with the reason "idle"), or with `reset`, a
        reason with which it is ended. Costs a read, and one write where a session begins.
        """
        new = self._new(session_id, {**fields, "key": self._encoder.identifier(key, "key")})
        idle_ms = milliseconds(idle_s, "idle_s")
        if reset is None:
            found = await self._access.read_any(keys.read_live, key, idle_ms, self._user)
            if found is not None:
                return found
        else:
            self._encoder.identifier(reset, "reset")
        return await self._make(keys.next_of_key, new, idle_ms, reset, alone=False)

    def _new(self, session_id: str | None, fields: Mapping[str, Any]) -> life.NewSession:
        return new_session(self._encoder, self._user, session_id, **fields)

    async def _make(self, op: Any, new: life.NewSession, *args: Any, alone: bool = True) -> Session:
        only = new.id if alone and new.parent_id is None and new.key is None else None
        size = size_of(self._encoder, *new)
        return await self._access.write_any(op, new, *args, self._limits.spawn_depth, session=only, size=size)

    async def get(self, session_id: str) -> Session | None:
        """The session, or None."""
        return await self._access.read(read_session, session_id, self._user)

    async def resolve(self, id_or_prefix: str) -> str | None:
        """The id of exactly that session, else of the only one whose id begins so (case counts, `%` and
        `_` are themselves). Blank, none or several: None."""
        if not as_id(id_or_prefix).strip() or not is_storable(id_or_prefix):
            return None
        return await self._access.read_any(listing.resolve, id_or_prefix, self._access.narrow(Filter(), "user_id"))

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
        values, texts = changes(
            self._encoder, system_prompt=system_prompt, model=model, config=config, metadata=metadata
        )
        size = size_of(self._encoder, *values.values(), *texts.values())
        return await self._write(life.update, session_id, values, texts, self._user, size=size)

    async def end(self, session_id: str, reason: str, *, replace: bool = False) -> Session:
        """Ends the session. The first reason stays unless `replace`. An ended session still takes
        messages, and stays ended. Raises SessionNotFound."""
        text = self._encoder.identifier(reason, "reason")
        return await self._write(life.end, session_id, text, replace, self._user, size=size_of(self._encoder, text))

    async def reopen(self, session_id: str, *, switch: str | None = None) -> Session:
        """Makes an ended session active again. If its key has another live session, that is KeyTaken, or
        with `switch` it is ended with this reason. Raises SessionNotFound."""
        if switch is not None:
            self._encoder.identifier(switch, "switch")
        return await self._write(life.reopen, session_id, switch, self._user, alone=False)

    async def archive(self, session_id: str) -> Session:
        """Puts the session out of the way: it is no key's live session and is never pruned. It still
        takes messages. Raises SessionNotFound."""
        return await self._write(life.archive, session_id, self._user)

    async def unarchive(self, session_id: str) -> Session:
        """Takes it back: ended if it had ended, else active. Raises SessionNotFound, KeyTaken."""
        return await self._write(life.unarchive, session_id, self._user)

    async def _write(self, op: Any, session_id: str, *args: Any, alone: bool = True, size: int = 256) -> Any:
        id = self._encoder.identifier(session_id, "session_id")
        return await self._access.write(op, id, *args, alone=alone, size=size)

    # -- titles --------------------------------------------------------------------------------

    async def set_title(self, session_id: str, title: str | None) -> str | None:
        """Gives the session a title, cleaned as `clean_title` does; blank or None takes it away. Returns
        the title. Raises SessionNotFound, InvalidTitle, TitleTaken."""
        text = titles.as_title(self._encoder, title)
        return await self._write(titles.set_title, session_id, text, self._user, alone=False)

    async def by_title(self, title: str) -> Session | None:
        """The session of exactly that title, or None."""
        if not is_storable(as_id(title)):
            return None
        return await self._access.read_any(titles.read_titled, title, self._user)

    async def resolve_title(self, title: str) -> str | None:
        """The id of the latest of the title's numbered variants (`title #2`), else of the one that has
        exactly the title, else None."""
        if not is_storable(as_id(title)):
            return None
        return await self._access.read_any(titles.resolve_title, title, self._user)

    async def next_title(self, base: str) -> str:
        """A title that is free: the base, without a number it may have, or `base #N` with the next
        number. It is not reserved. Raises InvalidTitle."""
        cleaned = titles.clean_title(base)
        if cleaned is None:
            raise InvalidTitle("a title needs something visible in it")
        return await self._access.engine.read(titles.next_title, cleaned)  # among everybody's

    # -- lineage -------------------------------------------------------------------------------

    async def children(self, session_id: str, *, relation: Several = None) -> list[Session]:
        """The sessions right below, by creation, then id; only those of that relation, if given."""
        return await self._access.read(lineage.read_children, session_id, relations_of(relation), self._user)

    async def ancestors(self, session_id: str) -> list[Session]:
        """The sessions above, the root first."""
        return await self._access.read(lineage.read_ancestors, session_id, self._user)

    async def descendants(self, session_id: str) -> list[Session]:
        """Every session below, by creation, then id."""
        return await self._access.read(lineage.read_descendants, session_id, self._user)

    async def root(self, session_id: str) -> Session | None:
        """The topmost session of the line, which may be the session itself; None if it is unknown."""
        return await self._access.read(lineage.read_root, session_id, self._user)

    async def tip(self, session_id: str) -> Session | None:
        """Where the line goes on to: the latest continuation of the latest continuation of…, which may be
        the session itself; None if it is unknown."""
        return await self._access.read(lineage.read_tip, session_id, self._user)

    async def fork(
        self, origin_id: str, /, *, at_seq: int | None = None, session_id: str | None = None,
        **fields: Unpack[SessionFields],
    ) -> Session:  # fmt: skip
        """A new session below that one, with its transcript up to and with the message `at_seq` (all of it,
        if left out); `session_id`: its id. In the copy, seqs begin anew; a compaction that stands across
        that place is undone in it. What is not given is as there: source, user, model, config, system
        prompt, metadata.

        Raises SessionNotFound, SessionExists, and InvalidRecord for a seq that is not in the transcript.
        """
        if not {"parent_id", "relation"}.isdisjoint(fields):
            raise InvalidRecord("a fork has the relation fork to the session it is made of; not stored")
        new = self._new(session_id, {**fields, "relation": "fork", "parent_id": origin_id})
        place = None if at_seq is None else bounded(at_seq, "at_seq")
        size = size_of(self._encoder, *new)
        return await self._write(fork, origin_id, new, place, self._limits.spawn_depth, alone=False, size=size)

    async def returned(self, session_id: str, status: str = "completed") -> bool:
        """A spawned session returned to its parent: an ephemeral one that completed is deleted, with what
        it spawned (True); any other is kept, and ended with the status (False). Raises SessionNotFound."""
        text = self._encoder.identifier(status, "status")
        return await self._write(retention.returned, session_id, text, self._user, alone=False)

    # -- state and turns -----------------------------------------------------------------------

    async def state(self, session_id: str) -> State | None:
        """Where the agent is: seqs, round, send, and what is pending; None if the session is unknown."""
        return await self._access.read(state.read_state, session_id)

    async def set_round(self, session_id: str, round_index: int) -> None:
        """Sets the current round. Raises SessionNotFound."""
        await self._write(state.set_round, session_id, bounded(round_index, "round_index"))

    async def set_pending(self, session_id: str, value: Any) -> None:
        """Keeps what is left to do, any JSON; `{}` and None clear. Raises SessionNotFound."""
        text = self._encoder.pending(value)
        await self._write(state.set_pending, session_id, text, size=size_of(self._encoder, text))

    def turn(self, session_id: str, *, holder: str, ttl_s: float | None = None) -> AbstractAsyncContextManager[Turn]:
        """The session's turn, across processes: `async with store.sessions.turn(id, holder="w1") as turn`.

        A lease of `ttl_s` seconds (`Timeouts.lease_s`), renewed while it is held and given back at the
        end. Give `turn.fence` to what is written in it: whoever was superseded is refused (TurnLost).
        Entering raises TurnTaken if another holder has it, SessionNotFound.
        """
        id = self._encoder.identifier(session_id, "session_id")
        ttl_ms = milliseconds(self._timeouts.lease_s if ttl_s is None else ttl_s, "ttl_s") or 1
        return Lease(self._access, self._held, id, self._encoder.identifier(holder, "holder"), ttl_ms)

    # -- listing -------------------------------------------------------------------------------

    async def list(
        self, *, order: Order = "activity", limit: int | None = 20, after: str | None = None,
        **filters: Unpack[SessionFilters],
    ) -> Page[Session]:  # fmt: skip
        """Sessions, newest first by last activity or creation; `page.next` goes into `after`. A limit of
        None gives all of them at once: `stream` is kinder.

        Archived and child sessions are included unless filtered. Each filter takes one value or several;
        an empty include matches nothing, an empty exclude excludes nothing. `title_contains` ignores the
        case of ASCII letters. `since` (inclusive) and `until` (exclusive) bound the time of the order.
        """
        where = self._where(order, filters)
        return await self._access.read_any(listing.read_page, where, order, page_size(limit), after, self._user)

    async def stream(
        self, *, order: Order = "activity", after: str | None = None, **filters: Unpack[SessionFilters]
    ) -> AsyncIterator[Session]:
        """Every session that `list` would page through; nothing is held between pages."""
        where = self._where(order, filters)
        while True:
            page: Page[Session] = await self._access.read_any(listing.read_page, where, order, _PAGE, after, self._user)
            for session in page.items:
                yield session
            if page.next is None:
                return
            after = page.next

    async def count(self, *, order: Order = "activity", **filters: Unpack[SessionFilters]) -> int:
        """How many sessions `list` would page through."""
        return await self._access.read_any(listing.read_count, self._where(order, filters))

    def _where(self, order: str, filters: Mapping[str, Any]) -> Filter:
        return filter_of(order, self._user, **filters)

    # -- what goes, and moving -----------------------------------------------------------------

    async def delete(self, session_id: str, *, cascade: bool = True) -> list[str]:
        """Deletes the session with its messages, usage and events: invisible at once, erased soon after.

        `cascade` follows spawned children: ephemeral and linked ones go too, detached ones and those of
        every other relation stay, without a parent. `cascade=False`: all children stay. Returns the ids
        that are gone, [] if there was no such session.
        """
        return await self._write(retention.delete, session_id, cascade, self._user, alone=False)

    async def prune(
        self, *, idle_for: timedelta, source: Several = None, include_active: bool = False, dry_run: bool = False
    ) -> list[str]:
        """Deletes sessions whose last activity is longer ago than `idle_for`, the longest idle first; the
        ids. Ended ones only, unless `include_active`; archived ones never. Children that are active or
        recent stay, without a parent. `dry_run` only tells."""
        where = self._access.narrow(as_idle(idle_for, source, include_active), "s.user_id")
        pruned: list[str] = []
        after: retention.Place | None = None
        while True:
            ids, after = await self._access.read_any(retention.read_idle, where, after, _PAGE)
            if not ids:
                return pruned
            pruned += ids if dry_run else await self._prune(ids, where)

    async def _prune(self, ids: list[str], where: Filter) -> list[str]:
        return await self._access.write_any(retention.prune, ids, where, lane=Lane.BACKGROUND)

    async def export(self, session_id: str) -> dict[str, Any] | None:
        """The whole session as JSON has it: its columns, `messages` in every state, `compactions` and
        `usage`, of one moment; None if it is unknown. `import_` takes it back."""
        return await self._access.read(transfer.read_record, session_id, self._user)

    async def export_all(self, **filters: Unpack[SessionFilters]) -> AsyncIterator[dict[str, Any]]:
        """Every session that matches, in the order of creation, each of one moment; what is deleted
        meanwhile is left out. `since` and `until` are of the creation."""
        where = self._where("created", filters)
        place = transfer.FIRST
        given: set[str] = set()  # of that time: one that is cleared meanwhile has another number and comes again
        while page := await self._access.read_any(transfer.read_ids, where, place, _PAGE):
            for id, at in page:
                given = given if at[0] == place[0] else set()
                place = at
                record = None if id in given else await self.export(id)
                given.add(id)
                if record is not None:
                    yield record

    async def import_(
        self,
        records: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Imported:
        """Takes in what `export` gave, here or elsewhere, a session in one transaction. Every column comes
        back as it was; counters are made anew.

        Ids that are there already are left alone (`Imported.existing`). A title or live key that another
        session has, and a parent that is neither there nor among the records, is left out and reported;
        what is not a record is rejected, with its place among the records, and does not stop the rest.
        The spawn depth is not limited. `progress` gets the number of records done. `redact` is called in a
        worker thread.
        """
        return await import_records(self._access, self._encoder, records, progress)
