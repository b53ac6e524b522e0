"""What came since to a session that is here already: messages, compactions, usage, where the agent is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from anyio import to_thread

from ...encoding import instant
from ...engine.operation import Operation, one, tuples
from ...errors import InvalidRecord
from ...messages.transcript import ACTIVE
from ...models import Session, UsageRound
from ...store import AsyncSessionStore
from .convert import NOTE, SEQ, SOURCE, Record, external_id, newest_of, record_of, refusal, state_of, usage_of
from .layout import Found, Layout, Reject, Row, SessionRows

_AT_ONCE = 256
"""messages appended in one transaction"""

_NOT_GIVEN = ("seq", "position", "state", "compacted_by")
"""fields of a record's message that an appended one does not choose"""

_SEQ_OF = """
SELECT m.seq FROM messages m JOIN sessions s ON s.session = m.session
WHERE s.id = :id AND m.external_id = :external_id"""

_KNOWN = f"""
SELECT m.external_id, m.seq, m.state, CASE WHEN m.name = '{NOTE}' THEN m.metadata END
FROM messages m JOIN sessions s ON s.session = m.session WHERE s.id = :id"""


def is_ours(session: Session, there: Row) -> bool:
    """Whether it was imported from there, and is not another one with the same id."""
    return session.source == SOURCE and instant(session.created_at, "created_at") == there["created_at"]


def _find(session_id: str, seq: int) -> Operation[int | None]:
    """The seq that the message with that seq there has here; None if it is not here."""
    row = yield one(_SEQ_OF, id=session_id, external_id=external_id(seq))
    return row and row.seq


class Known(NamedTuple):
    """The messages from there that are here."""

    seqs: dict[int, int]
    """seq there → seq here"""
    active: set[int]
    """the seqs there of those that are active here"""

    @property
    def last(self) -> int:
        """The highest seq there of those that are here."""
        return max(self.seqs, default=0)


def _read_known(session_id: str) -> Operation[Known]:
    known = Known({}, set())
    for given, seq, state, metadata in (yield tuples(_KNOWN, id=session_id)):
        there = _seq_there(given, metadata)
        if there is not None:
            known.seqs[there] = seq
            if state == ACTIVE:
                known.active.add(there)
    return known


def _seq_there(given: str | None, metadata: str | None) -> int | None:
    source, _, seq = (given or "").partition(":")
    if source == SOURCE and seq.isdecimal():
        return int(seq)
    made: Any = json.loads(metadata).get(SEQ) if metadata else None
    return made if isinstance(made, int) else None


class Came(NamedTuple):
    """What became of a session's records, per kind."""

    inserted: Counter[str]
    amended: Counter[str]
    duplicate: Counter[str]


async def grow(store: AsyncSessionStore, layout: Layout, found: Found, session: Row, reject: Reject) -> Came:
    """Brings what came to a session that was imported before."""
    came = Came(Counter(), Counter(), Counter())
    state, usage = await layout.state(found), await layout.rows_in("usage_rounds", found)
    newest = await layout.newest(found) or 0
    here = await store.read(_find, found.id, newest) if newest else 0
    if here is not None:  # the newest is here, and so is what came before it
        came.duplicate["messages"] += await layout.count("messages", found)
        came.duplicate["compactions"] += await layout.count("compactions", found)
    elif (rows := await layout.rows(found)) is not None:
        growth = Growth(store, found.id, await store.read(_read_known, found.id), reject, came)
        await growth.bring(rows)
        state, usage = rows.state, rows.usage
        newest, here = newest_of(rows.messages), growth.newest
    else:
        return came
    told = Told(store, session, reject)
    await told.bring_usage(usage_of(usage, reject), came)
    await told.bring_state(state_of(session, state, newest, reject), here)
    (came.amended if came.inserted or came.amended else came.duplicate)["sessions"] += 1
    return came


class Growth:
    """Brings the messages and compactions that are new in a record. All of it can be repeated: what is here
    already stays as it is."""

    def __init__(self, store: AsyncSessionStore, session_id: str, known: Known, reject: Reject, came: Came) -> None:
        self._store = store
        self._id = session_id
        self._known = known
        self._reject = reject
        self._came = came
        self._waiting: list[Record] = []

    @property
    def newest(self) -> int:
        """The seq here of the newest message from there; 0 if there is none."""
        return max(self._known.seqs.values(), default=0)

    async def bring(self, rows: SessionRows) -> None:
        """Messages and compactions, in the order in which they were made."""
        last = self._known.last
        stood = dict.fromkeys(self._known.active, last)
        record = await to_thread.run_sync(partial(record_of, rows, self._reject, stood=stood))
        audits = {audit["note_seq"]: audit for audit in record["compactions"]}
        for message in record["messages"]:
            audit = audits.get(message["seq"])
            if message["seq"] <= last:
                self._came.duplicate["messages"] += message["seq"] in self._known.seqs
                self._came.duplicate["compactions"] += audit is not None
            elif audit is not None:
                put_away = [one["seq"] for one in record["messages"] if one["compacted_by"] == audit["seq"]]
                await self._compact(message, audit, put_away)
            else:
                await self._take(message)
        await self._append()

    async def _take(self, message: Record) -> None:
        if message["state"] != "active" and message["compacted_by"] is None:
            self._refuse("messages", message, "it was taken out of the transcript there, which is not repeated")
            return
        self._waiting.append(message)
        if len(self._waiting) == _AT_ONCE:
            await self._append()

    async def _append(self) -> None:
        messages, self._waiting = self._waiting, []
        try:
            await self._append_all(messages)
        except InvalidRecord:  # nothing was stored: without those that are not storable the others are
            good = [message for message in messages if not self._is_refused(message)]
            if len(good) == len(messages):
                raise
            await self._append_all(good)

    def _is_refused(self, message: Record) -> bool:
        why = refusal(self._store._encoder, message)  # pyright: ignore[reportPrivateUsage]
        if why is not None:
            self._refuse("messages", message, why)
        return why is not None

    async def _append_all(self, messages: Sequence[Record]) -> None:
        if not messages:
            return
        state = await self._store.sessions.state(self._id)
        given = [{name: value for name, value in one.items() if name not in _NOT_GIVEN} for one in messages]
        refs = await self._store.messages.append_many(self._id, given)
        self._known.seqs.update({message["seq"]: ref.seq for message, ref in zip(messages, refs, strict=True)})
        self._came.inserted["messages"] += sum(state is None or ref.seq >= state.next_seq for ref in refs)

    async def _compact(self, note: Record, audit: Record, put_away: Sequence[int]) -> None:
        """Repeats a compaction: its note is made here, and gets the time of now."""
        await self._append()
        seqs = [self._known.seqs[seq] for seq in put_away if seq in self._known.seqs]
        try:
            made = await self._store.messages.compact(
                self._id,
                note=note["content"],
                seqs=seqs,
                before_tokens=audit["before_tokens"],
                after_tokens=audit["after_tokens"],
                round_index=audit["round_index"],
                note_meta={**note["metadata"], SEQ: note["seq"]},
            )
        except InvalidRecord as error:
            self._refuse("compactions", note, str(error))
            return
        self._known.seqs[note["seq"]] = made.note_seq
        self._came.inserted["messages"] += 1
        self._came.inserted["compactions"] += 1

    def _refuse(self, kind: str, message: Record, why: str) -> None:
        self._reject(kind, message["seq"], f"session {self._id!r}: {why}")


# -- usage and state -------------------------------------------------------------------------------

_COMPARED = ("model", "prompt_tokens", "completion_tokens", "cache_read_tokens")


class Told:
    """Brings what is told about a session beside its messages."""

    def __init__(self, store: AsyncSessionStore, session: Row, reject: Reject) -> None:
        self._store = store
        self._id: str = session["session_id"]
        self._rowid: int = session["rowid"]
        self._reject = reject

    async def bring_usage(self, usage: Sequence[Record], came: Came) -> None:
        """Rounds that are new, or say something else than before."""
        rounds = {(row.send_index, row.round_index): row for row in await self._store.usage.rounds(self._id)}
        for row in usage:
            stored = rounds.get((row["send_index"], row["round_index"]))
            became = came.inserted if stored is None else came.duplicate if _says(stored, row) else came.amended
            became["usage"] += 1
            if became is not came.duplicate:
                await self._store.usage.record_round(self._id, **row)

    async def bring_state(self, state: Record, newest: int) -> None:
        """The round and what is pending, unless the session was continued here: then its agent knows better."""
        here = await self._store.sessions.state(self._id)
        if here is None or here.next_seq > max(state["next_seq"], newest + 1):
            return
        if here.round_index != state["round_index"]:
            await self._store.sessions.set_round(self._id, state["round_index"])
        try:
            if here.pending != (state["pending"] or None):
                await self._store.sessions.set_pending(self._id, state["pending"])
        except InvalidRecord as error:
            self._reject("pending", self._rowid, f"session {self._id!r}: {error}")


def _says(stored: UsageRound, row: Record) -> bool:
    total = row["prompt_tokens"] + row["completion_tokens"] if row["total_tokens"] is None else row["total_tokens"]
    return stored.total_tokens == total and all(getattr(stored, name) == row[name] for name in _COMPARED)
