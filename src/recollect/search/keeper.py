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
from ..errors import (
    NotAStore,
    ReadOnly,
    StoreBusy,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreReplaced,
    WriteUnknown,
    again,
)
from ..options import Limits
from .erase import erase_chunk, purge_step, read_work
from .index import (
    VERSION,
    Damaged,
    Indexed,
    Lag,
    condemn_seen,
    index_chunk,
    merge,
    reset_step,
    too_new,
)

log = logging.getLogger("recollect")

REST_S = 0.25
"""rows gather so long before they are indexed, unless a search asks"""

CHUNK = (64, 64 * 1024)
"""rows and bytes of one turn: about 1.5 ms, which nobody who appends feels"""

MERGE_PAGES, MERGE_STEPS = 16, 64
"""pages of tidying in one turn, and turns of it between two looks at what else there is to do"""

BACKLOG_ROW = 512
"""bytes of text for which a row counts in `Limits.index_backlog`; a longer one counts for several"""

PURGE_PAGES, PURGE_STEPS = 64, 8
"""pages of one turn of a purge, and turns of it between two looks at what else there is to do"""

PURGE_REST = 99
"""for so many times as long as a purge took there is no other"""

UNDECIDED_S = 0.02
"""between looks at rows that others have committed out of order (PostgreSQL)"""

PAUSE_S, BUSY_PAUSE_S = 5.0, 1.0
"""between tries, after an error that may pass"""

_FOR_GOOD = (StoreReplaced, StoreDamaged, NotAStore, ReadOnly)
"""errors that do not pass"""


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
        self._purging: int | None = None
        self._purge_at = 0.0
        self._purge_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._recovering = False
        self._lag = Lag(0, 0, 0, 0)
        self._row_bytes = 0
        self._refusal: StoreError | None = None
        self._stopped: StoreError | None = None
        self._said: str | None = None
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
        if self._alarm is not None:
            self._alarm.cancel()
        await asyncio.wait([self._task])
        self._fail(StoreClosed("the store is closed"))

    async def reach(self, last: int) -> None:
        """Returns when every row up to `last` is indexed. Raises what keeps the keeper from it."""
        if self._stopped:
            raise again(self._stopped)
        if self._task is None or self._task.done():
            raise StoreClosed("the search index is not kept up: the store is read-only or closed")
        if self._refusal:
            if self._lag.has(last):
                return
            raise again(self._refusal)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((last, waiter))
        self._asked.set()
        self._noticed.set()
        await waiter

    async def damaged(self, seen: Damaged) -> None:
        """The index cannot be read: it is made anew, if that has not begun since it was seen so."""
        if await self._write(condemn_seen, seen.watermark, seen.version):
            log.warning("the search index is damaged and is rebuilt: %s", seen.error)
            self.rebuilds += 1
            self._noticed.set()

    # -- the task ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._stopped is None:
            await self._noticed.wait()
            await self._rest()
            self._noticed.clear()
            try:
                await self._work()
                self._said = None
            except IndexDamaged as error:
                await self._recover(error)
            except (StoreClosed, *_FOR_GOOD) as error:
                self._stop(error)
            except WriteUnknown:  # done or not, doing it again is harmless: nobody who waits needs to know
                await asyncio.sleep(BUSY_PAUSE_S)
                self._noticed.set()
            except StoreError as error:
                await self._wait_out(error)
            except Exception as error:
                await self._wait_out(_unexpected(error))

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
        """Indexes before it erases, and looks again after each chunk erased."""
        erasing, purging = True, False
        while erasing:
            self._lag, (erasing, purging) = await self._engine.read(read_work)
            self._settle()
            if self._lag.is_newer:
                self._fail(too_new(self._lag.version))
                return
            if self._lag.is_behind:
                await self._catch_up()
            if erasing:
                await self._write(erase_chunk, self._engine.fulltext)
                self._untidy = True
        if self._untidy:
            await self._tidy()
        if purging or self._purging is not None:
            await self._purge()

    async def _catch_up(self) -> None:
        if self._lag.version < VERSION:
            while not await self._write(reset_step, self._engine.fulltext, self._limits.indexed_bytes):
                pass
            self._lag, _ = await self._engine.read(read_work)
        while self._lag.is_behind:
            lane, rows, size = self._pace(self._lag)
            before = self._lag.watermark
            chunk: Indexed = await self._write(index_chunk, self._engine.fulltext, rows, size, lane=lane)
            self._lag = chunk.lag
            if chunk.lag.is_behind and chunk.lag.watermark <= before:
                await asyncio.sleep(UNDECIDED_S)  # what is next is in a transaction that is still open
            if chunk.rows:
                self._row_bytes = chunk.bytes // chunk.rows
            self._untidy = True
            self._recovering = False
            self._settle()
            if self._lag.is_behind:
                await self._write(merge, self._engine.fulltext, MERGE_PAGES, lane=lane)

    def _pace(self, lag: Lag) -> tuple[Lane, int, int]:
        """Too far behind, every other turn is the keeper's, as long as a batch of appends. In bytes that
        is a guess: that the rows to come are like those of the last chunk."""
        rows = lag.last - lag.watermark
        if max(rows, rows * self._row_bytes // BACKLOG_ROW) <= self._limits.index_backlog:
            return Lane.BACKGROUND, *CHUNK
        rows = max(CHUNK[0], self._limits.batch_operations)
        return Lane.ALTERNATE, rows, rows * CHUNK[1] // CHUNK[0]

    async def _tidy(self) -> None:
        """Merges, until nobody asks; what else there is to do is looked at now and then."""
        for _ in range(MERGE_STEPS):
            if not await self._write(merge, self._engine.fulltext, MERGE_PAGES):
                self._untidy = False
                return
            if self._waiters:
                return

    async def _purge(self) -> None:
        """Some steps of a purge, for at most a hundredth of the time: each rewrites all of the index."""
        loop = asyncio.get_running_loop()
        if self._purging is None and loop.time() < self._purge_at:
            self._wake_at(self._purge_at)
            return
        for _ in range(PURGE_STEPS):
            began = loop.time()
            self._purging = await self._write(purge_step, self._engine.fulltext, PURGE_PAGES, self._purging)
            self._purge_s += loop.time() - began
            if self._purging is None:
                self._purge_at, self._purge_s = loop.time() + PURGE_REST * self._purge_s, 0.0
                return
            if self._waiters:
                return

    def _wake_at(self, time: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(time, self._noticed.set)

    async def _write(self, op: Callable[..., Any], *args: Any, lane: Lane = Lane.BACKGROUND) -> Any:
        return await self._engine.write(op, *args, lane=lane)

    # -- those who wait, and failures ----------------------------------------------------------

    def _settle(self) -> None:
        """Answers those who wait for no more than there is."""
        waiting: list[tuple[int, asyncio.Future[None]]] = []
        for last, waiter in self._waiters:
            if waiter.done():
                continue
            if self._lag.has(last):
                waiter.set_result(None)
            else:
                waiting.append((last, waiter))
        self._waiters = waiting

    def _fail(self, error: StoreError) -> None:
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(again(error))
        self._waiters = []

    async def _recover(self, error: IndexDamaged) -> None:
        """Has the index made anew; if that is what failed, not again at once."""
        if self._recovering:
            await self._wait_out(error)
            return
        self._recovering = True
        try:
            await self.damaged(Damaged(error, self._lag.watermark, self._lag.version))
        except (StoreClosed, *_FOR_GOOD) as refused:
            self._stop(refused)
        except StoreError as refused:
            await self._wait_out(refused)
        except Exception as refused:
            await self._wait_out(_unexpected(refused))
        self._noticed.set()

    async def _wait_out(self, error: StoreError) -> None:
        """The work cannot be done now: whoever waits or comes meanwhile is told; it is tried again later."""
        if str(error) != self._said:
            log.warning("the search index is not kept up for now: %s", error, exc_info=error.__cause__)
        self._said = str(error)
        self._refusal = error
        self._fail(error)
        await asyncio.sleep(BUSY_PAUSE_S if isinstance(error, StoreBusy) else PAUSE_S)
        self._refusal = None
        self._noticed.set()

    def _stop(self, error: StoreError) -> None:
        """Nothing more can be done while the store is open like this."""
        if not isinstance(error, StoreClosed):
            log.error("the search index is not kept up any more: %s", error)
        self._stopped = error
        self._fail(error)


def _unexpected(error: Exception) -> StoreError:
    ours = StoreError(f"the search index is not kept up for now: {error!r}")
    ours.__cause__ = error
    return ours
