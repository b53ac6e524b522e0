"""The flow of events through a transport: from many at once, in order, awaited, and with who can wait for room."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading

import pytest

from recollect import AsyncSessionStore, EventTransport, Overflow

from .accounts import check_books, check_sums

PATIENCE_S = 10


# -- from many -------------------------------------------------------------------------------------


async def test_each_threads_order_is_kept(store: AsyncSessionStore):
    """Four threads and the loop: everything is there, in the order in which each published it, and sums agree while
    it goes on."""

    def publish(transport: EventTransport, k: int) -> None:
        for n in range(1_500):
            transport.publish({"event": f"p{k}", "n": n})

    async with store.transport() as transport:
        threads = [threading.Thread(target=publish, args=(transport, k)) for k in range(4)]
        for thread in threads:
            thread.start()
        for n in range(300):
            await transport.send({"event": "p9", "n": n})
            check_sums(transport.statistics())
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        assert (await transport.flush()).written == 6_300
        await check_books(store, transport)
    for k, count in ((0, 1_500), (1, 1_500), (2, 1_500), (3, 1_500), (9, 300)):
        found = await store.events.recent(f"p{k}", limit=None)
        assert [event.payload["n"] for event in reversed(found)] == list(range(count))


async def test_an_idle_transport_is_woken_whatever_the_moment(memory: AsyncSessionStore):
    """One event at a time from another thread, each when the last is written, or a moment later: a lost wake-up would
    stop it."""
    async with memory.transport() as transport, asyncio.timeout(PATIENCE_S):
        for n in range(200):
            await asyncio.to_thread(transport.publish, {"event": "x", "n": n})
            while (left := n + 1 - transport.statistics().written) > 0:
                assert left == 1
                await asyncio.sleep(0)
            for _ in range(n % 5):
                await asyncio.sleep(0)


async def test_publishing_in_the_middle_of_publishing_locks_nobody_out(memory: AsyncSessionStore):
    """A signal's handler, or a finalizer, that publishes while the same thread does."""
    async with memory.transport(buffer=1_000_000) as transport, asyncio.timeout(PATIENCE_S):
        before = signal.signal(signal.SIGALRM, lambda *_: transport.publish({"event": "signal"}))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            n = 0
            while transport.statistics().accepted - n < 60:
                for _ in range(50):
                    transport.publish({"event": "x"})
                n += 50
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        statistics = await transport.flush()
        assert statistics.written == statistics.accepted
        await check_books(memory, transport)


async def test_flush_is_a_barrier(store: AsyncSessionStore):
    """What was published before it is in the store after it, whatever is published meanwhile."""
    async with store.transport() as transport:
        done = False

        async def others() -> None:
            while not done:
                for _ in range(20):
                    await transport.send({"event": "other"})
                await asyncio.sleep(0.002)

        publishing = asyncio.create_task(others())
        for n in range(10):
            transport.publish({"event": "mine", "n": n})
            await transport.flush()
            assert [event.payload["n"] async for event in store.events.stream(kind="mine")][-1:] == [n]
        done = True
        await publishing


async def test_a_mapping_that_keeps_nothing_does_not_keep_a_flush_waiting(memory: AsyncSessionStore):
    """Nor the end."""
    async with memory.transport(mapping=lambda _: None) as transport, asyncio.timeout(PATIENCE_S):
        done = False

        async def others() -> None:
            while not done:
                for _ in range(50):
                    transport.publish({"event": "other"})
                await asyncio.sleep(0)

        publishing = asyncio.create_task(others())
        for _ in range(5):
            await transport.flush()
        done = True
        await publishing
    check_sums(transport.statistics())
    assert transport.statistics().written == 0


# -- who can wait ----------------------------------------------------------------------------------


async def test_who_can_wait_waits_in_turn(store: AsyncSessionStore, hold):
    """BLOCK: `send` waits for room, first come first served, and loses nothing; `publish` from a thread drops."""
    async with store.transport(overflow=Overflow.BLOCK, buffer=3) as transport:
        async with hold(store):
            transport.publish({"event": "first"})
            await asyncio.sleep(0.05)  # it is on its way now, and the store is held
            senders = [asyncio.create_task(transport.send({"event": "x", "n": n})) for n in range(200)]
            await asyncio.sleep(0.05)
            assert sum(sender.done() for sender in senders) == 3
            await asyncio.to_thread(transport.publish, {"event": "cannot wait"})
            senders[100].cancel()
            await asyncio.wait([senders[100]])
        await asyncio.wait_for(asyncio.gather(*senders, return_exceptions=True), PATIENCE_S)
        statistics = await transport.flush()
        await check_books(store, transport)
        assert (statistics.published, statistics.dropped, statistics.high_water) == (202, 2, 3)
    found = [event.payload["n"] for event in await store.events.recent("x", limit=None)][::-1]
    assert found == [n for n in range(200) if n != 100], "cancelled, it was published, and there was no room"


async def test_nobody_overtakes_who_waits(store: AsyncSessionStore):
    """BLOCK: eight tasks that send one after the other, with room for one, come in turn, and so do newcomers."""
    async with store.transport(overflow=Overflow.BLOCK, buffer=1) as transport:

        async def send(k: int) -> None:
            for n in range(50):
                await transport.send({"event": "x", "sender": k, "n": n})

        await asyncio.wait_for(asyncio.gather(*[send(k) for k in range(8)]), PATIENCE_S)
    found = [event.payload async for event in store.events.stream(kind="x")]
    assert len(found) == 400
    done = [0] * 8
    for payload in found:
        done[payload["sender"]] += 1
        assert max(done) - min(done) <= 2


async def test_what_is_left_out_does_not_wait(store: AsyncSessionStore, hold):
    """Nor what could never be stored."""
    async with store.transport(overflow=Overflow.BLOCK, buffer=1) as transport:
        async with hold(store), asyncio.timeout(PATIENCE_S):
            transport.publish({"event": "x"})
            await asyncio.sleep(0.05)
            transport.publish({"event": "x"})
            await transport.send({"event": "action_output"})
            await transport.send({"event": "x", "v": "x" * 10_000_000})
        statistics = await transport.flush()
        assert (statistics.filtered, statistics.rejected, statistics.written) == (1, 1, 2)


async def test_the_end_lets_those_go_who_wait(store: AsyncSessionStore, hold):
    """Closed while they wait for room: what they have is late, and nobody hangs."""
    transport = store.transport(overflow=Overflow.BLOCK, buffer=2)
    async with hold(store):
        await transport.open()
        transport.publish({"event": "x"})
        await asyncio.sleep(0.05)
        senders = [asyncio.create_task(transport.send({"event": "x", "n": n})) for n in range(20)]
        await asyncio.sleep(0.05)
        unwritten = await asyncio.wait_for(transport.aclose(0.05), PATIENCE_S)
        await asyncio.wait_for(asyncio.gather(*senders), PATIENCE_S)
    assert (unwritten.events, transport.statistics().late) == (3, 18)
    await check_books(store, transport, unwritten)


async def test_sending_from_another_loop_does_not_wait(store: AsyncSessionStore, hold):
    """An agent on a loop of its own, with BLOCK: it is not held up, and nothing raises; it can flush, too."""

    def elsewhere() -> None:
        async def main() -> None:
            for n in range(10):
                await transport.send({"event": "x", "n": n})

        asyncio.run(main())

    async with store.transport(overflow=Overflow.BLOCK, buffer=3) as transport:
        async with hold(store):
            await asyncio.wait_for(asyncio.to_thread(elsewhere), PATIENCE_S)
        statistics = await asyncio.to_thread(lambda: asyncio.run(transport.flush()))
        assert (statistics.accepted, statistics.waiting) == (10, 0)
        assert statistics.dropped >= 7 - 3
        await check_books(store, transport)


async def test_nothing_is_logged_when_all_goes_well(store: AsyncSessionStore, caplog: pytest.LogCaptureFixture):
    """Nor left behind: no task outlives the transport."""
    with caplog.at_level(logging.DEBUG, "recollect"):
        async with store.transport() as transport:
            for n in range(1_000):
                transport.publish({"event": "x", "n": n})
        assert not await transport.aclose()
    assert not [record for record in caplog.records if record.name == "recollect"]
    assert not [task for task in asyncio.all_tasks() if "transport" in task.get_name()]
