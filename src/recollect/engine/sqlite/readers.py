"""The readers: a small pool of read-only connections, opened when first needed, lent for one hop.

Rows are fetched within the hop. Nothing stays open between hops: no cursor, no snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ...errors import StoreBusy, StoreClosed
from .thread import ThreadedConnection


class Readers:
    """Owns up to `most` connections made by `connect`."""

    def __init__(self, connect: Callable[[], Awaitable[ThreadedConnection]], most: int, wait_s: float) -> None:
        self._connect = connect
        self._wait_s = wait_s
        self._places = asyncio.Semaphore(most)
        self._idle: list[ThreadedConnection] = []
        self._openings: set[asyncio.Future[ThreadedConnection]] = set()
        self._closed = False
        self.opened = 0
        self.busy = 0

    async def run(self, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Starts `fn(connection, *args)` on a free reader; the future ends when the reader is free."""
        connection = await self._borrow()
        hop = connection.submit(fn, *args)
        hop.add_done_callback(lambda _: self._give_back(connection))
        return hop

    async def _borrow(self) -> ThreadedConnection:
        await self._place()
        try:
            self._check()
            connection = self._idle.pop() if self._idle else await self._open()
        except BaseException:
            self._places.release()
            raise
        self.busy += 1
        return connection

    async def _place(self) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self._places.acquire()
        except TimeoutError:
            raise StoreBusy(f"all readers were busy for {self._wait_s} s") from None

    async def _open(self) -> ThreadedConnection:
        opening = asyncio.ensure_future(self._connect())
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_abandon)
            raise
        if self._closed:
            connection.abandon()
        self._check()
        self.opened += 1
        return connection

    def _check(self) -> None:
        """The store may have been closed while one waited."""
        if self._closed:
            raise StoreClosed("the store was closed while this read waited for its turn")

    def _give_back(self, connection: ThreadedConnection) -> None:
        self.busy -= 1
        if self._closed:
            self.opened -= 1
            connection.abandon()
        else:
            self._idle.append(connection)
        self._places.release()

    def refuse(self) -> None:
        """Lends nothing out any more, not even to those who wait; what is lent out closes when it comes back."""
        self._closed = True

    async def aclose(self, timeout_s: float) -> None:
        """Closes the idle ones, when those that are being opened are open; they close at once."""
        self.refuse()
        if self._openings:
            await asyncio.wait(list(self._openings), timeout=timeout_s)
        while self._idle:
            self.opened -= 1
            await self._idle.pop().close()


def _abandon(opening: asyncio.Future[ThreadedConnection]) -> None:
    """Nobody is left who would use what was opened."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abandon()
