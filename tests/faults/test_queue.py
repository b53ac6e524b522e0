"""The queue in front of the writer: bounded, fair, in order; what is queued is stored or its caller told."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import (
    AsyncSessionStore,
    Limits,
    MessageRef,
    QueueFull,
    SequenceConflict,
    SessionNotFound,
    StoreClosed,
    StoreError,
    WriteUnknown,
)
from recollect.engine.operation import coalescing
from recollect.engine.writer import Lane, Write, Writer, grouped


async def open_with(path: Path | str, **limits: int) -> AsyncSessionStore:
    """A store with these limits and the session `s`."""
    store = await AsyncSessionStore(path, limits=Limits(**limits)).open()
    await store.sessions.create("s")
    await store.flush(index=True)
    return store


async def turns(count: int) -> None:
    """Lets the loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def contents(store: AsyncSessionStore) -> list[str]:
    return [message.content async for message in store.messages.stream("s")]


# -- bounds ----------------------------------------------------------------------------------------


async def test_append_nowait_is_refused_when_the_queue_is_full(path: Path, hold):
    """queue_operations writes are taken, one more is QueueFull and not stored; later there is room again."""
    store = await open_with(path, queue_operations=4)
    try:
        async with hold(store):
            receipts = [store.messages.append_nowait("s", role="user", content=str(n)) for n in range(4)]
            with pytest.raises(QueueFull, match="not stored"):
                store.messages.append_nowait("s", role="user", content="refused")
            assert (await store.stats()).queue_depth == 4
        assert [(await receipt).seq for receipt in receipts] == [1, 2, 3, 4]
        await store.messages.append_nowait("s", role="user", content="4")
        assert await contents(store) == ["0", "1", "2", "3", "4"]
        assert (await store.stats()).queue_high_water >= 4
    finally:
        await store.aclose()


async def test_the_queue_is_bounded_in_bytes(path: Path, hold):
    """What has no room in bytes waits or is refused, however few they are; one too large goes alone."""
    store = await open_with(path, queue_bytes=10_000)
    try:
        async with hold(store):
            first = store.messages.append_nowait("s", role="user", content="x" * 6_000)
            with pytest.raises(QueueFull):
                store.messages.append_nowait("s", role="user", content="y" * 6_000)
            second = store.messages.append_nowait("s", role="user", content="z" * 2_000)
        assert ((await first).seq, (await second).seq) == (1, 2)
        refs = await asyncio.gather(*(store.messages.append("s", role="user", content="L" * 50_000) for _ in range(5)))
        assert [ref.seq for ref in refs] == [3, 4, 5, 6, 7]
    finally:
        await store.aclose()


async def test_waiting_for_room_is_in_order_and_nobody_overtakes(path: Path, hold):
    """A small append that would have room is refused while others wait for more."""
    store = await open_with(path, queue_bytes=10_000)
    try:
        async with hold(store):
            first = store.messages.append_nowait("s", role="user", content="a" * 6_000)
            second = asyncio.create_task(store.messages.append("s", role="user", content="b" * 6_000))
            await asyncio.sleep(0)
            with pytest.raises(QueueFull):
                store.messages.append_nowait("s", role="user", content="c")
            third = asyncio.create_task(store.messages.append("s", role="user", content="d"))
            await asyncio.sleep(0)
        assert [(await each).seq for each in (first, second, third)] == [1, 2, 3]
        assert [each[0] for each in await contents(store)] == ["a", "b", "d"]
    finally:
        await store.aclose()


async def test_backpressure_keeps_the_order_of_calls(path: Path):
    """300 tasks through a queue of two: stored in the order in which they called."""
    store = await open_with(path, queue_operations=2, batch_operations=3)
    try:
        tasks = [asyncio.create_task(store.messages.append("s", role="user", content=str(n))) for n in range(300)]
        await asyncio.gather(*tasks)
        assert await contents(store) == [str(n) for n in range(300)]
        assert (await store.stats()).queue_high_water <= 2
    finally:
        await store.aclose()


@pytest.mark.parametrize(("limits", "largest"), [({"batch_operations": 1}, 1), ({"batch_bytes": 1}, 1), ({}, 50)])
async def test_a_batch_is_bounded(path: Path, hold, limits: dict[str, int], largest: int):
    """batch_operations=1 is no batching; batch_bytes likewise bounds it; a batch has at least one write."""
    store = await open_with(path, **limits)
    try:
        before = await store.stats()
        async with hold(store):
            receipts = [store.messages.append_nowait("s", role="user") for _ in range(50)]
        for receipt in receipts:
            await receipt
        stats = await store.stats()
        assert stats.largest_batch == max(largest, before.largest_batch)
        assert stats.batches - before.batches >= 50 / largest
    finally:
        await store.aclose()


# -- order and isolation ---------------------------------------------------------------------------


async def test_the_order_of_calls_on_a_session_is_the_order_of_commits(any_store: AsyncSessionStore):
    """append, append_many, append_nowait and other writes mixed, over sessions, gathered into batches."""
    chance = random.Random(3)
    names = ["s0", "s1", "s2"]
    for name in names:
        await any_store.sessions.create(name)
    called: dict[str, list[str]] = {name: [] for name in names}
    tasks: list[asyncio.Future[Any]] = []
    for n in range(400):
        name, how = chance.choice(names), chance.choice(["append", "many", "nowait", "usage", "update", "none"])
        if how == "append":
            tasks.append(asyncio.ensure_future(any_store.messages.append(name, role="user", content=f"{n}")))
            called[name].append(f"{n}")
        elif how == "many":
            texts = [f"{n}.{m}" for m in range(chance.randint(0, 3))]
            many = [{"role": "user", "content": text} for text in texts]
            tasks.append(asyncio.ensure_future(any_store.messages.append_many(name, many)))
            called[name] += texts
        elif how == "nowait":
            await asyncio.sleep(0)  # lets the tasks above make their calls
            any_store.messages.append_nowait(name, role="user", content=f"{n}")
            called[name].append(f"{n}")
        elif how == "usage":
            tasks.append(asyncio.ensure_future(any_store.usage.record_round(name, round_index=n)))
        elif how == "update":
            tasks.append(asyncio.ensure_future(any_store.sessions.update(name, model=f"{n}")))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    await any_store.flush()
    for name in names:
        assert [message.content async for message in any_store.messages.stream(name)] == called[name]


async def test_a_failing_item_of_a_coalesced_batch_fails_alone(any_store: AsyncSessionStore, hold):
    """Unknown sessions and conflicts among good appends of one batch: only they fail."""
    await any_store.sessions.create("s")
    async with hold(any_store):
        calls = [
            any_store.messages.append_nowait(
                "nobody" if n % 5 == 1 else "s", role="user", content=str(n), expected_seq=999 if n % 5 == 3 else None
            )
            for n in range(25)
        ]
    outcomes = [await settled(call) for call in calls]
    assert [type(outcome) for outcome in outcomes] == [
        MessageRef, SessionNotFound, MessageRef, SequenceConflict, MessageRef,
    ] * 5  # fmt: skip
    assert await contents(any_store) == [str(n) for n in range(25) if n % 5 in (0, 2, 4)]


async def settled(receipt: Any) -> Any:
    try:
        return await receipt
    except StoreError as error:
        return error


@coalescing
def gathers(items: list[Any]):
    return items
    yield


@coalescing
def gathers_too(items: list[Any]):
    return items
    yield


def alone(*args: Any):
    return args
    yield


WRITES = st.lists(
    st.tuples(st.sampled_from([gathers, gathers_too, alone]), st.sampled_from(["a", "b", "c", None])), min_size=1
)


@given(WRITES)
@settings(derandomize=True, deadline=None, max_examples=250)
def test_grouping_changes_no_order_that_matters(kinds: list[tuple[Any, str | None]]):
    """Each write once; no two of a session change places; nothing crosses a write without a session."""
    writes = [Write(op, (n,), session, 1, None) for n, (op, session) in enumerate(kinds)]
    groups = grouped(list(writes))
    done = [write for group in groups for write in group.writes]
    assert sorted(write.args[0] for write in done) == list(range(len(writes)))
    for group in groups:
        assert {write.op for write in group.writes} == {group.op}
        assert len(group.writes) == 1 or group.op is not alone
    place = {write.args[0]: at for at, write in enumerate(done)}
    group_of = {write.args[0]: at for at, group in enumerate(groups) for write in group.writes}
    for first in range(len(writes)):
        for second in range(first + 1, len(writes)):
            sessions = writes[first].session, writes[second].session
            if sessions[0] == sessions[1] or None in sessions:
                assert place[first] < place[second]
                assert group_of[first] <= group_of[second]


# -- the writer's death ----------------------------------------------------------------------------


async def test_the_death_of_the_writer_fails_everybody_and_nobody_hangs():
    """Whoever is queued, waiting for room, or comes later: not stored. Who was in the batch: unknown."""
    died = asyncio.Event()

    async def commit(groups: list[Any]) -> list[list[Any]]:
        await died.wait()
        raise MemoryError("the engine fell over")

    writer = Writer(commit, operations=2, size=10**6, batch_operations=1, batch_bytes=10**6, committed=lambda: None)
    writer.start()

    async def write() -> Any:
        return await writer.write(alone, (), None, 1, Lane.FOREGROUND)

    tasks = [asyncio.create_task(write()) for _ in range(6)]
    background = asyncio.ensure_future(writer.write(alone, (), None, 1, Lane.BACKGROUND))
    for _ in range(5):
        await asyncio.sleep(0)
    died.set()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*tasks, background, return_exceptions=True)
    assert [type(each) for each in outcomes] == [WriteUnknown, *[StoreClosed] * 6]
    assert all(isinstance(each.__cause__, MemoryError | StoreClosed | WriteUnknown) for each in outcomes)
    with pytest.raises(StoreClosed):
        await write()
    with pytest.raises(StoreClosed):
        writer.submit(alone, (), None, 1)
    with pytest.raises(MemoryError):
        await writer._task
    await writer.stop(1, lambda: None)


async def test_a_cancelled_writer_task_fails_everybody_and_the_store_still_closes(path: Path, hold):
    """Somebody cancels all tasks of the loop: the batch at hand is unknown, the rest not stored."""
    store = await open_with(path)
    async with hold(store):
        receipts = [store.messages.append_nowait("s", role="user") for _ in range(3)]
        for task in asyncio.all_tasks():
            if task.get_name() == "recollect-writer":
                task.cancel()
        async with asyncio.timeout(5):
            outcomes = [await settled(receipt) for receipt in receipts]
    assert {type(each) for each in outcomes} <= {StoreClosed, WriteUnknown}
    with pytest.raises(StoreClosed):
        await store.messages.append("s", role="user")
    async with asyncio.timeout(5):
        await store.aclose()


# -- closing ---------------------------------------------------------------------------------------


async def test_closing_stores_what_is_queued(path: Path, hold):
    """A full queue is drained: every receipt is answered, every message is there after reopening."""
    store = await open_with(path)
    async with hold(store):
        receipts = [store.messages.append_nowait("s", role="user", content=str(n)) for n in range(2000)]
        closing = asyncio.create_task(store.aclose())
        await turns(10)
        with pytest.raises(StoreClosed):
            store.messages.append_nowait("s", role="user")
    await closing
    assert [(await receipt).seq for receipt in receipts] == list(range(1, 2001))
    async with AsyncSessionStore(path) as again:
        assert await contents(again) == [str(n) for n in range(2000)]


async def test_closing_at_once_fails_the_rest_as_not_stored(path: Path, hold):
    """aclose(timeout_s=0): what had not begun is told so, and is not there; the batch at hand is waited for."""
    store = await open_with(path)
    async with hold(store):
        receipts = [store.messages.append_nowait("s", role="user", content=str(n)) for n in range(10)]
        closing = asyncio.create_task(store.aclose(timeout_s=0))
        async with asyncio.timeout(5):
            outcomes = [await settled(receipt) for receipt in receipts]
        assert not closing.done()
    async with asyncio.timeout(5):
        await closing
    assert [(type(each), each.stored) for each in outcomes] == [(StoreClosed, False)] * 10
    async with AsyncSessionStore(path) as again:
        assert await contents(again) == []


async def test_closing_tells_those_who_wait_for_room(path: Path, hold):
    """Nobody who waited in line hangs: each is stored or told that it is not."""
    store = await open_with(path, queue_operations=2)
    async with hold(store):
        tasks = [asyncio.create_task(store.messages.append("s", role="user", content=str(n))) for n in range(10)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.aclose())
        await turns(10)
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await closing
    assert {type(each) for each in outcomes} <= {MessageRef, StoreClosed}
    async with AsyncSessionStore(path) as again:
        stored = await contents(again)
    assert stored == [str(n) for n, each in enumerate(outcomes) if isinstance(each, MessageRef)]
    assert len(stored) >= 2
