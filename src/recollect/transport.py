"""The transport: an agent's event stream in, the events room out. Best effort by contract: it never raises
into the agent and never holds it up, and every event it loses is counted, logged once and left in a gap record.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections.abc import AsyncIterable, Coroutine, Sequence
from concurrent import futures
from typing import Any, Protocol, TypeVar

import msgspec

from .access import Access
from .encoding import Encoder
from .errors import InvalidRecord
from .events.mapping import NOISE, EventMapping, map_event
from .events.names import matcher, name_of
from .events.snapshot import Snapshot, snapshot
from .intake import Intake
from .options import Overflow
from .outlet import Outlet

log = logging.getLogger("recollect")


class TransportStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What became of events: published = filtered + late + accepted, and
    accepted = written + skipped + dropped + rejected + unwritten + waiting.
    Gap records tell of dropped + rejected, but for those that `Unwritten.untold` counts."""

    published: int
    filtered: int
    """left out by `exclude` or `only`"""
    late: int
    """after `aclose`"""
    accepted: int
    written: int
    """committed; also those whose dedupe key was there already"""
    skipped: int
    """left out by the mapping"""
    dropped: int
    """for want of room in the buffer"""
    rejected: int
    """could not be stored, whatever was tried: over `Limits.row_bytes`, or refused, or its mapping failed"""
    unwritten: int
    """given up: the store was closed, failed for good, or the time to close was over"""
    waiting: int
    """in the buffer, or on their way into the store"""
    waiting_bytes: int
    high_water: int
    """events in the buffer at once, at most"""
    batches: int
    retries: int
    gaps: int
    """gap records written"""
    state: str
    """`new`, `open`, `waiting` (the store does not take anything now), `disabled` or `closed`"""
    error: str | None
    """why it waits or is disabled"""


class Unwritten(msgspec.Struct, frozen=True):
    """What a transport that was closed could not write; false if that is nothing."""

    events: int
    """accepted and not written"""
    untold: int
    """of those lost before, so many are in no gap record"""
    reason: str | None

    def __bool__(self) -> bool:
        return bool(self.events or self.untold)


class Opener(Protocol):
    """The store, as far as a transport opens and closes it."""

    @property
    def is_open(self) -> bool:
        """Whether it is."""
        ...

    async def open(self) -> Any:
        """Opens it."""
        ...

    async def aclose(self) -> None:
        """Closes it."""
        ...


class TransportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a transport is set up; the meanings are at `store.transport`."""

    mapping: EventMapping = map_event
    exclude: Sequence[str] = NOISE
    only: Sequence[str] | None = None
    bulk: Sequence[str] = NOISE
    buffer: int = 131_072
    buffer_bytes: int = 64 * 1024 * 1024
    overflow: Overflow = Overflow.DROP_OLDEST

    def __post_init__(self) -> None:
        for name in ("buffer", "buffer_bytes"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise InvalidRecord(f"{name} must be a whole number of at least 1, not {value!r}")
        if self.overflow not in list(Overflow):
            raise InvalidRecord(f"overflow must be one of {', '.join(Overflow)}, not {self.overflow!r}")


class EventTransport:
    """Stores what is published; made by `store.transport()`.

    `async with store.transport() as transport:` opens it, and the store if that is not open, which is then
    closed with it. An open that fails disables it: what is published then is counted as unwritten. Closing
    the store closes its transports first.
    """

    def __init__(
        self, access: Access, encoder: Encoder, held: set[EventTransport], opener: Opener, options: TransportOptions,
        close_s: float,
    ) -> None:  # fmt: skip
        overflow = Overflow(options.overflow)
        self._held = held
        self._opener = opener
        self._owns_store = False
        self._excluded = matcher(_several(options.exclude))
        self._only = None if options.only is None else matcher(_several(options.only))
        self._is_bulk = matcher(_several(options.bulk))
        self._intake = Intake(
            events=options.buffer, size=options.buffer_bytes, largest=encoder.row_bytes, overflow=overflow,
            wake=self._notify,
        )  # fmt: skip
        self._outlet = Outlet(access, encoder, options.mapping, self._intake)
        self._waits = overflow is Overflow.BLOCK
        self._close_s = close_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate = asyncio.Lock()  # opening and closing, one after the other
        self._line = asyncio.Lock()  # who waits for room, first come first served
        self._closing: asyncio.Task[Unwritten] | None = None
        self._counting = threading.Lock()  # `+=` of several threads
        self._filtered = 0
        _all.add(self)

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begins to write what was and is published. Opening twice is harmless; once closed, it stays so."""
        async with self._gate:
            if self._outlet.state != "new" or self._intake.is_closed:
                return
            try:
                if not self._opener.is_open:
                    await self._opener.open()
                    self._owns_store = True
            except Exception as error:  # of whatever kind: an agent does not stop for it
                self._outlet.disable(error)
                return
            self._loop = asyncio.get_running_loop()
            self._held.add(self)
            self._outlet.start()

    async def __aenter__(self) -> EventTransport:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self, timeout_s: float | None = None) -> Unwritten:
        """Takes nothing more, and writes what waits for at most `timeout_s` seconds (`Timeouts.close_s`), or, if
        it is in the middle of a commit, until that is done; what could not be written. Closing again returns the
        same, and may only shorten the time."""
        if (away := self._away()) is not None:
            return await _over_there(away, self.aclose(timeout_s))
        seconds = self._close_s if timeout_s is None else timeout_s
        if self._closing is None or self._closing.cancelled():  # cancelled: with the loop it was on
            self._closing = asyncio.create_task(self._close(), name="recollect-transport-close")
        if self._closing.done():
            return self._closing.result()
        self._outlet.hurry(seconds)
        return await asyncio.shield(self._closing)  # whoever is cancelled leaves; the closing goes on to its end

    def _away(self) -> asyncio.AbstractEventLoop | None:
        """Its event loop, if that runs and is another than the caller's."""
        loop = self._loop
        return loop if loop is not None and loop.is_running() and loop is not asyncio.get_running_loop() else None

    async def _close(self) -> Unwritten:
        self._intake.close()
        async with self._gate:
            await self._outlet.finish()
        self._held.discard(self)
        if self._owns_store and self._opener.is_open and self._loop is asyncio.get_running_loop():
            try:
                await self._opener.aclose()
            except Exception:
                log.exception("a transport's store was not closed")
        gap = self._intake.take_gap()
        events = self.statistics().unwritten
        untold = self._outlet.untold + (gap.lost if gap else 0)
        if not events and not untold:
            return Unwritten(0, 0, None)
        reason = self._outlet.error or ("the time to close was over" if self._loop else "it was not opened")
        log.warning("a transport was closed with %d events unwritten, %d losses untold: %s", events, untold, reason)
        return Unwritten(events, untold, reason)

    # -- in ------------------------------------------------------------------------------------

    def publish(self, event: Any) -> None:
        """Takes an event: a mapping, an `Event` or a typed one, or an object with `to_dict()`; as it is now,
        whatever becomes of it afterwards. Any thread; never waits and never raises."""
        if (taken := self._wanted(event)) is not None:
            self._intake.put(taken, bulk=self._is_bulk(taken.name))

    async def send(self, event: Any) -> None:
        """The same from the event loop, which gets its turn; with `Overflow.BLOCK` it waits for room. Cancelled while
        it waits, it takes the event as `publish` does."""
        if not self._waits or self._loop is not asyncio.get_running_loop():
            self.publish(event)
        elif (taken := self._wanted(event)) is not None:
            await self._put_in_turn(taken, self._is_bulk(taken.name))
        await asyncio.sleep(0)

    def _wanted(self, event: Any) -> Snapshot | None:
        """The event as it is now, if it is to be taken. The firehose comes as dicts: it is not encoded in vain."""
        first = type(event) is not dict or self._is_wanted(name_of(event))
        taken = snapshot(event) if first else None
        if taken is not None and (type(event) is dict or self._is_wanted(taken.name)):
            return taken
        with self._counting:
            self._filtered += 1
        return None

    def _is_wanted(self, name: str) -> bool:
        return not self._excluded(name) and (self._only is None or self._only(name))

    async def _put_in_turn(self, taken: Snapshot, bulk: bool) -> None:
        try:
            async with self._line:
                while not self._intake.put(taken, bulk=bulk, waits=self._outlet.is_open):
                    self._outlet.room.clear()
                    await self._outlet.room.wait()
        except asyncio.CancelledError:
            self._intake.put(taken, bulk=bulk)  # who ran for a stream has nobody else who knows of it
            raise

    async def run(self, stream: AsyncIterable[Any]) -> None:
        """Sends what a stream gives, until it ends; what the stream raises is for the caller to see."""
        async for event in stream:
            await self.send(event)

    def sync(self, *, timeout_s: float | None = None) -> SyncTransport:
        """For a synchronous bus: an object with `send(event)` and `close()`, which can itself be called with
        an event. timeout_s: how long `close` on another thread waits (`Timeouts.close_s`)."""
        return SyncTransport(self, self._close_s if timeout_s is None else timeout_s)

    def _notify(self) -> None:
        """Wakes the task, from any thread; before `open` there is none."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._outlet.wake.set)
            except RuntimeError:  # the loop is closed
                self._outlet.orphan()

    # -- state ---------------------------------------------------------------------------------

    async def flush(self) -> TransportStatistics:
        """Returns when everything published before the call is written, or lost and counted; that is, not as
        long as the store is locked or full."""
        if (away := self._away()) is not None:
            return await _over_there(away, self.flush())
        if self._loop is asyncio.get_running_loop():
            await self._outlet.flush()
        return self.statistics()

    def statistics(self) -> TransportStatistics:
        """What became of what was published; taking it changes nothing. The sums are exact at any time."""
        outlet = self._outlet
        written, skipped, unwritten = outlet.written, outlet.skipped, outlet.unwritten
        filtered = self._filtered
        intake = self._intake.counts()  # last: nothing can have been written that is not accepted here
        unwritten += intake.refused
        settled = written + skipped + intake.rejected + unwritten + intake.dropped
        return TransportStatistics(
            published=filtered + intake.late + intake.accepted,
            filtered=filtered,
            late=intake.late,
            accepted=intake.accepted,
            written=written,
            skipped=skipped,
            dropped=intake.dropped,
            rejected=intake.rejected,
            unwritten=unwritten,
            waiting=intake.accepted - settled,
            waiting_bytes=intake.bytes,
            high_water=intake.high_water,
            batches=outlet.batches,
            retries=outlet.retries,
            gaps=outlet.gaps,
            state=outlet.state,
            error=outlet.error,
        )

    # -- for those who are not on its loop -----------------------------------------------------

    def forked(self) -> None:
        """In a child process nobody writes, and locks may be held by threads that are not there: it is disabled."""
        self._loop = self._closing = None
        self._gate, self._counting = asyncio.Lock(), threading.Lock()
        self._intake.forked()
        self._outlet.forked()

    def close_from_outside(self, timeout_s: float) -> None:
        """Closes it and waits for that, or, on its own event loop, sees to it that it closes. Never raises."""
        loop = self._loop
        self._intake.close()  # what comes behind this call is late, whenever the loop comes to it
        if loop is None or loop.is_closed():
            return
        closing = self.aclose(timeout_s)
        try:
            if _running_loop() is loop:
                _kept.add(task := loop.create_task(closing))
                task.add_done_callback(_kept.discard)
                return
            _await_on(loop, asyncio.run_coroutine_threadsafe(closing, loop), timeout_s + _GRACE_S)
        except Exception as error:
            closing.close()
            log.warning("a transport was not closed: %r", error)


_all: weakref.WeakSet[EventTransport] = weakref.WeakSet()


def _mark_forked() -> None:
    for transport in list(_all):
        transport.forked()


os.register_at_fork(after_in_child=_mark_forked)

T = TypeVar("T")


async def _over_there(loop: asyncio.AbstractEventLoop, call: Coroutine[Any, Any, T]) -> T:
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, loop))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _await_on(loop: asyncio.AbstractEventLoop, call: futures.Future[Any], timeout_s: float) -> None:
    """Waits in steps, for a loop that is closed meanwhile answers nobody and says nothing."""
    end = time.monotonic() + timeout_s
    while not futures.wait([call], min(_STEP_S, max(0.0, end - time.monotonic()))).done:
        if loop.is_closed() or time.monotonic() >= end:
            log.warning("a transport is not closed yet: its event loop does not come to it")
            return


_STEP_S = 0.1
_GRACE_S = 1.0
"""for the loop to come to it, beyond the time to close"""

_kept: set[asyncio.Task[Any]] = set()
"""closings that nobody awaits: an event loop itself does not keep its tasks"""


class SyncTransport:
    """A transport as a synchronous bus wants it: `send` and `close`, or a callable."""

    def __init__(self, transport: EventTransport, timeout_s: float) -> None:
        self._transport = transport
        self._timeout_s = timeout_s

    def send(self, event: Any) -> None:
        """Publishes the event; never waits and never raises."""
        self._transport.publish(event)

    __call__ = send

    def close(self) -> None:
        """Closes the transport. On another thread than that of its event loop it waits until that is done, for
        about `timeout_s` at most; on the loop's own it cannot, and the transport closes behind it. Never raises."""
        self._transport.close_from_outside(self._timeout_s)


def _several(patterns: str | Sequence[str]) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns
