"""Events as they are given and come back, and the five kinds that have a type of their own.

A typed event builds an `Event`: what has a column goes there, the rest into the payload, under its own
name, unless the payload has that name already; from there it gets into the columns of the kind's view.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from ..errors import InvalidRecord


class Event(msgspec.Struct, frozen=True):
    """Something that happened. Only `kind` is needed; any text is one, but those that begin with
    `store.` are the store's own."""

    kind: str
    at: datetime | None = None
    """when; aware. Left out: the time of the call"""
    session_id: str | None = None
    """free text: events may know sessions that the store does not"""
    run_id: str | None = None
    name: str | None = None
    """of the tool, the loop, whatever it is about"""
    action: str | None = None
    """what was done, or what became of it"""
    issue_id: str | None = None
    path: str | None = None
    """of the file it is about"""
    anchor: str | None = None
    """where it was read, for whoever wants to look it up"""
    text: str | None = None
    """its words; searchable, as `name`, `action`, `issue_id` and `path` are"""
    payload: Mapping[str, Any] | None = None
    """the whole event, as whoever sent it gave it; JSON"""
    dedupe_key: str | None = None
    """recording another event with this key returns the id of the first"""


class RecordedEvent(Event, frozen=True, kw_only=True):
    """An event of the store: `id` grows with the order of commits, and continues a `stream`."""

    id: int
    at: datetime  # pyright: ignore[reportGeneralTypeIssues] -- by keyword only, so it needs no default


class TypedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What every typed event can have; the meanings are at `Event`."""

    at: datetime | None = None
    session_id: str | None = None
    run_id: str | None = None
    anchor: str | None = None
    payload: Mapping[str, Any] | None = None
    dedupe_key: str | None = None

    def event(self) -> Event:
        """The event it stands for."""
        raise NotImplementedError

    def _build(self, kind: str, payload: dict[str, Any], **columns: str | None) -> Event:
        whole = {name: value for name, value in payload.items() if value is not None}
        if isinstance(self.payload, Mapping):
            whole.update(self.payload)
        elif self.payload is not None:
            raise InvalidRecord(f"payload must be a mapping, not {type(self.payload).__name__}; not stored")
        return Event(
            kind, self.at, self.session_id, self.run_id, anchor=self.anchor, payload=whole or None,
            dedupe_key=self.dedupe_key, **columns,
        )  # fmt: skip


class ToolEvent(TypedEvent, frozen=True, kw_only=True):
    """A tool was called, has answered, or failed."""

    tool_name: str
    action: str | None = None
    args: Any = UNSET
    """what it was called with: hashed, not kept (the payload may have it)"""
    args_hash: str | None = None
    """left out: `args_hash` of `args`"""
    result_size: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    cache_hit: bool | None = None
    path: str | None = None
    text: str | None = None

    def event(self) -> Event:
        """Kind `tool`: tool_name is the name."""
        hashed = args_hash(self.args) if self.args_hash is None and self.args is not UNSET else self.args_hash
        sizes = {"result_size": self.result_size, "bytes_in": self.bytes_in, "bytes_out": self.bytes_out}
        return self._build(
            "tool", {"args_hash": hashed, **sizes, "cache_hit": self.cache_hit},
            name=self.tool_name, action=self.action, path=self.path, text=self.text,
        )  # fmt: skip


class FileEvent(TypedEvent, frozen=True, kw_only=True):
    """A file was read, written, edited…"""

    path: str
    op: str
    name: str | None = None
    """of the tool that did it"""
    issue_id: str | None = None
    git_sha: str | None = None

    def event(self) -> Event:
        """Kind `file`: op is the action."""
        return self._build(
            "file", {"git_sha": self.git_sha},
            path=self.path, action=self.op, name=self.name, issue_id=self.issue_id,
        )  # fmt: skip


class IssueEvent(TypedEvent, frozen=True, kw_only=True):
    """An issue was opened, closed, deferred…"""

    issue_id: str
    transition: str
    discovered_by: str | None = None
    name: str | None = None
    """its title"""
    path: str | None = None
    text: str | None = None

    def event(self) -> Event:
        """Kind `issue`: transition is the action."""
        return self._build(
            "issue", {"discovered_by": self.discovered_by},
            issue_id=self.issue_id, action=self.transition, name=self.name, path=self.path, text=self.text,
        )  # fmt: skip


class LoopEvent(TypedEvent, frozen=True, kw_only=True):
    """A loop (a state machine that an agent runs in) began, entered a state, ended…"""

    loop_name: str | None
    transition: str
    state: str | None = None
    retries: int | None = None
    issue_id: str | None = None
    text: str | None = None

    def event(self) -> Event:
        """Kind `loop`: loop_name is the name, transition the action; the state is among its words."""
        words = [word for word in (self.state, self.text) if word]
        text = "\n".join(words) if all(isinstance(word, str) for word in words) else self.text  # pyright: ignore[reportUnnecessaryIsInstance]
        return self._build(
            "loop", {"state": self.state, "retries": self.retries},
            name=self.loop_name, action=self.transition, issue_id=self.issue_id, text=text or None,
        )  # fmt: skip


class Correction(TypedEvent, frozen=True, kw_only=True):
    """The user put something right."""

    content: str
    source: str | None = None

    def event(self) -> Event:
        """Kind `correction`: content is the text."""
        return self._build("correction", {"source": self.source}, text=self.content)


Recordable = Event | ToolEvent | FileEvent | IssueEvent | LoopEvent | Correction | Mapping[str, Any]
"""what can be recorded; a mapping has the fields of `Event`"""

TYPED = ("correction", "file", "issue", "loop", "tool")
"""kinds with a type, and a view, of their own"""


def args_hash(value: Any) -> str:
    """The first 16 hex digits of SHA-256 over `json.dumps(value, sort_keys=True, default=str)`, or over
    `repr(value)` where that fails: the same as the earlier event index, so that hashes can be compared.
    Raises InvalidRecord for what has not even a `repr`."""
    try:
        text = json.dumps(value, sort_keys=True, default=str)
    except Exception:
        try:
            text = repr(value)
        except Exception as error:
            raise InvalidRecord(f"arguments without a repr cannot be hashed: {error!r}; not stored") from error
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
