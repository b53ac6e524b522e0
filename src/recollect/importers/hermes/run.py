"""One import: the sessions of a file, parents before children, each with its messages and its usage."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any

from anyio import to_thread

from ...encoding import Encoder, instant
from ...engine import Engine
from ...engine.writer import Lane
from ...errors import InvalidRecord, InvalidTitle, KeyTaken, NotAStore, StoreDamaged
from ...messages.transcript import STATES
from ...reports import Imported
from ...sessions.arrival import Arrival, Arrived, prepare_arrival
from ...store import AsyncSessionStore
from ..database import ForeignDatabase
from ..source import Progress, SourceFile, Tally
from . import landing, rows
from .lineage import Family
from .rows import EXTERNAL, Fields, Listed
from .transcript import REWOUND, Batch, Transcript, prepared
from .usage import MODEL_COLUMNS, Amounts, Share, as_usage, counted, differences, recorded

_COLUMNS = {
    "sessions": rows.SESSION_COLUMNS,
    "messages": rows.MESSAGE_COLUMNS,
    "session_model_usage": MODEL_COLUMNS,
}

_NEEDED = {"sessions": frozenset({"id"}), "messages": frozenset({"id", "session_id", "role"})}

_OF_SESSION = "session_id = (SELECT id FROM sessions WHERE rowid = ?)"
"""not by the id itself: one that is not UTF-8 has changed on its way here"""

_DAMAGED = "the file is damaged there"


class Run:
    """One import of one file."""

    def __init__(
        self, store: AsyncSessionStore, database: ForeignDatabase, progress: Callable[[Progress], object] | None
    ) -> None:
        self._store = store
        self._engine: Engine = store._engine  # pyright: ignore[reportPrivateUsage]
        self._encoder: Encoder = store._encoder  # pyright: ignore[reportPrivateUsage]
        self._database = database
        self._file = SourceFile(database.path, database.stat)
        self._tally = Tally([self._file], progress)
        self._columns: dict[str, list[str]] = {}
        self._done = 0
        self._family = Family(())

    async def load(self) -> Imported:
        """Imports everything that is not here yet."""
        for table, known in _COLUMNS.items():
            columns = await self._database.columns(table)
            if missing := _NEEDED.get(table, frozenset()) - columns:
                raise NotAStore(f"{self._file.path}: {table} has no {', '.join(sorted(missing))}: name another file")
            self._columns[table] = sorted(known & columns)
        self._family = Family(await self._listed())
        for one in self._family.in_order():
            await self._load_session(one)
            self._done += 1
            self._reached(0)
        self._tally.finish(self._file)
        return self._tally.result()

    async def _listed(self) -> list[Listed]:
        columns = [name for name in self._columns["sessions"] if name in rows.LINEAGE_COLUMNS]
        numbers = await self._database.keys("sessions")
        found: dict[str, Listed] = {}
        async for piece in self._database.read("sessions", "rowid", columns, numbers):
            for row in piece.rows:
                one = rows.listed(int(row[0]), dict(row))
                if not one.id or one.id in found:
                    self._reject("sessions", one.number, "another one has its id" if one.id else "it has no id")
                else:
                    found[one.id] = one
            for number in piece.lost:
                self._reject("sessions", number, _DAMAGED)
        return list(found.values())

    # -- a session -----------------------------------------------------------------------------

    async def _load_session(self, one: Listed) -> None:
        try:
            row = await self._row(one)
            numbers = await self._database.keys("messages", "id", _OF_SESSION, [one.number])
        except StoreDamaged as error:
            self._reject("sessions", one.number, str(error))
            return
        if row is None:
            return
        lineage = self._family.lineage(one, row)
        present: landing.Present | None = await self._engine.read(landing.read_present, one.id)
        transcript = Transcript(one, numbers, present.states if present else {})
        if present is None:
            await self._bring(one, rows.session_of(one, row, lineage), row, transcript)
        elif numbers and not present.states and present.row.next_seq > 1:
            self._reject("sessions", one.number, f"the id {one.id!r} is that of a session which is not from there")
        else:
            self._tally.duplicate["sessions"] += 1
            await self._load_messages(one, transcript)
            await self._settle_usage(one, row, transcript)
            await self._follow(one, row, present, transcript)

    async def _row(self, one: Listed) -> Fields | None:
        """All of a session; None if it was deleted since, or cannot be read."""
        async for piece in self._database.read("sessions", "rowid", self._columns["sessions"], [one.number]):
            if piece.lost:
                self._reject("sessions", one.number, _DAMAGED)
            for row in piece.rows:
                return dict(row)
        return None

    async def _bring(self, one: Listed, record: dict[str, Any], row: Fields, transcript: Transcript) -> None:
        """A session that is not here: with its first messages in one write, then the others."""
        arrival = await self._arrival(one, record, row)
        if arrival is None:
            return
        async with aclosing(self._batches(one, transcript)) as batches:
            first = await anext(batches, None)
            messages = (tuple(first.rows), first.away) if first else ((), {})
            size = arrival.size + sum([row.size for row in messages[0]])
            arrived, new = await self._write(landing.create, arrival, *messages, size=size)
            self._take(one, arrived, len(arrival.rounds), new)
            if arrived.is_new:
                async for batch in batches:
                    await self._grow(one, batch, transcript)

    async def _arrival(self, one: Listed, record: dict[str, Any], row: Fields) -> Arrival | None:
        """The session and its usage, checked and encoded."""
        first, last = await self._span(one)
        record["created_at"] = one.started_at or first
        shares = await self._counted(one, row)
        record["usage"] = [as_usage(share, amounts, one.ended_at or last) for share, amounts in shares.items()]
        try:
            return await to_thread.run_sync(prepare_arrival, self._encoder, record, None)
        except InvalidRecord as error:
            self._reject("sessions", one.number, str(error))
            return None

    async def _span(self, one: Listed) -> tuple[datetime | None, datetime | None]:
        """The times of its first and last messages."""
        if "timestamp" not in self._columns["messages"]:
            return None, None
        sql = f"SELECT MIN(timestamp), MAX(timestamp) FROM messages WHERE {_OF_SESSION}"
        try:
            found = await self._database.rows(sql, [one.number])
        except StoreDamaged:
            return None, None  # each of its messages will be told of
        return rows.time_of(found[0][0]), rows.time_of(found[0][1])

    def _take(self, one: Listed, arrived: Arrived, rounds: int, messages: int) -> None:
        """Counts a session that was brought, or that somebody else brought just now."""
        if not arrived.is_new:
            self._tally.duplicate["sessions"] += 1
            return
        self._tally.inserted.update(sessions=1, messages=messages, usage=rounds)
        for kind, reason in arrived.left_out:
            self._reject(kind, one.number, reason)
        if arrived.parent_id is not None:
            self._reject("parents", one.number, f"session {one.id!r}: its parent {arrived.parent_id!r} is not there")

    async def _follow(self, one: Listed, row: Fields, present: landing.Present, transcript: Transcript) -> None:
        """What has become there of a session that was here."""
        await self._fill(one, row, present)
        if one.ended_at is not None and present.row.ended_at is None:
            ended_at = instant(one.ended_at, "ended_at")
            self._tally.amended["sessions"] += await self._write(
                landing.end, one.id, ended_at, one.end_reason, session_id=one.id
            )
        elif one.is_live and present.row.status == "ended" and transcript.grew:
            try:  # it was taken up again there
                await self._store.sessions.reopen(one.id)
            except KeyTaken as error:
                self._reject("keys", one.number, str(error))

    async def _fill(self, one: Listed, row: Fields, present: landing.Present) -> None:
        """The gateway makes sessions before it knows everything about them."""
        known: dict[str, Any] = {name: rows.text_of(row.get(name)) for name in ("title", "model", "system_prompt")}
        known["config"] = rows.object_of(row.get("model_config"))
        lacking = {name: value for name, value in known.items() if value and getattr(present.row, name) is None}
        if lacking:
            try:
                await self._store.sessions.ensure(one.id, **lacking)
            except (InvalidRecord, InvalidTitle) as error:
                self._reject("sessions", one.number, str(error))

    # -- its messages --------------------------------------------------------------------------

    async def _load_messages(self, one: Listed, transcript: Transcript) -> None:
        self._tally.duplicate["messages"] += transcript.duplicate
        await self._put_away(one, transcript)
        async with aclosing(self._batches(one, transcript)) as batches:
            async for batch in batches:
                await self._grow(one, batch, transcript)

    async def _batches(self, one: Listed, transcript: Transcript) -> AsyncGenerator[Batch]:
        """The messages that are not here, some at a time."""
        done = 0
        async for piece in self._database.read("messages", "id", self._columns["messages"], transcript.fresh):
            batch = await to_thread.run_sync(prepared, self._encoder, piece, transcript.newest)
            for number, reason in batch.rejected:
                self._reject("messages", number, f"session {one.id!r}: {reason}")
            transcript.newest = batch.newest
            yield batch
            done += len(piece.rows) + len(piece.lost)
            self._reached(done / len(transcript.fresh))

    async def _grow(self, one: Listed, batch: Batch, transcript: Transcript) -> None:
        if batch.rows:
            size = sum([row.size for row in batch.rows])
            new = await self._write(landing.grow, one.id, tuple(batch.rows), batch.away, session_id=one.id, size=size)
            self._tally.inserted["messages"] += new
            transcript.grew = True

    async def _put_away(self, one: Listed, transcript: Transcript) -> None:
        """Follows what was put away there since, or was taken out by rewriting the transcript."""
        away = await self._put_away_there(one, transcript)
        away.setdefault(REWOUND, set()).update(transcript.rewritten())
        for state, numbers in away.items():
            if numbers:
                external_ids = [f"{EXTERNAL}{number}" for number in sorted(numbers)]
                moved = await self._write(landing.put_away, one.id, {state: external_ids}, session_id=one.id)
                self._tally.amended["messages"] += moved

    async def _put_away_there(self, one: Listed, transcript: Transcript) -> dict[int, set[int]]:
        """By state, the messages that are active here and not there."""
        columns = [name for name in ("active", "compacted") if name in self._columns["messages"]]
        away: dict[int, set[int]] = {}
        if "active" not in columns or not transcript.active:
            return away
        try:
            found = await self._database.rows(
                f"SELECT id, {', '.join(columns)} FROM messages WHERE {_OF_SESSION} AND active = 0", [one.number]
            )
        except StoreDamaged as error:
            self._reject("messages", None, f"session {one.id!r}: {error}")
            return away
        for row in found:
            if row["id"] in transcript.active:
                away.setdefault(STATES.index(rows.state_of(dict(row))), set()).add(row["id"])
        return away

    # -- its usage -----------------------------------------------------------------------------

    async def _settle_usage(self, one: Listed, row: Fields, transcript: Transcript) -> None:
        """Brings the ledger to what is counted there."""
        wanted = await self._counted(one, row)
        present = recorded(await self._store.usage.rounds(one.id))
        missing = differences(wanted, present)
        billing: Any = {name: value for name in rows.BILLING if (value := rows.text_of(row.get(name)))}
        for share, amounts in missing.items():
            usage: Any = as_usage(share, amounts, one.ended_at or transcript.newest)
            await self._store.usage.add(one.id, **usage, **billing)
            (self._tally.amended if share in present else self._tally.inserted)["usage"] += 1
        self._tally.duplicate["usage"] += len(wanted.keys() - missing.keys())

    async def _counted(self, one: Listed, row: Fields) -> dict[Share, Amounts]:
        by_model: list[Fields] = []
        if columns := self._columns["session_model_usage"]:
            sql = f"SELECT {', '.join(columns)} FROM session_model_usage WHERE {_OF_SESSION}"
            try:
                by_model = [dict(found) for found in await self._database.rows(sql, [one.number])]
            except StoreDamaged as error:
                self._reject("usage", one.number, str(error))
        return counted(row, by_model, self._encoder)

    # -- told ----------------------------------------------------------------------------------

    async def _write(self, op: Any, *args: Any, session_id: str | None = None, size: int = 256) -> Any:
        return await self._engine.write(op, *args, session=session_id, size=size, lane=Lane.BACKGROUND)

    def _reject(self, kind: str, number: int | None, reason: str) -> None:
        self._tally.reject(kind, self._file.path, number, reason)

    def _reached(self, part: float) -> None:
        """So much of the present session is done."""
        share = (self._done + part) / max(1, len(self._family))
        self._tally.reached(self._file, int(share * self._file.stat.st_size))
