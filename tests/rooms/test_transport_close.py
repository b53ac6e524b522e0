"""The end of a transport: what it writes, for how long, what it says it could not, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import warnings
from pathlib import Path

import pytest

from recollect import AsyncSessionStore, EventTransport, StoreClosed, Timeouts, Unwritten

from .accounts import check_books, check_sums, outside
from .engines import ON_FILES

PATIENCE_S = 10


def publish_some(transport: EventTransport, n: int, start: int = 0) -> None:
    for k in range(start, start + n):
        transport.publish({"event": "x", "n": k})


def numbers(path: Path) -> list[int]:
    return [payload["n"] for payload in outside(path)]


async def test_closing_drains(store: AsyncSessionStore, path: Path):
    """All that was published is written; closing again says the same; what comes later is counted as late."""
    transport = store.transport()
    await transport.open()
    await transport.open()
    publish_some(transport, 3_000)
    unwritten = await transport.aclose()
    assert unwritten == Unwritten(0, 0, None)
    assert not unwritten
    publish_some(transport, 5)
    await transport.send({"event": "x"})
    assert await transport.aclose(0) is unwritten
    statistics = await transport.flush()
    assert (statistics.written, statistics.late, statistics.state) == (3_000, 6, "closed")
    assert numbers(path) == list(range(3_000))
    await check_books(store, transport, unwritten)


async def test_what_is_unwritten_is_not_stored_and_what_is_written_is(
    store: AsyncSessionStore, path: Path, hold, caplog
):
    """The store is held: closing returns in time, with the exact number; when it is let go, nothing more comes."""
    transport = store.transport(buffer=1_000)
    await transport.open()
    publish_some(transport, 500)
    await transport.flush()
    async with hold(store):
        publish_some(transport, 2_000, start=500)
        transport.publish({"event": "x", "v": "x" * 10_000_000})
        began = time.monotonic()
        unwritten = await transport.aclose(0.2)
        assert time.monotonic() - began < 5
        assert transport.statistics().written == 500
    assert unwritten.events == 1_000
    assert unwritten.untold == 1_001
    assert unwritten.reason == "the time to close was over"
    await store.flush()
    assert numbers(path) == list(range(500))
    await check_books(store, transport, unwritten)
    assert "1000 events unwritten" in caplog.text


async def test_time_that_is_over_at_once(store: AsyncSessionStore, path: Path):
    """No time at all: in whatever moment it comes, the number is exact."""
    for n in range(30):
        transport = store.transport()
        await transport.open()
        publish_some(transport, 400, start=n * 1_000)
        for _ in range(n):
            await asyncio.sleep(0)
        unwritten = await transport.aclose(0)
        await store.flush()
        found = [k for k in numbers(path) if k // 1_000 == n]
        assert found == list(range(n * 1_000, n * 1_000 + 400 - unwritten.events))
        assert transport.statistics().written == len(found)


async def test_closed_by_many_and_cancelled(store: AsyncSessionStore, path: Path):
    """Whoever is cancelled leaves, the closing goes on to its end; all others get the same report."""
    transport = store.transport()
    await transport.open()
    publish_some(transport, 5_000)
    closing = [asyncio.create_task(transport.aclose()) for _ in range(5)]
    await asyncio.sleep(0)
    closing[0].cancel()
    closing[3].cancel()
    reports = await asyncio.gather(*closing, return_exceptions=True)
    assert [type(report).__name__ for report in reports] == [
        "CancelledError", "Unwritten", "Unwritten", "CancelledError", "Unwritten",
    ]  # fmt: skip
    assert numbers(path) == list(range(5_000))


async def test_closing_while_threads_publish(store: AsyncSessionStore):
    """Each event is written, or late, and the books agree."""
    transport = store.transport()
    await transport.open()
    threads = [threading.Thread(target=publish_some, args=(transport, 3_000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.sleep(0.005)
    unwritten = await transport.aclose()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    statistics = transport.statistics()
    assert (statistics.published, statistics.waiting) == (12_000, 0)
    await check_books(store, transport, unwritten)
    assert not unwritten


async def test_flush_at_the_end(store: AsyncSessionStore, hold):
    """Before the opening, after the end and disabled it returns at once; one that waits is let go by the closing."""
    transport = store.transport()
    publish_some(transport, 1)
    assert (await transport.flush()).waiting == 1
    async with hold(store):
        await transport.open()
        flushing = asyncio.create_task(transport.flush())
        await asyncio.sleep(0.05)
        assert not flushing.done()
        unwritten = await transport.aclose(0)
        assert (await asyncio.wait_for(flushing, PATIENCE_S)).unwritten == 1
    assert unwritten.events == 1
    assert (await transport.flush()).state == "closed"


async def test_a_flush_that_is_cancelled_disturbs_nobody(store: AsyncSessionStore, hold):
    """The others that wait are answered."""
    async with store.transport() as transport:
        async with hold(store):
            publish_some(transport, 10)
            flushing = [asyncio.create_task(transport.flush()) for _ in range(3)]
            await asyncio.sleep(0.02)
            flushing[1].cancel()
        done = await asyncio.wait_for(asyncio.gather(*flushing, return_exceptions=True), PATIENCE_S)
        assert [getattr(each, "written", None) for each in done] == [10, None, 10]


# -- with its store --------------------------------------------------------------------------------


async def test_closing_the_store_closes_its_transports_first(path: Path):
    """Several, also one of a user: everything is in it, and what comes later is late."""
    store = await AsyncSessionStore(path).open()
    transports = [store.transport(), store.scoped(user_id="ada").transport(), store.transport()]
    for transport in transports:
        await transport.open()
        publish_some(transport, 1_000)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(store.aclose(), transports[2].aclose(), store.aclose())
    publish_some(transports[0], 7)
    for transport in transports:
        assert await transport.aclose() == Unwritten(0, 0, None)
        assert transport.statistics().written == 1_000
    assert transports[0].statistics().late == 7
    assert len(outside(path)) == 3_000


async def test_a_store_that_is_held_closes_in_its_time(path: Path, hold):
    """One deadline for the transport and the queue behind it, not one for each."""
    store = await AsyncSessionStore(path).open()
    transport = store.transport()
    await transport.open()
    async with hold(store):
        publish_some(transport, 100)
        waiting = asyncio.create_task(store.sessions.create("s"))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        closing = asyncio.create_task(store.aclose(timeout_s=0.6))
        unwritten = await transport.aclose()
        with pytest.raises(StoreClosed):
            await waiting
        assert time.monotonic() - began < 1.1
    await asyncio.wait_for(closing, PATIENCE_S)
    assert (unwritten.events, outside(path)) == (100, [])


async def test_a_transport_opens_and_closes_a_store_that_is_not_open(path: Path):
    """It is its owner then; the store can be used meanwhile, and is closed with it."""
    store = AsyncSessionStore(path)
    async with store.transport() as transport:
        publish_some(transport, 10)
        await store.sessions.create("s")
    assert not store.is_open
    assert numbers(path) == list(range(10))
    async with store, store.transport() as transport:
        publish_some(transport, 10)
    assert not store.is_open
    assert len(numbers(path)) == 20


async def test_the_owner_and_the_store_closed_at_once(path: Path):
    """By whichever begins: both end, nobody waits for the other for ever."""
    for first in ("store", "transport"):
        store = AsyncSessionStore(path)
        transport = store.transport()
        await transport.open()
        publish_some(transport, 100)
        both = [transport.aclose(), store.aclose()]
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(reversed(both) if first == "store" else both))
        assert not store.is_open
    assert len(numbers(path)) == 200


async def test_what_is_published_before_the_opening_is_written(store: AsyncSessionStore, path: Path):
    """It waits in the buffer; without an opening it is unwritten, and a transport that was closed stays so."""
    transport = store.transport()
    publish_some(transport, 10)
    await asyncio.gather(transport.open(), transport.open())
    assert (await transport.flush()).written == 10
    await transport.aclose()
    never = store.transport()
    publish_some(never, 10)
    assert await never.aclose() == Unwritten(10, 0, "it was not opened")
    await never.open()
    await transport.open()
    publish_some(never, 1)
    assert (never.statistics().late, never.statistics().state) == (1, "closed")
    assert numbers(path) == list(range(10))


async def test_opened_and_closed_at_once(path: Path):
    """Whoever is first: nothing stays open, nothing hangs."""
    for n in range(2):
        store = AsyncSessionStore(path)
        transport = store.transport()
        publish_some(transport, 10)
        calls = [transport.open(), transport.aclose()]
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(calls if n else reversed(calls)))
        assert not store.is_open
        check_sums(transport.statistics())


async def test_an_opening_that_is_cancelled_can_be_repeated(path: Path):
    """And leaves no store open."""
    store = AsyncSessionStore(path)
    transport = store.transport()
    opening = asyncio.create_task(transport.open())
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    publish_some(transport, 3)
    async with transport:
        assert (await transport.flush()).written == 3
    await store.aclose()


# -- with its event loop ---------------------------------------------------------------------------


@pytest.mark.recollect_leaves_open
def test_an_event_loop_that_ends_before_it(path: Path, caplog: pytest.LogCaptureFixture):
    """Nothing hangs, nothing raises: what was not written is counted and told, and what comes later too."""
    kept: list[EventTransport] = []

    async def main() -> None:
        store = await AsyncSessionStore(path).open()
        transport = store.transport()
        kept.append(transport)
        await transport.open()
        publish_some(transport, 10)
        await transport.flush()
        publish_some(transport, 5_000, start=10)

    began = time.monotonic()
    asyncio.run(main())
    (transport,) = kept
    publish_some(transport, 7)
    statistics = transport.statistics()
    check_sums(statistics)
    assert (statistics.waiting, statistics.state, statistics.error) == (0, "disabled", "its event loop ended")
    assert statistics.written + statistics.unwritten == 5_017
    assert f"{5_000 - (statistics.written - 10)} events unwritten" in caplog.text
    transport.sync().close()
    publish_some(transport, 1)
    assert transport.statistics().late == 1
    unwritten = asyncio.run(transport.aclose())
    assert (unwritten.events, unwritten.reason) == (statistics.unwritten, "its event loop ended")
    assert asyncio.run(transport.aclose()) is unwritten
    assert time.monotonic() - began < PATIENCE_S
    del transport, kept[:]
    assert "never closed" in told_of_what_is_left()


def told_of_what_is_left() -> str:
    """The warnings that come as it goes: that of the store, and the driver's of its connections."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    return "\n".join(str(warning.message) for warning in caught)


@pytest.mark.recollect_leaves_open
@ON_FILES  # the tasks of another driver complain, each for itself
def test_an_event_loop_that_is_closed_with_it_running(path: Path):
    """Not even cancelled: who publishes then, from several threads, finds out and is not told."""
    loop = asyncio.new_event_loop()
    store = loop.run_until_complete(AsyncSessionStore(path).open())
    transport = store.transport()
    loop.run_until_complete(transport.open())
    publish_some(transport, 100)
    loop.run_until_complete(transport.flush())
    tasks = asyncio.all_tasks(loop)
    loop.run_until_complete(asyncio.sleep(0.01))
    for task in tasks:
        if "transport" not in task.get_name():
            task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    threads = [threading.Thread(target=publish_some, args=(transport, 500)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statistics = transport.statistics()
    check_sums(statistics)
    assert (statistics.written, statistics.unwritten, statistics.state) == (100, 2_000, "disabled")
    assert asyncio.run(transport.aclose()).events == 2_000
    logging.getLogger("asyncio").disabled = True  # "Task was destroyed but it is pending": it was
    try:
        del store, transport, tasks, task
        with pytest.warns(ResourceWarning, match="never closed"):
            gc.collect()
    finally:
        logging.getLogger("asyncio").disabled = False


async def test_closed_from_another_loop(store: AsyncSessionStore, path: Path):
    """It closes where it lives, and whoever asked waits for it."""
    transport = store.transport()
    await transport.open()
    publish_some(transport, 1_000)
    assert not await asyncio.to_thread(lambda: asyncio.run(transport.aclose()))
    assert numbers(path) == list(range(1_000))


async def test_the_task_cancelled_by_somebody(store: AsyncSessionStore):
    """By a framework that ends all tasks before it closes what it opened: counted, told, and closing works."""
    transport = store.transport()
    await transport.open()
    publish_some(transport, 10)
    for task in asyncio.all_tasks():
        if task.get_name() == "recollect-transport":
            task.cancel()
    await asyncio.sleep(0)
    publish_some(transport, 10)
    unwritten = await asyncio.wait_for(transport.aclose(), PATIENCE_S)
    assert unwritten.events == 20 - transport.statistics().written
    await check_books(store, transport, unwritten)


async def test_nothing_is_left_behind(path: Path, eventually):
    """Neither tasks nor transports, of fifty that came and went."""
    async with AsyncSessionStore(path, timeouts=Timeouts(close_s=5)) as store:
        before = len(asyncio.all_tasks())
        for _ in range(50):
            async with store.transport() as transport:
                publish_some(transport, 3)

        async def no_task_is_left() -> bool:
            return len(asyncio.all_tasks()) <= before + 1  # one with which the keeper waits for the next commit

        await eventually(no_task_is_left)  # the store may still be telling others of the last one
        assert not store._transports
    assert len(numbers(path)) == 150
