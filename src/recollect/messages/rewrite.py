"""Rewriting a transcript: replaced by another, or cleared."""

from __future__ import annotations

import msgspec

from ..access import missing
from ..encoding import second
from ..engine.operation import Failed, Operation, execute, ids, lock, one
from ..journal import happened
from ..models import MessageRef
from ..sessions.change import withdraw
from .append import append
from .prepare import Append
from .shift import COMPACTED, count, less, move, opened
from .transcript import ACTIVE


def replace(session_id: str, item: Append) -> Operation[list[MessageRef]]:
    """Puts the active transcript away and these messages in its place.

    They take over the external ids of those they replace, and begin no new send.
    """
    session = yield from opened(session_id, item.fence)
    away = yield from move(session.session, f"state = {ACTIVE}", COMPACTED)
    external_ids = [row.external_id for row in item.rows if row.external_id is not None]
    if external_ids:
        yield execute(
            "UPDATE messages SET external_id = NULL WHERE session = :session AND external_id IN :external_ids",
            session=session.session,
            external_ids=external_ids,
        )
    yield from count(session.session, less(away))
    rows = [msgspec.structs.replace(row, send_index=_send(row.send_index, session.send_index)) for row in item.rows]
    refs = yield from _appended(msgspec.structs.replace(item, rows=tuple(rows)))
    yield from happened("store.replaced", session_id)
    return refs


def _send(given: int | None, current: int) -> int:
    return current if given is None else given


def _appended(item: Append) -> Operation[list[MessageRef]]:
    (outcome,) = yield from append([item])
    if isinstance(outcome, Failed):
        raise outcome.error
    return outcome


def clear(session_id: str) -> Operation[int]:
    """Removes the messages of a session; how many there were in its transcript.

    The session goes on under another number, with its ledger, its lease and its children; the keeper
    erases the rows of the old one in chunks, as those of a deleted session.
    """
    yield lock(session_id)
    row = yield one("SELECT * FROM sessions WHERE id = :id", id=session_id)
    if row is None:
        raise missing(session_id)
    (number,) = yield ids(1)
    yield from withdraw([row.session])
    values = {
        **row._asdict(), "session": number, "user_late": 0, "message_count": 0, "tool_call_count": 0,
        "preview": None, "pending": None, "last_active_at": row.created_at, "activity": second(row.created_at),
        "revision": row.revision + 1,
    }  # fmt: skip
    names = ", ".join(values)
    yield execute(f"INSERT INTO sessions ({names}) VALUES ({', '.join(f':{name}' for name in values)})", **values)
    for table in ("session_texts", "usage_rounds", "leases"):
        yield execute(f"UPDATE {table} SET session = :new WHERE session = :old", new=number, old=row.session)
    yield execute("UPDATE sessions SET parent = :new WHERE parent = :old", new=number, old=row.session)
    yield from happened("store.cleared", session_id)
    return row.message_count
