"""The event bus: `publish` from any thread in, bounded streams of events out.

Each subscriber has a buffer of its own and is served on its own event loop; a slow one loses events by the
policy it chose, counts them, and holds up nobody.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from anyio import ClosedResourceError, EndOfStream
from anyio.abc import ObjectReceiveStream

from .errors import InvalidRecord
from .events.names import matcher, name_of
from .options import Overflow


class BusStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a bus has seen."""

    published: int
    late: int
    """published after the bus was closed: nobody got them"""
    dropped: int
    """by all subscribers together, those that have left included"""
    subscribers: int


class Subscription(ObjectReceiveStream[Any]):
    """Events of a bus, in the order of publishing; an async iterator, and an async context manager.

    It begins with entering and ends with leaving, or when the bus is closed and the buffer is empty. Several tasks
    may take from one: each event goes to one of them.
    """

    def __init__(self, bus: EventBus, patterns: Sequence[str], buffer: int, overflow: Overflow) -> None:
        self._bus = bus
        self._matches = matcher(patterns) if patterns else None
        self._most = buffer
        self._overflow = overflow
        self._buffer: deque[Any] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._closed = False
        self._in_a_row = 0
        self.dropped = 0
        """events this subscriber lost"""

    async def __aenter__(self) -> Subscription:
        if self._loop is not None:
            raise RuntimeError("a subscription is entered once: subscribe again")
        self._loop = asyncio.get_running_loop()
        self._bus._enter(self)  # pyright: ignore[reportPrivateUsage]
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except EndOfStream:
            raise StopAsyncIteration from None
        except ClosedResourceError:
            if self._loop is None:
                raise
            raise StopAsyncIteration from None  # it was left while this waited

    async def receive(self) -> Any:
        """The next event. Raises `anyio.EndOfStream` when the bus was closed, `anyio.ClosedResourceError`
        when this was."""
        if self._closed or self._loop is None:
            raise ClosedResourceError
        while True:
            with self._bus.lock:
                if self._buffer and self._in_a_row < _IN_A_ROW:
                    self._in_a_row += 1
                    return self._buffer.popleft()
                waiter = self._waiter_of(self._loop)
            self._in_a_row = 0
            # several may wait, and one that is cancelled takes nothing from the others; without a waiter it is the
            # turn of the loop, before anything is taken out that a cancellation could lose
            await (asyncio.sleep(0) if waiter is None else asyncio.shield(waiter))
            if self._closed:  # pyright: ignore[reportUnnecessaryComparison] -- meanwhile
                raise ClosedResourceError

    def _waiter_of(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
        if self._buffer:
            return None
        if self._ended:
            raise EndOfStream
        if self._waiter is None or self._waiter.done():
            self._waiter = loop.create_future()
        return self._waiter

    async def aclose(self) -> None:
        """Leaves the bus; what is in the buffer is not seen any more."""
        self._closed = True
        self._bus._leave(self)  # pyright: ignore[reportPrivateUsage]

    # -- called by the bus, holding its lock -----------------------------------------------------

    def put(self, name: str, event: Any) -> bool:
        """Takes an event in, or drops one; False if nobody is left who could ask for it."""
        if self._matches is not None and not self._matches(name):
            return True
        if len(self._buffer) >= self._most:
            if self._loop is None or self._loop.is_closed():
                return False  # left without leaving
            self.dropped += 1
            self._bus.dropped += 1
            if self._overflow is Overflow.DROP_NEWEST:
                return True
            self._buffer.popleft()
        self._buffer.append(event)
        return self._wake()

    def end(self) -> None:
        """No more events will come."""
        self._ended = True
        self._wake()

    def _wake(self) -> bool:
        waiter, loop = self._waiter, self._loop
        if waiter is None or loop is None:
            return True
        self._waiter = None  # one wake-up, however many events come until it is heard
        try:
            loop.call_soon_threadsafe(_answer, waiter)
        except RuntimeError:  # its loop is closed
            return False
        return True


_IN_A_ROW = 32
"""events taken without waiting, until other tasks of the loop have their turn"""


class EventBus:
    """Publishes events, of whatever type, to subscribers on any event loop.

    A mapping is copied when it is published; what is nested in it is not, so do not change it afterwards.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """held for every delivery: all subscribers see the same order; reentrant, for a finalizer or a signal
        handler may publish in the middle of a call"""
        self._subscriptions: list[Subscription] = []
        self._closed = False
        self._published = 0
        self._late = 0
        self.dropped = 0

    def publish(self, event: Any) -> None:
        """Gives the event to everybody whose patterns match; never waits and never raises. Any thread."""
        name = name_of(event)
        copy = _copied(event)
        with self.lock:
            self._published += 1
            self._late += self._closed
            gone = [each for each in self._subscriptions if not each.put(name, copy)]
            for subscription in gone:
                self._leave(subscription)

    def subscribe(self, *patterns: str, buffer: int = 1_024, overflow: Overflow = Overflow.DROP_OLDEST) -> Subscription:
        """Events whose name (`event`, `type` or `kind`) matches one of the globs; none: all events.

        `async with bus.subscribe("tool_*") as events:` then `async for event in events:`. buffer: events held
        for a subscriber who is slow. overflow: which then goes, the oldest or the newest; both are counted.
        """
        if type(buffer) is not int or buffer < 1:
            raise InvalidRecord(f"buffer must be a whole number of at least 1, not {buffer!r}")
        if overflow not in (Overflow.DROP_OLDEST, Overflow.DROP_NEWEST):
            raise InvalidRecord(f"overflow must be drop_oldest or drop_newest, not {overflow!r}: nobody waits here")
        return Subscription(self, patterns, buffer, Overflow(overflow))

    async def aclose(self) -> None:
        """Takes nothing more; subscribers get what is in their buffers, then their streams end."""
        with self.lock:
            self._closed = True
            for subscription in self._subscriptions:
                subscription.end()
            self._subscriptions = []

    async def __aenter__(self) -> EventBus:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def statistics(self) -> BusStatistics:
        """What it has seen so far."""
        with self.lock:
            return BusStatistics(
                published=self._published, late=self._late, dropped=self.dropped, subscribers=len(self._subscriptions)
            )

    def _enter(self, subscription: Subscription) -> None:
        with self.lock:
            if self._closed:
                subscription.end()
            else:
                self._subscriptions = [*self._subscriptions, subscription]

    def _leave(self, subscription: Subscription) -> None:
        with self.lock:
            # a new list: one that is being gone through stays as it is
            self._subscriptions = [each for each in self._subscriptions if each is not subscription]
            subscription.end()


def _copied(event: Any) -> Any:
    try:
        return dict(event) if isinstance(event, Mapping) else event
    except Exception:
        return event  # a mapping that cannot be read: who gets it finds out


def _answer(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
