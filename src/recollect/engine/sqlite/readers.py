"""The readers: a small pool of read-only connections, opened when first needed, lent for one hop.

Rows are fetched within the hop. Nothing stays open between hops: no cursor, no snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ...errors import StoreBusy
from .thread import ThreadedConnection


class Readers:
    """Owns up to `most` connections made by `connect`."""

    def __init__(self, connect: Callable[[], Awaitable[ThreadedConnection]], most: int, wait_s: float) -> None:
        self._connect = connect
        self._wait_s = wait_s
        self._places = asyncio.Semaphore(most)
        self._idle: list[ThreadedConnection] = []
        self.opened = 0
        self.busy = 0

    async def run(self, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Starts `fn(connection, *args)` on a free reader; the future ends when the reader is free."""
        connection = await self._borrow()
        hop = connection.submit(fn, *args)
        hop.add_done_callback(lambda _: self._give_back(connection))
        return hop

    async def _borrow(self) -> ThreadedConnection:
        if self._places.locked():
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._places.acquire()
            except TimeoutError:
                raise StoreBusy(f"all readers were busy for {self._wait_s} s") from None
        else:
            await self._places.acquire()
        try:
            connection = self._idle.pop() if self._idle else await self._open()
        except BaseException:
            self._places.release()
            raise
        self.busy += 1
        return connection

    async def _open(self) -> ThreadedConnection:
        connection = await self._connect()
        self.opened += 1
        return connection

    def _give_back(self, connection: ThreadedConnection) -> None:
        self.busy -= 1
        self._idle.append(connection)
        self._places.release()

    async def aclose(self) -> None:
        """Closes the idle ones; called when nothing is lent out any more."""
        while self._idle:
            await self._idle.pop().close()
            self.opened -= 1
