"""Pruning: events that are old leave the table and the search index."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from ..access import everybodys
from ..encoding import instant, now
from ..engine.fulltext import FullText
from ..engine.operation import Operation, tuples
from ..errors import InvalidRecord
from ..filters import Filter
from ..journal import VISIBLE
from ..search.erase import erase_events

PRUNED_AT_ONCE = 64
"""events of one transaction, which takes about a millisecond"""


def as_aged(older_than: timedelta | datetime, kind: str | Sequence[str] | None) -> Filter:
    """The condition that events to prune meet."""
    if isinstance(older_than, datetime):
        before = instant(older_than, "older_than")
    elif isinstance(older_than, timedelta) and older_than >= timedelta(0):  # pyright: ignore[reportUnnecessaryIsInstance]
        before = now() - older_than // timedelta(milliseconds=1)
    else:
        raise InvalidRecord(f"older_than must be a timedelta of at least 0 or an aware datetime, not {older_than!r}")
    where = Filter()
    where.add("e.at < :before", before=before)
    where.among("e.kind", kind)
    return where


def prune(fulltext: FullText, ids: Sequence[int], where: Filter) -> Operation[int]:
    """Erases those of these events that are still to be pruned; how many."""
    rows = yield tuples(
        f"SELECT e.id FROM events e WHERE e.id IN :ids AND {VISIBLE}{where.sql}", ids=ids, **where.params
    )
    going = [id for (id,) in rows]
    if going:
        yield everybodys()  # the search index is one
        yield from erase_events(fulltext, going)
    return len(going)
