"""`<database>.lock`: one process at a time between BEGIN and the checkpoint after COMMIT.

SQLite up to 3.51.2 can lose committed pages when one connection checkpoints while another commits
(sqlite.org/wal.html, "the WAL-reset bug"). Inside one process a single connection does both; between
processes this lock keeps them apart. Waiting is done by the kernel, on the writer's thread: polling
starves. The file is never the database: closing that would drop SQLite's own locks.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager

from ...errors import ReadOnly, StoreBusy

try:
    import fcntl
except ImportError:  # not a POSIX system: SQLite's own locks are all there is
    fcntl = None


log = logging.getLogger("recollect")


class Claim:
    """A batch's right to begin, up to a deadline. The loop may revoke it, the thread may use it:
    whoever comes first wins, so "not stored" is never said of a batch that began."""

    __slots__ = ("_token", "deadline")

    def __init__(self, patience_s: float) -> None:
        self.deadline = time.monotonic() + patience_s
        self._token = [None]

    def settle(self) -> bool:
        """True for the first who asks, False for everybody after. list.pop is atomic."""
        try:
            self._token.pop()
        except IndexError:
            return False
        return True

    @property
    def is_open(self) -> bool:
        """Whether the batch may still begin."""
        return bool(self._token) and time.monotonic() < self.deadline


class LockFile:
    """The lock of one database, held by one descriptor of ours; used on the writer's thread only."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ReadOnly(f"cannot create {path}: {error.strerror}; open with readonly=True to read") from error

    @contextmanager
    def held(self) -> Generator[None]:
        """Holds the lock; waits in the kernel while another has it."""
        if fcntl is None:
            yield
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreBusy(f"the lock beside the database cannot be taken ({error.strerror}); not stored") from error
        try:
            yield
        finally:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError as error:  # what was committed is committed; closing the store lets go of it
                log.warning("the lock beside the database was not released: %s", error.strerror)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._fd)


def busy(path: str) -> StoreBusy:
    """The error of a batch that never got to begin."""
    return StoreBusy(f"another process held {path} past the deadline; not stored")
