"""Appending: many callers' messages in, one pass over the tables, a reference for each.

The hottest operation of the store. Whatever is queued together becomes one read of the sessions
concerned, one INSERT per set of columns, one UPDATE of the counters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from msgspec import UNSET

from ..engine.operation import Failed, Operation, Row, all, coalescing, ids, lock, many
from ..errors import SequenceConflict, SessionNotFound, StoreError, TurnLost
from ..models import MessageRef
from ..usage import SessionRounds, write_rounds
from .prepare import Append, NewRow

PREVIEW = 60
"""characters of the first user text that a listing shows"""


class _Counters:
    """A session's counters while a batch is worked through."""

    __slots__ = (
        "calls", "changed", "count", "last_active", "next_seq", "pending", "preview", "round", "send", "session",
        "updated",
    )  # fmt: skip

    def __init__(self, row: Row) -> None:
        (_, self.session, self.next_seq, self.send, self.round, self.count, self.calls, self.last_active,
         self.updated, self.preview, self.pending) = row  # fmt: skip
        self.changed = False

    def take(self, row: NewRow) -> int:
        """Counts one more message in; returns its seq."""
        seq = self.next_seq
        self.next_seq = seq + 1
        if row.role == "user":
            if row.send_index is None:
                self.send += 1
            if self.preview is None and row.content:
                self.preview = preview(row.content)
        if row.send_index is not None and row.send_index > self.send:
            self.send = row.send_index
        if self.count == 0 or row.created_at > self.last_active:
            self.last_active = row.created_at
        self.count += 1
        self.calls += row.calls
        self.changed = True
        return seq

    def as_update(self) -> tuple[Any, ...]:
        return (
            self.next_seq, self.send, self.count, self.calls, self.last_active, self.updated, self.preview,
            self.pending, self.session,
        )  # fmt: skip


_COUNTERS = """
SELECT id, session, next_seq, send_index, round_index, message_count, tool_call_count, last_active_at,
  updated_at, preview, pending
FROM sessions WHERE id IN :ids"""

_UPDATE = """
UPDATE sessions SET next_seq = ?, send_index = ?, message_count = ?, tool_call_count = ?,
  last_active_at = ?, updated_at = ?, preview = ?, pending = ?, revision = revision + 1
WHERE session = ?"""

_EXTERNAL = """
SELECT s.id AS session_id, m.external_id, m.id, m.seq
FROM messages m JOIN sessions s ON s.session = m.session
WHERE s.id IN :ids AND m.external_id IN :external_ids"""

_FENCES = """
SELECT s.id, l.fence FROM leases l JOIN sessions s ON s.session = l.session WHERE s.id IN :ids"""


@coalescing
def append(items: list[Append]) -> Operation[list[list[MessageRef] | Failed]]:
    """Appends each item's messages to its session; per item the references or why not."""
    names = sorted({item.session_id for item in items})
    yield lock(*names)
    rows = yield all(_COUNTERS, ids=names)
    sessions = {row[0]: _Counters(row) for row in rows}
    known = yield from _known(items)
    fences = yield from _fences(items)
    numbers = iter((yield ids(sum([len(item.rows) for item in items]) or 1)))
    inserts: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    outcomes: list[list[MessageRef] | Failed] = []
    for item in items:
        refusal = _refusal(item, sessions, fences)
        if refusal:
            outcomes.append(Failed(refusal))
        else:
            outcomes.append(_place(item, sessions[item.session_id], known, numbers, inserts))
    for columns, values in inserts.items():
        yield many(_insert(columns), values)
    updates = [counters.as_update() for counters in sessions.values() if counters.changed]
    if updates:
        yield many(_UPDATE, updates)
    yield from _record_usage(items, outcomes, sessions)
    return outcomes


Known = dict[tuple[str, str], MessageRef]


def _known(items: Sequence[Append]) -> Operation[Known]:
    """The messages that external ids of these items stand for already."""
    wanted = {(item.session_id, row.external_id) for item in items for row in item.rows if row.external_id}
    if not wanted:
        return {}
    found = yield all(_EXTERNAL, ids=sorted({s for s, _ in wanted}), external_ids=sorted({e for _, e in wanted}))
    return {(row.session_id, row.external_id): MessageRef(row.id, row.seq) for row in found}


def _fences(items: Sequence[Append]) -> Operation[dict[str, int]]:
    fenced = sorted({item.session_id for item in items if item.fence is not None})
    if not fenced:
        return {}
    found = yield all(_FENCES, ids=fenced)
    return {row.id: row.fence for row in found}


def _refusal(item: Append, sessions: dict[str, _Counters], fences: dict[str, int]) -> StoreError | None:
    counters = sessions.get(item.session_id)
    if counters is None:
        return SessionNotFound(f"no session {item.session_id!r}; not stored: create it first, or use sessions.ensure")
    if item.fence is not None and fences.get(item.session_id) != item.fence:
        return TurnLost(f"fence {item.fence} does not hold the turn of {item.session_id!r}; not stored")
    if item.expected_seq is not None and counters.next_seq != item.expected_seq:
        return SequenceConflict(item.session_id, item.expected_seq, counters.next_seq)
    return None


def _place(
    item: Append,
    counters: _Counters,
    known: Known,
    numbers: Iterator[int],
    inserts: dict[tuple[str, ...], list[tuple[Any, ...]]],
) -> list[MessageRef]:
    """Gives the item's rows their numbers and adds them to the inserts."""
    refs: list[MessageRef] = []
    for row in item.rows:
        if row.external_id and (ref := known.get((item.session_id, row.external_id))):
            refs.append(ref)
            continue
        seq = counters.take(row)
        ref = MessageRef(next(numbers), seq)
        refs.append(ref)
        send = counters.send if row.send_index is None else row.send_index
        values = (ref.id, counters.session, seq, seq, row.role, row.content, send, row.created_at)
        optional = row.optional
        if row.external_id:
            known[item.session_id, row.external_id] = ref
            optional = {**optional, "external_id": row.external_id}
        inserts.setdefault(tuple(optional), []).append((*values, *optional.values()))
    if item.pending is not UNSET:
        counters.pending = item.pending
        counters.changed = True
    if item.at > counters.updated:
        counters.updated = item.at
    return refs


@lru_cache(maxsize=256)
def _insert(optional: tuple[str, ...]) -> str:
    """INSERT of the columns that are set: binding NULLs costs as much as binding values."""
    columns = ("id", "session", "seq", "position", "role", "content", "send_index", "created_at", *optional)
    return f"INSERT INTO messages ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _record_usage(
    items: Sequence[Append], outcomes: Sequence[list[MessageRef] | Failed], sessions: dict[str, _Counters]
) -> Operation[None]:
    rounds = [
        SessionRounds(counters.session, counters.send, counters.round, item.usage)
        for item, outcome in zip(items, outcomes, strict=True)
        if item.usage and type(outcome) is not Failed and (counters := sessions[item.session_id])
    ]
    if rounds:
        yield from write_rounds(rounds)


def preview(text: str) -> str | None:
    """The first words of a text: line ends as spaces, 60 characters and `...` where there was more."""
    line = " ".join(text[: 4 * PREVIEW].splitlines()).strip()
    if not line:
        return None
    return line if len(line) <= PREVIEW and len(text) <= 4 * PREVIEW else line[:PREVIEW] + "..."
