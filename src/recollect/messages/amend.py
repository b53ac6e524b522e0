"""Amending: more of a message that is there already, which takes its counters and its index entry along.

Agents write one message in several lines. Each line is a part; its id stands in the metadata of the
message, under PARTS, so that no part is taken twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..encoding import decode_json, texts
from ..engine.fulltext import FullText
from ..engine.operation import Operation, Row, execute, lock, one
from ..errors import InvalidRecord
from ..search.index import reworded
from .prepare import NewRow
from .shift import Moved, count
from .transcript import ACTIVE

PARTS = "parts"
"""where the metadata of a message names the parts it was made of"""

_LISTS = ("tool_calls", "reasoning_details", "provider_items")
_COLUMNS = ("parts", "name", "tool_calls", "calls", "tool_call_id", "reasoning", "reasoning_details", "provider_items",
            "token_count", "finish_reason", "metadata")  # fmt: skip

_ROW = f"""
SELECT m.id, m.session, m.role, m.state, m.content, m.send_index, m.created_at, {", ".join(f"m.{c}" for c in _COLUMNS)}
FROM messages m JOIN sessions s ON s.session = m.session
WHERE s.id = :id AND m.external_id = :external_id"""

_UPDATE = f"UPDATE messages SET content = :content, {', '.join(f'{c} = :{c}' for c in _COLUMNS)} WHERE id = :id"


def amend(
    fulltext: FullText, row_bytes: int, session_id: str, external_id: str, parts: Sequence[NewRow]
) -> Operation[int]:
    """Completes a message by those parts that it lacks; how many they were.

    Raises InvalidRecord if it would become larger than `row_bytes`; then nothing is changed.
    """
    yield lock(session_id)
    row = yield one(_ROW, id=session_id, external_id=external_id)
    if row is None:
        return 0
    missing = lacking(row.metadata, parts)
    if not missing:
        return 0
    whole = joined([_as_new_row(row, external_id), *missing])
    if whole.size > row_bytes:
        raise InvalidRecord(f"the message would have {whole.size} bytes, {row_bytes} are allowed; not amended")
    yield from reworded(fulltext, [row.id], _write(row, whole))
    return len(missing)


def lacking(metadata: str | None, parts: Sequence[NewRow]) -> list[NewRow]:
    """Those parts that the message with this metadata lacks, each once."""
    there = set(_part_ids(metadata))
    missing: list[NewRow] = []
    for part in parts:
        names = _part_ids(part.optional.get("metadata"))
        if not there.issuperset(names):
            there.update(names)
            missing.append(part)
    return missing


def _part_ids(metadata: str | None) -> list[str]:
    ids = decode_json(metadata).get(PARTS) if metadata else None
    return ids if isinstance(ids, list) else []


def joined(parts: Sequence[NewRow]) -> NewRow:
    """One message of several parts: texts one below the other, lists one behind the other."""
    whole = parts[0]
    for part in parts[1:]:
        whole = _with(whole, part)
    return whole


def _with(row: NewRow, more: NewRow) -> NewRow:
    content, parts = _content(row, more)
    optional = {**row.optional, **{name: value for name, value in more.optional.items() if name not in row.optional}}
    for name in _LISTS:
        if name in row.optional and name in more.optional:
            optional[name] = _concatenated(row.optional[name], more.optional[name])
    if "reasoning" in row.optional and "reasoning" in more.optional:
        optional["reasoning"] = f"{row.optional['reasoning']}\n\n{more.optional['reasoning']}"
    if row.calls or more.calls:
        optional["calls"] = row.calls + more.calls
    if "finish_reason" in more.optional:
        optional["finish_reason"] = more.optional["finish_reason"]
    if "metadata" in row.optional and "metadata" in more.optional:
        optional["metadata"] = _metadata(row.optional["metadata"], more.optional["metadata"])
    optional.pop("parts", None)
    if parts is not None:
        optional["parts"] = parts
    return msgspec.structs.replace(
        row, content=content, optional=optional, calls=row.calls + more.calls, size=row.size + more.size
    )


def _content(row: NewRow, more: NewRow) -> tuple[str | None, str | None]:
    """The words, and the structured content where one of the two has one."""
    if "parts" not in row.optional and "parts" not in more.optional:
        return "\n\n".join(filter(None, (row.content, more.content))) or row.content, None
    blocks = [*_blocks(row), *_blocks(more)]
    return "\n".join(texts(blocks)) or None, _encoded(blocks)


def _blocks(row: NewRow) -> list[Any]:
    if "parts" not in row.optional:
        return [{"type": "text", "text": row.content}] if row.content else []
    blocks = decode_json(row.optional["parts"])
    return blocks if isinstance(blocks, list) else [blocks]


def _concatenated(first: str, second: str) -> str:
    lists = [value if isinstance(value, list) else [value] for value in (decode_json(first), decode_json(second))]
    return _encoded(lists[0] + lists[1])


def _metadata(first: str, second: str) -> str:
    before, after = decode_json(first), decode_json(second)
    ids = [*_part_ids(first), *(id for id in _part_ids(second) if id not in _part_ids(first))]
    return _encoded({**before, **after, **({PARTS: ids} if ids else {})})


def _encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _as_new_row(row: Row, external_id: str) -> NewRow:
    optional = {name: value for name in _COLUMNS if (value := getattr(row, name)) is not None}
    size = sum(len(value.encode()) for value in (row.content, *optional.values()) if isinstance(value, str))
    return NewRow(row.role, row.content, row.created_at, row.send_index, external_id, optional, row.calls or 0, size)


def _write(row: Row, whole: NewRow) -> Operation[None]:
    columns = {name: whole.optional.get(name) for name in _COLUMNS}
    yield execute(_UPDATE, id=row.id, content=whole.content, **columns)
    if row.state == ACTIVE:
        yield from count(row.session, Moved(0, whole.calls - (row.calls or 0)))
