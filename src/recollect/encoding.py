"""What callers give → what is stored, in the caller's task: checked, cleaned, redacted, encoded.

Everything that can be wrong with a value is found here, so that a batch never fails on data. Lone
surrogates (legal in JSON from models) and NUL (which PostgreSQL refuses) become U+FFFD, counted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from .errors import InvalidRecord

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_LARGEST = 2**63 - 1
_LARGEST_COUNT = 2**53
_DEEPEST = 200
"""levels of JSON; much deeper, decoding runs into the interpreter's limits"""
_MILLIONTH = Decimal(1_000_000)

decode_json: Callable[[str | bytes], Any] = msgspec.json.decode
_encode_json = msgspec.json.encode


def now() -> int:
    """Milliseconds UTC."""
    return time.time_ns() // 1_000_000


def instant(value: datetime | None, name: str) -> int | None:
    """Milliseconds UTC of an aware time."""
    if value is None:
        return None
    if not isinstance(value, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"{name} must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidRecord(f"{name} must be aware: {value!r} names no time zone (use datetime.now(UTC))")
    try:
        return (value.astimezone(UTC) - EPOCH) // _MILLISECOND
    except OverflowError:
        raise InvalidRecord(f"{name} is out of range in UTC: {value!r}") from None


def moment(milliseconds: int) -> datetime:
    """The time a number of milliseconds stands for."""
    return EPOCH + timedelta(milliseconds=milliseconds)


def moment_or_none(milliseconds: int | None) -> datetime | None:
    """The same for what may be missing."""
    return None if milliseconds is None else moment(milliseconds)


def second(milliseconds: int) -> int:
    """The second a time lies in."""
    return milliseconds // 1000


def millionths(value: float | int | Decimal | None, name: str) -> int | None:
    """US dollars → millionths, exactly as written."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"{name} must be a number of dollars, not {type(value).__name__}")
    try:
        amount = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        whole = int((amount * _MILLIONTH).to_integral_value())
    except (InvalidOperation, OverflowError, ValueError):
        raise InvalidRecord(f"{name} must be a finite number of dollars, not {value!r}") from None
    return bounded(whole, name)


def dollars(amount: int | None) -> float | None:
    """Millionths → US dollars."""
    return None if amount is None else amount / 1_000_000


def as_id(value: str) -> str:
    """An id to look for: text, of whatever kind."""
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"an id is text, not {type(value).__name__}")
    return value


def bounded(value: int, name: str) -> int:
    """A whole number the databases can hold."""
    if type(value) is not int or not -_LARGEST - 1 <= value <= _LARGEST:
        raise InvalidRecord(f"{name} must be a whole number of 64 bits, not {value!r}")
    return value


def count(value: int | None, name: str) -> int | None:
    """A whole number of at least 0, or None; small enough that sums of many stay numbers of 64 bits."""
    if value is not None and not 0 <= bounded(value, name) <= _LARGEST_COUNT:
        raise InvalidRecord(f"{name} must be from 0 to 2**53, not {value}")
    return value


def storable(text: str) -> str:
    """The text with U+FFFD in place of what a database refuses."""
    return _UNSTORABLE.sub("\ufffd", text)


def json_value(text: str | None) -> Any:
    """A JSON column's value."""
    return None if text is None else decode_json(text)


def texts(value: Any) -> Iterator[str]:
    """The texts inside a structured value that a person could look for: not its keys, nor data URLs."""
    waiting = [value]
    while waiting:  # not by recursion: JSON may be nested deeper than Python calls
        value = waiting.pop()
        if isinstance(value, str):
            if not value.startswith("data:"):
                yield value
        elif isinstance(value, Mapping):
            waiting += reversed([inner for name, inner in value.items() if name not in _NOT_WORDS])
        elif isinstance(value, list):
            waiting += reversed(value)


_NOT_WORDS = frozenset({"type", "id", "tool_use_id", "call_id", "signature", "media_type", "data", "encrypted_content"})
"""fields of content blocks that carry labels, ids and binary data, not words"""


class Encoder:
    """Checks and encodes for one store; counts what it replaced."""

    def __init__(self, *, row_bytes: int, redact: Callable[[str], str] | None = None) -> None:
        self.row_bytes = row_bytes
        self.replaced = 0
        self._redact = redact

    @property
    def redacts(self) -> bool:
        """Whether texts are changed before they are stored."""
        return self._redact is not None

    def text(self, value: str | None, name: str) -> str | None:
        """A text column."""
        if value is None:
            return None
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRecord(f"{name} must be text, not {type(value).__name__}")
        if self._redact is not None:
            value = self._redacted(value)
        return value if value.isascii() and "\x00" not in value else self._clean(value)

    def identifier(self, value: str, name: str) -> str:
        """A text given from outside that names something: not empty, unchanged or refused."""
        if not isinstance(value, str) or not value:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRecord(f"{name} must be a text that is not empty, not {value!r}")
        if not (value.isascii() and "\x00" not in value) and _UNSTORABLE.search(value):
            raise InvalidRecord(f"{name} must not contain NUL or lone surrogates: {value!r}")
        return value

    def _redacted(self, value: str) -> str:
        assert self._redact is not None
        redacted = self._redact(value)
        if not isinstance(redacted, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRecord(f"redact must return text, not {type(redacted).__name__}; not stored")
        return redacted

    def _clean(self, value: str) -> str:
        cleaned, replaced = _UNSTORABLE.subn("\ufffd", value)
        self.replaced += replaced
        return cleaned

    def json(self, value: Any, name: str) -> str:
        """A JSON column: only what comes back equal is taken."""
        if self._redact is not None:
            value = _each(value, self._redacted)
        try:
            encoded = _as_json(value)
            if encoded is None:
                value = _each(value, self._clean)
                encoded = _encode_json(value)
            if _depth(encoded) <= _DEEPEST and decode_json(encoded) == value:
                return encoded.decode()
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            raise InvalidRecord(f"{name} is not JSON: {error}; not stored") from error
        raise InvalidRecord(
            f"{name} would not come back as given: only text, numbers, True, False, None, lists and"
            f" dicts with text keys are JSON, at most {_DEEPEST} deep; not stored"
        )

    def json_object(self, value: Mapping[str, Any] | None, name: str) -> str | None:
        """A JSON column that holds an object; None and {} are nothing."""
        if value is None:
            return None
        if not isinstance(value, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRecord(f"{name} must be a mapping, not {type(value).__name__}")
        return self.json(dict(value), name) if value else None

    def pending(self, value: Any) -> str | None:
        """What an agent left to do; None and {} are nothing."""
        return None if value is None or value == {} else self.json(value, "pending")

    def within(self, size: int, name: str) -> int:
        """Refuses a record over `Limits.row_bytes`."""
        if size > self.row_bytes:
            raise InvalidRecord(f"{name} has {size} bytes, limits.row_bytes allows {self.row_bytes}; not stored")
        return size


def _depth(encoded: bytes) -> int:
    """How deep a JSON text is nested; counted only where it has enough brackets to be too deep."""
    if encoded.count(b"[") + encoded.count(b"{") <= _DEEPEST:
        return 0
    outside = _STRINGS.sub(b"", encoded)
    depth = deepest = 0
    for bracket in _BRACKETS.findall(outside):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKETS = re.compile(rb"[\[\]{}]")


def _as_json(value: Any) -> bytes | None:
    """JSON, or None where there is a character in it that cannot be stored."""
    try:
        encoded = _encode_json(value)
    except UnicodeEncodeError:
        return None
    return None if b"\\u0000" in encoded else encoded


def _each(value: Any, change: Callable[[str], str]) -> Any:
    """The same structure with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        changed = {_each(k, change): _each(v, change) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
        if len(changed) < len(value):
            raise InvalidRecord("two keys become the same when what cannot be stored is replaced; not stored")
        return changed
    if isinstance(value, list):
        return [_each(inner, change) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    return value
