"""What must be known of a transcript across chunks, and across imports: it travels in the cursor, so
that it makes no difference where a file was cut."""

from __future__ import annotations

from typing import Any

import msgspec

from ..cursor import Cursor, Kept
from .queue import Prompts

REMEMBERED = 1_000
"""entries of each kind, the newest"""


class Name(msgspec.Struct):
    """What a session is called so far."""

    rank: int
    title: str
    is_early: bool
    """told before anything else of the session was"""


class State(msgspec.Struct):
    """What later lines may refer to."""

    session_id: str | None = None
    """of the latest record that belongs to one"""
    at: int | None = None
    """time of the latest record, milliseconds"""
    tools: dict[str, str] = {}
    """names of tools whose result has not come yet, by the id of the call"""
    agents: dict[str, str] = {}
    """tool calls that spawned sub-agents, by the session of the sub-agent"""
    names: dict[str, Name] = {}
    """by session"""
    leaves: dict[str, str] = {}
    """summaries that came first, by the uuid of the record they are for: often it is another file's"""
    prompts: Prompts = msgspec.field(default_factory=Prompts)


def read_state(kept: Kept) -> State | None:
    """The state in a cursor; None where it cannot be understood."""
    try:
        return msgspec.json.decode(kept.own, type=State)
    except msgspec.MsgspecError:
        return None


def agents_of(cursor: Cursor) -> dict[str, str]:
    """The tool calls that spawned sub-agents, as far as a file had told when it was read last."""
    state = read_state(cursor.kept)
    return state.agents if state else {}


def remember(memory: dict[str, Any], key: str, value: Any) -> None:
    """Sets an entry; the oldest makes room."""
    memory[key] = value
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]
