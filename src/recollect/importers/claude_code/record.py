"""A line of a Claude Code transcript → a record; the blocks of its message → the fields of ours."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, NoReturn

import msgspec
from msgspec import Raw

from ...encoding import Encoder


class Record(msgspec.Struct, rename="camel"):
    """What is taken of a line. The rest, which is most of it, is not even decoded."""

    type: Any = None
    subtype: Any = None
    uuid: Any = None
    session_id: Any = None
    agent_id: Any = None
    timestamp: Any = None
    is_sidechain: Any = None
    is_meta: Any = None
    is_compact_summary: Any = None
    cwd: Any = None
    git_branch: Any = None
    version: Any = None
    message: Any = None
    content: Any = None
    operation: Any = None
    attachment: Any = None
    summary: Any = None
    leaf_uuid: Any = None
    ai_title: Any = None
    custom_title: Any = None
    parent_tool_use_id: Any = msgspec.field(name="parentToolUseID", default=None)
    data: Raw = Raw(b"")
    tool_use_result: Raw = Raw(b"")


class Unreadable(Exception):
    """The line is not a record."""


_decoder = msgspec.json.Decoder(Record)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def decode(line: bytes, encoder: Encoder) -> Record:
    """The record on a line. Lone surrogates, which are legal in JSON, become U+FFFD. Raises Unreadable."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8: byte {error.start} of the line") from None
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise Unreadable(f"not a record: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        if "\\u" not in text:
            raise Unreadable(f"not JSON: {error}") from None
    return _decode_patiently(text, encoder)


def _decode_patiently(text: str, encoder: Encoder) -> Record:
    try:
        value = json.loads(text, parse_constant=_refuse)
        cleaned, replaced = _LONE_SURROGATE.subn("\ufffd", json.dumps(value, ensure_ascii=False))
        record = _decoder.decode(cleaned)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}") from None
    encoder.replaced += replaced
    return record


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def is_whole(line: bytes) -> bool:
    """Whether a line without an end is a record all the same, and not torn."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.lstrip()[:1] == b"{"


class _Linked(msgspec.Struct, rename="camel"):
    agent_id: str


_linked = msgspec.json.Decoder(_Linked)


def agent_of(raw: Raw) -> str | None:
    """The sub-agent that a tool result or a progress record is about."""
    if b'"agentId"' not in bytes(raw):
        return None
    try:
        return _linked.decode(raw).agent_id
    except msgspec.MsgspecError:
        return None


# -- blocks ----------------------------------------------------------------------------------------


class Reply(NamedTuple):
    """What an assistant's blocks come to."""

    content: str | list[Any] | None
    reasoning: str | None
    tool_calls: list[Any] | None


def reply(content: Any) -> Reply:
    """Text, thinking and tool calls apart; content of any other kind is kept as it was given."""
    if not isinstance(content, list):
        return Reply(content, None, None)
    said: list[Any] = []
    thoughts: list[str] = []
    calls: list[Any] = []
    for block in content:
        match block:
            case {"type": "tool_use"}:
                calls.append(block)
            case {"type": "thinking", "thinking": str(thought)}:
                thoughts.append(thought)
            case _:
                said.append(block)
    return Reply(plain(said), "\n\n".join(filter(None, thoughts)) or None, calls or None)


def plain(blocks: list[Any]) -> str | list[Any] | None:
    """The words of text blocks, a blank line between them; blocks of other kinds make it a list."""
    words: list[str] = []
    for block in blocks:
        match block:
            case {"type": "text", "text": str(text)}:
                words.append(text)
            case _:
                return blocks
    return "\n\n".join(filter(None, words)) or None


def runs(content: Any) -> list[dict[str, Any] | list[Any] | str]:
    """A user record's content, taken apart: tool results one by one, and what stands between them."""
    if not isinstance(content, list):
        return [content]
    found: list[dict[str, Any] | list[Any] | str] = []
    between: list[Any] = []
    for block in content:
        if isinstance(block, dict) and block.get("type") == "tool_result":
            if between:
                found.append(between)
            found.append(block)
            between = []
        else:
            between.append(block)
    return [*found, between] if between else found
