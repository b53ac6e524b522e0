"""The life of a session: created, filled in, updated, ended, reopened, deleted. What happens is
recorded as an event of kind `store.*` in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..encoding import now, second
from ..engine.operation import Operation, Row, all, execute, ids, lock, many, one, tuples
from ..errors import SessionExists, SessionNotFound, SpawnTooDeep
from ..models import Session
from .record import read_session
from .titles import claim, holder_of


class NewSession(NamedTuple):
    """A session to create, checked and encoded; None where nothing was given."""

    id: str
    source: str
    user_id: str | None
    key: str | None
    model: str | None
    config: str | None
    system_prompt: str | None
    title: str | None
    metadata: str | None
    parent_id: str | None
    relation: str | None
    lifecycle: str
    spawn_tool_call_id: str | None
    created_at: int


def create(new: NewSession, deepest: int) -> Operation[Session]:
    """Makes a session; an id that is there already is an error."""
    yield lock(*sorted({new.id, new.parent_id or new.id}))
    if (yield one("SELECT 1 AS n FROM sessions WHERE id = :id", id=new.id)):
        raise SessionExists(f"session {new.id!r} exists; not stored: use sessions.ensure to accept it")
    yield from _insert(new, deepest)
    return (yield from _existing(new.id))


def ensure(new: NewSession, deepest: int) -> Operation[Session]:
    """Makes a session, or fills in what one that is there still lacks."""
    yield lock(*sorted({new.id, new.parent_id or new.id}))
    row = yield one(_FILLABLE, id=new.id)
    if row is None:
        yield from _insert(new, deepest)
    else:
        yield from _fill(row, new)
        if row.parent is None and new.parent_id is not None:
            yield from _adopt(row, new, deepest)
    return (yield from _existing(new.id))


_FILLABLE = """
SELECT s.session, s.kind, s.source, s.user_id, s.key, s.model, s.title, s.parent, s.lifecycle, s.spawn_depth,
  s.spawn_tool_call_id, s.next_seq, t.system_prompt, t.config, t.metadata
FROM sessions s LEFT JOIN session_texts t ON t.session = s.session WHERE s.id = :id"""


def _fill(row: Row, new: NewSession) -> Operation[None]:
    given = new._asdict()
    missing = {
        name: given[name]
        for name in ("user_id", "key", "model", "title", "spawn_tool_call_id")
        if getattr(row, name) is None and given[name] is not None
    }
    if row.source == UNKNOWN_SOURCE and new.source != UNKNOWN_SOURCE:
        missing["source"] = new.source
    if "user_id" in missing and row.next_seq > 1:
        missing["user_late"] = 1  # its messages are indexed without the user: searches look for the session
    texts = {name: given[name] for name in TEXTS if getattr(row, name) is None and given[name] is not None}
    if "title" in missing and (yield from holder_of(missing["title"], but=new.id)):
        del missing["title"]  # somebody else's: ensure never raises for a session that is there
    if missing:
        yield from _set(row.session, missing)
    if texts:
        yield from set_texts(row.session, texts)


def _adopt(row: Row, new: NewSession, deepest: int) -> Operation[None]:
    """Gives a session that has none its parent, and what is below it its depth; nothing if it cannot be."""
    try:
        parent, depth = yield from _placed(new, deepest)
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
    yield from _set(row.session, values)
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


UNKNOWN_SOURCE = "unknown"
TEXTS = ("system_prompt", "config", "metadata")


def _set(session: int, values: dict[str, Any]) -> Operation[None]:
    columns = "".join(f"{name} = :{name}, " for name in values)
    yield execute(
        f"UPDATE sessions SET {columns}updated_at = :now, revision = revision + 1 WHERE session = :session",
        session=session,
        now=now(),
        **values,
    )


def set_texts(session: int, texts: dict[str, str | None]) -> Operation[None]:
    """Writes some of the long texts of a session."""
    there = yield one("SELECT 1 AS n FROM session_texts WHERE session = :session", session=session)
    if there is None:
        yield execute("INSERT INTO session_texts (session) VALUES (:session)", session=session)
    columns = ", ".join(f"{name} = :{name}" for name in texts)
    yield execute(f"UPDATE session_texts SET {columns} WHERE session = :session", session=session, **texts)


_INSERT = """
INSERT INTO sessions (session, id, kind, source, user_id, key, model, title, parent, relation, lifecycle,
  spawn_depth, spawn_tool_call_id, created_at, updated_at, last_active_at, activity)
VALUES (:session, :id, :kind, :source, :user_id, :key, :model, :title, :parent, :relation, :lifecycle,
  :spawn_depth, :spawn_tool_call_id, :created_at, :created_at, :created_at, :activity)"""


def _insert(new: NewSession, deepest: int) -> Operation[None]:
    yield from claim(new.title, new.id)
    session, event = yield ids(2)
    parent, depth = yield from _placed(new, deepest)
    row = {name: value for name, value in new._asdict().items() if name not in (*TEXTS, "parent_id")}
    kind = "subagent" if new.relation == "spawn" else "root"
    activity = second(new.created_at)
    yield execute(_INSERT, session=session, kind=kind, parent=parent, spawn_depth=depth, activity=activity, **row)
    texts = {name: value for name in TEXTS if (value := getattr(new, name)) is not None}
    if texts:
        yield from set_texts(session, texts)
    yield record_event(event, "store.created", new.id, new.created_at)


def _placed(new: NewSession, deepest: int) -> Operation[tuple[int | None, int]]:
    """The parent's number and the depth below it."""
    if new.parent_id is None:
        return None, 0
    parent = yield one("SELECT session, spawn_depth FROM sessions WHERE id = :id", id=new.parent_id)
    if parent is None:
        raise SessionNotFound(f"no parent session {new.parent_id!r}; not stored")
    depth = parent.spawn_depth + (new.relation == "spawn")
    if new.relation == "spawn" and depth > deepest:
        raise SpawnTooDeep(f"a child of {new.parent_id!r} would be {depth} deep, limits.spawn_depth is {deepest}")
    return parent.session, depth


def record_event(id: int, kind: str, session_id: str, at: int, name: str | None = None) -> Any:
    """The event of something that happened to a session."""
    return execute(
        "INSERT INTO events (id, at, kind, session_id, name) VALUES (:id, :at, :kind, :session_id, :name)",
        id=id,
        at=at,
        kind=kind,
        session_id=session_id,
        name=name,
    )


def _existing(session_id: str) -> Operation[Session]:
    found = yield from read_session(session_id)
    if found is None:
        raise SessionNotFound(f"no session {session_id!r}; not stored")
    return found


def update(session_id: str, values: dict[str, Any], texts: dict[str, str | None]) -> Operation[Session]:
    """Sets columns and long texts; None clears."""
    yield lock(session_id)
    row = yield one("SELECT session FROM sessions WHERE id = :id", id=session_id)
    if row is None:
        raise SessionNotFound(f"no session {session_id!r}; not stored")
    yield from _set(row.session, values)
    if texts:
        yield from set_texts(row.session, texts)
    return (yield from _existing(session_id))


def end(session_id: str, reason: str, replace: bool) -> Operation[Session]:
    """Ends a session; one that has ended keeps its time, and its reason unless told otherwise."""
    yield lock(session_id)
    row = yield one("SELECT session, ended_at, status FROM sessions WHERE id = :id", id=session_id)
    if row is None:
        raise SessionNotFound(f"no session {session_id!r}; not stored")
    if row.ended_at is None or replace:
        at = now()
        values: dict[str, Any] = {"end_reason": reason, "ended_at": row.ended_at or at}
        if row.status == "active":
            values["status"] = "ended"
        yield from _set(row.session, values)
        (event,) = yield ids(1)
        yield record_event(event, "store.ended", session_id, at, reason)
    return (yield from _existing(session_id))


def reopen(session_id: str) -> Operation[Session]:
    """Makes an ended session active again."""
    yield lock(session_id)
    row = yield one("SELECT session, ended_at, status FROM sessions WHERE id = :id", id=session_id)
    if row is None:
        raise SessionNotFound(f"no session {session_id!r}; not stored")
    if row.ended_at is not None:
        status = "active" if row.status == "ended" else row.status
        yield from _set(row.session, {"ended_at": None, "end_reason": None, "status": status})
        (event,) = yield ids(1)
        yield record_event(event, "store.reopened", session_id, now())
    return (yield from _existing(session_id))


def delete(session_id: str, cascade: bool) -> Operation[list[str] | None]:
    """Takes a session out, with its ephemeral and linked spawned descendants if `cascade`.

    The rows lose their id, and with it everything that could name them; the keeper erases them and
    their messages in chunks. Children that stay lose their parent.

    Their events are deleted first, some at a time: None as long as there are more, and nothing else is
    done then. Only those without a text: one with a text may be in the search index, which forgets it
    only if told its words. Nothing here writes such events yet; they are for the room of events to erase.
    """
    yield lock(session_id)
    root = yield one("SELECT session, id FROM sessions WHERE id = :id", id=session_id)
    if root is None:
        return []
    going: list[Row] = [root]
    if cascade:
        going += yield from _dependents([root.session])
        yield lock(*sorted(row.id for row in going))
    gone = [row.id for row in going]
    events = yield tuples(_EVENTS, gone=gone, n=EVENTS_AT_ONCE)
    if events:
        yield many("DELETE FROM events WHERE id = ?", events)
        if len(events) == EVENTS_AT_ONCE:
            return None
    numbers = [row.session for row in going]
    yield execute("UPDATE sessions SET parent = NULL WHERE parent IN :numbers", numbers=numbers)
    yield execute(
        "UPDATE sessions SET id = NULL, title = NULL, key = NULL, parent = NULL, preview = NULL, updated_at = :now"
        " WHERE session IN :numbers",
        numbers=numbers,
        now=now(),
    )
    yield execute("DELETE FROM session_texts WHERE session IN :numbers", numbers=numbers)
    events = yield ids(len(gone))
    at = now()
    yield many(
        "INSERT INTO events (id, at, kind, session_id) VALUES (?, ?, 'store.deleted', ?)",
        [(event, at, id) for event, id in zip(events, gone, strict=True)],
    )
    return gone


EVENTS_AT_ONCE = 1_000
"""events deleted in one transaction"""

_EVENTS = "SELECT id FROM events WHERE session_id IN :gone AND text IS NULL LIMIT :n"


def _dependents(parents: Sequence[int]) -> Operation[list[Row]]:
    """Spawned children that go with their parent, and theirs."""
    found: list[Row] = []
    while parents:
        level = yield all(
            "SELECT session, id FROM sessions WHERE parent IN :parents AND relation = 'spawn'"
            " AND lifecycle <> 'detached' AND id IS NOT NULL ORDER BY created_at, id",
            parents=list(parents),
        )
        found += level
        parents = [row.session for row in level]
    return found
