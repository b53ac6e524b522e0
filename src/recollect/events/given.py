"""Event → the row to insert, in the caller's task: checked, cleaned, redacted, encoded, measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ..encoding import Encoder, instant, now
from ..errors import InvalidRecord
from ..journal import OURS
from .typed import Event, Recordable, TypedEvent

_OVERHEAD = 150
"""bytes of a row beside its texts, for the bounds of the queue"""

_FIELDS = frozenset(Event.__struct_fields__)


class EventRow(msgspec.Struct, frozen=True, gc=False):
    """An event ready for its transaction, which adds id and user_id."""

    kind: str
    at: int
    session_id: str | None
    dedupe_key: str | None
    optional: dict[str, Any]
    """the other columns that are set"""
    size: int


class Recording(msgspec.Struct, frozen=True, gc=False):
    """What one call records: all of it or nothing."""

    rows: tuple[EventRow, ...]
    user_id: str | None = None
    """whose they are; None: of whoever has their session"""

    @property
    def claim(self) -> tuple[None, str]:
        """It is for him, whatever sessions its events name."""
        return None, self.user_id or ""


def as_event(given: Recordable) -> Event:
    """An event of whatever was given. Raises InvalidRecord."""
    if isinstance(given, Event):
        return given
    if isinstance(given, TypedEvent):
        return given.event()
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"an event must be an Event or a mapping, not {type(given).__name__}; not stored")
    unknown = set(given) - _FIELDS
    if unknown or "kind" not in given:
        what = f"unknown: {', '.join(sorted(map(str, unknown)))}" if unknown else "it has no kind"
        raise InvalidRecord(f"not the fields of an event ({what}); not stored")
    return Event(**given)


def prepare(encoder: Encoder, given: Recordable) -> EventRow:
    """Checks and encodes one event."""
    event = as_event(given)
    kind = encoder.identifier(event.kind, "kind")
    if kind.startswith(OURS):
        raise InvalidRecord(f"kinds that begin with {OURS!r} are recorded by the store itself; not stored")
    at = instant(event.at, "at")
    optional = {
        name: encode(encoder, value, name)
        for name, encode in _OPTIONAL.items()
        if (value := getattr(event, name)) is not None
    }
    for name, column in _columns(event):
        optional[name] = encoder.text(column, name) if isinstance(column, str) else column
    session_id = None if event.session_id is None else encoder.identifier(event.session_id, "session_id")
    dedupe_key = None if event.dedupe_key is None else encoder.identifier(event.dedupe_key, "dedupe_key")
    texts = (kind, session_id, dedupe_key, *optional.values())
    size = _OVERHEAD + sum([len(text.encode()) for text in texts if isinstance(text, str)])
    return EventRow(
        kind, now() if at is None else at, session_id, dedupe_key, optional, encoder.within(size, "the event")
    )


def _columns(event: Event) -> Iterator[tuple[str, str | int]]:
    """What the payload of a typed kind has for the columns of its view; of another type, it stays there."""
    payload = event.payload or {}
    for name, type_ in _TYPED_COLUMNS.get(event.kind, {}).items():
        value = payload.get(name)
        if isinstance(value, str) and type_ is str:
            yield name, value
        elif type(value) is type_ and isinstance(value, int) and abs(value) < 2**63:
            yield name, int(value)


_TYPED_COLUMNS: dict[str, dict[str, type]] = {
    "tool": {"args_hash": str, "result_size": int, "bytes_in": int, "bytes_out": int, "cache_hit": bool},
    "file": {"git_sha": str},
    "issue": {"discovered_by": str},
    "loop": {"state": str, "retries": int},
    "correction": {"source": str},
}


def prepare_all(encoder: Encoder, events: Iterable[Recordable]) -> tuple[EventRow, ...]:
    """The same for several; the error names which one it is about."""
    if isinstance(events, Mapping | str | Event) or not isinstance(events, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"events must be several, not {type(events).__name__}; not stored")
    rows: list[EventRow] = []
    for at, event in enumerate(events):
        try:
            rows.append(prepare(encoder, event))
        except InvalidRecord as error:
            raise InvalidRecord(f"event {at}: {error}") from error
    return tuple(rows)


def _identifier(encoder: Encoder, value: Any, name: str) -> str:
    return encoder.identifier(value, name)


def _text(encoder: Encoder, value: Any, name: str) -> str | None:
    return encoder.text(value, name)


def _object(encoder: Encoder, value: Any, name: str) -> str | None:
    return encoder.json_object(value, name)


_OPTIONAL: dict[str, Callable[[Encoder, Any, str], Any]] = {
    "run_id": _identifier,
    "name": _text,
    "action": _text,
    "issue_id": _identifier,
    "path": _text,
    "anchor": _text,
    "text": _text,
    "payload": _object,
}
