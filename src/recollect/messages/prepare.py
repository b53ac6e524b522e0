"""NewMessage → the row to insert, in the caller's task: checked, encoded, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..encoding import Encoder, bounded, count, instant, now, texts
from ..errors import InvalidRecord
from ..models import NewMessage, NewUsage
from ..usage.ledger import Round, prepare_round

_OVERHEAD = 200
"""bytes of a row beside its texts, for the bounds of the queue"""


class NewRow(msgspec.Struct, frozen=True, gc=False):
    """A message ready for its transaction, which adds id, session, seq, position and send_index."""

    role: str
    content: str | None
    created_at: int
    send_index: int | None
    external_id: str | None
    optional: dict[str, Any]
    """the other columns that are set"""
    calls: int
    """tool calls asked for"""
    size: int
    pending: str | UnsetType | None = UNSET
    """the agent's pending state from this message on"""
    usage: Round | None = None
    is_plain: bool = False
    """nothing but a role and a text"""


class Append(msgspec.Struct, frozen=True, gc=False):
    """What one call appends to one session: all of it or nothing."""

    session_id: str
    rows: tuple[NewRow, ...]
    at: int
    expected_seq: int | None = None
    fence: int | None = None
    within: str | None = None
    """the only user whose session it may be"""

    @property
    def claim(self) -> tuple[str, str]:
        """The session, and the user whose it must be."""
        return self.session_id, self.within or ""


def as_new_message(message: NewMessage | Mapping[str, Any]) -> NewMessage:
    """A mapping's fields by name; an unknown one is InvalidRecord."""
    if isinstance(message, NewMessage):
        return message
    if not isinstance(message, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"a message must be a mapping or NewMessage, not {type(message).__name__}")
    try:
        return NewMessage(**message)
    except TypeError as error:
        raise InvalidRecord(f"not the fields of a message: {error}; not stored") from None


def prepare(encoder: Encoder, message: NewMessage) -> NewRow:
    """Checks and encodes one message."""
    optional: dict[str, Any] = {}
    content = message.content
    if content is not None and not isinstance(content, str):
        content, optional["parts"] = _structured(encoder, content)
    else:
        content = encoder.text(content, "content")
    for name, encode in _OPTIONAL.items():
        value = getattr(message, name)
        if value is not None:
            optional[name] = encode(encoder, value, name)
    calls = calls_in(message.tool_calls)
    if calls:
        optional["calls"] = calls
    else:
        optional.pop("tool_calls", None)
    created = instant(message.created_at, "created_at")
    pending = UNSET if message.pending is UNSET else encoder.pending(message.pending)
    return NewRow(
        encoder.identifier(message.role, "role"),
        content,
        now() if created is None else created,
        count(message.send_index, "send_index"),
        None if message.external_id is None else encoder.identifier(message.external_id, "external_id"),
        optional,
        calls,
        encoder.within(_size(content, optional, message.role, message.external_id, pending), "the message"),
        pending,
        None if message.usage is None else _usage(encoder, message),
    )


def prepare_words(encoder: Encoder, session_id: str, role: str, content: str, within: str | None) -> Append:
    """The same for a role and a text and nothing else, which is most of what is appended."""
    text = encoder.text(content, "content")
    size = _OVERHEAD + _bytes(text)
    if size > encoder.row_bytes:
        encoder.within(size, "the message")
    at = now()
    row = NewRow(encoder.identifier(role, "role"), text, at, None, None, _NOTHING, 0, size, is_plain=True)
    return Append(encoder.identifier(session_id, "session_id"), (row,), at, within=within)


_NOTHING: dict[str, Any] = {}


def _structured(encoder: Encoder, content: Any) -> tuple[str | None, str]:
    if not isinstance(content, list | dict):
        raise InvalidRecord(f"content must be text, a list, a dict or None, not {type(content).__name__}; not stored")
    encoded = encoder.json(content, "content")
    words = "\n".join(texts(msgspec.json.decode(encoded)))
    return words or None, encoded


def calls_in(tool_calls: Any) -> int:
    """How many calls a message asks for: parallel ones count one each."""
    if not tool_calls:
        return 0
    return len(tool_calls) if isinstance(tool_calls, list) else 1  # pyright: ignore[reportUnknownArgumentType]


def _size(content: str | None, optional: Mapping[str, Any], *others: Any) -> int:
    texts = [content, *optional.values(), *others]
    return _OVERHEAD + sum([_bytes(text) for text in texts if isinstance(text, str)])


def _bytes(text: str | None) -> int:
    if not text:
        return 0
    return len(text) if text.isascii() else len(text.encode())


def _text(encoder: Encoder, value: Any, name: str) -> Any:
    return encoder.text(value, name)


def _json(encoder: Encoder, value: Any, name: str) -> Any:
    return encoder.json(value, name)


def _object(encoder: Encoder, value: Any, name: str) -> Any:
    return encoder.json_object(value, name)


def _count(_: Encoder, value: Any, name: str) -> Any:
    return count(value, name)


def _number(_: Encoder, value: Any, name: str) -> Any:
    return bounded(value, name)


_OPTIONAL: dict[str, Callable[[Encoder, Any, str], Any]] = {
    "name": _text,
    "tool_calls": _json,
    "tool_call_id": _text,
    "round_index": _number,
    "reasoning": _text,
    "reasoning_details": _json,
    "provider_items": _json,
    "token_count": _count,
    "finish_reason": _text,
    "metadata": _object,
}


def prepare_append(
    encoder: Encoder, session_id: str, messages: Sequence[NewMessage], *, expected_seq: int | None, fence: int | None,
    within: str | None,
) -> Append:  # fmt: skip
    """What one call appends."""
    return Append(
        encoder.identifier(session_id, "session_id"),
        tuple([prepare(encoder, message) for message in messages]),
        now(),
        None if expected_seq is None else bounded(expected_seq, "expected_seq"),
        as_fence(fence),
        within,
    )


def as_fence(fence: int | None) -> int | None:
    """The fence of a turn, or None where it is not asked for."""
    return None if fence is None else bounded(fence, "fence")


def _usage(encoder: Encoder, message: NewMessage) -> Round:
    """The usage of a message is that of its round; of one without, it stands for itself."""
    given = message.usage
    usage = given if isinstance(given, NewUsage) else as_usage(given or {})
    if usage.round_index is None and message.round_index is not None:
        usage = msgspec.structs.replace(usage, round_index=message.round_index)
    return prepare_round(encoder, usage)


def as_usage(usage: Mapping[str, Any]) -> NewUsage:
    """A mapping's fields by name."""
    try:
        return NewUsage(**usage)
    except TypeError as error:
        raise InvalidRecord(f"not the fields of a usage record: {error}; not stored") from None
