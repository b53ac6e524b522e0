"""The life of a session: created, filled in, updated, ended, reopened, archived. What happens is
recorded as an event of kind `store.*` in the same transaction."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..access import everybodys, locked, only
from ..encoding import now, second
from ..engine.operation import Operation, Row, execute, ids, lock, one
from ..errors import KeyTaken, SessionExists
from ..journal import claim_events, happened, record_event
from ..models import Session
from .change import change, set_texts
from .lineage import adopt, placed
from .record import existing
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
    within: str | None = None
    """the only user whose sessions may be touched or named"""


UNKNOWN_SOURCE = "unknown"
TEXTS = ("system_prompt", "config", "metadata")


def create(new: NewSession, deepest: int) -> Operation[Session]:
    """Makes a session; an id that is there already is an error."""
    yield lock(*sorted({new.id, new.parent_id or new.id}))
    yield from insert(new, deepest)
    return (yield from existing(new.id, new.within))


_INSERT = """
INSERT INTO sessions (session, id, kind, source, user_id, key, model, title, parent, relation, lifecycle,
  spawn_depth, spawn_tool_call_id, created_at, updated_at, last_active_at, activity, user_late)
VALUES (:session, :id, :kind, :source, :user_id, :key, :model, :title, :parent, :relation, :lifecycle,
  :spawn_depth, :spawn_tool_call_id, :created_at, :created_at, :created_at, :activity, :user_late)"""


def insert(new: NewSession, deepest: int) -> Operation[int]:
    """Writes a session; its number. Raises SessionExists, TitleTaken, KeyTaken, and what the parent may."""
    yield everybodys()  # names are unique in the whole store, and events may name the session that were nobody's
    if (yield one("SELECT 1 AS n FROM sessions WHERE id = :id", id=new.id)):
        raise _exists(new)
    yield from claim(new.title, new.id, new.within)
    yield from claim_key(new.key, new.id, new.within)
    late = yield from claim_events(new.id, new.user_id)
    yield only(new.within)
    session, event = yield ids(2)
    parent, depth = yield from placed(new.parent_id, new.relation, deepest, new.within)
    row = {name: value for name, value in new._asdict().items() if name not in (*TEXTS, "parent_id", "within")}
    kind = "subagent" if new.relation == "spawn" else "root"
    row["activity"] = second(new.created_at)
    row["user_late"] = int(late)
    yield execute(_INSERT, session=session, kind=kind, parent=parent, spawn_depth=depth, **row)
    texts = {name: value for name in TEXTS if (value := getattr(new, name)) is not None}
    if texts:
        yield from set_texts(session, texts)
    yield record_event(event, "store.created", new.id, new.created_at)
    return session


def _exists(new: NewSession) -> SessionExists:
    if new.within is not None:  # whose it is, is not told
        return SessionExists(f"the id {new.id!r} cannot be used; not stored: choose another")
    return SessionExists(f"session {new.id!r} exists; not stored: use sessions.ensure to accept it")


def claim_key(key: str | None, session_id: str, within: str | None) -> Operation[None]:
    """Raises KeyTaken if another session is the live one of that key."""
    if key is None:
        return
    held, by = yield from live_of(key, session_id, within)
    if held:
        raise KeyTaken(key, by)


def live_of(key: str, but: str, within: str | None) -> Operation[tuple[bool, str | None]]:
    """Whether another session is the live one of the key, and which; not named if it is not of `within`."""
    row = yield one(
        "SELECT id, user_id FROM sessions WHERE key = :key AND status = 'active' AND id <> :id", key=key, id=but
    )
    if row is None:
        return False, None
    return True, row.id if within is None or row.user_id == within else None


# -- filled in -------------------------------------------------------------------------------------


def ensure(new: NewSession, deepest: int) -> Operation[Session]:
    """Makes a session, or fills in what one that is there still lacks."""
    for is_again in (False, True):
        if (yield from _filled(new, deepest)):
            break
        try:
            yield from insert(new, deepest)
            break
        except SessionExists as error:  # by now: another process was faster
            if is_again or isinstance(error, KeyTaken):
                raise
    return (yield from existing(new.id, new.within))


def _filled(new: NewSession, deepest: int) -> Operation[bool]:
    """Whether the session was there; if so, it is filled in."""
    yield lock(*sorted({new.id, new.parent_id or new.id}))
    row = yield one(_FILLABLE, id=new.id)
    if row is None:
        return False
    if new.within not in (None, row.user_id):
        raise _exists(new)
    yield from _fill(row, new)
    if row.parent is None and new.parent_id is not None:
        yield everybodys()  # what is below it may be others', and gets its depth
        yield from adopt(row, new, deepest)
        yield only(new.within)
    return True


_FILLABLE = """
SELECT s.session, s.kind, s.source, s.user_id, s.key, s.model, s.title, s.status, s.parent, s.lifecycle,
  s.spawn_depth, s.spawn_tool_call_id, s.next_seq, t.system_prompt, t.config, t.metadata
FROM sessions s LEFT JOIN session_texts t ON t.session = s.session WHERE s.id = :id"""


def _fill(row: Row, new: NewSession) -> Operation[None]:
    given = new._asdict()
    lacking = {
        name: given[name]
        for name in ("user_id", "key", "model", "title", "spawn_tool_call_id")
        if getattr(row, name) is None and given[name] is not None
    }
    if row.source == UNKNOWN_SOURCE and new.source != UNKNOWN_SOURCE:
        lacking["source"] = new.source
    yield everybodys()  # who has the title or the key may be another
    if "user_id" in lacking and ((yield from claim_events(new.id, new.user_id)) or row.next_seq > 1):
        lacking["user_late"] = 1  # what is indexed of it is without the user: searches look for the session
    yield from _leave_out_taken(row, new.id, lacking)
    yield only(new.within)
    texts = {name: given[name] for name in TEXTS if getattr(row, name) is None and given[name] is not None}
    if lacking:
        yield from change(row.session, lacking)
    if "title" in lacking:
        yield from happened("store.titled", new.id, lacking["title"])
    if texts:
        yield from set_texts(row.session, texts)


def _leave_out_taken(row: Row, session_id: str, values: dict[str, Any]) -> Operation[None]:
    """What is somebody else's already: ensure never raises for a session that is there."""
    if "title" in values and (yield from holder_of(values["title"], session_id))[0]:
        del values["title"]
    if "key" in values and row.status == "active" and (yield from live_of(values["key"], session_id, None))[0]:
        del values["key"]


# -- changed ---------------------------------------------------------------------------------------

_STATUS = "session, key, ended_at, status"


def update(
    session_id: str, values: dict[str, Any], texts: dict[str, str | None], within: str | None
) -> Operation[Session]:
    """Sets columns and long texts; None clears."""
    row = yield from locked(session_id, _STATUS)
    yield from change(row.session, values)
    if texts:
        yield from set_texts(row.session, texts)
    return (yield from existing(session_id, within))


def end(session_id: str, reason: str, replace: bool, within: str | None) -> Operation[Session]:
    """Ends a session; one that has ended keeps its time, and its reason unless told otherwise."""
    row = yield from locked(session_id, _STATUS)
    if row.ended_at is None or replace:
        yield from end_row(row, session_id, reason)
    return (yield from existing(session_id, within))


def end_row(row: Row, session_id: str, reason: str | None, at: int | None = None) -> Operation[None]:
    """Ends the session of that row, now or at a time that is told; one that has ended keeps its time."""
    values: dict[str, Any] = {"end_reason": reason, "ended_at": row.ended_at or (now() if at is None else at)}
    if row.status == "active":
        values["status"] = "ended"
    yield from change(row.session, values)
    yield from happened("store.ended", session_id, reason)


def reopen(session_id: str, switch: str | None, within: str | None) -> Operation[Session]:
    """Makes an ended session active again. Another live session of its key is ended with the reason
    `switch`; without one that is KeyTaken."""
    row = yield from locked(session_id, _STATUS)
    if row.ended_at is not None:
        status = "active" if row.status == "ended" else row.status
        if status == "active":
            yield from _take_key(row, session_id, switch, within)
        yield from change(row.session, {"ended_at": None, "end_reason": None, "status": status})
        yield from happened("store.reopened", session_id)
    return (yield from existing(session_id, within))


def _take_key(row: Row, session_id: str, switch: str | None, within: str | None) -> Operation[None]:
    if switch is not None and row.key is not None:
        _, holder = yield from live_of(row.key, session_id, within)
        if holder is not None:
            other = yield from locked(holder, _STATUS)
            yield from end_row(other, holder, switch)
    yield everybodys()  # who has the key may be another
    yield from claim_key(row.key, session_id, within)
    yield only(within)


def archive(session_id: str, within: str | None) -> Operation[Session]:
    """Puts a session out of the way."""
    row = yield from locked(session_id, _STATUS)
    if row.status != "archived":
        yield from change(row.session, {"status": "archived"})
        yield from happened("store.archived", session_id)
    return (yield from existing(session_id, within))


def unarchive(session_id: str, within: str | None) -> Operation[Session]:
    """Takes it back: to where it was, ended or active."""
    row = yield from locked(session_id, _STATUS)
    if row.status == "archived":
        if row.ended_at is None:
            yield everybodys()  # who has the key may be another
            yield from claim_key(row.key, session_id, within)
            yield only(within)
        yield from change(row.session, {"status": "active" if row.ended_at is None else "ended"})
        yield from happened("store.unarchived", session_id)
    return (yield from existing(session_id, within))
