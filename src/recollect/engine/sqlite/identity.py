"""Is the file still the one we opened? Asked once per batch, by `stat`, never by opening it."""

from __future__ import annotations

import os

from ...errors import StoreReplaced


class Identity:
    """Device and inode of the database, and of its write-ahead log once there is one."""

    __slots__ = ("_database", "_path", "_wal")

    def __init__(self, path: str) -> None:
        self._path = path
        self._database = _identity(path)
        self._wal: tuple[int, int] | None = None

    def learn_wal(self) -> None:
        """Remembers the log as found after the first transaction: before, SQLite may have none."""
        if self._wal is None:
            self._wal = _identity(self._path + "-wal")

    def check(self) -> None:
        """Raises StoreReplaced if either is another file now, or gone."""
        if _identity(self._path) != self._database:
            raise StoreReplaced(f"{self._path} was replaced or removed while open; not stored")
        if self._wal is not None and _identity(self._path + "-wal") != self._wal:
            raise StoreReplaced(f"{self._path}-wal was replaced or removed while open; not stored")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
