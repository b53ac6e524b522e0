"""Appending: many callers' messages in, one pass over the tables, a reference for each.

The hottest operation of the store. Whatever is queued together becomes one read of the sessions
concerned, one INSERT per set of columns, one UPDATE of the counters.
"""

from __future__ import annotations

from builtins import all as all_
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from msgspec import UNSET, UnsetType

from ..access import missing
from ..encoding import second
from ..engine.operation import Failed, Operation, all, coalescing, ids, lock, many, together, tuples
from ..errors import SequenceConflict, StoreError, TurnLost
from ..models import MessageRef
from ..usage.ledger import SessionRounds, write_rounds
from .prepare import Append, NewRow

PREVIEW = 60
"""characters of the first user text that a listing shows"""


_NEVER = -(2**63)
"""before every time: the first message of a session is its last activity, whatever its time"""


class _Counters:
    """A session's counters while a batch is worked through."""

    __slots__ = (
        "activity", "calls", "first_seq", "had_preview", "last_active", "next_seq", "pending", "preview", "rounds",
        "send", "session", "updated",
    )  # fmt: skip

    def __init__(self, row: tuple[Any, ...]) -> None:
        (_, self.session, self.next_seq, self.send, count, last_active, self.preview) = row
        self.first_seq = self.next_seq
        self.had_preview = self.preview is not None
        self.last_active = last_active if count or self.next_seq > 1 else _NEVER
        self.activity = second(last_active)
        self.calls = 0
        self.updated = 0
        self.pending: str | UnsetType | None = UNSET
        self.rounds: tuple[SessionRounds, ...] = ()

    def take(self, row: NewRow) -> int:
        """Counts one more message in; returns its seq."""
        seq = self.next_seq
        self.next_seq = seq + 1
        if row.created_at > self.last_active:
            self.last_active = row.created_at
        if row.role == "user":
            if row.send_index is None:
                self.send += 1
            if self.preview is None and row.content:
                self.preview = preview(row.content)
        if not row.is_plain:
            self._take_rest(row)
        return seq

    def _take_rest(self, row: NewRow) -> None:
        self.calls += row.calls
        if row.send_index is not None and row.send_index > self.send:
            self.send = row.send_index
        if row.pending is not UNSET:
            self.pending = row.pending
        if row.usage is not None:
            send = self.send if row.send_index is None else row.send_index
            self.rounds += (SessionRounds(self.session, send, None, [row.usage]),)


_COUNTERS = """
SELECT id, session, next_seq, send_index, message_count, last_active_at, preview
FROM sessions WHERE id IN :ids"""

_UPDATE = """
UPDATE sessions SET next_seq = ?, send_index = ?, message_count = message_count + ?, last_active_at = ?,
  updated_at = ?, revision = revision + 1
WHERE session = ?"""

_UPDATE_ACTIVITY = "UPDATE sessions SET activity = ? WHERE session = ?"

_UPDATE_RARE = """
UPDATE sessions SET tool_call_count = tool_call_count + ?, preview = ? WHERE session = ?"""

_UPDATE_PENDING = "UPDATE sessions SET pending = ?, revision = revision + 1 WHERE session = ?"

_EXTERNAL = """
SELECT s.id AS session_id, m.external_id, m.id, m.seq
FROM messages m JOIN sessions s ON s.session = m.session
WHERE s.id IN :ids AND m.external_id IN :external_ids"""

_PROBED_AT_ONCE = 8
"""sessions in one such statement: the index is probed for each of the ids in each of the sessions"""

_FENCES = """
SELECT s.id, l.fence FROM leases l JOIN sessions s ON s.session = l.session WHERE s.id IN :ids"""


@coalescing
def append(items: list[Append]) -> Operation[list[list[MessageRef] | Failed]]:
    """Appends each item's messages to its session; per item the references or why not."""
    names = sorted({item.session_id for item in items})
    yield lock(*names)
    rows, taken = yield together(tuples(_COUNTERS, ids=names), ids(sum([len(item.rows) for item in items]) or 1))
    sessions = {row[0]: _Counters(row) for row in rows}
    known = yield from _known(items)
    fences = yield from _fences(items)
    strangers = yield from _strangers(items)
    numbers = iter(taken)
    inserts: Inserts = {(): []}
    outcomes: list[list[MessageRef] | Failed] = []
    for item in items:
        counters = sessions.get(item.session_id)
        if counters is None or (strangers and (item.session_id, item.within) in strangers):
            outcomes.append(Failed(missing(item.session_id)))
        elif refusal := _refusal(item, counters, known, fences):
            outcomes.append(Failed(refusal))
        else:
            outcomes.append(_place(item, counters, known, numbers, inserts))
    for columns, values in inserts.items():
        if values:
            yield many(insert_of(columns), values)
    yield from _update([counters for counters in sessions.values() if counters.next_seq > counters.first_seq])
    yield from _finish(sessions.values())
    return outcomes


def _update(changed: Sequence[_Counters]) -> Operation[None]:
    """Writes the counters; what seldom changes by a statement of its own, for columns cost."""
    if not changed:
        return
    yield many(
        _UPDATE,
        [(c.next_seq, c.send, c.next_seq - c.first_seq, c.last_active, c.updated, c.session) for c in changed],
    )
    moved = [(now_in, c.session) for c in changed if (now_in := second(c.last_active)) != c.activity]
    if moved:
        yield many(_UPDATE_ACTIVITY, moved)
    rare = [(c.calls, c.preview, c.session) for c in changed if c.calls or (c.preview and not c.had_preview)]
    if rare:
        yield many(_UPDATE_RARE, rare)


Known = dict[tuple[str, str], MessageRef]
Inserts = dict[tuple[str, ...], list[tuple[Any, ...]]]
"""rows to insert, by the optional columns that are set"""


def _known(items: Sequence[Append]) -> Operation[Known]:
    """The messages that external ids of these items stand for already."""
    wanted = {(item.session_id, row.external_id) for item in items for row in item.rows if row.external_id}
    if not wanted:
        return {}
    by_session: dict[str, list[str]] = {}
    for session_id, external_id in sorted(wanted):
        by_session.setdefault(session_id, []).append(external_id)
    names = list(by_session)
    known: Known = {}
    for first in range(0, len(names), _PROBED_AT_ONCE):
        some = names[first : first + _PROBED_AT_ONCE]
        external_ids = [external_id for name in some for external_id in by_session[name]]
        found = yield tuples(_EXTERNAL, ids=some, external_ids=external_ids)
        known.update({(session_id, external_id): MessageRef(id, seq) for session_id, external_id, id, seq in found})
    return known


def _fences(items: Sequence[Append]) -> Operation[dict[str, int]]:
    fenced = sorted({item.session_id for item in items if item.fence is not None})
    if not fenced:
        return {}
    found = yield all(_FENCES, ids=fenced)
    return {row.id: row.fence for row in found}


def _strangers(items: Sequence[Append]) -> Operation[set[tuple[str, str]]]:
    """Sessions that are not of the user who may only append to his own."""
    asked = {(item.session_id, item.within) for item in items if item.within is not None}
    if not asked:
        return set()
    owners = yield tuples("SELECT id, user_id FROM sessions WHERE id IN :ids", ids=sorted({id for id, _ in asked}))
    return asked.difference(owners)


def _refusal(item: Append, counters: _Counters, known: Known, fences: dict[str, int]) -> StoreError | None:
    if item.expected_seq is None and item.fence is None:
        return None
    if all_(row.external_id and (item.session_id, row.external_id) in known for row in item.rows):
        return None  # a repeat is answered as it was the first time
    if item.fence is not None and fences.get(item.session_id) != item.fence:
        return TurnLost(f"fence {item.fence} does not hold the turn of {item.session_id!r}; not stored")
    if item.expected_seq is not None and counters.next_seq != item.expected_seq:
        return SequenceConflict(item.session_id, item.expected_seq, counters.next_seq)
    return None


_new_ref = tuple.__new__
"""a MessageRef without the detour through its constructor, in the innermost loop of the store"""


def _place(
    item: Append, counters: _Counters, known: Known, numbers: Iterator[int], inserts: Inserts
) -> list[MessageRef]:
    """Gives the item's rows their numbers and adds them to the inserts."""
    refs: list[MessageRef] = []
    for row in item.rows:
        optional = row.optional
        if row.external_id is not None:
            if ref := known.get((item.session_id, row.external_id)):
                refs.append(ref)
                continue
            optional = {**optional, "external_id": row.external_id}
        seq = counters.take(row)
        id = next(numbers)
        send = counters.send if row.send_index is None else row.send_index
        values = (id, counters.session, seq, seq, row.role, row.content, send, row.created_at)
        if optional:
            inserts.setdefault(tuple(optional), []).append((*values, *optional.values()))
        else:
            inserts[()].append(values)
        ref = _new_ref(MessageRef, (id, seq))
        refs.append(ref)
        if row.external_id is not None:
            known[item.session_id, row.external_id] = ref
    if item.at > counters.updated:
        counters.updated = item.at
    return refs


@lru_cache(maxsize=256)
def insert_of(optional: tuple[str, ...]) -> str:
    """INSERT of the columns that are set: binding NULLs costs as much as binding values."""
    columns = ("id", "session", "seq", "position", "role", "content", "send_index", "created_at", *optional)
    return f"INSERT INTO messages ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _finish(changed: Iterable[_Counters]) -> Operation[None]:
    """Writes the pending state and the usage that came with messages."""
    pending = [(counters.pending, counters.session) for counters in changed if counters.pending is not UNSET]
    if pending:
        yield many(_UPDATE_PENDING, pending)
    rounds = [rounds for counters in changed for rounds in counters.rounds]
    if rounds:
        yield from write_rounds(rounds)


def preview(text: str) -> str | None:
    """The first words of a text: line ends as spaces, 60 characters and `...` where there was more."""
    line = " ".join(text.strip()[: 3 * PREVIEW].splitlines())  # a line end has two characters at most
    if not line:
        return None
    return line if len(line) <= PREVIEW else line[:PREVIEW] + "..."
