"""Sessions that arrive: a record in, checked and encoded in the caller's task, then written whole.

What it cannot keep here (a title or a live key that somebody has, a parent that is not there) is left
out and told; everything else is as it was where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from ..access import everybodys, only
from ..encoding import Encoder, bounded, count, instant, now, second
from ..engine.operation import Operation, execute, ids, lock, many, one
from ..errors import InvalidRecord, InvalidTitle
from ..messages.append import insert_of, preview
from ..messages.compact import COMPACTION_COLUMNS
from ..messages.prepare import NewRow, prepare
from ..messages.transcript import ACTIVE, STATES
from ..models import Kind, MessageState, NewMessage, NewUsage, Relation, Status
from ..usage.ledger import Round, SessionRounds, prepare_round, write_rounds
from .given import size_of
from .life import NewSession, insert, live_of
from .titles import as_title, holder_of
from .transfer import CompactionRecord, MessageRecord, SessionRecord, UsageRecord, without


class PlacedRow(NamedTuple):
    """A message of a record, checked and encoded, with its place."""

    row: NewRow
    seq: int
    position: int
    state: int
    compacted_by: int | None


class Arrival(NamedTuple):
    """A record checked and encoded."""

    new: NewSession
    columns: dict[str, Any]
    """those of the session that a new one does not choose"""
    rows: list[PlacedRow]
    compactions: list[tuple[Any, ...]]
    rounds: list[Round]
    size: int


def prepare_arrival(encoder: Encoder, given: Mapping[str, Any], within: str | None) -> Arrival:
    """Checks and encodes a record, in the caller's task. Raises InvalidRecord."""
    try:
        record = msgspec.convert(given, SessionRecord)
    except (ValueError, TypeError, OverflowError) as error:  # also of texts that cannot be encoded
        raise InvalidRecord(f"not the record of a session: {error}; not stored") from None
    if within is not None:
        if record.user_id not in (None, within):
            raise InvalidRecord("the record is of another user; not stored")
        record.user_id = within
    if record.parent_id is not None and record.relation is None:
        record.relation = Relation.SPAWN
    if record.relation is Relation.SPAWN:
        record.kind = Kind.SUBAGENT
    rows = [_placed(encoder, at, message) for at, message in enumerate(record.messages, start=1)]
    _check_places(record, rows)
    created = instant(record.created_at, "created_at")
    created = min([now(), *[row.row.created_at for row in rows]]) if created is None else created
    new = _new_session(encoder, record, created, within)
    columns = _columns(encoder, record, rows, created)
    compactions = [_audit_row(compaction, rows) for compaction in record.compactions]
    rounds = [_round(encoder, usage) for usage in record.usage]
    size = sum([row.row.size for row in rows]) + size_of(encoder, *new, *columns.values())
    return Arrival(new, columns, rows, compactions, rounds, size + 256 * (1 + len(compactions) + len(rounds)))


def _placed(encoder: Encoder, at: int, message: MessageRecord) -> PlacedRow:
    given = without(message, "seq", "position", "state", "compacted_by")
    seq = at if message.seq is None else message.seq
    position = seq if message.position is None else message.position
    row = prepare(encoder, NewMessage(**given))
    return PlacedRow(row, seq, position, STATES.index(message.state), message.compacted_by)


def _check_places(record: SessionRecord, rows: list[PlacedRow]) -> None:
    """What the tables could not hold, or the transcript would not come back from."""
    places = {row.seq: row for row in rows}
    externals = [row.row.external_id for row in rows if row.row.external_id is not None]
    compactions = {compaction.seq: compaction for compaction in record.compactions}
    wrong = (
        (len(places) < len(rows), "two messages have one seq"),
        (not all(1 <= row.position <= row.seq <= LAST_SEQ for row in rows),
         "seq and position begin at 1, and no message stands behind its seq"),
        (len(set(externals)) < len(externals), "two messages have one external_id"),
        (len(compactions) < len(record.compactions), "two compactions have one seq"),
        (any(compaction.note_seq not in places for compaction in record.compactions), "a compaction lacks its note"),
        (len({compaction.note_seq for compaction in record.compactions}) < len(compactions),
         "two compactions have one note"),
        (not all(row.compacted_by is None or _is_under(row, compactions.get(row.compacted_by), places) for row in rows),
         "a message is put away by a compaction that is not in effect, or whose note does not stand for it"),
        ((record.status is Status.ENDED) != (record.ended_at is not None) and record.status is not Status.ARCHIVED,
         "status and ended_at contradict each other"),
        (record.parent_id == record.id, "it is its own parent"),
    )  # fmt: skip
    for is_wrong, why in wrong:
        if is_wrong:
            raise InvalidRecord(f"the record of session {record.id!r}: {why}; not stored")


def _title(encoder: Encoder, record: SessionRecord) -> str | None:
    try:
        return as_title(encoder, record.title)
    except InvalidTitle as error:
        raise InvalidRecord(f"the record of session {record.id!r}: {error}") from None


LAST_SEQ = 2**53


def _is_under(row: PlacedRow, compaction: CompactionRecord | None, places: dict[int, PlacedRow]) -> bool:
    """Whether the compaction can have put the message away: its note came later, and stands before its seq."""
    if compaction is None or compaction.undone_at is not None or row.state != STATES.index(MessageState.COMPACTED):
        return False
    note = places.get(compaction.note_seq)
    return note is not None and note.seq > row.seq and note.position < note.seq


def _new_session(encoder: Encoder, record: SessionRecord, created: int, within: str | None) -> NewSession:
    texts = {
        name: encoder.text(getattr(record, name), name) for name in ("user_id", "system_prompt", "spawn_tool_call_id")
    }
    return NewSession(
        id=encoder.identifier(record.id, "id"),
        source=encoder.identifier(record.source, "source"),
        config=encoder.json_object(record.config, "config"),
        metadata=encoder.json_object(record.metadata, "metadata"),
        key=None,  # key and model are set with the columns: here they would be claimed, or filled
        model=None,
        title=_title(encoder, record),
        parent_id=None if record.parent_id is None else encoder.identifier(record.parent_id, "parent_id"),
        relation=record.relation and record.relation.value,
        lifecycle=record.lifecycle.value,
        created_at=created,
        within=within,
        **texts,
    )


_TEXTS = (
    "cost_status", "cost_source", "pricing_version", "billing_provider", "billing_base_url", "billing_mode",
    "end_reason",
)  # fmt: skip


def _columns(encoder: Encoder, record: SessionRecord, rows: list[PlacedRow], created: int) -> dict[str, Any]:
    active = sorted([row for row in rows if row.state == ACTIVE], key=lambda row: (row.position, row.seq))
    newest = max([row.row.created_at for row in rows], default=created)
    last_active = instant(record.last_active_at, "last_active_at")
    last_active = newest if last_active is None else max(newest, last_active)
    highest = max([row.seq for row in rows], default=0)
    send = max([row.row.send_index or 0 for row in rows], default=0)
    last = max([compaction.seq for compaction in record.compactions], default=0)
    updated = instant(record.updated_at, "updated_at")
    return {
        "kind": record.kind.value,
        "key": None if record.key is None else encoder.identifier(record.key, "key"),
        "model": encoder.text(record.model, "model"),
        "status": record.status.value,
        "spawn_depth": count(record.spawn_depth, "spawn_depth"),
        "updated_at": created if updated is None else updated,
        "last_active_at": last_active,
        "activity": second(last_active),
        "message_count": len(active),
        "tool_call_count": sum(row.row.calls for row in active),
        "preview": next((words for row in active if (words := _first_words(row.row))), None),
        "ended_at": instant(record.ended_at, "ended_at"),
        "next_seq": max(count(record.next_seq or 1, "next_seq") or 1, highest + 1),
        "round_index": bounded(record.round_index, "round_index"),
        "send_index": max(send, count(record.send_index, "send_index") or 0),
        "last_compaction_seq": max(last, count(record.last_compaction_seq, "last_compaction_seq") or 0),
        "pending": encoder.pending(record.pending),
        **{name: encoder.text(getattr(record, name), name) for name in _TEXTS},
    }


def _first_words(row: NewRow) -> str | None:
    return preview(row.content) if row.role == "user" and row.content else None


def _audit_row(record: CompactionRecord, rows: list[PlacedRow]) -> tuple[Any, ...]:
    values = msgspec.structs.asdict(record)
    if places := [row.position for row in rows if row.compacted_by == record.seq]:
        values |= {"from_seq": min(places), "to_seq": max(places)}  # what rewinds and forks go by
    values["created_at"] = instant(record.created_at, "created_at")
    values["undone_at"] = instant(record.undone_at, "undone_at")
    for name in ("seq", "note_seq", "from_seq", "to_seq", "count", "before_tokens", "after_tokens"):
        count(values[name], name)
    if values["round_index"] is not None:
        bounded(values["round_index"], "round_index")
    if min(values[name] for name in ("seq", "note_seq", "from_seq", "to_seq", "count")) < 1:
        raise InvalidRecord("the seqs and the count of a compaction begin at 1; not stored")
    return tuple([values[name] for name in COMPACTION_COLUMNS])


def _round(encoder: Encoder, record: UsageRecord) -> Round:
    return prepare_round(encoder, NewUsage(**msgspec.structs.asdict(record)), signed=True)


# -- written ---------------------------------------------------------------------------------------


class Arrived(NamedTuple):
    """What became of a record."""

    is_new: bool
    left_out: list[tuple[str, str]]
    """kind and reason"""
    parent_id: str | None
    """a parent that is still to be joined"""


_ANY_DEPTH = 2**31
"""what was spawned elsewhere is not held to this store's limit"""


def arrive(arrival: Arrival) -> Operation[Arrived]:
    """Writes the session, unless its id is there already."""
    new = arrival.new
    yield lock(*sorted({new.id, new.parent_id or new.id}))
    yield everybodys()  # the id, the title, the key may be another's
    there = yield one("SELECT parent, relation, user_id, created_at FROM sessions WHERE id = :id", id=new.id)
    if there:
        cut_off = there.parent is None and (there.relation, there.created_at) == (new.relation, new.created_at)
        return Arrived(False, [], new.parent_id if cut_off and new.within in (None, there.user_id) else None)
    left_out: list[tuple[str, str]] = []
    columns = yield from _without_taken(arrival, left_out)
    yield only(new.within)
    parent = yield from _parent(new)
    number = yield from insert(new._replace(parent_id=None, title=None), _ANY_DEPTH)
    yield from _write_rows(number, arrival.rows)
    if arrival.compactions:
        yield many(_COMPACTION, [(number, *row) for row in arrival.compactions])
    if arrival.rounds:
        yield from write_rounds([SessionRounds(number, 0, None, arrival.rounds)])
    settings = ", ".join(f"{name} = :{name}" for name in columns)
    yield execute(
        f"UPDATE sessions SET {settings}, parent = :parent WHERE session = :session",
        session=number,
        parent=parent,
        **columns,
    )
    return Arrived(True, left_out, new.parent_id if parent is None else None)


_COMPACTION = (
    f"INSERT INTO compactions (session, {', '.join(COMPACTION_COLUMNS)})"
    f" VALUES ({', '.join('?' * (len(COMPACTION_COLUMNS) + 1))})"
)


def _without_taken(arrival: Arrival, left_out: list[tuple[str, str]]) -> Operation[dict[str, Any]]:
    """The columns, without a title or a live key that another session has."""
    new, columns = arrival.new, {**arrival.columns, "title": arrival.new.title}
    if new.title is not None and (yield from holder_of(new.title, new.id))[0]:
        columns["title"] = None
        left_out.append(("titles", f"session {new.id!r}: its title {new.title!r} is taken"))
    key = columns["key"] if columns["status"] == Status.ACTIVE else None
    if key is not None and (yield from live_of(key, new.id, None))[0]:
        columns["key"] = None
        left_out.append(("keys", f"session {new.id!r}: its key {key!r} has a live session"))
    return columns


def _parent(new: NewSession) -> Operation[int | None]:
    if new.parent_id is None:
        return None
    row = yield one("SELECT session, user_id FROM sessions WHERE id = :id", id=new.parent_id)
    return row.session if row and new.within in (None, row.user_id) else None


def _write_rows(session: int, rows: list[PlacedRow]) -> Operation[None]:
    if not rows:
        return
    inserts: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for id, placed in zip((yield ids(len(rows))), rows, strict=True):
        row = placed.row
        optional = {**row.optional, "state": placed.state, "compacted_by": placed.compacted_by}
        optional["external_id"] = row.external_id
        values = (id, session, placed.seq, placed.position, row.role, row.content, row.send_index, row.created_at)
        inserts.setdefault(tuple(optional), []).append((*values, *optional.values()))
    for columns, values in inserts.items():
        yield many(insert_of(columns), values)


def link(session_id: str, parent_id: str, within: str | None) -> Operation[bool]:
    """Gives a session that arrived before its parent that parent; False if it is not there, or below it."""
    yield lock(*sorted({session_id, parent_id}))
    child = yield one("SELECT session, parent, user_id FROM sessions WHERE id = :id", id=session_id)
    above = yield one("SELECT session, parent, user_id FROM sessions WHERE id = :id", id=parent_id)
    if child is None or above is None or child.parent is not None:
        return False
    if within is not None and not within == child.user_id == above.user_id:
        return False
    parent = above.session
    yield everybodys()  # those above it may be others'
    while above is not None and above.session != child.session:
        above = yield one("SELECT session, parent FROM sessions WHERE session = :parent", parent=above.parent)
    if above is not None:
        return False
    yield only(within)
    yield execute("UPDATE sessions SET parent = :parent WHERE session = :session", parent=parent, session=child.session)
    return True
