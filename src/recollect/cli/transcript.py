"""A session and its messages on the screen, in the words that were said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from ..models import Message, MessageState, Session
from .safe import one_line, printable
from .screen import counted, local, write_text

LINES = 12
"""of what a tool returned, unless everything is asked for"""
ARGUMENTS = 200
"""characters of a call's arguments, likewise"""

_STYLES = {"user": "bold green", "assistant": "bold blue", "tool": "bold magenta", "system": "bold yellow"}


def show_session(out: Console, session: Session) -> None:
    """What is known of the session, in a few lines."""
    out.print(Text(one_line(session.id), "bold cyan"), soft_wrap=True)
    if session.title:
        out.print(Text(one_line(session.title), "bold"), soft_wrap=True)
    for line in (_origin(session), _life(session), _usage(session)):
        out.print(Text(one_line(" · ".join(line)), "dim"), soft_wrap=True)


def _origin(session: Session) -> Iterator[str]:
    yield session.source
    if session.model:
        yield session.model
    if session.user_id:
        yield f"user {session.user_id}"
    if session.parent_id:
        yield f"{session.relation} of {session.parent_id}"
    yield session.status if session.end_reason is None else f"{session.status}: {session.end_reason}"


def _life(session: Session) -> Iterator[str]:
    yield f"created {local(session.created_at)}"
    yield f"last active {local(session.last_active_at)}"


def _usage(session: Session) -> Iterator[str]:
    yield counted(session.message_count, "message")
    if session.tool_call_count:
        yield counted(session.tool_call_count, "tool call")
    if session.input_tokens or session.output_tokens:
        yield f"{session.input_tokens:,} tokens in, {session.output_tokens:,} out"
    cost = session.estimated_cost_usd if session.actual_cost_usd is None else session.actual_cost_usd
    if cost:
        yield f"${cost:,.4f}"


def show_message(out: Console, message: Message, *, in_full: bool) -> None:
    """Who said it and when, the words as they are, and the tools that were called."""
    out.print()
    heading = Text(f"#{message.seq} ", "dim").append(one_line(message.role), _STYLES.get(message.role, "bold"))
    if message.name:
        heading.append(f" {one_line(message.name)}")
    heading.append(f"  {local(message.created_at)}", "dim")
    if message.state is not MessageState.ACTIVE:
        heading.append(f"  {message.state}", "yellow")
    out.print(heading, soft_wrap=True)
    if text := printable(message.text or "").strip("\n"):
        shown = text if in_full or message.role != "tool" else _beginning(text)
        write_text(out, shown)
    for call in _calls(message.tool_calls):
        out.print(_call(call, in_full), soft_wrap=True)


def _beginning(text: str) -> str:
    lines = text.split("\n")
    if len(lines) <= LINES:
        return text
    return "\n".join([*lines[:LINES], f"… {len(lines) - LINES:,} more lines; --all shows them"])


def _calls(tool_calls: Any) -> list[Any]:
    if not tool_calls:
        return []
    return tool_calls if isinstance(tool_calls, list) else [tool_calls]


def _call(call: Any, in_full: bool) -> Text:
    """A call as `→ name arguments`, whichever provider's way of writing it was stored."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        return Text(f"→ {_brief(call, in_full)}", "cyan")
    arguments = function.get("arguments", function.get("input", {}))
    return Text(f"→ {one_line(str(function['name']))}", "cyan").append(f" {_brief(arguments, in_full)}", "not bold dim")


def _brief(value: Any, in_full: bool) -> str:
    text = one_line(value if isinstance(value, str) else msgspec.json.encode(value).decode())
    return text if in_full or len(text) <= ARGUMENTS else text[: ARGUMENTS - 1] + "…"
