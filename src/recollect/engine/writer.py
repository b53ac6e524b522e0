"""The single writer: a queue of writes in, batches out to the engine, results back after COMMIT.

Knows no SQL and no engine. Rooms put writes in (`write` waits for room, `submit` does not); one
task drains the queue, without a linger timer: a batch is whatever queued up while the previous one
was committing. A result reaches its caller only when the batch it was in is committed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import IntEnum
from itertools import chain
from typing import Any

import msgspec

from ..errors import QueueFull, StoreBusy, StoreClosed, StoreError, WriteUnknown, again
from .operation import Failed, coalesces

log = logging.getLogger("recollect")

TURN_S = 0.05
"""A background write that waited this long gets its turn also while the foreground is busy."""


class Lane(IntEnum):
    """Who is served first."""

    FOREGROUND = 0
    BACKGROUND = 1
    """runs when the foreground is empty, or has waited TURN_S"""
    ALTERNATE = 2
    """background work that is too far behind: every other turn is its"""


class Write(msgspec.Struct, gc=False):
    """One operation on its way to a commit."""

    op: Callable[..., Any]
    args: tuple[Any, ...]
    session: str | None
    size: int
    future: asyncio.Future[Any]
    queued: float = 0.0
    """monotonic seconds, of a background write"""


class Batch:
    """Writes that were queued together, and what is known of them without looking at each."""

    __slots__ = ("op", "size", "writes")

    def __init__(self, op: Callable[..., Any] | None = None) -> None:
        self.writes: list[Write] = []
        self.size = 0
        self.op = op
        """the operation of all of them; None if they differ"""

    def groups(self) -> list[Group]:
        """What is to be done for the writes of callers who were not cancelled by now."""
        self.writes = [write for write in self.writes if not write.future.done()]
        if self.op is not None and self.writes and coalesces(self.op):
            return [Group(self.op, self.writes)]
        return grouped(self.writes)


class Group:
    """Writes of one batch that are done by one operation: a single one, or one kind coalesced."""

    __slots__ = ("op", "writes")

    def __init__(self, op: Callable[..., Any], writes: list[Write]) -> None:
        self.op = op
        self.writes = writes


Commit = Callable[[list[Group]], Awaitable[list[list[Any]]]]


def grouped(writes: list[Write]) -> list[Group]:
    """Gathers writes of one kind, adjacent or not, as long as no two of a session change places.

    A write without a session may touch any: nothing moves across it.
    """
    groups: list[Group] = []
    open_group: dict[Any, int] = {}
    last_of: dict[str, int] = {}
    barrier = -1
    for write in writes:
        gathers = coalesces(write.op)
        at = open_group.get(write.op, -1) if gathers else -1
        earliest = len(groups) - 1 if write.session is None else last_of.get(write.session, 0)
        if at < max(earliest, barrier, 0):
            at = len(groups)
            groups.append(Group(write.op, [write]))
            if gathers:
                open_group[write.op] = at
        else:
            groups[at].writes.append(write)
        if write.session is None:
            barrier = at
        else:
            last_of[write.session] = at
    return groups


class Writer:
    """Owns the queue and the task that drains it.

    What is queued are batches: a write joins the last one while there is room in it, so that the
    queue is touched once per batch.
    """

    def __init__(
        self,
        commit: Commit,
        *,
        operations: int,
        size: int,
        batch_operations: int,
        batch_bytes: int,
        committed: Callable[[], None],
    ) -> None:
        self._commit = commit
        self._committed = committed
        self._most_operations = operations
        self._most_bytes = size
        self._batch_operations = batch_operations
        self._batch_bytes = batch_bytes
        self._queue: asyncio.Queue[Batch] = asyncio.Queue()
        self._filling: Batch | None = None
        self._background: deque[Write] = deque()
        self._alternate: deque[Write] = deque()
        self._waiters: deque[Write] = deque()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._closed: StoreError | None = None
        self._current = Batch()
        self._background_last = False
        self._stopping = False
        self.operations = 0
        self.bytes = 0
        self.writes = 0
        self.batches = 0
        self.largest_batch = 0
        self.high_water = 0
        self.busy = 0
        self.commit_ms = 0.0

    def start(self) -> None:
        """Begins to drain the queue."""
        self._task = asyncio.create_task(self._run(), name="recollect-writer")

    # -- in ------------------------------------------------------------------------------------

    def write(
        self,
        op: Callable[..., Any],
        args: tuple[Any, ...],
        session: str | None,
        size: int,
        lane: Lane = Lane.FOREGROUND,
    ) -> asyncio.Future[Any]:
        """Queues a write, or puts it in line for room; the future has the result once committed."""
        if self._closed:
            raise again(self._closed)
        write = Write(op, args, session, size, self._loop.create_future())
        if lane is not Lane.FOREGROUND:
            self._put_background(write, lane)
        elif self._waiters or not self._has_room(size):  # nobody overtakes
            self._waiters.append(write)
        else:
            self._put(write)
        return write.future

    def submit(
        self, op: Callable[..., Any], args: tuple[Any, ...], session: str | None, size: int
    ) -> asyncio.Future[Any]:
        """Queues a write now or raises QueueFull; the future has the result once committed."""
        if self._closed:
            raise again(self._closed)
        if self._waiters or not self._has_room(size):
            raise QueueFull(f"{self.operations} writes ({self.bytes} bytes) are waiting, others for room; not stored")
        write = Write(op, args, session, size, self._loop.create_future())
        self._put(write)
        return write.future

    def _put(self, write: Write) -> None:
        batch = self._filling
        if batch is None or len(batch.writes) >= self._batch_operations or batch.size >= self._batch_bytes:
            batch = self._filling = Batch(write.op)
            self._queue.put_nowait(batch)
        elif batch.op is not write.op:
            batch.op = None
        batch.writes.append(write)
        batch.size += write.size
        self.operations += 1
        self.bytes += write.size

    def _put_background(self, write: Write, lane: Lane) -> None:
        write.queued = time.monotonic()
        (self._alternate if lane is Lane.ALTERNATE else self._background).append(write)
        self._queue.put_nowait(Batch())  # wakes the task; carries nothing

    def _has_room(self, size: int) -> bool:
        if self.operations == 0:
            return True
        return self.operations < self._most_operations and self.bytes + size <= self._most_bytes

    def _admit(self) -> None:
        """Queues those who wait for room, first come first served."""
        while self._waiters and (self._waiters[0].future.done() or self._has_room(self._waiters[0].size)):
            write = self._waiters.popleft()
            if not write.future.done():
                self._put(write)

    # -- out -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not (self._stopping and self._is_empty()):
                await self._turn(await self._next())
        except asyncio.CancelledError:
            self._answer_all(self._current.writes, WriteUnknown("the event loop ended during the commit"))
            self._fail_all(StoreClosed("the event loop ended before this was stored"))
            raise
        except BaseException as error:
            log.exception("the writer died; the store takes no more writes")
            died = StoreClosed(f"the writer died ({type(error).__name__}); not stored")
            died.__cause__ = error
            self._answer_all(self._current.writes, WriteUnknown(f"the writer died ({type(error).__name__})"))
            self._fail_all(died)
            raise

    async def _next(self) -> Batch:
        """The writes of the next turn; a background write goes alone."""
        if (self._background or self._alternate) and self._queue.empty():
            # Those whose results were just set have not run yet: what they write next comes first.
            await asyncio.sleep(0)
        background = self._due()
        if background is None and self._background and self._queue.empty():
            background = self._background.popleft()
        if background is not None:
            self._background_last = True
            alone = Batch(background.op)
            alone.writes.append(background)
            return alone
        return self._take(await self._queue.get())

    def _due(self) -> Write | None:
        if self._alternate and (self._queue.empty() or not self._background_last):
            return self._alternate.popleft()
        if self._background and time.monotonic() - self._background[0].queued >= TURN_S:
            return self._background.popleft()
        return None

    def _take(self, batch: Batch) -> Batch:
        """A batch off the queue; what it took of the queue's room goes to those who wait."""
        if batch is self._filling:
            self._filling = None
        if batch.writes:
            self._background_last = False
            self.high_water = max(self.high_water, self.operations)  # it grows until something is taken
            self.operations -= len(batch.writes)
            self.bytes -= batch.size
            self._admit()
        return batch

    async def _turn(self, batch: Batch) -> None:
        groups = batch.groups()
        if not groups:
            return
        self._current = batch
        began = time.perf_counter()
        try:
            outcomes = await self._commit(groups)
        except StoreError as error:
            self.busy += isinstance(error, StoreBusy)
            self._answer_all(batch.writes, error)
        else:
            self.commit_ms += (time.perf_counter() - began) * 1000
            self._count(len(batch.writes))
            for group, results in zip(groups, outcomes, strict=True):
                _answer(group.writes, results)
            self._committed()
        self._current = Batch()

    def _count(self, writes: int) -> None:
        self.batches += 1
        self.writes += writes
        self.largest_batch = max(self.largest_batch, writes)

    def _answer_all(self, writes: Iterable[Write], error: StoreError) -> None:
        for write in writes:
            if not write.future.done():
                write.future.set_exception(again(error))

    def _fail_all(self, error: StoreError) -> None:
        """Fails the batch at hand and everything that waits, and all later calls."""
        self.refuse(error)
        self._answer_all(self._current.writes, error)
        self._fail_queued(error)

    def _fail_queued(self, error: StoreError) -> None:
        batches = [self._queue.get_nowait().writes for _ in range(self._queue.qsize())]
        self._answer_all([*self._background, *self._alternate, *chain.from_iterable(batches)], error)
        self._background.clear()
        self._alternate.clear()
        self._filling = None
        self.operations = self.bytes = 0
        self._queue.put_nowait(Batch())  # the task may be waiting for one

    # -- end -----------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Writes waiting, those that wait for room included."""
        return self.operations + len(self._waiters)

    def refuse(self, error: StoreError) -> None:
        """Takes nothing more: later calls raise `error`. What is queued is still written."""
        self._closed = self._closed or error
        self._answer_all(self._waiters, error)
        self._waiters.clear()

    async def stop(self, timeout_s: float, give_up: Callable[[], None]) -> None:
        """Writes what is queued, for at most `timeout_s`; what is left then fails as not stored.

        `give_up` tells the engine that a commit that still waits for the database is not worth it;
        one that has begun is waited for, so that nobody is told "not stored" of something stored.
        """
        self.refuse(StoreClosed("the store is closed; not stored"))
        self._stopping = True
        self._queue.put_nowait(Batch())
        if self._task is None:
            return
        _, late = await asyncio.wait([self._task], timeout=timeout_s)
        if late:
            give_up()
            self._fail_queued(StoreClosed("the store was closed before this was stored"))
            await asyncio.wait([self._task])

    def _is_empty(self) -> bool:
        return self._queue.empty() and not self._background and not self._alternate

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or is being committed."""
        return self._is_empty() and not self._waiters and not self._current.writes


def _answer(writes: Sequence[Write], results: Sequence[Any]) -> None:
    for write, result in zip(writes, results, strict=True):
        future = write.future
        if future.done():
            continue  # the caller was cancelled meanwhile: it is stored, nobody asks
        if type(result) is Failed:
            future.set_exception(result.error)
        else:
            future.set_result(result)
