"""The PostgreSQL engine: operations in, through writers that share the sessions out among them or through a reader,
results out."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ...errors import ReadOnly, SearchTimeout, StoreBusy, StoreClosed, StoreError, WrongLoop, again
from ...models import Row
from ...options import Durability, Limits, Timeouts
from ..fulltext import FullText
from ..operation import Operation, nothing
from ..writer import Group, Lane, Writer
from .faults import is_lost, may_be_tried_again, translate
from .fulltext import FULLTEXT
from .migrate import migrate, newest
from .run import Connection, run_batch, run_query, run_read

AGAIN_S = 0.05
"""between attempts to reach a server that does not answer"""


class Shard:
    """A writer and its connection, opened when it is first needed and again when it was lost."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], patience_s: float, limits: Limits,
                 committed: Callable[[], None]) -> None:  # fmt: skip
        self._connect = connect
        self._patience_s = patience_s
        self._connection: Connection | None = None
        self._given_up = False
        self.writer = Writer(
            self._commit,
            operations=limits.queue_operations,
            size=limits.queue_bytes,
            batch_operations=limits.batch_operations,
            batch_bytes=limits.batch_bytes,
            committed=committed,
        )
        self.writer.start()

    async def _commit(self, groups: list[Group]) -> list[list[Any]]:
        """One batch, one transaction: tried again if it was undone for another's sake, or did not reach the server,
        until the deadline."""
        jobs = [(group.op, [write.args for write in group.writes]) for group in groups]
        deadline = asyncio.get_running_loop().time() + self._patience_s
        while True:
            try:
                return await run_batch(await self._open(), jobs)
            except psycopg.Error as error:
                if self._given_up:
                    raise StoreClosed("the store was closed before this was stored") from error
                if not may_be_tried_again(error) or asyncio.get_running_loop().time() > deadline:
                    raise translate(error) from error
                if is_lost(error):
                    await asyncio.sleep(AGAIN_S)

    async def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
        return self._connection

    async def aclose(self, timeout_s: float) -> None:
        """Writes what is queued, for at most so long, then closes."""
        await self.writer.stop(timeout_s, self._give_up)
        if self._connection is not None:
            await self._connection.close()

    def _give_up(self) -> None:
        self._given_up = True
        if self._connection is not None and not self._connection.closed:
            self._connection.cancel()


class PostgresEngine:
    """A store in a schema of a PostgreSQL database: writers, each with a connection, and a pool of readers."""

    fulltext: FullText = FULLTEXT

    def __init__(
        self, target: str, *, durability: Durability, readonly: bool, limits: Limits, timeouts: Timeouts
    ) -> None:
        self._dsn = target
        self.name = _without_secrets(target)
        self.not_open: StoreError = StoreClosed("the store is not open: use `async with store` or `open()`")
        self.readonly = readonly
        self._durability = durability
        self._limits = limits
        self._timeouts = timeouts
        self._unusable: StoreError | None = self.not_open
        self._shards: list[Shard] = []
        self._busy = 0
        self._turn: asyncio.Future[None] | None = None
        self.on_commit: list[Callable[[], None]] = []

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Makes the schema or brings it up to date, and gets the writers and readers ready."""
        self._loop = asyncio.get_running_loop()
        self.on_commit.clear()
        try:
            async with asyncio.timeout(self._timeouts.busy_s):
                connection = await self._connect()
        except TimeoutError:
            raise StoreBusy(f"{self.name} did not answer in time") from None
        except psycopg.Error as error:
            raise translate(error) from error
        try:
            await migrate(connection, readonly=self.readonly)
        except psycopg.Error as error:
            raise translate(error) from error
        finally:
            await connection.close()
        self._readers: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._dsn, kwargs=self._settings(), min_size=1, max_size=self._limits.readers, open=False,
            timeout=self._timeouts.reader_wait_s, name="recollect-readers",
        )  # fmt: skip
        await self._readers.open()
        if not self.readonly:
            patience = self._timeouts.busy_s
            self._shards = [
                Shard(self._connect, patience, self._limits, self._committed) for _ in range(self._limits.writers)
            ]
        self._unusable = None

    async def _connect(self) -> Connection:
        return await psycopg.AsyncConnection.connect(self._dsn, **self._settings())

    def _settings(self) -> dict[str, Any]:
        flush = "on" if self._durability is Durability.COMMIT else "off"
        patience = max(1, int(self._timeouts.busy_s * 1000))
        options = f"-c synchronous_commit={flush} -c lock_timeout={patience}"
        given = conninfo_to_dict(self._dsn).get("options")
        return {
            "autocommit": True,
            "fallback_application_name": "recollect",
            "options": f"{given} {options}" if given else options,
        }

    async def aclose(self, timeout_s: float) -> None:
        """Drains the queues, then closes."""
        if self._unusable:
            return
        self._unusable = StoreClosed("the store is closed")
        await asyncio.gather(*[shard.aclose(timeout_s) for shard in self._shards])
        await self._readers.close()

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
        if session is None:
            return self._alone(op, args, size)
        if self._turn is not None:
            return self._after(self._turn, op, args, session, size)
        return self._shard(session).writer.write(op, args, session, size)

    def gather(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> Awaitable[Any]:
        """The same for one item of a coalescing operation."""
        return self.write(op, item, session=session, size=size)

    def submit(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> asyncio.Future[Any]:
        """The same, queued before it returns, or QueueFull."""
        self._check_writing()
        if self._turn is not None:
            return asyncio.ensure_future(self._after(self._turn, op, (item,), session, size))
        return self._shard(session).writer.submit(op, (item,), session, size)

    def _shard(self, session: str) -> Shard:
        return self._shards[zlib.crc32(session.encode()) % len(self._shards)]

    async def _after(
        self,
        turn: asyncio.Future[None],
        op: Callable[..., Operation[Any]],
        args: Sequence[Any],
        session: str,
        size: int,
    ) -> Any:
        await asyncio.shield(turn)
        return await self.write(op, *args, session=session, size=size)

    async def _alone(self, op: Callable[..., Operation[Any]], args: tuple[Any, ...], size: int) -> Any:
        before, turn = self._turn, self._loop.create_future()
        self._turn = turn
        try:
            if before is not None:
                await asyncio.shield(before)
            await asyncio.gather(*[shard.writer.write(nothing, (), None, 0) for shard in self._shards])
            return await self._shards[0].writer.write(op, args, None, size)
        finally:
            turn.set_result(None)
            if self._turn is turn:
                self._turn = None

    def _committed(self) -> None:
        for notice in self.on_commit:
            notice()

    # -- reading -------------------------------------------------------------------------------

    async def read(self, op: Callable[..., Operation[Any]], *args: Any, deadline_s: float | None = None) -> Any:
        """Runs `op(*args)` on a reader, in one snapshot."""
        return await self._hop(run_read, deadline_s, op, *args)

    async def query(self, sql: str, params: dict[str, Any], *, deadline_s: float) -> list[Row]:
        """The rows of somebody's own SELECT."""
        return await self._hop(run_query, deadline_s, sql, params)

    async def _hop(self, run: Callable[..., Awaitable[Any]], deadline_s: float | None, *args: Any) -> Any:
        self._check()
        try:
            async with self._readers.connection() as connection:
                self._busy += 1
                try:
                    async with asyncio.timeout(deadline_s):
                        return await run(connection, *args)
                finally:
                    self._busy -= 1
        except TimeoutError:
            raise SearchTimeout("the read took longer than its deadline and was stopped") from None
        except PoolTimeout as error:
            raise StoreBusy("all readers were busy, or the server did not answer") from error
        except psycopg.Error as error:
            raise translate(error) from error

    # -- facts ---------------------------------------------------------------------------------

    async def facts(self) -> dict[str, Any]:
        """What the engine knows of itself and its database."""
        rows = await self.query(_SIZES, {}, deadline_s=self._timeouts.search_s)
        writers = [shard.writer for shard in self._shards]
        batches = sum([writer.batches for writer in writers])
        return {
            "writes": sum([writer.writes for writer in writers]),
            "batches": batches,
            "largest_batch": max([writer.largest_batch for writer in writers], default=0),
            "queue_depth": sum([writer.depth for writer in writers]),
            "queue_high_water": max([writer.high_water for writer in writers], default=0),
            "retries": sum([writer.busy for writer in writers]),
            "commit_ms": sum([writer.commit_ms for writer in writers]) / batches if batches else 0.0,
            "readers": self._readers.get_stats().get("pool_size", 0),
            "readers_busy": self._busy,
            "wal_bytes": 0,
            "database_bytes": rows[0].bytes,
            "schema_version": newest(),
            "sqlite_version": "",
            "durability": self._durability.value,
        }


_SIZES = "SELECT pg_database_size(current_database()) AS bytes"


def _without_secrets(dsn: str) -> str:
    given = conninfo_to_dict(dsn)
    place = f"{given.get('host', '')}:{given.get('port', '')}/{given.get('dbname', '')}"
    return f"postgresql://{place}"
