"""The front matter of a Markdown file: what stands between `---` lines, as texts, lists and mappings of texts.

There may be several such blocks: what a later one says holds. Fenced code is not looked into. YAML that is
malformed is read line by line, as far as that goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

YAML_BYTES = 64 * 1024
"""of the blocks of a file that a YAML parser is given, which is slow; what is more is read line by line"""

_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_RULE = re.compile(r"(?:---|\.\.\.)\s*$")
_KEY = re.compile(r"([A-Za-z_][\w.-]*)\s*:(?:\s+(.*))?$")
_ITEM = re.compile(r"\s*-\s+(.*)$")


class Document(NamedTuple):
    """A Markdown file, taken apart."""

    front: dict[str, Any]
    body: str
    """what follows the blocks at the beginning, as it is"""


def parse(text: str) -> Document:
    """Takes a file apart. Raises ImportError if there is no YAML library (`require_yaml`)."""
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    front: dict[str, Any] = {}
    blocks: list[str] = []
    at = 0
    while (end := _end_of_block(lines, at)) is not None:
        blocks.append("".join(lines[_first(lines, at) + 1 : end]))
        at = end + 1
    if at == 0 and (end := _end_of_open_block(lines)):
        front.update(_by_line("".join(lines[1:end])))
        at = end
    body = "".join(lines[at:])
    left = YAML_BYTES
    for block in [*blocks, *_later_blocks(body)]:
        is_yaml = len(block) <= left
        left -= len(block) if is_yaml else 0
        front.update(_values(block) if is_yaml else _by_line(block))
    return Document(front, body)


def outside_of_code(body: str) -> Iterator[str]:
    """The lines of Markdown that are not in a code fence; those that are come empty."""
    fence = ""
    for line in body.splitlines():
        found = _FENCE.match(line)
        mark = found[1] if found else ""
        if not fence and mark:
            fence = mark
            yield ""
        elif fence:
            if mark.startswith(fence) and line.strip() == mark:
                fence = ""
            yield ""
        else:
            yield line


# -- blocks ----------------------------------------------------------------------------------------


def _first(lines: list[str], at: int) -> int:
    """The next line that is not blank."""
    while at < len(lines) and not lines[at].strip():
        at += 1
    return at


def _end_of_block(lines: list[str], at: int) -> int | None:
    """The line that closes the block that begins here; None where none does."""
    first = _first(lines, at)
    if first == len(lines) or lines[first].rstrip() != "---":
        return None
    for number in range(first + 1, len(lines)):
        if _RULE.match(lines[number]):
            inside = lines[first + 1 : number]
            is_front = any(map(_KEY.match, map(str.rstrip, inside))) if at == 0 else _looks_like_front_matter(inside)
            return number if is_front else None
    return None


def _end_of_open_block(lines: list[str]) -> int:
    """Where a block at the beginning ends that nobody has closed: at what is no line of one."""
    if not lines or lines[0].rstrip() != "---":
        return 0
    for number, line in enumerate(lines[1:], start=1):
        if not (_KEY.match(line.rstrip()) or _ITEM.match(line) or line.startswith(" ")):
            return number
    return len(lines)


def _looks_like_front_matter(lines: list[str]) -> bool:
    """Whether these lines, which may as well stand between two rules of the text, say keys and values."""
    keys = [_KEY.match(line.rstrip()) for line in lines if line.strip() and not line.startswith((" ", "\t", "- ", "#"))]
    return bool(keys) and all(keys)


def _later_blocks(body: str) -> list[str]:
    """Blocks further down, between two rules."""
    lines = list(outside_of_code(body))
    rules = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    between = [lines[begin + 1 : end] for begin, end in pairwise(rules)]
    return ["\n".join(inside) for inside in between if _looks_like_front_matter(inside)]


# -- values ----------------------------------------------------------------------------------------


def _values(block: str) -> dict[str, Any]:
    yaml = require_yaml()
    try:
        value = yaml.load(block, Loader=_loader())
    except (yaml.YAMLError, ValueError, RecursionError):
        return _by_line(block)
    return {str(key): inner for key, inner in value.items()} if isinstance(value, dict) else _by_line(block)


def _by_line(block: str) -> dict[str, Any]:
    """`key: value`, and `- item` below a key that has no value."""
    values: dict[str, Any] = {}
    key = ""
    for line in block.splitlines():
        if found := _KEY.match(line.rstrip()):
            key = found[1]
            values[key] = _unquoted(found[2] or "")
        elif key and (item := _ITEM.match(line.rstrip())):
            if not isinstance(values[key], list):
                values[key] = [values[key]] if values[key] else []
            values[key].append(_unquoted(item[1]))
    return values


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def require_yaml() -> Any:
    """The YAML library. Raises ImportError, which says how to get it."""
    try:
        import yaml
    except ImportError:
        raise ImportError("reading issues takes a YAML library: install recollect[backfill]") from None
    return yaml


@cache
def _loader() -> Any:
    yaml = require_yaml()

    class Texts(yaml.BaseLoader):
        """Everything is text, and nothing is repeated: aliases can make gigabytes of a few lines."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            """As it is, but for an alias."""
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not followed")
            return super().compose_node(parent, index)

    return Texts
