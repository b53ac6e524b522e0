"""How importers of events go through their files: changed ones only, read in worker threads, in bounded chunks,
each of which is one write on the background lane together with its cursors.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec
from anyio import to_thread

from ..encoding import Encoder
from ..engine import Engine
from ..engine.writer import Lane
from ..errors import InvalidRecord
from ..reports import Imported, Rejection
from ..store import AsyncSessionStore
from .cursor import Cursor, Kept, identity, read_cursors, tail_hash
from .event_chunk import EventChunk, Landed, Piece, load_events
from .event_lines import EventLines
from .source import Progress, SourceFile, Tally, open_file

_AT_ONCE = 256
"""files whose cursors are read in one hop"""

BATCH_BYTES = 1024 * 1024
"""of small files that are read at once, and written in one transaction"""


class Whole(NamedTuple):
    """A file that is read as a whole."""

    file: SourceFile
    text: bytes
    stat: os.stat_result
    own: msgspec.Raw
    """what its importer knew of it when it was read last; `null` the first time"""


class Reading(NamedTuple):
    """What a whole file came to, and what its importer is to know of it the next time. A reader of such files
    raises InvalidRecord for one that is nothing."""

    pieces: list[Piece]
    own: msgspec.Raw = msgspec.Raw(b"null")


class EventSource(NamedTuple):
    """An importer of events."""

    name: str
    version: int
    kind: str
    """what a file that cannot be read would have become"""
    open_lines: Callable[[SourceFile, Cursor | None, Encoder], EventLines] | None
    """for files that grow by lines"""
    read_whole: Callable[[Whole, Encoder], Reading] | None
    """for all others"""
    has_lines: Callable[[str], bool]
    """whether the file of that path grows by lines"""


async def load_files(
    store: AsyncSessionStore,
    source: EventSource,
    files: list[SourceFile],
    unreadable: Iterable[Rejection],
    progress: Callable[[Progress], object] | None,
) -> Imported:
    """Imports those of the files that have changed since the last run."""
    tally = Tally(files, progress)
    for rejection in unreadable:
        tally.reject(source.kind, rejection.file, None, rejection.reason)
    run = _Run(store, source, tally)
    for first in range(0, len(files), _AT_ONCE):
        await run.load(files[first : first + _AT_ONCE])
    return tally.result()


class _Run:
    """One import."""

    def __init__(self, store: AsyncSessionStore, source: EventSource, tally: Tally) -> None:
        self._engine: Engine = store._engine  # pyright: ignore[reportPrivateUsage]
        self._encoder: Encoder = store._encoder  # pyright: ignore[reportPrivateUsage]
        self._source = source
        self._tally = tally

    async def load(self, files: Sequence[SourceFile]) -> None:
        """Imports those of the files that have changed."""
        name, version = self._source.name, self._source.version
        cursors = await self._engine.read(read_cursors, name, version, [file.path for file in files])
        whole: list[tuple[SourceFile, Cursor | None]] = []
        for file in files:
            cursor = cursors.get(file.path)
            if cursor and cursor.is_current(file.stat):
                self._tally.unchanged += 1
                self._tally.finish(file)
            elif self._source.has_lines(file.path):
                await self._load_lines(file, cursor)
                self._tally.finish(file)
            else:
                whole.append((file, cursor))
        await self._load_whole(whole)

    async def _load_lines(self, file: SourceFile, cursor: Cursor | None) -> None:
        assert self._source.open_lines is not None
        try:
            lines = await to_thread.run_sync(self._source.open_lines, file, cursor, self._encoder)
        except OSError as error:
            self._reject(file, error)
            return
        try:
            while chunk := await to_thread.run_sync(lines.next_chunk):
                await self._write(chunk)
                self._tally.reached(file, lines.position)
        except OSError as error:
            self._reject(file, error)
        finally:
            lines.close()

    async def _load_whole(self, files: list[tuple[SourceFile, Cursor | None]]) -> None:
        while files:
            chunk, done = await to_thread.run_sync(_read_some, self._source, files, self._encoder)
            await self._write(chunk)
            for file, _ in files[:done]:
                self._tally.finish(file)
            files = files[done:]

    async def _write(self, chunk: EventChunk) -> None:
        landed: Landed = await self._engine.write(
            load_events, chunk, self._engine.fulltext, size=chunk.size, lane=Lane.BACKGROUND
        )
        self._tally.inserted.update(landed.inserted)
        self._tally.amended.update(landed.amended)
        self._tally.duplicate.update(landed.duplicate)
        self._tally.skipped.update(chunk.skipped)
        for kind, file, line, reason in map(msgspec.structs.astuple, chunk.rejected):
            self._tally.reject(kind, file, line, reason)

    def _reject(self, file: SourceFile, error: OSError) -> None:
        self._tally.reject(self._source.kind, file.path, None, str(error))


# -- in a worker thread ----------------------------------------------------------------------------


def _read_some(
    source: EventSource, files: Sequence[tuple[SourceFile, Cursor | None]], encoder: Encoder
) -> tuple[EventChunk, int]:
    """The first of the files, as many as a chunk holds, and how many those are."""
    assert source.read_whole is not None
    chunk = EventChunk(
        importer=source.name, version=source.version, pieces=[], cursors=[], skipped=Counter(), rejected=[]
    )
    done = size = 0
    for file, cursor in files:
        if size > BATCH_BYTES:
            break
        done += 1
        try:
            size += _read_one(source.read_whole, file, cursor, encoder, chunk)
        except Exception as error:  # whatever is in a file, the others are not to suffer
            reason = str(error) if isinstance(error, OSError | InvalidRecord) else f"{type(error).__name__}: {error}"
            chunk.rejected.append(Rejection(source.kind, file.path, None, reason))
    return chunk, done


def _read_one(
    read: Callable[[Whole, Encoder], Reading], file: SourceFile, cursor: Cursor | None, encoder: Encoder,
    chunk: EventChunk,
) -> int:  # fmt: skip
    """Adds what a file holds, and its cursor, to the chunk; its bytes. One that holds nothing is not read again
    until it has changed."""
    with open_file(file.path) as opened:
        stat = os.fstat(opened.fileno())
        text = opened.read(encoder.row_bytes + 1)
        own = cursor.kept.own if cursor else msgspec.Raw(b"null")
        reading = Reading([], own)  # where there is nothing, what was known stays
        try:
            if len(text) > encoder.row_bytes:
                raise InvalidRecord(f"it has {stat.st_size} bytes, limits.row_bytes allows {encoder.row_bytes}")
            reading = read(Whole(file, text, stat, own), encoder)
            chunk.pieces.extend(reading.pieces)
        finally:
            device, inode = identity(stat)
            tail = tail_hash(opened, len(text))
            kept = Kept(stat.st_mtime_ns, 0, True, reading.own)
            chunk.cursors.append(Cursor(file.path, device, inode, len(text), stat.st_size, tail, kept))
    return len(text)
