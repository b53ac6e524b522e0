"""Watching: what is committed, by whichever process, in the order of commits: replayed from a cursor, then live.

Ids come from one sequence inside the transactions, so their order is that of the commits. One tail per store
reads what is new, once for all watchers, and hands it to their buffers; who is too slow for his buffer, or
comes with an old cursor, reads from the store until he has caught up. So nothing is dropped, and what a
watcher takes in memory is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from .changes import Conditions, Found, Owned, Wanted, number_of, read_changes, read_last
from .engine import Engine
from .errors import StoreBusy, StoreClosed, StoreError, again
from .filters import Filter
from .models import Change

log = logging.getLogger("recollect")

PAGE = 256
"""changes read in one hop"""


POLL_S = 0.1
"""how often the tail looks for what other processes have committed; this one's commits wake it at once"""

TOLD_POLL_S = 1.0
"""the same where those wake it too: a notice may be lost"""

# -- one tail for all ------------------------------------------------------------------------------


class Tail:
    """Reads what is new while somebody watches; one for each store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()  # one that is abandoned is not kept alive
        self.waiting: set[Watch] = set()
        """…but those that somebody waits for are: nothing else may hold a task that waits"""
        self._task: asyncio.Task[None] | None = None
        self._committed = asyncio.Event()
        self.position = 0
        """every change up to this id was handed out"""
        self.closed = False
        engine.on_commit.append(self._committed.set)

    async def aclose(self) -> None:
        """Ends the watches: they give what they have, then end."""
        self.closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._end_all(None)

    async def join(self, watch: Watch) -> int:
        """Hands what is new to this watch from now on; everything up to the id returned it must read itself."""
        if not self._is_running:
            last = await self._engine.read(read_last)
            if self.closed:
                raise again(self._engine.not_open)
            if not self._is_running:  # else another was faster
                self.position = last
                self._task = asyncio.create_task(self._run(), name="recollect-watch")
        self._watches.add(watch)
        return self.position

    @property
    def _is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def leave(self, watch: Watch) -> None:
        """Hands it nothing more; when nobody is left, nothing is read."""
        self._watches.discard(watch)
        if not self._watches and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        try:
            async with self._engine.listening() as told:
                while self._watches:
                    if not await self._turn():
                        await self._rest(TOLD_POLL_S if told else POLL_S)  # holding neither a page nor a watch
        except StoreError as error:
            self._end_all(error)
        except Exception as error:
            log.exception("watching failed")
            failed = StoreError(f"watching failed: {error!r}")
            failed.__cause__ = error
            self._end_all(failed)

    async def _turn(self) -> bool:
        """Hands out a page; whether there is more already."""
        try:
            found: Found = await self._engine.read(read_changes, _EVERYTHING, self.position, None, PAGE)
        except StoreBusy:
            return False
        self.position = found.reached
        for watch in list(self._watches):
            watch.put(found.changes)
        return found.reached < found.last

    async def _rest(self, poll_s: float) -> None:
        try:
            async with asyncio.timeout(poll_s):
                await self._committed.wait()
        except TimeoutError:
            pass
        self._committed.clear()

    def _end_all(self, error: StoreError | None) -> None:
        for watch in list(self._watches):
            watch.end(error)
        self._watches.clear()


_EVERYTHING = Conditions(Filter(), Filter())


# -- a watch ---------------------------------------------------------------------------------------


class Watch:
    """Changes as they are committed: an async iterator, and an async context manager.

    It begins with entering, or with the first change that is asked for, and ends with `aclose()`, leaving,
    or when the store is closed. `cursor` is where it stands: give it to `store.watch(after=…)` to go on
    behind the last change that was taken, also in another process, after a restart. Several tasks may take
    from one watch: each change goes to one of them. Asking for one may be cancelled: it is then still to come.
    """

    def __init__(self, engine: Engine, tail: Tail, wanted: Wanted, after: str | None, buffer: int) -> None:
        self._engine = engine
        self._tail = tail
        self._wanted = wanted
        self._most = buffer
        self._last = None if after is None else number_of(after)
        """every change that it has for us up to this id was taken"""
        self._replay_to: int | None = None
        """up to here it reads from the store; None: from the buffer"""
        self._page: deque[Change] = deque()
        self._page_end = 0
        self._buffer: deque[Change] = deque()
        self._joined = False
        self._turn = asyncio.Lock()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: StoreError | None = None

    @property
    def cursor(self) -> str | None:
        """Where it stands; None before it has begun, unless a cursor was given."""
        if self._last is None:
            return None
        live = self._joined and self._replay_to is None and not self._buffer and not self._page
        return str(max(self._last, self._tail.position) if live else self._last)

    async def __aenter__(self) -> Self:
        async with self._turn:
            if not (self._joined or self._ended or self._buffer):
                await self._join()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends it; `cursor` stays behind what was taken."""
        self._leave()
        self.end(None)
        self._page.clear()
        self._buffer.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        async with self._turn:
            while True:
                if self._page:
                    return self._from_page()
                if self._replay_to is None and self._buffer:
                    return self._from_buffer()
                if self._error is not None:
                    raise again(self._error)
                if self._ended:
                    raise StopAsyncIteration
                try:
                    await self._more()
                except StoreClosed:
                    if not self._tail.closed:
                        raise
                    self.end(None)

    async def _more(self) -> None:
        """Until there is more to give, or something to do for it was done. Cancelled, it has done nothing."""
        if self._replay_to is not None:
            await self._replay(self._replay_to)
        elif not self._joined:
            await self._join()
        else:
            await self._wait()

    def _from_page(self) -> Change:
        change = self._page.popleft()
        self._last = change.id if self._page else self._page_end
        return change

    def _from_buffer(self) -> Change:
        change = self._buffer.popleft()
        self._last = change.id
        return change

    async def _join(self) -> None:
        """From now on what is new comes into the buffer; what lies before is read."""
        if self._last is None:  # the tail may be behind what is committed already
            self._last = await self._engine.read(read_last)
        position = await self._tail.join(self)
        self._joined = True
        if self._ended:
            self._leave()
        elif self._last < position:
            self._replay_to = position

    async def _replay(self, to: int) -> None:
        """One page from the store, up to where the buffer begins."""
        assert self._last is not None
        found: Found = await self._wanted.access.read_any(read_changes, self._wanted.conditions, self._last, to, PAGE)
        if self._ended:
            return
        self._page.extend(change for owner, change in found.changes if self._wanted.has(owner, change))
        self._page_end = found.reached
        if not self._page:
            self._last = found.reached
        if found.reached >= to:
            self._replay_to = None

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        self._tail.waiting.add(self)
        try:
            await self._waiter
        finally:
            self._tail.waiting.discard(self)

    # -- called by the tail ----------------------------------------------------------------------

    def put(self, changes: Iterable[Owned]) -> None:
        """Takes in what is new; if there is no room, it is read again later."""
        assert self._last is not None
        for owner, change in changes:
            if change.id <= self._last or not self._wanted.has(owner, change):
                continue
            if len(self._buffer) >= self._most:
                self._leave()
                break
            self._buffer.append(change)
        if self._buffer:
            self._wake()

    def end(self, error: StoreError | None) -> None:
        """Nothing more will come."""
        self._joined, self._ended, self._error = False, True, error
        self._wake()

    def _leave(self) -> None:
        if self._joined:
            self._joined = False
            self._tail.leave(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
