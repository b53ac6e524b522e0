"""Backfilling: events of what happened before the store was there, out of the files that tell of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from anyio import to_thread

from .importers import issues, loops
from .importers.claude_code import events
from .importers.source import Progress
from .reports import REMEMBERED, Backfilled, Imported
from .store import AsyncSessionStore

Place = str | os.PathLike[str]


async def backfill(
    store: AsyncSessionStore,
    *,
    issues_dir: Place | None = None,
    loops_dir: Place | None = None,
    transcripts: Place | Sequence[Place] | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Backfilled:
    """Records what those files tell; the meanings are at `AsyncSessionStore.backfill`."""
    several = [transcripts] if isinstance(transcripts, str | os.PathLike) else list(transcripts or ())
    sources: list[tuple[Callable[..., Awaitable[Imported]], Place]] = []
    sources += [(issues.load, issues_dir)] if issues_dir is not None else []
    sources += [(loops.load, loops_dir)] if loops_dir is not None else []
    sources += [(events.load, path) for path in several]
    await to_thread.run_sync(_must_exist, [path for _, path in sources])
    return _together([await load(store, path, progress=progress) for load, path in sources])


def _must_exist(paths: list[Place]) -> None:
    for path in paths:
        os.stat(os.path.expanduser(os.fspath(path)))


def _together(brought: list[Imported]) -> Backfilled:
    rejections = [rejection for each in brought for rejection in each.rejections]
    return Backfilled(
        files=sum([each.files for each in brought]),
        unchanged=sum([each.unchanged for each in brought]),
        inserted=_sum([each.inserted for each in brought]),
        amended=_sum([each.amended for each in brought]),
        duplicate=_sum([each.duplicate for each in brought]),
        rejected=_sum([each.rejected for each in brought]),
        skipped=_sum([each.skipped for each in brought]),
        rejections=tuple(rejections[:REMEMBERED]),
    )


def _sum(counts: list[Counter[str]]) -> Counter[str]:
    return sum(counts, Counter[str]())
