"""What others send → events. A mapping takes the event as it was sent, as JSON gives it back, and returns
an `Event`, or None for one that is not to be kept. The payload is always the whole of what was sent.

`map_event` knows the shapes of two emitters by themselves and makes something useful of any other:

- loops: flat, `{"event": name, "ts": ISO text, "loop" or "loop_name", "run_id", …}`;
- agent loops: an envelope, `{"type": name, "ts": seconds, "session_id", "payload": {…}}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec

from ..encoding import EPOCH, storable
from ..errors import InvalidRecord
from .typed import Event, IssueEvent, LoopEvent, ToolEvent, args_hash

EventMapping = Callable[[Mapping[str, Any]], Event | None]

NOISE = ("action_output", "stream_delta", "stream_think_delta", "*token_delta", "*text_delta")
"""events that come by the thousand and whose words come again as a whole: left out unless one says otherwise"""

_LOOP_FAMILY = re.compile(
    r"loop_|state_enter$|route$|action_|evaluate$|retry_exhausted$|infra_retry|cycle_detected$|stall_detected$"
    r"|rate_limit_|throttle_|max_steps_summary$|max_iterations_reached_summary$|messages_append$|handoff_"
    r"|cost_ceiling_|prompt_size_warn$|workdir_vanished$|learning_|human_|sub_loop_|baseline_complete$|ab_summary$"
)
"""names of events of loops, for those emitters that do not say which loop it was"""

_STATE_OF = {
    "route": "to",
    "cycle_detected": "to",
    "loop_complete": "final_state",
    "loop_resume": "from_state",
    "max_steps_summary": "summary_state",
}
"""where an event has the state it leads to; the others have it in `state`"""

_WORDS = (
    "title", "message", "error", "error_message", "error_type", "details", "reason", "close_reason", "terminated_by",
    "line", "note", "text", "edited_text", "content", "verdict", "outcome", "status", "cause", "action", "prompt",
    "from", "next", "edge", "target", "targets", "branch", "worker_name", "continuation", "continuation_prompt",
    "output_preview", "stderr_preview", "final_text", "rendered", "task", "preset", "phase", "where", "tool_name",
)  # fmt: skip
"""fields with words that a person could look for"""

_PATHS = ("path", "file_path", "worktree_path", "loop_yaml_path", "notebook_path")

_WORDS_MOST = 16_384
"""characters of one field that are searchable; all of it is in the payload"""
_WORDS_IN_ALL = 65_536
_TEXTS_MOST = 256


def map_event(given: Mapping[str, Any]) -> Event:
    """By its shape: that of an agent loop's bus, or of a loop's, or whatever it is."""
    if isinstance(given.get("type"), str) and isinstance(given.get("payload"), Mapping):
        return map_agent_event(given)
    return map_loop_event(given)


# -- loops -----------------------------------------------------------------------------------------


def map_loop_event(given: Mapping[str, Any]) -> Event:
    """A flat event: of a loop, of an issue, or of anything else, whose kind is its name up to the first dot."""
    name = _text(given, "event", "type", "kind") or "event"
    family, dot, rest = name.partition(".")
    if _text(given, "issue_id") and (family == "issue" or rest.startswith("issue_")):
        return _issue(given, rest.removeprefix("issue_"))
    if not dot and (_text(given, "loop_name", "loop") or _LOOP_FAMILY.match(name)):
        return _loop(given, name)
    return Event(
        family or "event",
        action=rest or None,
        name=_text(given, "name", "loop_name", "loop", "worker_name", "branch"),
        issue_id=_text(given, "issue_id"),
        path=_text(given, *_PATHS),
        text=_words(given),
        **_surroundings(given),
    )


def _loop(given: Mapping[str, Any], name: str) -> Event:
    event = LoopEvent(
        loop_name=_text(given, "loop_name", "loop"),
        transition=name,
        state=_text(given, _STATE_OF.get(name, "state"), "state", "outcome"),
        retries=retries if type(retries := given.get("retries")) is int else None,
        issue_id=issue_of(given),
        text=_words(given),
        **_surroundings(given),
    ).event()
    path = _text(given, *_PATHS)
    return event if path is None else msgspec.structs.replace(event, path=path)


_ISSUE = re.compile(r"(?<![A-Za-z0-9])(?:BUG|ENH|FEAT|EPIC)-\d{1,9}(?![0-9])")


def issue_of(given: Mapping[str, Any]) -> str | None:
    """The issue that a loop works on: the one it names, else the one id in what it was given to work on."""
    context = given.get("context")
    inner: Mapping[str, Any] = context if isinstance(context, Mapping) else {}
    if named := _text(given, "issue_id") or _text(inner, "issue_id"):
        return named
    about = _text(inner, "input") or _text(given, "input") or ""
    found = set(_ISSUE.findall(about[:_WORDS_MOST]))
    return found.pop() if len(found) == 1 else None


def _issue(given: Mapping[str, Any], transition: str) -> Event:
    return IssueEvent(
        issue_id=_text(given, "issue_id") or "",
        transition=transition,
        discovered_by=_text(given, "discovered_by"),
        name=_text(given, "title"),
        path=_text(given, *_PATHS),
        text=_words(given),
        **_surroundings(given),
    ).event()


# -- agent loops -----------------------------------------------------------------------------------

_TOOL_CALL = "tool_call_"


def map_agent_event(given: Mapping[str, Any]) -> Event:
    """An event in an envelope: a tool's call is of the kind `tool`, all else of the kind `agent`."""
    inside = given.get("payload")
    payload: Mapping[str, Any] = inside if isinstance(inside, Mapping) else {}
    type_ = _text(given, "type") or "event"
    if type_.startswith(_TOOL_CALL):
        return _tool(given, payload, type_.removeprefix(_TOOL_CALL))
    return Event(
        "agent",
        action=type_,
        name=_text(payload, "name", "model", "kind", "sub_session_id", "timer_id", "scope", "stream_id"),
        path=_text(payload, *_PATHS),
        text=_words(payload),
        **_surroundings(given),
    )


def _tool(given: Mapping[str, Any], payload: Mapping[str, Any], action: str) -> Event:
    output, args = payload.get("output"), payload.get("tool_input")
    return ToolEvent(
        tool_name=_text(payload, "name", "tool_name") or "unknown",
        action=action or None,
        args_hash=_hash_of(args),
        result_size=len(output.encode(errors="replace")) if isinstance(output, str) else None,
        path=_text(args, *_PATHS) if isinstance(args, Mapping) else None,
        text=_joined([args, output, payload.get("error")]),
        **_surroundings(given),
    ).event()


def _hash_of(args: Any) -> str | None:
    """None where there are no arguments, or such as are no JSON that can be read back."""
    try:
        return None if args is None else args_hash(args)
    except InvalidRecord:
        return None


# -- fields ----------------------------------------------------------------------------------------


def _surroundings(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at": _at(given),
        "session_id": _text(given, "session_id", "sessionId"),
        "run_id": _text(given, "run_id"),
        "payload": given,
    }


def _at(given: Mapping[str, Any]) -> datetime | None:
    """When it happened: ISO text, seconds or milliseconds; None where that cannot be told. Without an
    offset it is UTC."""
    for name in ("ts", "timestamp", "at"):
        value = given.get(name)
        if at := _from_number(value) if isinstance(value, int | float) else time_of(value):
            return at
    return None


def time_of(value: Any) -> datetime | None:
    """An ISO 8601 date or time, UTC unless it says; None for anything else, and before 1970."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value.strip())
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if at >= EPOCH else None


def _from_number(value: float) -> datetime | None:
    if isinstance(value, bool):
        return None
    try:
        at = datetime.fromtimestamp(value / 1000 if value >= _MILLISECONDS else value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return at if at >= EPOCH else None


_MILLISECONDS = 100_000_000_000
"""as seconds, that is in the year 5138"""


def _text(given: Mapping[str, Any], *names: str) -> str | None:
    """The first of these fields that is a text, or a number, and not empty."""
    for name in names:
        value = given.get(name)
        if isinstance(value, str) and value:
            return _storable(value)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            return str(value)
    return None


def _storable(value: str) -> str:
    """What a database refuses becomes U+FFFD here, so that no event is refused for it."""
    return storable(value[:_WORDS_MOST])


def _words(given: Mapping[str, Any]) -> str | None:
    return _joined(given.get(name) for name in _WORDS)


def _joined(values: Iterable[Any]) -> str | None:
    found = islice((text for value in values for text in _texts_in(value)), _TEXTS_MOST)
    return "\n".join(dict.fromkeys(map(_storable, found)))[:_WORDS_IN_ALL] or None


def _texts_in(value: Any, levels: int = 5) -> Iterator[str]:
    """The texts in a field; what is nested deeper, or in itself, is left out."""
    if isinstance(value, str):
        if value and not value.startswith("data:"):
            yield value
    elif levels and isinstance(value, Mapping | list):
        inside: Iterable[Any] = value.values() if isinstance(value, Mapping) else value
        for inner in inside:
            yield from _texts_in(inner, levels - 1)
