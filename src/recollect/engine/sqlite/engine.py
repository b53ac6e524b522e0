"""The SQLite engine: operations in, through the writer's batches or a reader's hop, results out."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ...errors import (
    ForkedStore,
    InvalidRecord,
    ReadOnly,
    StoreClosed,
    StoreDamaged,
    StoreError,
    WriteUnknown,
    WrongLoop,
    again,
)
from ...models import Row
from ...options import Durability, Limits, Timeouts
from .. import forking
from ..fulltext import FullText
from ..operation import Operation
from ..writer import Group, Lane, Writer
from .backup import Work, attended, back_up
from .connect import MEMORY, Connector
from .faults import is_busy, is_of_driver, is_sticky, translate
from .fulltext import FULLTEXT
from .guarded import GuardedFile
from .lockfile import Claim, busy
from .migrate import newest
from .readers import Readers
from .run import Request, run_batch, run_query, run_read
from .thread import ThreadedConnection, connect
from .upkeep import read_integrity, tidy

log = logging.getLogger("recollect")

GRACE_S = 0.5
"""what a thread is given to answer by itself, beyond a deadline that it knows"""


class SqliteEngine:
    """One database file (or one in memory): a writer, its readers, and what guards them."""

    fulltext: FullText = FULLTEXT
    guards_rows = False

    def __init__(
        self, target: str, *, durability: Durability, readonly: bool, limits: Limits, timeouts: Timeouts,
        connector: Connector | None,
    ) -> None:  # fmt: skip
        self.name = target
        self.not_open: StoreError = StoreClosed("the store is not open: use `async with store` or `open()`")
        self.readonly = readonly
        self._path = MEMORY if target == MEMORY else _absolute(target)
        self._durability = durability
        self._limits = limits
        self._timeouts = timeouts
        self._connector = connector or sqlite3.connect
        self._unusable: StoreError | None = self.not_open
        self._refusal: StoreError | None = None
        self._file = self._guarded()
        self._give_up: Callable[[StoreError], None] = _nothing
        self._connection: ThreadedConnection | None = None
        self._requests: dict[asyncio.Future[Any], Request] = {}
        self._checkpoint: tuple[int, int, int] | None = None
        self.on_commit: list[Callable[[], None]] = []

    def _guarded(self) -> GuardedFile:
        return GuardedFile(
            self._path,
            self._connector,
            durability=self._durability,
            checkpoint_pages=self._limits.wal_checkpoint_pages,
            patience_s=self._timeouts.busy_s,
        )

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens the writer (schema made or brought up to date) and gets the readers ready."""
        self._loop = asyncio.get_running_loop()
        self._refusal = ReadOnly(_READONLY) if self.readonly else None
        self.on_commit.clear()
        file = self._guarded()
        connector = file.open_readonly if self.readonly else file.open_for_writing
        try:
            async with asyncio.timeout(self._timeouts.busy_s + GRACE_S):
                self._connection = await connect(connector, late=file.discard)
        except TimeoutError:
            raise busy(self._path) from None
        self._file = file
        if not self.readonly:
            self._start_writer()
        self._readers = Readers(lambda: connect(file.open_reader), self._limits.readers, self._timeouts.reader_wait_s)
        self._unusable = None
        forking.opened(self)

    def _start_writer(self) -> None:
        self._writer = Writer(
            self._commit,
            operations=self._limits.queue_operations,
            size=self._limits.queue_bytes,
            batch_operations=self._limits.batch_operations,
            batch_bytes=self._limits.batch_bytes,
            committed=self._committed,
        )
        self._writer.start()

    async def aclose(self, timeout_s: float) -> None:
        """Drains the queue, then closes: readers first, for the writer's close checkpoints."""
        if self._unusable:
            return
        self._unusable = StoreClosed("the store is closed")
        self._readers.refuse()
        deadline = self._loop.time() + timeout_s
        try:
            if not self.readonly:
                await self._writer.stop(timeout_s, lambda: self._give_up(_CLOSED_FIRST))
            await self._end_reads(deadline)
            await self._readers.aclose(GRACE_S)
        finally:
            forking.closed(self)
            await self._close_writer(deadline)

    async def _end_reads(self, deadline: float) -> None:
        """Lets reads end until the deadline, then stops them; their readers close when they come back."""
        if self._requests:
            await asyncio.wait(list(self._requests), timeout=max(0.0, deadline - self._loop.time()))
        for request in self._requests.values():
            request.cancelled = True
        if self._requests:
            await asyncio.wait(list(self._requests), timeout=GRACE_S)

    async def _close_writer(self, deadline: float) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        closing = connection.submit(_close, self._file)
        _, late = await asyncio.wait([closing], timeout=max(GRACE_S, deadline - self._loop.time()))
        connection.abandon()
        if late:  # nothing is lost: what was acknowledged is stored, and the thread closes the file when it can
            log.warning("closing %s takes long; it is closed when the disk, or who holds it, is done", self._path)
            closing.add_done_callback(_retrieve)
            return
        closing.result()

    def _check(self) -> None:
        if self._unusable:
            raise again(self._unusable)
        try:
            if asyncio.get_running_loop() is self._loop:
                return
        except RuntimeError:
            pass
        raise WrongLoop("this store belongs to another event loop: open one per loop, and call it on that loop")

    def _check_writing(self) -> None:
        self._check()
        if self._refusal:
            raise again(self._refusal)

    def forked(self, error: ForkedStore) -> None:
        """Refuses from now on; called in the child of a fork."""
        if self._unusable is None:
            self._unusable = error
            self._file.discard()  # or the child would hold the lock when the parent is gone

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
        self._check_writing()
        return self._writer.write(op, args, session, size, lane)

    def gather(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> Awaitable[Any]:
        """The same for one item of a coalescing operation: the hot path, so without ceremony."""
        if self._unusable or self._refusal or asyncio.get_running_loop() is not self._loop:
            self._check_writing()
        return self._writer.write(op, (item,), session, size)

    def submit(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> asyncio.Future[Any]:
        """The same, queued before it returns, or QueueFull."""
        self._check_writing()
        return self._writer.submit(op, (item,), session, size)

    async def _commit(self, groups: list[Group]) -> list[list[Any]]:
        """One batch, one hop. At the deadline a batch that has not begun is taken back."""
        connection = self._connection
        assert connection is not None
        if self._refusal:
            raise again(self._refusal)
        claim = Claim(self._timeouts.busy_s)
        jobs = [(group.op, [write.args for write in group.writes]) for group in groups]
        hop = connection.submit(self._batch, claim, jobs)

        def give_up(why: StoreError | None = None) -> None:
            if claim.settle() and not hop.done():
                hop.set_exception(again(why) if why else busy(self._path))

        self._give_up = give_up
        timer = self._loop.call_later(self._timeouts.busy_s + GRACE_S, give_up)
        try:
            return await hop
        except StoreError as error:
            self._refuse_after(error)
            raise
        finally:
            timer.cancel()
            self._give_up = _nothing

    def _refuse_after(self, error: StoreError) -> None:
        """Sticky: nothing is written any more to a file that is damaged, replaced, or of which the system
        may have dropped what it could not flush."""
        if isinstance(error, WriteUnknown):
            self._refusal = StoreDamaged("flushing to the disk failed: close the store, check the disk, reopen")
        elif is_sticky(error):
            self._refusal = error

    def _batch(self, connection: sqlite3.Connection, claim: Claim, jobs: list[Any]) -> list[list[Any]]:
        with self._file.held():
            _begin(connection, claim, self._path)
            return run_batch(connection, jobs)

    def _committed(self) -> None:
        for notice in self.on_commit:
            notice()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[bool]:
        """A file tells nobody what other processes write to it."""
        yield False

    # -- reading -------------------------------------------------------------------------------

    async def read(self, op: Callable[..., Operation[Any]], *args: Any, deadline_s: float | None = None) -> Any:
        """Runs `op(*args)` on a reader, in one hop and one snapshot. A cancelled caller is let go at
        once; its query stops within a few thousand of SQLite's steps."""
        return await self._hop(run_read, self._request(deadline_s), op, *args)

    async def query(self, sql: str, params: dict[str, Any], *, deadline_s: float) -> list[Row]:
        """The rows of somebody's own SELECT."""
        return await self._hop(run_query, self._request(deadline_s), sql, params)

    def _request(self, deadline_s: float | None) -> Request:
        return Request(deadline_s, self._timeouts.busy_s, writes_otherwise=self._path == MEMORY)

    async def _hop(self, run: Callable[..., Any], request: Request, *args: Any) -> Any:
        self._check()
        if self._path == MEMORY:
            connection = self._connection
            assert connection is not None
            hop = connection.submit(run, request, *args)
        else:
            hop = await self._readers.run(run, request, *args)
        self._requests[hop] = request
        hop.add_done_callback(self._requests.pop)
        try:
            return await asyncio.shield(hop)
        except asyncio.CancelledError:
            request.cancelled = True
            hop.add_done_callback(_retrieve)
            raise

    # -- upkeep --------------------------------------------------------------------------------

    async def integrity(self) -> list[str]:
        """What is wrong with the file's structure; the reader that looks holds a snapshot as long as it takes."""
        return await self._hop(read_integrity, self._request(None))

    async def tidy(self, *, vacuum: bool = False) -> bool:
        """Tidies between two batches: statistics, an empty log; `vacuum` writes the file anew, and holds writing up.
        Whether the log is empty: it is not as long as somebody reads what was before."""
        self._check_writing()
        connection = self._connection
        assert connection is not None
        busy, log, moved = await asyncio.shield(connection.submit(self._tidied, vacuum))
        self._checkpoint = busy, log, moved
        return not busy

    def _tidied(self, connection: sqlite3.Connection, vacuum: bool) -> tuple[int, int, int]:
        with self._file.held():
            return tidy(connection, vacuum)

    async def backup(self, path: str, progress: Callable[[int, int], object] | None, *, replace: bool = True) -> None:
        """Writes a copy of one moment to a file; see `backup.py`."""
        self._check()
        request, closed = self._request(None), lambda: self._unusable is not None
        work = Work(path, request, closed, progress, connector=self._connector, replace=replace)
        task = asyncio.ensure_future(back_up(self._file, self._connection, work))
        self._requests[task] = request
        task.add_done_callback(self._requests.pop)
        await attended(task, work)

    # -- facts ---------------------------------------------------------------------------------

    async def facts(self) -> dict[str, Any]:
        """What the engine knows of itself and its files."""
        wal_bytes, database_bytes, version = await self._hop(_measure, self._request(None), self._file.path)
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
            "checkpoint": self._checkpoint,
            "database_bytes": database_bytes,
            "schema_version": newest(),
            "sqlite_version": version,
            "postgres_version": "",
            "horizon_stalled_s": 0.0,
            "durability": self._durability.value,
        }


_CLOSED_FIRST = StoreClosed("the store was closed before this was stored")
_READONLY = "the store was opened with readonly=True; not stored"


def _absolute(target: str) -> str:
    try:
        if "\x00" in target:
            raise ValueError("it has a NUL in it")
        return str(Path(target).expanduser().absolute())
    except (RuntimeError, ValueError) as error:
        raise InvalidRecord(f"{target!r} is no path: {error}") from None


def _begin(connection: sqlite3.Connection, claim: Claim, path: str) -> None:
    """BEGIN IMMEDIATE, with patience: SQLite waits in short steps, between which the claim is seen."""
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except Exception as error:
            if not is_of_driver(error):
                raise
            if not is_busy(error):
                raise translate(error) from error
            if claim.is_open:
                continue
            raise busy(path) from error
        if claim.settle():
            return
        connection.execute("ROLLBACK")
        raise busy(path)


def _close(connection: sqlite3.Connection, file: GuardedFile) -> None:
    file.close(connection)


def _measure(connection: sqlite3.Connection, _: Request, path: str) -> tuple[int, int, str]:
    """Bytes of the write-ahead log and of the database, and SQLite's version, asked on its thread."""
    (version,) = connection.execute("SELECT sqlite_version()").fetchone()
    if path != MEMORY:
        return _size(path + "-wal"), _size(path), version
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return 0, pages * size, version


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _retrieve(hop: asyncio.Future[Any]) -> None:
    if not hop.cancelled():
        hop.exception()


def _nothing(_: StoreError) -> None:
    """Nothing to give up."""
