"""Backing up while others write: a snapshot in, a file of its own out, verified before it takes its name.

A reader of its own, on a thread of its own, holds one read transaction for as long as the copying takes: SQLite
begins a backup again when somebody writes, unless its source stays in its snapshot. The log cannot be emptied behind
that snapshot, so it grows meanwhile by what is written.

The copy is written to a file beside its place and moved there. A database that is in that place must be nobody's
then: who has it open would go on in a file without a name, with a log that is taken for the new file's. So it is
locked, as SQLite locks, against all others; its log is worked in and removed, and only then is it replaced, all of it
under `<file>.lock`, where who opens it for writing waits. A crash leaves the old file, whole and without a log, or the
new one.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import InvalidRecord, StoreBusy, StoreClosed, StoreDamaged, StoreError
from ...placing import beside, companions, flush, is_one_of, move, place_of, sweep, there_already
from ..fulltext import IndexDamaged
from .connect import MEMORY, STEP_S, Connector, check_identity
from .faults import is_busy, is_of_driver, translate
from .guarded import GuardedFile
from .lockfile import LockFile
from .run import Request
from .thread import ThreadedConnection, connect
from .upkeep import structural_faults

PAGES = 1_024
"""pages copied between two looks at whether to go on: a few milliseconds. At each look this thread has to wait for
the interpreter, which a busy loop holds as long."""

TICK_S = 0.02
"""how often the loop passes on that it is to stop, and tells how far it is"""

GRACE_S = 2.0
"""what a cancelled caller waits for the thread to remove what it wrote, before he leaves it to that"""

_NO_DATABASE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)

Progress = Callable[[int, int], object]


class Stopped(Exception):
    """Raised into SQLite's loop to end it."""


class Work:
    """One backup: where to, what stops it, how far it is. Shared by the loop and the thread."""

    def __init__(
        self, path: str, request: Request, closed: Callable[[], bool], progress: Progress | None, *,
        connector: Connector, replace: bool,
    ) -> None:  # fmt: skip
        self.path = path
        self.request = request
        self.connector = connector
        self.replace = replace
        self.busy: sqlite3.Connection | None = None
        self._closed = closed
        self._progress = progress
        self._page_size = 0
        self._now = self._told = (0, 0)

    def begin(self, page_size: int) -> None:
        """Counts in bytes from now on."""
        self._page_size = page_size

    def stops(self) -> bool:
        """Whether the caller was cancelled or the store is closed."""
        return self.request.cancelled or self._closed()

    def check(self) -> None:
        """Raises Stopped if so."""
        if self.stops():
            raise Stopped

    def step(self, _: int, remaining: int, total: int) -> None:
        """Called by SQLite between two steps."""
        self.check()
        self._now = ((total - remaining) * self._page_size, total * self._page_size)

    def attend(self) -> None:
        """Called on the loop: tells what is new, stops what is slow to look."""
        if self._progress is not None and self._now != self._told and self._page_size:
            self._told = self._now
            self._progress(*self._now)

    def interrupt(self) -> None:
        """Ends a statement that is running, if it is to stop: SQLite's checks ask nobody."""
        if (busy := self.busy) is not None and self.stops():
            try:
                busy.interrupt()
            except Exception as error:  # it was closed just now
                if not is_of_driver(error):
                    raise


async def attended(task: asyncio.Task[None], work: Work) -> None:
    """Waits for the backup to end; if the caller is cancelled, or `progress` raises, it is stopped, and has
    cleaned up when that is raised."""
    failure: BaseException | None = None
    patience = float("inf")
    while not task.done() and time.monotonic() < patience:
        try:
            await asyncio.wait([task], timeout=TICK_S)
            if failure is None:
                work.attend()
        except BaseException as error:
            if failure is None:
                failure, patience = error, time.monotonic() + GRACE_S
            work.request.cancelled = True
        work.interrupt()
    task.add_done_callback(_retrieve)
    if failure is not None:
        raise failure
    task.result()


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


async def back_up(file: GuardedFile, writer: ThreadedConnection | None, work: Work) -> None:
    """Writes the copy; of a database in memory, whose one connection is `writer`, by way of a second one."""
    try:
        if file.path == MEMORY:
            assert writer is not None
            twin = await writer.submit(_duplicate, work)
            connection = await connect(lambda: twin)
        else:
            connection = await connect(file.open_reader)
        try:
            await connection.submit(_run, file.path, work)
        finally:
            await connection.close()
    except asyncio.CancelledError:
        work.request.cancelled = True
        raise


def _duplicate(connection: sqlite3.Connection, work: Work) -> sqlite3.Connection:
    """A database in memory once more: 1 ms per MB or so, in which nobody writes to it."""
    twin = _connect(work, MEMORY)
    try:
        with _translated(work, "the copy"):
            connection.backup(twin, pages=PAGES, progress=work.step)
    except BaseException:
        twin.close()
        raise
    return twin


def _run(source: sqlite3.Connection, own: str, work: Work) -> None:
    """The whole of it, on the thread of the reader, which is closed when it has been read."""
    try:
        with _translated(work, work.path):
            place = _place(own, work)
            with beside(place) as new:
                version = _fill(source, new, work)
                source.close()
                _verify(new, version, work)
                flush(new, place)
                _put(new, place, work)
    finally:
        source.close()


@contextmanager
def _translated(work: Work, place: str) -> Generator[None]:
    """The driver's errors as ours, naming the file."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if work.stops():
            raise StoreClosed("the store was closed before its backup was done; nothing is left of it") from None
        if not is_of_driver(error):
            raise
        ours = translate(error)
        kind = StoreDamaged if isinstance(ours, IndexDamaged) else type(ours)
        raise kind(f"nothing was written to {place}: {ours}") from error


# -- the copy --------------------------------------------------------------------------------------


def _connect(work: Work, name: str, **options: Any) -> sqlite3.Connection:
    return work.connector(name, timeout=STEP_S, isolation_level=None, check_same_thread=False, **options)


def _fill(source: sqlite3.Connection, new: str, work: Work) -> int:
    """Copies what the source has at this moment; the version of its schema."""
    version = _snapshot(source, work)
    work.begin(source.execute("PRAGMA page_size").fetchone()[0])
    target = _connect(work, new)
    try:
        # nobody else knows the file, and it counts for nothing before it is flushed as a whole
        for setting in ("locking_mode=EXCLUSIVE", "journal_mode=MEMORY", "synchronous=OFF"):
            target.execute(f"PRAGMA {setting}").fetchone()
        source.backup(target, pages=PAGES, progress=work.step, sleep=STEP_S)
        target.execute("PRAGMA journal_mode=WAL").fetchone()  # which a database in memory has not
    finally:
        target.close()
    return version


def _snapshot(source: sqlite3.Connection, work: Work) -> int:
    """Begins the transaction that holds the moment; as patient as a read."""
    while True:
        try:
            source.execute("BEGIN")
            return source.execute("PRAGMA user_version").fetchone()[0]
        except Exception as error:
            if source.in_transaction:
                source.execute("ROLLBACK")
            if not (is_of_driver(error) and is_busy(error) and work.request.waits()):
                raise


def _verify(new: str, version: int, work: Work) -> None:
    """Reads it all, from the file: nobody writes to it, so it needs no log and leaves none."""
    copy = _connect(work, Path(new).as_uri() + "?mode=ro&immutable=1", uri=True)
    try:
        copy.set_progress_handler(work.stops, 10_000)
        work.busy = copy
        work.check()
        check_identity(copy, "the copy")
        if wrong := list(_wrong(copy, version)):
            raise StoreDamaged(f"the copy is not sound, so what was copied is damaged; not kept: {'; '.join(wrong)}")
    finally:
        work.busy = None
        copy.close()


def _wrong(copy: sqlite3.Connection, version: int) -> Generator[str]:
    copy.execute("PRAGMA cell_size_check=ON")
    if (found := copy.execute("PRAGMA user_version").fetchone()[0]) != version:
        yield f"its schema is {found}, not {version}"
    if found := structural_faults(copy):
        yield from found
    elif row := copy.execute("PRAGMA foreign_key_check").fetchone():
        yield f"a row of {row[0]} refers to one of {row[2]} that is not there"


# -- its place -------------------------------------------------------------------------------------


def _place(own: str, work: Work) -> str:
    """Where it goes, if it may; asked before anything is copied."""
    place = place_of(work.path)
    if own != MEMORY and is_one_of(place, [own, *[own + end for end in ("-wal", "-shm", "-journal", ".lock")]]):
        raise InvalidRecord(f"{work.path} is the store itself, or a file of it; nothing was written")
    if os.path.lexists(place):
        if not work.replace:
            raise there_already(place)
        with _alone(place, work, "BEGIN EXCLUSIVE"):
            pass
    return place


def _put(new: str, place: str, work: Work) -> None:
    """Gives the copy its name."""
    work.check()
    if not any(map(os.path.lexists, (place, place + ".lock"))) and not companions(place):
        try:
            return move(new, place, replace=False)
        except InvalidRecord:  # somebody made it just now
            if not work.replace:
                raise
    lock = LockFile(place + ".lock")
    try:
        with lock.held():
            work.check()
            # no longer WAL, or closing it would remove the log by name: by then that is the new file's
            with _alone(place, work, "PRAGMA journal_mode=DELETE", "BEGIN EXCLUSIVE"):
                sweep(place)
                move(new, place, replace=work.replace)
    finally:
        lock.close()


@contextmanager
def _alone(place: str, work: Work, *statements: str) -> Generator[None]:
    """Holds the database in that place against all others, by these statements. It is held until it has been
    replaced: who opened it in between would make a log for what lies there then."""
    if not os.path.exists(place):
        yield
        return
    connection = _connect(work, place)
    try:
        _seize(connection, place, statements)
        yield
    finally:
        connection.close()


def _seize(connection: sqlite3.Connection, place: str, statements: Sequence[str]) -> None:
    try:
        for statement in ("PRAGMA locking_mode=EXCLUSIVE", *statements):
            connection.execute(statement).fetchone()
    except Exception as error:
        if not is_of_driver(error):
            raise
        if is_busy(error):
            raise StoreBusy(f"{place} is open elsewhere: close it there; nothing was changed") from error
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _NO_DATABASE:  # those nobody can have open
            raise
