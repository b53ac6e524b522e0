"""What goes: pruned, deleted and cleared, with its events and words, and to the last byte."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from recollect import AsyncSessionStore, Durability, InvalidRecord, StoreError
from recollect.engine.sqlite.run import Request, run_read
from recollect.operations import execute, ids, many, one
from recollect.testing.engines import Target

from .engines import ON_FILES, ON_SERVER, ON_SQLITE
from .failing import failing
from .outside import indexed, is_server, rows, tables

DAY = timedelta(days=1)


def ago(days: float) -> datetime:
    return datetime.now(UTC) - days * DAY


async def make(
    store: AsyncSessionStore, name: str, days: float, *, said: float | None = None, end: bool = True, **fields: Any
) -> None:
    """A session created so many days ago, with a message said so many days ago."""
    await store.sessions.create(name, created_at=ago(days), **fields)
    await store.messages.append(
        name, role="user", content=f"words of {name}", created_at=ago(days if said is None else said)
    )
    if end:
        await store.sessions.end(name, "done")


async def names(store: AsyncSessionStore) -> set[str]:
    return {session.id async for session in store.sessions.stream()}


# -- pruning ---------------------------------------------------------------------------------------


@pytest.fixture
async def old(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """Sessions that are old or new, ended, active or archived, by their last activity."""
    await make(any_store, "ended", 50, source="cli")
    await make(any_store, "older", 90, source="web")
    await make(any_store, "active", 60, end=False, source="cli")
    await make(any_store, "archived", 70)
    await any_store.sessions.archive("archived")
    await make(any_store, "spoken", 80, said=2)
    await make(any_store, "recent", 2)
    await any_store.sessions.create("empty", created_at=ago(40))
    await any_store.sessions.end("empty", "done")
    return any_store


async def test_ended_sessions_are_pruned_by_their_last_activity(old: AsyncSessionStore):
    """The longest idle first; not by creation; active and archived ones stay."""
    before = await names(old)
    assert await old.sessions.prune(idle_for=30 * DAY) == ["older", "ended", "empty"]
    assert await names(old) == before - {"older", "ended", "empty"}
    assert await old.sessions.prune(idle_for=30 * DAY) == []
    assert [hit.session_id async for hit in old.search("words", order="oldest")] == [
        "active", "archived", "spoken", "recent",
    ]  # fmt: skip


async def test_active_ones_are_pruned_if_told(old: AsyncSessionStore):
    """Archived ones even then are not."""
    assert await old.sessions.prune(idle_for=30 * DAY, include_active=True) == ["older", "active", "ended", "empty"]
    assert await names(old) == {"archived", "spoken", "recent"}


@pytest.mark.parametrize(
    ("source", "pruned"), [("web", ["older"]), (["web", "cli"], ["older", "ended"]), ([], []), ("other", [])]
)
async def test_only_those_of_a_source(old: AsyncSessionStore, source: Any, pruned: list[str]):
    """One or several; an empty list is none."""
    assert await old.sessions.prune(idle_for=30 * DAY, source=source) == pruned


async def test_a_dry_run_only_tells(old: AsyncSessionStore):
    """The same ids in the same order; nothing is changed."""
    before = [record async for record in old.sessions.export_all()]
    told = await old.sessions.prune(idle_for=30 * DAY, include_active=True, dry_run=True)
    assert [record async for record in old.sessions.export_all()] == before
    assert await old.sessions.prune(idle_for=30 * DAY, include_active=True) == told


async def test_idle_is_a_span_of_time(old: AsyncSessionStore):
    """Longer than it, to the millisecond; zero is everything before now; what is no span is refused."""
    assert await old.sessions.prune(idle_for=91 * DAY) == []
    assert await old.sessions.prune(idle_for=89 * DAY) == ["older"]
    for wrong in (-DAY, 30, None, "30d", 0.5):
        with pytest.raises(InvalidRecord):
            await old.sessions.prune(idle_for=wrong)
    assert set(await old.sessions.prune(idle_for=timedelta(0))) == {"ended", "empty", "spoken", "recent"}


async def test_children_that_stay_lose_their_parent(any_store: AsyncSessionStore):
    """Active and recent ones, whatever the relation; those that are idle themselves go, parents or not."""
    await make(any_store, "root", 90)
    await make(any_store, "recent", 90, said=1, parent_id="root")
    await make(any_store, "active", 90, end=False, parent_id="root", lifecycle="linked")
    await make(any_store, "fork", 1, parent_id="root", relation="fork")
    await make(any_store, "idle", 80, parent_id="recent")
    await make(any_store, "below", 1, parent_id="idle")
    assert await any_store.sessions.prune(idle_for=30 * DAY) == ["root", "idle"]
    left = {session.id: session async for session in any_store.sessions.stream()}
    assert {name: session.parent_id for name, session in left.items()} == dict.fromkeys(
        ("recent", "active", "fork", "below")
    )
    assert (left["recent"].kind, left["recent"].relation, left["below"].spawn_depth) == ("subagent", "spawn", 3)


@pytest.mark.usefixtures("small_pages")
async def test_more_than_a_page_is_pruned(any_store: AsyncSessionStore, eventually):
    """25 of 30, in the order of their last activity, those of one second too; all rows go in the end."""
    at = ago(100)
    for n in range(25):
        await any_store.sessions.create(f"s{n:03}", created_at=at + timedelta(milliseconds=n // 3 * 500))

    async def talk(n: int) -> None:
        await any_store.messages.append(
            f"s{n:03}", role="user", content="x", created_at=at + timedelta(milliseconds=n * 500)
        )
        await any_store.sessions.end(f"s{n:03}", "done")

    await asyncio.gather(*map(talk, range(25)))
    for n in range(5):
        await make(any_store, f"kept{n}", 1)
    told = await any_store.sessions.prune(idle_for=30 * DAY, dry_run=True)
    assert told == [f"s{n:03}" for n in range(25)]
    assert await any_store.sessions.prune(idle_for=30 * DAY) == told
    assert await names(any_store) == {f"kept{n}" for n in range(5)}

    async def erased() -> bool:
        counts = [await any_store.query(f"SELECT COUNT(*) AS n FROM {table}") for table in ("sessions", "messages")]
        return [rows[0].n for rows in counts] == [5, 5]

    await eventually(erased)


@ON_SQLITE
async def test_who_speaks_before_his_turn_comes_is_not_pruned(store: AsyncSessionStore, hold, eventually):
    """It is looked at again in the transaction that takes it out."""
    for name in "ab":
        await make(store, name, 50)

    async def queued() -> bool:
        return len(store._engine._writer._background) > 0

    await store.flush(index=True)
    async with hold(store):
        pruning = asyncio.create_task(store.sessions.prune(idle_for=30 * DAY))
        await eventually(queued)
        said = store.messages.append_nowait("a", role="user", content="still here")
    await said
    assert await pruning == ["b"]
    assert [message.content for message in await store.messages.list("a")] == ["words of a", "still here"]


@ON_SERVER
async def test_who_is_speaking_is_not_pruned(store: AsyncSessionStore, path: str, eventually):
    """While another writer has the session, it is waited for, and looked at again."""
    for name in "ab":
        await make(store, name, 50)
    await store.flush(index=True)
    async with await psycopg.AsyncConnection.connect(path) as other:

        async def waiting(n: int) -> bool:
            cursor = await other.execute("SELECT COUNT(*) FROM pg_locks WHERE NOT granted")
            return await cursor.fetchone() == (n,)

        await other.execute("LOCK TABLE messages IN EXCLUSIVE MODE")
        said = store.messages.append_nowait("a", role="user", content="still here")
        await eventually(lambda: waiting(1))  # it has locked its session
        pruning = asyncio.create_task(store.sessions.prune(idle_for=30 * DAY))
        await eventually(lambda: waiting(2))
        assert not said.done()
    await said
    assert await pruning == ["b"]
    assert [message.content for message in await store.messages.list("a")] == ["words of a", "still here"]


async def whole(store: AsyncSessionStore) -> set[str]:
    """The sessions that are there, each with its 20 messages, its notes, ledger, texts and event."""
    notes = await store.query("SELECT session_id, text FROM events WHERE kind = 'note'")
    events = {note.session_id: note.text for note in notes}
    found: set[str] = set()
    async for record in store.sessions.export_all():
        id = record["id"]
        assert (len(record["messages"]), len(record["compactions"]), len(record["usage"])) == (20, 1, 1), id
        assert (record["system_prompt"], record["title"], events[id]) == (
            f"prompt of {id}", f"title of {id}", f"event of {id}",
        )  # fmt: skip
        found.add(id)
    assert len(notes) == len(events)
    return found


def _note(session_id: str, text: str, n: int = 1):
    """Events with text, as applications write them."""
    numbers = yield ids(n)
    yield many(
        "INSERT INTO events (id, at, kind, session_id, text) VALUES (?, 0, 'note', ?, ?)",
        [(number, session_id, text) for number in numbers],
    )


async def make_whole(store: AsyncSessionStore, n: int) -> None:
    messages = [{"role": "user", "content": f"m{m}", "created_at": ago(90)} for m in range(19)]
    made = [f"s{n:03}" for n in range(n)]
    for name in made:  # one after the other, for their numbers tell when they were active
        await store.sessions.create(
            name, created_at=ago(90), title=f"title of {name}", system_prompt=f"prompt of {name}"
        )

    async def fill_one(name: str) -> None:
        await store.messages.append_many(name, messages)
        await store.messages.compact(name, from_seq=3, to_seq=9, note="n")
        await store.usage.add(name, prompt_tokens=1)
        await store.write(_note, name, f"event of {name}")
        await store.sessions.end(name, "done")

    await asyncio.gather(*map(fill_one, made))


@pytest.mark.usefixtures("small_pages")
async def test_a_prune_that_fails_half_way_leaves_whole_sessions(any_store: AsyncSessionStore):
    """What was pruned is gone, what was not is whole; repeated without what stopped it, it goes on."""
    await make_whole(any_store, 13)
    await any_store.write(_set_activity, int(ago(90).timestamp() * 1000))
    async with failing(any_store, "UPDATE OF id ON sessions", "OLD.id = 's011' AND NEW.id IS NULL"):
        with pytest.raises(StoreError, match="broken"):
            await any_store.sessions.prune(idle_for=30 * DAY)
        assert await whole(any_store) == {"s010", "s011", "s012"}
    assert await any_store.sessions.prune(idle_for=30 * DAY) == ["s010", "s011", "s012"]


def _set_activity(at: int):
    """Every session was active at that time, one millisecond after the other."""
    yield execute(
        "UPDATE sessions SET last_active_at = :at + session, activity = (:at + session) / 1000 WHERE id IS NOT NULL",
        at=at,
    )


@pytest.mark.usefixtures("small_pages")
async def test_a_prune_that_is_cancelled_leaves_whole_sessions(any_store: AsyncSessionStore):
    """At any moment: what is left is whole, and pruned the next time."""
    await make_whole(any_store, 23)
    await any_store.write(_set_activity, int(ago(90).timestamp() * 1000))
    pruned: set[str] = set()
    for turns in (1, 3, 6, 10, 15, 25, 50):
        task = asyncio.create_task(any_store.sessions.prune(idle_for=30 * DAY))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await any_store.flush()
        left = await whole(any_store)
        assert left.isdisjoint(pruned)
        pruned = {f"s{n:03}" for n in range(23)} - left
    assert set(await any_store.sessions.prune(idle_for=30 * DAY)) == left
    assert await names(any_store) == set()


@pytest.mark.parametrize("writes_otherwise", [True, False], ids=["memory", "reader"])
def test_a_read_that_is_cancelled_leaves_its_connection_as_it_was(writes_otherwise: bool):
    """Not in a transaction and not read-only, however often: found where prunes were cancelled in a store in memory."""
    left: list[str] = []
    with closing(sqlite3.connect(":memory:", isolation_level=None, cached_statements=512)) as connection:
        for _ in range(5_000):
            request = Request(None, 1, writes_otherwise=writes_otherwise)
            request.cancelled = True
            with suppress(sqlite3.Error, StoreError):
                run_read(connection, request, _nothing)
            connection.set_progress_handler(None, 0)
            if connection.in_transaction:
                left.append("in a transaction")
                connection.execute("ROLLBACK")
            if connection.execute("PRAGMA query_only").fetchone()[0]:
                left.append("read-only")
                connection.execute("PRAGMA query_only=OFF")
    assert left == []


def _nothing():
    yield one("SELECT 1 AS n")


# -- deleting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [1, 255, 256, 257, 600])
async def test_a_deleted_session_takes_its_events_along(any_store: AsyncSessionStore, eventually, events: int):
    """They are not found any more at once, and not there any more soon; others' stay, also those of sessions
    the store never knew."""
    for name in "st":
        await any_store.sessions.create(name)
        await any_store.write(_note, name, f"quokka of {name}", events)
    await any_store.write(_note, "unknown", "quokka of nobody")
    assert len([hit async for hit in any_store.search("quokka", limit=None)]) == 2 * events + 1
    assert await any_store.sessions.delete("s") == ["s"]
    found = [hit.session_id async for hit in any_store.search("quokka", limit=None)]
    assert sorted(found) == [*["t"] * events, "unknown"]
    for order in ("newest", "oldest", "relevance"):
        assert [hit async for hit in any_store.search("quokka", session="s", order=order)] == []

    async def erased() -> bool:
        rows = await any_store.query("SELECT session_id, kind, COUNT(*) AS n FROM events GROUP BY 1, 2 ORDER BY 1, 2")
        return [tuple(row) for row in rows] == [
            ("s", "store.deleted", 1), ("t", "note", events), ("t", "store.created", 1), ("unknown", "note", 1),
        ]  # fmt: skip

    await eventually(erased)
    assert len([hit async for hit in any_store.search("quokka", limit=None)]) == events + 1


async def test_a_new_session_of_that_id_has_its_own_events(any_store: AsyncSessionStore, hold, eventually):
    """Those written after the deletion stay and are found, those of before go."""
    await any_store.sessions.create("s")
    await any_store.write(_note, "s", "old quokka", 200)
    await any_store.flush(index=True)
    await any_store.sessions.delete("s")
    await any_store.sessions.create("s")
    await any_store.write(_note, "s", "new quokka", 3)
    assert [hit.text async for hit in any_store.search("quokka", with_text=True)] == ["new quokka"] * 3

    async def erased() -> bool:
        return (await any_store.query("SELECT COUNT(*) AS n FROM events WHERE text = 'old quokka'"))[0].n == 0

    await eventually(erased)
    kinds = await any_store.query("SELECT kind FROM events WHERE session_id = 's' ORDER BY id")
    assert [row.kind for row in kinds] == ["store.deleted", "store.created", "note", "note", "note"]
    assert [hit.text async for hit in any_store.search("quokka", session="s", with_text=True)] == ["new quokka"] * 3


async def test_events_that_were_not_indexed_yet_go_too(any_store: AsyncSessionStore, hold, eventually):
    """Written and deleted in one batch; in the end, the index has nothing of them."""
    await any_store.sessions.create("s")
    async with hold(any_store):
        work = [asyncio.create_task(any_store.write(_note, "s", "quokka", 5))]
        work.append(asyncio.create_task(any_store.sessions.delete("s")))
        await asyncio.sleep(0)
    await asyncio.gather(*work)
    assert [hit async for hit in any_store.search("quokka")] == []

    async def erased() -> bool:
        return [row.kind for row in await any_store.query("SELECT kind FROM events")] == ["store.deleted"]

    await eventually(erased)
    await any_store.flush(index=True)
    assert await indexed(any_store) == set()


async def test_events_of_what_goes_with_it_go_too(any_store: AsyncSessionStore):
    """Of spawned children; those of children that stay stay."""
    await any_store.sessions.create("root")
    for name, fields in {"spawned": {}, "kept": {"lifecycle": "detached"}, "fork": {"relation": "fork"}}.items():
        await any_store.sessions.create(name, parent_id="root", **fields)
        await any_store.write(_note, name, "quokka")
    assert await any_store.sessions.delete("root") == ["root", "spawned"]
    found = [hit.session_id async for hit in any_store.search("quokka", order="oldest")]
    assert found == ["kept", "fork"]


async def test_a_delete_that_fails_leaves_the_whole_session(any_store: AsyncSessionStore):
    """And its descendants: it is one transaction, where the events fit into one."""
    await make_whole(any_store, 2)
    async with failing(any_store, "UPDATE OF id ON sessions", "OLD.id = 's001' AND NEW.id IS NULL"):
        with pytest.raises(StoreError, match="broken"):
            await any_store.sessions.delete("s001")
    assert await whole(any_store) == {"s000", "s001"}


# -- the bytes -------------------------------------------------------------------------------------

FILLER = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "theta", "iota", "kappa", "lambda", "sigma", "omega")
IN_THE_INDEX = ("content", "blocks", "argument", "note", "event")
MESSAGE = (
    "reasoning", "detail", "item", "meta", "external", "call", "finish", "name", "pending",
)  # fmt: skip
SESSION = ("prompt", "title", "key", "user", "model", "config", "smeta", "spawn", "source", "price", "umodel")
WORD = 18


class Marks:
    """A word for each field: of those that go, words that nothing else contains."""

    def __init__(self, fields: Iterable[str], seed: int) -> None:
        letters = random.Random(seed)
        self.word = {field: "".join(letters.choice("bcdfghjklmnpqrstvwxz") for _ in range(WORD)) for field in fields}

    def __getitem__(self, field: str) -> str:
        return self.word[field].capitalize()


async def fill(store: AsyncSessionStore, name: str, n: int, marks: Marks, seed: int, **fields: Any) -> None:
    """A session with `n` messages of filler, every third with the marks in every field."""
    pick = random.Random(seed)
    await store.sessions.create(
        name, title=f"{marks['title']} {name}", key=marks["key"] + name, user_id=marks["user"], model=marks["model"],
        config={"a": marks["config"]}, metadata={"a": [marks["smeta"]]}, spawn_tool_call_id=marks["spawn"],
        source=marks["source"], created_at=ago(90), **fields,
    )  # fmt: skip
    for at in range(0, n, 50):
        await store.messages.append_many(name, [message(n, marks, pick) for n in range(at, min(n, at + 50))])
        await store.sessions.update(name, system_prompt=f"{marks['prompt']} " * pick.randint(1, 60))
    await store.messages.compact(name, from_seq=2, to_seq=n // 3, note=f"so far {marks['note']}")
    await store.messages.rewind(name, n - n // 10)
    await store.write(_note, name, f"it was {marks['event']} again", 3)
    await store.sessions.set_pending(name, {"left": marks["pending"]})
    await store.usage.add(name, model=marks["umodel"], pricing_version=marks["price"])


def message(n: int, marks: Marks, pick: random.Random) -> dict[str, Any]:
    words = [f"{pick.choice(FILLER)}{pick.randrange(50)}" for _ in range(pick.randint(3, 40))]
    given: dict[str, Any] = {"role": "user", "content": " ".join(words), "created_at": ago(90)}
    if n % 3 == 0:
        given |= {
            "content": f"{marks['content']} {given['content']}", "reasoning": f"{marks['reasoning']} " * pick.randint(1, 20),
            "reasoning_details": [marks["detail"]], "provider_items": {"a": marks["item"]}, "name": marks["name"],
            "metadata": {"a": marks["meta"]}, "external_id": f"{marks['external']}{n}", "tool_call_id": marks["call"],
            "finish_reason": marks["finish"],
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": f'{{"q": "{marks["argument"]}"}}'}}],
        }  # fmt: skip
    elif n % 3 == 1:
        given["content"] = [{"type": "text", "text": given["content"]}, {"type": "text", "text": marks["blocks"]}]
    return given


async def delete(store: AsyncSessionStore) -> None:
    assert await store.sessions.delete("gone") == ["gone"]


async def prune(store: AsyncSessionStore) -> None:
    await store.write(_set_activity, int(ago(90).timestamp() * 1000))
    await store.sessions.end("gone", "done")
    assert await store.sessions.prune(idle_for=30 * DAY) == ["gone"]


async def clear(store: AsyncSessionStore) -> None:
    assert await store.messages.clear("gone") > 0


async def in_one_piece(store: AsyncSessionStore) -> None:
    """The index as it is after a while: what is taken out of it then lies in its oldest part."""
    await store.flush(index=True)
    pages = -1_000
    while await store.write(store._engine.fulltext.merge, pages):
        pages = 1_000


Go = Callable[[AsyncSessionStore], Awaitable[None]]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


ERASABLE = "SELECT 1 AS n FROM sessions WHERE id IS NULL UNION ALL SELECT 1 FROM messages WHERE state > 2"
"""what the keeper has not erased yet: rows of deleted sessions, and those that were cleared"""
UNPURGED = "SELECT 1 AS n FROM index_state WHERE erased > purged"
"""what it has not purged the index of yet"""


async def _none(store: AsyncSessionStore, sql: str) -> bool:
    return not await store.query(sql)


async def let_go(path: Target, eventually: Eventually, n: int, go: Go, *, in_between: str = "") -> Marks:
    """Fills a store, lets one of its sessions go, waits for the keeper and closes the store; the marks of what
    went. `in_between` the store is closed and opened again: before the keeper has erased, or after."""
    fields = (*IN_THE_INDEX, *MESSAGE, *SESSION)
    gone, others = Marks(fields, 1), Marks(fields, 2)
    store = await AsyncSessionStore(path, durability=Durability.PROCESS).open()
    try:
        for name, marks in (("before", others), ("gone", gone), ("after", others)):
            await fill(store, name, n, marks, len(name))
            await store.messages.append_many("before", [message(m, others, random.Random(m)) for m in range(10)])
        await in_one_piece(store)
        await go(store)
        if in_between == "before":
            await store.aclose()
            await store.open()
        await eventually(lambda: _none(store, ERASABLE))
        if in_between == "after":
            await store.aclose()
            await store.open()
        await store.flush(index=True)
        await eventually(lambda: _none(store, UNPURGED))
        assert (await store.sessions.get("after")).message_count > 0
        assert [hit async for hit in store.search(others["content"], limit=1)]
    finally:
        await store.aclose()
    return gone


def left(path: Target, marks: Marks, fields: Iterable[str]) -> dict[str, str]:
    """The fields whose word is in the files, and where; all but its first letters, which an index may share.
    On a server, whose files are no part of the promise, in the rows.

    What SQLite leaves in the gaps of pages that it rebalanced is not counted here.
    """
    tails = {field: marks.word[field][2:] for field in fields}
    if is_server(path):
        return {field: where for field, where in _where(path, tails).items() if where}
    contents = [file.read_bytes() for file in Path(path).parent.glob(f"{Path(path).name}*")]
    kept = b"\0".join(
        _without_gaps(each) if each.startswith(b"SQLite format 3\0") else each for each in contents
    ).lower()
    return _where(path, {field: tail for field, tail in tails.items() if tail.encode() in kept})


LEAVES = {13: 8, 10: 8, 5: 12, 2: 12}
"""kinds of b-tree pages, with the length of their header"""


def _without_gaps(database: bytes) -> bytes:
    """The file without what lies between the pointers and the cells of its b-tree pages."""
    size = int.from_bytes(database[16:18], "big")
    kept = bytearray(database)
    for page in range(0, len(database), size):
        header = page + (100 if page == 0 else 0)
        if (length := LEAVES.get(database[header])) is not None:
            cells, first = (int.from_bytes(database[header + at : header + at + 2], "big") for at in (3, 5))
            begin, end = header + length + 2 * cells, page + (first or 65_536)
            kept[begin:end] = bytes(max(0, end - begin))
    return bytes(kept)


def _where(path: Target, tails: dict[str, str]) -> dict[str, str]:
    """For each, the tables in whose rows it is."""
    found: dict[str, list[str]] = {field: [] for field in tails}
    for table in tables(path) if tails else ():
        if table != "search_index":
            values = b"\0".join(_bytes(value).lower() for row in rows(path, f"SELECT * FROM {table}") for value in row)
            for field, tail in tails.items():
                if tail.encode() in values:
                    found[field].append(table)
    return {field: ", ".join(names) for field, names in found.items()}


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


WAYS = {"delete": delete, "prune": prune, "clear": clear}


async def test_the_bytes_are_found_while_they_are_there(path: Path, eventually):
    """The search that the tests below rely on: before a session goes, every word of it is found."""

    async def nothing(_: AsyncSessionStore) -> None:
        pass

    marks = await let_go(path, eventually, 50, nothing)
    found = left(path, marks, marks.word)
    assert set(found) == {*marks.word}
    for field in IN_THE_INDEX:
        assert ("search_terms" if is_server(path) else "search_index_data") in found[field]


@pytest.mark.parametrize(("how", "n"), [(how, n) for how in WAYS for n in (50, 1_500)])
async def test_no_byte_is_left(path: Path, eventually, how: str, n: int):
    """Once the keeper has erased it and purged the index, and the log is in the file: of no column of any table,
    of no word of messages, notes, tool calls and events. A cleared session keeps what is its own."""
    marks = await let_go(path, eventually, n, WAYS[how])
    kept = {*SESSION, "event"} if how == "clear" else set()
    assert left(path, marks, [field for field in marks.word if field not in kept]) == {}


@pytest.mark.parametrize("in_between", ["before", "after"])
async def test_no_byte_is_left_after_closing_in_between(path: Path, eventually, in_between: str):
    """What one opening deleted or erased, the next one brings to its end."""
    marks = await let_go(path, eventually, 500, delete, in_between=in_between)
    assert left(path, marks, marks.word) == {}


async def test_no_byte_is_left_of_one_after_the_other_while_others_speak(path: Path, eventually):
    """Several sessions that go at different times, the index growing all the while."""
    fields = (*IN_THE_INDEX, *MESSAGE, *SESSION)
    marks = {f"gone{n}": Marks(fields, n) for n in range(4)}
    async with AsyncSessionStore(path, durability=Durability.PROCESS) as store:
        for n, name in enumerate(marks):
            await fill(store, name, 200, marks[name], n)
            await fill(store, f"live{n}", 200, Marks(fields, 10 + n), 10 + n)
        await in_one_piece(store)
        for n, name in enumerate(marks):
            assert await store.sessions.delete(name) == [name]
            for _ in range(20):
                await store.messages.append(f"live{n}", role="user", content="still talking about this and that")
            assert [hit async for hit in store.search("talking", session=f"live{n}", limit=1)]

        await eventually(lambda: _none(store, f"{ERASABLE} UNION ALL {UNPURGED}"))
        assert len([hit async for hit in store.search("talking", limit=None)]) == 80
    assert [left(path, each, fields) for each in marks.values()] == [{}] * 4


@ON_FILES
@pytest.mark.xfail(
    strict=True,
    reason="SQLite's secure_delete leaves copies in the gaps of pages it rebalanced; only VACUUM removes them",
)
async def test_no_byte_is_left_in_gaps_between_rows(path: Path, eventually):
    """Texts that grew and shrank moved their neighbours from page to page, and are gone from all of them."""
    pick, tail, every = random.Random(1), "wqxzjk", range(400)
    async with AsyncSessionStore(path, durability=Durability.PROCESS) as store:
        await asyncio.gather(*(store.sessions.create(f"s{n}", system_prompt="short") for n in every))
        for _ in range(4):
            texts = {
                f"s{n}": (tail if n % 2 else "other.") * pick.randint(1, 100) for n in pick.sample(every, len(every))
            }
            await asyncio.gather(*(store.sessions.update(name, system_prompt=text) for name, text in texts.items()))
        for n in every[1::2]:
            await store.sessions.delete(f"s{n}")

        async def erased() -> bool:
            return (await store.query("SELECT COUNT(*) AS n FROM sessions"))[0].n == 200

        await eventually(erased)
    assert tail.encode() not in path.read_bytes()
