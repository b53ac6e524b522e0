"""A connection with a thread of its own that runs one callable per hop.

The only module that touches aiosqlite, and protected names of it: `_execute`'s queue (`_tx`), the
worker `_thread` and `_connection`. They are pinned to a minor version in pyproject.toml and held by
a contract test.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

import aiosqlite

T = TypeVar("T")


class ThreadedConnection(aiosqlite.Connection):
    """A `sqlite3.Connection` that lives in a thread of its own. Use `connect`, not the constructor."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, 64)
        # A store that nobody closed must not keep the interpreter alive (aiosqlite joins its thread).
        self._thread.daemon = True

    def submit(self, fn: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Has the thread run `fn(connection, *args)`; hops run one after the other, in order."""
        connection = self._conn
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((future, lambda: fn(connection, *args)))
        return future

    def __del__(self) -> None:
        # Without aiosqlite's ResourceWarning: the store warns, once, in words of its own.
        if self._connection is not None:
            self.stop()

    def abandon(self) -> None:
        """Closes the connection when its thread gets to it, without waiting."""
        self.stop()
        self._connection = None


async def connect(connector: Callable[[], sqlite3.Connection]) -> ThreadedConnection:
    """Opens a connection by `connector`, called in the new thread.

    A caller cancelled meanwhile leaves nothing behind: the opening goes on and what it opened is
    closed when it arrives.
    """
    connection = ThreadedConnection(connector)
    opening = asyncio.ensure_future(_open(connection))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_abandon_late)
        raise


async def _open(connection: ThreadedConnection) -> ThreadedConnection:
    await connection
    return connection


def _abandon_late(opening: asyncio.Future[ThreadedConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abandon()
