"""Forking: a new session with another's transcript up to some message."""

from __future__ import annotations

from typing import Any

from ..access import missing
from ..encoding import second
from ..engine.operation import Operation, Row, execute, ids, lock, many, one, tuples
from ..messages.landing import Landing, land
from ..messages.shift import COMPACTED, read_preview
from ..messages.transcript import ACTIVE
from ..models import Session
from .life import UNKNOWN_SOURCE, NewSession, insert
from .record import existing

_INHERITED = """
SELECT s.session, s.source, s.user_id, s.model, s.round_index, s.send_index, s.next_seq, t.config, t.system_prompt,
  t.metadata
FROM sessions s LEFT JOIN session_texts t ON t.session = s.session WHERE s.id = :id"""


def fork(session_id: str, new: NewSession, at_seq: int | None, deepest: int) -> Operation[Session]:
    """Makes the session `new` below `session_id`; what it was not given it has from there."""
    yield lock(*sorted({session_id, new.id}))
    origin = yield one(_INHERITED, id=session_id)
    if origin is None:
        raise missing(session_id)
    landing = None if at_seq is None else (yield from land(origin.session, at_seq))
    number = yield from insert(_inheriting(new, origin), deepest)
    yield from _copy(origin, number, landing)
    return (yield from existing(new.id, new.within))


def _inheriting(new: NewSession, origin: Row) -> NewSession:
    inherited = {
        name: getattr(origin, name)
        for name in ("user_id", "model", "config", "system_prompt", "metadata")
        if getattr(new, name) is None
    }
    source = origin.source if new.source == UNKNOWN_SOURCE else new.source
    return new._replace(source=source, **inherited)


_COPIED = (
    "role", "content", "parts", "name", "tool_calls", "calls", "tool_call_id", "round_index", "send_index", "reasoning",
    "reasoning_details", "provider_items", "token_count", "finish_reason", "external_id", "metadata", "created_at",
)  # fmt: skip

_COPY = (
    f"INSERT INTO messages (id, session, seq, position, {', '.join(_COPIED)})"
    " SELECT CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS BIGINT),"
    f" {', '.join(_COPIED)} FROM messages WHERE id = ?"
)


def _copy(origin: Row, number: int, landing: Landing | None) -> Operation[None]:
    """Copies the transcript; its places and seqs begin anew."""
    condition, params = _shown(landing)
    sql = f"SELECT id FROM messages WHERE session = :session AND {condition} ORDER BY position, seq"
    found = yield tuples(sql, session=origin.session, **params)
    if not found:
        return
    numbers = yield ids(len(found))
    places = enumerate(zip(numbers, found, strict=True), start=1)
    yield many(_COPY, [(id, number, place, place, copied) for place, (id, (copied,)) in places])
    yield from _count(number)


def _shown(landing: Landing | None) -> tuple[str, dict[str, Any]]:
    """The messages of the transcript up to there, as if what stands across were undone."""
    if landing is None:
        return f"state = {ACTIVE}", {}
    condition = f"(state = {ACTIVE}"
    params: dict[str, Any] = {"place": landing.position, "seq": landing.seq}
    if landing.undone:
        condition += f" OR (state = {COMPACTED} AND compacted_by IN :undone)) AND NOT seq IN :notes"
        params |= {"undone": [effect.seq for effect in landing.undone]}
        params |= {"notes": [effect.note_seq for effect in landing.undone]}
    else:
        condition += ")"
    return f"{condition} AND (position, seq) <= (:place, :seq)", params


_COUNT = """
UPDATE sessions SET next_seq = :next_seq, message_count = :messages, tool_call_count = :calls, preview = :preview,
  last_active_at = :newest, activity = :activity, round_index = :round_index, send_index = :send_index
WHERE session = :session"""


_COUNTED = f"""
SELECT COUNT(*) AS messages, CAST(SUM(calls) AS BIGINT) AS calls, MAX(created_at) AS newest,
  MAX(round_index) AS round_index, MAX(send_index) AS send_index
FROM messages WHERE session = :session AND state = {ACTIVE}"""


def _count(number: int) -> Operation[None]:
    row = yield one(_COUNTED, session=number)
    first_words = yield from read_preview(number)
    yield execute(
        _COUNT,
        session=number,
        next_seq=row.messages + 1,
        messages=row.messages,
        calls=row.calls or 0,
        preview=first_words,
        newest=row.newest,
        activity=second(row.newest),
        round_index=row.round_index or 0,
        send_index=row.send_index,
    )
