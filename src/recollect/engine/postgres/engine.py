"""The PostgreSQL engine: operations in, through writers that share the sessions out among them or through a reader,
results out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from ...errors import (
    ForkedStore,
    InvalidRecord,
    ReadOnly,
    SearchTimeout,
    StoreBusy,
    StoreClosed,
    StoreError,
    WrongLoop,
    again,
)
from ...models import Row
from ...options import Durability, Limits, Timeouts
from .. import forking
from ..fulltext import FullText
from ..operation import Operation
from ..writer import Lane
from .connect import Server
from .crossing import Crossing
from .faults import is_undone, may_be_tried_again, translate
from .fulltext import FULLTEXT, GUARDED
from .horizon import read_facts
from .migrate import migrate, newest
from .notice import Notices
from .pipeline import Connection
from .readers import Readers
from .row_security import guard
from .run import run_query, run_read
from .shard import AGAIN_S, Shard


class PostgresEngine:
    """A store in a schema of a PostgreSQL database: writers, each with a connection, and a pool of readers."""

    fulltext: FullText = FULLTEXT

    def __init__(
        self, target: str, *, durability: Durability, readonly: bool, limits: Limits, timeouts: Timeouts,
        row_security: bool = False,
    ) -> None:  # fmt: skip
        self._server = Server(target, durability, timeouts.busy_s)
        self.name = self._server.name
        self.not_open: StoreError = StoreClosed("the store is not open: use `async with store` or `open()`")
        self.readonly = readonly
        self._row_security = row_security
        self.guards_rows = False
        self._durability = durability
        self._limits = limits
        self._timeouts = timeouts
        self._unusable: StoreError | None = self.not_open
        self._shards: list[Shard] = []
        self.on_commit: list[Callable[[], None]] = []

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Makes the schema or brings it up to date, and gets the writers and readers ready."""
        self._loop = asyncio.get_running_loop()
        self.on_commit.clear()
        connection = await self._first_connection()
        self._readers = Readers(self._server, self._limits.readers, self._timeouts.reader_wait_s)
        self._notices = Notices(self._server, self._readers, self._tell)
        if self.readonly:
            await connection.close()
        else:
            self._shards = [Shard(self._server, self._limits, self._committed) for _ in range(self._limits.writers)]
            self._shards[0].connection = connection
            self._crossing = Crossing(self._shards, self._limits)
        self._unusable = None
        forking.opened(self)

    async def _first_connection(self) -> Connection:
        """One that has seen that the schema is there and up to date."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._timeouts.busy_s):
                connection = await self._server.connect()
            await self._server.look(connection)
            await migrate(connection, readonly=self.readonly)
            await self._guard(connection)
        except BaseException as error:
            if connection is not None:
                await connection.close()
            if isinstance(error, TimeoutError):
                raise StoreBusy(f"{self.name} did not answer in time") from None
            if isinstance(error, psycopg.Error):
                raise translate(error) from error
            raise
        return connection

    async def _guard(self, connection: Connection) -> None:
        """Finds out whether rows are guarded, or makes it so."""
        patience = self._loop.time() + self._timeouts.busy_s
        while True:
            try:
                self.guards_rows = await guard(connection, asked=self._row_security, readonly=self.readonly)
                break
            except psycopg.Error as error:  # others were at the tables
                if not is_undone(error) or self._loop.time() > patience:
                    raise
        self.fulltext = GUARDED if self.guards_rows else FULLTEXT
        self._server.guards_rows = self.guards_rows
        self._server.configure(connection)

    async def aclose(self, timeout_s: float) -> None:
        """Drains the queues, then closes."""
        if self._unusable:
            return
        self._unusable = StoreClosed("the store is closed")
        end = self._loop.time() + timeout_s
        if not self.readonly:
            await self._crossing.drain(timeout_s)
        await asyncio.gather(*[shard.aclose(max(0.0, end - self._loop.time())) for shard in self._shards])
        await self._notices.aclose()
        await self._readers.aclose()
        self._shards = []
        forking.closed(self)

    def forked(self, error: ForkedStore) -> None:
        """Refuses from now on; called in the child of a fork."""
        if self._unusable is None:
            self._unusable = error

    def _check(self) -> None:
        if self._unusable:
            raise again(self._unusable)
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoop("this store belongs to another event loop: open one per loop, and call it on that loop")

    def _check_writing(self) -> None:
        self._check()
        if self.readonly:
            raise ReadOnly("the store was opened with readonly=True; not stored")

    # -- writing -------------------------------------------------------------------------------

    def write(
        self, op: Callable[..., Operation[Any]], *args: Any, session: str | None = None, size: int = 256,
        lane: Lane = Lane.FOREGROUND,
    ) -> Awaitable[Any]:  # fmt: skip
        """Runs `op(*args)` in the next batch of the writer that the session belongs to. A write without one may touch
        any: it runs when all that was queued before is committed, and nothing passes it."""
        self._check_writing()
        if lane is not Lane.FOREGROUND:
            return self._shards[0].writer.write(op, args, session, size, lane)
        return self._crossing.write(op, args, session, size)

    def gather(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> Awaitable[Any]:
        """The same for one item of a coalescing operation."""
        return self.write(op, item, session=session, size=size)

    def submit(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> asyncio.Future[Any]:
        """The same, queued before it returns, or QueueFull."""
        self._check_writing()
        return self._crossing.submit(op, (item,), session, size)

    def _committed(self) -> None:
        self._tell()
        self._notices.send()

    def _tell(self) -> None:
        for notice in self.on_commit:
            notice()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[bool]:
        """While inside, `on_commit` tells also of what others commit, but for a pooler in between; whether it does."""
        async with self._notices.listening() as told:
            yield told

    # -- reading -------------------------------------------------------------------------------

    async def read(self, op: Callable[..., Operation[Any]], *args: Any, deadline_s: float | None = None) -> Any:
        """Runs `op(*args)` on a reader, in one snapshot."""
        return await self._hop(run_read, deadline_s, op, *args)

    async def query(self, sql: str, params: dict[str, Any], *, deadline_s: float) -> list[Row]:
        """The rows of somebody's own SELECT."""
        return await self._hop(run_query, deadline_s, sql, params)

    async def _hop(self, run: Callable[..., Awaitable[Any]], deadline_s: float | None, *args: Any) -> Any:
        """A read, done again if its connection was lost, or it was broken off for another's sake: it does no harm."""
        self._check()
        patience = self._loop.time() + self._timeouts.busy_s
        while True:
            try:
                return await self._read(run, deadline_s, *args)
            except psycopg.Error as error:
                if not may_be_tried_again(error) or self._loop.time() > patience:
                    raise translate(error) from error
            await asyncio.sleep(AGAIN_S)
            self._check()  # closed meanwhile

    async def _read(self, run: Callable[..., Awaitable[Any]], deadline_s: float | None, *args: Any) -> Any:
        async with self._readers.lend() as connection:
            try:
                async with asyncio.timeout(deadline_s):
                    return await run(connection, *args)
            except TimeoutError:
                raise SearchTimeout("the read took longer than its deadline and was stopped") from None

    # -- upkeep --------------------------------------------------------------------------------

    async def integrity(self) -> list[str]:
        """Nothing: the structure is the server's, and so is its check (`pg_amcheck`)."""
        return []

    async def tidy(self, *, vacuum: bool = False) -> bool:
        """Nothing: the server does so by itself."""
        self._check_writing()
        return True

    async def backup(self, path: str, progress: Callable[[int, int], object] | None, *, replace: bool = True) -> None:
        """Refuses: the server's own tools do that."""
        raise InvalidRecord("a PostgreSQL database is backed up by the server's own tools: pg_dump of the schema")

    # -- facts ---------------------------------------------------------------------------------

    async def facts(self) -> dict[str, Any]:
        """What the engine knows of itself and its database."""
        size, version, stalled_s = await self._hop(read_facts, self._timeouts.search_s)
        writers = [shard.writer for shard in self._shards]
        batches = sum([writer.batches for writer in writers])
        return {
            "writes": sum([writer.writes for writer in writers]),
            "batches": batches,
            "largest_batch": max([writer.largest_batch for writer in writers], default=0),
            "queue_depth": sum([writer.depth for writer in writers], 0 if self.readonly else self._crossing.depth),
            "queue_high_water": max([writer.high_water for writer in writers], default=0),
            "retries": sum([writer.busy for writer in writers]),
            "commit_ms": sum([writer.commit_ms for writer in writers]) / batches if batches else 0.0,
            "readers": self._readers.opened,
            "readers_busy": self._readers.busy,
            "wal_bytes": 0,
            "checkpoint": None,
            "database_bytes": size,
            "schema_version": newest(),
            "sqlite_version": "",
            "postgres_version": version,
            "horizon_stalled_s": stalled_s,
            "durability": self._durability.value,
        }
