"""Portable statements → PostgreSQL's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

_PARAMETER = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | (?<!\w)[eE]'(?:[^'\\]|\\.|'')*' | '[^']*' | "[^"]*" | \$(\w*)\$.*?\$\1\$
    | \bIN\s:(?P<several>[A-Za-z_]\w*) | (?<!:):(?P<one>[A-Za-z_]\w*) | (?P<next>\?)""",
    re.VERBOSE | re.DOTALL,
)
"""a parameter, or what looks like one and is none: comments, texts, names"""

_ROWS = re.compile(r"(\s*INSERT INTO \w+ \([\w, ]+\) VALUES )(\((?:\?|CAST\(\? AS \w+\)|, )+\))\s*")
"""an INSERT of nothing but parameters"""
_AT_ONCE = (32, 16, 8, 4, 2, 1)
"""rows of one INSERT: few numbers, so that few statements are to be prepared"""


@lru_cache(maxsize=1024)
def dialect(sql: str) -> tuple[str, tuple[str, ...]]:
    """The statement with `$n` for its parameters, and their names in the order of n.

    `IN :names` becomes `= ANY($n)`, one array parameter; a `?` of `many` has its position for a name.
    Texts, names in quotes and comments are left alone.
    """
    names: list[str] = []

    def number(name: str) -> int:
        if name not in names:
            names.append(name)
        return names.index(name) + 1

    def numbered(found: re.Match[str]) -> str:
        listed, single, positional = found.group("several", "one", "next")
        if listed:
            return f"= ANY(${number(listed)})"
        if single:
            return f"${number(single)}"
        return f"${number(str(len(names)))}" if positional else found[0]

    return _PARAMETER.sub(numbered, sql), tuple(names)


def rows_at_once(sql: str, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[bytes, Sequence[Any]]]:
    """What does a statement of `many` for all rows: a plain INSERT takes several of them at once."""
    first = 0
    for n in _AT_ONCE if _ROWS.fullmatch(sql) else (1,):
        text = _of_rows(sql, n)
        while len(rows) - first >= n:
            yield text, _texts(chain.from_iterable(rows[first : first + n]))
            first += n


@lru_cache(maxsize=1024)
def _of_rows(sql: str, n: int) -> bytes:
    found = _ROWS.fullmatch(sql)
    return dialect(found[1] + ", ".join([found[2]] * n) if found else sql)[0].encode()


def _texts(values: Any) -> list[Any]:
    """Numbers as texts, of which the server knows what they are to be: by their size psycopg would give them three
    types, each of which makes another statement to prepare."""
    return [str(value) if type(value) is int else value for value in values]
