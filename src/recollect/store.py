"""AsyncSessionStore: opens and closes a store and hands out its rooms. No SQL, no queue logic."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self, Unpack

from .access import Access
from .check import Checked, check_orphans, check_page
from .encoding import Encoder
from .engine import Engine
from .engine.operation import Operation
from .errors import InvalidRecord, again
from .fields import SearchOptions
from .messages.receipt import Receipt
from .messages.room import Messages
from .models import Hit, Row
from .options import Durability, Limits, Timeouts
from .reports import Problem, Report, Stats
from .scoped import ScopedStore
from .search.index import VERSION, read_lag
from .search.keeper import Keeper
from .search.room import SearchRoom
from .sessions.room import Sessions
from .sessions.turns import Lease
from .statistics import read_counts
from .usage.room import Usage

log = logging.getLogger("recollect")

unclosed: dict[int, str] = {}
"""stores that are open, by the number of their opening: what `recollect.testing` looks at after a test"""

_openings = itertools.count(1)


class AsyncSessionStore:
    """A store of sessions, messages, usage and events.

    target: a path (`~` is expanded, missing folders are made with mode 0700, the file with 0600), or
    `":memory:"`. durability: what an acknowledged write survives. readonly: nothing is created or
    written. limits, timeouts: every bound there is. redact: applied to every text before it is stored.
    connect: replaces `sqlite3.connect`, for another build of SQLite.

    Nothing happens until `async with store:` or `await store.open()`. One store belongs to one event
    loop; its methods may be called from any number of tasks.
    """

    sessions: Sessions
    messages: Messages
    usage: Usage

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        durability: Durability = Durability.COMMIT,
        readonly: bool = False,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        redact: Callable[[str], str] | None = None,
        connect: Callable[..., Any] | None = None,
    ) -> None:
        self._opening = 0
        self._gate = asyncio.Lock()
        self._limits = limits or Limits()
        self._timeouts = timeouts or Timeouts()
        self._encoder = Encoder(row_bytes=self._limits.row_bytes, redact=redact)
        self._engine = _engine(target, _durability(durability), readonly, self._limits, self._timeouts, connect)
        self._unretrieved: dict[Receipt, BaseException] = {}
        self._dropped = 0
        self._turns: set[Lease] = set()
        self._closing: asyncio.Future[None] | None = None
        self._keeper: Keeper | None = None
        self._search: SearchRoom | None = None
        self.sessions, self.messages, self.usage = self._rooms()

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Opens the store: makes the file and its schema where they are missing, or brings the schema up
        to date. Raises NotAStore, SchemaTooNew, ReadOnly, StoreBusy, StoreDamaged."""
        async with self._gate:
            if self._closing is not None and not self._closing.done():
                await asyncio.wait([self._closing])
            if self._opening not in unclosed:
                await self._engine.open()
                self._begin()
        return self

    def _begin(self) -> None:
        self._closing = None
        self._opening = next(_openings)
        unclosed[self._opening] = repr(self)
        self._keeper = Keeper(self._engine, self._limits)
        self._search = SearchRoom(self._engine, self._keeper, self._limits, self._timeouts)
        if not self._engine.readonly:
            self._keeper.start()

    async def aclose(self, *, timeout_s: float | None = None) -> None:
        """Writes what is queued, for at most `timeout_s` (`Timeouts.close_s`), and closes; what is left
        then fails as not stored. Closing twice is harmless."""
        async with self._gate:  # an opening under way is waited for, then closed
            if unclosed.pop(self._opening, None) is not None:
                seconds = self._timeouts.close_s if timeout_s is None else timeout_s
                self._closing = asyncio.ensure_future(self._close(seconds))
        if self._closing is not None:
            await asyncio.shield(self._closing)  # whoever is cancelled leaves; the closing goes on to its end

    async def _close(self, timeout_s: float) -> None:
        assert self._keeper is not None
        if turns := [turn.give_back() for turn in list(self._turns)]:
            await asyncio.wait(turns, timeout=timeout_s)
        await self._keeper.aclose()
        await self._engine.aclose(timeout_s)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if getattr(self, "_opening", 0) in unclosed:
            warnings.warn(f"{self!r} was never closed: use `async with`, or `aclose()`", ResourceWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"AsyncSessionStore({self._engine.name!r})"

    # -- finding -------------------------------------------------------------------------------

    def search(
        self, query: str, *, user_id: str | Sequence[str] | None = None, **options: Unpack[SearchOptions]
    ) -> AsyncIterator[Hit]:
        """Finds messages and events; an async generator of hits, fetched page by page as they are taken.

        kinds: `message`, `event` or both. session, user_id, source, exclude_source, role: one or several.
        The query is what people type, and nothing is a syntax error: words all must match; `"phrase"`,
        `prefix*`, `AND`, `OR`, `NOT` in capitals, `-word`, parentheses. A word with punctuation inside is
        a phrase of its parts. Only negations, or nothing left: no hits.

        order: `relevance`, `newest` or `oldest`. limit: hits at most (20; None: all). after: the cursor of
        a hit, to continue behind it. context: neighbours on each side (1). snippet_tokens (40), marks
        (`>>>`, `<<<`): size of the snippet, what surrounds a match. since (inclusive), until (exclusive):
        by the time of the message. include_rewound: also what was taken back. with_text: the whole text
        with each hit. An empty list to include matches nothing. By relevance, the newest `limits.ranked`
        matches are ranked.

        What was committed before the call is found: the index is brought up to date first, for at most
        `timeouts.search_catch_up_s`; `flush(index=True)` is the exact barrier. Raises InvalidRecord for a
        filter that means nothing, SearchTimeout for a page that takes over `timeouts.search_s`.
        """
        if self._search is None:
            raise again(self._engine.not_open)
        return self._search.search(query, user_id=user_id, **options)

    async def query(self, sql: str, /, **params: Any) -> list[Row]:
        """The rows of a SELECT of your own, `:name` parameters given by name; see docs/schema.md.

        Read-only by construction; stopped after `timeouts.search_s` (SearchTimeout). Raises InvalidQuery.
        """
        return await self._engine.query(sql, params, deadline_s=self._timeouts.search_s)

    def scoped(self, *, user_id: str) -> ScopedStore:
        """The same rooms and search, limited to one user: sessions of others do not exist there, and no
        error names one. What is created there is the user's. It opens and closes with this store."""
        return ScopedStore(self, self._encoder.identifier(user_id, "user_id"))

    def _rooms(self, user_id: str | None = None) -> tuple[Sessions, Messages, Usage]:
        access = Access(self._engine, user_id)
        return (
            Sessions(access, self._encoder, self._limits, self._timeouts, self._turns),
            Messages(access, self._encoder, self._note_failure),
            Usage(access, self._encoder),
        )

    # -- operations of one's own ---------------------------------------------------------------

    async def read(self, op: Callable[..., Operation[Any]], *args: Any) -> Any:
        """Runs an operation (see `recollect.operations`) on a reader, in one snapshot."""
        return await self._engine.read(op, *args)

    async def write(self, op: Callable[..., Operation[Any]], *args: Any) -> Any:
        """Runs an operation in the next batch's transaction; its result comes after COMMIT. If it
        raises, it alone is undone."""
        return await self._engine.write(op, *args)

    # -- state ---------------------------------------------------------------------------------

    async def flush(self, *, index: bool = False) -> None:
        """Returns when everything queued before the call is committed, and indexed if `index`.

        Raises the error of a receipt that failed and that nobody awaited; several are named in its notes.
        """
        await self._engine.write(_barrier)
        if index and self._keeper is not None:
            lag = await self._engine.read(read_lag)
            await self._keeper.reach(lag.last)
        if self._unretrieved:
            errors = [error for receipt, error in self._unretrieved.items() if not receipt.is_heard]
            self._unretrieved.clear()
            for other in errors[1:]:
                errors[0].add_note(f"and: {other}")
            if errors:
                raise errors[0]

    def _note_failure(self, receipt: Receipt, error: BaseException) -> None:
        self._dropped += 1
        self._unretrieved[receipt] = error
        while len(self._unretrieved) > _REMEMBERED:
            self._unretrieved.pop(next(iter(self._unretrieved)))
        log.warning("an append that nobody awaited yet has failed: %s", error)

    async def stats(self) -> Stats:
        """Facts about the store; taking them changes nothing."""
        counts, lag = await self._engine.read(read_counts)
        assert self._search is not None
        behind = lag.last - lag.watermark
        return Stats(
            **counts,
            **await self._engine.facts(),
            index_lag=behind,
            index_state="damaged" if lag.version < VERSION else "building" if behind else "ready",
            search_behind=self._search.behind,
            unindexed_bytes=lag.unindexed_bytes,
            dropped=self._dropped,
            replaced=self._encoder.replaced,
        )

    async def check(self, *, progress: Callable[[int], object] | None = None) -> Report:
        """Compares what is kept beside the rows with the rows: the counters and previews of sessions with
        their messages and ledger, and that nothing is without its session or parent. Changes nothing.

        Pages of sessions, each of one moment; `progress` gets the number of sessions done.
        """
        problems: list[Problem] = list(await self._engine.read(check_orphans))
        sessions, last = 0, 0
        while last is not None:
            page: Checked = await self._engine.read(check_page, last)
            sessions, last = sessions + page.sessions, page.last
            problems += page.problems
            if progress is not None:
                progress(sessions)
        return Report(sessions, tuple(problems))


_REMEMBERED = 1_000
"""errors of receipts kept for `flush`"""


def _barrier() -> Operation[None]:
    """Writes nothing; what was queued before it is committed when it is."""
    return
    yield


def _durability(value: str) -> Durability:
    if value not in list(Durability):
        raise InvalidRecord(f"durability must be one of {', '.join(Durability)}, not {value!r}")
    return Durability(value)


def _engine(
    target: str | os.PathLike[str], durability: Durability, readonly: bool, limits: Limits, timeouts: Timeouts,
    connect: Callable[..., Any] | None,
) -> Engine:  # fmt: skip
    name = os.fspath(target) if isinstance(target, str | os.PathLike) else ""  # pyright: ignore[reportUnnecessaryIsInstance]
    if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"a store is a path, ':memory:' or a DSN, not {target!r}")
    if name.startswith(("postgresql://", "postgres://")):
        raise InvalidRecord("PostgreSQL is not supported by this version: give the path of a SQLite file")
    if readonly and name == ":memory:":
        raise InvalidRecord("a store in memory begins empty: readonly=True makes no sense of it")
    from .engine.sqlite.engine import SqliteEngine

    return SqliteEngine(
        name, durability=durability, readonly=readonly, limits=limits, timeouts=timeouts, connector=connect
    )
