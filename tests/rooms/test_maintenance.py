"""`check`, `repair`, `optimize`, `erase`: what is wrong is found, what is derived is set right, what is erased is gone."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore, InvalidRecord, ReadOnly, Report, SchemaTooNew, StoreBusy, Timeouts
from recollect.engine.operation import execute
from recollect.search import compare

from .engines import ON_FILES


@pytest.fixture
async def filled(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """A session with a child, 40 messages, 10 events, all indexed."""
    await any_store.sessions.create("s", user_id="u")
    await any_store.sessions.create("child", parent_id="s")
    await any_store.messages.append_many("s", [{"role": "user", "content": f"word w{n}"} for n in range(40)])
    await any_store.messages.append("s", role="user", content="...")  # nothing to be found by
    for n in range(10):
        await any_store.scoped(user_id="u").events.record({"kind": "noted", "text": f"event e{n}"})
    await any_store.flush(index=True)
    return any_store


def kinds(report: Report) -> list[tuple[str, str | None]]:
    """Of the problems."""
    return [(problem.kind, problem.session_id) for problem in report.problems]


def _do(sql: str, id: int = 0):
    yield execute(sql, id=id)


def outside(path: Path, *statements: str) -> None:
    """As somebody does who writes to the file himself, without foreign keys."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
        for sql in statements:
            connection.execute(sql)


async def _id_of(store: AsyncSessionStore, word: str) -> int:
    (hit,) = [hit async for hit in store.search(word)]
    return hit.id


# -- check and repair ------------------------------------------------------------------------------


async def test_counters_are_set_right(filled: AsyncSessionStore):
    """Each as its rows say; what was done is told, and a second repair has nothing to do."""
    before = await filled.sessions.get("s")
    await filled.write(_do, "UPDATE sessions SET message_count = 7, preview = 'no', activity = 0 WHERE id = 's'")
    await filled.write(_do, "UPDATE sessions SET last_active_at = 5, activity = 0 WHERE id = 'child'")
    found = await filled.check()
    told: list[int] = []
    report = await filled.repair(progress=told.append)
    assert report.is_sound
    assert report.repaired == found.problems
    assert report.sessions == told[-1] == 2
    assert [(each.kind, each.session_id) for each in report.repaired] == [("counter", "s")] * 3
    assert await filled.sessions.get("s") == before
    assert (await filled.check()).is_sound
    assert (await filled.repair()).repaired == ()


@ON_FILES
async def test_a_parent_that_is_not_there_is_forgotten(filled: AsyncSessionStore, path: Path):
    """The child becomes a root of its own."""
    outside(path, "UPDATE sessions SET parent = 999999 WHERE id = 'child'")
    assert kinds(await filled.check()) == [("parent", "child")]
    await filled.repair()
    child = await filled.sessions.get("child")
    assert child is not None
    assert child.parent_id is None
    assert (await filled.check()).is_sound


@ON_FILES
async def test_rows_without_a_session_are_told_and_left(filled: AsyncSessionStore, path: Path):
    """They are not derived from anything: a person is to decide."""
    await filled.messages.append("child", role="user", content="alone")
    outside(
        path,
        "UPDATE sessions SET message_count = 0, preview = NULL WHERE id = 'child'",
        "UPDATE messages SET session = 4711 WHERE content = 'alone'",
        "INSERT INTO session_texts (session) VALUES (4712)",
    )
    report = await filled.repair()
    assert [problem.what for problem in report.problems] == [
        "1 rows (messages) belong to no session", "1 rows (texts of sessions) belong to no session",
    ]  # fmt: skip
    assert {problem.kind for problem in report.problems} == {"orphans"}
    assert [row.n for row in await filled.query("SELECT COUNT(*) AS n FROM messages WHERE content = 'alone'")] == [1]


async def test_an_index_that_lacks_rows_is_made_anew(filled: AsyncSessionStore):
    """Rows that nobody finds, messages and events, are named; afterwards they are found."""
    for word in ("w7", "e3"):
        id = await _id_of(filled, word)
        keys = await _keys(filled, id)
        words = "word w7" if word == "w7" else "event e3"
        await filled.write(_one, filled._engine.fulltext.remove([(id, words, keys)]))
    assert [hit async for hit in filled.search("w7 OR e3")] == []
    (problem,) = (await filled.check()).problems
    assert (problem.kind, problem.session_id) == ("index", None)
    assert problem.what.startswith("2 rows are not in it: ")
    assert (await filled.repair()).repaired == (problem,)
    assert len([hit async for hit in filled.search("w7 OR e3")]) == 2
    assert (await filled.check()).is_sound


def _one(statement):
    yield statement


async def _keys(store: AsyncSessionStore, id: int) -> str:
    entries = await store.read(compare._entries, [id], 1000)
    return entries[0].keys


async def test_an_index_with_words_of_what_is_not_there_is_made_anew(filled: AsyncSessionStore):
    """Rows that went without it."""
    id = await _id_of(filled, "w9")
    await filled.write(_do, "DELETE FROM messages WHERE id = :id", id)
    (problem, *_) = [each for each in (await filled.check()).problems if each.kind == "index"]
    assert problem.what == f"1 rows are in it and nowhere else: {id}"
    assert (await filled.repair()).is_sound
    assert (await filled.check()).is_sound


async def test_rows_that_are_found_by_other_words_than_theirs_are_noticed(
    filled: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch
):
    """Of some rows of each page, the index is asked for their words."""
    monkeypatch.setattr(compare, "_SAMPLE", 1)
    assert (await filled.check()).is_sound
    id = await _id_of(filled, "w11")
    await filled.write(_do, "UPDATE messages SET content = 'something else' WHERE id = :id", id)
    problems = (await filled.check()).problems
    assert [each.what for each in problems] == [f"1 rows are not found by their words: {id}"]


async def test_an_index_of_several_pages_is_compared_whole(filled: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch):
    """However many rows a page has."""
    id = await _id_of(filled, "w31")
    await filled.write(_do, "DELETE FROM messages WHERE id = :id", id)
    for page in (1, 2, 3, 7, 50, 51, 500):
        monkeypatch.setattr(compare, "PAGE", page)
        found = [each.what for each in (await filled.check()).problems if each.kind == "index"]
        assert found == [f"1 rows are in it and nowhere else: {id}"], page


async def test_what_waits_to_be_erased_is_nothing_wrong(filled: AsyncSessionStore):
    """A deleted session's rows, and cleared ones, are in the tables and the index until the keeper comes."""
    await filled.messages.clear("s")
    assert (await filled.check()).is_sound
    await filled.sessions.delete("s")
    assert (await filled.check()).is_sound


@ON_FILES
async def test_damage_to_the_structure_is_told_and_nothing_is_repaired(filled: AsyncSessionStore, path: Path):
    """Broken pages are SQLite's to name, and a backup's to mend."""
    await filled.aclose()
    with closing(sqlite3.connect(path)) as outside:
        outside.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = outside.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sessions_activity'").fetchone()
        (size,) = outside.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    content[page * size - 40 : page * size] = b"\xee" * 40
    path.write_bytes(content)
    async with AsyncSessionStore(path) as store:
        report = await store.check()
        assert {problem.kind for problem in report.problems} == {"structure"}
        assert (await store.repair()).repaired == ()


@ON_FILES
async def test_a_store_that_is_only_read_is_checked_and_not_repaired(filled: AsyncSessionStore, path: Path):
    """ReadOnly, not stored."""
    async with AsyncSessionStore(path, readonly=True) as store:
        assert (await store.check()).is_sound
        with pytest.raises(ReadOnly):
            await store.repair()
        with pytest.raises(ReadOnly):
            await store.optimize()
        with pytest.raises(ReadOnly):
            await store.erase(session_id="s")


async def test_a_check_among_writers_finds_nothing_that_is_not_wrong(filled: AsyncSessionStore):
    """Each page is of one moment."""
    done = asyncio.Event()

    async def write(n: int) -> None:
        while not done.is_set():
            ref = await filled.messages.append("s", role="user", content=f"more {n}", usage={"prompt_tokens": 1})
            if ref.seq % 9 == 0:
                await filled.messages.clear("s")

    tasks = [asyncio.create_task(write(n)) for n in range(8)]
    reports = [await filled.check() for _ in range(5)]
    done.set()
    await asyncio.gather(*tasks)
    assert [report.problems for report in reports] == [()] * 5


# -- tidying ---------------------------------------------------------------------------------------


async def test_tidying_ends_when_all_is_done_and_may_be_cut_short(filled: AsyncSessionStore):
    """True when there was no more to do; nothing is lost either way."""
    while not await filled.optimize(0):
        pass
    assert await filled.optimize()
    assert (await filled.check()).is_sound
    for bad in (-1, float("nan")):
        with pytest.raises(InvalidRecord, match="budget_s"):
            await filled.optimize(bad)


@ON_FILES
async def test_tidying_empties_the_log(filled: AsyncSessionStore):
    """And says what the checkpoint did."""
    assert (await filled.stats()).checkpoint is None
    assert (await filled.stats()).wal_bytes > 0
    await filled.optimize()
    stats = await filled.stats()
    assert stats.wal_bytes == 0
    assert stats.checkpoint is not None
    assert stats.checkpoint[0] == 0


# -- erasing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"session_id": "s", "user_id": "u"}])
async def test_it_is_a_session_or_a_user(filled: AsyncSessionStore, given: dict[str, str]):
    """Not both, not neither."""
    with pytest.raises(InvalidRecord, match="session_id or a user_id"):
        await filled.erase(**given)


async def test_a_session_is_erased_when_the_call_returns(filled: AsyncSessionStore):
    """Its rows are out of the tables, with what it spawned; others are as they were."""
    await filled.sessions.create("other")
    await filled.messages.append("other", role="user", content="stays")
    erased = await filled.erase(session_id="s")
    assert (set(erased.sessions), erased.events) == ({"s", "child"}, 0)
    assert [row.n for row in await filled.query("SELECT COUNT(*) AS n FROM messages")] == [1]
    assert [row.n for row in await filled.query("SELECT COUNT(*) AS n FROM sessions")] == [1]
    assert [hit.kind async for hit in filled.search("word OR stays")] == ["message"]
    assert (await filled.erase(session_id="s")).sessions == ()
    assert (await filled.check()).is_sound


async def test_all_of_a_user_is_erased(filled: AsyncSessionStore):
    """His sessions and his events, of no session too; nothing of anybody else's, though it hangs below his."""
    await filled.sessions.create("theirs", user_id="other", parent_id="s", relation="spawn")
    await filled.messages.append("theirs", role="user", content="stays")
    await filled.scoped(user_id="other").events.record({"kind": "noted", "text": "stays too"})
    erased = await filled.erase(user_id="u")
    assert erased.sessions == ("s",)
    assert erased.events >= 10
    assert [row.n for row in await filled.query("SELECT COUNT(*) AS n FROM events WHERE user_id = 'u'")] == [0]
    assert len([hit async for hit in filled.search("word OR event OR stays")]) == 2
    theirs = await filled.sessions.get("theirs")
    assert theirs is not None
    assert theirs.parent_id is None
    assert (await filled.check()).is_sound


@ON_FILES
@pytest.mark.parametrize("vacuum", [False, True])
async def test_no_byte_is_left_in_the_files(filled: AsyncSessionStore, path: Path, vacuum: bool):
    """While the store is open: neither in the database nor in its log."""
    mark = b"w17"
    files = [path, path.with_name(path.name + "-wal")]
    assert any(mark in file.read_bytes() for file in files)
    await filled.erase(session_id="s", vacuum=vacuum)
    assert not any(mark in file.read_bytes() for file in files)
    assert (await filled.check()).is_sound


@ON_FILES
async def test_what_somebody_still_reads_is_not_called_erased(filled: AsyncSessionStore, path: Path):
    """StoreBusy while a reader of another process keeps the log; when it is gone, it is done."""
    filled._timeouts = Timeouts(busy_s=0.3)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM messages").fetchone()
        with pytest.raises(StoreBusy, match="still in the write-ahead log"):
            await filled.erase(session_id="s")
        assert not await filled.optimize()
    await filled.erase(session_id="s")
    assert not any(b"w17" in file.read_bytes() for file in (path, path.with_name(path.name + "-wal")))


async def test_an_erasure_ends_though_others_delete_all_the_time(filled: AsyncSessionStore):
    """It waits for its own rows, and for no others'."""
    done = asyncio.Event()

    async def delete() -> None:
        while not done.is_set():
            short = await filled.sessions.create()
            await filled.messages.append(short.id, role="user", content=f"for a moment {short.id}")
            await filled.sessions.delete(short.id)

    deleting = [asyncio.create_task(delete()) for _ in range(2)]
    async with asyncio.timeout(10):
        assert set((await filled.erase(session_id="s")).sessions) == {"s", "child"}
    done.set()
    await asyncio.gather(*deleting)


async def test_an_index_of_a_newer_recollect_is_left_to_it(filled: AsyncSessionStore):
    """SchemaTooNew, and nothing is deleted."""
    await filled.write(_do, "UPDATE index_state SET version = version + 1")
    with pytest.raises(SchemaTooNew):
        await filled.erase(session_id="s")
    assert await filled.sessions.get("s") is not None


@pytest.mark.parametrize("user", ["", "x\0y", 5, ["u"]])
async def test_what_is_no_user_is_refused(filled: AsyncSessionStore, user: Any):
    """An empty variable of a script is no user who has nothing."""
    with pytest.raises(InvalidRecord, match="user_id"):
        await filled.erase(user_id=user)


async def test_a_repair_ends_though_sessions_come_all_the_time(filled: AsyncSessionStore):
    """It looks at those that were there."""
    done = asyncio.Event()

    async def create() -> None:
        while not done.is_set():
            await filled.sessions.create()

    creating = [asyncio.create_task(create()) for _ in range(4)]
    async with asyncio.timeout(10):
        report = await filled.repair()
        assert report.is_sound
    done.set()
    await asyncio.gather(*creating)


async def test_what_cannot_be_read_is_told_and_the_rest_looked_at(filled: AsyncSessionStore):
    """A message's tool calls are no JSON; another session's counter is mended all the same."""
    await filled.messages.append("child", role="assistant", tool_calls=[{"id": "1"}])
    await filled.write(_do, "UPDATE messages SET tool_calls = '[{' WHERE tool_calls IS NOT NULL")
    await filled.write(_do, "UPDATE sessions SET message_count = 55 WHERE id = 's'")
    assert ("content", "child") in kinds(await filled.check())
    assert ("counter", "s") in kinds(await filled.check())
    await filled.repair()
    assert ("counter", "s") not in kinds(await filled.check())


async def test_nobody_waits_for_an_erasure(filled: AsyncSessionStore):
    """Appends go on, and none is lost."""
    await filled.messages.append_many("s", [{"role": "user", "content": f"more {n}"} for n in range(600)])
    await filled.sessions.create("live")
    erasing = asyncio.create_task(filled.erase(session_id="s"))
    while not erasing.done():
        await filled.messages.append("live", role="user", content="hello")
    await erasing
    live = await filled.sessions.get("live")
    assert live is not None
    assert live.message_count == await filled.messages.count("live") > 5
    assert (await filled.check()).is_sound
