"""The readers: a few connections, made when first needed, lent for one hop.

Nothing stays open between hops: no cursor, no snapshot. They are made and closed by who uses them: no task works behind
that could hold up the end of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from psycopg.pq import TransactionStatus

from ...errors import StoreBusy, StoreClosed
from .connect import Server
from .pipeline import Connection

IDLE_S = 600.0
"""unused for longer, a connection is not trusted: what stands in between may have forgotten it"""


class Readers:
    """Owns up to `most` connections."""

    def __init__(self, server: Server, most: int, wait_s: float) -> None:
        self._server = server
        self._wait_s = wait_s
        self._places = asyncio.Semaphore(most)
        self._idle: list[tuple[Connection, float]] = []
        self._closed = False
        self.busy = 0

    @property
    def opened(self) -> int:
        """How many connections there are."""
        return self.busy + len(self._idle)

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[Connection]:
        """A connection, while inside. Raises StoreBusy if none gets free in time or the server does not answer,
        psycopg.Error if it cannot be reached."""
        connection = await self._borrow()
        try:
            yield connection
        finally:
            await self._give_back(connection)

    async def _borrow(self) -> Connection:
        try:
            async with asyncio.timeout(self._wait_s):
                await self._places.acquire()
                try:
                    connection = await self._take()
                except BaseException:
                    self._places.release()
                    raise
        except TimeoutError:
            raise StoreBusy(f"all readers were busy, or the server did not answer, for {self._wait_s} s") from None
        self.busy += 1
        return connection

    async def _take(self) -> Connection:
        if self._closed:  # while one waited
            raise StoreClosed("the store was closed while this read waited for its turn")
        while self._idle:
            connection, since = self._idle.pop()
            if asyncio.get_running_loop().time() - since < IDLE_S:
                return connection
            await connection.close()
        return await self._server.connect(reading=True)

    async def _give_back(self, connection: Connection) -> None:
        self.busy -= 1
        self._places.release()
        if self._closed or connection.info.transaction_status != TransactionStatus.IDLE:
            await connection.close()
        else:
            self._idle.append((connection, asyncio.get_running_loop().time()))

    async def aclose(self) -> None:
        """Lends nothing out any more; what is lent out closes when it comes back."""
        self._closed = True
        while self._idle:
            connection, _ = self._idle.pop()
            await connection.close()
