"""How a transport is set up: what a mapping makes of events, what redact hides, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recollect import (
    AsyncSessionStore,
    Event,
    InvalidRecord,
    Limits,
    Overflow,
    ToolEvent,
)

from .accounts import check_books, check_sums, publish_one

PATIENCE_S = 10


def deep(levels: int) -> dict[str, Any]:
    event: dict[str, Any] = {"event": "deep"}
    for _ in range(levels):
        event = {"event": "deep", "in": event}
    return event


async def test_a_mapping_that_fails_loses_its_events_alone(memory: AsyncSessionStore, caplog: pytest.LogCaptureFixture):
    """It raises, or returns what is no event: those are rejected, told once, and the others are stored."""
    answers: list[Any] = [Event("ok"), None, 7, "text", Event("store.x"), ToolEvent(tool_name="t"), ValueError("why")]

    def mapping(given: Any) -> Any:
        answer = answers[given["n"]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with memory.transport(mapping=mapping) as transport:
        for n in (*range(7), 99, 0):
            transport.publish({"event": "x", "n": n})
        statistics = await transport.flush()
        assert (statistics.written, statistics.skipped, statistics.rejected) == (3, 1, 5)
        await check_books(memory, transport)
    assert len([record for record in caplog.records if "could not be stored" in record.message]) == 1


async def test_what_a_mapping_changes_is_its_own(memory: AsyncSessionStore):
    """It gets the event as JSON gives it back, and may take it apart."""

    def mapping(given: dict[str, Any]) -> Event:
        return Event("x", payload={"n": given.pop("n"), "rest": list(given)})

    event = {"event": "x", "n": (1, 2)}
    found = await publish_one(memory, event, mapping=mapping)
    assert found.payload == {"n": [1, 2], "rest": ["event"]}
    assert event == {"event": "x", "n": (1, 2)}


SECRET = 'a"b\nпароль'
HIDDEN = "[…]"


@pytest.mark.parametrize(
    "event",
    [
        {"event": "x", "text": f"say {SECRET}"},
        {"event": "x", "v": {1: [SECRET], (1,): 2**70}},
        {"event": "x", "v": SECRET, "deep": deep(300)},
        {"event": f"x{SECRET}", "v": "y" * 400_000},
        Event("x", text=SECRET, session_id="\x00", payload={"v": SECRET}),
        {"event": "x", SECRET: 1, SECRET.replace("a", "a"): 2},
    ],
    ids=range(6),
)
async def test_nothing_is_stored_that_redact_was_to_hide(path: Path, event: Any):
    """Also of events that are stored in a roundabout way, and in gap records."""
    limits = Limits(row_bytes=300_000)
    async with AsyncSessionStore(path, redact=lambda text: text.replace(SECRET, HIDDEN), limits=limits) as store:
        async with store.transport() as transport:
            transport.publish(event)
            await transport.flush()
            await check_books(store, transport)
        for row in await store.query("SELECT * FROM events"):
            assert not [value for value in row if isinstance(value, str) and "пароль" in value]


@pytest.mark.parametrize("answer", [ValueError("why"), 7, "same"], ids=["raises", "no text", "equal"])
async def test_a_redact_that_fails_stores_nothing_of_the_event(path: Path, answer: Any):
    """What cannot be redacted is not stored, and the gap is told in numbers."""

    def redact(text: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with AsyncSessionStore(path, redact=redact) as store, store.transport() as transport:
        transport.publish({"event": "secret", "text": "word", "other": "word"})
        statistics = await transport.flush()
        assert statistics.rejected == 1 - statistics.written
        await check_books(store, transport)
        rows = await store.query("SELECT kind, name, action, text, payload FROM events")
        assert "word" not in str([tuple(row) for row in rows])


async def test_what_is_left_out_and_what_is_not(memory: AsyncSessionStore):
    """By default the firehose; `only` and `exclude` as globs, one or several; each is counted."""
    names = ["route", "action_output", "stream_delta", "stream_think_delta", "x_token_delta", "tool_a", "tool_b"]

    async def kept(**options: Any) -> list[int]:
        async with memory.transport(mapping=lambda given: Event("x", payload=given), **options) as transport:
            for name in names:
                transport.publish({"event": name})
                await transport.send({"event": name})
            statistics = await transport.flush()
            check_sums(statistics)
            return [statistics.written // 2, statistics.filtered // 2]

    assert await kept() == [3, 4]
    assert await kept(exclude=()) == [7, 0]
    assert await kept(exclude="tool_*") == [5, 2]
    assert await kept(only=["tool_*", "route"]) == [3, 4]
    assert await kept(only="tool_?", exclude="*b") == [1, 6]
    assert await kept(only=()) == [0, 7]
    assert await kept(only="Route", overflow=Overflow.BLOCK) == [0, 7]


@pytest.mark.parametrize(
    "options",
    [{"buffer": 0}, {"buffer": True}, {"buffer_bytes": -1}, {"buffer_bytes": 1.5}, {"overflow": "x"},
     {"exclude": [1]}, {"only": 7}],
    ids=str,
)  # fmt: skip
async def test_options_that_make_no_sense_are_refused(memory: AsyncSessionStore, options: dict[str, Any]):
    """Where the transport is made: that is where a program begins, not where its agent runs."""
    with pytest.raises((InvalidRecord, TypeError)):
        memory.transport(**options)


async def test_a_scoped_transport_records_for_its_user(memory: AsyncSessionStore):
    """Also its gaps."""
    async with memory.scoped(user_id="ada").transport() as transport:
        transport.publish({"event": "x"})
        transport.publish({"event": "x", "v": "x" * 20_000_000})
        await transport.flush()
    assert await memory.scoped(user_id="bob").events.kinds() == []
    assert await memory.scoped(user_id="ada").events.kinds() == ["transport.gap", "x"]
