"""The keeper: errors that pass and errors that do not, rows that cannot be read, an index of a newer one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from recollect import AsyncSessionStore, Limits, ReadOnly, StoreBusy, StoreError, StoreFull
from recollect.engine.fulltext import IndexDamaged
from recollect.engine.operation import execute
from recollect.engine.writer import Lane
from recollect.errors import SchemaTooNew, StoreDamaged, StoreReplaced
from recollect.search import index, keeper
from recollect.search.erase import erase_chunk
from recollect.search.index import VERSION, Damaged, Lag, read_lag


async def append(store: AsyncSessionStore, text: str = "word", session: str = "s") -> None:
    await store.sessions.ensure(session)
    await store.messages.append(session, role="user", content=text)


async def count(store: AsyncSessionStore, query: str = "word") -> int:
    return len([hit async for hit in store.search(query, limit=None)])


def failing(
    monkeypatch: pytest.MonkeyPatch, store: AsyncSessionStore, error: Exception, times: int = 10**6
) -> list[Any]:
    """The next chunks of the index raise; how often it was tried."""
    tried: list[Any] = []
    real = store._keeper._write

    async def write(op: Any, *args: Any, **options: Any) -> Any:
        if op is index.index_chunk:
            tried.append(op)
            if len(tried) <= times:
                raise error
        return await real(op, *args, **options)

    monkeypatch.setattr(store._keeper, "_write", write)
    return tried


@pytest.mark.parametrize("error", [StoreReplaced("gone"), StoreDamaged("broken"), ReadOnly("locked")], ids=repr)
async def test_an_error_that_does_not_pass_is_said_once_and_ends_it(
    store: AsyncSessionStore, monkeypatch, caplog, error: StoreError
) -> None:
    """Whoever waits is told at once, whoever comes later too; nothing is tried again."""
    tried = failing(monkeypatch, store, error)
    for _ in range(3):
        await append(store)
        with pytest.raises(type(error), match=str(error)):
            async with asyncio.timeout(5):
                await store.flush(index=True)
    assert len(tried) == 1
    assert len([r for r in caplog.records if str(error) in r.message and "not kept up" in r.message]) == 1
    assert await count(store) == 0, "search answers from what there is"


@pytest.mark.parametrize("error", [StoreBusy("held"), StoreFull("full"), ZeroDivisionError("a bug")], ids=repr)
async def test_an_error_that_may_pass_is_waited_out(
    store: AsyncSessionStore, monkeypatch, caplog, eventually, error
) -> None:
    """Whoever waits, or comes during the pause, is told promptly; then the work goes on."""
    monkeypatch.setattr(keeper, "PAUSE_S", 1.0)
    tried = failing(monkeypatch, store, error, times=1)
    await append(store)
    for _ in range(3):  # the first when it fails, the others during the pause
        with pytest.raises(StoreError, match=str(error)):
            async with asyncio.timeout(5):
                await store.flush(index=True)
    assert len(tried) == 1, "nobody was told only after another try"

    async def indexed() -> bool:
        return not (await store.stats()).index_lag

    await eventually(indexed)
    await store.flush(index=True)
    assert await count(store) == 1
    assert len([r for r in caplog.records if "not kept up" in r.message]) == 1


async def test_a_row_that_cannot_be_segmented_is_passed_over(store: AsyncSessionStore, monkeypatch, caplog) -> None:
    """It is counted as not indexed; the rows after it are found, and it can be deleted with them."""
    real = index.segment

    def segment(text: str) -> str:
        if "poison" in text:
            raise RecursionError("too deep")
        return real(text)

    monkeypatch.setattr(index, "segment", segment)
    for text in ("word", "word poison", "word"):
        await append(store, text)
    async with asyncio.timeout(5):
        await store.flush(index=True)
    assert await count(store) == 2
    assert (await store.stats()).unindexed_bytes == len("word poison")
    await store.sessions.delete("s")
    while await store.write(erase_chunk, store._engine.fulltext):
        pass
    assert (await store.query("SELECT COUNT(*) AS n FROM search_index_docsize"))[0].n == 0


async def test_erasing_does_not_keep_the_index_behind(store: AsyncSessionStore, monkeypatch, eventually) -> None:
    """After every chunk erased, what is to be indexed comes first."""
    for n in range(5):
        await store.sessions.create(f"gone{n}")
        await store.messages.append_many(f"gone{n}", [{"role": "user", "content": "old"}] * 100)
    await append(store)
    await store.flush(index=True)
    done: list[str] = []
    real = store._keeper._write

    async def write(op: Any, *args: Any, **options: Any) -> Any:
        if op is erase_chunk:
            await store.messages.append("s", role="user", content="word")  # there is something to index again
        if op in (erase_chunk, index.index_chunk):
            done.append(op.__name__)
        return await real(op, *args, **options)

    monkeypatch.setattr(store._keeper, "_write", write)
    for n in range(5):
        await store.sessions.delete(f"gone{n}")

    async def all_gone() -> bool:
        return (await store.query("SELECT COUNT(*) AS n FROM sessions"))[0].n == 1

    await eventually(all_gone)
    erased = [at for at, name in enumerate(done) if name == "erase_chunk"]
    assert len(erased) >= 15
    assert all(done[at - 1] == "index_chunk" for at in erased[1:])


def test_the_backlog_is_bounded_in_bytes_too() -> None:
    """Few long rows are as far behind as many short ones, as far as the last chunk tells."""
    work = keeper.Keeper(None, Limits(index_backlog=1000))  # type: ignore[arg-type]
    behind = Lag(0, 1000, VERSION, 0)
    assert work._pace(behind)[0] is Lane.BACKGROUND
    assert work._pace(behind._replace(last=1001))[0] is Lane.ALTERNATE
    work._row_bytes = 10 * keeper.BACKLOG_ROW
    assert work._pace(behind._replace(last=100))[0] is Lane.BACKGROUND
    assert work._pace(behind._replace(last=101))[0] is Lane.ALTERNATE


# -- damage ----------------------------------------------------------------------------------------


async def test_searches_that_meet_damage_condemn_it_once(store: AsyncSessionStore) -> None:
    """Those that saw the state before do not restart the rebuild that another has begun."""
    await append(store)
    await store.flush(index=True)
    lag = await store.read(read_lag)
    seen = Damaged(IndexDamaged("damaged"), lag.watermark, lag.version)
    before = store._keeper.rebuilds
    await asyncio.gather(*(store._keeper.damaged(seen) for _ in range(5)))
    assert store._keeper.rebuilds == before + 1
    async with asyncio.timeout(5):
        await store.flush(index=True)
    assert await count(store) == 1


# -- an index of a newer one -----------------------------------------------------------------------


def _newer():
    yield execute("UPDATE index_state SET version = :version", version=VERSION + 100)


@pytest.fixture
async def newer(store: AsyncSessionStore) -> AsyncSessionStore:
    """One message is indexed, by a newer recollect, and one is not."""
    await append(store, "word one")
    await store.flush(index=True)
    await store.write(_newer)
    await append(store, "word two")
    return store


async def test_a_newer_index_is_searched_and_not_waited_for(newer: AsyncSessionStore) -> None:
    """The barrier says what is the matter, at once; a search answers from what there is."""
    with pytest.raises(SchemaTooNew, match="Upgrade"):
        async with asyncio.timeout(5):
            await newer.flush(index=True)
    async with asyncio.timeout(1.5):  # a search waits for 2 s where there is hope
        assert await count(newer) == 1


async def test_a_newer_index_is_left_to_the_newer_one(newer: AsyncSessionStore) -> None:
    """Deleted rows stay until it takes them out with its own words; damage is its to mend."""
    await newer.sessions.delete("s")
    assert await newer.write(erase_chunk, newer._engine.fulltext) is False
    assert (await newer.query("SELECT COUNT(*) AS n FROM messages"))[0].n == 2
    lag = await newer.read(read_lag)
    await newer._keeper.damaged(Damaged(IndexDamaged("damaged"), lag.watermark, lag.version))
    assert (await newer.read(read_lag)).version == VERSION + 100
    assert (await newer.query("SELECT COUNT(*) AS n FROM search_index_docsize"))[0].n == 1
    assert await count(newer) == 0


async def test_an_older_index_is_still_made_anew(store: AsyncSessionStore) -> None:
    """The rule between versions goes one way."""
    await append(store)
    await store.flush(index=True)
    await store.write(_older)
    await append(store)
    async with asyncio.timeout(5):
        await store.flush(index=True)
    assert await count(store) == 2
    assert (await store.read(read_lag)).version == VERSION


def _older():
    yield execute("UPDATE index_state SET version = 1")
