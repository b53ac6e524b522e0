"""Changes: what was committed, as a watcher is told of it; whether he wants it; reading it in the order of commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .access import Access
from .engine.operation import Operation, horizon, tuples
from .errors import InvalidRecord
from .events.names import matcher
from .events.reading import COLUMNS as EVENT
from .events.reading import recorded
from .events.typed import RecordedEvent
from .filters import Filter, end_of_range, numbers_of, texts_of
from .journal import OTHERS, OURS, VISIBLE, pseudonym
from .messages.transcript import COLUMNS as MESSAGE
from .messages.transcript import message
from .models import Change, Message

Several = str | Sequence[str] | None

BEGINNING = "0"
"""the cursor before everything"""

WINDOW = 50_000
"""ids looked at in one hop: of how many rows a watcher wants none, does not matter"""

MESSAGE_KIND, EVENT_KIND = "message", "event"

Owned = tuple[str | None, Change]
"""a change, and whose it is"""


class Found(NamedTuple):
    """A page of changes, and how far it goes."""

    changes: list[Owned]
    reached: int
    """every change up to this id is in the pages so far"""
    last: int
    """where there is nothing more for now"""


def number_of(cursor: str) -> int:
    """The id in a cursor. Raises InvalidRecord for what is none."""
    numbers = numbers_of(cursor, 1)
    if numbers is None:
        raise InvalidRecord(f"after={cursor!r} is not the cursor of a change")
    return numbers[0]


def read_last() -> Operation[int]:
    """The number up to which every change is committed that ever will be."""
    return (yield horizon())


class Conditions(NamedTuple):
    """What is asked of messages and of events in SQL; None: there are none wanted."""

    messages: Filter | None
    events: Filter | None


# Both go along the primary key, whatever the conditions: by another index, all that these find in a window
# would be sorted for each page. CROSS JOIN keeps SQLite from beginning with the sessions.
_MESSAGES = f"""
SELECT s.user_id, s.id, {MESSAGE} FROM messages m CROSS JOIN sessions s
WHERE s.session = m.session AND m.id > :after AND m.id <= :until AND m.state < 3 AND s.id IS NOT NULL"""

_EVENTS = f"""
SELECT e.user_id, {EVENT} FROM events e WHERE e.id > :after AND e.id <= :until AND {VISIBLE}"""


def read_changes(wanted: Conditions, after: int, to: int | None, n: int) -> Operation[Found]:
    """The next `n` changes behind the id `after`, by id, up to the id `to` (None: to the newest)."""
    changes: list[Owned] = []
    last = (yield from read_last()) if to is None else to
    until = min(last, after + WINDOW)
    if wanted.messages is not None:
        where = wanted.messages
        rows = yield tuples(
            f"{_MESSAGES}{where.sql} ORDER BY m.id LIMIT :n", after=after, until=until, n=n, **where.params
        )
        changes += [(row[0], of_message(message(row[1], row[2:]))) for row in rows]
    if wanted.events is not None:
        where = wanted.events
        rows = yield tuples(
            f"{_EVENTS}{where.sql} ORDER BY e.id LIMIT :n", after=after, until=until, n=n, **where.params
        )
        changes += [(row[0], of_event(recorded(row[1:]))) for row in rows]
    changes.sort(key=lambda owned: owned[1].id)
    if len(changes) < n:
        return Found(changes, max(until, after), last)
    return Found(changes[:n], changes[n - 1][1].id, last)


def of_message(message: Message) -> Change:
    """The change that an appended message is."""
    return Change(str(message.id), MESSAGE_KIND, message.id, message.session_id, message.created_at, message, None)


def of_event(event: RecordedEvent) -> Change:
    """The change that an event is."""
    return Change(str(event.id), event.kind, event.id, event.session_id, event.at, None, event)


class Wanted:
    """What a watcher asks for: in SQL, as far as that can tell, and of each change."""

    def __init__(self, access: Access, session_id: Several, kinds: Several) -> None:
        self.access = access
        self._user = access.user_id
        self._sessions = None if session_id is None else set(_texts(session_id, "session_id"))
        listed = None if kinds is None else _texts(kinds, "kinds")
        globs = [kind for kind in listed or () if kind not in (MESSAGE_KIND, EVENT_KIND)]
        self._is_kind = matcher(["*"] if listed is None else globs)
        self._recorded = listed is None or EVENT_KIND in listed
        self._messages = listed is None or MESSAGE_KIND in listed or self._is_kind(MESSAGE_KIND)
        messages = access.narrow(self._of_sessions("s.id"), "s.user_id") if self._messages else None
        events = self._of_sessions("e.session_id") if self._recorded or globs else None
        if events is not None and self._user is not None:
            events.add("(e.user_id IN :owners) IS TRUE", owners=[self._user, pseudonym(self._user)])
        if events is not None and listed is not None:
            _among_kinds(events, globs, self._recorded)
        self.conditions = Conditions(messages, events)

    def _of_sessions(self, column: str) -> Filter:
        where = Filter()
        if self._sessions is not None:
            where.add(f"({column} IN :sessions) IS TRUE", sessions=sorted(self._sessions))
        return where

    def has(self, owner: str | None, change: Change) -> bool:
        """Whether this change is for the watcher."""
        if self._sessions is not None and change.session_id not in self._sessions:
            return False
        if change.message is not None:
            return self._messages and self._user in (None, owner)
        kind = change.kind
        if not self._is_kind(kind) and not (self._recorded and not kind.startswith(OURS)):
            return False
        return self._user is None or owner in (self._user, pseudonym(self._user))


def _texts(values: Several, name: str) -> list[str]:
    listed = texts_of(values, name)
    try:
        "".join(listed).encode()
    except UnicodeEncodeError:
        raise InvalidRecord(f"{name} must not contain lone surrogates: {values!r}") from None
    return listed


def _among_kinds(where: Filter, globs: Sequence[str], recorded: bool) -> None:
    """Events of these kinds, or of some that begin like these globs do; `recorded`: all but the store's own."""
    exact = [kind for kind in globs if not _prefix(kind)[1]]
    conditions = [OTHERS] if recorded else []
    params: dict[str, list[str] | str] = {}
    if exact:
        conditions.append("e.kind IN :kinds")
        params["kinds"] = exact
    for at, prefix in enumerate([_prefix(kind)[0] for kind in globs if _prefix(kind)[1]]):
        end = end_of_range(prefix)
        conditions.append(f"(e.kind >= :least{at}" + ("" if end is None else f" AND e.kind < :end{at}") + ")")
        params |= {f"least{at}": prefix} | ({} if end is None else {f"end{at}": end})
    where.add(f"({' OR '.join(conditions)}) IS TRUE", **params)


def _prefix(kind: str) -> tuple[str, bool]:
    """How everything begins that the glob matches, and whether it is one at all."""
    first = min([at for mark in "*?[" if (at := kind.find(mark)) >= 0], default=len(kind))
    return kind[:first], first < len(kind)
