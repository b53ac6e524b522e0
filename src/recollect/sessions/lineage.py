"""Lineage: where a session stands below others, and who is above and below it. A parent is always
there: who loses it has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..engine.operation import Operation, Row, all, lock, many, one, tuples
from ..errors import SessionNotFound, SpawnTooDeep
from ..filters import Filter
from ..models import Session
from .change import change
from .record import COLUMNS, JOINS, TABLES, session

if TYPE_CHECKING:
    from .life import NewSession

# -- placing ---------------------------------------------------------------------------------------


def placed(
    parent_id: str | None, relation: str | None, deepest: int, within: str | None
) -> Operation[tuple[int | None, int]]:
    """The parent's number and the depth below it."""
    if parent_id is None:
        return None, 0
    parent = yield one("SELECT session, spawn_depth, user_id FROM sessions WHERE id = :id", id=parent_id)
    if parent is None or within not in (None, parent.user_id):
        raise SessionNotFound(f"no parent session {parent_id!r}; not stored")
    depth = parent.spawn_depth + (relation == "spawn")
    if relation == "spawn" and depth > deepest:
        raise SpawnTooDeep(f"a child of {parent_id!r} would be {depth} deep, limits.spawn_depth is {deepest}")
    return parent.session, depth


def adopt(row: Row, new: NewSession, deepest: int) -> Operation[None]:
    """Gives a session that has none its parent, and what is below it its depth; nothing if it cannot be."""
    try:
        parent, depth = yield from placed(new.parent_id, new.relation, deepest, new.within)
    except (SessionNotFound, SpawnTooDeep):
        return
    below = yield from _below(row.session)
    deeper = depth - row.spawn_depth
    if parent in {row.session, *(number for number, _ in below)}:
        return
    if deeper > 0 and any(spawn_depth + deeper > deepest for _, spawn_depth in below):
        return
    values: dict[str, Any] = {"parent": parent, "relation": new.relation, "spawn_depth": depth}
    if new.relation == "spawn":
        values["kind"] = "subagent"
    if row.lifecycle == "ephemeral":  # what it is if nothing is said
        values["lifecycle"] = new.lifecycle
    yield from change(row.session, values)
    if below and deeper:
        yield many(
            "UPDATE sessions SET spawn_depth = ?, revision = revision + 1 WHERE session = ?",
            [(spawn_depth + deeper, number) for number, spawn_depth in below],
        )


def _below(session: int) -> Operation[list[tuple[int, int]]]:
    """Every descendant, of whatever relation, locked, with its depth."""
    found: list[tuple[int, int]] = []
    parents = [session]
    while parents:
        level = yield tuples(
            "SELECT session, spawn_depth, id FROM sessions WHERE parent IN :parents ORDER BY session", parents=parents
        )
        if level:
            yield lock(*sorted(id for *_, id in level))
        found += [(number, depth) for number, depth, _ in level]
        parents = [number for number, *_ in level]
    return found


def dependents(parents: Sequence[int], within: str | None) -> Operation[list[Row]]:
    """Spawned children that go with their parent, and theirs; `within` a user, his and nobody's."""
    own = Filter()
    if within is not None:
        own.add("(user_id IS NULL OR user_id = :within)", within=within)
    found: list[Row] = []
    while parents:
        level = yield all(
            "SELECT session, id, user_id FROM sessions WHERE parent IN :parents AND relation = 'spawn'"
            f" AND lifecycle <> 'detached' AND id IS NOT NULL{own.sql} ORDER BY created_at, id",
            parents=list(parents),
            **own.params,
        )
        found += level
        parents = [row.session for row in level]
    return found


# -- reading ---------------------------------------------------------------------------------------

_UP = """
WITH RECURSIVE up (session, parent, height) AS (
  SELECT session, parent, 0 FROM sessions WHERE id = :id
  UNION ALL SELECT a.session, a.parent, up.height + 1 FROM up JOIN sessions a ON a.session = up.parent)"""

_DOWN = """
WITH RECURSIVE down (session) AS (
  SELECT session FROM sessions WHERE id = :id
  UNION SELECT c.session FROM down JOIN sessions c ON c.parent = down.session)"""


def read_children(session_id: str, relations: Filter, within: str | None) -> Operation[list[Session]]:
    """The sessions right below, by creation, then id."""
    condition = "s.parent IN (SELECT session FROM sessions WHERE id = :id) AND s.id IS NOT NULL"
    rows = yield all(
        f"SELECT {COLUMNS} FROM {TABLES} WHERE {condition}{relations.sql} ORDER BY s.created_at, s.id",
        id=session_id,
        **relations.params,
    )
    return _own(rows, within)


def read_ancestors(session_id: str, within: str | None) -> Operation[list[Session]]:
    """The sessions above, the root first."""
    rows = yield all(
        f"{_UP} SELECT {COLUMNS} FROM up JOIN sessions s ON s.session = up.session {JOINS}"
        " WHERE up.height > 0 ORDER BY up.height DESC",
        id=session_id,
    )
    return _own(rows, within)


def read_root(session_id: str, within: str | None) -> Operation[Session | None]:
    """The topmost session of the line, which may be the session itself."""
    rows = yield all(
        f"{_UP} SELECT {COLUMNS} FROM up JOIN sessions s ON s.session = up.session {JOINS} ORDER BY up.height DESC",
        id=session_id,
    )
    return next(iter(_own(rows, within)), None)


def read_descendants(session_id: str, within: str | None) -> Operation[list[Session]]:
    """Every session below, by creation, then id."""
    rows = yield all(
        f"{_DOWN} SELECT {COLUMNS} FROM down JOIN sessions s ON s.session = down.session {JOINS}"
        " WHERE s.id <> :id ORDER BY s.created_at, s.id",
        id=session_id,
    )
    return _own(rows, within)


_CONTINUED_BY = f"""
SELECT {COLUMNS}, s.session AS number FROM {TABLES}
WHERE s.parent = :parent AND s.relation = 'continuation' AND s.id IS NOT NULL"""


def read_tip(session_id: str, within: str | None) -> Operation[Session | None]:
    """Where the session's line goes on to: the latest continuation, and its, until there is none."""
    row = yield one(f"SELECT {COLUMNS}, s.session AS number FROM {TABLES} WHERE s.id = :id", id=session_id)
    own = Filter()
    if within is not None:
        own.add("s.user_id = :within", within=within)
    tip = None
    while row is not None and within in (None, row.user_id):
        tip = row
        row = yield one(
            f"{_CONTINUED_BY}{own.sql} ORDER BY s.created_at DESC, s.id DESC LIMIT 1", parent=tip.number, **own.params
        )
    return tip and session(tip, within)


def _own(rows: Sequence[Row], within: str | None) -> list[Session]:
    return [session(row, within) for row in rows if within in (None, row.user_id)]
