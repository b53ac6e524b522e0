"""The transport: whatever an agent publishes is taken as it is then, and ends in exactly one place."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import math
import re
from collections import UserDict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from power_loop.core.events import AgentEvent, AgentEventType

from recollect import (
    AsyncSessionStore,
    Correction,
    Event,
    IssueEvent,
    LoopEvent,
    ToolEvent,
    map_event,
)
from recollect.events.snapshot import snapshot

from .accounts import check_books, publish_one, stored

AT = datetime(2026, 3, 1, 9, tzinfo=UTC)
PATIENCE_S = 10


# -- the call --------------------------------------------------------------------------------------


async def test_an_event_is_as_it_was_at_the_call(memory: AsyncSessionStore):
    """Changed right after, at any depth: not seen. A bus that hands one dict to everybody changes nothing here."""
    event = {"event": "a", "deep": {"list": [1, {"x": "then"}]}, "flag": True}
    async with memory.transport() as transport:
        transport.publish(event)
        event["deep"]["list"][1]["x"] = "now"
        event["deep"]["list"].append(2)
        event["producer_pid"] = 7
        await transport.send(event)
        event.clear()
    first, second = await stored(memory)
    assert first.payload == {"event": "a", "deep": {"list": [1, {"x": "then"}]}, "flag": True}
    assert second.payload == {
        "event": "a",
        "deep": {"list": [1, {"x": "now"}, 2]},
        "flag": True,
        "producer_pid": 7,
    }


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


class Mute:
    """Its methods raise."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Mumbling(Mute):
    """One of whom can be told, after a test that failed, what it was."""

    def __repr__(self) -> str:
        return "Mumbling()"


class Envelope:
    """As events of another bus."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def to_dict(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def deep(levels: int) -> dict[str, Any]:
    event: dict[str, Any] = {"event": "deep"}
    for _ in range(levels):
        event = {"event": "deep", "in": event}
    return event


def cyclic() -> dict[str, Any]:
    event: dict[str, Any] = {"event": "cyclic", "n": 1}
    event["self"] = event
    return event


def family() -> dict[str, Any]:
    """Children that know their parents: in itself so often that following every way would never end."""
    root: dict[str, Any] = {"event": "family"}
    root["children"] = [{"parent": root, "root": root, "n": n} for n in range(30)]
    return root


ODD: dict[str, tuple[Any, Any]] = {
    "set": ({"event": "x", "v": {1}}, {"event": "x", "v": [1]}),
    "bytes": ({"event": "x", "v": b"ab"}, {"event": "x", "v": "YWI="}),
    "time": ({"event": "x", "v": AT}, {"event": "x", "v": "2026-03-01T09:00:00Z"}),
    "path": ({"event": "x", "v": Path("/a/b")}, {"event": "x", "v": "/a/b"}),
    "error": ({"event": "x", "v": ValueError("why")}, {"event": "x", "v": "why"}),
    "enum": ({"event": "x", "v": Colour.RED}, {"event": "x", "v": "red"}),
    "dataclass": ({"event": "x", "v": Point(1)}, {"event": "x", "v": {"x": 1}}),
    "pattern": ({"event": "x", "v": re.compile("a+")}, {"event": "x", "v": "re.compile('a+')"}),
    "mute": ({"event": "x", "v": Mute(), "w": 1}, {"event": "x", "v": "<Mute>", "w": 1}),
    "nan": ({"event": "x", "v": math.nan}, {"event": "x", "v": None}),
    "infinite": ({"event": "x", "v": [math.inf, 1.5]}, {"event": "x", "v": [None, 1.5]}),
    "huge number": ({"event": "x", "v": 2**70}, {"event": "x", "v": 2**70}),
    "huge by hand": ({"event": "\ud800", "v": 2**70, "w": math.nan}, {"event": "\ufffd", "v": 2**70, "w": "nan"}),
    "more digits than Python writes": ({"event": "x", "v": 10**5000}, {"event": "x", "v": "<int>"}),
    "surrogate": ({"event": "x", "v": "a\ud800b", "w": "ä😀"}, {"event": "x", "v": "a\ufffdb", "w": "ä😀"}),
    "halves": ({"event": "x", "v": "\ud83d\ude00"}, {"event": "x", "v": "😀"}),
    "nul": ({"event": "x", "v": "a\x00b"}, {"event": "x", "v": "a\ufffdb"}),
    "keys": ({"event": "x", (1, 2): "v", 3: "w"}, {"event": "x", "(1, 2)": "v", "3": "w"}),
    "bad key": ({"event": "x", "\ud800": 1}, {"event": "x", "\ufffd": 1}),
    "mapping": (UserDict({"event": "x", "v": 1}), {"event": "x", "v": 1}),
    "cyclic": (cyclic(), {"event": "cyclic", "n": 1, "self": "…"}),
    "none": (None, {"event": "NoneType", "value": None}),
    "number": (7, {"event": "int", "value": 7}),
    "list": ([1, "a"], {"event": "list", "value": [1, "a"]}),
    "text": ("said", {"event": "str", "value": "said"}),
    "error itself": (ValueError("why"), {"event": "ValueError", "value": "why"}),
    "class": (Point, {"event": "type", "value": str(Point)}),
    "mute itself": (Mute(), {"event": "Mute", "value": "<Mute>"}),
    "envelope": (Envelope({"type": "x", "v": 1}), {"type": "x", "v": 1}),
    "envelope of nothing": (Envelope(None), {"event": "NoneType", "value": None}),
    "empty": ({}, None),
}


@pytest.mark.parametrize("what", ODD)
async def test_values_that_json_does_not_know_become_text(memory: AsyncSessionStore, what: str):
    """The event is stored with all that can be said of it; what is not an event at all is stored by its type."""
    event, payload = ODD[what]
    found = await publish_one(memory, event)
    assert found.payload == payload


async def test_an_event_whose_own_methods_raise_is_at_least_there(memory: AsyncSessionStore):
    """By the name of its type, and of the error."""
    found = await publish_one(memory, Envelope(RuntimeError("no")))
    assert found.payload["event"] == "Envelope"
    assert "object at" in found.payload["value"]


async def test_what_is_in_itself_many_times_ends(memory: AsyncSessionStore):
    """In a moment, and with its beginning."""
    async with asyncio.timeout(PATIENCE_S):
        found = await publish_one(memory, family())
    assert found.payload["children"][29] == {"parent": "…", "root": "…", "n": 29}


@pytest.mark.parametrize("levels", [100, 150, 900, 10_000])
async def test_a_deep_event_is_stored_in_some_way(memory: AsyncSessionStore, levels: int):
    """As it is where JSON can be so deep, as text or cut off where it cannot."""
    found = await publish_one(memory, deep(levels))
    assert (found.payload == deep(levels)) is (levels < 200)
    assert found.payload["event"] == "deep"


async def test_an_event_that_is_too_large_is_rejected(memory: AsyncSessionStore, caplog: pytest.LogCaptureFixture):
    """Twenty megabytes: counted, told once, left as a gap, and the others go on."""
    async with memory.transport() as transport:
        for _ in range(2):
            transport.publish({"event": "huge", "v": "x" * 20_000_000})
            transport.publish({"event": "x"})
        statistics = await transport.flush()
        assert (statistics.written, statistics.rejected, statistics.gaps) == (2, 2, 1)
        await check_books(memory, transport)
    (gap,) = await memory.events.recent("transport.gap")
    assert gap.payload["reasons"] == {"rejected": 2}
    assert gap.payload["events"] == {"huge": 2}
    assert (gap.action, gap.payload["since"] <= gap.payload["until"]) == ("lost", True)
    assert len([record for record in caplog.records if "lost" in record.message]) == 1


TYPED = {
    "event": (Event("note", AT, name="n", payload={"a": 1}), ("note", AT, "n", None, {"a": 1})),
    "tool": (ToolEvent(tool_name="Grep", args={"q": 1}, at=AT, action="started"), ("tool", AT, "Grep", "started")),
    "issue": (IssueEvent(issue_id="B-1", transition="open", at=AT), ("issue", AT, None, "open")),
    "loop": (LoopEvent(loop_name="l", transition="route", state="s", at=AT), ("loop", AT, "l", "route", {"state": "s"})),
    "correction": (Correction(content="no", at=AT), ("correction", AT, None, None)),
    "agent": (
        AgentEvent(AgentEventType.TOOL_CALL_STARTED, {"name": "Grep", "tool_input": {"q": 1}}, ts=AT.timestamp()),
        ("tool", AT, "Grep", "started"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TYPED)
async def test_events_of_every_type_are_taken(memory: AsyncSessionStore, what: str):
    """Our own are stored as they are, without the mapping; those of an agent loop's bus as their envelope says."""
    event, expected = TYPED[what]
    found = await publish_one(memory, event, mapping=lambda given: map_event(given) if what == "agent" else None)
    assert (found.kind, found.at, found.name, found.action, found.payload)[: len(expected)] == expected


@pytest.mark.parametrize(
    "event",
    [Event("x", at=datetime(2026, 3, 1)), Event("x", session_id="a\x00"), Event("x", run_id=""),
     Event("x", text="\ud800"), Event("x", payload={"v": 2**70}), Event("x", payload=deep(300))],
    ids=["naive", "nul", "empty", "surrogate", "number", "deep"],
)  # fmt: skip
async def test_our_events_that_record_would_refuse_are_stored_as_text(memory: AsyncSessionStore, event: Event):
    """A time without a zone, an id that is none: the transport stores what it can, under the kind."""
    assert (await publish_one(memory, event)).kind == "x"


@pytest.mark.parametrize(
    "event", [Event("store.deleted"), Event(""), Event(7), Event("x", at="now"), Event("x", payload=[1])], ids=range(5)
)
async def test_our_events_that_are_none_are_rejected(memory: AsyncSessionStore, event: Event):
    """Counted, and the next is stored."""
    async with memory.transport() as transport:
        transport.publish(event)
        transport.publish({"event": "x"})
        statistics = await transport.flush()
        assert (statistics.written, statistics.rejected) == (1, 1)
        await check_books(memory, transport)


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=[])),
        st.binary(max_size=20), st.datetimes(), st.decimals(), st.complex_numbers(), st.uuids(), st.fractions(),
        st.timedeltas(), st.just(Mumbling()), st.just(object), st.builds(Exception), st.just(Colour.RED), st.just(...),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.tuples(inner, inner), st.dictionaries(st.text(max_size=5), inner, max_size=5),
        st.dictionaries(st.one_of(st.integers(), st.none(), st.text(max_size=3), st.tuples(st.integers())), inner, max_size=3),
        st.sets(st.integers(), max_size=3), st.builds(Point, inner), st.builds(Envelope, inner),
    ),
    max_leaves=12,
)  # fmt: skip
FIELDS = ["event", "type", "kind", "ts", "loop", "session_id", "run_id", "payload", "issue_id", "path", "state", "text"]
ANYTHING = st.one_of(VALUES, st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8))


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(events=st.lists(ANYTHING, min_size=10, max_size=40))
async def test_whatever_is_published_ends_in_exactly_one_place(events: list[Any]):
    """Any Python value: publish does not raise, and each event is written or rejected, and the books agree."""
    async with AsyncSessionStore(":memory:") as store:
        transport = store.transport(exclude=())
        async with transport:
            for event in events:
                transport.publish(event)
            statistics = await transport.flush()
            assert statistics.written + statistics.rejected == len(events)
            await check_books(store, transport)
            transport.publish({"event": "x"})
            assert (await transport.flush()).written == statistics.written + 1, "it goes on"


@settings(deadline=None, derandomize=True)
@given(event=ANYTHING)
def test_a_snapshot_is_json(event: Any):
    """Of whatever it is; and it has a name that can be looked for."""
    import msgspec

    taken = snapshot(event)
    assert isinstance(msgspec.json.decode(taken.json), dict)
    assert isinstance(taken.name, str)
