"""The earlier event index (the SQLite file of little-loops, `.ll/session.db` or `.ll/history.db`, of any release)
into a store, as often as it has grown.

| there | here |
|---|---|
| `tool_events` | kind `tool`: `tool_name` is the name |
| `file_events` | kind `file`: `op` is the action |
| `issue_events` | kind `issue`: `transition` is the action |
| `loop_events` | kind `loop`: `loop_name` is the name, `transition` the action; of a route, `to_state` is the state |
| `user_corrections` | kind `correction`: `content` is the text |

The payload is the whole row, with the columns that a release added; the time is that of the row, else that of the
row before. Other tables are not read: what they have is told by transcripts, issues and loops as well, and
`store.backfill` reads those. Rows are known again by table, number, time and what they are about: a file may be
moved or copied, and bring nothing twice. Only rows that came since are looked at.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from anyio import to_thread

from ..encoding import Encoder, instant, moment
from ..engine import Engine
from ..engine.writer import Lane
from ..errors import InvalidRecord, NotAStore
from ..events.given import prepare
from ..events.mapping import time_of
from ..events.typed import Correction, FileEvent, IssueEvent, LoopEvent, ToolEvent, TypedEvent
from ..reports import Imported, Rejection
from ..store import AsyncSessionStore
from .cursor import Cursor, Kept, identity, read_cursors
from .database import ForeignDatabase
from .event_chunk import EventChunk, Landed, Piece, load_events
from .event_lines import changed_at
from .source import Progress, SourceFile, Tally

IMPORTER = "little_loops"
VERSION = 1

Fields = dict[str, Any]


def _tool(row: Fields) -> TypedEvent:
    return ToolEvent(tool_name=_text(row, "tool_name") or "unknown", action=_text(row, "outcome", "status"))


def _file(row: Fields) -> TypedEvent:
    return FileEvent(path=_text(row, "path") or "", op=_text(row, "op") or "touch", issue_id=_text(row, "issue_id"))


def _issue(row: Fields) -> TypedEvent:
    issue_id, transition = _text(row, "issue_id"), _text(row, "transition") or "open"
    if issue_id is None:
        raise InvalidRecord("it has no issue_id")
    return IssueEvent(issue_id=issue_id, transition=transition, name=_text(row, "title"), text=_text(row, "issue_type"))


def _loop(row: Fields) -> TypedEvent:
    state, before = _text(row, "to_state", "state"), _text(row, "state") if _text(row, "to_state") else None
    transition = _text(row, "transition") or "event"
    return LoopEvent(loop_name=_text(row, "loop_name"), transition=transition, state=state, text=before)


def _correction(row: Fields) -> TypedEvent:
    content = _text(row, "content")
    if content is None:
        raise InvalidRecord("it has no content")
    return Correction(content=content)


class Table(NamedTuple):
    """A table of that index."""

    name: str
    kind: str
    """what its rows are counted as"""
    build: Callable[[Fields], TypedEvent]
    about: tuple[str, ...]
    """columns that never change, and by which a row is known again"""


TABLES = (
    Table("tool_events", "tools", _tool, ("session_id", "tool_name", "args_hash")),
    Table("file_events", "files", _file, ("session_id", "path", "op")),
    Table("issue_events", "issues", _issue, ("issue_id", "transition")),
    Table("loop_events", "loops", _loop, ("loop_name", "transition")),
    Table("user_corrections", "corrections", _correction, ("session_id", "content")),
)


async def load(
    store: AsyncSessionStore,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], object] | None = None,
) -> Imported:
    """Imports the events of that file; what is there already is left alone.

    The file is only read, also while its owner writes to it. What cannot be understood, or is damaged, is counted
    with its place (`line` is the number of the row) and does not stop the rest. `progress` is called on the event
    loop after every few hundred rows; what it raises ends the import, as cancelling does, and the next one goes on
    where it stopped. `redact` of the store is called in a worker thread.

    Raises FileNotFoundError, NotAStore for what is no such file, StoreBusy if another process keeps it locked,
    StoreDamaged, and what the store may.
    """
    async with ForeignDatabase(path) as database:
        return await _Run(store, database, progress).load()


class _Reached(msgspec.Struct):
    """How far the tables were read; kept in the cursor."""

    tables: dict[str, list[tuple[int, str]]] = {}
    """the numbers and the keys of the first row and the last"""


class _Run:
    """One import of one file."""

    def __init__(
        self, store: AsyncSessionStore, database: ForeignDatabase, progress: Callable[[Progress], object] | None
    ) -> None:
        self._engine: Engine = store._engine  # pyright: ignore[reportPrivateUsage]
        self._encoder: Encoder = store._encoder  # pyright: ignore[reportPrivateUsage]
        self._database = database
        self._file = SourceFile(database.path, database.stat)
        self._tally = Tally([self._file], progress)
        self._reached = _Reached()
        self._at: int | None = None

    async def load(self) -> Imported:
        """Imports everything that is not here yet."""
        columns = {table.name: sorted(await self._database.columns(table.name)) for table in TABLES}
        tables = [table for table in TABLES if {"id", "ts"} <= set(columns[table.name])]
        if not tables:
            raise NotAStore(f"{self._file.path} has none of the tables of an event index: name another file")
        await self._go_on()
        fresh = {table: await self._fresh(table, columns[table.name]) for table in tables}
        total, done = sum(map(len, fresh.values())), 0
        for table, numbers in fresh.items():
            self._at = None
            async for rows, lost in self._database.read(table.name, "id", columns[table.name], numbers):
                await self._bring(table, [dict(row) for row in rows], lost)
                done += len(rows) + len(lost)
                self._tally.reached(self._file, self._file.stat.st_size * done // (total + 1))
        self._tally.finish(self._file)
        self._tally.unchanged += not total
        return self._tally.result()

    async def _go_on(self) -> None:
        cursors: dict[str, Cursor] = await self._engine.read(read_cursors, IMPORTER, VERSION, [self._file.path])
        if cursor := cursors.get(self._file.path):
            try:
                self._reached = msgspec.json.decode(cursor.kept.own, type=_Reached)
            except msgspec.MsgspecError:
                return

    async def _fresh(self, table: Table, columns: Sequence[str]) -> list[int]:
        """Numbers of the rows behind the last one that was read, if that and the first are still the same; else
        of all: it is another file."""
        ends = self._reached.tables.get(table.name, [])
        numbers = sorted({number for number, _ in ends})
        there: list[tuple[int, str]] = []
        async for rows, _ in self._database.read(table.name, "id", columns, numbers):
            there += [(row["id"], _key(table, dict(row))) for row in rows]
        if ends and all(end in there for end in ends):
            return await self._database.keys(table.name, "id", "id > ?", [numbers[-1]])
        self._reached.tables.pop(table.name, None)
        return await self._database.keys(table.name, "id")

    async def _bring(self, table: Table, rows: Sequence[Fields], lost: Sequence[int]) -> None:
        reached = dict(self._reached.tables)
        if rows:
            first, last = ((row["id"], _key(table, row)) for row in (rows[0], rows[-1]))
            reached[table.name] = [*reached.get(table.name, [first])[:1], last]
        chunk = await to_thread.run_sync(self._chunk, table, rows, _Reached(reached))
        landed: Landed = await self._engine.write(
            load_events, chunk, self._engine.fulltext, size=chunk.size, lane=Lane.BACKGROUND
        )
        self._reached = _Reached(reached)
        self._tally.inserted.update(landed.inserted)
        self._tally.duplicate.update(landed.duplicate)
        for rejection in chunk.rejected:
            self._tally.reject(rejection.kind, rejection.file, rejection.line, rejection.reason)
        for number in lost:
            self._tally.reject(table.kind, self._file.path, number, "the file is damaged there")

    # -- in a worker thread --------------------------------------------------------------------

    def _chunk(self, table: Table, rows: Sequence[Fields], reached: _Reached) -> EventChunk:
        pieces: list[Piece] = []
        rejected: list[Rejection] = []
        for row in rows:
            try:
                pieces.append(Piece(table.kind, prepare(self._encoder, self._event(table, row).event())))
            except InvalidRecord as error:
                rejected.append(Rejection(table.kind, self._file.path, row["id"], str(error)))
        return EventChunk(
            importer=IMPORTER,
            version=VERSION,
            pieces=pieces,
            cursors=[self._cursor(reached)],
            skipped=Counter(),
            rejected=rejected,
        )

    def _event(self, table: Table, row: Fields) -> TypedEvent:
        return msgspec.structs.replace(
            table.build(row),
            at=self._time(row),
            session_id=_text(row, "session_id"),
            anchor=f"{self._file.path}:{table.name}:{row['id']}",
            payload=_payload(row),
            dedupe_key=_key(table, row),
        )

    def _time(self, row: Fields) -> datetime:
        at = instant(time_of(row["ts"]), "ts")
        self._at = self._at if at is None else at
        return moment(changed_at(self._file.stat) if self._at is None else self._at)

    def _cursor(self, reached: _Reached) -> Cursor:
        device, inode = identity(self._file.stat)
        own = msgspec.Raw(msgspec.json.encode(reached))
        kept = Kept(self._file.stat.st_mtime_ns, 0, False, own)
        return Cursor(self._file.path, device, inode, 0, self._file.stat.st_size, "", kept)


def _text(row: Mapping[str, Any], *names: str) -> str | None:
    """The first of the columns that has a text."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value:
            return value
    return None


def _payload(row: Fields) -> Fields:
    """The row, with flags as flags, and with the state that a route led to as its state."""
    payload = {name: _plain(value) for name, value in row.items() if value is not None}
    if payload.get("cache_hit") in (0, 1):
        payload["cache_hit"] = bool(payload["cache_hit"])
    if "to_state" in payload:
        payload = {**payload, "from_state": payload.get("state"), "state": payload["to_state"]}
    return payload


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _key(table: Table, row: Fields) -> str:
    """By the number alone, rows of a file that was made anew would be taken for those of the one before."""
    told = "\x00".join([str(row.get(name)) for name in ("ts", *table.about)])
    digest = hashlib.blake2b(told.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"little-loops:{table.name}:{row['id']}:{digest}"
