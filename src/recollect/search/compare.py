"""The index against the rows: which rows it lacks, what it has that is no row, and whether words are found.

The index keeps no texts, so what it has of a row cannot be read back. Its ids can; and of some rows of each page it is
asked for the words they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..engine.fulltext import AllOf, FullText, Phrase
from ..engine.operation import Operation, all, one, tuples
from ..journal import OTHERS
from .index import ENTRIES, EVENT_ENTRIES, VERSION, Entry, event_entry, message_entry, read_state

PAGE = 512
"""ids compared in one snapshot"""

_SAMPLE, _WORDS = 128, 4
"""of so many rows one is looked for, by so many of its words"""

_AT_ONCE = 32
"""texts fetched together: each may be as long as the limit allows"""


class Compared(NamedTuple):
    """A page: the last id of it (None: there is no more), rows not in the index, entries without a row, and rows that
    are not found by their own words."""

    last: int | None
    missing: list[int]
    phantom: list[int]
    lost: list[int]


def compare_page(fulltext: FullText, after: int) -> Operation[Compared]:
    """What is indexed behind the id `after`. An index that is being made anew, or is a newer recollect's, is not
    compared."""
    state = yield from read_state()
    if state.version != VERSION:
        return Compared(None, [], [], [])
    top = state.watermark
    messages = yield tuples(
        "SELECT id FROM messages WHERE id > :after AND id <= :top ORDER BY id LIMIT :n", after=after, top=top, n=PAGE
    )
    events = yield tuples(
        f"SELECT id FROM events WHERE id > :after AND id <= :top AND {OTHERS} ORDER BY id LIMIT :n",
        after=after,
        top=top,
        n=PAGE,
    )
    held = yield fulltext.ids(after, top, PAGE)
    lists = [[id for (id,) in rows] for rows in (messages, events, held)]
    last = min([ids[-1] for ids in lists if len(ids) == PAGE], default=None)
    message_ids, event_ids, held_ids = [{id for id in ids if last is None or id <= last} for ids in lists]
    rows, found = message_ids | event_ids, held_ids
    missing = yield from _with_words(sorted(rows - found), state.row_bytes)
    sampled = yield from _entries([id for id in sorted(rows & found) if id % _SAMPLE == 0], state.row_bytes)
    lost = yield from _not_found(fulltext, sampled)
    return Compared(last, missing, sorted(found - rows), lost)


def _with_words(ids: Sequence[int], most: int) -> Operation[list[int]]:
    """Those of these rows that have something to find."""
    return [entry.id for entry in (yield from _entries(ids, most)) if entry.words]


def _entries(ids: Sequence[int], most: int) -> Operation[list[Entry]]:
    entries: list[Entry] = []
    for first in range(0, len(ids), _AT_ONCE):
        some = ids[first : first + _AT_ONCE]
        entries += [message_entry(row, most) for row in (yield all(ENTRIES, ids=some, most=most))]
        entries += [event_entry(row, most) for row in (yield all(EVENT_ENTRIES, ids=some, most=most))]
    return entries


def _not_found(fulltext: FullText, entries: Sequence[Entry]) -> Operation[list[int]]:
    lost: list[int] = []
    for entry in entries:
        words = tuple(Phrase((word,)) for word in entry.words.split()[:_WORDS])
        condition, params = fulltext.condition(AllOf(words), entry.keys.split()[:1])
        there = yield one(
            f"SELECT 1 AS n FROM {fulltext.table} WHERE {condition} AND {fulltext.id} = :id", id=entry.id, **params
        )
        if there is None:
            lost.append(entry.id)
    return lost
