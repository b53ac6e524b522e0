"""The transport's intake: events from any thread in, a bounded buffer, events in order out.

A full buffer drops by policy, bulk events before any other; what was dropped is counted until a gap record
tells of it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from .events.snapshot import Snapshot
from .options import Overflow

NAMES = 32
"""names of events that a gap record counts one by one"""


class Entry(NamedTuple):
    """An event as it waits."""

    number: int
    """1, 2, 3… in the order of publishing"""
    name: str
    json: bytes
    at: int
    """milliseconds UTC, when it was published"""
    is_event: bool
    """an `Event` already, which no mapping is to look at"""


class Gap:
    """Events that were lost since the last gap record: how many, why, and of what names."""

    def __init__(self) -> None:
        self.lost = 0
        self.reasons: Counter[str] = Counter()
        self.names: Counter[str] = Counter()
        self.since = 0
        self.until = 0

    def add(self, reason: str, name: str, at: int) -> None:
        """One more."""
        self.lost += 1
        self.reasons[reason] += 1
        self.names[name if name in self.names or len(self.names) < NAMES else "…"] += 1
        self.since = min(self.since or at, at)
        self.until = max(self.until, at)

    def merge(self, other: Gap) -> None:
        """Those of another one too."""
        self.lost += other.lost
        self.reasons += other.reasons
        for name, n in other.names.items():
            self.names[name if name in self.names or len(self.names) < NAMES else "…"] += n
        self.since = min(self.since or other.since, other.since or self.since)
        self.until = max(self.until, other.until)


class Intaken(NamedTuple):
    """What became of events at the intake, all of one moment."""

    accepted: int
    late: int
    dropped: int
    rejected: int
    refused: int
    high_water: int
    bytes: int


class Intake:
    """The buffer. Every method may be called from any thread.

    events, size: what it holds at most; one event larger than `size` is taken if it is alone. largest: bytes of
    an event that could still be stored. wake: called, on the publisher's thread, when the first event comes
    after `take` gave none.
    """

    def __init__(
        self, *, events: int, size: int, largest: int, overflow: Overflow, wake: Callable[[], None]
    ) -> None:  # fmt: skip
        self._most_events = events
        self._most_bytes = size
        self._largest = largest
        self._overflow = overflow
        self._wake = wake
        # guards all below; reentrant, for a finalizer or a signal handler may publish in the middle of a call
        self._lock = threading.RLock()
        self._control: deque[Entry] = deque()
        self._bulk: deque[Entry] = deque()
        self._bulk_bytes = 0
        self._bytes = 0
        self._gap = Gap()
        self._noticed = True  # whoever takes out is at work: nobody needs to wake it
        self._closed = False
        self._refuses = False
        self._accepted = self._late = self._dropped = self._rejected = self._refused = self._high_water = 0

    def __len__(self) -> int:
        return len(self._control) + len(self._bulk)

    @property
    def is_closed(self) -> bool:
        """Whether what comes is late."""
        return self._closed

    @property
    def accepted(self) -> int:
        """The number of the last event that came."""
        return self._accepted

    # -- in ------------------------------------------------------------------------------------

    def put(self, taken: Snapshot, *, bulk: bool, waits: bool = False) -> bool:
        """Takes an event in, or drops one, and counts it. With `waits`, nothing is done where something would
        have to be dropped: that alone is False."""
        at = time.time_ns() // 1_000_000
        with self._lock:
            if self._closed:
                self._late += 1
                return True
            if waits and not self._refuses and not self._fits(taken):
                return False
            self._accepted += 1
            if self._refuses:
                self._refused += 1
                return True
            self._place(Entry(self._accepted, taken.name, taken.json, at, taken.is_event), bulk)
            wake, self._noticed = not self._noticed, True
        if wake:
            self._wake()
        return True

    def _fits(self, taken: Snapshot) -> bool:
        """Whether nothing is dropped for it. What is too large needs no room."""
        return len(taken.json) > self._largest or self._has_room(len(taken.json), len(self), self._bytes)

    def _place(self, entry: Entry, bulk: bool) -> None:
        size = len(entry.json)
        if size > self._largest:  # it would drive others out for nothing
            self._rejected += 1
            self._gap.add("rejected", entry.name, entry.at)
            return
        if not self._make_room(size, bulk):
            self._drop(entry)
            return
        (self._bulk if bulk else self._control).append(entry)
        self._bytes += size
        self._bulk_bytes += size if bulk else 0
        self._high_water = max(self._high_water, len(self))

    def _has_room(self, size: int, waiting: int, held: int) -> bool:
        return waiting == 0 or (waiting < self._most_events and held + size <= self._most_bytes)

    def _make_room(self, size: int, bulk: bool) -> bool:
        """Drops what the policy says; nothing, and False, where that would not be enough."""
        if self._has_room(size, len(self), self._bytes):
            return True
        oldest = self._overflow is Overflow.DROP_OLDEST
        if oldest and not bulk:
            pass  # everything there is may go
        elif (bulk and not oldest) or not self._has_room(size, len(self._control), self._bytes - self._bulk_bytes):
            return False
        while not self._has_room(size, len(self), self._bytes):
            queue = self._bulk or self._control
            entry = queue.popleft() if oldest else queue.pop()
            self._forget(entry, queue)
            self._drop(entry)
        return True

    def _forget(self, entry: Entry, queue: deque[Entry]) -> None:
        self._bytes -= len(entry.json)
        self._bulk_bytes -= len(entry.json) if queue is self._bulk else 0

    def _drop(self, entry: Entry) -> None:
        self._dropped += 1
        self._gap.add("dropped", entry.name, entry.at)

    # -- out -----------------------------------------------------------------------------------

    def take(self, n: int, size: int) -> list[Entry]:
        """The next events in the order of publishing, at most `n`, and no more behind that which reaches `size`
        bytes. If there are none, the next `put` wakes."""
        taken: list[Entry] = []
        with self._lock:
            while len(self) and len(taken) < n and size > 0:
                taken.append(self._pop_first())
                size -= len(taken[-1].json)
            self._noticed = bool(taken)
        return taken

    def _pop_first(self) -> Entry:
        control, bulk = self._control, self._bulk
        queue = control if control and not (bulk and bulk[0].number < control[0].number) else bulk
        entry = queue.popleft()
        self._forget(entry, queue)
        return entry

    def first(self) -> int:
        """The number of the first event that waits; if none does, that of the next to come."""
        with self._lock:
            return min([queue[0].number for queue in (self._control, self._bulk) if queue] or [self._accepted + 1])

    def reject(self, entry: Entry) -> None:
        """An event that was taken out cannot be stored: it is counted, and belongs into the gap record."""
        with self._lock:
            self._rejected += 1
            self._gap.add("rejected", entry.name, entry.at)

    def take_gap(self) -> Gap | None:
        """What was lost since the last time, if anything was."""
        with self._lock:
            gap, self._gap = self._gap, Gap()
            return gap if gap.lost else None

    def put_back(self, gap: Gap) -> None:
        """The gap could not be recorded: it is told with the next."""
        with self._lock:
            self._gap.merge(gap)

    # -- end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Takes nothing more; what waits stays."""
        with self._lock:
            self._closed = True

    def forked(self) -> None:
        """In a child process: what waits is the parent's to write, what comes is given up."""
        self._lock = threading.RLock()
        self._gap = Gap()
        self._accepted = self._late = self._dropped = self._rejected = self._refused = 0
        self.refuse()
        self._refused = 0

    def refuse(self) -> None:
        """Gives up what waits, and what still comes."""
        with self._lock:
            self._refuses = True
            self._refused += len(self)
            self._control.clear()
            self._bulk.clear()
            self._bytes = self._bulk_bytes = 0

    def counts(self) -> Intaken:
        """What became of what came."""
        with self._lock:
            return Intaken(
                self._accepted, self._late, self._dropped, self._rejected, self._refused, self._high_water, self._bytes
            )
