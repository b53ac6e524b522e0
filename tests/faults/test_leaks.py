"""Opened and closed again and again, read slowly, left alone: nothing grows."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

from recollect import AsyncSessionStore, Limits


async def test_opening_and_closing_leaks_nothing(path: Path, descriptors, eventually):
    """50 times, with writes, reads and searches: neither descriptors nor threads grow."""
    counts = []
    for n in range(50):
        async with AsyncSessionStore(path) as store:
            session = await store.sessions.create()
            await store.messages.append(session.id, role="user", content=f"word {n}")
            await asyncio.gather(*(store.messages.count() for _ in range(8)))
            assert [hit async for hit in store.search(f"{n}")]
        counts.append((descriptors(), threading.active_count()))
    await eventually(lambda: _at_most(descriptors, counts[4]))


async def _at_most(descriptors, count: tuple[int, int]) -> bool:
    return descriptors() <= count[0] and threading.active_count() <= count[1]


async def test_stores_in_memory_leak_nothing(descriptors, eventually):
    """The same without a file."""
    async with AsyncSessionStore(":memory:"):
        pass
    before = (descriptors(), threading.active_count())
    for _ in range(50):
        async with AsyncSessionStore(":memory:") as store:
            await store.sessions.create()
    await eventually(lambda: _at_most(descriptors, before))


async def test_a_slow_reader_does_not_hold_back_a_checkpoint(path: Path):
    """A search, a stream and a listing are read a little at a time while 20 MB are written: the log stays small."""
    async with AsyncSessionStore(path, limits=Limits(wal_checkpoint_pages=200)) as store:
        for name in "st":
            await store.sessions.create(name)
        await store.messages.append_many("s", [{"role": "user", "content": f"word {n}"} for n in range(500)])
        await store.flush(index=True)
        slow = [
            store.search("word", order="oldest", limit=None), store.search("word", limit=None), store.messages.stream("s"),
        ]  # fmt: skip
        largest = 0
        for n in range(100):
            for generator in slow:
                await anext(generator)
            await store.messages.append("t", role="user", content=f"{n} " + "x" * 200_000)
            largest = max(largest, path.with_name("store.db-wal").stat().st_size)
        assert largest < 6_000_000
        for generator in slow:
            assert len([each async for each in generator]) == 400


async def test_what_was_done_is_forgotten(memory: AsyncSessionStore):
    """10,000 appends, reads and failures later the store holds no more objects than before."""
    await memory.sessions.create("s")

    async def work(count: int) -> None:
        for _ in range(count // 100):
            appends = [memory.messages.append("s", role="user", content="word") for _ in range(50)]
            failing = [memory.messages.append("nobody", role="user") for _ in range(25)]
            reads = [memory.messages.tail("s", 1) for _ in range(25)]
            await asyncio.gather(*appends, *failing, *reads, return_exceptions=True)
        await memory.flush(index=True)

    await work(2_000)
    gc.collect()
    before = len(gc.get_objects())
    await work(10_000)
    gc.collect()
    assert len(gc.get_objects()) - before < 2_000
