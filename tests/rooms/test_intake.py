"""The transport's buffer: which events it holds, in which order they come out, and that it knows of each one it lost."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import Overflow
from recollect.events.snapshot import Snapshot
from recollect.intake import NAMES, Entry, Gap, Intake

POLICIES = list(Overflow)
LARGEST = 100


def intake(overflow: Overflow, events: int = 1_000, size: int = 1_000_000, wake: Any = lambda: None) -> Intake:
    return Intake(events=events, size=size, largest=LARGEST, overflow=overflow, wake=wake)


def of(size: int, name: str = "x") -> Snapshot:
    return Snapshot(name, b"x" * size, False)


class Model:
    """The same as plain lists: what waits as (number, bulk, size), and what was lost."""

    def __init__(self, overflow: Overflow, events: int, size: int) -> None:
        self.oldest, self.events, self.size = overflow is Overflow.DROP_OLDEST, events, size
        self.waiting: list[tuple[int, bool, int]] = []
        self.lost: list[int] = []
        self.rejected: list[int] = []

    def fits(self, waiting: list[tuple[int, bool, int]], size: int) -> bool:
        return not waiting or (len(waiting) < self.events and sum(each[2] for each in waiting) + size <= self.size)

    def victims(self, bulk: bool) -> list[tuple[int, bool, int]]:
        """Who goes for one that comes, in that order."""
        bulks = [each for each in self.waiting if each[1]]
        controls = [each for each in self.waiting if not each[1]]
        if self.oldest:
            return bulks if bulk else bulks + controls
        return [] if bulk else bulks[::-1]

    def put(self, number: int, bulk: bool, size: int) -> None:
        if size > LARGEST:
            self.rejected.append(number)
            return
        victims = self.victims(bulk)
        for n in range(len(victims) + 1):
            left = [each for each in self.waiting if each not in victims[:n]]
            if self.fits(left, size):
                self.lost += [each[0] for each in victims[:n]]
                self.waiting = [*left, (number, bulk, size)]
                return
        self.lost.append(number)

    def take(self, n: int, size: int) -> list[int]:
        taken: list[int] = []
        while self.waiting and len(taken) < n and size > 0:
            number, _, held = self.waiting.pop(0)
            taken.append(number)
            size -= held
        return taken


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.booleans(), st.sampled_from([1, 2, 5, 10, 40, 101])),
        st.tuples(st.just("take"), st.integers(1, 4), st.sampled_from([1, 8, 1_000])),
        st.tuples(st.just("gap"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("overflow", POLICIES)
@settings(deadline=None, derandomize=True)
@given(steps=STEPS, events=st.integers(1, 8), size=st.sampled_from([1, 12, 50, 1_000]))
def test_what_is_dropped_is_what_the_policy_says(
    overflow: Overflow, steps: list[tuple[str, Any, int]], events: int, size: int
):
    """Against plain lists, for bounds in number and in bytes: what waits and in which order, what was dropped, and
    that gap records tell of each loss once."""
    buffer, model = intake(overflow, events, size), Model(overflow, events, size)
    number = told = 0
    for step, one, other in steps:
        if step == "put":
            number += 1
            assert buffer.put(of(other, str(number)), bulk=one)
            model.put(number, one, other)
        elif step == "take":
            assert [entry.number for entry in buffer.take(one, other)] == model.take(one, other)
        elif gap := buffer.take_gap():
            told += gap.lost
        counts = buffer.counts()
        assert (counts.accepted, counts.dropped, counts.rejected) == (number, len(model.lost), len(model.rejected))
        assert (len(buffer), counts.bytes) == (len(model.waiting), sum(each[2] for each in model.waiting))
        assert buffer.first() == (model.waiting[0][0] if model.waiting else number + 1)
    gap = buffer.take_gap()
    assert told + (gap.lost if gap else 0) == len(model.lost) + len(model.rejected)
    assert [entry.number for entry in buffer.take(1_000, 1_000_000)] == [each[0] for each in model.waiting]
    assert buffer.counts().bytes == 0


@pytest.mark.parametrize("overflow", POLICIES)
@settings(deadline=None, derandomize=True)
@given(steps=STEPS, events=st.integers(1, 5))
def test_who_can_wait_makes_nobody_go(overflow: Overflow, steps: list[tuple[str, Any, int]], events: int):
    """With `waits`, an event for which something would go is not taken, and nothing is counted."""
    buffer, model = intake(overflow, events, 50), Model(overflow, events, 50)
    number = 0
    for step, one, other in steps:
        if step == "put":
            room = other > LARGEST or model.fits(model.waiting, other)
            assert buffer.put(of(other), bulk=one, waits=True) is room
            if room:
                number += 1
                model.put(number, one, other)
        elif step == "take":
            buffer.take(one, other)
            model.take(one, other)
    assert (buffer.counts().accepted, buffer.counts().dropped) == (number, 0)


@pytest.mark.parametrize("overflow", POLICIES)
def test_control_events_outlive_a_flood(overflow: Overflow):
    """Ten among a hundred thousand: all are there, in order, with what the policy keeps of the flood."""
    buffer = intake(overflow, events=100)
    for n in range(100_000):
        buffer.put(of(1, "output"), bulk=True)
        if n % 10_000 == 5_000:
            buffer.put(of(1, "route"), bulk=False)
    taken = buffer.take(1_000, 1_000_000)
    assert len(taken) == 100
    assert [entry.name for entry in taken].count("route") == 10
    assert [entry.number for entry in taken] == sorted(entry.number for entry in taken)
    gap = buffer.take_gap()
    assert gap is not None
    assert (gap.lost, gap.reasons, gap.names) == (99_910, {"dropped": 99_910}, {"output": 99_910})


def test_one_that_is_too_large_drives_nobody_out():
    """It could not be stored: it is counted as rejected, and the others stay."""
    buffer = intake(Overflow.DROP_OLDEST, size=50)
    for _ in range(5):
        buffer.put(of(10), bulk=True)
    buffer.put(of(LARGEST + 1, "huge"), bulk=False)
    assert (len(buffer), buffer.counts().rejected, buffer.counts().dropped) == (5, 1, 0)


def test_it_wakes_once_whoever_found_nothing():
    """Not before it was found empty, then with the first event, also one that is lost; and again."""
    woken: list[int] = []
    buffer = intake(Overflow.DROP_OLDEST, wake=lambda: woken.append(1))
    buffer.put(of(1), bulk=False)
    assert woken == []
    assert len(buffer.take(10, 10)) == 1
    buffer.put(of(1), bulk=False)
    assert woken == []
    assert len(buffer.take(10, 10)) == 1
    assert buffer.take(10, 10) == []
    buffer.put(of(LARGEST + 1), bulk=False)
    buffer.put(of(1), bulk=False)
    assert woken == [1]


def test_nothing_is_counted_twice_or_not_at_all_by_many_threads():
    """Eight put, two take, and a gap is taken now and then: every event is in exactly one place."""
    buffer = intake(Overflow.DROP_OLDEST, events=50)
    taken: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    done = threading.Event()
    guard = threading.Lock()

    def put(k: int) -> None:
        for n in range(3_000):
            buffer.put(of(1, f"{k}"), bulk=bool(n % 3))

    def take() -> None:
        last = 0
        while not done.is_set() or len(buffer):
            entries = buffer.take(7, 1_000)
            gap = buffer.take_gap()
            with guard:
                taken.update(entry.name for entry in entries)
                lost.update(gap.names if gap else ())
            assert [entry.number for entry in entries] == sorted(entry.number for entry in entries)
            last = entries[-1].number if entries else last

    takers = [threading.Thread(target=take) for _ in range(2)]
    putters = [threading.Thread(target=put, args=(k,)) for k in range(8)]
    for thread in (*takers, *putters):
        thread.start()
    for thread in putters:
        thread.join()
    done.set()
    for thread in takers:
        thread.join()
    if gap := buffer.take_gap():
        lost.update(gap.names)
    assert {name: taken[name] + lost[name] for name in map(str, range(8))} == dict.fromkeys(map(str, range(8)), 3_000)
    assert buffer.counts().dropped == lost.total()


def test_closed_and_refusing():
    """Closed, what comes is late and what waits stays; refusing, both are given up; closed comes first."""
    buffer = intake(Overflow.BLOCK, events=2)
    for _ in range(3):
        buffer.put(of(1), bulk=False)
    buffer.refuse()
    assert buffer.put(of(1), bulk=False, waits=True)
    buffer.close()
    buffer.put(of(1), bulk=False)
    counts = buffer.counts()
    assert (counts.accepted, counts.dropped, counts.refused, counts.late) == (4, 1, 3, 1)
    assert (len(buffer), counts.bytes) == (0, 0)


def test_a_gap_names_only_so_many():
    """The others are counted together, also when two are put together; the time spans all."""
    first, second = Gap(), Gap()
    for n in range(NAMES + 10):
        first.add("dropped", f"a{n}", 1_000 + n)
        second.add("rejected", f"b{n}", 500 + n)
    second.merge(first)
    assert second.lost == 2 * (NAMES + 10) == second.names.total() == second.reasons.total()
    assert len(second.names) == NAMES + 1
    assert (second.since, second.until) == (500, 1_000 + NAMES + 9)


def test_one_that_was_taken_out_can_be_rejected():
    """It is told of with the others."""
    buffer = intake(Overflow.DROP_OLDEST)
    buffer.reject(Entry(1, "x", b"", 5, False))
    gap = buffer.take_gap()
    assert gap is not None
    assert (gap.lost, gap.reasons, gap.since) == (1, {"rejected": 1}, 5)
    buffer.put_back(gap)
    assert buffer.take_gap() is not None
    assert buffer.take_gap() is None
