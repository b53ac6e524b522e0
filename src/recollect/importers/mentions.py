"""Files that a text names, as people write of them: `src/net.py`, `net.py:41`, `src/net.py::test_retry`.

A path has an extension; a name without a folder must have one that files of a project have. URLs and patterns
are none. Where the same text names `src/net.py` too, `net.py` is taken for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST = 128
"""files of one text"""

LONGEST = 256
"""characters of a path"""

_LINE_MOST = 16_384
"""characters of a line that are looked at: nothing else in the process runs until a line is searched"""

# Nothing that may stand in a path stands before it, so each is tried from its beginning only.
_PATH = re.compile(
    r"(?<![\w/.:~$@%+=<>{}\\-])(?!(?<=\*)/)(?:\./)?"
    r"(/?(?:[\w.@+-]+/){0,32}[\w@+-][\w.@+-]*\.[A-Za-z][A-Za-z0-9]{0,7})(?![\w/<{$-])"
)

_OF_PROJECTS = re.compile(
    r".*\.(?:c|cc|cfg|conf|cpp|cs|css|csv|go|h|hpp|html|ini|ipynb|java|js|json|jsonl|jsx|kt|lock|lua|md|mjs|php|proto"
    r"|ps1|py|pyi|rb|rs|rst|scss|sh|sql|svelte|swift|tf|toml|ts|tsx|txt|vue|xml|yaml|yml|zig)",
    re.IGNORECASE,
)


def files_named(lines: Iterable[str]) -> list[str]:
    """The files that these lines name, each once, in the order in which they come."""
    named: dict[str, None] = {}
    for line in lines:
        for found in _PATH.finditer(line[:_LINE_MOST]):
            if len(named) == MOST:
                break
            path = found[1]
            if len(path) <= LONGEST and ("/" in path or _OF_PROJECTS.fullmatch(path)):
                named[path] = None
    shorter = {suffix for path in named for suffix in _suffixes(path)}
    return [path for path in named if path not in shorter]


def _suffixes(path: str) -> list[str]:
    """How the path may be called for short."""
    parts = path.split("/")
    return ["/".join(parts[at:]) for at in range(1, len(parts))]
