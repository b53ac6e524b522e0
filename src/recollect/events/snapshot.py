"""An event as it is at the call, so that nobody can change it afterwards: its name, and JSON of whatever it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from .names import name_of
from .typed import Event, TypedEvent

_encode = msgspec.json.Encoder(enc_hook=str).encode

_DEEPEST = 64
"""levels of an event that had to be put into JSON by hand"""

_WIDEST = 10_000
"""values of such an event; what is in itself several times would never end"""

_LARGEST = 1024
"""bits of a number that has to be one; more digits than Python writes must become text"""

_LONGEST = 4096
"""characters of a value that is a text only because JSON has no other word for it"""


class Snapshot(NamedTuple):
    """An event as it was at the call."""

    name: str
    json: bytes
    is_event: bool
    """an `Event`, with its fields"""


def snapshot(event: Any) -> Snapshot:
    """Encodes an event. Values that JSON does not know become text; this never raises."""
    try:
        if isinstance(event, TypedEvent):
            event = event.event()
        elif not isinstance(event, Mapping | Event) and callable(build := getattr(event, "to_dict", None)):
            event = build()
        if isinstance(event, Event):
            return Snapshot(name_of(event), _encode(event), True)
        if isinstance(event, Mapping):
            return Snapshot(name_of(event), _encode(event if type(event) is dict else dict(event)), False)
    except Exception:
        pass  # odd keys, lone surrogates, numbers too large, endless recursion, methods that raise
    return _by_hand(event)


def _by_hand(event: Any) -> Snapshot:
    """What the encoder could not do."""
    try:
        fields: Any = msgspec.structs.asdict(event) if isinstance(event, Event | TypedEvent) else event
        if not isinstance(fields, Mapping):
            fields = {"event": type(event).__name__, "value": event}
        plain = _Plain().of(fields, _DEEPEST)
        # other letters as they are: what redacts looks for words, not for escapes
        text = json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()
        return Snapshot(name_of(plain), text, isinstance(event, Event))
    except Exception as error:  # its own methods raise: that it was there is all there is to say
        name = type(event).__name__
        return Snapshot(name, json.dumps({"event": name, "error": type(error).__name__}).encode(), False)


class _Plain:
    """Makes JSON of anything: values it does not know become text, what is in itself or too much is left out."""

    def __init__(self) -> None:
        self._inside: set[int] = set()
        self._left = _WIDEST

    def of(self, value: Any, depth: int) -> Any:
        """The same, of what JSON knows."""
        self._left -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _storable(str.__str__(value))
        if type(value) is int and value.bit_length() < _LARGEST:
            return value
        if type(value) is float and abs(value) < float("inf"):
            return value
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            return self._nested(value, depth)
        return _text_of(value)

    def _nested(self, value: Any, depth: int) -> Any:
        if id(value) in self._inside or not depth or self._left <= 0:
            return "…"
        self._inside.add(id(value))
        try:
            if isinstance(value, Mapping):
                return {_key(key): self.of(inner, depth - 1) for key, inner in self._some(value.items())}
            return [self.of(inner, depth - 1) for inner in self._some(value)]
        finally:
            self._inside.discard(id(value))

    def _some(self, values: Iterable[Any]) -> Iterable[Any]:
        for value in values:
            if self._left <= 0:
                return
            yield value


def _key(key: Any) -> str:
    return _storable(str.__str__(key)) if isinstance(key, str) else _text_of(key)


def _text_of(value: Any) -> str:
    try:
        return _storable(str(value)[:_LONGEST])
    except Exception:
        return f"<{type(value).__name__}>"


def _storable(text: str) -> str:
    """Without lone surrogates, which no encoding has."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
