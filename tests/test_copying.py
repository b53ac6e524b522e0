"""Copying a store: the copy is what the source is, however often it was interrupted, and nothing else is lost for it."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conformance.exercise import exercise
from recollect import BEGINNING, AsyncSessionStore, InvalidRecord, StoreFull, TurnLost
from recollect.copying import CopyIncomplete, CopyProgress, CopyRefused, copy_store, pages, run
from recollect.copying.tables import TABLES
from recollect.engine.operation import Operation, all, one
from recollect.journal import VISIBLE

NOW = datetime.now(UTC)
SNAPSHOT = {"benchmark_version": "1", "overall_score": 0.1, "task_count": 1, "elapsed_seconds": 1}


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pages of few rows."""
    monkeypatch.setattr(pages, "ROWS", 7)


async def fill(store: AsyncSessionStore, sessions: int = 12) -> None:
    """Sessions of all sorts, with something in every table."""
    for n in range(sessions):
        id = f"s{n}"
        await store.sessions.create(id, user_id=f"u{n % 2}", key=f"k{n % 3}", title=f"T {n}", metadata={"n": n}) if n < 3 \
            else await store.sessions.create(id, system_prompt=f"be {n}")  # fmt: skip
        for k in range(6):
            await store.messages.append(
                id, role="user", content=f"word{n} common line {k}", external_id=f"e{k}", usage={"prompt_tokens": k}
            )
        await store.messages.compact(id, note=f"note {n}", to_seq=2)
        await store.events.record({"kind": "noted", "session_id": id, "text": f"event{n} common", "dedupe_key": id})
    await store.sessions.ensure("s4", parent_id=f"s{sessions - 1}")  # a parent with a higher number
    await store.messages.rewind("s5", 4)
    for id, delta in (("b", -0.0), ("a", 1e-9), ("c", None)):
        outcome = {"edit_id": "e", "status": "applied", "benchmark_delta": delta}
        await store.learning.save(
            {
                "id": id, "trigger": "scheduled", "status": "completed", "autonomy_mode": "auto", "started_at": NOW,
                "diagnosis_path": "d", "plan_path": "p", "benchmark_before": SNAPSHOT, "git_checkpoint_pre": "g",
                "teacher_cost_usd": 0.1 + 0.2, "edit_outcomes": [outcome],
            }
        )  # fmt: skip


def read_rows() -> Operation[dict[str, list[dict[str, Any]]]]:
    """Every row of every table that is copied, whole."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table in TABLES:
        of_sessions = "session IN (SELECT session FROM sessions WHERE id IS NOT NULL)"
        where = {
            "sessions": "id IS NOT NULL",
            "session_texts": of_sessions,
            "messages": f"state < 3 AND {of_sessions}",
            "compactions": of_sessions,
            "usage_rounds": of_sessions,
            "events": VISIBLE,
            "import_cursors": "importer <> 'recollect.copy'",
        }.get(table.name, "TRUE")
        order = ", ".join(table.columns[: table.width])
        rows = yield all(f"SELECT * FROM {table.name} e WHERE {where} ORDER BY {order}")
        found[table.name] = [row._asdict() for row in rows]
    return found


async def assert_same(source: AsyncSessionStore, copy: AsyncSessionStore) -> None:
    """Rows and records are equal, the copy is sound, and its numbers go on behind those of the source."""
    ours, theirs = await source.read(read_rows), await copy.read(read_rows)
    for name, rows in ours.items():
        assert theirs[name] == rows, name
    records = [record async for record in source.sessions.export_all()]
    assert [record async for record in copy.sessions.export_all()] == records
    assert (await copy.check()).is_sound
    assert await copy.read(pages.read_last) >= await source.read(pages.read_last)


async def hits(store: AsyncSessionStore, query: str, **options: Any) -> list[tuple[Any, ...]]:
    await store.flush(index=True)
    found = store.search(query, order="oldest", limit=None, **options)
    return [(hit.kind, hit.id, hit.session_id, hit.snippet, hit.cursor) async for hit in found]


# -- whole -----------------------------------------------------------------------------------------


async def test_a_store_in_memory_comes_to_the_disk_as_it_is(store: AsyncSessionStore, memory: AsyncSessionStore):
    """With everything that the rooms can make; searches find the same, and a cursor of the one goes on in the other."""
    await exercise(memory)
    copied = await copy_store(memory, store)
    await assert_same(memory, store)
    rows = await memory.read(read_rows)
    assert {table.table: table.rows for table in copied.tables} == {name: len(each) for name, each in rows.items()}
    assert {
        table.table: (table.changed, table.removed) for table in copied.tables if table.changed or table.removed
    } == {}
    for query, options in (("hello OR happened", {}), ("hello", {"user_id": "u"}), ("happened", {"user_id": "u3"})):
        found = await hits(memory, query, **options)
        assert await hits(store, query, **options) == found
        assert found
    assert await hits(store, "hello", after=found[0][-1]) == await hits(memory, "hello", after=found[0][-1])


async def test_from_the_disk_to_postgresql_and_back_nothing_is_lost(
    path: Path, tmp_path: Path, recollect_postgres_dsn: str, small_pages: None
):
    """Numbers, texts, floats, what is not there; on both sides the checksums are the same."""
    async with AsyncSessionStore(path) as first, AsyncSessionStore(recollect_postgres_dsn) as server:
        await fill(first)
        await first.sessions.create("unusual", title="日本語 \U0001f389 it's", metadata={"a": [1.5, None, "\x01"]})
        await first.messages.append("unusual", role="user", content="")
        there = await copy_store(first, server)
        await assert_same(first, server)
        assert await hits(server, "common") == await hits(first, "common")
    async with AsyncSessionStore(tmp_path / "back.db") as last:
        async with AsyncSessionStore(recollect_postgres_dsn, readonly=True) as server:
            back = await copy_store(server, last)
            await assert_same(server, last)
        async with AsyncSessionStore(path, readonly=True) as first:
            await assert_same(first, last)
    assert [table.checksum for table in back.tables] == [table.checksum for table in there.tables]
    assert [table.rows for table in back.tables] == [table.rows for table in there.tables]


async def test_every_column_is_copied(memory: AsyncSessionStore):
    """Of every table but those that a store makes for itself; of sessions, what only deleted ones have is left out."""
    names = [row.name for row in await memory.read(_names)]
    own = {"leases", "index_state", "sequence"}
    assert {table.name for table in TABLES} == {name for name in names if not name.startswith("search_")} - own
    for table in TABLES:
        columns = {row.name for row in await memory.read(_columns, table.name)}
        assert set(table.columns) == columns - {"gone_id", "gone_before"}, table.name


def _names():
    return (yield all("SELECT name FROM sqlite_schema WHERE type = 'table'"))


def _columns(table: str):
    return (yield all("SELECT name FROM pragma_table_info(:name)", name=table))


async def test_what_waits_to_be_erased_stays_behind(store: AsyncSessionStore, memory: AsyncSessionStore, hold):
    """A deleted session, its messages and events, and what was cleared; what tells of the deletion comes along."""
    await fill(store)
    async with hold(store):  # so that the keeper does not come in between
        removing = [asyncio.create_task(call) for call in (store.sessions.delete("s0"), store.messages.clear("s1"))]
        await asyncio.sleep(0)
    await asyncio.gather(*removing)
    await copy_store(store, memory)
    assert await memory.sessions.get("s0") is None
    assert await memory.messages.count("s1") == 0
    assert [event.session_id async for event in memory.events.stream(kind="store.deleted")] == ["s0"]
    await assert_same(store, memory)


async def test_a_fence_never_comes_twice(store: AsyncSessionStore, memory: AsyncSessionStore):
    """Turns stay behind: whoever holds one is refused in the copy, and who takes it there has a higher fence."""
    await store.sessions.create("s")
    async with store.sessions.turn("s", holder="there") as old:
        await copy_store(store, memory)
        async with memory.sessions.turn("s", holder="here") as new:
            assert new.fence > old.fence
            with pytest.raises(TurnLost):
                await memory.messages.append("s", role="user", content="late", fence=old.fence)
            await memory.messages.append("s", role="user", content="in time", fence=new.fence)


async def test_a_watch_goes_on_in_the_copy(store: AsyncSessionStore, memory: AsyncSessionStore, small_pages: None):
    """Behind the cursor that it had in the source; and who watches the copy while it is made sees all in one order."""
    await fill(store)
    everything = [change async for change in _until_now(store, BEGINNING)]
    async with memory.watch(after=BEGINNING) as live:
        copying = asyncio.create_task(copy_store(store, memory))
        seen = [(await anext(live)).cursor for _ in everything]
        await copying
    assert seen == [change.cursor for change in everything]
    ref = await memory.messages.append("s1", role="user", content="new")
    cursor = everything[20].cursor
    rest = [change.cursor async for change in _until_now(memory, cursor)]
    assert rest == [*[change.cursor for change in everything[21:]], str(ref.id)]


async def _until_now(store: AsyncSessionStore, after: str):
    end = await store.read(pages.read_last)
    async with store.watch(after=after) as changes:
        newest = await store.read(run.read_newest_number)
        assert newest <= end
        last = max(row.n or 0 for row in await store.query(_NEWEST))
        async for change in changes:
            yield change
            if change.id >= last:
                return


_NEWEST = "SELECT MAX(id) AS n FROM messages UNION ALL SELECT MAX(id) AS n FROM events"


# -- pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3, 1_000])
@pytest.mark.parametrize("characters", [1, 60, 1_000_000])
async def test_pages_are_bounded_and_leave_nothing_out(
    memory: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch, most: int, characters: int
):
    """In rows and in characters, but for a row that is longer alone; of two tables in the order of their numbers."""
    monkeypatch.setattr(pages, "ROWS", most)
    monkeypatch.setattr(pages, "CHARACTERS", characters)
    dice = random.Random(most)
    await memory.sessions.create("s")
    for _ in range(40):
        if dice.random() < 0.5:
            await memory.messages.append("s", role="user", content="x" * dice.randrange(50))
        else:
            await memory.events.record({"kind": "noted", "text": "x" * dice.randrange(50)})
    both = [table for table in TABLES if table.indexed]
    last = await memory.read(pages.read_last)
    found: list[list[int]] = [[], []]
    after = both[0].beginning
    while after is not None:
        page: pages.Page = await memory.read(pages.read_page, both, after, last)
        rows = [*page.rows[0], *page.rows[1]]
        sizes = [sum(len(value) for value in row if isinstance(value, str)) for row in rows]
        assert len(rows) <= most
        assert len(rows) == 1 or sum(sizes) <= characters
        for ids, each in zip(found, page.rows, strict=True):
            ids += [row[0] for row in each]
        assert page.end is None or page.end == (max(row[0] for row in rows),)
        after = page.end
    for ids, table in zip(found, both, strict=True):
        assert ids == [row.id for row in await memory.query(f"SELECT id FROM {table.name} ORDER BY id")]


# -- interrupted -----------------------------------------------------------------------------------

CHILD = """
import asyncio, os, sys
from recollect import AsyncSessionStore
from recollect.copying import copy_store, pages

pages.ROWS = 5

def show(progress):
    os.write(1, f"{progress.table} {progress.done} {progress.comparing}\\n".encode())

async def main():
    async with AsyncSessionStore(sys.argv[1], readonly=True) as source, AsyncSessionStore(sys.argv[2]) as target:
        await copy_store(source, target, progress=show)

asyncio.run(main())
"""


@pytest.mark.recollect_engines("disk", "postgres")
async def test_killed_at_any_moment_it_goes_on_where_it_was(path: Path, recollect_target: Any):
    """While sessions, messages and the rest are copied, and while all is compared."""
    source_path = path.with_name("source.db")
    async with AsyncSessionStore(source_path) as source:
        await fill(source)
        for point in ("sessions 5 ", "messages 20 ", "messages 60 ", "usage_rounds ", "messages 60 ... True"):
            await asyncio.to_thread(_kill_at, point, source_path, recollect_target)
        async with AsyncSessionStore(recollect_target) as target:
            copied = await copy_store(source, target)
            await assert_same(source, target)
            assert await hits(target, "common") == await hits(source, "common")
        assert {table.new + table.changed + table.removed for table in copied.tables} == {0}, "it was there by then"


def _kill_at(beginning: str, source: Path, target: Any) -> None:
    """Copies in a process of its own, until a line that begins and ends like this."""
    begins, _, ends = beginning.partition("... ")
    command = [sys.executable, "-c", CHILD, source, target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(begins) and line.endswith(f"{ends}\n"):
                break
        else:
            raise AssertionError("it came to its end")
        process.kill()


def connect(database: str, **options: Any) -> sqlite3.Connection:
    """A disk on which there is little room."""
    connection = sqlite3.connect(database, **options)
    if not options.get("uri"):
        connection.execute("PRAGMA max_page_count=75")
    return connection


def more_room():
    yield one("PRAGMA max_page_count=100000")


async def test_a_page_that_fails_leaves_a_copy_that_goes_on(path: Path, memory: AsyncSessionStore, small_pages: None):
    """The disk is full after some pages; when there is room again, only the rest is copied."""
    await fill(memory)
    for n in range(60):
        await memory.messages.append("s1", role="user", content=f"long {n} " + "x" * 3_000)
    async with AsyncSessionStore(path, connect=connect) as target:
        with pytest.raises(StoreFull):
            await copy_store(memory, target)
        there = await target.read(pages.read_counts, await memory.read(pages.read_last))
        assert 0 < there["messages"] < 144
        await target.write(more_room)
        copied = await copy_store(memory, target)
        assert {table.table: table.new for table in copied.tables}["messages"] == 144 - there["messages"]
        await assert_same(memory, target)


@pytest.mark.parametrize("at", [0, 3, 9, 25, 40])
async def test_cancelled_it_goes_on_where_it_was(
    store: AsyncSessionStore, memory: AsyncSessionStore, small_pages: None, at: int
):
    """Whatever it was doing."""
    await fill(store)
    told: list[CopyProgress] = []

    def show(progress: CopyProgress) -> None:
        told.append(progress)
        if len(told) > at:
            copying.cancel()

    copying = asyncio.create_task(copy_store(store, memory, progress=show))
    with pytest.raises(asyncio.CancelledError):
        await copying
    copied = await copy_store(store, memory)
    await assert_same(store, memory)
    if at > 9:
        assert {table.table: table.new for table in copied.tables}["sessions"] == 0


async def test_progress_is_told_table_by_table(store: AsyncSessionStore, memory: AsyncSessionStore, small_pages: None):
    """Up to all of its rows: once when they are copied, once when they are compared."""
    await fill(store)
    told: list[CopyProgress] = []
    copied = await copy_store(store, memory, progress=told.append)
    for table in copied.tables:
        for comparing in (False, True):
            of_table = [each for each in told if each.table == table.table and each.comparing == comparing]
            done = [each.done for each in of_table]
            assert sorted(done) == done or table.table == "sessions"
            assert {each.total for each in of_table} <= {table.rows}
            assert done[-1:] == [table.rows] or (not comparing and not table.rows)


# -- refused ---------------------------------------------------------------------------------------


async def test_what_is_no_copy_of_the_source_is_refused(store: AsyncSessionStore, memory: AsyncSessionStore):
    """Another store, itself, and a copy of another: nothing of it is touched."""
    await fill(store)
    await memory.sessions.create("mine")
    before = await memory.read(read_rows)
    with pytest.raises(CopyRefused, match="not empty"):
        await copy_store(store, memory)
    assert await memory.read(read_rows) == before
    with pytest.raises(CopyRefused, match="same store"):
        await copy_store(store, store)
    async with AsyncSessionStore(":memory:") as copy:
        await copy_store(memory, copy)
        with pytest.raises(CopyRefused, match="is a copy of :memory:"):
            await copy_store(store, copy)
        await assert_same(memory, copy)


async def test_a_copy_in_use_is_refused(store: AsyncSessionStore, memory: AsyncSessionStore):
    """What was written to it would be taken out again."""
    await fill(store)
    await copy_store(store, memory)
    await copy_store(store, memory)  # not yet
    ref = await memory.messages.append("s1", role="user", content="mine")
    await store.messages.append("s1", role="user", content="theirs")
    with pytest.raises(CopyRefused, match="in use"):
        await copy_store(store, memory)
    assert (await memory.messages.get("s1", ref.seq)).content == "mine"  # type: ignore[union-attr]


async def test_a_copy_in_use_is_known_by_what_takes_no_number(store: AsyncSessionStore, memory: AsyncSessionStore):
    """What an agent left to do, say."""
    await fill(store)
    await copy_store(store, memory)
    await memory.sessions.set_pending("s1", {"mine": True})
    with pytest.raises(CopyRefused, match="in use"):
        await copy_store(store, memory)
    assert (await memory.sessions.state("s1")).pending == {"mine": True}  # type: ignore[union-attr]


async def test_an_unfinished_copy_is_neither_used_nor_copied(
    store: AsyncSessionStore, memory: AsyncSessionStore, small_pages: None
):
    """Who writes to it before it is finished has a store of his own; and it is no source."""
    await fill(store)
    await _cancelled_after(15, store, memory)
    async with AsyncSessionStore(":memory:") as third:
        with pytest.raises(CopyRefused, match="unfinished"):
            await copy_store(memory, third)
    await memory.messages.append("s0", role="user", content="mine")
    with pytest.raises(CopyRefused, match="in use"):
        await copy_store(store, memory)


async def _cancelled_after(lines: int, source: AsyncSessionStore, target: AsyncSessionStore) -> None:
    left = iter(range(lines))
    copying = asyncio.create_task(
        copy_store(source, target, progress=lambda _: None if next(left, None) is not None else copying.cancel())
    )
    with pytest.raises(asyncio.CancelledError):
        await copying


async def test_a_source_that_went_back_is_refused(path: Path, tmp_path: Path, memory: AsyncSessionStore):
    """A backup put in its place: the copy knows more than it."""
    async with AsyncSessionStore(path) as store:
        await fill(store)
    backup = path.read_bytes()
    async with AsyncSessionStore(path) as store:
        await store.messages.append("s1", role="user", content="more")
        await copy_store(store, memory)
    path.write_bytes(backup)
    async with AsyncSessionStore(path) as store:
        with pytest.raises(CopyRefused, match="older"):
            await copy_store(store, memory)


async def test_a_row_that_the_target_refuses_is_told_with_its_place(
    store: AsyncSessionStore, recollect_postgres_dsn: str
):
    """Keys of an index have a limit on PostgreSQL that they do not have in a file."""
    await fill(store)
    dice = random.Random(1)
    await store.sessions.create("".join(dice.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9_000)))
    async with AsyncSessionStore(recollect_postgres_dsn) as server:
        with pytest.raises(InvalidRecord, match=r"^sessions, from \(\d+,\) to \(\d+,\): "):
            await copy_store(store, server)


# -- changed ---------------------------------------------------------------------------------------


async def change_everything(store: AsyncSessionStore) -> None:
    """Names and keys change hands, rows are put away, amended, cleared, deleted, pruned; ids come again."""
    room = store.sessions
    for id in ("s1", "s2"):
        await room.set_title(id, None)
    await room.set_title("s1", "T 2")
    await room.set_title("s2", "T 1")
    await room.end("s0", "done")
    await room.create("s-new", key="k0", title="T 0 again", parent_id="s3")
    await room.delete("s3")
    await room.create("s3", parent_id="s1")
    await store.messages.append("s3", role="user", content="word3 anew", external_id="e0")
    await store.messages.clear("s6")
    await store.messages.replace("s7", [{"role": "user", "content": "replaced line", "external_id": "e3"}])
    await store.messages.rewind("s8", 5)
    await store.messages.restore("s5")
    compaction = (await store.messages.compactions("s9"))[0]
    await store.messages.uncompact("s9", compaction.seq)
    await store.usage.record_round("s1", round_index=1, prompt_tokens=5)
    await room.update("s10", metadata={"changed": True})
    await room.ensure("s10", user_id="late")
    await room.set_pending("s11", {"left": 1})
    await store.events.prune(timedelta(0), kind="noted")
    await store.events.record({"kind": "noted", "text": "event again", "dedupe_key": "s4"})
    await store.learning.save_outcome("a", {"edit_id": "e", "status": "skipped", "benchmark_delta": 2.5})


@pytest.mark.recollect_engines("disk", "postgres")
async def test_run_again_it_brings_what_changed_since(path: Path, recollect_target: Any, small_pages: None, eventually):
    """New, changed and gone; the index of the copy follows."""
    async with AsyncSessionStore(path.with_name("source.db")) as source, AsyncSessionStore(recollect_target) as copy:
        await fill(source)
        await copy_store(source, copy)
        await copy.flush(index=True)
        await change_everything(source)
        copied = {table.table: table for table in (await copy_store(source, copy)).tables}
        await assert_same(source, copy)
        assert copied["messages"].changed > 0
        assert copied["messages"].removed > 0
        assert copied["events"].removed > 0
        for query in ("common", "word3", "event4", "again", "replaced", "note"):
            assert await hits(copy, query) == await hits(source, query), query
        assert await hits(copy, "common", user_id="late") == await hits(source, "common", user_id="late")
        assert {table.new + table.changed + table.removed for table in (await copy_store(source, copy)).tables} == {0}
        for store in (source, copy):
            await eventually(lambda store=store: _is_erased(store))
        entries = "SELECT id FROM search_terms ORDER BY id"
        if isinstance(recollect_target, Path):
            with closing(sqlite3.connect(recollect_target)) as there:
                indexed = there.execute(_DOCUMENTS).fetchall()
        else:
            indexed = [tuple(row) for row in await copy.query(f"SELECT DISTINCT id FROM ({entries}) i ORDER BY id")]
        with closing(sqlite3.connect(path.with_name("source.db"))) as there:
            assert indexed == there.execute(_DOCUMENTS).fetchall()


_DOCUMENTS = "SELECT id FROM search_index_docsize ORDER BY id"
_WAITING = (
    "SELECT (SELECT COUNT(*) FROM sessions WHERE id IS NULL) + (SELECT COUNT(*) FROM messages WHERE state = 3) AS n"
)


async def _is_erased(store: AsyncSessionStore) -> bool:
    """Whether nothing waits to be erased."""
    return (await store.query(_WAITING))[0].n == 0


async def test_what_is_written_while_it_is_copied_comes_along(
    store: AsyncSessionStore, memory: AsyncSessionStore, small_pages: None
):
    """If it ends before the comparing does."""
    await fill(store)
    writes: list[asyncio.Future[Any]] = []

    def show(progress: CopyProgress) -> None:
        if len(writes) < 20 and not progress.comparing:
            n = len(writes)
            writes.append(asyncio.ensure_future(store.messages.append("s2", role="user", content=f"meanwhile {n}")))

    await copy_store(store, memory, progress=show)
    await asyncio.gather(*writes)
    await assert_same(store, memory)
    assert len(await hits(memory, "meanwhile")) == 20


async def test_a_source_that_does_not_keep_still_is_told(
    store: AsyncSessionStore, memory: AsyncSessionStore, small_pages: None
):
    """Never a copy of half of it that looks like one; when it keeps still, the same copy is finished."""
    await fill(memory)
    writes: list[asyncio.Future[Any]] = []

    def show(progress: CopyProgress) -> None:
        if progress.comparing and progress.table == "sessions":
            writes.append(asyncio.ensure_future(memory.messages.append("s2", role="user", content="meanwhile")))

    with pytest.raises(CopyIncomplete) as raised:
        await copy_store(memory, store, progress=show)
    assert raised.value.stored is True
    await asyncio.gather(*writes)
    await copy_store(memory, store)
    await assert_same(memory, store)


@pytest.mark.recollect_engines("disk", "postgres")
async def test_a_copy_of_a_busy_source_is_one_of_some_moment(
    path: Path, recollect_target: Any, monkeypatch: pytest.MonkeyPatch
):
    """Whatever many tasks do to the source meanwhile: the copy is sound, or says that it is not complete; once they
    have stopped, it is the same."""
    monkeypatch.setattr(pages, "ROWS", 11)
    async with AsyncSessionStore(recollect_target) as source, AsyncSessionStore(path.with_name("copy.db")) as copy:
        await fill(source, 8)
        busy = [asyncio.create_task(_busy(source, n)) for n in range(4)]
        for _ in range(2):
            try:
                await copy_store(source, copy)
            except CopyIncomplete:
                continue
            assert (await copy.check()).is_sound
        for task in busy:
            task.cancel()
        await asyncio.wait(busy)
        await source.flush()
        await copy_store(source, copy)
        await assert_same(source, copy)


async def _busy(store: AsyncSessionStore, task: int) -> None:
    dice = random.Random(task)
    for n in range(10_000):
        id = f"s{dice.randrange(8)}"
        await store.sessions.ensure(id)
        match dice.randrange(8):
            case 0:
                fresh = await store.sessions.for_key(f"busy {dice.randrange(2)}", reset="again")
                await store.messages.append(fresh.id, role="user", content="busy")
            case 1:
                await store.messages.replace(id, [{"role": "user", "content": "busy", "external_id": "e0"}])
            case 2:
                await store.events.record(
                    {"kind": "noted", "session_id": id, "text": "busy", "dedupe_key": f"b{n % 9}"}
                )
            case 3:
                await store.sessions.delete(id)
            case _:
                await store.messages.append(id, role="user", content=f"busy {n}")
        await asyncio.sleep(0)
