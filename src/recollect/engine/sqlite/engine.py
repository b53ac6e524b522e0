"""The SQLite engine: operations in, through the writer's batches or a reader's hop, results out."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ...errors import (
    ForkedStore,
    ReadOnly,
    SchemaTooNew,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreReplaced,
    WrongLoop,
)
from ...models import Row
from ...options import Durability, Limits, Timeouts
from ..fulltext import FullText
from ..operation import Operation
from ..writer import Group, Lane, Writer
from .connect import MEMORY, Connector, open_reader, open_writer, prepare, require_file
from .faults import is_busy, translate
from .fulltext import FULLTEXT
from .identity import Identity
from .lockfile import Claim, LockFile, busy
from .migrate import check_version, newest
from .readers import Readers
from .run import Request, run_batch, run_query, run_read
from .thread import ThreadedConnection, connect

_open_engines: weakref.WeakSet[SqliteEngine] = weakref.WeakSet()


def _mark_forked() -> None:
    for engine in _open_engines:
        engine._forked()  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_mark_forked)


class SqliteEngine:
    """One database file (or one in memory): a writer, its readers, and what guards them."""

    fulltext: FullText = FULLTEXT

    def __init__(
        self, target: str, *, durability: Durability, readonly: bool, limits: Limits, timeouts: Timeouts,
        connector: Connector | None,
    ) -> None:  # fmt: skip
        self.name = target
        self.not_open: StoreError = StoreClosed("the store is not open: use `async with store` or `open()`")
        self.path = target if target == MEMORY else str(Path(target).expanduser().absolute())
        self.readonly = readonly
        self._durability = durability
        self._limits = limits
        self._timeouts = timeouts
        self._connector = connector or sqlite3.connect
        self._unusable: StoreError | None = self.not_open
        self._refusal: StoreError | None = ReadOnly(_READONLY) if readonly else None
        self._lock: LockFile | None = None
        self._identity: Identity | None = None
        self._give_up: Callable[[], None] = _nothing
        self._connection: ThreadedConnection | None = None
        self._reads: weakref.WeakSet[asyncio.Future[Any]] = weakref.WeakSet()
        self.on_commit: list[Callable[[], None]] = []

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens the writer (schema made or brought up to date) and gets the readers ready."""
        self._loop = asyncio.get_running_loop()
        self._refusal = ReadOnly(_READONLY) if self.readonly else None
        self.on_commit.clear()
        connector = self._open_readonly if self.readonly else self._open_for_writing
        try:
            async with asyncio.timeout(self._timeouts.busy_s + 1):
                self._connection = await connect(connector)
        except TimeoutError:
            raise busy(self.path) from None
        if not self.readonly:
            self._writer = Writer(
                self._commit,
                operations=self._limits.queue_operations,
                size=self._limits.queue_bytes,
                batch_operations=self._limits.batch_operations,
                batch_bytes=self._limits.batch_bytes,
                committed=self._committed,
            )
            self._writer.start()
        self._readers = Readers(self._connect_reader, self._limits.readers, self._timeouts.reader_wait_s)
        self._unusable = None
        _open_engines.add(self)

    def _open_for_writing(self) -> sqlite3.Connection:
        if self.path == MEMORY:
            return self._open_writer()
        prepare(Path(self.path))
        lock = LockFile(self.path + ".lock")
        try:
            with lock.held():
                connection = self._open_writer()
        except BaseException:
            lock.close()
            raise
        self._lock = lock
        self._identity = Identity(self.path)
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        return open_writer(
            self._connector,
            self.path,
            durability=self._durability,
            checkpoint_pages=self._limits.wal_checkpoint_pages,
            patience_s=self._timeouts.busy_s,
        )

    def _open_readonly(self) -> sqlite3.Connection:
        require_file(self.path)
        connection = open_reader(self._connector, self.path)
        try:
            check_version(connection)
        except SchemaTooNew:
            connection.close()
            raise
        return connection

    async def _connect_reader(self) -> ThreadedConnection:
        return await connect(self._open_reader)

    def _open_reader(self) -> sqlite3.Connection:
        """A reader of the file that was opened first: another one in its place is not read."""
        if self._identity:
            self._identity.check()
        connection = open_reader(self._connector, self.path)
        try:
            if self._identity:
                self._identity.check()
        except StoreReplaced:
            connection.close()
            raise
        return connection

    async def aclose(self, timeout_s: float) -> None:
        """Drains the queue, then closes: readers first, for the writer's close checkpoints."""
        if self._unusable:
            return
        self._unusable = StoreClosed("the store is closed")
        if not self.readonly:
            await self._writer.stop(timeout_s, lambda: self._give_up())
        if self._reads:
            await asyncio.wait(list(self._reads), timeout=timeout_s)
        await self._readers.aclose()
        await self._close_writer()

    async def _close_writer(self) -> None:
        connection, lock = self._connection, self._lock
        assert connection is not None
        closing = connection.submit(_close, lock)
        _, late = await asyncio.wait([closing], timeout=self._timeouts.busy_s)
        connection.abandon()
        self._connection = None
        _open_engines.discard(self)
        if late:
            raise busy(self.path)

    def _check(self) -> None:
        if self._unusable:
            raise self._unusable
        try:
            if asyncio.get_running_loop() is self._loop:
                return
        except RuntimeError:
            pass
        raise WrongLoop("this store belongs to another event loop: open one per loop, and call it on that loop")

    def _forked(self) -> None:
        if self._unusable is None:
            self._unusable = ForkedStore(
                "the process was forked while this store was open: open a new one in the child"
            )

    # -- writing -------------------------------------------------------------------------------

    def write(
        self,
        op: Callable[..., Operation[Any]],
        *args: Any,
        session: str | None = None,
        size: int = 256,
        lane: Lane = Lane.FOREGROUND,
    ) -> Awaitable[Any]:
        """Runs `op(*args)` in the next batch; to be awaited for its result, which comes after COMMIT.

        `session` names the one session it touches (None: any, so that nothing passes it), `size` is
        what it holds in the queue, in bytes.
        """
        self._check()
        if self._refusal:
            raise self._refusal
        return self._writer.write(op, args, session, size, lane)

    def gather(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> Awaitable[Any]:
        """The same for one item of a coalescing operation: the hot path, so without ceremony."""
        if self._unusable or self._refusal or asyncio.get_running_loop() is not self._loop:
            self._check()
            raise self._refusal or self.not_open
        return self._writer.write(op, (item,), session, size)

    def submit(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> asyncio.Future[Any]:
        """The same, queued before it returns, or QueueFull."""
        self._check()
        if self._refusal:
            raise self._refusal
        return self._writer.submit(op, (item,), session, size)

    async def _commit(self, groups: list[Group]) -> list[list[Any]]:
        """One batch, one hop. At the deadline a batch that has not begun is taken back."""
        connection = self._connection
        assert connection is not None
        if self._refusal:
            raise self._refusal
        claim = Claim(self._timeouts.busy_s)
        jobs = [(group.op, [write.args for write in group.writes]) for group in groups]
        hop = connection.submit(self._batch, claim, jobs)

        def give_up() -> None:
            if claim.settle() and not hop.done():
                hop.set_exception(busy(self.path))

        self._give_up = give_up
        timer = self._loop.call_later(self._timeouts.busy_s, give_up)
        try:
            return await hop
        except (StoreDamaged, StoreReplaced) as error:
            self._refusal = error  # sticky: nothing is written to such a file any more
            raise
        finally:
            timer.cancel()
            self._give_up = _nothing

    def _batch(self, connection: sqlite3.Connection, claim: Claim, jobs: list[Any]) -> list[list[Any]]:
        if self._lock is None:
            _begin(connection, claim, self.path)
            return run_batch(connection, jobs)
        with self._lock.held():
            assert self._identity is not None
            self._identity.check()
            _begin(connection, claim, self.path)
            outcomes = run_batch(connection, jobs)
            self._identity.learn_wal()
            return outcomes

    def _committed(self) -> None:
        for notice in self.on_commit:
            notice()

    # -- reading -------------------------------------------------------------------------------

    async def read(self, op: Callable[..., Operation[Any]], *args: Any, deadline_s: float | None = None) -> Any:
        """Runs `op(*args)` on a reader, in one hop and one snapshot. A cancelled caller is let go at
        once; its query stops within a few thousand of SQLite's steps."""
        request = Request(deadline_s, self.path == MEMORY)
        return await self._hop(run_read, request, op, *args, request=request)

    async def query(self, sql: str, params: dict[str, Any], *, deadline_s: float) -> list[Row]:
        """The rows of somebody's own SELECT."""
        request = Request(deadline_s, self.path == MEMORY)
        return await self._hop(run_query, request, sql, params, request=request)

    async def _hop(self, run: Callable[..., Any], *args: Any, request: Request | None = None) -> Any:
        self._check()
        if self.path == MEMORY:
            connection = self._connection
            assert connection is not None
            hop = connection.submit(run, *args)
        else:
            hop = await self._readers.run(run, *args)
        self._reads.add(hop)
        try:
            return await asyncio.shield(hop)
        except asyncio.CancelledError:
            if request:
                request.cancelled = True
            hop.add_done_callback(_retrieve)
            raise

    # -- facts ---------------------------------------------------------------------------------

    async def facts(self) -> dict[str, Any]:
        """What the engine knows of itself and its files."""
        wal_bytes, database_bytes = await self._hop(_sizes, self.path)
        writer = None if self.readonly else self._writer
        return {
            "writes": writer.writes if writer else 0,
            "batches": writer.batches if writer else 0,
            "largest_batch": writer.largest_batch if writer else 0,
            "queue_depth": writer.depth if writer else 0,
            "queue_high_water": writer.high_water if writer else 0,
            "retries": writer.busy if writer else 0,
            "commit_ms": writer.commit_ms / writer.batches if writer and writer.batches else 0.0,
            "readers": self._readers.opened,
            "readers_busy": self._readers.busy,
            "wal_bytes": wal_bytes,
            "database_bytes": database_bytes,
            "schema_version": newest(),
            "sqlite_version": sqlite3.sqlite_version,
            "durability": self._durability.value,
        }


_READONLY = "the store was opened with readonly=True; not stored"


def _begin(connection: sqlite3.Connection, claim: Claim, path: str) -> None:
    """BEGIN IMMEDIATE, with patience: SQLite waits in short steps, between which the claim is seen."""
    while claim.is_open:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise translate(error) from error
            continue
        if claim.settle():
            return
        connection.execute("ROLLBACK")
        break
    raise busy(path)


def _close(connection: sqlite3.Connection, lock: LockFile | None) -> None:
    if lock is None:
        connection.close()
        return
    with lock.held():  # the last connection checkpoints when it closes
        connection.close()
    lock.close()


def _sizes(connection: sqlite3.Connection, path: str) -> tuple[int, int]:
    """Bytes of the write-ahead log and of the database; asked on a connection's thread."""
    if path != MEMORY:
        return _size(path + "-wal"), _size(path)
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return 0, pages * size


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _retrieve(hop: asyncio.Future[Any]) -> None:
    if not hop.cancelled():
        hop.exception()


def _nothing() -> None:
    """Nothing to give up."""
