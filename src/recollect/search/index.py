"""The index's operations: rows after the watermark in, entries of the full-text index out.

A row can only be taken out of the index with exactly the words and keys it was put in with. So both
come from `Entry`, everything that decides about them is in the row, in its session, or in
`index_state`, and nothing of that changes while the row is indexed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..encoding import decode_json, texts
from ..engine.fulltext import FullText, IndexDamaged
from ..engine.operation import Operation, Row, all, execute, many, one
from .segment import VERSION, segment

_STEP = 16
"""rows fetched at once: few, for each may be as long as the limit allows"""

ERASED_AT_ONCE = 64


class Lag(NamedTuple):
    """Where the index stands: every row up to `watermark` is in it, `last` is the newest row."""

    watermark: int
    last: int
    version: int
    unindexed_bytes: int

    @property
    def is_behind(self) -> bool:
        """Whether there is something to do."""
        if self.version > VERSION:
            return False  # a newer recollect keeps it
        return self.version < VERSION or self.watermark < self.last


def read_lag() -> Operation[Lag]:
    """Where the index stands."""
    state = yield one("SELECT watermark, version, unindexed_bytes FROM index_state")
    message = yield one("SELECT MAX(id) AS id FROM messages")
    event = yield one("SELECT MAX(id) AS id FROM events")
    return Lag(state.watermark, max(message.id or 0, event.id or 0), state.version, state.unindexed_bytes)


def read_work() -> Operation[tuple[Lag, bool]]:
    """Where the index stands, and whether a deleted session waits to be erased."""
    lag = yield from read_lag()
    gone = yield one("SELECT 1 AS n FROM sessions WHERE id IS NULL LIMIT 1")
    return lag, gone is not None


# -- entries ---------------------------------------------------------------------------------------


def searchable(content: str | None, tool_calls: str | None) -> str:
    """The words of a message: its content, and what its tool calls say."""
    if not tool_calls:
        return content or ""
    return "\n".join(filter(None, (content, *texts(decode_json(tool_calls)))))


def message_keys(session: int, user_id: str | None, user_late: int) -> str:
    """The scopes of a message. A user that was filled in late is left out: what was indexed before
    lacks it too, and searches look for such sessions by themselves."""
    if user_id is None or user_late:
        return session_key(session)
    return f"{session_key(session)} {user_key(user_id)}"


def session_key(session: int) -> str:
    """The key of a session's messages."""
    return f"s{session:x}"


@lru_cache(maxsize=4096)
def user_key(user_id: str) -> str:
    """The key of a user's messages."""
    return "u" + _digest(user_id)


@lru_cache(maxsize=4096)
def event_key(session_id: str) -> str:
    """The key of the events of a session, which the store need not know."""
    return "e" + _digest(session_id)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


class Entry(NamedTuple):
    """A row as the index takes it; `words` is empty where there is nothing to find."""

    id: int
    words: str
    keys: str
    bytes: int
    """text looked at"""
    left_out: int
    """text beyond the limit"""


def _message_entry(row: Row, most: int) -> Entry:
    text = searchable(row.content, row.tool_calls)
    return _entry(row.id, text, message_keys(row.session, row.user_id, row.user_late), most)


def _event_entry(row: Row, most: int) -> Entry:
    return _entry(row.id, row.text, "" if row.session_id is None else event_key(row.session_id), most)


def _entry(id: int, text: str, keys: str, most: int) -> Entry:
    kept = text if len(text) * 4 <= most else text.encode()[:most].decode(errors="ignore")
    left_out = 0 if len(kept) == len(text) else len(text.encode()) - len(kept.encode())
    return Entry(id, segment(kept), keys, len(kept), left_out)


# -- forward ---------------------------------------------------------------------------------------

_MESSAGES = """
SELECT m.id, m.content, m.tool_calls, s.session, s.user_id, s.user_late
FROM messages m JOIN sessions s ON s.session = m.session WHERE m.id > :after ORDER BY m.id LIMIT :n"""

_EVENTS = """
SELECT id, text, session_id FROM events WHERE id > :after AND text IS NOT NULL ORDER BY id LIMIT :n"""


def index_chunk(fulltext: FullText, rows: int, size: int) -> Operation[Lag]:
    """Indexes the next rows, at most so many and about so many bytes; where it stands afterwards."""
    lag = yield from read_lag()
    if lag.version != VERSION or not lag.is_behind:
        return lag
    state = yield one("SELECT row_bytes FROM index_state")
    entries: list[Entry] = []
    reached = lag.watermark
    while reached < lag.last and len(entries) < rows and sum(e.bytes for e in entries) < size:
        step = yield from _next_entries(reached, state.row_bytes)
        entries += step
        reached = step[-1].id if len(step) == _STEP else lag.last
    found = [(entry.id, entry.words, entry.keys) for entry in entries if entry.words]
    if found:
        yield fulltext.insert(found)
    left_out = sum(entry.left_out for entry in entries)
    yield execute(
        "UPDATE index_state SET watermark = :reached, unindexed_bytes = unindexed_bytes + :left_out",
        reached=reached,
        left_out=left_out,
    )
    return lag._replace(watermark=reached, unindexed_bytes=lag.unindexed_bytes + left_out)


def _next_entries(after: int, most: int) -> Operation[list[Entry]]:
    """The next rows of both kinds, by id."""
    messages = yield all(_MESSAGES, after=after, n=_STEP)
    events = yield all(_EVENTS, after=after, n=_STEP)
    entries = [_message_entry(row, most) for row in messages]
    if not events:
        return entries
    entries += [_event_entry(row, most) for row in events]
    return sorted(entries, key=lambda entry: entry.id)[:_STEP]


# -- anew ------------------------------------------------------------------------------------------


def condemn() -> Operation[None]:
    """Marks the index as one to be made anew."""
    yield execute("UPDATE index_state SET version = 0, watermark = 0")


def reset_step(fulltext: FullText, row_bytes: int) -> Operation[bool]:
    """One step towards an empty index of our version; True when it is there."""
    state = yield one("SELECT version FROM index_state")
    if state.version >= VERSION:
        return True  # another process was faster, or is newer than we are
    yield from condemn()
    if not (yield from fulltext.reset()):
        return False
    yield execute(
        "UPDATE index_state SET watermark = 0, version = :version, row_bytes = :row_bytes, unindexed_bytes = 0",
        version=VERSION,
        row_bytes=row_bytes,
    )
    return True


# -- back ------------------------------------------------------------------------------------------

_ERASABLE = """
SELECT m.id, m.content, m.tool_calls, s.session, s.user_id, s.user_late
FROM messages m JOIN sessions s ON s.session = m.session
WHERE m.session = :session AND m.state IN (0, 1, 2) LIMIT :n"""


def erase_chunk(fulltext: FullText) -> Operation[bool]:
    """Erases some rows of a deleted session with their entries; True while there is more."""
    gone = yield one("SELECT session FROM sessions WHERE id IS NULL ORDER BY session LIMIT 1")
    if gone is None:
        return False
    rows = yield all(_ERASABLE, session=gone.session, n=ERASED_AT_ONCE)
    if rows:
        yield from remove_entries(fulltext, rows)
        yield many("DELETE FROM messages WHERE id = ?", [(row.id,) for row in rows])
        return True
    for table in ("compactions", "usage_rounds", "leases", "session_texts", "sessions"):
        yield execute(f"DELETE FROM {table} WHERE session = :session", session=gone.session)
    return True


def remove_entries(fulltext: FullText, rows: Sequence[Row]) -> Operation[None]:
    """Takes rows about to be deleted out of the index: those it has read, as it has read them."""
    state = yield one("SELECT watermark, version, row_bytes FROM index_state")
    if state.version != VERSION:
        return  # it is made anew, without them
    found = list(_indexed(rows, state.watermark, state.row_bytes))
    if found:
        yield fulltext.remove(found)


def _indexed(rows: Sequence[Row], watermark: int, most: int) -> Iterator[tuple[int, str, str]]:
    for row in rows:
        if row.id <= watermark and (entry := _message_entry(row, most)).words:
            yield entry.id, entry.words, entry.keys


_ENTRIES = """
SELECT m.id, m.content, m.tool_calls, s.session, s.user_id, s.user_late
FROM messages m JOIN sessions s ON s.session = m.session WHERE m.id IN :ids"""


def reworded(fulltext: FullText, ids: Sequence[int], change: Operation[None]) -> Operation[None]:
    """Runs `change`, which gives these messages other words; those that are indexed change with it. A
    damaged index does not stop it: it is made anew."""
    before = yield all(_ENTRIES, ids=ids)
    try:
        yield from remove_entries(fulltext, before)
        yield from change
        after = yield all(_ENTRIES, ids=ids)
        yield from _restore_entries(fulltext, after)
    except IndexDamaged:
        yield from condemn()
        yield from change  # where it is done already, this does nothing


def _restore_entries(fulltext: FullText, rows: Sequence[Row]) -> Operation[None]:
    state = yield one("SELECT watermark, version, row_bytes FROM index_state")
    found = list(_indexed(rows, state.watermark, state.row_bytes))
    if found and state.version == VERSION:
        yield fulltext.insert(found)


def merge(fulltext: FullText, pages: int) -> Operation[Any]:
    """One bounded step of tidying; True while there is more."""
    return (yield from fulltext.merge(pages))
