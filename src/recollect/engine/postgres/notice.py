"""Notices between the stores on one schema: that something was committed, so that nobody need look all the time.

A NOTIFY inside a transaction would make the server's commits wait for each other. So a notice is sent behind the
commit, and for many commits one. It carries nothing: what there is, is read. One that is lost costs a moment, for
whoever listens looks by himself now and then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import psycopg

from ...errors import StoreError
from .connect import Server
from .horizon import read_stalled
from .pipeline import Connection
from .readers import Readers

log = logging.getLogger("recollect")

PAUSE_S = 0.02
"""between two notices of one store"""

AGAIN_S = 1.0
"""between attempts to listen"""

CANCEL_S = 0.2
"""between two attempts to cancel"""

STALLED_S = 10.0
"""a transaction that holds the horizon back for longer is worth a line in the log"""

_CHANNEL = "SELECT CAST(CAST('sessions' AS regclass) AS oid)"
_SEND = "SELECT pg_notify('recollect_' || CAST(CAST(CAST('sessions' AS regclass) AS oid) AS TEXT), '')"
"""one channel for each schema, for a channel is the whole database's"""


class Notices:
    """Sends and receives them, for one engine."""

    def __init__(self, server: Server, readers: Readers, received: Callable[[], None]) -> None:
        self._server = server
        self._readers = readers
        self._received = received
        self._sending: asyncio.Task[None] | None = None
        self._unsent = False
        self._complained = False

    def send(self) -> None:
        """Tells the others, soon."""
        self._unsent = True
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="recollect-notices")

    async def _send(self) -> None:
        while self._unsent:
            self._unsent = False
            try:
                async with self._readers.lend() as connection:
                    await connection.execute(_SEND)
            except (psycopg.Error, StoreError):  # meanwhile they look by themselves
                self._unsent = True
                await asyncio.sleep(AGAIN_S)
            await asyncio.sleep(PAUSE_S)

    async def aclose(self) -> None:
        """Sends what is not sent yet."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=AGAIN_S)
            self._sending.cancel()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[bool]:
        """Receives them; a pooler does not pass them on."""
        if self._server.is_pooled:
            yield False
            return
        task = asyncio.create_task(self._listen(), name="recollect-listen")
        try:
            yield True
        finally:
            while not task.done():  # a cancellation may be swallowed where it comes together with what was waited for
                task.cancel()
                await asyncio.wait([task], timeout=CANCEL_S)

    async def _listen(self) -> None:
        while True:
            try:
                async with await self._server.connect() as connection:
                    await self._receive(connection)
            except psycopg.Error as error:
                log.info("notices of other stores cannot be received for the moment: %s", error)
            await asyncio.sleep(AGAIN_S)

    async def _receive(self, connection: Connection) -> None:
        cursor = await connection.execute(_CHANNEL)
        (channel,) = await cursor.fetchone() or (0,)
        await connection.execute(f"LISTEN recollect_{channel}".encode())
        self._received()  # what came before LISTEN
        while True:
            async for _ in connection.notifies(timeout=STALLED_S):
                self._received()
            await self._look(connection)

    async def _look(self, connection: Connection) -> None:
        """Says once that watches and the search index are held up."""
        stalled_s = await read_stalled(connection)
        if stalled_s < STALLED_S:
            self._complained = False
        elif not self._complained:
            self._complained = True
            log.warning(
                "a transaction that began %.0f s ago has not ended: watches and search do not go beyond it", stalled_s
            )
