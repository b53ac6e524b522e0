"""Putting a backup in place of a store.

    await restore_store("backup.db", "sessions.db", replace=True)

A restore is a backup of the backup: the same copying, verifying and taking of a place, see
`engine/sqlite/backup.py`. So any store can be restored from, also one that is in use.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import InvalidRecord
from .store import AsyncSessionStore


async def restore_store(
    backup: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    replace: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Makes the file `target` what `backup` is; missing folders are made, with mode 0700, the file with 0600.

    replace: also where there is a file: everything in that one is lost. Nobody may have it open: StoreBusy. A crash
    at any moment leaves the old one or the new one, whole; where power was lost, too. `progress` gets the bytes
    done, and all there are.

    The backup is read only, and verified before anything is changed: NotAStore, SchemaTooNew, StoreDamaged. One of
    an older schema is brought up to date by whoever opens the target. Raises InvalidRecord where there is a file and
    `replace` is not said, or where no store can be; StoreFull, ReadOnly.
    """
    source, place = _path(backup), _path(target)
    async with AsyncSessionStore(source, readonly=True, connect=await asyncio.to_thread(_connector, source)) as store:
        await asyncio.to_thread(_make_folder, place)
        engine = store._engine  # pyright: ignore[reportPrivateUsage]
        await engine.backup(place, progress, replace=replace)


def _path(given: str | os.PathLike[str]) -> str:
    path = os.fspath(given)
    if path == ":memory:" or path.startswith(("postgresql://", "postgres://")):
        raise InvalidRecord(f"{path!r} is no file: what is restored, and where to, are files")
    return path


def _connector(path: str) -> Callable[..., sqlite3.Connection] | None:
    """For a backup where nothing can be written, not even the -shm that reading takes otherwise: nobody else can
    write there, so it is read as it is. Not where there is a log, which would be left out."""
    place = os.path.realpath(os.path.expanduser(path))
    if os.access(os.path.dirname(place), os.W_OK) or os.path.exists(place + "-wal"):
        return None

    def connect(database: str, **options: Any) -> sqlite3.Connection:
        return sqlite3.connect(f"{database}&immutable=1" if database.startswith("file:") else database, **options)

    return connect


def _make_folder(path: str) -> None:
    Path(path).expanduser().absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
