"""What goes: a session deleted, a child that returned, those that were idle for long.

A session that goes loses its id, and with it everything that could name it; the keeper erases its rows
and its events in chunks. Children that stay lose their parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from ..access import everybodys, locked
from ..encoding import now, second
from ..engine.operation import Operation, Row, all, execute, lock, one
from ..errors import InvalidRecord
from ..filters import Filter
from ..journal import deleted
from .change import withdraw
from .life import end_row
from .lineage import dependents


def delete(session_id: str, cascade: bool, within: str | None) -> Operation[list[str]]:
    """Takes a session out, with its ephemeral and linked spawned descendants if `cascade`. `within` a user,
    only his own are named."""
    yield lock(session_id)
    root = yield one("SELECT session, id, user_id FROM sessions WHERE id = :id", id=session_id)
    if root is None:
        return []
    yield everybodys()  # children that lose their parent may be others', and some that go were nobody's
    going: list[Row] = [root]
    while cascade:
        found = [root, *(yield from dependents([root.session], within))]
        if len(found) == len(going):
            break
        yield lock(*sorted(row.id for row in found))
        going = found  # until those that are locked are all: one may have been spawned before its parent was
    yield from retire(going)
    return [row.id for row in going if within in (None, row.user_id)]


def retire(going: Sequence[Row]) -> Operation[None]:
    """Takes these sessions out."""
    numbers = [row.session for row in going]
    yield execute(
        "UPDATE sessions SET parent = NULL, revision = revision + 1 WHERE parent IN :numbers", numbers=numbers
    )
    first = yield from deleted([row.id for row in going])
    yield from withdraw(numbers, events_before=first)
    yield execute("DELETE FROM session_texts WHERE session IN :numbers", numbers=numbers)


COMPLETED = "completed"


def returned(session_id: str, status: str, within: str | None) -> Operation[bool]:
    """A child returned: an ephemeral one that completed goes, with what is below it; any other is ended."""
    row = yield from locked(session_id, "session, kind, lifecycle, status, ended_at")
    if row.kind == "subagent" and row.lifecycle == "ephemeral" and status == COMPLETED:
        yield from delete(session_id, True, within)
        return True
    if row.kind == "subagent" and row.ended_at is None:
        yield from end_row(row, session_id, status)
    return False


# -- those that were idle --------------------------------------------------------------------------


def as_idle(idle_for: timedelta, source: str | Sequence[str] | None, include_active: bool) -> Filter:
    """The condition that sessions to prune meet."""
    if not isinstance(idle_for, timedelta) or idle_for < timedelta(0):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"idle_for must be a timedelta of at least 0, not {idle_for!r}")
    where = Filter()
    since = now() - idle_for // timedelta(milliseconds=1)
    where.add("s.activity <= :until_second", until_second=second(since))
    where.add("s.last_active_at < :until", until=since)
    where.among("s.source", source)
    where.among("s.status", ["active", "ended"] if include_active else "ended")
    return where


Place = tuple[int, int]
"""activity and number of a session: where the next page begins"""


def read_idle(where: Filter, after: Place | None, n: int) -> Operation[tuple[list[str], Place | None]]:
    """The next sessions to prune, the longest idle first, and the place of the last."""
    behind = "" if after is None else " AND (s.activity, s.session) > (:activity, :number)"
    params = {} if after is None else {"activity": after[0], "number": after[1]}
    rows = yield all(
        f"SELECT s.id, s.activity, s.session FROM sessions s WHERE s.id IS NOT NULL{where.sql}{behind}"
        " ORDER BY s.activity, s.session LIMIT :n",
        n=n,
        **where.params,
        **params,
    )
    return [row.id for row in rows], (rows[-1].activity, rows[-1].session) if rows else None


def prune(session_ids: Sequence[str], where: Filter) -> Operation[list[str]]:
    """Takes those of these sessions out that are still to be pruned."""
    yield lock(*sorted(session_ids))
    going = yield all(
        f"SELECT s.session, s.id FROM sessions s WHERE s.id IN :ids{where.sql} ORDER BY s.activity, s.session",
        ids=session_ids,
        **where.params,
    )
    if going:
        yield everybodys()  # children that lose their parent may be others'
        yield from retire(going)
    return [row.id for row in going]
