"""The bus on several event loops, with several receivers, and at its end."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest
from anyio import ClosedResourceError, EndOfStream

from recollect import (
    AsyncSessionStore,
    EventBus,
    Subscription,
)

from .accounts import numbers, publish_some

PATIENCE_S = 10


async def test_subscribers_on_several_loops():
    """Each is served on its own; closing from one ends them all."""
    bus = EventBus()
    results: dict[int, list[int]] = {}
    ready = threading.Barrier(4)

    def elsewhere(k: int) -> None:
        async def listen() -> None:
            async with bus.subscribe("x", buffer=5_000) as events:
                await asyncio.to_thread(ready.wait, PATIENCE_S)
                results[k] = await numbers(events)

        asyncio.run(listen())

    threads = [threading.Thread(target=elsewhere, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(ready.wait, PATIENCE_S)
    publish_some(bus, "x", 2_000)
    await bus.aclose()
    await asyncio.to_thread(lambda: [thread.join(PATIENCE_S) for thread in threads])
    assert results == {k: list(range(2_000)) for k in range(3)}


async def test_a_subscriber_whose_loop_is_gone_is_let_go():
    """It never left; when it would lose events, or be woken, it is forgotten, and nobody is told."""
    bus = EventBus()
    waiting: list[Subscription] = []

    def elsewhere(wait: bool) -> None:
        async def enter() -> None:
            subscription = await bus.subscribe(buffer=2).__aenter__()
            waiting.append(subscription)
            if wait:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(subscription.receive(), 0.01)

        asyncio.run(enter())

    await asyncio.to_thread(elsewhere, False)
    await asyncio.to_thread(elsewhere, True)
    assert bus.statistics().subscribers == 2
    async with bus.subscribe() as events:
        publish_some(bus, "x", 5)
        assert bus.statistics().subscribers == 1
        await bus.aclose()
        assert await numbers(events) == [0, 1, 2, 3, 4]
    assert bus.statistics().dropped == 0


async def test_a_cancelled_receiver_takes_nothing_from_others():
    """Three wait, two are cancelled before or while an event comes: the third gets it, and none is lost."""
    bus = EventBus()
    async with bus.subscribe(buffer=1_000) as events:
        got: list[int] = []
        for n in range(100):
            receivers = [asyncio.create_task(events.receive()) for _ in range(3)]
            await asyncio.sleep(0)
            if n % 2:
                bus.publish({"event": "x", "n": n})
            receivers[n % 3].cancel()
            receivers[(n + 1) % 3].cancel()
            if not n % 2:
                bus.publish({"event": "x", "n": n})
            done = await asyncio.wait_for(asyncio.gather(*receivers, return_exceptions=True), PATIENCE_S)
            got += [each["n"] for each in done if isinstance(each, dict)]
        assert got == list(range(100))
        assert events.dropped == 0


async def test_several_receivers_share_what_comes():
    """Each event goes to one of them, and all end with the bus."""
    bus = EventBus()
    async with bus.subscribe(buffer=1_000) as events:
        receivers = [asyncio.create_task(numbers(events)) for _ in range(4)]
        await asyncio.sleep(0)
        publish_some(bus, "x", 500)
        await bus.aclose()
        parts = await asyncio.gather(*receivers)
        assert sorted(n for part in parts for n in part) == list(range(500))


# -- ends ------------------------------------------------------------------------------------------


async def test_closing_drains_then_ends():
    """What is in the buffer still comes, then the stream ends, again and again; one that waits ends at once."""
    bus = EventBus()
    async with bus.subscribe() as events, bus.subscribe("never") as idle:
        waiting = asyncio.create_task(numbers(idle))
        await asyncio.sleep(0)
        publish_some(bus, "x", 3)
        await bus.aclose()
        await bus.aclose()
        assert await waiting == []
        assert await numbers(events) == [0, 1, 2]
        assert await numbers(events) == []
        with pytest.raises(EndOfStream):
            await events.receive()


async def test_after_the_end():
    """What is published is counted as late, a new subscription ends at once."""
    bus = EventBus()
    publish_some(bus, "x", 2)
    await bus.aclose()
    publish_some(bus, "x", 3)
    async with bus.subscribe() as events:
        assert await numbers(events) == []
    statistics = bus.statistics()
    assert (statistics.published, statistics.late, statistics.dropped, statistics.subscribers) == (5, 3, 0, 0)


async def test_an_iteration_ends_on_leaving():
    """Left by one task while another iterates: that ends, and what was in the buffer is not seen any more."""
    bus = EventBus()
    async with bus.subscribe() as events:
        iterating = asyncio.create_task(numbers(events))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(iterating, PATIENCE_S) == []
    publish_some(bus, "x", 1)
    assert await numbers(events) == []
    with pytest.raises(ClosedResourceError):
        await events.receive()
    assert bus.statistics().subscribers == 0


async def test_a_subscription_begins_with_entering_and_is_entered_once():
    """What was published before is not seen; one that was not entered gives nothing, and one twice would give doubles."""
    bus = EventBus()
    events = bus.subscribe()
    with pytest.raises(ClosedResourceError):
        await events.receive()
    with pytest.raises(ClosedResourceError):
        async for _ in events:
            pass
    publish_some(bus, "x", 1)
    async with events:
        with pytest.raises(RuntimeError, match="subscribe again"):
            await events.__aenter__()
        publish_some(bus, "x", 1, start=7)
        await bus.aclose()
        assert await numbers(events) == [7]


async def test_publishing_in_the_middle_of_publishing_locks_nobody_out():
    """A signal's handler that publishes while the same thread does: both come, and nothing stops."""
    bus = EventBus()
    before = signal.signal(signal.SIGALRM, lambda *_: bus.publish({"event": "signal", "n": -1}))
    try:
        async with bus.subscribe(buffer=1_000_000) as events, asyncio.timeout(PATIENCE_S):
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            n = 0
            while bus.statistics().published - n < 200:  # until so many signals have come
                publish_some(bus, "x", 100, start=n)
                n += 100
            signal.setitimer(signal.ITIMER_REAL, 0)
            await bus.aclose()
            got = await numbers(events)
            assert [each for each in got if each >= 0] == list(range(n))
            assert got.count(-1) == bus.statistics().published - n
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- into the store --------------------------------------------------------------------------------


async def test_from_the_bus_into_the_store(store: AsyncSessionStore):
    """`run` sends what a subscription gives until it ends; what was left out was left out by the subscription."""
    async with EventBus() as bus, store.transport() as transport, bus.subscribe("a*", buffer=5_000) as events:
        running = asyncio.create_task(transport.run(events))
        threads = [threading.Thread(target=publish_some, args=(bus, name, 500)) for name in ("a1", "a2", "b")]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        await bus.aclose()
        await asyncio.wait_for(running, PATIENCE_S)
        statistics = await transport.flush()
        assert (statistics.published, statistics.written) == (1_000, 1_000)
    for name in ("a1", "a2"):
        assert [event.payload["n"] for event in (await store.events.recent(name, limit=None))[::-1]] == list(range(500))


async def test_leaving_a_subscription_ends_its_run(store: AsyncSessionStore):
    """And the transport stays open for others."""
    bus = EventBus()
    async with store.transport() as transport:
        async with bus.subscribe() as events:
            running = asyncio.create_task(transport.run(events))
            bus.publish({"event": "x"})
            await asyncio.sleep(0.01)
        await asyncio.wait_for(running, PATIENCE_S)
        transport.publish({"event": "x"})
        assert (await transport.flush()).written == 2
