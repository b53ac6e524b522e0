"""A damaged search index never stops a write; search answers from what there is, and it is rebuilt."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from recollect import AsyncSessionStore

from .engines import ON_FILES

pytestmark = ON_FILES

ROWS = 300

DAMAGE = {
    "data dropped": ["DROP TABLE search_index_data"],
    "idx dropped": ["DROP TABLE search_index_idx"],
    "docsize dropped": ["DROP TABLE search_index_docsize"],
    "config dropped": ["DROP TABLE search_index_config"],
    "all dropped": [f"DROP TABLE search_index_{name}" for name in ("data", "idx", "docsize", "config")],
    "data emptied": ["DELETE FROM search_index_data"],
    "structure garbled": ["UPDATE search_index_data SET block = x'deadbeefdeadbeef' WHERE id = 10"],
    "averages garbled": ["UPDATE search_index_data SET block = x'ffff' WHERE id = 1"],
    "pages garbled": ["UPDATE search_index_data SET block = randomblob(length(block)) WHERE id > 10"],
    "pages zeroed": ["UPDATE search_index_data SET block = zeroblob(length(block)) WHERE id > 10"],
    "pages cut": ["UPDATE search_index_data SET block = substr(block, 1, 3) WHERE id > 10"],
    "config emptied": ["DELETE FROM search_index_config"],
    "version unknown": ["UPDATE search_index_config SET v = 99 WHERE k = 'version'"],
    "index dropped": ["DROP TABLE search_index"],
    "index forgotten, its tables kept": [
        "PRAGMA writable_schema=ON", "DELETE FROM sqlite_schema WHERE name = 'search_index'",
        "PRAGMA writable_schema=OFF", "CREATE TABLE reload (x)", "DROP TABLE reload",
    ],
}  # fmt: skip


def damage(path: Path, statements: list[str]) -> None:
    """From another connection, as another process would; not by opening the file ourselves."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


@pytest.fixture
async def indexed(store: AsyncSessionStore) -> AsyncSessionStore:
    """300 messages that are all indexed."""
    await store.sessions.create("s", user_id="u")
    await store.messages.append_many("s", [{"role": "user", "content": f"word w{n}"} for n in range(ROWS)])
    await store.flush(index=True)
    return store


@pytest.mark.parametrize("statements", DAMAGE.values(), ids=DAMAGE.keys())
async def test_damage_to_the_index_is_survived(indexed: AsyncSessionStore, path: Path, statements: list[str]):
    """Appends go on, searches raise nothing, and after the barrier everything is found again, once."""
    damage(path, statements)
    for n in range(3):
        await indexed.messages.append("s", role="user", content=f"word later{n}")
        for options in ({}, {"order": "newest"}, {"user_id": "u"}, {"session": "s", "order": "oldest"}):
            assert len([hit async for hit in indexed.search("word", limit=None, **options)]) <= ROWS + n + 1
    async with asyncio.timeout(10):
        await indexed.flush(index=True)
    for options in ({"order": "newest"}, {}, {"user_id": "u"}, {"session": "s"}):
        found = [hit.seq async for hit in indexed.search("word", limit=None, **options)]
        assert sorted(found) == list(range(1, ROWS + 4))
    assert [hit.seq async for hit in indexed.search("w7")] == [8]
    stats = await indexed.stats()
    assert (stats.index_state, stats.index_lag) == ("ready", 0)


@pytest.mark.parametrize("statements", [DAMAGE["data dropped"], DAMAGE["pages garbled"]], ids=["dropped", "garbled"])
async def test_a_deletion_meets_damage_and_is_still_carried_out(
    indexed: AsyncSessionStore, path: Path, statements: list[str], eventually
):
    """Erasing rows whose entries cannot be taken out rebuilds the index; the rows go."""
    damage(path, statements)
    await indexed.sessions.delete("s")
    assert [hit async for hit in indexed.search("word")] == []

    async def erased() -> bool:
        return (await indexed.query("SELECT COUNT(*) AS n FROM messages"))[0].n == 0

    await eventually(erased)


async def test_a_rebuild_is_done_in_chunks_and_resumed(path: Path):
    """Marked for rebuilding by one process and closed at once, it is finished by the next."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        await store.messages.append_many("s", [{"role": "user", "content": f"word w{n}"} for n in range(2000)])
        await store.flush(index=True)
        damage(path, DAMAGE["data dropped"])
        assert len([hit async for hit in store.search("word")]) <= 20
        batches = (await store.stats()).batches
    async with AsyncSessionStore(path) as store:
        await store.flush(index=True)
        assert (await store.stats()).batches > 20, "not one long transaction"
        assert batches > 0
        assert len([hit async for hit in store.search("word", limit=None)]) == 2000


async def test_an_index_of_an_older_segmenter_is_made_anew(path: Path):
    """A version that is not ours: everything is indexed again, by ours."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        await store.messages.append("s", role="user", content="word")
        await store.flush(index=True)
    damage(path, ["UPDATE index_state SET version = 0", "DELETE FROM search_index_docsize"])
    async with AsyncSessionStore(path) as store:
        await store.flush(index=True)
        assert [hit.seq async for hit in store.search("word")] == [1]
        assert (await store.query("SELECT COUNT(*) AS n FROM search_index_docsize"))[0].n == 1


@pytest.mark.parametrize("newest", [False, True], ids=["sqlite3", "pysqlite3"])
async def test_a_damaged_index_is_no_damaged_file(path: Path, tmp_path: Path, newest: bool):
    """Whatever SQLite says of it, which from 3.44 on it does: it is repaired, and does not keep from a backup."""
    connect = pytest.importorskip("pysqlite3").connect if newest else sqlite3.connect
    async with AsyncSessionStore(path, connect=connect) as store:
        await store.sessions.create("s")
        await store.messages.append_many("s", [{"role": "user", "content": f"word w{n}"} for n in range(ROWS)])
        await store.flush(index=True)
        with closing(connect(path, isolation_level=None)) as outside:
            outside.execute("UPDATE search_index_data SET block = substr(block, 1, 3) WHERE id > 10")
        assert {problem.kind for problem in (await store.check()).problems} <= {"index"}
        await store.backup(tmp_path / "copy.db")
        assert (await store.repair()).is_sound
        assert (await store.check()).is_sound
    async with AsyncSessionStore(tmp_path / "copy.db", connect=connect) as copy:
        await copy.repair()
        await copy.flush(index=True)
        assert len([hit async for hit in copy.search("word", limit=None)]) == ROWS


@pytest.mark.parametrize(
    "statements", [DAMAGE["pages cut"], DAMAGE["index dropped"]], ids=["pages cut", "index dropped"]
)
async def test_damage_keeps_from_no_upkeep(indexed: AsyncSessionStore, path: Path, statements: list[str]):
    """Tidying and erasing go on, and the index is made anew."""
    damage(path, statements)
    await indexed.optimize()
    await indexed.flush(index=True)
    damage(path, ["DELETE FROM search_index_config"])
    assert (await indexed.erase(session_id="s")).sessions == ("s",)
    assert [row.n for row in await indexed.query("SELECT COUNT(*) AS n FROM messages")] == [0]
    await indexed.flush(index=True)
    assert (await indexed.check()).is_sound
