"""Erasing: what was deleted or cleared leaves the tables and the index, to the last byte.

A row leaves in chunks. Its words stay in the older parts of the index until all of it is merged: that is
the purge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..engine.fulltext import FullText, IndexDamaged
from ..engine.operation import Operation, Row, all, execute, many, one, tuples
from .index import (
    EVENT_ENTRIES,
    TEXT,
    VERSION,
    Lag,
    condemn,
    event_entry,
    read_lag,
    read_state,
    remove_entries,
    too_new,
)

ERASED_AT_ONCE = 64

_ERASABLE = f"{TEXT} WHERE m.session = :session AND m.state IN (0, 1, 2, 3) LIMIT :n"
_GONE = "SELECT session, gone_id, gone_before, user_id FROM sessions WHERE id IS NULL ORDER BY session LIMIT 1"
_CLEARED = f"{TEXT} WHERE m.state = 3 ORDER BY m.id LIMIT :n"


def erase_chunk(fulltext: FullText) -> Operation[bool]:
    """Erases some rows of a deleted session, or cleared ones, with their entries; True while there may be more."""
    yield fulltext.lock()
    state = yield from read_state()
    if state.version > VERSION:
        return False
    gone = yield one(_GONE)
    if gone is None:
        cleared = yield all(_CLEARED, n=ERASED_AT_ONCE, most=state.row_bytes)
        yield from _erase(fulltext, state, cleared)
        return bool(cleared)
    if gone.gone_id is not None:
        yield from _erase_events_of(fulltext, gone)
        return True
    rows = yield all(_ERASABLE, session=gone.session, n=ERASED_AT_ONCE, most=state.row_bytes)
    if rows:
        yield from _erase(fulltext, state, rows)
        return True
    for table in ("compactions", "usage_rounds", "leases", "session_texts", "sessions"):
        yield execute(f"DELETE FROM {table} WHERE session = :session", session=gone.session)
    return True


def _erase(fulltext: FullText, state: Row, rows: Sequence[Row]) -> Operation[None]:
    """Erases messages with their entries."""
    if rows:
        yield from remove_entries(fulltext, state, rows)
        yield from _note_erased(len(rows))
        yield many("DELETE FROM messages WHERE id = ?", [(row.id,) for row in rows])


def _erase_events_of(fulltext: FullText, gone: Row) -> Operation[None]:
    """Erases some events of a deleted session with their entries; when there are no more, that is noted."""
    events = yield tuples(
        "SELECT id FROM events WHERE session_id = :gone_id AND id < :before AND (user_id IS NULL OR user_id = :user)"
        " ORDER BY id LIMIT :n",
        gone_id=gone.gone_id,
        before=gone.gone_before,
        user=gone.user_id,
        n=ERASED_AT_ONCE,
    )
    if events:
        yield from _erase_events(fulltext, (yield from read_state()), [id for (id,) in events])
    else:
        yield execute("UPDATE sessions SET gone_id = NULL WHERE session = :session", session=gone.session)


def erase_events(fulltext: FullText, ids: Sequence[int]) -> Operation[None]:
    """Erases events with their entries. A damaged index does not stop it: it is made anew. Raises
    SchemaTooNew where the index is kept by a newer recollect, which knows their entries."""
    yield fulltext.lock()
    state = yield from read_state()
    if state.version > VERSION and min(ids) <= state.watermark:
        raise too_new(state.version)
    try:
        yield from _erase_events(fulltext, state, ids)
    except IndexDamaged:
        yield from condemn()
        yield from _drop_events(ids)


def _erase_events(fulltext: FullText, state: Row, ids: Sequence[int]) -> Operation[None]:
    rows = yield all(EVENT_ENTRIES, ids=ids, most=state.row_bytes)
    yield from remove_entries(fulltext, state, rows, event_entry)
    if rows:
        yield from _note_erased(len(rows))
    yield from _drop_events(ids)


def _drop_events(ids: Sequence[int]) -> Operation[None]:
    yield many("DELETE FROM events WHERE id = ?", [(id,) for id in ids])


def _note_erased(rows: int) -> Operation[None]:
    """Their words go when the index is purged."""
    yield execute("UPDATE index_state SET erased = erased + :rows", rows=rows)


def purge_step(fulltext: FullText, pages: int, begun: int | None) -> Operation[int | None]:
    """One bounded step of rewriting the index without the words of what was taken out of it, which merging
    alone leaves in its older parts. `begun`: what the step before returned; None: there is no more to do."""
    if begun is None:
        state = yield one("SELECT erased, purged, version FROM index_state")
        if state.erased <= state.purged or state.version != VERSION:
            return None
        begun, pages = int(state.erased), -pages
    if (yield from fulltext.merge(pages)):
        return begun
    yield execute("UPDATE index_state SET purged = :begun WHERE purged < :begun", begun=begun)
    return None


class Work(NamedTuple):
    """What there is to do beside indexing."""

    erasing: bool
    """a deleted session, or cleared messages, wait to be erased"""
    purging: bool
    """words of what was erased are in the index's pages"""


def read_work() -> Operation[tuple[Lag, Work]]:
    """Where the index stands, and what else there is to do."""
    lag = yield from read_lag()
    gone = yield one("SELECT 1 AS n FROM sessions WHERE id IS NULL LIMIT 1")
    cleared = yield one("SELECT 1 AS n FROM messages WHERE state = 3 LIMIT 1")
    state = yield one("SELECT erased, purged FROM index_state")
    return lag, Work(bool(gone or cleared), state.erased > state.purged)
