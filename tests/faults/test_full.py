"""The disk is full: callers are told, reads go on, and writing resumes when there is room."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from recollect import AsyncSessionStore, MessageRef, StoreError, StoreFull
from recollect.engine.operation import one

PAGES = 120


def connect(database: str, **options: object) -> sqlite3.Connection:
    """A disk of PAGES pages, for whoever writes."""
    connection = sqlite3.connect(database, **options)
    if not options.get("uri"):
        connection.execute(f"PRAGMA max_page_count={PAGES}")
    return connection


def room(pages: int):
    yield one(f"PRAGMA max_page_count={pages:d}")


@pytest.fixture
async def small(path: Path) -> AsyncIterator[AsyncSessionStore]:
    """A store with little room, the session `s` and one indexed message."""
    async with AsyncSessionStore(path, connect=connect) as store:
        await store.sessions.create("s")
        await store.messages.append("s", role="user", content="early word")
        await store.flush(index=True)
        yield store


async def fill(store: AsyncSessionStore) -> int:
    """Appends until there is no room; how many went in."""
    for n in range(10_000):
        try:
            await store.messages.append("s", role="user", content=f"word {n} " + "x" * 3_000)
        except StoreFull:
            return n
    raise AssertionError("it was never full")


async def test_a_full_disk_is_told_and_nothing_is_half_stored(small: AsyncSessionStore, path: Path, sound):
    """StoreFull for every caller of the batch; what was acknowledged stays, counters and rows agree."""
    stored = await fill(small)
    assert stored > 3
    outcomes = await asyncio.gather(
        *(small.messages.append("s", role="user", content="y" * 9_000) for _ in range(20)), return_exceptions=True
    )
    assert {type(each) for each in outcomes} == {StoreFull}
    assert {(each.stored, "not stored" in str(each)) for each in outcomes} == {(False, True)}
    assert await small.messages.count("s") == len(await small.messages.list("s")) == stored + 1
    sound(path)


async def test_reads_and_search_go_on_when_the_disk_is_full(small: AsyncSessionStore):
    """History, listings, queries and what is indexed are there; a search raises nothing."""
    stored = await fill(small)
    assert (await small.messages.get("s", 1)).content == "early word"
    assert len(await small.messages.tail("s", 5)) == 5
    assert (await small.sessions.list()).items[0].message_count == stored + 1
    assert [hit.seq async for hit in small.search("early")] == [1]
    assert (await small.stats()).messages == stored + 1


async def test_writing_resumes_when_there_is_room(small: AsyncSessionStore, path: Path, sound):
    """Without reopening: appends succeed, seq goes on without a gap, the index catches up."""
    stored = await fill(small)
    with pytest.raises(StoreFull):
        await small.messages.append("s", role="user", content="z" * 20_000)
    await small.write(room, 100_000)
    ref = await small.messages.append("s", role="user", content="late word " + "z" * 20_000)
    assert ref.seq == stored + 2
    async with asyncio.timeout(20):
        while True:
            try:
                await small.flush(index=True)
                break
            except StoreError:  # the keeper had met the full disk just before
                continue
    assert len([hit async for hit in small.search("word", limit=None)]) == stored + 2
    sound(path)


async def test_a_write_that_fits_is_stored_while_a_large_one_is_refused(small: AsyncSessionStore):
    """One that does not fit fails with its batch; a small one afterwards is stored."""
    with pytest.raises(StoreFull):
        await small.messages.append("s", role="user", content="x" * 4096 * PAGES * 2)
    assert isinstance(await small.messages.append("s", role="user", content="fits"), MessageRef)
    receipt = small.messages.append_nowait("s", role="user", content="x" * 4096 * PAGES * 2)
    with pytest.raises(StoreFull):
        await small.flush()
    assert receipt.done()


async def test_a_store_that_was_full_closes_and_opens_again(path: Path, sound):
    """Closing does not need room, and the next open finds everything."""
    async with AsyncSessionStore(path, connect=connect) as store:
        await store.sessions.create("s")
        stored = await fill(store)
    async with AsyncSessionStore(path) as store:
        assert await store.messages.count("s") == stored
        await store.flush(index=True)
        assert len([hit async for hit in store.search("word", limit=None)]) == stored
    sound(path)
