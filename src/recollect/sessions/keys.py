"""Gateway keys: a platform's chat or thread has one live session, and after it the next."""

from __future__ import annotations

from ..encoding import now
from ..engine.operation import Operation, lock, one
from ..errors import KeyTaken
from ..models import Session
from .life import NewSession, end_row, insert
from .record import COLUMNS, TABLES, existing, session

IDLE = "idle"
"""the reason with which a session ends that was idle for too long"""

_LIVE = f"SELECT {COLUMNS} FROM {TABLES} WHERE s.key = :key AND s.status = 'active'"


def read_live(key: str, idle_ms: int | None, within: str | None) -> Operation[Session | None]:
    """The live session of the key, unless it was idle for so long."""
    row = yield one(_LIVE, key=key)
    if row is None or within not in (None, row.user_id) or _is_idle(row.last_active_at, idle_ms):
        return None
    return session(row, within)


def _is_idle(last_active: int, idle_ms: int | None) -> bool:
    return idle_ms is not None and now() - last_active >= idle_ms


def next_of_key(new: NewSession, idle_ms: int | None, reset: str | None, deepest: int) -> Operation[Session]:
    """The live session of the key if it may stay, else the next one: the other is ended with it."""
    while (stays := (yield from _staying(new, idle_ms, reset))) is None:
        try:
            yield from insert(new, deepest)
        except KeyTaken as error:  # by now: another process was faster
            if error.by is None:
                raise
            continue
        stays = new.id
        break
    return (yield from existing(stays, new.within))


def _staying(new: NewSession, idle_ms: int | None, reset: str | None) -> Operation[str | None]:
    """The live session of the key if it may stay; one that may not is ended."""
    holder = yield one("SELECT id FROM sessions WHERE key = :key AND status = 'active'", key=new.key)
    yield lock(*sorted({new.id, new.parent_id or new.id, holder.id if holder else new.id}))
    row = yield one(
        "SELECT session, id, user_id, last_active_at, ended_at, status FROM sessions"
        " WHERE key = :key AND status = 'active'",
        key=new.key,
    )
    if row is None or new.within not in (None, row.user_id):
        return None
    reason = reset or (IDLE if _is_idle(row.last_active_at, idle_ms) else None)
    if reason is None:
        return row.id
    yield from end_row(row, row.id, reason)
    return None
