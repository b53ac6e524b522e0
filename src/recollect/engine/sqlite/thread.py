"""A connection with a thread of its own that runs one callable per hop.

The only module that touches aiosqlite, and protected names of it: its queue (`_tx`), its `_thread`
and `_connection`, and the sentinel that ends the thread. They are pinned to a minor version in
pyproject.toml and held by a contract test.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

import aiosqlite
from aiosqlite.core import _STOP_RUNNING_SENTINEL as STOP  # pyright: ignore[reportPrivateUsage]
from aiosqlite.core import set_exception, set_result

from ..operation import deliverable

T = TypeVar("T")


class ThreadedConnection(aiosqlite.Connection):
    """A `sqlite3.Connection` that lives in a thread of its own. Use `connect`, not the constructor."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, 64)
        # A store that nobody closed must not keep the interpreter alive (aiosqlite joins its thread).
        self._thread.daemon = True

    def begin(self) -> asyncio.Future[sqlite3.Connection]:
        """Starts the thread and opens the connection in it. If that fails, or nobody can be told any more,
        the thread ends."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[sqlite3.Connection] = loop.create_future()

        def opening() -> object:
            try:
                connection = self._connector()
            except BaseException as error:
                _tell(loop, set_exception, future, deliverable(error))
                return STOP
            if _tell(loop, set_result, future, connection):
                return None
            connection.close()
            return STOP

        self._tx.put_nowait((None, opening))
        self._thread.start()
        return future

    def submit(self, fn: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Has the thread run `fn(connection, *args)`; hops run one after the other, in order."""
        connection = self._conn
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def hop() -> None:
            try:
                deliver, outcome = set_result, fn(connection, *args)
            except BaseException as error:
                deliver, outcome = set_exception, deliverable(error)
            _tell(loop, deliver, future, outcome)

        self._tx.put_nowait((None, hop))
        return future

    async def close(self) -> None:
        """Closes the connection and ends the thread, after what is queued."""
        if self._connection is None:
            return
        closing = self.submit(lambda connection: connection.close())
        self.abandon()
        await closing

    def abandon(self) -> None:
        """The same when the thread gets to it, without waiting."""
        connection, self._connection = self._connection, None
        self._running = False

        def stop() -> object:
            if connection is not None:
                connection.close()
            return STOP

        self._tx.put_nowait((None, stop))

    def __del__(self) -> None:
        # Without aiosqlite's ResourceWarning: the store warns, once, in words of its own.
        if self._connection is not None:
            self.abandon()


def _tell(
    loop: asyncio.AbstractEventLoop, deliver: Callable[..., None], future: asyncio.Future[Any], outcome: Any
) -> bool:
    """Hands the outcome to its loop; False if that has ended, and with it everybody who could be told."""
    try:
        loop.call_soon_threadsafe(deliver, future, outcome)
    except RuntimeError:
        if not loop.is_closed():
            raise
        return False
    return True


async def connect(
    connector: Callable[[], sqlite3.Connection], late: Callable[[], None] = lambda: None
) -> ThreadedConnection:
    """Opens a connection by `connector`, called in the new thread.

    A caller cancelled meanwhile leaves nothing behind: the opening goes on, what it opened is closed
    when it arrives, and `late` is called.
    """
    connection = ThreadedConnection(connector)
    opening = asyncio.ensure_future(_open(connection))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda opened: _abandon_late(opened, late))
        raise


async def _open(connection: ThreadedConnection) -> ThreadedConnection:
    connection._connection = await connection.begin()  # pyright: ignore[reportPrivateUsage]
    return connection


def _abandon_late(opening: asyncio.Future[ThreadedConnection], late: Callable[[], None]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abandon()
    late()
