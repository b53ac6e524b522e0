"""The order of calls across shards: each session's are one shard's, and what may touch any session runs alone.

Such a write is a crossing that all must clear: it begins when all is committed that was called before it, and what is
called after it waits in one line until it is committed. Who is in the line is handed on in order, at once and before
anybody else, so that no two calls on a session change places.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...errors import QueueFull, StoreError, again
from ...options import Limits
from .shard import Shard


class _Call(NamedTuple):
    """A write in the line."""

    op: Callable[..., Any]
    args: tuple[Any, ...]
    session: str | None
    size: int
    future: asyncio.Future[Any]


class Crossing:
    """Hands writes on to the shards. At most so many calls, and bytes, that do not wait for room
    stand in line."""

    def __init__(self, shards: Sequence[Shard], limits: Limits) -> None:
        self._shards = shards
        self._limits = limits
        self._line: deque[_Call] = deque()
        self._alone: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def write(
        self, op: Callable[..., Any], args: tuple[Any, ...], session: str | None, size: int
    ) -> asyncio.Future[Any]:  # fmt: skip
        """Queues a write; the future has the result once committed."""
        if self._alone is None and session is not None:
            return self._shard(session).writer.write(op, args, session, size)
        return self._stand_in_line(op, args, session, size)

    def submit(self, op: Callable[..., Any], args: tuple[Any, ...], session: str, size: int) -> asyncio.Future[Any]:
        """The same, queued before it returns; or QueueFull."""
        if self._alone is None:
            return self._shard(session).writer.submit(op, args, session, size)
        waiting = sum([call.size for call in self._line])
        if len(self._line) >= self._limits.queue_operations or waiting + size > self._limits.queue_bytes:
            raise QueueFull(f"{self.depth} writes ({waiting} bytes) wait for one that may touch any; not stored")
        return self._stand_in_line(op, args, session, size)

    @property
    def depth(self) -> int:
        """Writes in line."""
        return len(self._line)

    async def drain(self, timeout_s: float) -> None:
        """Returns when the line is empty, or after so long; nobody is to join it any more."""
        end = self._loop.time() + timeout_s
        while self._alone is not None and (left := end - self._loop.time()) > 0:
            await asyncio.wait([self._alone], timeout=left)

    def _shard(self, session: str) -> Shard:
        return self._shards[zlib.crc32(session.encode()) % len(self._shards)]

    def _stand_in_line(
        self, op: Callable[..., Any], args: tuple[Any, ...], session: str | None, size: int
    ) -> asyncio.Future[Any]:
        call = _Call(op, args, session, size, self._loop.create_future())
        self._line.append(call)
        self._advance()
        return call.future

    def _advance(self) -> None:
        """Hands on whoever nothing is in the way of."""
        while self._line and self._alone is None:
            call = self._line.popleft()
            if call.future.done():
                continue  # cancelled in line
            if call.session is None:
                self._alone = asyncio.create_task(self._run_alone(call), name="recollect-alone")
            else:
                self._hand_on(call, self._shard(call.session))

    def _hand_on(self, call: _Call, shard: Shard) -> asyncio.Future[Any] | None:
        try:
            inner = shard.writer.write(call.op, call.args, call.session, call.size)
        except StoreError as error:
            call.future.set_exception(again(error))
            return None
        inner.add_done_callback(lambda _: _relay(inner, call.future))
        call.future.add_done_callback(lambda _: inner.cancel())
        return inner

    async def _run_alone(self, call: _Call) -> None:
        try:
            await asyncio.gather(*[shard.drained() for shard in self._shards])
            if not call.future.done() and (inner := self._hand_on(call, self._shards[0])):
                await asyncio.wait([inner])
                await self._shards[0].drained()  # a call that was cancelled may be on its way all the same
        except StoreError as error:
            if not call.future.done():
                call.future.set_exception(again(error))
        finally:
            self._alone = None
            self._advance()


def _relay(inner: asyncio.Future[Any], outer: asyncio.Future[Any]) -> None:
    if outer.done():
        if not inner.cancelled():
            inner.exception()  # nobody asks
    elif inner.cancelled():
        outer.cancel()
    elif (error := inner.exception()) is not None:
        outer.set_exception(error)
    else:
        outer.set_result(inner.result())
