"""A writer with a connection of its own: batches in, one transaction each, outcomes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg

from ...errors import StoreBusy, StoreClosed, StoreError, WriteUnknown
from ...options import Limits
from ..operation import nothing
from ..writer import Group, Writer
from .connect import STUCK_S, Server
from .faults import is_lost, may_be_tried_again, translate
from .pipeline import Connection
from .run import Job, run_batch

AGAIN_S = 0.05
"""between attempts to reach a server that does not answer"""


class Shard:
    """Its connection is opened when it is first needed, and again when it was lost."""

    def __init__(self, server: Server, limits: Limits, committed: Callable[[], None]) -> None:
        self._server = server
        self.connection: Connection | None = None
        self._given_up = False
        self._scope: asyncio.Timeout | None = None
        self.writer = Writer(
            self._commit,
            operations=limits.queue_operations,
            size=limits.queue_bytes,
            batch_operations=limits.batch_operations,
            batch_bytes=limits.batch_bytes,
            committed=committed,
        )
        self.writer.start()

    async def drained(self) -> None:
        """Returns when all is committed that was queued before the call."""
        if not self.writer.is_idle:
            await self.writer.write(nothing, (), None, 0)

    async def _commit(self, groups: list[Group]) -> list[list[Any]]:
        """One batch, one transaction: tried again if it was undone for another's sake, or did not reach the server,
        until the deadline."""
        jobs = [(group.op, [write.args for write in group.writes]) for group in groups]
        sessions = {write.session for group in groups for write in group.writes if write.session}
        deadline = asyncio.get_running_loop().time() + self._server.patience_s
        while True:
            try:
                return await self._attempt(jobs, list(sessions), deadline)
            except psycopg.Error as error:
                if not may_be_tried_again(error) or asyncio.get_running_loop().time() + AGAIN_S > deadline:
                    raise translate(error) from error
                if is_lost(error):
                    await asyncio.sleep(AGAIN_S)

    async def _attempt(self, jobs: list[Job], sessions: list[str], deadline: float) -> list[list[Any]]:
        if self._given_up:
            raise self._too_late()
        try:
            async with asyncio.timeout_at(deadline + STUCK_S) as self._scope:
                connection = await self._open(deadline)
                return await run_batch(connection, jobs, self._server.begin, sessions)
        except TimeoutError:
            error = self._too_late()
            await self._abandon()
            raise error from None
        finally:
            self._scope = None

    async def _open(self, deadline: float) -> Connection:
        if self.connection is not None and self.connection.closed:
            self.connection = None  # and with it what was undecided: that was told
        if self.connection is None:
            async with asyncio.timeout_at(deadline):
                self.connection = await self._server.connect()
        return self.connection

    async def _abandon(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()

    async def aclose(self, timeout_s: float) -> None:
        """Writes what is queued, for at most so long, then closes."""
        await self.writer.stop(timeout_s, self._give_up)
        await self._abandon()

    def _give_up(self) -> None:
        """What is under way is cancelled, unless it is the COMMIT."""
        self._given_up = True
        if self._scope is not None and not self._scope.expired() and not self._is_undecided:
            self._scope.reschedule(asyncio.get_running_loop().time())

    @property
    def _is_undecided(self) -> bool:
        return self.connection is not None and self.connection.is_undecided

    def _too_late(self) -> StoreError:
        if self._is_undecided:
            return WriteUnknown(f"{self._server.name} did not answer to COMMIT: stored or not cannot be known")
        if self._given_up:
            return StoreClosed("the store was closed before this was stored")
        return StoreBusy(f"{self._server.name} did not answer in time; not stored")
