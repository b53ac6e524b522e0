"""Tool calls as stored, in JSON → the texts in them, also where the JSON was cut or is nested without end.

What a row's words are must not depend on how deep Python's stack is when it is read: where the decoder
gives up, the same texts are read by a loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from ..encoding import decode_json, texts

# A string, with the colon behind it if it is a key; its end is missing where the JSON was cut.
_TOKEN = re.compile(
    r'"(?P<text>(?:[^"\\]|\\[^u]|\\u[0-9A-Fa-f]{4})*+)(?:"(?P<key>\s*+:)?|(?s:.*))'
    r"|(?P<bracket>[\[\]{}])|(?P<other>[^\s\[\]{},:\"]++)"
)


def texts_of_calls(tool_calls: str) -> Iterator[str]:
    """The texts in the beginning of a JSON document, which may be all of it."""
    try:
        value = decode_json(tool_calls)
    except (msgspec.DecodeError, RecursionError):
        value = _beginning(tool_calls)
    return texts(value)


def _beginning(json: str) -> Any:
    """What the decoder would give, as far as it goes; numbers and the like are None."""
    top: list[Any] = []
    around: list[Any] = [top]
    key: str | None = None
    for token in _TOKEN.finditer(json):
        bracket = token["bracket"]
        if bracket in ("]", "}"):
            if len(around) > 1:
                around.pop()
            continue
        if token["key"]:
            key = _string(token["text"])
            continue
        value = {"[": [], "{": {}}[bracket] if bracket else None if token["other"] else _string(token["text"])
        if isinstance(around[-1], list):
            around[-1].append(value)
        elif key is not None:  # else it is a key that was cut
            around[-1][key] = value
        key = None
        if bracket:
            around.append(value)
    return top[0] if len(top) == 1 else top


def _string(escaped: str) -> str:
    try:
        return decode_json(f'"{escaped}"')
    except msgspec.DecodeError:
        return ""
