"""The bus: whoever publishes is never held up, and each subscriber gets everything, in order, or counts what it lost."""

from __future__ import annotations

import asyncio
import enum
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from power_loop.core.events import AgentEvent, AgentEventType

from recollect import (
    Event,
    EventBus,
    InvalidRecord,
    LoopEvent,
    Overflow,
    StoreError,
    ToolEvent,
)

from .accounts import numbers, publish_some

PATIENCE_S = 10


# -- who gets what ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ((), ["tool_start", "tool_end", "route", "issue.closed", "Tool_x", ""]),
        (("*",), ["tool_start", "tool_end", "route", "issue.closed", "Tool_x", ""]),
        (("tool_*",), ["tool_start", "tool_end"]),
        (("route", "issue.*"), ["route", "issue.closed"]),
        (("[Tt]ool_?",), ["Tool_x"]),
        (("?oute",), ["route"]),
        (("nothing",), []),
    ],
)
async def test_globs_say_who_gets_what(patterns: tuple[str, ...], names: list[str]):
    """As fnmatch has them, and case matters; no pattern at all is everything."""
    async with EventBus() as bus, bus.subscribe(*patterns) as events:
        for name in ("tool_start", "tool_end", "route", "issue.closed", "Tool_x", ""):
            bus.publish({"event": name})
        await bus.aclose()
        assert [event["event"] async for event in events] == names


class Kind(enum.Enum):
    """A name as some emitters have it."""

    DONE = "done"
    SEVEN = 7


NAMED = [
    ({"event": "a", "type": "b", "kind": "c"}, "a"),
    ({"type": "b", "kind": "c"}, "b"),
    ({"kind": "c"}, "c"),
    ({"event": "", "type": "b"}, "b"),
    ({"event": Kind.DONE}, "done"),
    ({"event": Kind.SEVEN}, ""),
    ({"event": 7}, ""),
    ({"event": ["a"]}, ""),
    ({"event": "x" * 5_000}, "x" * 256),
    (Event("note"), "note"),
    (LoopEvent(loop_name="l", transition="t"), "loop"),
    (ToolEvent(tool_name="Grep"), "tool"),
    (AgentEvent(AgentEventType.ROUND_STARTED, {"round_index": 1}), "round_started"),
    (None, ""),
    (7, ""),
    ("text", ""),
]


@pytest.mark.parametrize(("event", "name"), NAMED, ids=range(len(NAMED)))
async def test_an_event_of_any_type_has_a_name(event: Any, name: str):
    """`event`, `type` or `kind`, of mappings and of objects; what has none matches only those who want everything."""
    async with EventBus() as bus, bus.subscribe(name or "?*") as named, bus.subscribe() as all_of_them:
        bus.publish(event)
        await bus.aclose()
        assert [each async for each in named] == ([event] if name else [])
        assert [each async for each in all_of_them] == [event]


class Nasty(Mapping[str, Any]):
    """A mapping of which nothing can be had."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("no")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")


class NastyText(str):
    """A name that cannot be compared."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    def __hash__(self) -> int:
        raise RuntimeError("no")


class NastyObject:
    """An object whose name cannot be had."""

    @property
    def type(self) -> str:
        raise RuntimeError("no")


class NastyTruth:
    """As an array of numbers, that is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


async def test_publish_never_raises():
    """Mappings that cannot be read, names that cannot be hashed, objects that raise: who gets them finds out."""
    nasty = [Nasty(), {"event": NastyText("x")}, NastyObject(), {"event": NastyTruth()}, {1: 2}, object(), type]
    async with EventBus() as bus, bus.subscribe() as events, bus.subscribe("tool*") as tools:
        for each in nasty:
            bus.publish(each)
        await bus.aclose()
        assert len([event async for event in events]) == len(nasty)
        assert [event async for event in tools] == []


async def test_a_mapping_is_as_it_was_at_the_call():
    """Changed by whoever published it, or by another subscriber's copy of the reference: not seen."""
    async with EventBus() as bus, bus.subscribe() as events:
        event = {"event": "a", "n": 1}
        bus.publish(event)
        event["n"] = 2
        event.clear()
        assert await events.receive() == {"event": "a", "n": 1}


@pytest.mark.parametrize("given", [{"buffer": 0}, {"buffer": -1}, {"buffer": True}, {"buffer": "1"}, {"overflow": "x"},
                                   {"overflow": Overflow.BLOCK}], ids=str)  # fmt: skip
async def test_what_makes_no_sense_is_refused(given: dict[str, Any]):
    """At once, where it was asked for."""
    with pytest.raises(InvalidRecord):
        EventBus().subscribe(**given)
    with pytest.raises(StoreError):
        EventBus().subscribe(7)  # type: ignore[arg-type]


# -- order -----------------------------------------------------------------------------------------


async def test_each_publishers_order_is_kept_and_all_see_the_same():
    """Four threads and the loop publish at once: everybody gets everything, in one and the same order."""
    bus = EventBus()
    async with bus.subscribe(buffer=100_000) as one, bus.subscribe("p*", buffer=100_000) as two:
        threads = [threading.Thread(target=publish_some, args=(bus, f"p{k}", 2_000)) for k in range(4)]
        for thread in threads:
            thread.start()
        for n in range(200):
            bus.publish({"event": "p9", "n": n})
            await asyncio.sleep(0)
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        await bus.aclose()
        first = [(event["event"], event["n"]) async for event in one]
        assert first == [(event["event"], event["n"]) async for event in two]
        for k in range(4):
            assert [n for name, n in first if name == f"p{k}"] == list(range(2_000))
        assert [n for name, n in first if name == "p9"] == list(range(200))
    assert bus.statistics().published == 8_200


async def test_whoever_waits_is_woken_whatever_the_moment():
    """A thread publishes one event at a time, each when the last has come: a lost wake-up would stop it."""
    bus = EventBus()
    heard = threading.Event()

    def ping() -> None:
        for n in range(3_000):
            heard.clear()
            bus.publish({"event": "ping", "n": n})
            assert heard.wait(PATIENCE_S)

    async with bus.subscribe(buffer=1) as events, asyncio.timeout(3 * PATIENCE_S):
        pinging = asyncio.create_task(asyncio.to_thread(ping))
        for n in range(3_000):
            assert (await events.receive())["n"] == n
            heard.set()
        await pinging
    assert events.dropped == 0


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
@settings(deadline=None, derandomize=True)
@given(data=st.data())
async def test_what_is_lost_is_what_the_policy_says(overflow: Overflow, data: st.DataObject):
    """Against a plain list: every sequence of events and receipts, for two subscribers with buffers of their own."""
    bus = EventBus()
    sizes = (data.draw(st.integers(1, 5)), 3)
    held: list[list[int]] = [[], []]
    lost = [0, 0]
    async with bus.subscribe(buffer=sizes[0], overflow=overflow) as a, bus.subscribe(buffer=3, overflow=overflow) as b:
        for n, step in enumerate(data.draw(st.lists(st.sampled_from(["put", "put", "take a", "take b"]), max_size=40))):
            if step == "put":
                bus.publish({"event": "x", "n": n})
                for k, size in enumerate(sizes):
                    lost[k] += len(held[k]) == size
                    if len(held[k]) < size or overflow is Overflow.DROP_OLDEST:
                        held[k] = [*held[k], n][-size:]
            else:
                k = step == "take b"
                if held[k]:
                    assert (await (a, b)[k].receive())["n"] == held[k].pop(0)
        assert [a.dropped, b.dropped] == lost
        assert bus.statistics().dropped == sum(lost)
        await bus.aclose()
        assert [await numbers(a), await numbers(b)] == held


async def test_a_slow_subscriber_holds_up_nobody():
    """Who reads gets everything; who does not has his last ones, and his losses counted, also when he has left."""
    bus = EventBus()
    async with bus.subscribe(buffer=10) as slow, bus.subscribe(buffer=10) as quick:
        got: list[int] = []
        for n in range(500):
            bus.publish({"event": "x", "n": n})
            got.append((await quick.receive())["n"])
        assert got == list(range(500))
        assert (slow.dropped, quick.dropped) == (490, 0)
        assert (await slow.receive())["n"] == 490
    assert bus.statistics().dropped == 490
    assert bus.statistics().subscribers == 0


async def test_a_full_buffer_leaves_the_loop_its_turn():
    """Taking what is there already does not keep other tasks waiting."""
    bus = EventBus()
    async with bus.subscribe(buffer=5_000) as events:
        publish_some(bus, "x", 5_000)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        for _ in range(5_000):
            await events.receive()
        task.cancel()
        assert turns >= 50
