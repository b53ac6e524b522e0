"""Reading events: filters in, records out, in the order in which they were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ..access import everybodys, only
from ..encoding import json_value, moment
from ..engine.operation import Operation, all, one, tuples
from ..errors import InvalidQuery
from ..filters import Filter
from ..journal import VISIBLE
from .typed import TYPED, RecordedEvent

COLUMNS = (
    "e.id, e.at, e.kind, e.session_id, e.run_id, e.name, e.action, e.issue_id, e.path, e.anchor, e.text,"
    " e.payload, e.dedupe_key"
)


def recorded(row: Sequence[Any]) -> RecordedEvent:
    """A row of COLUMNS as a record."""
    id, at, kind, session_id, run_id, name, action, issue_id, path, anchor, text, payload, key = row
    return RecordedEvent(
        kind, session_id, run_id, name, action, issue_id, path, anchor, text, json_value(payload), key,
        id=id, at=moment(at),
    )  # fmt: skip


def as_filter(
    *,
    kind: str | Sequence[str] | None = None,
    session_id: str | Sequence[str] | None = None,
    run_id: str | Sequence[str] | None = None,
    issue_id: str | Sequence[str] | None = None,
    path: str | Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Filter:
    """The conditions of `events.stream`."""
    where = Filter()
    given = {"kind": kind, "session_id": session_id, "run_id": run_id, "issue_id": issue_id, "path": path}
    for column, values in given.items():
        where.among(f"e.{column}", values)
    where.between("e.at", since, until)
    return where


def read_page(where: Filter, after: int, n: int) -> Operation[list[RecordedEvent]]:
    """The next `n` events behind the id `after`."""
    rows = yield tuples(
        f"SELECT {COLUMNS} FROM events e WHERE e.id > :after AND {VISIBLE}{where.sql} ORDER BY e.id LIMIT :n",
        after=after,
        n=n,
        **where.params,
    )
    return [recorded(row) for row in rows]


def read_recent(
    kind: str, where: Filter, limit: int | None, within: str | None = None
) -> Operation[list[RecordedEvent]]:
    """The last events of a kind, newest first. Raises InvalidQuery for a kind that nothing has."""
    if limit == 0:
        rows = []
    else:
        bound, params = ("", {}) if limit is None else (" LIMIT :limit", {"limit": limit})
        rows = yield tuples(
            f"SELECT {COLUMNS} FROM events e WHERE e.kind = :kind AND {VISIBLE}{where.sql} ORDER BY e.id DESC{bound}",
            kind=kind,
            **params,
            **where.params,
        )
    if not rows and kind not in TYPED:
        stored = yield from read_kinds(where, within)
        if kind not in stored:
            raise InvalidQuery(f"no events of kind {kind!r}; there are: {', '.join(sorted({*TYPED, *stored}))}")
    return [recorded(row) for row in rows]


# Each step looks up the next kind in the index: how many events there are does not matter.
_KINDS = """
WITH RECURSIVE stored (kind) AS (
  SELECT (SELECT MIN(kind) FROM events) FROM index_state
  UNION ALL
  SELECT (SELECT MIN(e.kind) FROM events e WHERE e.kind > stored.kind) FROM stored WHERE stored.kind IS NOT NULL
)
SELECT kind FROM stored WHERE kind IS NOT NULL"""


def read_kinds(where: Filter, within: str | None = None) -> Operation[list[str]]:
    """The kinds there are events of, in order."""
    yield everybodys()  # the index of kinds is everybody's: of one user's, each step would look for the next
    stored = yield all(_KINDS)
    yield only(within)
    kinds: list[str] = []
    for row in stored:
        found = yield one(
            f"SELECT 1 AS n FROM events e WHERE e.kind = :kind AND {VISIBLE}{where.sql} LIMIT 1",
            kind=row.kind,
            **where.params,
        )
        kinds += [row.kind] if found else []
    return kinds


def read_aged(where: Filter, after: int, n: int) -> Operation[tuple[list[int], int | None]]:
    """Ids of the next events to prune, and where to go on; None: there are no more. Those of a deleted session
    are erased without that."""
    rows = yield tuples(
        f"SELECT e.id FROM events e WHERE e.id > :after AND {VISIBLE}{where.sql} ORDER BY e.id LIMIT :n",
        after=after,
        n=n,
        **where.params,
    )
    found = [id for (id,) in rows]
    return found, found[-1] if len(found) == n else None
