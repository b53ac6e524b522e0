"""The search room: a query and filters in, a stream of hits out, page by page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal

from ..access import Access
from ..encoding import bounded
from ..engine import Engine
from ..errors import InvalidRecord, StoreError
from ..filters import Filter, as_list, numbers_of, page_size, texts_of
from ..models import Hit
from ..options import Limits, Timeouts
from .find import REWOUND, Behind, Page, Ranked, Search, find_by_time, find_ranked, rank_and_find
from .index import Damaged, watched
from .keeper import Keeper
from .query import parse, phrases

log = logging.getLogger("recollect")

FIRST_PAGE = 20
"""hits of the first hop: few, so that the first comes soon"""
PAGE = 100
SPARE = 64
"""ids ranked beyond those asked for, in place of rows that are deleted and not yet erased"""

Order = Literal["relevance", "newest", "oldest"]
Several = str | Sequence[str] | None


class SearchRoom:
    """Finds messages and events."""

    def __init__(self, engine: Engine, keeper: Keeper, limits: Limits, timeouts: Timeouts) -> None:
        self._engine = engine
        self._keeper = keeper
        self._limits = limits
        self._timeouts = timeouts
        self.behind = 0

    async def search(
        self,
        query: str,
        *,
        access: Access,
        kinds: Several = ("message", "event"),
        session: Several = None,
        user_id: Several = None,
        source: Several = None,
        exclude_source: Several = None,
        role: Several = None,
        since: datetime | None = None,
        until: datetime | None = None,
        order: Order = "relevance",
        limit: int | None = 20,
        after: str | None = None,
        context: int = 1,
        snippet_tokens: int = 40,
        marks: tuple[str, str] = (">>>", "<<<"),
        include_rewound: bool = False,
        with_text: bool = False,
    ) -> AsyncIterator[Hit]:
        """See `AsyncSessionStore.search`; `access`: whose rows it has."""
        where = _conditions(kinds, source, exclude_source, role, since, until)
        if session is not None:
            where.among("COALESCE(s.user_id, e.user_id)", user_id)
        if where.sql:
            where.add("(s.id IS NOT NULL OR e.id IS NOT NULL)")
            if not include_rewound:
                where.add(f"(m.state IS NULL OR m.state <> {REWOUND})")
        if order not in ("relevance", "newest", "oldest"):
            raise InvalidRecord(f"order must be 'relevance', 'newest' or 'oldest', not {order!r}")
        match = parse(_text(query), terms=self._limits.query_terms)
        left = page_size(limit)
        if match is None or left == 0:
            return
        search = Search(
            access.user_id, self._engine.fulltext, match, phrases(match), as_list(kinds), _listed(session),
            _listed(user_id), where, order, include_rewound, page_size(context, "context") or 0,
            bounded(snippet_tokens, "snippet_tokens"), _marks(marks), with_text,
        )  # fmt: skip
        pages = (self._ranked if order == "relevance" else self._by_time)(search, left, after)
        async for page in pages:
            for hit in page:
                yield hit
                left = None if left is None else left - 1
                if left == 0:
                    return

    async def _by_time(self, search: Search, limit: int | None, after: str | None) -> AsyncIterator[list[Hit]]:
        last = None if after is None else _numbers(after, 1)[0]
        page: Page | None = await self._answer(find_by_time, search, None, last, _at_most(FIRST_PAGE, limit))
        while page and page.hits:
            yield page.hits
            if limit is not None:
                limit -= len(page.hits)
                if limit <= 0:
                    return
            last, size = page.hits[-1].id, _at_most(PAGE, limit)
            page = await self._at_once(find_by_time, search, page.top, last, size)

    async def _ranked(self, search: Search, limit: int | None, after: str | None) -> AsyncIterator[list[Hit]]:
        top, first = (None, 0) if after is None else _numbers(after, 2)
        most = self._limits.ranked
        wanted = most if limit is None else min(most, first + limit + SPARE)
        size = _at_most(FIRST_PAGE, limit)
        answer = await self._answer(rank_and_find, search, top, most, wanted, first, size)
        while answer:
            top, ranked, hits = answer
            yield hits
            first += size
            async for page in self._pages(search, ranked, top, first):
                yield page
            first = max(first, len(ranked.ids))
            if len(ranked.ids) < wanted or wanted == most:
                return
            wanted = most  # too many of the best were gone: rank all, go on behind them
            answer = await self._at_once(rank_and_find, search, top, most, wanted, first, size)

    async def _pages(self, search: Search, ranked: Ranked, top: int, first: int) -> AsyncIterator[list[Hit]]:
        for at in range(first, len(ranked.ids), PAGE):
            page = Ranked(ranked.ids[at : at + PAGE], ranked.scores[at : at + PAGE])
            yield await self._read(search, find_ranked, page, top, at)

    # -- asking the index ----------------------------------------------------------------------

    async def _answer(self, op: Callable[..., Any], search: Search, top: int | None, *args: Any) -> Any:
        """Asks; if the index is behind, waits for it and asks again, then takes what there is."""
        answer = await self._at_once(op, search, top, *args, patient=True)
        if isinstance(answer, Behind):
            await self._catch_up(answer.top)
            answer = await self._at_once(op, search, answer.top, *args)
        return answer

    async def _at_once(self, op: Callable[..., Any], search: Search, *args: Any, patient: bool = False) -> Any:
        """Asks what there is. None: the index is damaged, which the keeper is told."""
        answer = await self._read(search, partial(watched, op), *args, patient)
        if not isinstance(answer, Damaged):
            return answer
        await self._report_damage(answer)
        return None

    async def _read(self, search: Search, op: Callable[..., Any], *args: Any) -> Any:
        access = Access(self._engine, search.within)
        return await access.read_any(op, search, *args, deadline_s=self._timeouts.search_s)

    async def _catch_up(self, top: int) -> None:
        try:
            async with asyncio.timeout(self._timeouts.search_catch_up_s):
                await self._keeper.reach(top)
        except (TimeoutError, StoreError) as error:
            self.behind += 1
            if self.behind == 1:
                log.warning("a search was answered before the index had caught up (said once): %r", error)

    async def _report_damage(self, seen: Damaged) -> None:
        self.behind += 1
        try:
            await self._keeper.damaged(seen)
        except StoreError as refused:
            log.warning("the damaged search index cannot be rebuilt now: %r", refused)


def _conditions(
    kinds: Several, source: Several, exclude_source: Several, role: Several, since: datetime | None,
    until: datetime | None,
) -> Filter:  # fmt: skip
    """What is asked in SQL; the scopes, a session or a user, are in the index."""
    where = Filter()
    _add_kinds(where, as_list(kinds))
    where.among("COALESCE(s.source, x.source)", source)
    where.excluding("COALESCE(s.source, x.source)", exclude_source)
    where.among("m.role", role)
    where.between("COALESCE(m.created_at, e.at)", since, until)
    return where


def _add_kinds(where: Filter, kinds: list[str]) -> None:
    for kind in kinds:
        if kind not in _ROW_OF:
            raise InvalidRecord(f"kinds must be 'message' and/or 'event', not {kind!r}")
    if len(set(kinds)) == 1:
        where.add(f"{_ROW_OF[kinds[0]]} IS NOT NULL")


_ROW_OF = {"message": "m.id", "event": "e.id"}


def _listed(values: Several) -> list[str] | None:
    return None if values is None else texts_of(values, "session and user_id")


def _text(query: str) -> str:
    if not isinstance(query, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"the query must be text, not {type(query).__name__}")
    return query


def _at_most(size: int, limit: int | None) -> int:
    return size if limit is None else min(size, limit)


def _numbers(cursor: str, n: int) -> list[int]:
    numbers = numbers_of(cursor, n)
    if numbers is None:
        raise InvalidRecord(f"after={cursor!r} is not the cursor of a hit in this order")
    return numbers


def _marks(marks: tuple[str, str]) -> tuple[str, str]:
    pair = tuple(marks) if isinstance(marks, tuple | list) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
    if len(pair) != 2 or not all(isinstance(mark, str) for mark in pair):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"marks must be two texts, not {marks!r}")
    return pair
