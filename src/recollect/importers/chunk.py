"""A chunk of records on its way into the store: sessions, messages, usage, titles, and the cursor that
says they are in. One operation, so all of it is there or nothing; a repeated one changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ..encoding import now, second
from ..engine.fulltext import FullText
from ..engine.operation import Failed, Operation, all, execute, lock, many, one, tuples
from ..errors import InvalidRecord
from ..journal import happened
from ..messages.amend import amend, joined, lacking
from ..messages.append import append
from ..messages.prepare import Append, NewRow
from ..sessions.change import change
from ..sessions.life import NewSession, ensure
from ..sessions.titles import stem, variant
from ..usage.ledger import COSTS, TOKENS, Round, SessionRounds, write_rounds
from .cursor import Cursor, write_cursor

DAY_MS = 86_400_000
_ANY_DEPTH = 2**31
"""what was spawned elsewhere is not held to this store's limit"""


class Piece(NamedTuple):
    """A message, or a part of one; parts have the same external id."""

    row: NewRow
    line: int


class Counted(NamedTuple):
    """The usage of a message, as its last line so far says."""

    session_id: str
    external_id: str
    round: Round
    line: int


class Titled(NamedTuple):
    """What a session is to be called."""

    session_id: str
    title: str
    before: str | None
    """what the same source called it before: anything else was not given by it, and stays"""


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """What was read between two positions of a file; parents stand before their children."""

    importer: str
    version: int
    source: str
    """of the sessions"""
    sessions: list[NewSession]
    messages: dict[str, list[Piece]]
    """by session, in order"""
    usage: list[Counted]
    titles: list[Titled]
    spawned: dict[str, str]
    """the tool calls that spawned sessions, by the session"""
    cursor: Cursor
    skipped: Counter[str]
    rejected: list[tuple[str, int, str]]
    """kind, line and reason"""


class Landed(msgspec.Struct):
    """What became of a chunk, per kind."""

    sessions: dict[str, bool]
    """those it is about, and whether it made them"""
    inserted: Counter[str]
    amended: Counter[str]
    duplicate: Counter[str]
    rejected: list[tuple[str, int, str]]


def load_chunk(chunk: Chunk, fulltext: FullText, row_bytes: int) -> Operation[Landed]:
    """Writes the chunk and its cursor."""
    landed = Landed({}, Counter(), Counter(), Counter(), [])
    yield lock(*sorted(new.id for new in chunk.sessions))
    yield from _ensure(chunk.sessions, landed)
    yield from _spawned(chunk.spawned)
    fresh = yield from _complete(chunk.messages, fulltext, row_bytes, landed)
    yield from _append(fresh, row_bytes, landed)
    yield from _count(chunk, landed)
    for title in chunk.titles:
        yield from entitle(title)
    yield write_cursor(chunk.importer, chunk.version, chunk.cursor)
    return landed


# -- sessions --------------------------------------------------------------------------------------


def _ensure(sessions: Sequence[NewSession], landed: Landed) -> Operation[None]:
    """Makes the sessions, or fills in what they lack; one made for the sake of a child began later."""
    if not sessions:
        return
    rows = yield all("SELECT id FROM sessions WHERE id IN :ids", ids=[new.id for new in sessions])
    known = {row.id for row in rows}
    for new in sessions:
        yield from ensure(new, _ANY_DEPTH)
        landed.sessions[new.id] = new.id not in known
    yield many(
        "UPDATE sessions SET created_at = ? WHERE id = ? AND created_at > ?",
        [(new.created_at, new.id, new.created_at) for new in sessions],
    )


def _spawned(calls: dict[str, str]) -> Operation[None]:
    for session_id, call_id in calls.items():
        yield execute(
            "UPDATE sessions SET spawn_tool_call_id = :call WHERE id = :id AND spawn_tool_call_id IS NULL",
            id=session_id,
            call=call_id,
        )


# -- messages --------------------------------------------------------------------------------------

_KNOWN = """
SELECT s.id AS session_id, m.external_id FROM messages m JOIN sessions s ON s.session = m.session
WHERE s.id IN :ids AND m.external_id IN :external_ids"""

Fresh = dict[str, dict[str, list[Piece]]]
"""by session, by external id, in order"""


def _complete(messages: dict[str, list[Piece]], fulltext: FullText, row_bytes: int, landed: Landed) -> Operation[Fresh]:
    """Adds to the messages that are there what they lack; returns those that are not there."""
    by_id: Fresh = {session_id: {} for session_id in messages}
    for session_id, pieces in messages.items():
        for piece in pieces:
            by_id[session_id].setdefault(piece.row.external_id or "", []).append(piece)
    for session_id, external_id in (yield from _known(by_id)):
        pieces = by_id[session_id].pop(external_id, [])
        rows = [piece.row for piece in pieces]
        try:
            added = yield from amend(fulltext, row_bytes, session_id, external_id, rows)
        except InvalidRecord as error:
            landed.rejected.append(("messages", pieces[-1].line, str(error)))
            continue
        landed.amended["messages"] += added > 0
        landed.duplicate["messages"] += len(rows) - added
    return by_id


def _known(by_id: Fresh) -> Operation[list[tuple[str, str]]]:
    external_ids = [external_id for session in by_id.values() for external_id in session]
    if not external_ids:
        return []
    rows = yield all(_KNOWN, ids=list(by_id), external_ids=external_ids)
    return [(row.session_id, row.external_id) for row in rows if row.external_id in by_id[row.session_id]]


def _append(fresh: Fresh, row_bytes: int, landed: Landed) -> Operation[None]:
    """Appends the messages; those of the assistant are numbered as the rounds of their session."""
    items: list[Append] = []
    rounds: list[tuple[int, str]] = []
    for session_id, messages in fresh.items():
        if not messages:
            continue
        rows = [row for pieces in messages.values() if (row := _whole(pieces, row_bytes, landed))]
        before = yield one("SELECT round_index FROM sessions WHERE id = :id", id=session_id)
        last = before.round_index
        for at, row in enumerate(rows):
            if row.role == "assistant":
                last += 1
                rows[at] = msgspec.structs.replace(row, optional={**row.optional, "round_index": last})
        items.append(Append(session_id, tuple(rows), now()))
        rounds.append((last, session_id))
        landed.inserted["messages"] += len(rows)
    if items:
        for outcome in (yield from append(items)):
            if isinstance(outcome, Failed):
                raise outcome.error
        yield many("UPDATE sessions SET round_index = ? WHERE id = ?", rounds)


def _whole(pieces: Sequence[Piece], row_bytes: int, landed: Landed) -> NewRow | None:
    first = pieces[0].row
    if len(pieces) == 1:
        return first
    parts = [first, *lacking(first.optional.get("metadata"), [piece.row for piece in pieces[1:]])]
    whole = joined(parts)
    if whole.size > row_bytes:
        reason = f"the message has {whole.size} bytes, {row_bytes} are allowed"
        landed.rejected.append(("messages", pieces[-1].line, reason))
        return None
    landed.duplicate["messages"] += len(pieces) - len(parts)
    return whole


# -- usage -----------------------------------------------------------------------------------------

_LEDGER = f"""
SELECT s.id AS session_id, m.external_id, m.session, m.send_index, m.round_index, u.id AS ledger,
  {", ".join(f"u.{name}" for name in (*TOKENS, *COSTS))}
FROM messages m JOIN sessions s ON s.session = m.session
  LEFT JOIN usage_rounds u
    ON u.session = m.session AND u.send_index = m.send_index AND u.round_index = m.round_index
WHERE s.id IN :ids AND m.external_id IN :external_ids AND m.round_index IS NOT NULL"""

# Only sessions that were alive then can hold a copy: messages keep their time when a session is
# resumed or forked into another.
_ALIVE = """
SELECT s.session, s.id FROM sessions s
WHERE s.activity >= :first AND s.created_at <= :last AND s.source = :source AND s.id IS NOT NULL"""

_COPIED = """
SELECT m.external_id FROM messages m JOIN usage_rounds u
  ON u.session = m.session AND u.send_index = m.send_index AND u.round_index = m.round_index
WHERE m.session IN :sessions AND m.external_id IN :external_ids"""


def _count(chunk: Chunk, landed: Landed) -> Operation[None]:
    """Writes the ledger: a row per message, in place of the one an earlier line has led to. A message
    that is in several sessions, for they were forked, is counted in the first."""
    latest = {(counted.session_id, counted.external_id): counted for counted in chunk.usage}
    if not latest:
        return
    rows = yield all(
        _LEDGER, ids=sorted({id for id, _ in latest}), external_ids=sorted({external_id for _, external_id in latest})
    )
    found = {(row.session_id, row.external_id): row for row in rows}
    fresh = [counted for key, counted in latest.items() if key in found and found[key].ledger is None]
    elsewhere = yield from _copied(chunk, fresh)
    writes: list[SessionRounds] = []
    for key, counted in latest.items():
        row = found.get(key)
        if row is None:
            landed.rejected.append(("usage", counted.line, "its message was not stored"))
        elif counted.external_id in elsewhere if row.ledger is None else tuple(row[6:]) == counted.round.amounts:
            landed.duplicate["usage"] += 1
        else:
            (landed.inserted if row.ledger is None else landed.amended)["usage"] += 1
            elsewhere.add(counted.external_id)
            writes.append(SessionRounds(row.session, row.send_index, row.round_index, [counted.round]))
    if writes:
        yield from write_rounds(writes)


def _copied(chunk: Chunk, fresh: Sequence[Counted]) -> Operation[set[str]]:
    """Which of these messages are counted in another session already."""
    if not fresh:
        return set()
    times = [counted.round.created_at for counted in fresh]
    rows = yield tuples(_ALIVE, source=chunk.source, first=second(min(times) - DAY_MS), last=max(times) + DAY_MS)
    own = chunk.messages if len(chunk.messages) == 1 else ()
    others = [session for session, id in rows if id not in own]
    if not others:
        return set()
    found = yield tuples(_COPIED, sessions=others, external_ids=[counted.external_id for counted in fresh])
    return {external_id for (external_id,) in found}


# -- titles ----------------------------------------------------------------------------------------

_TRIED_AT_ONCE = 64


def entitle(titled: Titled) -> Operation[None]:
    """Gives a session its title, or the next numbered one that is free; one that the source did not
    give stays."""
    row = yield one("SELECT session, title FROM sessions WHERE id = :id", id=titled.session_id)
    if row is None or (row.title is not None and not _is_variant(row.title, titled.before)):
        return
    if _is_variant(row.title, titled.title):
        return
    title = yield from _free(titled.title)
    yield from change(row.session, {"title": title})
    yield from happened("store.titled", titled.session_id, title)


def _free(base: str) -> Operation[str]:
    first = 1
    while True:
        tried = [variant(base, number) for number in range(first, first + _TRIED_AT_ONCE)]
        rows = yield all("SELECT title FROM sessions WHERE title IN :tried", tried=tried)
        taken = {row.title for row in rows}
        for title in tried:
            if title not in taken:
                return title
        first += _TRIED_AT_ONCE


def _is_variant(title: str | None, base: str | None) -> bool:
    if title is None or base is None:
        return False
    number = title.removeprefix(stem(title)).removeprefix(" #")
    return title == base or (number != "" and title == variant(base, int(number)))
