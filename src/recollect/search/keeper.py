"""The keeper: keeps the search index up behind the writes, and erases what was deleted.

A task of the store's. It wakes when something was committed, rests a moment so that rows gather,
and works on the background lane in short chunks; a search that needs the index now hurries it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ..engine import Engine
from ..engine.fulltext import IndexDamaged
from ..engine.writer import Lane
from ..errors import StoreBusy, StoreClosed, StoreError
from ..options import Limits
from .index import VERSION, Lag, condemn, erase_chunk, index_chunk, merge, read_work, reset_step

log = logging.getLogger("recollect")

REST_S = 0.25
"""rows gather so long before they are indexed, unless a search asks"""

CHUNK = (64, 64 * 1024)
"""rows and bytes of one turn: about 1.5 ms, which nobody who appends feels"""

MERGE_PAGES = 16
"""pages of tidying in one turn"""


class Keeper:
    """Owns the task and those who wait for it."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self._noticed = asyncio.Event()
        self._asked = asyncio.Event()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._untidy = True
        self._recovering = False
        self.rebuilds = 0

    def start(self) -> None:
        """Begins; the first look finds what an earlier process left to do."""
        self._engine.on_commit.append(self._noticed.set)
        self._noticed.set()
        self._task = asyncio.create_task(self._run(), name="recollect-keeper")

    async def aclose(self) -> None:
        """Ends the task; what it had not come to is done after the next open."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        self._fail(StoreClosed("the store is closed"))

    async def reach(self, last: int) -> None:
        """Returns when every row up to `last` is indexed. Raises what keeps the keeper from it."""
        if self._task is None or self._task.done():
            raise StoreClosed("the search index is not kept up: the store is read-only or closed")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((last, waiter))
        self._asked.set()
        self._noticed.set()
        await waiter

    async def damaged(self, error: IndexDamaged) -> None:
        """The index cannot be read: it is made anew."""
        log.warning("the search index is damaged and is rebuilt: %s", error)
        self.rebuilds += 1
        await self._write(condemn)
        self._noticed.set()

    # -- the task ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._noticed.wait()
            await self._rest()
            self._noticed.clear()
            try:
                await self._work()
            except IndexDamaged as error:
                await self._recover(error)
            except StoreClosed as error:
                self._fail(error)
                return
            except StoreError as error:
                await self._wait_out(error)
            except Exception as error:
                log.exception("the keeper died; the search index is not kept up any more")
                self._fail(StoreClosed(f"the search index is not kept up: its task died ({error!r})"))
                return

    async def _rest(self) -> None:
        if self._waiters:
            return
        self._asked.clear()
        try:
            async with asyncio.timeout(REST_S):
                await self._asked.wait()
        except TimeoutError:
            pass

    async def _work(self) -> None:
        lag, erasing = await self._engine.read(read_work)
        if lag.is_behind:
            await self._catch_up(lag)
        self._settle(lag.watermark if not lag.is_behind else -1)
        while erasing:
            erasing = await self._write(erase_chunk, self._engine.fulltext)
            self._untidy = True
        if self._untidy:
            await self._tidy()

    async def _catch_up(self, lag: Lag) -> None:
        while lag.version < VERSION:
            if await self._write(reset_step, self._engine.fulltext, self._limits.indexed_bytes):
                break
        while True:
            lane, rows, size = self._pace(lag)
            lag = await self._write(index_chunk, self._engine.fulltext, rows, size, lane=lane)
            self._untidy = True
            self._recovering = False
            self._settle(lag.watermark)
            if not lag.is_behind:
                return
            await self._write(merge, self._engine.fulltext, MERGE_PAGES, lane=lane)

    def _pace(self, lag: Lag) -> tuple[Lane, int, int]:
        """Too far behind, every other turn is the keeper's, as long as a batch of appends."""
        if lag.last - lag.watermark <= self._limits.index_backlog:
            return Lane.BACKGROUND, *CHUNK
        rows = max(CHUNK[0], self._limits.batch_operations)
        return Lane.ALTERNATE, rows, rows * CHUNK[1] // CHUNK[0]

    async def _tidy(self) -> None:
        """Merges while nothing new was committed and nobody asks."""
        while await self._write(merge, self._engine.fulltext, MERGE_PAGES):
            if self._waiters:
                return
            await asyncio.sleep(0)
        self._untidy = False

    async def _write(self, op: Callable[..., Any], *args: Any, lane: Lane = Lane.BACKGROUND) -> Any:
        return await self._engine.write(op, *args, lane=lane)

    def _settle(self, watermark: int) -> None:
        """Answers those who wait for no more than this."""
        waiting: list[tuple[int, asyncio.Future[None]]] = []
        for last, waiter in self._waiters:
            if waiter.done():
                continue
            if last <= watermark:
                waiter.set_result(None)
            else:
                waiting.append((last, waiter))
        self._waiters = waiting

    def _fail(self, error: StoreError) -> None:
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(type(error)(*error.args))
        self._waiters = []

    async def _recover(self, error: IndexDamaged) -> None:
        """Has the index made anew; if that is what failed, not again at once."""
        if self._recovering:
            await self._wait_out(error)
            return
        self._recovering = True
        try:
            await self.damaged(error)
        except StoreError as refused:
            await self._wait_out(refused)

    async def _wait_out(self, error: StoreError) -> None:
        """The store cannot be written now: whoever waits is told, the work is tried again later."""
        log.warning("the search index is not kept up for now: %s", error)
        self._fail(error)
        await asyncio.sleep(1.0 if isinstance(error, StoreBusy) else 5.0)
        self._noticed.set()
