"""Making the table anew from the files, which are the truth: folders in, chunks of rows out, what is wrong told.

Two passes, so that nothing but names is held of more than one chunk: the first asks each file for its
parent, the second reads them in an order in which parents come before children.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from anyio import to_thread

from ..encoding import Encoder
from ..engine import Engine
from ..engine.writer import Lane
from ..errors import InvalidRecord
from ..reports import REMEMBERED, Rejection
from . import files
from .files import Unreadable
from .given import Given, Labels, labels_by_edit, session_of
from .lock import POLL_S, Locks
from .models import Rebuilt
from .table import put_indexed, read_ids

AT_ONCE = 64
"""files of one chunk, which is one operation"""

CHUNK_BYTES = 1024 * 1024
"""of files in one chunk, unless one file is larger"""

PAUSE_S = 2 * POLL_S
"""between chunks: who saves in another process sees that the lock is free"""


class _Parent(msgspec.Struct):
    """As much of a file as the first pass asks for."""

    parent_session_id: str | None = None


class _Chunk(NamedTuple):
    """What was made of some folders."""

    done: int
    size: int
    given: dict[str, Given]
    """by the name of the folder"""


class Rebuild:
    """One rebuild. The lock is held from reading a chunk's files until their rows are committed, so that a
    session that is saved meanwhile is not overwritten with what its file said before."""

    def __init__(self, engine: Engine, encoder: Encoder, locks: Locks, directory: str) -> None:
        self._engine = engine
        self._encoder = encoder
        self._locks = locks
        self._directory = directory
        self._files = 0
        self._outcomes = 0
        self._sessions = 0
        self._rejected: Counter[str] = Counter()
        self._rejections: list[Rejection] = []

    async def run(self, progress: Callable[[int, int], object] | None) -> Rebuilt:
        """Reads all of it; see `Learning.rebuild`."""
        known: list[str] = await self._engine.read(read_ids)  # before, for a session may come with its file meanwhile
        names = await to_thread.run_sync(self._in_order)
        done = 0
        while done < len(names):
            if done:
                await asyncio.sleep(PAUSE_S)
            bring = partial(self._bring, names[done : done + AT_ONCE])
            done += await self._locks.hold(self._directory, bring, is_made=False)
            if progress is not None:
                progress(done, len(names))
        there = set(names)
        return Rebuilt(
            files=self._files,
            sessions=self._sessions,
            outcomes=self._outcomes,
            rejected=+self._rejected,
            rejections=tuple(self._rejections),
            without_file=tuple(id for id in known if id not in there),
        )

    async def _bring(self, names: Sequence[str]) -> int:
        """A chunk of the first of these; how many they were."""
        chunk = await to_thread.run_sync(self._take, names)
        if chunk.given:
            await self._put(chunk)
        return chunk.done

    async def _put(self, chunk: _Chunk) -> None:
        given = list(chunk.given.values())
        lacking: set[str] = await self._engine.write(put_indexed, given, size=chunk.size, lane=Lane.BACKGROUND)
        self._sessions += len(given)
        self._outcomes += sum(len(each.outcomes) for each in given)
        for name, each in chunk.given.items():
            if each.session.parent_session_id in lacking:
                self._reject("parents", name, f"its parent {each.session.parent_session_id!r} is not there")

    # -- in a thread ---------------------------------------------------------------------------

    def _in_order(self) -> list[str]:
        """The folders that have a file, parents first."""
        parents: dict[str, str | None] = {}
        for name in files.names_in(self._directory):
            try:
                content = self._read(name, files.SESSION)
            except Unreadable as error:
                self._files += 1
                self._reject("sessions", name, str(error))
            else:
                if content is not None:
                    parents[name] = _parent_in(content)
        return parents_first(parents)

    def _take(self, names: Sequence[str]) -> _Chunk:
        """The first of these sessions, as many as make a chunk."""
        given: dict[str, Given] = {}
        done = size = 0
        for name in names:
            done += 1
            self._files += 1
            try:
                content = self._read(name, files.SESSION) or b""
                given[name] = self._given(name, content)
                size += len(content)
            except (Unreadable, InvalidRecord) as error:
                self._reject("sessions", name, str(error))
            if size >= CHUNK_BYTES:
                break
        return _Chunk(done, size, given)

    def _given(self, name: str, content: bytes) -> Given:
        record = _decoded(content)
        given = session_of(self._encoder, record, self._labels(name), is_exact=False)
        if given.session.id != name:
            raise Unreadable(f"is that of session {given.session.id!r}, in a folder of another name")
        return given

    def _labels(self, name: str) -> Mapping[str, Labels]:
        """What the plan beside the file says of the edits; one that cannot be understood is told, and left out."""
        try:
            content = self._read(name, files.PLAN)
            plan = {} if content is None else _decoded(content)
            if not isinstance(plan, dict):
                raise Unreadable("is no object")
            return labels_by_edit(self._encoder, plan.get("edits"))
        except (Unreadable, InvalidRecord) as error:
            self._reject("plans", name, str(error), files.PLAN)
            return {}

    def _read(self, name: str, file: str) -> bytes | None:
        return files.read(self._directory, name, file, self._encoder.row_bytes)

    def _reject(self, kind: str, name: str, reason: str, file: str = files.SESSION) -> None:
        self._rejected[kind] += 1
        if len(self._rejections) < REMEMBERED:
            place = os.fsencode(os.path.join(self._directory, name, file)).decode(errors="replace")
            self._rejections.append(Rejection(kind, place, None, reason))


def _decoded(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"is not JSON: {error}") from None


def _parent_in(content: bytes) -> str | None:
    """None also where it cannot be told: the second pass says why."""
    try:
        return msgspec.json.decode(content, type=_Parent).parent_session_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def parents_first(parents: Mapping[str, str | None]) -> list[str]:
    """The names, given the parent of each, so that a parent stands before its children; else in their order.
    Where they go in a circle, it is broken."""
    ordered: dict[str, None] = {}
    for name in parents:
        line: dict[str, None] = {}
        above: str | None = name
        while above is not None and above in parents and above not in ordered and above not in line:
            line[above] = None
            above = parents[above]
        ordered |= dict.fromkeys(reversed(line))
    return list(ordered)
