"""Operations that read a page of rows and write one; and what two pages of the same table differ in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ..engine.fulltext import FullText
from ..engine.operation import Operation, execute, horizon, ids, many, one, tuples
from ..search.index import EVENT_ENTRIES, event_entry, read_state, reworded
from .tables import EVENTS, IMPORTER, MESSAGES, SESSIONS, TABLES, Key, Table, TableRow

ROWS = 1_000
"""rows of a page, at most"""

CHARACTERS = 1024 * 1024
"""texts of a page, at most, unless one row has more"""

NUMBERS_AT_ONCE = 8_192
"""numbers taken in one statement"""


class Page(NamedTuple):
    """The next rows of some tables, and how far they go: every row up to the key `end` is in it; None: there are
    no more."""

    rows: tuple[list[TableRow], ...]
    end: Key | None


# -- reading ---------------------------------------------------------------------------------------


def read_page(tables: Sequence[Table], after: Key, last: int) -> Operation[Page]:
    """The next rows of tables with keys of one kind, together no more than a page, in one snapshot."""
    sizes: list[TableRow] = []
    cut: list[Key] = []
    for table in tables:
        found = yield tuples(table.sizes, n=ROWS, last=last, **_values("after", after))
        sizes += found
        if len(found) == ROWS:
            cut.append(found[-1][:-1])
    upto, end = _reach(sorted(sizes), min(cut, default=None))
    if upto is None:
        return Page(tuple([[] for _ in tables]), None)
    rows: list[list[TableRow]] = []
    for table in tables:
        rows.append((yield tuples(table.rows, **_values("after", after), **_values("upto", upto))))
    return Page(tuple(rows), end)


def _reach(sizes: Sequence[TableRow], cut: Key | None) -> tuple[Key | None, Key | None]:
    """The key of the last row that there is room for, and that key once more if there may be rows behind it."""
    upto: Key | None = None
    characters = 0
    for count, (*key, size) in enumerate(sizes, 1):
        characters += size
        if upto is not None and (count > ROWS or characters > CHARACTERS):
            return upto, upto
        upto = tuple(key)
        if upto == cut:
            return upto, upto
    return upto, None


def _values(name: str, key: Key) -> dict[str, Any]:
    return {f"{name}{at}": value for at, value in enumerate(key)}


def read_newest(table: Table, last: int) -> Operation[Key]:
    """The last key of a table; one before all others if it is empty."""
    rows = yield tuples(table.newest, last=last)
    return rows[0] if rows else table.beginning


def read_counts(last: int) -> Operation[dict[str, int]]:
    """How many rows there are of each table."""
    counts: dict[str, int] = {}
    for table in TABLES:
        row = yield one(table.count, last=last)
        counts[table.name] = row.n
    return counts


def read_last() -> Operation[int]:
    """The number up to which all are decided."""
    return (yield horizon())


# -- comparing -------------------------------------------------------------------------------------


class Differences(NamedTuple):
    """What a table of the copy lacks, has otherwise, and has too much; up to `end` (None: to the end)."""

    lacking: list[TableRow]
    other: list[TableRow]
    surplus: list[Key]
    end: Key | None
    rows: list[TableRow]
    """of the source"""


def differences(table: Table, source: Page, copy: Page) -> Differences:
    """As far as both pages go."""
    end = min([page.end for page in (source, copy) if page.end is not None], default=None)
    rows, there = ([row for row in page.rows[0] if end is None or table.key_of(row) <= end] for page in (source, copy))
    if rows == there:
        return Differences([], [], [], end, rows)
    copied = {table.key_of(row): row for row in there}
    lacking = [row for row in rows if table.key_of(row) not in copied]
    other = [row for row in rows if copied.get(table.key_of(row), row) != row]
    surplus = list(copied.keys() - {table.key_of(row) for row in rows})
    return Differences(lacking, other, sorted(surplus), end, rows)


def encoded(rows: Sequence[TableRow]) -> bytes:
    """The rows as the checksum has them: each as a MessagePack array."""
    return b"".join(map(msgspec.msgpack.encode, rows))


# -- writing ---------------------------------------------------------------------------------------


class Change(NamedTuple):
    """Rows to put into a table of the copy, and keys of rows to take out."""

    table: Table
    put: Sequence[TableRow]
    drop: Sequence[Key] = ()


class Step(NamedTuple):
    """How far the copy of what is read by number has come with this page: the number, and how many are to be taken
    of the copy's sequence for it to come that far."""

    position: int
    numbers: int


def write_page(fulltext: FullText, changes: Sequence[Change], wary: bool, step: Step | None) -> Operation[None]:
    """Writes a page. `wary`: what is unique is taken from other rows of the copy first, which are still as they
    were in the source before."""
    yield fulltext.lock()
    if step is not None:
        yield from _advance(step)
    for change in changes:
        if change.table.indexed:
            yield from _write_indexed(fulltext, change, wary)
        else:
            yield from _write(change, wary)


def _advance(step: Step) -> Operation[None]:
    """The rows come with their numbers: whoever reads by number (the keeper, watches) gets the one with the other."""
    left = step.numbers
    while left > 0:
        taken = yield ids(min(left, NUMBERS_AT_ONCE))
        left -= len(taken)
    yield execute(
        "UPDATE import_cursors SET position = :position WHERE importer = :importer",
        position=step.position,
        importer=IMPORTER,
    )


def _write_indexed(fulltext: FullText, change: Change, wary: bool) -> Operation[None]:
    """The same for rows that the index may have read already; what it has of them changes with them."""
    state = yield from read_state()
    read = [id for (id, *_) in (*change.put, *change.drop) if id <= state.watermark]
    dropped = [id for (id,) in change.drop if id <= state.watermark]
    if not read:
        yield from _write(change, wary)
    elif change.table is EVENTS:
        yield from reworded(fulltext, read, _write(change, wary), EVENT_ENTRIES, event_entry)
    else:
        yield from reworded(fulltext, read, _write(change, wary))
    if dropped:  # their words go when the index is purged
        yield execute("UPDATE index_state SET erased = erased + :rows", rows=len(dropped))


def _write(change: Change, wary: bool) -> Operation[None]:
    table = change.table
    if change.drop:
        for sql in table.drops:
            yield many(sql, change.drop)
    if not change.put:
        return
    if wary or table is SESSIONS:
        for clash in table.clashes:
            claims = table.claims(clash, change.put)
            if claims:
                yield many(clash.sql, claims)
    yield many(table.put, change.put)


def read_reached(last: int) -> Operation[int]:
    """Up to which number the messages and events of the copy go."""
    keys: list[Key] = []
    for table in (MESSAGES, EVENTS):
        keys.append((yield from read_newest(table, last)))
    return max(0, *[id for (id,) in keys])
