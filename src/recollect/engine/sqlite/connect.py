"""Opening: a path in, sqlite3 connections out, set up and with the schema in place.

Everything here runs on a connection's thread. Nothing opens the database, its -wal or its -shm as
a file: one stray close would drop SQLite's POSIX locks for the whole process. Modes are set when the
file is created.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import NotAStore, ReadOnly, SchemaTooNew, StoreBusy
from ...options import Durability
from .faults import is_busy, is_of_driver, translate
from .migrate import APPLICATION_ID, migrate, refuse_foreign

Connector = Callable[..., sqlite3.Connection]

STEP_S = 0.1
"""how long SQLite itself waits for a lock; patience is ours, where closing and deadlines are seen"""

MEMORY = ":memory:"

_SMALLEST = 512
"""bytes of the smallest SQLite database; what is shorter SQLite would take for an empty one, and overwrite"""


def prepare(path: Path) -> None:
    """Makes the folder (0700) and the file (0600) where they are missing."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ReadOnly(
            f"cannot create {path}: {error.strerror}; name a place that can be written, or open with readonly=True"
        ) from error
    if not path.is_file() or 0 < path.stat().st_size < _SMALLEST:
        raise NotAStore(f"{path} is not a database: name another file")


def require_file(path: str) -> None:
    """Raises ReadOnly where there is nothing to read, NotAStore where it is no file."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ReadOnly(f"{path} does not exist, and readonly=True creates nothing") from None
    except OSError as error:
        raise ReadOnly(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise NotAStore(f"{path} is not a file")


def open_writer(
    connector: Connector, path: str, *, durability: Durability, checkpoint_pages: int, patience_s: float
) -> sqlite3.Connection:
    """The connection that does every commit and every checkpoint, its schema up to date."""
    connection = _connect(connector, path)
    try:
        _patiently(patience_s, lambda: refuse_foreign(connection))
        _patiently(patience_s, lambda: _set_up_writer(connection, path, durability, checkpoint_pages))
        _patiently(patience_s, lambda: migrate(connection))
    except BaseException as error:
        connection.close()
        _reraise(error, path)
    return connection


def open_reader(connector: Connector, path: str, patience_s: float) -> sqlite3.Connection:
    """A connection that cannot write, nor checkpoint."""
    # Not with immutable=1 where the folder cannot be written: such a reader is shown the past, or a torn
    # file, as soon as somebody else writes.
    connection = _connect(connector, Path(path).as_uri() + "?mode=ro", uri=True)
    try:
        _patiently(patience_s, lambda: _set_up_reader(connection, path))
    except BaseException as error:
        connection.close()
        _reraise(error, path)
    return connection


def _set_up_reader(connection: sqlite3.Connection, path: str) -> None:
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    _guard(connection)
    check_identity(connection, path)


def check_identity(connection: sqlite3.Connection, path: str) -> None:
    """Refuses a database that is somebody else's."""
    if connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
        return
    raise NotAStore(f"{path} is not a store of recollect: name another file")


def _connect(connector: Connector, path: str, **options: Any) -> sqlite3.Connection:
    try:
        return connector(
            path, timeout=STEP_S, isolation_level=None, check_same_thread=False, cached_statements=512, **options
        )
    except Exception as error:
        if not is_of_driver(error):
            raise
        raise translate(error) from error


def _set_up_writer(connection: sqlite3.Connection, path: str, durability: Durability, pages: int) -> None:
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    # The answer is read: SQLite refuses WAL silently where the file system cannot share memory.
    if mode != ("memory" if path == MEMORY else "wal"):
        raise NotAStore(f"{path}: SQLite answers journal mode {mode!r}, write-ahead logging is needed here")
    _guard(connection)
    connection.execute(f"PRAGMA synchronous={'FULL' if durability is Durability.COMMIT else 'NORMAL'}")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute(f"PRAGMA wal_autocheckpoint={pages:d}").fetchone()
    connection.execute(f"PRAGMA journal_size_limit={64 * 1024 * 1024:d}").fetchone()


def _guard(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA mmap_size=0").fetchone()
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    connection.execute("PRAGMA temp_store=MEMORY")


def _patiently(patience_s: float, step: Callable[[], None]) -> None:
    """Repeats a step that another process's lock keeps from happening, up to the deadline."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return step()
        except Exception as error:
            if not is_busy(error):
                raise
            if time.monotonic() >= deadline:
                raise StoreBusy("another process held the database while it was opened; not opened") from error


def _reraise(error: BaseException, path: str) -> None:
    if isinstance(error, Exception) and is_of_driver(error):
        ours = translate(error)
        hint = (
            "; reading takes a -shm file beside it, in a folder that can be written"
            if isinstance(ours, ReadOnly)
            else ""
        )
        raise type(ours)(f"{path}: {ours}{hint}") from error
    if isinstance(error, NotAStore | SchemaTooNew) and path not in str(error):
        raise type(error)(f"{path}: {error}") from None
    raise error
