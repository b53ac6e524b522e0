"""The index's operations: rows after the watermark in, entries of the full-text index out.

A row can only be taken out of the index with exactly the words and keys it was put in with. So both
come from `Entry`, everything that decides about them is in the row, in its session, or in
`index_state`, and nothing of that changes while the row is indexed.

An index of a newer version, of ours or of Python's Unicode tables, is searched and otherwise left to
those who made it: they know its words, we do not.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..engine.fulltext import FullText, IndexDamaged
from ..engine.operation import Operation, Row, all, execute, horizon, one, together
from ..errors import SchemaTooNew
from ..journal import OTHERS
from .calls import texts_of_calls
from .segment import VERSION, segment

log = logging.getLogger("recollect")

_STEP = 16
"""rows fetched at once, at most: each may be as long as the limit allows"""


class Lag(NamedTuple):
    """Where the index stands: every row up to `watermark` is in it, `last` is the newest row."""

    watermark: int
    last: int
    version: int
    unindexed_bytes: int

    @property
    def is_behind(self) -> bool:
        """Whether there is something for us to do."""
        return not self.is_newer and not self.has(self.last)

    @property
    def is_newer(self) -> bool:
        """Whether it is for others to keep it."""
        return self.version > VERSION

    def has(self, id: int) -> bool:
        """Whether every row up to this one is in it."""
        return self.version >= VERSION and self.watermark >= id


class Damaged(NamedTuple):
    """What came of reading a damaged index."""

    error: IndexDamaged
    watermark: int
    version: int


def too_new(version: int) -> SchemaTooNew:
    """Why an index of that version is left as it is."""
    return SchemaTooNew(
        f"the search index is kept by a newer recollect, or one on a newer Python (segmenter {version}, here"
        f" {VERSION}); not stored. Upgrade, or leave this to the newer one"
    )


_STATE = "SELECT watermark, version, row_bytes, unindexed_bytes FROM index_state"


def read_state() -> Operation[Row]:
    """The index's own record."""
    return (yield one(_STATE))


def watched(op: Callable[..., Operation[Any]], *args: Any) -> Operation[Any]:
    """Runs a read. If the index is damaged: which state of it was seen so, in the same snapshot."""
    try:
        return (yield from op(*args))
    except IndexDamaged as error:
        state = yield from read_state()
        return Damaged(error, state.watermark, state.version)


def read_lag() -> Operation[Lag]:
    """Where the index stands."""
    state, message, event = yield together(
        one(_STATE),
        one("SELECT MAX(id) AS id FROM messages"),
        one("SELECT MAX(id) AS id FROM events"),
    )
    return Lag(state.watermark, max(message.id or 0, event.id or 0), state.version, state.unindexed_bytes)


# -- entries ---------------------------------------------------------------------------------------


def searchable(content: str | None, tool_calls: str | None) -> str:
    """The words of a message: its content, and what its tool calls say."""
    if not tool_calls:
        return content or ""
    return "\n".join(filter(None, (content, *texts_of_calls(tool_calls))))


def event_words(row: Row) -> str:
    """The words of an event: its text, and what it is about."""
    return "\n".join(filter(None, (row.name, row.action, row.issue_id, row.path, row.text)))


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


def event_keys(session_id: str | None, user_id: str | None, user_late: int) -> str:
    """The scopes of an event; a user that was filled in late is left out, as with messages."""
    keys = (session_id and event_key(session_id), None if user_late else user_id and user_key(user_id))
    return " ".join(filter(None, keys))


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
    """text not indexed; in characters, where it was not even fetched"""


def message_entry(row: Row, most: int) -> Entry:
    """What the index has of a message."""
    text = searchable(row.content, row.tool_calls)
    beyond = max(0, (row.content_size or 0) - most) + max(0, (row.calls_size or 0) - most)
    return _entry(row.id, text, message_keys(row.session, row.user_id, row.user_late), most, beyond)


def event_entry(row: Row, most: int) -> Entry:
    """What the index has of an event."""
    beyond = max(0, (row.text_size or 0) - most)
    return _entry(row.id, event_words(row), event_keys(row.session_id, row.user_id, row.user_late), most, beyond)


def _entry(id: int, text: str, keys: str, most: int, beyond: int) -> Entry:
    kept = text if len(text) * 4 <= most else text.encode()[:most].decode(errors="ignore")
    left_out = 0 if len(kept) == len(text) else len(text.encode()) - len(kept.encode())
    try:
        words = segment(kept)
    except MemoryError:
        raise  # the row is not to blame
    except Exception:
        log.exception("row %d cannot be segmented; it is not found by its words", id)
        return Entry(id, "", keys, len(kept), len(text.encode(errors="replace")) + beyond)
    return Entry(id, words, keys, len(kept), left_out + beyond)


# -- forward ---------------------------------------------------------------------------------------

# No more of a text is fetched than can be indexed: `:most` characters are at least as many bytes.
TEXT = """
SELECT m.id, SUBSTR(m.content, 1, :most) AS content, LENGTH(m.content) AS content_size,
  SUBSTR(m.tool_calls, 1, :most) AS tool_calls, LENGTH(m.tool_calls) AS calls_size,
  s.session, s.user_id, s.user_late
FROM messages m JOIN sessions s ON s.session = m.session"""
"""what an entry of a message is made of"""

_MESSAGES = f"{TEXT} WHERE m.id > :after AND m.id <= :top ORDER BY m.id LIMIT :n"

_EVENT_TEXT = """
SELECT id, name, action, issue_id, path, SUBSTR(text, 1, :most) AS text, LENGTH(text) AS text_size, session_id, user_id,
  user_late
FROM events"""
"""what an entry of an event is made of"""

# What happens to sessions has no words to be found by.
_EVENTS = f"{_EVENT_TEXT} WHERE id > :after AND id <= :top AND {OTHERS} ORDER BY id LIMIT :n"

EVENT_ENTRIES = f"{_EVENT_TEXT} WHERE id IN :ids AND {OTHERS}"
"""what entries of these events are made of"""


class Indexed(NamedTuple):
    """What a chunk came to."""

    lag: Lag
    rows: int
    bytes: int


def index_chunk(fulltext: FullText, rows: int, size: int) -> Operation[Indexed]:
    """Indexes the next rows: at most so many, and no further one after so many bytes of text."""
    yield fulltext.lock()
    top = yield horizon()  # what is not decided is left for later: the watermark must not pass a row to come
    lag = yield from read_lag()
    if lag.version != VERSION or not lag.is_behind:
        return Indexed(lag, 0, 0)
    state = yield from read_state()
    entries, reached = yield from _gather(lag.watermark, min(top, lag.last), state.row_bytes, rows, size)
    found = [(entry.id, entry.words, entry.keys) for entry in entries if entry.words]
    if found:
        yield fulltext.insert(found)
    left_out = sum(entry.left_out for entry in entries)
    yield execute(
        "UPDATE index_state SET watermark = :reached, unindexed_bytes = unindexed_bytes + :left_out",
        reached=reached,
        left_out=left_out,
    )
    lag = lag._replace(watermark=reached, unindexed_bytes=lag.unindexed_bytes + left_out)
    return Indexed(lag, len(entries), sum(entry.bytes for entry in entries))


def _gather(after: int, top: int, most: int, rows: int, size: int) -> Operation[tuple[list[Entry], int]]:
    """Entries of the rows behind `after`, up to `top`, and how far they reach."""
    entries: list[Entry] = []
    reached, taken = after, 0
    while reached < top and len(entries) < rows and taken < size:
        # The first alone; then as many as there is room for, if they are like those before.
        n = min(_STEP, rows - len(entries), (size - taken) * len(entries) // max(1, taken)) or 1
        step = yield from _next_rows(reached, top, most, n)
        for as_entry, row in step:
            entries.append(as_entry(row, most))
            taken += entries[-1].bytes
            reached = row.id
            if taken >= size:
                break
        else:
            reached = reached if len(step) == n else top
    return entries, reached


def _next_rows(after: int, top: int, most: int, n: int) -> Operation[list[tuple[Callable[[Row, int], Entry], Row]]]:
    """The next rows of both kinds, by id, each with what makes an entry of it."""
    messages = yield all(_MESSAGES, after=after, top=top, n=n, most=most)
    events = yield all(_EVENTS, after=after, top=top, n=n, most=most)
    found = [(message_entry, row) for row in messages]
    if not events:
        return found
    found += [(event_entry, row) for row in events]
    return sorted(found, key=lambda each: each[1].id)[:n]


# -- anew ------------------------------------------------------------------------------------------


def condemn() -> Operation[None]:
    """Marks the index as one to be made anew."""
    yield execute("UPDATE index_state SET version = 0, watermark = 0")


def condemn_seen(watermark: int, version: int) -> Operation[bool]:
    """The same for an index that was seen damaged, unless it is being made anew since then, or is a
    newer recollect's; whether it was done."""
    state = yield from read_state()
    if state.version != version or state.watermark < watermark or not 0 < version <= VERSION:
        return False
    yield from condemn()
    return True


def reset_step(fulltext: FullText, row_bytes: int) -> Operation[bool]:
    """One step towards an empty index of our version; True when it is there."""
    yield fulltext.lock()
    state = yield from read_state()
    if state.version >= VERSION:
        return True  # another process was faster, or is newer than we are
    yield from condemn()
    if not (yield from fulltext.reset()):
        return False
    yield execute(
        "UPDATE index_state SET watermark = 0, version = :version, row_bytes = :row_bytes, unindexed_bytes = 0,"
        " purged = erased",
        version=VERSION,
        row_bytes=row_bytes,
    )
    return True


# -- back ------------------------------------------------------------------------------------------

AsEntry = Callable[[Row, int], Entry]


def remove_entries(
    fulltext: FullText, state: Row, rows: Sequence[Row], as_entry: AsEntry = message_entry
) -> Operation[None]:
    """Takes rows out of the index: those it has read, as it has read them."""
    if state.version != VERSION:
        return  # it is made anew, without them
    found = list(_indexed(rows, state, as_entry))
    if found:
        yield fulltext.remove(found)


def _indexed(rows: Sequence[Row], state: Row, as_entry: AsEntry = message_entry) -> Iterator[tuple[int, str, str]]:
    for row in rows:
        if row.id <= state.watermark and (entry := as_entry(row, state.row_bytes)).words:
            yield entry.id, entry.words, entry.keys


ENTRIES = f"{TEXT} WHERE m.id IN :ids"
"""what entries of these messages are made of"""


def reworded(
    fulltext: FullText,
    ids: Sequence[int],
    change: Operation[None],
    texts: str = ENTRIES,
    as_entry: AsEntry = message_entry,
) -> Operation[None]:
    """Runs `change`, which gives these messages (or what `texts` fetches) other words; those that are indexed
    change with it. A damaged index does not stop it: it is made anew. Raises SchemaTooNew before anything is
    changed."""
    yield fulltext.lock()
    state = yield from read_state()
    if state.version > VERSION and min(ids) <= state.watermark:
        raise too_new(state.version)
    try:
        yield from remove_entries(fulltext, state, (yield all(texts, ids=ids, most=state.row_bytes)), as_entry)
        yield from change
        yield from _restore_entries(fulltext, state, (yield all(texts, ids=ids, most=state.row_bytes)), as_entry)
    except IndexDamaged:
        yield from condemn()
        yield from change  # where it is done already, this does nothing


def _restore_entries(fulltext: FullText, state: Row, rows: Sequence[Row], as_entry: AsEntry) -> Operation[None]:
    found = list(_indexed(rows, state, as_entry))
    if found and state.version == VERSION:
        yield fulltext.insert(found)


def merge(fulltext: FullText, pages: int) -> Operation[Any]:
    """One bounded step of tidying; True while there is more. One that is being made anew needs none."""
    if (yield from read_state()).version != VERSION:
        return False
    return (yield from fulltext.merge(pages))
