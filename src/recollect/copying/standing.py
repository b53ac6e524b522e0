"""Whose copy a store is, and how far it has come: one row of its `import_cursors`, written before anything else.

`position` is the number up to which messages and events are copied, committed with them; `size` is the source's
last number when the run began; `tail_hash` is a mark of what the copy was like when it was finished, empty until then.
What has a higher number, or does not fit the mark, was written by somebody else: then the store is no copy any more,
and nothing is done to it.

There is nothing in a store that names it, so a source is known by its place: a file by its path and inode, a
database by server, database, schema and the number of its table; one in memory by its process.
"""

from __future__ import annotations

import os
from typing import NamedTuple
from uuid import uuid4

from anyio import to_thread

from ..engine.fulltext import FullText
from ..engine.operation import Operation, Row, execute, one
from ..errors import StoreError
from ..importers.cursor import identity
from ..store import AsyncSessionStore
from .tables import EDIT_OUTCOMES, EVENTS, IMPORTER, MESSAGES, SESSIONS, TABLES, USAGE_ROUNDS

VERSION = 1
_PROCESS = uuid4().hex


class CopyRefused(StoreError):
    """The copy would destroy something, or come from something unfinished; nothing was written. Name another
    target, or an empty one."""


class Place(NamedTuple):
    """Where a store is: what it is known by."""

    name: str
    device: int
    inode: int

    def is_of(self, other: tuple[str, int]) -> bool:
        """Whether that name and inode are this store's; the numbers of devices change when a machine starts anew."""
        return (self.name, self.inode) == other


_SCHEMA = """
SELECT current_schema() AS name, CAST(CAST(CAST('recollect_schema' AS regclass) AS oid) AS BIGINT) AS number"""


async def place_of(store: AsyncSessionStore) -> Place:
    """Where the store is."""
    name = store._engine.name  # pyright: ignore[reportPrivateUsage]
    if name == ":memory:":
        return Place(f":memory: {_PROCESS}.{store._opening}", 0, 0)  # pyright: ignore[reportPrivateUsage]
    if name.startswith("postgresql://"):
        (schema,) = await store.query(_SCHEMA)
        return Place(f"{name}?{schema.name}", 0, schema.number)
    return await to_thread.run_sync(_file, name)


def _file(name: str) -> Place:
    path = os.path.realpath(os.path.expanduser(name))
    return Place(os.fsencode(path).decode(errors="replace"), *identity(os.stat(path)))


_CURSORS = "SELECT source, inode, position, size, tail_hash FROM import_cursors WHERE importer = :importer"

_CLAIM = """
INSERT INTO import_cursors (importer, version, source, device, inode, position, size, tail_hash)
VALUES (:importer, :version, :source, :device, :inode, 0, :size, '')
ON CONFLICT (importer, version, source) DO UPDATE SET size = excluded.size, tail_hash = ''"""


def read_unfinished() -> Operation[bool]:
    """Whether the store is a copy that was not brought to its end."""
    found = yield one(_CURSORS, importer=IMPORTER)
    return found is not None and not found.tail_hash


def claim(fulltext: FullText, source: Place, last: int) -> Operation[bool]:
    """Makes the store a copy of that source, up to the number `last`, or lets it go on being one; whether it had
    all messages and events of an earlier run. Raises CopyRefused."""
    yield fulltext.lock()  # of two who begin at once the second sees the first
    found = yield one(_CURSORS, importer=IMPORTER)
    if found is None:
        yield from _check_empty()
    else:
        yield from _check_copy(found, source, last)
    given = {"source": source.name, "device": source.device, "inode": source.inode, "size": last}
    yield execute(_CLAIM, importer=IMPORTER, version=VERSION, **given)
    return found is not None and found.position >= found.size


def _check_empty() -> Operation[None]:
    for table in TABLES:
        if (yield one(f"SELECT 1 AS n FROM {table.name} LIMIT 1")):
            raise CopyRefused(
                f"the target is not empty: it has {table.name} that were not copied; nothing was written: name"
                " another, or one that is not there yet"
            )


def _check_copy(found: Row, source: Place, last: int) -> Operation[None]:
    if not source.is_of((found.source, found.inode)):
        raise CopyRefused(
            f"the target is a copy of {found.source}, not of {source.name} (or that was made anew since); nothing was"
            " written: name another"
        )
    if last < found.size:
        raise CopyRefused("the source is older than the copy: it was restored, or made anew; nothing was written")
    for table, own in (
        (SESSIONS, found.size), (MESSAGES, found.position), (EVENTS, found.position), (USAGE_ROUNDS, found.size),
        (EDIT_OUTCOMES, found.size),
    ):  # fmt: skip
        newest = yield one(f"SELECT MAX({table.columns[0]}) AS n FROM {table.name}")
        if (newest.n or 0) > own:
            raise _in_use(f"it has {table.name} of its own")
    if found.tail_hash and found.tail_hash != (yield from _read_mark()):
        raise _in_use("sessions were changed in it")


def _in_use(what: str) -> CopyRefused:
    return CopyRefused(f"the target is in use: {what}, which would be lost; nothing was written: name another")


def _read_mark() -> Operation[str]:
    """What changes with every change to a session, also with those that take no number."""
    sessions = yield one(
        "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(revision), 0) AS BIGINT) AS revisions FROM sessions"
        " WHERE id IS NOT NULL"
    )
    learning = yield one("SELECT COUNT(*) AS n FROM learning_sessions")
    return f"{sessions.n}.{sessions.revisions}.{learning.n}"


def finish() -> Operation[None]:
    """The copy is what the source was."""
    mark = yield from _read_mark()
    yield execute(
        "UPDATE import_cursors SET tail_hash = :mark WHERE importer = :importer", mark=mark, importer=IMPORTER
    )


def read_newest_number() -> Operation[int]:
    """The highest number that a row has."""
    newest = 0
    for table in (SESSIONS, MESSAGES, EVENTS, USAGE_ROUNDS, EDIT_OUTCOMES):
        row = yield one(f"SELECT MAX({table.columns[0]}) AS n FROM {table.name}")
        newest = max(newest, row.n or 0)
    return newest
