"""Learning sessions of OpenJarvis (the SQLite file of its store of them) into a store, as often as they have grown.

| there | here |
|---|---|
| `learning_sessions` | the same; times keep the offsets they were written with |
| `edit_outcomes` | one outcome for each edit: there, saving one again adds a row, so the later rows are laid over \
the earlier ones |

That store keeps an index of files, and of outcomes often the files alone know: `store.learning.rebuild` reads
the folder `learning/sessions` of its home.

Repeated, it brings what is new: sessions, outcomes, further rows of an outcome, and how a session ended that
had not. What was saved here since stays. A row that cannot be understood is told with its number; what
belongs to a session that did not come in is left out. A session whose parent did not comes even so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from anyio import to_thread

from ..engine.operation import Operation, one
from ..engine.writer import Lane
from ..errors import InvalidRecord
from ..filters import Filter
from ..learning.files import encoded
from ..learning.given import LABELS, Given, merged, outcome_of, session_of
from ..learning.models import RecordedOutcome
from ..learning.rebuild import parents_first
from ..learning.table import missing_of, put, put_outcomes, read_outcomes
from ..reports import Imported
from ..store import AsyncSessionStore
from .database import ForeignDatabase
from .source import Progress, SourceFile, Tally

SESSIONS, OUTCOMES = "learning_sessions", "edit_outcomes"
"""the tables, and the kinds of records that are counted"""

_DAMAGED = "the row is damaged"

_SESSION_COLUMNS = (
    "id", "parent_session_id", "trigger", "trigger_metadata", "status", "autonomy_mode", "started_at", "ended_at",
    "diagnosis_path", "plan_path", "benchmark_before", "benchmark_after", "git_checkpoint_pre", "git_checkpoint_post",
    "teacher_cost_usd", "error",
)  # fmt: skip
_OUTCOME_COLUMNS = ("edit_id", *LABELS, "status", "benchmark_delta", "cluster_deltas", "error", "applied_at")
_JSON = ("trigger_metadata", "benchmark_before", "benchmark_after", "cluster_deltas")

Fields = dict[str, Any]


async def load(
    store: AsyncSessionStore,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], object] | None = None,
) -> Imported:
    """Imports the learning sessions of a file, which is not changed; what is there already is left alone.

    Counts `learning_sessions` and the rows of `edit_outcomes`; `line` of a rejection is the number of the row.
    `progress` is called on the event loop after every session; what it raises ends the import, as cancelling
    does, and the next one goes on where it stopped. `redact` of the store is called in a worker thread.
    Raises FileNotFoundError, NotAStore, and what the store may.
    """
    async with ForeignDatabase(path, needs=(SESSIONS, OUTCOMES)) as database:
        file = SourceFile(database.path, database.stat)
        tally = Tally([file], progress)
        await _Run(store, database, file, tally).run()
        tally.finish(file)
        return tally.result()


class Landed(NamedTuple):
    """What became of a session and its outcomes."""

    is_new: bool
    is_amended: bool
    inserted: int
    amended: int
    """outcomes that were there, and of which more has come"""
    lacks_parent: bool


def land(given: Given, rows: Mapping[str, Sequence[RecordedOutcome]]) -> Operation[Landed]:
    """Brings a session, or what has come to it. `rows`: for each edit its rows there, in order."""
    session = given.session
    before = yield one("SELECT ended_at FROM learning_sessions WHERE id = :id", id=session.id)
    is_amended = before is not None and before.ended_at is None and session.ended_at is not None
    if before is None or is_amended:
        yield from put([given])
    where = Filter()
    where.among("session_id", session.id)
    known: dict[str, RecordedOutcome] = {each.edit_id: each for each in (yield from read_outcomes(where))}
    fresh = [_folded(each) for edit_id, each in rows.items() if edit_id not in known]
    grown = [_folded(each) for edit_id, each in rows.items() if edit_id in known and _has_grown(known[edit_id], each)]
    yield from put_outcomes([*fresh, *grown])
    parent = session.parent_session_id
    lacking = yield from missing_of([] if parent is None else [parent])
    return Landed(before is None, is_amended, len(fresh), len(grown), bool(lacking))


def _folded(rows: Sequence[RecordedOutcome]) -> RecordedOutcome:
    return merged((), rows)[0]


def _has_grown(known: RecordedOutcome, rows: Sequence[RecordedOutcome]) -> bool:
    """Whether what is known is what the first of the rows say, and not all of them; else it is of here."""
    return known != _folded(rows) and any(known == _folded(rows[:n]) for n in range(1, len(rows)))


class _Run:
    """One import."""

    def __init__(self, store: AsyncSessionStore, database: ForeignDatabase, file: SourceFile, tally: Tally) -> None:
        self._engine = store._engine  # pyright: ignore[reportPrivateUsage]
        self._encoder = store._encoder  # pyright: ignore[reportPrivateUsage]
        self._database = database
        self._file = file
        self._tally = tally
        self._columns: dict[str, list[str]] = {}
        self._left: set[int] = set()
        """outcomes that were not come to yet"""

    async def run(self) -> None:
        """All sessions, parents before their children; then what belongs to none."""
        for table, wanted in ((SESSIONS, _SESSION_COLUMNS), (OUTCOMES, _OUTCOME_COLUMNS)):
            self._columns[table] = sorted(await self._database.columns(table) & {*wanted})
        self._left = set(await self._database.keys(OUTCOMES, "id"))
        numbers = await self._in_order()
        for done, number in enumerate(numbers):
            async for piece in self._database.read(SESSIONS, "rowid", self._columns[SESSIONS], [number]):
                for lost in piece.lost:
                    self._reject(SESSIONS, lost, _DAMAGED)
                for row in piece.rows:
                    await self._bring(number, dict(row))
            self._tally.reached(self._file, self._file.stat.st_size * done // (len(numbers) + 1))
        for number in sorted(self._left):
            self._reject(OUTCOMES, number, "its session is not there, or was not imported")

    async def _in_order(self) -> list[int]:
        numbers = await self._database.keys(SESSIONS)
        found: dict[str, tuple[int, str | None]] = {}
        unnamed: list[int] = []
        async for piece in self._database.read(SESSIONS, "rowid", ["id", "parent_session_id"], numbers):
            for row in piece.rows:
                if isinstance(row["id"], str):
                    found[row["id"]] = row[0], row["parent_session_id"]
                else:
                    unnamed.append(row[0])
            unnamed += piece.lost
        ordered = parents_first({id: parent for id, (_, parent) in found.items()})
        return [*[found[id][0] for id in ordered], *unnamed]

    async def _bring(self, number: int, row: Fields) -> None:
        """A session with its outcomes."""
        try:
            given, size = await to_thread.run_sync(self._session, row)
        except InvalidRecord as error:
            self._reject(SESSIONS, number, str(error))
            return
        outcomes: dict[str, list[RecordedOutcome]] = {}
        rows = 0
        for outcome, bytes_ in await self._outcomes(given.session.id):
            outcomes.setdefault(outcome.edit_id, []).append(outcome)
            rows, size = rows + 1, size + bytes_
        landed: Landed = await self._engine.write(
            land, given, outcomes, session=given.session.id, size=size, lane=Lane.BACKGROUND
        )
        self._count(landed, rows)
        if landed.lacks_parent and landed.is_new:
            parent = given.session.parent_session_id
            self._reject("parents", number, f"session {given.session.id!r}: its parent {parent!r} is not there")

    def _count(self, landed: Landed, rows: int) -> None:
        which = self._tally.inserted if landed.is_new else self._tally.amended if landed.is_amended else None
        (self._tally.duplicate if which is None else which)[SESSIONS] += 1
        self._tally.inserted[OUTCOMES] += landed.inserted
        self._tally.amended[OUTCOMES] += landed.amended
        self._tally.duplicate[OUTCOMES] += rows - landed.inserted - landed.amended

    async def _outcomes(self, session_id: str) -> list[tuple[RecordedOutcome, int]]:
        """Those of a session, in the order of their rows, with their sizes."""
        numbers = await self._database.keys(OUTCOMES, "id", "session_id = ?", [session_id])
        self._left.difference_update(numbers)
        found: list[tuple[RecordedOutcome, int]] = []
        async for piece in self._database.read(OUTCOMES, "id", self._columns[OUTCOMES], numbers):
            for lost in piece.lost:
                self._reject(OUTCOMES, lost, _DAMAGED)
            found += await to_thread.run_sync(self._readable, session_id, [dict(row) for row in piece.rows])
        return found

    def _reject(self, kind: str, number: int, reason: str) -> None:
        self._tally.reject(kind, self._file.path, number, reason)

    # -- in a thread ---------------------------------------------------------------------------

    def _session(self, row: Fields) -> tuple[Given, int]:
        given = session_of(self._encoder, _decoded(row), {}, is_exact=False)
        return given, self._encoder.within(len(encoded(given)), "the session")

    def _readable(self, session_id: str, rows: Sequence[Fields]) -> list[tuple[RecordedOutcome, int]]:
        found: list[tuple[RecordedOutcome, int]] = []
        for row in rows:
            number = row.pop("id")
            try:
                outcome = outcome_of(self._encoder, session_id, _decoded(row), {})
                found.append((outcome, self._encoder.within(len(msgspec.json.encode(outcome)), "the outcome")))
            except InvalidRecord as error:
                self._reject(OUTCOMES, number, f"session {session_id!r}: {error}")
        return found


def _decoded(row: Fields) -> Fields:
    """The fields, with JSON decoded; what is NULL is not given."""
    fields = {name: value for name, value in row.items() if value is not None}
    for name in _JSON:
        if name in fields:
            fields[name] = _value(fields[name], name)
    return fields


def _value(text: Any, name: str) -> Any:
    """What JSON says; numbers that it has no word for come as text."""
    try:
        return json.loads(text, parse_constant=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRecord(f"{name} is not JSON: {error}") from None
