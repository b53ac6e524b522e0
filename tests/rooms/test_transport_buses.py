"""The transport in the synchronous buses of others: an agent loop's, and one with a registry of `send` and `close`."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytest
from power_loop.core.events import AgentEvent, AgentEventBus, AgentEventType

from recollect import AsyncSessionStore, EventTransport, SyncTransport

from .accounts import check_books, check_sums
from .outside import occupied

PATIENCE_S = 10


# -- an agent loop's bus ---------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", ["inline", "thread"])
async def test_as_a_subscriber_of_an_agent_loops_bus(store: AsyncSessionStore, dispatch: str):
    """Called with each of its events, on its thread or its worker's: all are stored, in order, and it is not slowed."""
    bus = AgentEventBus(sync_dispatch=dispatch, queue_maxsize=10_000)
    async with store.transport() as transport:
        sink = transport.sync()
        bus.subscribe(None, sink)
        for n in range(500):
            bus.publish(AgentEvent(AgentEventType.ROUND_STARTED, {"round_index": n}, session_id="s"))
            bus.publish(AgentEvent(AgentEventType.TOOL_CALL_STARTED, {"name": "Grep", "tool_input": {"n": n}}))
            bus.publish(AgentEvent(AgentEventType.STREAM_DELTA, {"text": "t"}))
        await asyncio.to_thread(bus.shutdown)
        await bus.publish_async(AgentEvent(AgentEventType.SESSION_ENDED, {"reason": "done"}, session_id="s"))
        statistics = await transport.flush()
        assert (statistics.written, statistics.filtered) == (1_001, 500)
        await check_books(store, transport)
    assert bus.dropped == 0
    agent = [event async for event in store.events.stream(kind="agent")]
    assert [event.payload["payload"]["round_index"] for event in agent[:-1]] == list(range(500))
    assert {event.session_id for event in agent} == {"s"}
    assert [event.action for event in agent[-1:]] == ["session_ended"]
    tools = [event async for event in store.events.stream(kind="tool")]
    assert [(event.name, event.action) for event in tools] == [("Grep", "started")] * 500


async def test_an_agent_loops_bus_that_passes_errors_on_gets_none(memory: AsyncSessionStore):
    """By default what a subscriber raises aborts the agent: ours raises nothing, closed or given what cannot be read."""
    bus = AgentEventBus(suppress_subscriber_errors=False)
    transport = memory.transport()
    await transport.open()
    bus.subscribe(None, transport.sync())

    class Unreadable:
        def __str__(self) -> str:
            raise RuntimeError("no")

    bus.publish(AgentEvent(AgentEventType.SYSTEM_LOG, {"message": Unreadable(), "level": 2**70}))
    assert (await transport.flush()).written == 1
    await transport.aclose()
    bus.publish(AgentEvent(AgentEventType.SYSTEM_LOG, {"message": "late"}))
    assert transport.statistics().late == 1


# -- a registry of `send` and `close` --------------------------------------------------------------


@runtime_checkable
class Sink(Protocol):
    """What such a bus asks of whoever wants its events."""

    def send(self, event: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Bus:
    """One after the contract: synchronous, all sinks get the same dict, what they raise is logged and swallowed."""

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.errors: list[Exception] = []

    def add(self, sink: Sink) -> None:
        assert isinstance(sink, Sink)
        self.sinks.append(sink)

    def emit(self, event: dict[str, Any]) -> None:
        self._all(lambda sink: sink.send(event))

    def close(self) -> None:
        self._all(lambda sink: sink.close())

    def _all(self, call: Callable[[Sink], None]) -> None:
        for sink in self.sinks:
            try:
                call(sink)
            except Exception as error:
                self.errors.append(error)


class Stamping:
    """Another sink, that changes what all get."""

    def send(self, event: dict[str, Any]) -> None:
        event["producer_pid"] = 7

    def close(self) -> None:
        """Nothing to close."""


def bus_of(transport: EventTransport, **options: Any) -> Bus:
    bus = Bus()
    bus.add(transport.sync(**options))
    bus.add(Stamping())
    return bus


async def test_in_a_bus_whose_loop_runs_in_a_thread(store: AsyncSessionStore):
    """Emitted by four worker threads, closed by one of them: when `close` returns, everything is in the store."""
    transport = store.transport()
    await transport.open()
    bus = bus_of(transport)

    def work(k: int) -> None:
        for n in range(500):
            event = {
                "event": "state_enter",
                "ts": "2026-03-01T09:00:00Z",
                "loop": f"l{k}",
                "state": "s",
                "iteration": n,
            }
            bus.emit(event)
            event["iteration"] = -1

    def main() -> int:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bus.close()
        return transport.statistics().written

    assert await asyncio.to_thread(main) == 2_000
    bus.close()
    assert bus.errors == []
    await check_books(store, transport, await transport.aclose())
    events = [event async for event in store.events.stream()]
    for k in range(4):
        of_one = [event.payload for event in events if event.name == f"l{k}"]
        assert [payload["iteration"] for payload in of_one] == list(range(500))
        assert not [payload for payload in of_one if "producer_pid" in payload]


async def test_closed_on_the_loops_own_thread(store: AsyncSessionStore):
    """It cannot wait there, and closes behind it; twice is once."""
    transport = store.transport()
    await transport.open()
    bus = bus_of(transport)
    for n in range(100):
        bus.emit({"event": "x", "n": n})
    began = time.monotonic()
    bus.close()
    bus.close()
    assert time.monotonic() - began < 0.5
    bus.emit({"event": "x", "n": 100})
    unwritten = await asyncio.wait_for(transport.aclose(), PATIENCE_S)
    assert bus.errors == []
    assert not unwritten
    assert (transport.statistics().written, transport.statistics().state) == (100, "closed")


async def test_closed_by_two_threads_and_the_loop_at_once(store: AsyncSessionStore):
    """All come back, and everything is written."""
    transport = store.transport()
    await transport.open()
    bus = bus_of(transport)
    for n in range(2_000):
        bus.emit({"event": "x", "n": n})
    threads = [asyncio.to_thread(bus.close) for _ in range(2)]
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*threads, transport.aclose())
    bus.close()
    assert (transport.statistics().written, bus.errors) == (2_000, [])


async def test_a_close_that_takes_too_long_is_let_go(store: AsyncSessionStore, hold, caplog: pytest.LogCaptureFixture):
    """The store is held: `close` returns in about its time, says so, and the report is exact."""
    transport = store.transport()
    await transport.open()
    bus = bus_of(transport, timeout_s=0.2)
    async with hold(store):
        for n in range(50):
            bus.emit({"event": "x", "n": n})
        began = time.monotonic()
        await asyncio.to_thread(bus.close)
        assert time.monotonic() - began < 1.5
    assert (await transport.aclose()).events == 50
    assert "50 events unwritten" in caplog.text
    await check_books(store, transport, await transport.aclose())


def test_in_a_program_without_a_loop(path: Path):
    """A synchronous program with the store on a loop in a thread of its own: closed from the main thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    store = AsyncSessionStore(path)
    transport = store.transport()
    asyncio.run_coroutine_threadsafe(transport.open(), loop).result(PATIENCE_S)
    bus = bus_of(transport)
    for n in range(1_000):
        bus.emit({"event": "x", "n": n})
    bus.close()
    assert not store.is_open, "it was the transport's"
    assert transport.statistics().written == 1_000
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    bus.emit({"event": "x"})
    bus.close()
    assert bus.errors == []
    assert transport.statistics().late == 1


def test_closed_while_its_loop_ends(path: Path, caplog: pytest.LogCaptureFixture):
    """Nobody answers any more: `close` notices, and does not sit out its time."""
    store = AsyncSessionStore(path)
    transport = store.transport()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(transport.open())
    bus = bus_of(transport, timeout_s=60)
    for n in range(10):
        bus.emit({"event": "x", "n": n})
    closer = threading.Thread(target=bus.close)
    closer.start()  # the loop does not run: it waits for it
    closer.join(0.3)
    assert closer.is_alive()
    loop.run_until_complete(store.aclose())
    loop.close()
    closer.join(PATIENCE_S)
    assert not closer.is_alive()
    assert (transport.statistics().written, bus.errors) == (10, [])


def test_closed_when_its_loop_has_ended(path: Path):
    """At once, whether it was closed before or not, and what is emitted then is counted."""

    async def main() -> SyncTransport:
        async with AsyncSessionStore(path) as store, store.transport() as transport:
            sink = transport.sync()
            sink.send({"event": "x"})
            return sink

    sink = asyncio.run(main())
    began = time.monotonic()
    for _ in range(2):
        sink.send({"event": "x"})
        sink.close()
    assert time.monotonic() - began < 0.5


async def test_closed_without_having_been_opened(store: AsyncSessionStore):
    """Nothing to wait for; it takes nothing more."""
    transport = store.transport()
    bus = bus_of(transport)
    bus.emit({"event": "x"})
    await asyncio.to_thread(bus.close)
    bus.emit({"event": "x"})
    assert bus.errors == []
    assert (transport.statistics().waiting, transport.statistics().late) == (1, 1)
    assert (await transport.aclose()).events == 1


# -- what was wrong with the sink that such a bus had ----------------------------------------------


async def test_what_the_sink_of_an_event_index_got_wrong(store: AsyncSessionStore, path: Path, caplog):
    """The keys that are really sent (loop, from, to, final_state) have columns; who sends is not held up by a foreign
    lock, and nothing is lost for it; run, session and the whole of what was sent are kept; anything may be sent, none
    raises; closing is for once and for all, and what comes then is counted."""
    transport = store.transport()
    await transport.open()
    sink = transport.sync()
    common = {"ts": "2026-03-01T09:00:00Z", "loop": "fix", "run_id": "r1", "session_id": "s1"}
    sent = [
        {"event": "loop_start", **common},
        {"event": "route", "from": "check", "to": "done", **common},
        {"event": "action_output", "line": "the firehose", **common},
        {"event": "evaluate", "type": "exit", "verdict": "yes", "state": "check", **common},
        {"event": "loop_complete", "final_state": "done", "iterations": 3, "terminated_by": "terminal", **common},
    ]
    async with occupied(path):  # it blocked five seconds here, and then dropped the event
        began = time.monotonic()
        for event in sent:
            sink.send(event)
        for odd in (None, 7, [], "text"):
            sink.send(odd)
        assert time.monotonic() - began < 1
    await asyncio.to_thread(sink.close)
    sink.send(sent[0])
    sink.close()
    found = await store.query("SELECT loop_name, state, transition, run_id, session_id FROM loop_events ORDER BY id")
    assert list(map(tuple, found)) == [
        ("fix", None, "loop_start", "r1", "s1"),
        ("fix", "done", "route", "r1", "s1"),
        ("fix", "check", "evaluate", "r1", "s1"),
        ("fix", "done", "loop_complete", "r1", "s1"),
    ]
    kept = [event.payload async for event in store.events.stream(kind="loop")]
    assert [event | payload for event, payload in zip([sent[0], sent[1], sent[3], sent[4]], kept, strict=True)] == kept
    assert [hit.ref async for hit in store.search("check")] != []
    statistics = transport.statistics()
    check_sums(statistics)
    assert (statistics.written, statistics.filtered, statistics.late) == (8, 1, 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
