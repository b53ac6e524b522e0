"""AsyncSessionStore: opens and closes a store and hands out its rooms. No SQL, no queue logic."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, Unpack

from .access import Access
from .changes import Wanted
from .encoding import Encoder
from .engine import Engine
from .engine.operation import Operation, nothing
from .errors import InvalidRecord, again
from .events.room import Events
from .fields import SearchOptions, TransportFields
from .maintenance.room import Maintenance
from .messages.receipt import Receipt
from .messages.room import Messages
from .models import Hit, Row
from .options import Durability, Limits, Timeouts
from .reports import Backfilled, Stats
from .scoped import ScopedStore
from .search.index import VERSION
from .search.keeper import Keeper
from .search.room import SearchRoom
from .sessions.room import Sessions
from .sessions.turns import Lease
from .statistics import read_counts
from .transport import EventTransport, TransportOptions
from .usage.room import Usage
from .watch import Tail, Watch

if TYPE_CHECKING:
    from .importers.source import Progress
    from .learning.room import Learning

log = logging.getLogger("recollect")

unclosed: dict[int, str] = {}
"""stores that are open, by the number of their opening: what `recollect.testing` looks at after a test"""

_openings = itertools.count(1)


class AsyncSessionStore(Maintenance):
    """A store of sessions, messages, usage and events.

    target: a path (`~` is expanded, missing folders are made with mode 0700, the file with 0600),
    `":memory:"`, or the DSN of a PostgreSQL database (`postgresql://…`). durability: what an
    acknowledged write survives. readonly: nothing is created or written. limits, timeouts: every bound there
    is. redact: applied to every text before it is stored. connect: replaces `sqlite3.connect`, for another
    build of SQLite. row_security: users are kept apart by PostgreSQL itself; see docs/postgres.md.

    Nothing happens until `async with store:` or `await store.open()`. One store belongs to one event
    loop; its methods may be called from any number of tasks.
    """

    sessions: Sessions
    messages: Messages
    usage: Usage
    events: Events

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
        row_security: bool = False,
    ) -> None:
        self._opening = 0
        self._gate = asyncio.Lock()
        self._limits = limits or Limits()
        self._timeouts = timeouts or Timeouts()
        self._encoder = Encoder(row_bytes=self._limits.row_bytes, redact=redact)
        self._engine = _engine(
            target, _durability(durability), readonly, self._limits, self._timeouts, connect, row_security
        )
        self._unretrieved: dict[Receipt, BaseException] = {}
        self._dropped = 0
        self._turns: set[Lease] = set()
        self._transports: set[EventTransport] = set()
        self._closing: asyncio.Future[None] | None = None
        self._keeper: Keeper | None = None
        self._search: SearchRoom | None = None
        self._tail: Tail | None = None
        self._access = Access(self._engine)
        self.sessions, self.messages, self.usage, self.events = self._rooms(self._access)

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Opens the store: makes the file and its schema where they are missing, or brings the schema up
        to date. Raises NotAStore, SchemaTooNew, NotGuarded, ReadOnly, StoreBusy, StoreDamaged."""
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
        self._tail = Tail(self._engine)
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
        assert self._tail is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s  # one for all: the queue gets what transports and turns leave of it
        if transports := [transport.aclose(timeout_s) for transport in list(self._transports)]:
            await asyncio.gather(*transports, return_exceptions=True)
        if turns := [turn.give_back() for turn in list(self._turns)]:
            await asyncio.wait(turns, timeout=max(0.0, deadline - loop.time()))
        await self._tail.aclose()
        await self._keeper.aclose()
        await self._engine.aclose(max(0.0, deadline - loop.time()))

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if getattr(self, "_opening", 0) in unclosed:
            warnings.warn(f"{self!r} was never closed: use `async with`, or `aclose()`", ResourceWarning, stacklevel=2)

    @property
    def is_open(self) -> bool:
        """Whether it was opened and nobody has begun to close it."""
        return self._opening in unclosed

    @cached_property
    def learning(self) -> Learning:
        """An agent's attempts to improve itself; they belong to no user."""
        from .learning.room import Learning  # loaded when used: few need it

        return Learning(self._engine, self._encoder, self._timeouts)

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
        by the time of the message or event. include_rewound: also what was taken back. with_text: the whole text
        with each hit. An empty list to include matches nothing. By relevance, the newest `limits.ranked`
        matches are ranked.

        What was committed before the call is found: the index is brought up to date first, for at most
        `timeouts.search_catch_up_s`; `flush(index=True)` is the exact barrier. Raises InvalidRecord for a
        filter that means nothing, SearchTimeout for a page that takes over `timeouts.search_s`.
        """
        return self._find(self._access, query, user_id, options)

    def _find(
        self, access: Access, query: str, user_id: str | Sequence[str] | None, options: SearchOptions
    ) -> AsyncIterator[Hit]:
        if self._search is None:
            raise again(self._engine.not_open)
        return self._search.search(query, access=access, user_id=user_id, **options)

    async def query(self, sql: str, /, **params: Any) -> list[Row]:
        """The rows of a SELECT of your own, `:name` parameters given by name; see docs/schema.md.

        Read-only by construction; stopped after `timeouts.search_s` (SearchTimeout). Raises InvalidQuery.
        """
        return await self._engine.query(sql, params, deadline_s=self._timeouts.search_s)

    def watch(
        self, *, session_id: str | Sequence[str] | None = None, kinds: str | Sequence[str] | None = None,
        after: str | None = None,
    ) -> Watch:  # fmt: skip
        """What is committed, by this process or another, in the order of commits; an async iterator.

        session_id: of one or several. kinds: `message`, `event` (every event but the store's own), or kinds of
        events, also as globs: `store.*` is what happens to sessions, `*` is everything. after: the cursor of a
        change, to go on behind it (`BEGINNING`: from the first there is): what was committed since is replayed,
        then it is live. Without one, what is committed from the beginning of the iteration on, or of `async with`.

        Nothing comes twice or is left out; who is slow reads from the store what his buffer (`Limits.watch_buffer`)
        could not hold. It ends when the store is closed; what it has not given by then lies behind its `cursor`.
        Erased rows, and those of deleted sessions, are not replayed. Raises InvalidRecord, StoreClosed.
        """
        return self._watch(self._access, session_id, kinds, after)

    def _watch(
        self, access: Access, session_id: str | Sequence[str] | None, kinds: str | Sequence[str] | None,
        after: str | None,
    ) -> Watch:  # fmt: skip
        if self._tail is None or self._tail.closed:
            raise again(self._engine.not_open)
        wanted = Wanted(access, session_id, kinds)
        return Watch(self._engine, self._tail, wanted, after, self._limits.watch_buffer)

    def transport(self, **options: Unpack[TransportFields]) -> EventTransport:
        """Stores an agent's event stream, best effort: it never raises into the agent nor holds it up.

        mapping: what is sent → an `Event`, or None to leave it out (`map_event`). only, exclude: globs of the
        names of events; by default all but the firehose of output lines and token deltas. bulk: globs of those
        that go first when there is no room. buffer, buffer_bytes: what waits, while the store is slow or locked,
        at most (131,072 events, 64 MiB); overflow: what is dropped then, `Overflow.DROP_OLDEST` by default.
        """
        return self._transport(self._access, options)

    def _transport(self, access: Access, options: TransportFields) -> EventTransport:
        given = TransportOptions(**options)
        return EventTransport(access, self._encoder, self._transports, self, given, self._timeouts.close_s)

    def scoped(self, *, user_id: str) -> ScopedStore:
        """The same rooms and search, limited to one user: sessions of others do not exist there, and no
        error names one. What is created there is the user's. It opens and closes with this store."""
        return ScopedStore(self, self._encoder.identifier(user_id, "user_id"))

    def _rooms(self, access: Access) -> tuple[Sessions, Messages, Usage, Events]:
        return (
            Sessions(access, self._encoder, self._limits, self._timeouts, self._turns),
            Messages(access, self._encoder, self._note_failure),
            Usage(access, self._encoder),
            Events(access, self._encoder),
        )

    # -- operations of one's own ---------------------------------------------------------------

    async def read(self, op: Callable[..., Operation[Any]], *args: Any) -> Any:
        """Runs an operation (see `recollect.operations`) on a reader, in one snapshot."""
        return await self._engine.read(op, *args)

    async def write(self, op: Callable[..., Operation[Any]], *args: Any) -> Any:
        """Runs an operation in the next batch's transaction; its result comes after COMMIT. If it
        raises, it alone is undone."""
        return await self._engine.write(op, *args)

    # -- what happened before ------------------------------------------------------------------

    async def backfill(
        self,
        *,
        issues_dir: str | os.PathLike[str] | None = None,
        loops_dir: str | os.PathLike[str] | None = None,
        transcripts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> Backfilled:
        """Records events out of files that tell what happened; one that is None is left out.

        issues_dir: issue files, `*.md` with front matter (takes `recollect[backfill]`). loops_dir: a `.loops`
        folder, of runs that go on and of archived ones. transcripts: of Claude Code, one or several files or
        folders, for what tools did: events of the kinds `tool` and `file`, no messages, which
        `importers.claude_code.load` brings. What becomes an event of what is told by `importers.issues`,
        `importers.loops` and `importers.claude_code.events`, whose `load` each is.

        Repeat it as files change: it costs what has, and records nothing twice. What cannot be understood is
        counted with its place and stops nothing. What was sent to a `transport` as it happened is not known again.
        `progress` gets where the present one of the three is. Raises FileNotFoundError, before anything is read.
        """
        from .backfill import backfill  # importers know the store

        return await backfill(
            self, issues_dir=issues_dir, loops_dir=loops_dir, transcripts=transcripts, progress=progress
        )

    # -- state ---------------------------------------------------------------------------------

    async def flush(self, *, index: bool = False) -> None:
        """Returns when everything queued before the call is committed, and indexed if `index`.

        Raises the error of a receipt that failed and that nobody awaited; several are named in its notes.
        """
        await self._engine.write(nothing)
        if index:
            await self._caught_up()
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


_REMEMBERED = 1_000
"""errors of receipts kept for `flush`"""


def _durability(value: str) -> Durability:
    if value not in list(Durability):
        raise InvalidRecord(f"durability must be one of {', '.join(Durability)}, not {value!r}")
    return Durability(value)


def _engine(
    target: str | os.PathLike[str], durability: Durability, readonly: bool, limits: Limits, timeouts: Timeouts,
    connect: Callable[..., Any] | None, row_security: bool,
) -> Engine:  # fmt: skip
    name = os.fspath(target) if isinstance(target, str | os.PathLike) else ""  # pyright: ignore[reportUnnecessaryIsInstance]
    if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"a store is a path, ':memory:' or a DSN, not {target!r}")
    if name.startswith(("postgresql://", "postgres://")):
        return _server(name, durability, readonly, limits, timeouts, row_security)
    if row_security:
        raise InvalidRecord("row_security is of PostgreSQL; a file keeps users apart by `scoped`, and by file modes")
    if readonly and name == ":memory:":
        raise InvalidRecord("a store in memory begins empty: readonly=True makes no sense of it")
    from .engine.sqlite.engine import SqliteEngine

    return SqliteEngine(
        name, durability=durability, readonly=readonly, limits=limits, timeouts=timeouts, connector=connect
    )


def _server(
    dsn: str, durability: Durability, readonly: bool, limits: Limits, timeouts: Timeouts, row_security: bool
) -> Engine:
    try:
        from .engine.postgres.engine import PostgresEngine
    except ModuleNotFoundError as error:
        raise InvalidRecord(f"PostgreSQL needs the extra recollect[postgres]: {error}") from error
    return PostgresEngine(
        dsn, durability=durability, readonly=readonly, limits=limits, timeouts=timeouts, row_security=row_security
    )
