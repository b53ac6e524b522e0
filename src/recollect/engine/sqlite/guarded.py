"""A database file and what guards it: its real path, its lock, its identity. Connections come out.

Everything here runs on a connection's thread. One object serves one opening of the store: what is
opened too late for it is discarded with it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ...errors import SchemaTooNew, StoreReplaced
from ...options import Durability
from .connect import MEMORY, Connector, open_reader, open_writer, prepare, require_file
from .identity import Identity
from .lockfile import LockFile
from .migrate import check_version


class GuardedFile:
    """One opening of one file (or of a database in memory, which needs no guard)."""

    def __init__(
        self, path: str, connector: Connector, *, durability: Durability, checkpoint_pages: int, patience_s: float
    ) -> None:
        self.path = path
        self._connector = connector
        self._durability = durability
        self._checkpoint_pages = checkpoint_pages
        self._patience_s = patience_s
        self._lock: LockFile | None = None
        self._identity: Identity | None = None

    def open_for_writing(self) -> sqlite3.Connection:
        """The writer's connection; the file and its schema are made where they are missing."""
        if self.path == MEMORY:
            return self._open_writer()
        self._resolve()
        prepare(Path(self.path))
        lock = LockFile(self.path + ".lock")
        try:
            with lock.held():
                connection = self._open_writer()
        except BaseException:
            lock.close()
            raise
        self._lock = lock
        self._identity = Identity(self.path)
        return connection

    def _resolve(self) -> None:
        """Follows links: the lock and the log lie beside the file itself, however it is spelled."""
        self.path = os.path.realpath(self.path)

    def _open_writer(self) -> sqlite3.Connection:
        return open_writer(
            self._connector,
            self.path,
            durability=self._durability,
            checkpoint_pages=self._checkpoint_pages,
            patience_s=self._patience_s,
        )

    def open_readonly(self) -> sqlite3.Connection:
        """The first connection of a store that is only read."""
        require_file(self.path)
        self._resolve()
        connection = open_reader(self._connector, self.path, self._patience_s)
        try:
            check_version(connection)
        except SchemaTooNew:
            connection.close()
            raise
        return connection

    def open_reader(self) -> sqlite3.Connection:
        """A reader of the file that was opened first: another one in its place is not read."""
        if self._identity:
            self._identity.check()
        connection = open_reader(self._connector, self.path, self._patience_s)
        try:
            if self._identity:
                self._identity.check()
        except StoreReplaced:
            connection.close()
            raise
        return connection

    @contextmanager
    def held(self) -> Generator[None]:
        """Keeps other processes away from BEGIN to the checkpoint after COMMIT, and makes sure that it is
        still the same file."""
        if self._lock is None or self._identity is None:
            yield
            return
        with self._lock.held():
            self._identity.check()
            yield
            self._identity.learn_wal()

    def close(self, connection: sqlite3.Connection) -> None:
        """Closes the writer's connection, which checkpoints if it is the last, and lets go of the lock."""
        try:
            with self._lock.held() if self._lock else _unguarded():
                connection.close()
        finally:
            self.discard()

    def discard(self) -> None:
        """Lets go of the lock; also in a forked child, where it would outlive the parent."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()


@contextmanager
def _unguarded() -> Generator[None]:
    yield
