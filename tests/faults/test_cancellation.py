"""Cancelled anywhere: nothing torn, nothing acknowledged lost, no transaction left open, no error masked."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from recollect import AsyncSessionStore, Limits, MessageRef

TASKS = 64


async def turns(count: int) -> None:
    """Lets the loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled_after(count: int, calls: list[Any]) -> list[Any]:
    """What became of the calls when all were cancelled after so many turns of the loop."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await turns(count)
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


def refs(outcomes: list[Any]) -> list[MessageRef]:
    """The acknowledged ones; everything else must be a plain CancelledError."""
    assert {type(each) for each in outcomes} <= {MessageRef, asyncio.CancelledError}
    return [each for each in outcomes if isinstance(each, MessageRef)]


async def acknowledged_are_there(store: AsyncSessionStore, acknowledged: dict[MessageRef, str]) -> None:
    stored = {MessageRef(m.id, m.seq): m.content async for m in store.messages.stream("s")}
    assert acknowledged.items() <= stored.items()
    assert [ref.seq for ref in stored] == list(range(1, len(stored) + 1))
    assert len(set(stored.values())) == len(stored), "nothing is stored twice"
    assert await store.messages.count("s") == len(stored)


async def test_a_storm_of_cancelled_appends_leaves_a_sound_store(
    store: AsyncSessionStore, path: Path, sound: Callable[[Path], None]
):
    """64 tasks, cancelled after every number of turns from 0 to 40: what was acknowledged is there."""
    await store.sessions.create("s")
    acknowledged: dict[MessageRef, str] = {}
    for count in range(41):
        texts = [f"{count}-{n}" for n in range(TASKS)]
        outcomes = await cancelled_after(count, [store.messages.append("s", role="user", content=t) for t in texts])
        acknowledged |= {each: t for each, t in zip(outcomes, texts, strict=True) if each in refs(outcomes)}
        after = await store.messages.append("s", role="user", content=f"after {count}")
        acknowledged[after] = f"after {count}"
    await acknowledged_are_there(store, acknowledged)
    assert len([hit async for hit in store.search("after", limit=None)]) == 41
    sound(path)


async def test_tasks_cancelled_one_by_one_do_not_harm_their_batch(memory: AsyncSessionStore):
    """Every other task of a batch is cancelled: the others are all answered, the store goes on."""
    await memory.sessions.create("s")
    for count in range(12):
        tasks = [
            asyncio.create_task(memory.messages.append("s", role="user", content=f"{count}-{n}")) for n in range(TASKS)
        ]
        await turns(count)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        refs(outcomes)
        assert all(isinstance(each, MessageRef) for each in outcomes[1::2])


async def test_a_write_cancelled_before_its_batch_is_not_stored(store: AsyncSessionStore, hold):
    """While it is queued, cancelling drops it; the ones around it are stored."""
    await store.sessions.create("s")
    async with hold(store):
        tasks = [asyncio.create_task(store.messages.append("s", role="user", content=str(n))) for n in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks[::2])
    await asyncio.gather(*tasks[1::2])
    assert [m.content async for m in store.messages.stream("s")] == ["1", "3", "5", "7", "9"]


async def test_a_write_cancelled_in_its_batch_is_stored_whole(store: AsyncSessionStore):
    """Once its batch was taken, the write completes; only its answer is dropped."""
    await store.sessions.create("s")
    entered, release = threading.Event(), threading.Event()

    def slow():
        entered.set()
        release.wait(10)
        from recollect.engine.operation import execute

        yield execute("UPDATE sessions SET user_id = 'changed' WHERE id = 's'")

    task = asyncio.create_task(store.write(slow))
    await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await store.flush()
    assert (await store.sessions.get("s")).user_id == "changed"


async def test_cancelled_scopes_end_at_once_and_are_not_masked(any_store: AsyncSessionStore):
    """In an anyio scope that is cancelled, before or after a moment, every call ends as cancelled."""
    await any_store.sessions.create("s")

    async def search() -> None:
        async for _ in any_store.search("word"):
            pass

    calls = (
        lambda: any_store.messages.append("s", role="user", content="word"), lambda: any_store.messages.list("s"),
        lambda: any_store.sessions.create(), lambda: any_store.flush(index=True), search,
        lambda: any_store.query("SELECT 1"), lambda: any_store.usage.record_round("s", round_index=0),
    )  # fmt: skip
    for call in calls:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await call()
            pytest.fail("the call went on in a cancelled scope")
        assert scope.cancelled_caught
        for delay in (0, 0.0001, 0.0003, 0.001):
            with anyio.move_on_after(delay):
                for _ in range(1000):
                    await call()
                pytest.fail("it never ended")
    assert (await any_store.messages.append("s", role="user")).seq == await any_store.messages.count("s")


async def test_cancelling_those_who_wait_for_room_gives_their_room_to_others(path: Path, hold):
    """Whoever is cancelled in the queue for room, at any moment, holds nothing up and keeps no room."""
    async with AsyncSessionStore(path, limits=Limits(queue_operations=3, batch_operations=2)) as store:
        await store.sessions.create("s")
        chance = random.Random(7)
        for count in range(12):
            async with hold(store):
                tasks = [
                    asyncio.create_task(store.messages.append("s", role="user", content=f"{count}-{n}"))
                    for n in range(32)
                ]
                await turns(2)
                for task in chance.sample(tasks, 10):
                    task.cancel()
            await turns(count)
            for task in chance.sample(tasks, 8):
                task.cancel()
            async with asyncio.timeout(10):
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            answered = refs(outcomes)
            assert [ref.seq for ref in answered] == sorted(ref.seq for ref in answered)
            assert len(answered) >= 14
        async with hold(store):
            receipts = [store.messages.append_nowait("s", role="user") for _ in range(3)]
        for receipt in receipts:
            await receipt


async def test_cancelled_reads_give_their_readers_back(path: Path, eventually):
    """64 reads and searches, cancelled after every number of turns: two readers serve everybody after."""
    async with AsyncSessionStore(path, limits=Limits(readers=2)) as store:
        await store.sessions.create("s")
        await store.messages.append_many("s", [{"role": "user", "content": f"word {n}"} for n in range(300)])
        await store.flush(index=True)

        async def search(order: str) -> int:
            return len([hit async for hit in store.search("word", order=order, limit=None)])

        for count in range(25):
            calls = [
                make()
                for _ in range(TASKS // 4)
                for make in (
                    lambda: search("newest"), lambda: search("relevance"), lambda: store.messages.list("s"),
                    lambda: store.sessions.get("s"),
                )
            ]  # fmt: skip
            outcomes = await cancelled_after(count, calls)
            assert not [each for each in outcomes if isinstance(each, Exception)]
            async with asyncio.timeout(10):
                assert await search("newest") == 300

        async def idle() -> bool:
            return (await store.stats()).readers_busy <= 1  # the one that tells

        await eventually(idle)
        assert (await store.stats()).readers <= 2


@pytest.mark.parametrize("again", ["open", "aclose"])
async def test_an_open_cancelled_anywhere_leaves_nothing_behind(path: Path, eventually, again: str):
    """After every number of turns: no thread, no lock; another open succeeds, a close is harmless."""
    before = threading.active_count()
    for count in range(20):
        store = AsyncSessionStore(path)
        outcomes = await cancelled_after(count, [store.open()])
        assert type(outcomes[0]) in (AsyncSessionStore, asyncio.CancelledError)
        if again == "open":
            async with asyncio.timeout(10):
                await store.open()
            await store.sessions.create()
        await store.aclose()

    async def nothing_runs() -> bool:
        return threading.active_count() <= before

    await eventually(nothing_runs)


async def test_a_close_cancelled_anywhere_can_be_finished(path: Path, eventually):
    """After every number of turns: a second close closes what the first did not, and what was queued is stored."""
    before = threading.active_count()

    async def nothing_runs() -> bool:
        return threading.active_count() <= before

    for count in range(20):
        store = await AsyncSessionStore(path).open()
        session = await store.sessions.create()
        store.messages.append_nowait(session.id, role="user")
        outcomes = await cancelled_after(count, [store.aclose()])
        assert type(outcomes[0]) in (type(None), asyncio.CancelledError)
        async with asyncio.timeout(10):
            await store.aclose()
        await eventually(nothing_runs)
    async with AsyncSessionStore(path) as store:
        assert await store.messages.count() == await store.sessions.count() == 20
