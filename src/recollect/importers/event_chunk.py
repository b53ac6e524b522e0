"""A chunk of events on its way into the store, with the cursors that say they are in. One operation, so all of
it is there or nothing; a repeated one changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from ..encoding import decode_json
from ..engine.fulltext import FullText
from ..engine.operation import Operation, Row, tuples
from ..events.amend import Amendment, amend, columns_of, read_keyed
from ..events.given import EventRow, Recording
from ..events.record import record
from ..journal import VISIBLE
from ..reports import Rejection
from .cursor import Cursor, write_cursor


class Mode(IntEnum):
    """What an event does to the one that has its key already."""

    ONCE = 0
    """nothing"""
    LATEST = 1
    """takes its place, unless that one is of a later time"""
    ALWAYS = 2
    """takes its place"""


class Piece(NamedTuple):
    """An event that was read; it has a dedupe key."""

    kind: str
    """what it is counted as"""
    row: EventRow
    mode: Mode = Mode.ONCE

    @property
    def key(self) -> str:
        """By which it is known again."""
        assert self.row.dedupe_key is not None
        return self.row.dedupe_key


class Answer(NamedTuple):
    """What came of a call that may have been recorded before."""

    kind: str
    key: str
    """of the call's event"""
    before: str
    """the action that says that nothing was known of it"""
    action: str
    facts: dict[str, Any]
    """for the payload, and its columns where they have the same name"""


class EventChunk(msgspec.Struct, frozen=True, kw_only=True):
    """What was read between two positions of a file, or from several small ones."""

    importer: str
    version: int
    pieces: list[Piece]
    answers: list[Answer] = []
    cursors: list[Cursor]
    skipped: Counter[str]
    rejected: list[Rejection]

    @property
    def size(self) -> int:
        """Bytes it puts into the queue."""
        return 256 + sum([piece.row.size for piece in self.pieces])


class Landed(msgspec.Struct):
    """What became of a chunk, per kind."""

    inserted: Counter[str]
    amended: Counter[str]
    duplicate: Counter[str]


def load_events(chunk: EventChunk, fulltext: FullText) -> Operation[Landed]:
    """Records what is new, amends what has changed, and writes the cursors."""
    landed = Landed(Counter(), Counter(), Counter())
    fresh, there = yield from _sorted(chunk.pieces, landed)
    if fresh:
        yield from record([Recording(tuple(piece.row for piece in fresh.values()))])
        landed.inserted.update(piece.kind for piece in fresh.values())
    yield from _replace(there, fulltext, landed)
    yield from _answer([answer for answer in chunk.answers if answer.key not in fresh], fulltext, landed)
    for cursor in chunk.cursors:
        yield write_cursor(chunk.importer, chunk.version, cursor)
    return landed


_KNOWN = f"SELECT e.dedupe_key FROM events e WHERE e.dedupe_key IN :keys AND e.scope = '' AND {VISIBLE}"


def _sorted(pieces: Sequence[Piece], landed: Landed) -> Operation[tuple[dict[str, Piece], dict[str, Piece]]]:
    """Those that are new, and those that may take the place of what is there, by key; the others are counted."""
    known: set[str] = set()
    if pieces:
        keys = [piece.key for piece in pieces]
        found = yield tuples(_KNOWN, keys=keys)
        known.update(key for (key,) in found)
    fresh: dict[str, Piece] = {}
    there: dict[str, Piece] = {}
    for piece in pieces:
        taken = there if piece.key in known else fresh
        before = taken.get(piece.key)
        if before is None and (taken is fresh or piece.mode is not Mode.ONCE):
            taken[piece.key] = piece
            continue
        landed.duplicate[piece.kind] += 1
        if before is not None and (piece.mode is Mode.ALWAYS or _is_later(piece, before)):
            taken[piece.key] = piece
    return fresh, there


def _is_later(piece: Piece, before: Piece) -> bool:
    return piece.mode is Mode.LATEST and piece.row.at >= before.row.at


def _replace(there: dict[str, Piece], fulltext: FullText, landed: Landed) -> Operation[None]:
    present = yield from read_keyed(list(there))
    changed: list[Amendment] = []
    for key, row in present.items():
        piece = there[key]
        columns = {name: value for name, value in piece.row.optional.items() if value is not None}
        late = piece.mode is Mode.LATEST and piece.row.at < row.at
        if late or columns == columns_of(row):
            landed.duplicate[piece.kind] += 1
        else:
            landed.amended[piece.kind] += 1
            changed.append(Amendment(row.id, piece.row.at, columns))
    yield from amend(fulltext, changed)


def _answer(answers: Sequence[Answer], fulltext: FullText, landed: Landed) -> Operation[None]:
    present = yield from read_keyed([answer.key for answer in answers])
    changed: dict[int, Amendment] = {}
    for answer in answers:
        row = present.get(answer.key)
        if row is not None and row.action == answer.before and row.id not in changed:
            landed.amended[answer.kind] += 1
            changed[row.id] = Amendment(row.id, row.at, _answered(row, answer))
    yield from amend(fulltext, list(changed.values()))


def _answered(row: Row, answer: Answer) -> dict[str, Any]:
    columns = columns_of(row)
    payload = {**(decode_json(columns["payload"]) if "payload" in columns else {}), **answer.facts}
    own = {name: value for name, value in answer.facts.items() if name in _OWN}
    return {**columns, **own, "action": answer.action, "payload": msgspec.json.encode(payload).decode()}


_OWN = ("result_size",)
"""facts that are columns as well"""
