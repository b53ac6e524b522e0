"""The transport's other end: events out of the intake, mapped and prepared, into the events room.

One task writes one batch at a time, so that events are stored in the order of publishing. A batch carries
a claim: when time is over, one that has not begun is taken back, so that what is called unwritten is.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from .access import Access
from .encoding import Encoder, decode_json, moment
from .engine.operation import Operation
from .errors import InvalidQuery, InvalidRecord, StoreBusy, StoreError, StoreFull
from .events.given import EventRow, Recording, prepare
from .events.mapping import EventMapping
from .events.record import record
from .events.typed import Event
from .intake import Entry, Gap, Intake

log = logging.getLogger("recollect")

SLICE = 8
"""events mapped at once on the event loop, in about 0.2 ms; no slower in all than more at once"""
SLICE_BYTES = 64 * 1024
"""the same, where events are large"""

BATCH = 256
"""events of one transaction"""
BATCH_BYTES = 4 * 1024 * 1024
"""the same: beside the buffer, so much is held at most, and one event"""

AGAIN_S = 0.5
"""between tries, while the store is full or another process holds it"""

GAP = "transport.gap"
"""the kind of the records that tell of losses"""

LOOP_ENDED = "its event loop ended"


_decode_event = msgspec.json.Decoder(Event).decode


class _Claim:
    """Who is first: the batch that begins, or who takes it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._revoked = False
        self._begun = False

    def begin(self) -> bool:
        """Called in the transaction, again if it is tried again; whether to go on."""
        with self._lock:
            self._begun = not self._revoked
            return self._begun

    def revoke(self) -> bool:
        """Takes it back; whether that was in time."""
        with self._lock:
            self._revoked = self._revoked or not self._begun
            return self._revoked


def _record(recording: Recording, claim: _Claim) -> Operation[bool]:
    """Records a batch, unless it was taken back before it began."""
    if not claim.begin():
        return False
    yield from record([recording])
    return True


class _Batch:
    """Events on their way into the store, and the losses to tell of with them."""

    def __init__(self, items: Sequence[tuple[Entry, EventRow]], gap: Gap | None) -> None:
        self.items = items
        self.gap = gap
        self.claim = _Claim()
        self.write: asyncio.Future[bool] | None = None

    def divided(self) -> list[_Batch]:
        """Smaller ones in the same order; none of what cannot be divided."""
        if self.gap is not None:
            return [_Batch((), self.gap), _Batch(self.items, None)] if self.items else []
        half = len(self.items) // 2
        return [_Batch(self.items[:half], None), _Batch(self.items[half:], None)] if half else []


class Outlet:
    """Owns the task, and counts what became of the events that it took. All but `orphan` is called on its loop."""

    def __init__(self, access: Access, encoder: Encoder, mapping: EventMapping, intake: Intake) -> None:
        self._access = access
        self._encoder = encoder
        self._map = mapping
        self._intake = intake
        self._batches: deque[_Batch] = deque()
        """taken out and not settled: one, or the parts of one"""
        self._flushing: list[tuple[int, asyncio.Future[None]]] = []
        self._settled = 0
        """number of the event up to which all are written, or lost and counted"""
        self._task: asyncio.Task[None] | None = None
        self._orphaning = threading.Lock()  # two threads may both find that the loop is gone
        self._said: set[str] = set()
        self._over = asyncio.Event()
        self._timers: list[asyncio.TimerHandle] = []
        self.wake = asyncio.Event()
        """set when something was put in"""
        self.room = asyncio.Event()
        """set when something was taken out, or there is no use in waiting for room"""
        self.written = self.skipped = self.unwritten = self.untold = 0
        self.batches = self.retries = self.gaps = 0
        self.state = "new"
        self.error: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is, or will be, room for more."""
        return self.state in ("open", "waiting") and not self._intake.is_closed

    def start(self) -> None:
        """Begins."""
        self.state = "open"
        self._task = asyncio.create_task(self._run(), name="recollect-transport")

    def disable(self, error: BaseException) -> None:
        """Nothing can be stored any more: what waits is given up, and what still comes."""
        self.state, self.error = "disabled", str(error) or type(error).__name__
        self._say("disabled", "a transport stores nothing any more: %s", self.error)
        self._intake.refuse()

    def orphan(self) -> None:
        """Its loop ended before it was closed: nobody is left who could write. From any thread."""
        with self._orphaning:
            if self.state not in ("disabled", "closed"):
                self.state, self.error = "disabled", LOOP_ENDED
            self._lose()
            self._intake.refuse()
        lost = self.unwritten + self._intake.counts().refused
        if lost:
            self._say("disabled", "a transport's event loop ended with %d events unwritten: close it before", lost)

    def forked(self) -> None:
        """In a child process: what was taken out is the parent's to write."""
        self._task = None
        self._orphaning = threading.Lock()
        self._batches.clear()
        self.written = self.skipped = self.unwritten = self.untold = 0
        self.state, self.error = "disabled", "the process was forked: open a store in the child"

    async def finish(self) -> None:
        """Writes what waits, unless `hurry` says otherwise, and ends the task. The intake is closed by now."""
        task = self._task
        if task is not None and task.get_loop() is not asyncio.get_running_loop():
            self.orphan()  # that loop does not run any more
            return
        self.wake.set()
        self.room.set()
        if task is not None:
            await asyncio.wait([task])
        while self._timers:
            self._timers.pop().cancel()
        self._intake.refuse()
        self.state = "closed" if self.state != "disabled" else self.state

    def hurry(self, timeout_s: float) -> None:
        """Lets it end in so many seconds, or when it was to end before, with what is not written then; a commit
        that has begun is waited for."""
        self._timers.append(asyncio.get_running_loop().call_later(timeout_s, self._stop))

    def _stop(self) -> None:
        self._over.set()
        if self._batches and (write := self._batches[0].write) is not None and self._batches[0].claim.revoke():
            write.cancel()

    async def flush(self) -> None:
        """Returns when what was put in before the call was written, or lost and counted."""
        last = self._intake.accepted
        if self._task is None or self._task.done() or self._settled >= last:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushing.append((last, waiter))
        self.wake.set()
        await waiter

    # -- the task ------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while await self._turn():
                pass
        except asyncio.CancelledError:
            self.orphan()
            raise
        except Exception as error:
            log.exception("a transport failed")
            self._lose()
            self.disable(error)
        finally:
            self.room.set()
            self._settle(everybody=True)

    async def _turn(self) -> bool:
        """One batch written, or a rest until there is something to write; False at the end."""
        items = await self._fill()
        gap = self._intake.take_gap()
        if items or gap:
            self._batches.append(_Batch(items, gap))
            await self._write()
        elif not len(self._intake):
            if self._intake.is_closed:
                return False
            self._settle()
            await self.wake.wait()
            self.wake.clear()
        self._settle()
        return self.state != "disabled" and not self._over.is_set()

    async def _fill(self) -> list[tuple[Entry, EventRow]]:
        """The next events as rows; the loop has its turn after each slice."""
        items: list[tuple[Entry, EventRow]] = []
        taken = size = 0
        while taken < BATCH and size < BATCH_BYTES and (entries := self._intake.take(SLICE, SLICE_BYTES)):
            self.room.set()
            taken += len(entries)
            for entry in entries:
                size += len(entry.json)
                if (row := self._row(entry)) is not None:
                    items.append((entry, row))
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.unwritten += len(items)
                raise
        return items

    def _row(self, entry: Entry) -> EventRow | None:
        """What is to be stored of an event; None: nothing, which is counted."""
        try:
            event = _decode_event(entry.json) if entry.is_event else self._map(decode_json(entry.json))
            if event is None:
                self.skipped += 1
                return None
            if event.at is None:
                event = msgspec.structs.replace(event, at=moment(entry.at))
            try:
                return prepare(self._encoder, event)
            except InvalidRecord:
                return prepare(self._encoder, self._as_text(event, entry))
        except Exception as error:  # whatever is in an event, or goes wrong in a mapping, the others go on
            self._reject(entry, error)
            return None

    def _as_text(self, event: Event, entry: Entry) -> Event:
        """An event that cannot be stored as it is, for what is in its payload or names it: as text it can. Where
        texts are redacted, what is in JSON is left out, for there a word may hide behind an escape."""
        payload = {"event": entry.name} if self._encoder.redacts else {"event": entry.name, "json": entry.json.decode()}
        return Event(event.kind, moment(entry.at), text=event.text, payload=payload)

    def _reject(self, entry: Entry, error: Exception) -> None:
        self._intake.reject(entry)
        self._say("rejected", "an event could not be stored (said once): %s", error)

    async def _write(self) -> None:
        """Writes what was taken out, as often as it takes."""
        while self._batches and not self._over.is_set():
            try:
                await self._attempt(self._batches[0])
            except (StoreBusy, StoreFull) as error:
                await self._wait(error)
            except (InvalidRecord, InvalidQuery) as error:
                self._divide(self._batches.popleft(), error)
            except StoreError as error:
                self._lose()
                self.disable(error)
            except asyncio.CancelledError:
                if not self._over.is_set():
                    raise
            else:
                self._count(self._batches.popleft())
        self._lose()

    async def _attempt(self, batch: _Batch) -> None:
        rows = [row for _, row in batch.items]
        if batch.gap is not None:
            self._say("lost", "events were lost (said once): %s", dict(batch.gap.reasons))
            rows.insert(0, self._gap_row(batch.gap))
        recording = Recording(tuple(rows), self._access.user_id)
        batch.claim = _Claim()  # a try that failed has begun; this one has not
        write = self._access.write_any(_record, recording, batch.claim, size=sum(row.size for row in rows))
        batch.write = asyncio.ensure_future(write)
        await batch.write

    def _divide(self, batch: _Batch, error: StoreError) -> None:
        """The database refuses something in it: a trigger of the owner's, perhaps. The others are stored."""
        parts = batch.divided()
        self._batches.extendleft(reversed(parts))
        if parts:
            return
        for entry, _ in batch.items:
            self._reject(entry, error)
        if batch.gap is not None:
            self.untold += batch.gap.lost

    async def _wait(self, error: StoreError) -> None:
        """The store does not take anything now; publishers are not held up, the buffer fills."""
        self.state, self.error = "waiting", str(error)
        self.retries += 1
        self._say("waiting", "a transport waits for the store (said once): %s", error)
        try:
            async with asyncio.timeout(AGAIN_S):
                await self._over.wait()
        except TimeoutError:
            pass

    def _count(self, batch: _Batch) -> None:
        self.written += len(batch.items)
        self.batches += 1
        self.gaps += batch.gap is not None
        self.state, self.error = "open", None

    def _lose(self) -> None:
        """What was taken out is not written."""
        while self._batches:
            batch = self._batches.popleft()
            self.unwritten += len(batch.items)
            if batch.gap is not None:
                self._intake.put_back(batch.gap)

    def _settle(self, *, everybody: bool = False) -> None:
        """Answers those who wait for no more than is done."""
        self._settled = self._intake.first() - 1
        waiting: list[tuple[int, asyncio.Future[None]]] = []
        for last, waiter in self._flushing:
            if waiter.done():
                continue
            if everybody or last <= self._settled:
                waiter.set_result(None)
            else:
                waiting.append((last, waiter))
        self._flushing = waiting

    def _say(self, what: str, message: str, *args: Any) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning(message, *args)

    def _gap_row(self, gap: Gap) -> EventRow:
        told = {
            "lost": gap.lost,
            "reasons": dict(gap.reasons),
            "since": moment(gap.since).isoformat(),
            "until": moment(gap.until).isoformat(),
        }
        try:
            json = self._encoder.json_object({**told, "events": dict(gap.names)}, "payload")
        except Exception:  # names that redact makes equal, or does not take: the numbers are what matters
            json = msgspec.json.encode(told).decode()
        return EventRow(GAP, gap.until, None, None, {"action": "lost", "payload": json}, len(json or ""))
