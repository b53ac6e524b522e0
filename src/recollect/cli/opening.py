"""Opening the store a command works on. Only `import` makes one; whoever else wants one is told if there is none."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import platformdirs

from ..errors import ReadOnly
from ..options import Timeouts
from ..store import AsyncSessionStore


class NotThere(Exception):
    """What a command was to work on does not exist."""


class Refused(Exception):
    """What a command does not do, for it would destroy something."""


CATCH_UP_S = 30.0
"""how long a search waits for the index: after an import that was cut short there is much to do"""


def default_path() -> Path:
    """Where the database is if nobody says."""
    return platformdirs.user_data_path("recollect", appauthor=False) / "sessions.db"


def target(db: str | None) -> str:
    """What `--db` names: a file, or a PostgreSQL database."""
    if db is None:
        return str(default_path())
    return db if _is_server(db) else str(Path(db).expanduser())


def _is_server(db: str) -> bool:
    return db.startswith(("postgresql://", "postgres://"))


@asynccontextmanager
async def reading(db: str | None) -> AsyncGenerator[AsyncSessionStore]:
    """An existing store, which stays as it is."""
    async with AsyncSessionStore(_existing(db), readonly=True) as store:
        yield store


@asynccontextmanager
async def writing(db: str | None) -> AsyncGenerator[AsyncSessionStore]:
    """An existing store, to be changed."""
    async with AsyncSessionStore(_existing(db)) as store:
        yield store


@asynccontextmanager
async def searching(db: str | None) -> AsyncGenerator[AsyncSessionStore]:
    """An existing store, writable where possible: the index is kept up by whoever may write, and after
    an import that was cut short that is the search itself."""
    existing, timeouts = _existing(db), Timeouts(search_catch_up_s=CATCH_UP_S)
    store = AsyncSessionStore(existing, timeouts=timeouts)
    try:
        await store.open()
    except (ReadOnly, PermissionError):  # the latter of the lock file, where the folder cannot be written
        store = AsyncSessionStore(existing, timeouts=timeouts, readonly=True)
    async with store:
        yield store


def _existing(db: str | None) -> str:
    name = target(db)
    if _is_server(name) or os.path.exists(name):
        return name
    raise NotThere(f"there is no database at {name}: name one with --db, or make it with `recollect import`")


async def session_named(store: AsyncSessionStore, text: str) -> str:
    """The session's id, from it, from its beginning, or from its title."""
    if (id := await store.sessions.resolve(text)) is not None:
        return id
    if (titled := await store.sessions.by_title(text)) is not None:
        return titled.id
    raise NotThere(
        f"no session {text!r}: it must be an id, the beginning of just one, or a title (`recollect sessions`)"
    )
