"""Transcripts of Claude Code once more, now for what its tools did: events of the kinds `tool` and `file`.

What was said is not for this importer; each has cursors of its own, so that both can read one file. Sessions have
the ids that the other gives them, `<session>:agent-<id>` for a sub-agent, whether the store knows them or not.

- A call is a tool event: `name` the tool, `at` when it was called, `path` the file it names, `anchor` the
  transcript and its line, `text` the words of what it was called with (not the contents of files), `payload` its
  id, name and input. `action` is `called`; as soon as the result is there, now or in a later run, it is `completed`
  or `failed`, and the payload and its columns have `result_size` (bytes of its texts) and `is_error`.
- Where a file was read or written, and the result is no error, there is a file event too: `action` is `read`,
  `write` or `edit`, `at` the time of the result. What a shell command did to files is not told.

Known again by the session and the id of the call, so that a copy in a forked session is an event of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
from anyio import to_thread

from ...encoding import Encoder, instant, moment
from ...errors import InvalidRecord
from ...events.mapping import time_of
from ...events.typed import FileEvent, ToolEvent
from ...reports import Imported
from ...store import AsyncSessionStore
from ..cursor import Cursor
from ..event_chunk import Answer
from ..event_files import EventSource, load_files
from ..event_lines import EventLines, changed_at
from ..lines import Line
from ..source import Progress, SourceFile, find_files
from .record import Record, Unreadable, decode
from .sessions import Origins
from .state import State, remember

IMPORTER = "claude_code_events"
VERSION = 1

CALLED, COMPLETED, FAILED = "called", "completed", "failed"

_OPERATIONS = {
    "Read": "read",
    "NotebookRead": "read",
    "Write": "write",
    "Edit": "edit",
    "MultiEdit": "edit",
    "NotebookEdit": "edit",
}
"""tools that read or write one file, and what they do to it"""

_PATHS = ("file_path", "notebook_path", "path")
_CONTENTS = frozenset({"content", "old_string", "new_string", "new_source", *_PATHS})
_WORDS_MOST = 4_096
"""characters of one field of the input that are searchable; all of it is in the payload"""


async def load(
    store: AsyncSessionStore,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], object] | None = None,
) -> Imported:
    """Imports the events of a transcript, or of all below a folder; counted as `tools` and `files`.

    As often as they have grown: a file that did not change costs a stat, one that has grown what was added. What
    cannot be understood is counted, with its place, and stops nothing. `progress` is called on the event loop
    after every chunk; what it raises ends the import, as cancelling does, and the next one goes on where it
    stopped. `redact` of the store is called in a worker thread. Raises FileNotFoundError, and what the store may.
    """
    files, unreadable = await to_thread.run_sync(find_files, os.fspath(path), ".jsonl")
    source = EventSource(IMPORTER, VERSION, "transcripts", ToolLog, None, lambda _: True)
    return await load_files(store, source, files, unreadable, progress)


class _Touching(msgspec.Struct, array_like=True):
    """A call that reads or writes a file, and whose result has not come yet."""

    tool: str
    path: str
    line: int


class _Known(msgspec.Struct):
    """What later lines may refer to; kept in the cursor."""

    state: State = msgspec.field(default_factory=State)
    touching: dict[str, _Touching] = {}
    """by the key of the call"""


class _Found(NamedTuple):
    event: ToolEvent | FileEvent
    kind: str
    line: int


class ToolLog(EventLines):
    """A transcript, as far as it tells of tools."""

    importer = IMPORTER
    version = VERSION
    Known = _Known

    def __init__(self, file: SourceFile, cursor: Cursor | None, encoder: Encoder) -> None:
        self._calls: dict[str, tuple[ToolEvent, int]] = {}
        self._touched: list[_Found] = []
        super().__init__(file, cursor, encoder)
        self._origins = Origins(self.path, self._known.state, {}, encoder)

    def take(self, line: Line) -> None:
        """The calls on a line, or the results."""
        try:
            record = decode(line.text, self._encoder)
        except Unreadable as error:
            raise InvalidRecord(str(error)) from None
        if record.type not in ("assistant", "user"):
            return
        at = self._at(record)
        session_id = self._origins.place(record, at).id
        for number, block in enumerate(_blocks(record)):
            match block:
                case {"type": "tool_use" | "server_tool_use"}:
                    key = _key(session_id, block.get("id") or _place(record, line, number))
                    self._call(key, session_id, at, line.number, block)
                case {"type": "tool_result", "tool_use_id": str(id)}:
                    self._result(_key(session_id, id), session_id, at, block)
                case _:
                    pass

    def finish(self) -> None:
        """Every call of the chunk, with its result if that was in it too, and behind it what it did to a file."""
        found = [_Found(event, "tools", line) for event, line in self._calls.values()] + self._touched
        for event, kind, line in sorted(found, key=lambda each: each.line):
            self.add(kind, event, line)
        self._calls.clear()
        self._touched.clear()
        self._origins.begin()

    def _at(self, record: Record) -> int:
        """When it was written; where it does not say, when the record before it was."""
        state = self._known.state
        at = instant(time_of(record.timestamp), "timestamp")
        state.at = state.at if at is None else at
        return changed_at(self.stat) if state.at is None else state.at

    def _call(self, key: str, session_id: str, at: int, line: int, block: dict[str, Any]) -> None:
        name, given = block.get("name"), block.get("input")
        if not isinstance(name, str) or not name:
            self.reject("tools", line, f"the call {block.get('id')!r} has no name")
            return
        path = _path(given)
        event = ToolEvent(
            tool_name=name,
            action=CALLED,
            args=given,
            path=path,
            text="\n".join(_words(given)) or None,
            at=moment(at),
            session_id=session_id,
            anchor=f"{self.path}:{line}",
            payload={"id": block.get("id"), "name": name, "input": given},
            dedupe_key=key,
        )
        self._calls.setdefault(key, (event, line))
        if path and name in _OPERATIONS:
            remember(self._known.touching, key, _Touching(name, path, line))

    def _result(self, key: str, session_id: str, at: int, block: dict[str, Any]) -> None:
        is_error = block.get("is_error") is True
        action = FAILED if is_error else COMPLETED
        facts = {"result_size": _size(block.get("content")), "is_error": is_error}
        if call := self._calls.get(key):
            event, line = call
            payload = {**(event.payload or {}), **facts}
            self._calls[key] = (msgspec.structs.replace(event, action=action, payload=payload), line)
        self.answers.append(Answer("tools", key, CALLED, action, facts))
        touching = self._known.touching.pop(key, None)
        if touching and not is_error:
            self._touch(key, session_id, at, touching)

    def _touch(self, key: str, session_id: str, at: int, touching: _Touching) -> None:
        event = FileEvent(
            path=touching.path,
            op=_OPERATIONS[touching.tool],
            name=touching.tool,
            at=moment(at),
            session_id=session_id,
            anchor=f"{self.path}:{touching.line}",
            dedupe_key=f"{key}:file",
        )
        self._touched.append(_Found(event, "files", touching.line))


def _key(session_id: str, call: object) -> str:
    """Digests take whatever there may be in an id."""
    told = f"{session_id}\x00{call}".encode(errors="surrogatepass")
    return f"claude_code:{hashlib.blake2b(told, digest_size=16).hexdigest()}"


def _place(record: Record, line: Line, number: int) -> str:
    """What makes a call known again that has no id."""
    line_of = record.uuid if isinstance(record.uuid, str) else hashlib.blake2b(line.text, digest_size=16).hexdigest()
    return f"{line_of}#{number}"


def _blocks(record: Record) -> list[Any]:
    if not isinstance(record.message, dict):
        raise InvalidRecord(f"message must be an object, not {type(record.message).__name__}")
    content = record.message.get("content")
    return content if isinstance(content, list) else []


def _path(given: Any) -> str | None:
    values = [given.get(name) for name in _PATHS] if isinstance(given, dict) else []
    return next((value for value in values if isinstance(value, str) and value), None)


def _words(given: Any) -> Iterator[str]:
    """What a call is about, as far as it is told in texts."""
    for name, value in given.items() if isinstance(given, dict) else ():
        if isinstance(value, str) and value and name not in _CONTENTS:
            yield value[:_WORDS_MOST]


def _size(content: Any) -> int:
    """Bytes of a result's texts."""
    if isinstance(content, str):
        return len(content.encode(errors="replace"))
    blocks = content if isinstance(content, list) else []
    return sum([_size(block.get("text") if isinstance(block, dict) else block) for block in blocks])
