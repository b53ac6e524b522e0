"""Runs of loops (state machines that agents run in, as little-loops keeps them in `.loops`) into events of kind
`loop`.

Read are `.running/*.json` and `.running/*.events.jsonl`; below `.history` the folders `<run_id>-<loop>` and
`<loop>/<run_id>` with their `state.json` and `events.jsonl`, and the `*.json` beside them of the first version.

- A line of an events file is what `map_loop_event` makes of it, whole in its payload. Where it does not say its
  loop and its run, the state file beside it does, else the file's name. It is known again by its run, its number
  and its words, so that a file which is moved to the archive brings nothing twice.
- A state file is one event: `name` the loop, `action` the status (`running`, `completed`…), `at` when it was
  updated, `issue_id` the issue it was given, `text` the state and what was said last, `payload` all of it. A
  later state of the same run takes its place; an earlier one, of an old copy, does not.

A run is called `<start>-<loop>`, as in `2026-03-01T090000-fix-types`. What comes by the thousand and whose words
come again (`action_output`, parts of what a model says) is left out, and counted as skipped.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from anyio import to_thread

from ..encoding import Encoder, instant, moment, texts
from ..errors import InvalidRecord
from ..events.given import prepare
from ..events.mapping import NOISE, issue_of, map_loop_event, time_of
from ..events.names import matcher
from ..events.typed import LoopEvent
from ..reports import Imported, Rejection
from ..store import AsyncSessionStore
from .cursor import Cursor
from .event_chunk import Mode, Piece
from .event_files import EventSource, Reading, Whole, load_files
from .event_lines import EventLines, changed_at, decode_object
from .lines import Line
from .source import Progress, SourceFile, find_files, open_file

IMPORTER = "loops"
VERSION = 1
KIND = "loops"

_RUNNING, _HISTORY = ".running", ".history"
_LOG = "events.jsonl"
_STAMP = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)T(\d\d):?(\d\d):?(\d\d)")
_LONGEST_NAME = 200
_STATE_WORDS = ("last_result", "continuation_prompt")

_is_noise = matcher(NOISE)


async def load(
    store: AsyncSessionStore,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], object] | None = None,
) -> Imported:
    """Imports the runs below a `.loops` folder, or one of its files; counted as `loops`.

    A file that did not change costs a stat, an events file that has grown what was added; a torn last line waits.
    What cannot be understood is counted, with its place, and stops nothing. `progress` is called on the event loop
    after every chunk; what it raises ends the import, as cancelling does, and the next one goes on where it
    stopped. `redact` of the store is called in a worker thread. Raises FileNotFoundError, and what the store may.
    """
    files, unreadable = await to_thread.run_sync(_find, os.fspath(path))
    source = EventSource(IMPORTER, VERSION, KIND, LoopLog, _read_state, lambda path: path.endswith(".jsonl"))
    return await load_files(store, source, files, unreadable, progress)


# -- which files -----------------------------------------------------------------------------------


def _find(path: str) -> tuple[list[SourceFile], list[Rejection]]:
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isdir(path):
        return find_files(path, "")
    tops = [os.path.join(path, name) for name in (_RUNNING, _HISTORY)]
    if os.path.basename(path) in (_RUNNING, _HISTORY):
        tops = [path]
    found: list[SourceFile] = []
    unreadable: list[Rejection] = []
    for top in filter(os.path.isdir, tops):
        for suffix in (".json", _LOG):
            files, rejections = find_files(top, suffix)
            found += [file for file in files if _is_of_a_run(os.path.relpath(file.path, top))]
            unreadable += [rejection for rejection in rejections if rejection not in unreadable]
    return found, unreadable


def _is_of_a_run(path: str) -> bool:
    *folders, name = path.split(os.sep)
    return not folders or (len(folders) <= 2 and (name == "state.json" or name == _LOG))


class Run(NamedTuple):
    """Which run a file is of."""

    id: str
    loop: str | None


def run_of(path: str, state: dict[str, Any] | None) -> Run:
    """By what its state says, which is the same wherever the file lies, else by where it lies."""
    loop = _name(state.get("loop_name") or state.get("loop")) if state else None
    started = time_of(state.get("started_at")) if state else None
    if state and (run_id := _name(state.get("run_id"))):
        return Run(run_id, loop)
    if loop and started:
        return Run(f"{started:%Y-%m-%dT%H%M%S}-{loop}", loop)
    return _run_of_place(path, loop)


def _run_of_place(path: str, loop: str | None) -> Run:
    """`.running/<loop>-<time>.state.json`, `.history/<time>-<loop>/…`, `.history/<loop>/<time>/…`"""
    folder, name = os.path.split(path)
    if name in ("state.json", _LOG):
        above, name = os.path.split(folder)
        if _STAMP.fullmatch(name) and os.path.basename(above) != _HISTORY:
            name = f"{name}-{os.path.basename(above)}"
    else:
        name = name.removesuffix(f".{_LOG}").removesuffix(".json").removesuffix(".state")
    found = _STAMP.search(name)
    if found is None:
        return Run(name, loop or name)
    loop = loop or (name[: found.start()] + name[found.end() :]).strip("-") or None
    day, time = "-".join(found.groups()[:3]), "".join(found.groups()[3:])
    return Run(f"{day}T{time}-{loop}" if loop else name, loop)


def _name(value: Any) -> str | None:
    return value[:_LONGEST_NAME] if isinstance(value, str) and value else None


def _key(run_id: str, *what: object) -> str:
    """Digests take whatever there may be in a name."""
    told = "\x00".join([run_id, *map(str, what)]).encode(errors="surrogatepass")
    return f"loop:{hashlib.blake2b(told, digest_size=16).hexdigest()}"


# -- states ----------------------------------------------------------------------------------------


def _read_state(whole: Whole, encoder: Encoder) -> Reading:
    state = decode_object(whole.text)
    run = run_of(whole.file.path, state)
    if not any(_name(state.get(name)) for name in ("loop_name", "loop", "status", "current_state", "state")):
        raise InvalidRecord("no state of a loop: it names neither its loop, nor a status, nor a state")
    now = _name(state.get("current_state")) or _name(state.get("state"))
    said = list(texts([state.get(name) for name in _STATE_WORDS]))
    at = next((at for name in ("updated_at", "started_at") if (at := time_of(state.get(name)))), None)
    event = LoopEvent(
        loop_name=run.loop,
        transition=_name(state.get("status")) or "state",
        state=now,
        issue_id=encoder.text(issue_of(state), "issue_id"),
        run_id=encoder.text(run.id, "run_id"),
        at=at or moment(changed_at(whole.stat)),
        anchor=whole.file.path,
        text="\n".join(said) or None,
        payload=state,
        dedupe_key=_key(run.id, "state"),
    )
    return Reading([Piece(KIND, prepare(encoder, event.event()), Mode.LATEST)])


# -- events ----------------------------------------------------------------------------------------


class _Known(msgspec.Struct):
    """What was told of a file before; kept in its cursor."""

    run_id: str | None = None
    loop: str | None = None
    at: int | None = None
    """of the latest line, milliseconds"""


class LoopLog(EventLines):
    """A file of events."""

    importer = IMPORTER
    version = VERSION
    Known = _Known

    def __init__(self, file: SourceFile, cursor: Cursor | None, encoder: Encoder) -> None:
        super().__init__(file, cursor, encoder)
        if self._known.run_id is None:
            run = run_of(self.path, _state_beside(self.path, encoder.row_bytes))
            self._known.run_id, self._known.loop = encoder.text(run.id, "run_id"), encoder.text(run.loop, "loop")

    def take(self, line: Line) -> None:
        """One event."""
        given = decode_object(line.text)
        name = given.get("event") or given.get("type")
        if isinstance(name, str) and _is_noise(name):
            self.skipped[name] += 1
            return
        event = map_loop_event(given)
        known = self._known
        known.at = instant(event.at, "at") if event.at else known.at
        run_id = event.run_id or known.run_id or ""
        event = msgspec.structs.replace(
            event,
            at=event.at or moment(changed_at(self.stat) if known.at is None else known.at),
            name=(event.name or known.loop) if event.kind == "loop" else event.name,
            run_id=run_id or None,
            anchor=f"{self.path}:{line.number}",
            dedupe_key=_key(run_id, line.number, line.text.decode(errors="replace")),
        )
        self.add(KIND, event, line.number)


def _state_beside(path: str, most: int) -> dict[str, Any] | None:
    """The state of the run whose events the file has."""
    for name in _names_beside(path):
        with suppress(OSError, InvalidRecord), open_file(name) as file:
            return decode_object(file.read(most))
    return None


def _names_beside(path: str) -> list[str]:
    folder, name = os.path.split(path)
    stem = name.removesuffix(_LOG)
    names = ["state.json", "json"] if stem else ["state.json"]
    return [os.path.join(folder, f"{stem}{name}") for name in names]
