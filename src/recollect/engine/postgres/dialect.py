"""Portable statements → PostgreSQL's."""

from __future__ import annotations

import re
from functools import lru_cache

_PARAMETER = re.compile(r"'[^']*'|\bIN :(\w+)|(?<!:):(\w+)|(\?)")


@lru_cache(maxsize=1024)
def dialect(sql: str) -> tuple[str, tuple[str, ...]]:
    """The statement with `$n` for its parameters, and their names in the order of n.

    `IN :names` becomes `= ANY($n)`, one array parameter; a `?` of `many` has its position for a name.
    Text in quotes is left alone.
    """
    names: list[str] = []

    def number(name: str) -> int:
        if name not in names:
            names.append(name)
        return names.index(name) + 1

    def numbered(found: re.Match[str]) -> str:
        listed, single, positional = found.groups()
        if listed:
            return f"= ANY(${number(listed)})"
        if single:
            return f"${number(single)}"
        return f"${number(str(len(names)))}" if positional else found[0]

    return _PARAMETER.sub(numbered, sql), tuple(names)
