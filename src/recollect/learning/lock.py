"""The lock of a directory of learning sessions, `.recollect.lock`: of all stores and processes one at a time changes
files and rows together.

It is held over what is read before a file is written, the file and its row; a rebuild holds it over each chunk. The
file stays: removing it could take it from under somebody. The lock of a process that dies is free by itself.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from anyio import CancelScope, to_thread

from ..errors import StoreBusy
from . import files

T = TypeVar("T")

POLL_S = 0.01
"""from one attempt to the next: a thread that waits in the kernel could not be called back"""


class Locks:
    """The locks of directories as one store takes them, each in the order of its callers."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._queues: WeakValueDictionary[str, _Queue] = WeakValueDictionary()

    async def hold(self, directory: str, work: Callable[[], Coroutine[Any, Any, T]], *, is_made: bool) -> T:
        """Does the work with the lock of the directory held, and returns its result.

        Whoever is cancelled while he waits leaves nothing behind; who is cancelled later leaves when the work is
        done, for the row has to follow the file.

        is_made: makes a directory that is not there; else that is FileNotFoundError, and one that may only be read,
        and has no lock yet, is worked on without. Raises StoreBusy, OSError, InvalidRecord, what the work raises.
        """
        queue = self._queues.setdefault(directory, _Queue())
        arrived = time.monotonic()
        async with queue.turn:
            # While others of this store had the lock, nobody else kept it from us.
            deadline = max(arrived, queue.had_until) + self._patience_s
            async with DirectoryLock(directory, deadline, is_made=is_made):
                try:
                    return await to_the_end(asyncio.create_task(work()))
                finally:
                    queue.had_until = time.monotonic()


async def to_the_end(running: asyncio.Future[T]) -> T:
    """What it returns. Who is cancelled waits for its end even so: nothing stops a thread, and what comes next must
    not be overtaken by it."""
    cancelled: asyncio.CancelledError | None = None
    with CancelScope(shield=True):
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        return running.result()
    if not running.cancelled():
        running.exception()  # nobody asks for it any more
    raise cancelled


class _Queue:
    """The callers of one store who want the lock of one directory."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.had_until = -math.inf
        """when one of them last let go of the lock"""


class DirectoryLock:
    """One taking of the lock, in `async with`: it waits until nobody else has it, and gives it back in the end.

    `deadline` is of `time.monotonic`; past it, StoreBusy. The one descriptor is closed whatever happens: also when
    whoever waits is cancelled, and the thread that waits for him has just got it.
    """

    def __init__(self, directory: str, deadline: float, *, is_made: bool) -> None:
        self._directory = directory
        self._deadline = deadline
        self._is_made = is_made
        self._descriptor: int | None = None
        self._handing_over = threading.Lock()
        self._closed = threading.Event()

    async def __aenter__(self) -> None:
        try:
            await to_thread.run_sync(self._wait, abandon_on_cancel=True)
        except BaseException:
            self._close()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        """Lets go of it, or of waiting for it."""
        with self._handing_over:
            self._closed.set()
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            _let_go(descriptor)

    # -- in a thread ---------------------------------------------------------------------------

    def _wait(self) -> None:
        while not self._try():
            left = self._deadline - time.monotonic()
            if left <= 0:
                what = f"another process, or another store, held the lock of {self._directory} past the deadline"
                raise StoreBusy(f"{what}; not stored, and no file was written")
            if self._closed.wait(min(POLL_S, left)):
                return

    def _try(self) -> bool:
        """Whether there is nothing to wait for any more. The file is opened each time: it may have been removed."""
        descriptor = files.open_lock(self._directory, is_made=self._is_made)
        if descriptor is None:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        with self._handing_over:
            if not self._closed.is_set():
                self._descriptor = descriptor
                return True
        _let_go(descriptor)
        return True


def _let_go(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave it to a child that was forked meanwhile
    finally:
        os.close(descriptor)
