"""Transcripts of Claude Code (`~/.claude/projects`) into a store, as often as they have grown.

Reading and decoding happen in a worker thread, a chunk at a time; each chunk is one write on the
background lane, together with the cursor that says how far its file is in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from anyio import to_thread

from ...encoding import Encoder
from ...engine import Engine
from ...engine.writer import Lane
from ...reports import Imported
from ...store import AsyncSessionStore
from ..chunk import Chunk, Landed, load_chunk
from ..cursor import Cursor, read_cursors
from ..source import Progress, SourceFile, Tally, find_files
from .state import agents_of
from .transcript import IMPORTER, VERSION, Transcript

_AT_ONCE = 256
"""files whose cursors are read in one hop"""


async def load(
    store: AsyncSessionStore,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], object] | None = None,
) -> Imported:
    """Imports a transcript, or all of those below a folder; what is there already is left alone.

    A file that did not change costs a stat, one that has grown what was added; one that was truncated
    or replaced is read again. What cannot be understood is counted, with its place, and does not stop
    the rest. `progress` is called on the event loop after every chunk; what it raises ends the import,
    as cancelling does, and the next one goes on where it stopped.

    A session keeps the id it has there, that of a sub-agent is `<session>:agent-<id>`. `redact` of the
    store is called in a worker thread. Raises FileNotFoundError, and what the store may.
    """
    run = _Run(store)
    files, unreadable = await to_thread.run_sync(find_files, os.fspath(path), ".jsonl")
    files.sort(key=lambda file: (os.path.basename(file.path).startswith("agent-"), file.path))
    tally = Tally(files, progress)
    for rejection in unreadable:
        tally.reject(rejection.kind, rejection.file, None, rejection.reason)
    for first in range(0, len(files), _AT_ONCE):
        await run.load_files(files[first : first + _AT_ONCE], tally)
    return tally.result()


class _Run:
    """One import: where it goes to, and which tool calls have spawned which sub-agents."""

    def __init__(self, store: AsyncSessionStore) -> None:
        self._engine: Engine = store._engine  # pyright: ignore[reportPrivateUsage]
        self._encoder: Encoder = store._encoder  # pyright: ignore[reportPrivateUsage]
        self._agents: dict[str, str] = {}

    async def load_files(self, files: Sequence[SourceFile], tally: Tally) -> None:
        """Imports those of the files that have changed."""
        sources = {file.path for file in files} | {parent for file in files if (parent := _parent(file.path))}
        cursors: dict[str, Cursor] = await self._engine.read(read_cursors, IMPORTER, VERSION, sorted(sources))
        for cursor in cursors.values():
            self._agents.update(agents_of(cursor))
        for file in files:
            cursor = cursors.get(file.path)
            if cursor and cursor.is_current(file.stat):
                tally.unchanged += 1
            else:
                await self._load_file(file, cursor, tally)
            tally.finish(file)

    async def _load_file(self, file: SourceFile, cursor: Cursor | None, tally: Tally) -> None:
        try:
            transcript = await to_thread.run_sync(Transcript, file.path, cursor, self._agents, self._encoder)
        except OSError as error:
            tally.reject("files", file.path, None, str(error))
            return
        try:
            while chunk := await _next_chunk(transcript, file, tally):
                tally.take(file, chunk, await self._write(chunk))
                tally.reached(file, transcript.position)
        finally:
            transcript.close()

    async def _write(self, chunk: Chunk) -> Landed:
        return await self._engine.write(
            load_chunk, chunk, self._engine.fulltext, self._encoder.row_bytes, lane=Lane.BACKGROUND
        )


async def _next_chunk(transcript: Transcript, file: SourceFile, tally: Tally) -> Chunk | None:
    try:
        return await to_thread.run_sync(transcript.next_chunk)
    except OSError as error:
        tally.reject("files", file.path, None, str(error))
        return None


def _parent(path: str) -> str | None:
    """The file of the session that a sub-agent's file lies below."""
    folder = os.path.dirname(path)
    return os.path.dirname(folder) + ".jsonl" if os.path.basename(folder) == "subagents" else None
