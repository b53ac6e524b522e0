"""SQLite files of others, read and never changed, in a worker thread and piece by piece.

    async with ForeignDatabase(path, needs=("sessions", "messages")) as database:
        columns = await database.columns("messages")
        numbers = await database.keys("messages", "id", "session_id = ?", [session_id])
        async for rows, lost in database.read("messages", "id", sorted(columns & KNOWN), numbers):
            ...

What was committed is seen, also where it is still in the -wal of a process that has the file open. No
transaction is held from one call to the next, so nothing here keeps that process from its checkpoints.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from ..engine.sqlite.faults import translate
from ..errors import InvalidQuery, NotAStore, StoreDamaged, StoreError

T = TypeVar("T")

BUSY_S = 5.0
"""how long another process may hold the file"""

AT_ONCE = 512
"""rows in one hop, at most"""

BYTES_AT_ONCE = 4 * 1024 * 1024
"""of rows in one hop; a row is given out whole, however large"""


class Piece(NamedTuple):
    """Some of the rows that were asked for, in the order of their keys."""

    rows: list[sqlite3.Row]
    lost: list[int]
    """keys of rows that are damaged"""


class ForeignDatabase:
    """One SQLite file of somebody else.

    Texts that are not UTF-8 come with U+FFFD in them. Raises, wherever it reads: NotAStore for what is
    no database or lacks a table of `needs`, FileNotFoundError, StoreBusy, StoreDamaged, ReadOnly.
    """

    stat: os.stat_result
    """of the file, when it was opened"""

    def __init__(self, path: str | os.PathLike[str], *, needs: Collection[str] = (), within: str | None = None) -> None:
        """`needs`: tables that must be there. `within`: the file's name, where a folder is given."""
        self.path = os.fspath(path)
        self._needs = needs
        self._within = within
        self._opened: list[sqlite3.Connection] = []
        self._was_at_rest = False
        # One thread for all: whoever is cancelled leaves his query behind, and what comes next, the closing
        # too, begins when it has ended.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recollect-foreign")

    async def __aenter__(self) -> ForeignDatabase:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Opens the file and looks for the tables that must be there."""
        try:
            self.path, self.stat = await self._run(_found, self.path, self._within)
            await self._run(self._open)
            missing = [table for table in self._needs if not await self.columns(table)]
            if missing:
                raise NotAStore(f"{self.path} has no table {' and no table '.join(missing)}: name another file")
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Closes the file, also when cancelled."""
        closing = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(closing))

    def _open(self) -> None:
        self._was_at_rest = not any(os.path.exists(self.path + end) for end in _BESIDE)
        self._opened.append(_open(self.path))

    def _close(self) -> None:
        while self._opened:
            self._opened.pop().close()
            if self._was_at_rest:
                _tidy(self.path)

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    async def columns(self, table: str) -> frozenset[str]:
        """The names of the table's columns; none if there is no such table."""
        return frozenset([row["name"] for row in await self.rows("SELECT name FROM pragma_table_info(?)", [table])])

    async def rows(self, sql: str, params: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a query finds, all of it."""
        return await self._run(_rows, self._connection, self.path, sql, params)

    async def keys(self, table: str, key: str = "rowid", where: str = "TRUE", params: Sequence[Any] = ()) -> list[int]:
        """The keys (whole numbers that the rows are stored by) of the rows that meet a condition, ascending.

        They are looked up in an index where one will do, so that they are known even for rows that are
        damaged, and in the table where the index is.
        """
        sql = f"SELECT {key} FROM {table} %s WHERE {where}"
        try:
            found = await self.rows(sql % "", params)
        except StoreDamaged:
            found = await self.rows(sql % "NOT INDEXED", params)
        numbers = [row[0] for row in found]
        if not all(isinstance(number, int) for number in numbers):
            raise NotAStore(f"{self.path}: {key} of {table} is not always a whole number: name another file")
        return sorted(numbers)

    async def read(self, table: str, key: str, columns: Sequence[str], keys: Sequence[int]) -> AsyncIterator[Piece]:
        """The rows with these keys (ascending), with the key as first column, as many at a time as memory
        should hold; rows deleted since are passed over."""
        chosen = ", ".join([key, *[_quoted(name) for name in columns if name != key]])
        sql = f"SELECT {chosen} FROM {table} WHERE {key} IN (%s) ORDER BY {key}"
        at = 0
        while at < len(keys):
            some = keys[at : at + AT_ONCE]
            piece, done = await self._run(_piece, self._connection, self.path, sql, some)
            at += done
            yield piece

    @property
    def _connection(self) -> sqlite3.Connection:
        if not self._opened:
            raise RuntimeError("the database is not open")
        return self._opened[0]


# -- in the worker thread --------------------------------------------------------------------------


def _found(path: str, within: str | None) -> tuple[str, os.stat_result]:
    if "\x00" in path:
        raise NotAStore(f"{path!r} is no path")
    if os.fsencode(path).decode(errors="replace") != path:
        raise NotAStore(f"{path!r}: its name is not UTF-8: give it another")
    path = os.path.abspath(os.path.expanduser(path))
    if within is not None and os.path.isdir(path):
        path = os.path.join(path, within)
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise NotAStore(f"{path} is not a file")
    return path, found


def _open(path: str) -> sqlite3.Connection:
    # The file is never opened but by SQLite: closing it would drop the locks that this process may have on
    # it through another connection.
    uri = Path(path).as_uri()
    try:
        return _connect(uri + "?mode=ro")
    except UnicodeDecodeError as error:  # of the message about a damaged schema
        raise StoreDamaged(f"{path}: its schema is damaged") from error
    except sqlite3.OperationalError as error:
        # In a folder that cannot be written there is no place for the -shm that a file in WAL mode takes.
        # Nobody else can write there either, unless as another user: then there is a -wal.
        if error.sqlite_errorcode & 0xFF not in _UNWRITABLE or _has_log(path):
            raise _translated(path, error) from error
    except sqlite3.Error as error:
        raise _translated(path, error) from error
    try:
        return _connect(uri + "?mode=ro&immutable=1")
    except sqlite3.Error as error:
        raise _translated(path, error) from error


_UNWRITABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def _has_log(path: str) -> bool:
    """Whether there is something beside the file that belongs into it."""
    return any(os.path.exists(path + end) and os.path.getsize(path + end) for end in ("-wal", "-journal"))


_BESIDE = ("-wal", "-shm")


def _tidy(path: str) -> None:
    """Takes away what reading a file in WAL mode has put beside it, as only SQLite can: it knows whether somebody has
    opened the file since. What has been written since is left to who did it."""
    if os.path.exists(path + "-shm") and not _has_log(path):
        with suppress(sqlite3.Error), closing(sqlite3.connect(Path(path).as_uri() + "?mode=rw", uri=True)) as writer:
            writer.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        connection.text_factory = _text
        for pragma in ("query_only=ON", "trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _rows(connection: sqlite3.Connection, path: str, sql: str, params: Sequence[Any]) -> list[sqlite3.Row]:
    try:
        return connection.execute(sql, params).fetchall()
    except UnicodeDecodeError as error:
        raise StoreDamaged(f"{path}: its schema is damaged") from error
    except sqlite3.Error as error:
        raise _translated(path, error) from error


def _piece(connection: sqlite3.Connection, path: str, sql: str, keys: Sequence[int]) -> tuple[Piece, int]:
    """The rows of the first of the keys, and how many of them that are."""
    try:
        return _whole_piece(connection, sql, keys)
    except sqlite3.Error as error:
        if not _is_damage(error):
            raise _translated(path, error) from error
    return _row_by_row(connection, path, sql, keys)


def _whole_piece(connection: sqlite3.Connection, sql: str, keys: Sequence[int]) -> tuple[Piece, int]:
    rows: list[sqlite3.Row] = []
    size = 0
    cursor = connection.execute(sql % _marks(keys), keys)
    try:
        for row in cursor:
            rows.append(row)
            size += _size(row)
            if size > BYTES_AT_ONCE:
                return Piece(rows, []), keys.index(row[0]) + 1
    finally:
        cursor.close()  # what is not read to its end would hold a transaction open
    return Piece(rows, []), len(keys)


def _row_by_row(connection: sqlite3.Connection, path: str, sql: str, keys: Sequence[int]) -> tuple[Piece, int]:
    """The same, where one of them at least is damaged."""
    piece = Piece([], [])
    size = 0
    for at, key in enumerate(keys, start=1):
        try:
            found = connection.execute(sql % "?", (key,)).fetchall()
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise _translated(path, error) from error
            piece.lost.append(key)
            continue
        piece.rows.extend(found)
        size += sum([_size(row) for row in found])
        if size > BYTES_AT_ONCE:
            return piece, at
    return piece, len(keys)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _marks(keys: Sequence[int]) -> str:
    return ", ".join("?" * len(keys))


def _size(row: sqlite3.Row) -> int:
    return sum([len(value) for value in row if isinstance(value, str | bytes)])


def _is_damage(error: sqlite3.Error) -> bool:
    return isinstance(_ours(error), StoreDamaged)


def _ours(error: sqlite3.Error) -> StoreError:
    return translate(error)


def _translated(path: str, error: sqlite3.Error) -> StoreError:
    """The error under our name, with the file's. What cannot be asked of it makes it another kind of file."""
    ours = _ours(error)
    return (NotAStore if isinstance(ours, InvalidQuery) else type(ours))(f"{path}: {ours}")
