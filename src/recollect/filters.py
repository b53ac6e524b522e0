"""Filters of listings and searches → conditions composed into SQL, one fragment per filter given."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from string import ascii_uppercase
from typing import Any

from .encoding import instant
from .errors import InvalidRecord

_ASCII_LOWER = {ord(upper): upper.lower() for upper in ascii_uppercase}
"""what LOWER() does in SQLite, and in PostgreSQL for texts compared by code point"""


class Filter:
    """Conditions, each beginning with AND, and their parameters. An empty list of values to include
    matches nothing, an empty list to exclude excludes nothing."""

    def __init__(self) -> None:
        self.sql = ""
        self.params: dict[str, Any] = {}

    def add(self, condition: str, **params: Any) -> None:
        """One more condition."""
        self.sql += f" AND {condition}"
        self.params.update(params)

    def among(self, column: str, values: Any) -> None:
        """The column, one of texts, is one of the values; None: no condition."""
        if values is not None:
            name = self._name()
            self.add(f"{column} IN :{name}", **{name: texts_of(values, column)})

    def excluding(self, column: str, values: Any) -> None:
        """The column, one of texts, is none of the values."""
        listed = [] if values is None else texts_of(values, column)
        if listed:
            name = self._name()
            self.add(f"({column} IS NULL OR NOT {column} IN :{name})", **{name: listed})

    def between(self, column: str, since: datetime | None, until: datetime | None) -> None:
        """`since` ≤ column < `until`, in milliseconds."""
        if since is not None:
            name = self._name()
            self.add(f"{column} >= :{name}", **{name: instant(since, "since")})
        if until is not None:
            name = self._name()
            self.add(f"{column} < :{name}", **{name: instant(until, "until")})

    def contains(self, column: str, text: str) -> None:
        """The column contains the text, `%` and `_` being themselves; ASCII letters in any case."""
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRecord(f"what {column} contains is text, not {type(text).__name__}")
        name = self._name()
        pattern = "".join(f"!{c}" if c in "!%_" else c for c in text.translate(_ASCII_LOWER))
        self.add(f"LOWER({column}) LIKE :{name} ESCAPE '!'", **{name: f"%{pattern}%"})

    def _name(self) -> str:
        return f"f{len(self.params)}"


def as_list(values: Any) -> list[Any]:
    """One value or several, as a list."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return [values]
    return list(values)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def texts_of(values: Any, name: str) -> list[str]:
    """The same, where only texts mean something."""
    listed = as_list(values)
    if not all(isinstance(value, str) for value in listed):
        raise InvalidRecord(f"{name} must be text or several texts, not {values!r}")
    return listed


def numbers_of(cursor: Any, n: int) -> list[int] | None:
    """The `n` whole numbers that a cursor is made of; None if it is not one."""
    parts = cursor.split(".") if isinstance(cursor, str) else []
    if len(parts) != n or not all(part.isdecimal() and len(part) < 19 for part in parts):
        return None
    return [int(part) for part in parts]


def page_size(limit: int | None, name: str = "limit") -> int | None:
    """A limit as given: None is no limit, a negative one is InvalidRecord."""
    if limit is None:
        return None
    if type(limit) is not int or limit < 0:
        raise InvalidRecord(f"{name} must be a whole number of at least 0, or None, not {limit!r}")
    return min(limit, _MOST)


_MOST = 2**62
"""rows that nothing has; one more still is a number of 64 bits"""


def end_of_range(prefix: str) -> str | None:
    """The least text above everything that begins with the prefix, by code point."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last < 0x110000:
            return prefix[:-1] + chr(0xE000 if 0xD800 <= last < 0xE000 else last)
        prefix = prefix[:-1]
    return None
