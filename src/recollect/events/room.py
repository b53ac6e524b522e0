"""The room of events: what callers give is prepared here and handed to the engine's two verbs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Unpack

from ..access import Access
from ..encoding import Encoder, bounded
from ..engine.writer import Lane
from ..fields import EventFilters
from ..filters import Filter, page_size
from .given import Recording, prepare, prepare_all
from .prune import PRUNED_AT_ONCE, as_aged, prune
from .reading import as_filter, read_aged, read_kinds, read_page, read_recent
from .record import record
from .typed import Recordable, RecordedEvent

_PAGE = 256
"""events fetched in one hop by `stream`"""

_ANY = ""
"""in place of a session, for events without one: the order among events is kept all the same"""


class Events:
    """Recording and reading events of any kind; `store.events`."""

    def __init__(self, access: Access, encoder: Encoder) -> None:
        self._access = access
        self._engine = access.engine
        self._encoder = encoder

    async def record(self, event: Recordable) -> int:
        """Records an event: an `Event`, one of the typed ones, or a mapping with the fields of `Event`;
        returns its id once it is committed.

        Its kind may be any text that does not begin with `store.`. A repeated dedupe_key records nothing and
        returns the id of the first. In a scope it is the user's event, whatever session it names, and a key of
        another's event is free. Raises InvalidRecord, and what the store may.
        """
        row = prepare(self._encoder, event)
        recording = Recording((row,), self._access.user_id)
        (id,) = await self._access.gather(record, recording, row.session_id or _ANY, row.size)
        return id

    async def record_many(self, events: Iterable[Recordable]) -> list[int]:
        """Records events, all or none, in this order; their ids."""
        rows = prepare_all(self._encoder, events)
        if not rows:
            return []
        sessions = {row.session_id or _ANY for row in rows}
        return await self._access.write_any(
            record,
            Recording(rows, self._access.user_id),
            session=sessions.pop() if len(sessions) == 1 else None,
            size=sum(row.size for row in rows),
        )

    async def recent(self, kind: str, *, limit: int | None = 20) -> list[RecordedEvent]:
        """The last events of a kind, the newest recorded first; None: all of them.

        Raises InvalidQuery, which names the kinds there are, for one that is neither typed nor stored.
        """
        given = self._encoder.identifier(kind, "kind")
        return await self._access.read_any(
            read_recent, given, self._own(Filter()), page_size(limit), self._access.user_id
        )

    async def kinds(self) -> list[str]:
        """The kinds there are events of, in order; `store.…` are those of what happens to sessions."""
        return await self._access.read_any(read_kinds, self._own(Filter()), self._access.user_id)

    async def stream(
        self, *, after: int | None = None, **filters: Unpack[EventFilters]
    ) -> AsyncIterator[RecordedEvent]:
        """Events in the order in which they were recorded, fetched page by page as they are taken.

        kind, session_id, run_id, issue_id, path: one or several; an empty list matches nothing. since
        (inclusive), until (exclusive): by the time of the event. after: an event's id, to go on behind it.
        """
        where = self._own(as_filter(**filters))
        last = 0 if after is None else bounded(after, "after")
        while page := await self._access.read_any(read_page, where, last, _PAGE):
            for event in page:
                yield event
            if len(page) < _PAGE:
                return
            last = page[-1].id

    async def prune(
        self,
        older_than: timedelta | datetime,
        kind: str | Sequence[str] | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Erases events that happened longer ago than that, or before that time; how many.

        kind: only of this kind or these; else also what happened to sessions, which a `watch` from an older
        cursor then does not tell; in a scope only the user's own. In chunks, behind what others write:
        cancelled, what is done is done. `progress` gets the number erased so far.
        """
        where = self._own(as_aged(older_than, kind))
        erased, after = 0, 0
        while after is not None:
            ids, after = await self._access.read_any(read_aged, where, after, PRUNED_AT_ONCE)
            if ids:
                erased += await self._access.write_any(prune, self._engine.fulltext, ids, where, lane=Lane.BACKGROUND)
                if progress is not None:
                    progress(erased)
        return erased

    def _own(self, where: Filter) -> Filter:
        return self._access.narrow(where, "e.user_id")
