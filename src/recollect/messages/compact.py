"""Compaction: messages put away under a note that stands where the first of them stood, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from ..encoding import Encoder, bounded, moment, moment_or_none, now
from ..encoding import count as amount
from ..engine.operation import Operation, Row, all, execute, ids, one
from ..errors import InvalidRecord
from ..journal import happened, record_event
from ..models import Compaction, NewMessage
from .landing import Effect, read_effects, read_place
from .prepare import NewRow, prepare
from .shift import COMPACTED, Moved, count, less, move, opened
from .transcript import ACTIVE

NOTE_ROLE, NOTE_NAME = "system", "compact_note"


class NewCompaction(NamedTuple):
    """A compaction to make: a range of places or exact seqs, and the note."""

    from_seq: int | None
    to_seq: int | None
    seqs: list[int] | None
    note: NewRow
    note_meta: dict[str, Any]
    before_tokens: int | None
    after_tokens: int | None
    round_index: int | None
    fence: int | None


def prepare_compaction(
    encoder: Encoder, *, note: Any, from_seq: int | None, to_seq: int | None, seqs: Any, before_tokens: int | None,
    after_tokens: int | None, round_index: int | None, note_meta: Any, fence: int | None,
) -> NewCompaction:  # fmt: skip
    """Checks and encodes one."""
    if seqs is not None and (from_seq is not None or to_seq is not None):
        raise InvalidRecord("compact takes a range or exact seqs, not both; nothing was changed")
    if seqs is not None and not isinstance(seqs, Iterable):
        raise InvalidRecord(f"seqs must be several, not {type(seqs).__name__}; nothing was changed")
    tokens = amount(before_tokens, "before_tokens"), amount(after_tokens, "after_tokens")
    message = NewMessage(
        role=NOTE_ROLE, name=NOTE_NAME, content=note, token_count=after_tokens, round_index=round_index,
        metadata=note_meta,
    )  # fmt: skip
    row = prepare(encoder, message)
    metadata = row.optional.pop("metadata", None)
    return NewCompaction(
        None if from_seq is None else bounded(from_seq, "from_seq"),
        None if to_seq is None else bounded(to_seq, "to_seq"),
        None if seqs is None else sorted({bounded(seq, "seqs") for seq in seqs}),
        row,
        {} if metadata is None else msgspec.json.decode(metadata),
        *tokens,
        round_index,
        fence,
    )


def compact(session_id: str, new: NewCompaction) -> Operation[Compaction]:
    """Puts the messages away and writes the note and the audit row."""
    session = yield from opened(session_id, new.fence)
    condition, params = yield from _chosen(session, new)
    first, last = yield from _ends(session.session, condition, params)
    note_id, event = yield ids(2)
    seq, at = session.last_compaction_seq + 1, now()
    moved = yield from move(session.session, condition, COMPACTED, compacted_by=seq, **params)
    made = Compaction(
        session_id, seq, session.next_seq, first, last, moved.messages, new.before_tokens, new.after_tokens,
        new.round_index, moment(at), None,
    )  # fmt: skip
    yield from _write_note(session, note_id, new, made, at)
    yield _audit(session.session, made, at)
    yield execute(
        "UPDATE sessions SET next_seq = next_seq + 1, last_compaction_seq = :seq, last_active_at = :at,"
        " activity = :second WHERE session = :session",
        session=session.session,
        seq=seq,
        at=max(at, session.last_active_at),
        second=max(at, session.last_active_at) // 1000,
    )
    yield from count(session.session, less(moved), Moved(1, 0))
    yield record_event(event, "store.compacted", session_id, at, str(seq))
    return made


def _chosen(session: Row, new: NewCompaction) -> Operation[tuple[str, dict[str, Any]]]:
    """The condition that the messages to put away meet, and its parameters."""
    if new.seqs is not None:
        condition, params = f"state = {ACTIVE} AND seq IN :seqs", {"seqs": new.seqs}
        found = yield all(
            f"SELECT seq FROM messages WHERE session = :session AND {condition}", session=session.session, **params
        )
        if lacking := sorted(set(new.seqs) - {row.seq for row in found}):
            raise InvalidRecord(f"seqs {lacking} are not in the transcript; nothing was changed")
        return condition, params
    first = yield from _bound(session, new.from_seq, 1, "from_seq")
    last = yield from _bound(session, new.to_seq, session.next_seq, "to_seq")
    return f"state = {ACTIVE} AND position BETWEEN :first AND :last", {"first": first, "last": last}


def _bound(session: Row, seq: int | None, otherwise: int, name: str) -> Operation[int]:
    """The place of a bound: where that message stands, whatever became of it."""
    if seq is None:
        return otherwise
    if not 1 <= seq < session.next_seq:
        raise InvalidRecord(f"{name}={seq}: the session has the seqs 1 to {session.next_seq - 1}; nothing was changed")
    row = yield from read_place(session.session, seq)
    return row.position if row else seq


def _ends(session: int, condition: str, params: dict[str, Any]) -> Operation[tuple[int, int]]:
    row = yield one(
        f"SELECT MIN(position) AS first, MAX(position) AS last FROM messages WHERE session = :session AND {condition}",
        session=session,
        **params,
    )
    if row.first is None:
        raise InvalidRecord("there is nothing in that range to put away; nothing was changed")
    return row.first, row.last


def _write_note(session: Row, id: int, new: NewCompaction, made: Compaction, at: int) -> Operation[None]:
    meta = {
        **new.note_meta,
        "compacted_at_round": session.round_index if made.round_index is None else made.round_index,
        "from_seq": made.from_seq,
        "to_seq": made.to_seq,
        "original_tokens": made.before_tokens,
        "summary_tokens": made.after_tokens,
    }
    values = {
        "id": id, "session": session.session, "seq": made.note_seq, "position": made.from_seq, "role": new.note.role,
        "content": new.note.content, "send_index": session.send_index, "created_at": at, **new.note.optional,
        "metadata": msgspec.json.encode(meta).decode(),
    }  # fmt: skip
    names = ", ".join(values)
    yield execute(f"INSERT INTO messages ({names}) VALUES ({', '.join(f':{name}' for name in values)})", **values)


COMPACTION_COLUMNS = (
    "seq", "note_seq", "from_seq", "to_seq", "count", "before_tokens", "after_tokens", "round_index", "created_at",
    "undone_at",
)  # fmt: skip
_COLUMNS = ", ".join(f"c.{name}" for name in COMPACTION_COLUMNS)


def _audit(session: int, made: Compaction, at: int) -> Any:
    return execute(
        "INSERT INTO compactions (session, seq, note_seq, from_seq, to_seq, count, before_tokens, after_tokens,"
        " round_index, created_at) VALUES (:session, :seq, :note_seq, :from_seq, :to_seq, :count, :before, :after,"
        " :round_index, :at)",
        session=session,
        seq=made.seq,
        note_seq=made.note_seq,
        from_seq=made.from_seq,
        to_seq=made.to_seq,
        count=made.count,
        before=made.before_tokens,
        after=made.after_tokens,
        round_index=made.round_index,
        at=at,
    )


# -- undone ----------------------------------------------------------------------------------------


def uncompact(session_id: str, seq: int, fence: int | None) -> Operation[Compaction]:
    """Takes the note away and puts the messages back where they stood."""
    session = yield from opened(session_id, fence)
    effects = yield from read_effects(session.session)
    effect = effects.get(seq)
    if effect is None:
        raise InvalidRecord(f"session {session_id!r} has no compaction {seq} in effect; nothing was changed")
    if effect.under is not None:
        raise InvalidRecord(f"the note of compaction {seq} is put away by {effect.under}: undo that one first")
    if effect.note_state != ACTIVE:
        raise InvalidRecord(f"the note of compaction {seq} is not in the transcript any more; nothing was changed")
    changes = yield from undo(session.session, effect)
    yield from count(session.session, *changes)
    yield from happened("store.uncompacted", session_id, str(seq))
    sql = f"SELECT {_COLUMNS} FROM compactions c WHERE c.session = :session AND c.seq = :seq"
    row = yield one(sql, session=session.session, seq=seq)
    return _compaction(session_id, row)


def undo(session: int, effect: Effect) -> Operation[list[Moved]]:
    """Undoes a compaction whose note is in the transcript; what that does to the counters."""
    note = yield from move(session, f"state = {ACTIVE} AND seq = :note", COMPACTED, note=effect.note_seq)
    back = yield from move(
        session,
        f"state = {COMPACTED} AND compacted_by = :undone AND position BETWEEN :first AND :last",
        ACTIVE,
        undone=effect.seq,
        first=effect.first,
        last=effect.last,
    )
    yield execute(
        "UPDATE compactions SET undone_at = :at WHERE session = :session AND seq = :seq",
        session=session,
        seq=effect.seq,
        at=now(),
    )
    return [less(note), back]


def read_compactions(session_id: str, undone: bool) -> Operation[list[Compaction]]:
    """The session's compactions, in order."""
    only = "" if undone else " AND c.undone_at IS NULL"
    rows = yield all(
        f"SELECT {_COLUMNS} FROM compactions c JOIN sessions s ON s.session = c.session"
        f" WHERE s.id = :id{only} ORDER BY c.seq",
        id=session_id,
    )
    return [_compaction(session_id, row) for row in rows]


def _compaction(session_id: str, row: Row) -> Compaction:
    return Compaction(
        session_id, row.seq, row.note_seq, row.from_seq, row.to_seq, row.count, row.before_tokens, row.after_tokens,
        row.round_index, moment(row.created_at), moment_or_none(row.undone_at),
    )  # fmt: skip
