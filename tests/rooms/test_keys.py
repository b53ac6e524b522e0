"""Gateway keys: one live session for each, and after it the next; what has ended is never revived."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recollect import (
    AsyncSessionStore,
    InvalidRecord,
    KeyTaken,
    ReadOnly,
    Session,
    SessionExists,
    SessionNotFound,
    Status,
    TitleTaken,
)
from recollect.engine.operation import Operation
from recollect.sessions.keys import next_of_key, read_live
from recollect.sessions.life import NewSession, live_of

from .engines import ON_FILES

AT = datetime(2020, 1, 1, tzinfo=UTC)
HOUR_S = 3_600.0
KEY = "agent:main:telegram:dm:42"


async def live(store: AsyncSessionStore, key: str = KEY) -> list[str]:
    """The active sessions of a key: one at most, whatever happens."""
    found = [session.id for session in await store.sessions.list(key=key, status="active", limit=None)]
    assert len(found) <= 1
    return found


async def standing(store: AsyncSessionStore) -> dict[str, tuple[str, str | None, str | None]]:
    """Status, reason and key of every session."""
    page = await store.sessions.list(limit=None)
    return {session.id: (session.status.value, session.end_reason, session.key) for session in page}


# -- the live one ----------------------------------------------------------------------------------


async def test_the_first_call_creates_and_the_next_returns_it(any_store: AsyncSessionStore):
    """With the fields of the first call; those of later calls, and their id, are not looked at."""
    fields = {"source": "telegram", "user_id": "u", "model": "m", "config": {"a": 1}, "system_prompt": "p",
              "title": "T", "metadata": {"b": 2}, "created_at": AT, "lifecycle": "linked"}  # fmt: skip
    first = await any_store.sessions.for_key(KEY, session_id="first", **fields)
    assert (first.id, first.key, first.status) == ("first", KEY, Status.ACTIVE)
    assert {name: getattr(first, name) for name in fields} == fields
    other = {**fields, "source": "cli", "title": "Other", "model": "m2"}
    for again in ({}, other, {"session_id": "second"}):
        assert await any_store.sessions.for_key(KEY, **again) == first
    assert await any_store.sessions.count() == 1


async def test_a_key_is_text_as_it_is_given(any_store: AsyncSessionStore):
    """Case, spaces and signs count; an empty one, or one that is no text, is refused."""
    keys = [KEY, KEY.upper(), f"{KEY} ", "%", "_", "京", "é", "e\u0301", "'"]
    found = [await any_store.sessions.for_key(key) for key in keys]
    assert [session.key for session in found] == keys
    assert len({session.id for session in found}) == len(keys)
    assert [await any_store.sessions.for_key(key) for key in keys] == found
    for wrong in ("", None, 1, "a\x00", "\ud800"):
        with pytest.raises(InvalidRecord, match="key"):
            await any_store.sessions.for_key(wrong)


async def test_a_live_session_is_returned_as_it_is_now(any_store: AsyncSessionStore):
    """With what was appended and changed since: for_key is a read."""
    session = await any_store.sessions.for_key(KEY)
    await any_store.messages.append(session.id, role="user", content="hello")
    await any_store.sessions.set_title(session.id, "T")
    found = await any_store.sessions.for_key(KEY)
    assert (found.message_count, found.title) == (1, "T")
    assert found == await any_store.sessions.get(session.id)


async def test_a_session_that_was_created_with_a_key_is_its_live_one(any_store: AsyncSessionStore):
    """create, ensure and fork give keys too."""
    await any_store.sessions.create("a", key="ka")
    await any_store.sessions.create("b")
    await any_store.sessions.ensure("b", key="kb")
    await any_store.sessions.fork("a", session_id="c", key="kc")
    assert [(await any_store.sessions.for_key(key)).id for key in ("ka", "kb", "kc")] == ["a", "b", "c"]


async def test_a_key_that_is_cleared_away_with_its_messages_is_not(any_store: AsyncSessionStore):
    """Clearing a session's messages leaves it the live one of its key."""
    session = await any_store.sessions.for_key(KEY)
    await any_store.messages.append(session.id, role="user", content="x")
    await any_store.messages.clear(session.id)
    assert (await any_store.sessions.for_key(KEY)).id == session.id
    assert await live(any_store) == [session.id]


# -- the next one ----------------------------------------------------------------------------------

LEAVING: dict[str, list[str]] = {
    "ended": ["end"],
    "archived": ["archive"],
    "ended and archived": ["end", "archive"],
    "archived and taken back ended": ["end", "archive", "unarchive"],
    "deleted": ["delete"],
}


async def leave(store: AsyncSessionStore, session_id: str, steps: list[str]) -> None:
    for step in steps:
        await getattr(store.sessions, step)(session_id, *(["done"] if step == "end" else []))


@pytest.mark.parametrize("how", LEAVING)
async def test_what_is_over_is_never_revived(any_store: AsyncSessionStore, how: str):
    """After a session ended, was archived or deleted, its key gets the next one, and it stays as it was."""
    first = await any_store.sessions.for_key(KEY)
    await leave(any_store, first.id, LEAVING[how])
    before = await any_store.sessions.get(first.id)
    second = await any_store.sessions.for_key(KEY)
    assert second.id != first.id
    assert (second.status, second.key, second.message_count) == (Status.ACTIVE, KEY, 0)
    assert await any_store.sessions.get(first.id) == before
    assert await any_store.sessions.for_key(KEY) == second
    assert await live(any_store) == [second.id]


async def test_the_same_one_goes_on_if_it_was_reopened_first(any_store: AsyncSessionStore):
    """Ended and reopened before anybody asked: it is live again."""
    first = await any_store.sessions.for_key(KEY)
    for steps in (["end", "reopen"], ["archive", "unarchive"], ["end", "archive", "reopen", "unarchive"]):
        await leave(any_store, first.id, steps)
        assert (await any_store.sessions.for_key(KEY)).id == first.id


async def test_one_that_was_idle_gives_way_to_the_next(any_store: AsyncSessionStore):
    """Idle for as long as asked or longer: it ends with the reason "idle", and the key has a new session."""
    old = await any_store.sessions.for_key(KEY, created_at=AT)
    assert await any_store.sessions.for_key(KEY) == old
    assert await any_store.sessions.for_key(KEY, idle_s=10**9) == old
    new = await any_store.sessions.for_key(KEY, idle_s=HOUR_S)
    assert new.id != old.id
    assert await any_store.sessions.for_key(KEY, idle_s=HOUR_S) == new
    assert await standing(any_store) == {old.id: ("ended", "idle", KEY), new.id: ("active", None, KEY)}
    assert (await any_store.sessions.get(old.id)).ended_at > AT


async def test_a_message_ends_idleness(any_store: AsyncSessionStore):
    """The last activity counts, not the creation; an older message does not make it older."""
    old = await any_store.sessions.for_key(KEY, created_at=AT)
    await any_store.messages.append(old.id, role="user", content="now")
    await any_store.messages.append(old.id, role="user", content="then", created_at=AT)
    assert (await any_store.sessions.for_key(KEY, idle_s=HOUR_S)).id == old.id
    await any_store.messages.clear(old.id)
    assert (await any_store.sessions.for_key(KEY, idle_s=HOUR_S)).id != old.id


async def test_no_time_at_all_is_always_idle(any_store: AsyncSessionStore):
    """idle_s=0: each call begins a session, also in one millisecond. One that is dated in the future is not idle."""
    found = [(await any_store.sessions.for_key(KEY, idle_s=0)).id for _ in range(50)]
    assert len(set(found)) == 50
    ahead = await any_store.sessions.for_key("k2", created_at=datetime.now(UTC) + timedelta(days=1))
    assert (await any_store.sessions.for_key("k2", idle_s=0)).id == ahead.id


@pytest.mark.parametrize("idle_s", [-1, -0.001, float("nan"), float("inf"), "1", True])
async def test_idle_s_is_a_number_of_seconds(any_store: AsyncSessionStore, idle_s: object):
    """Anything else is refused, and nothing begins or ends."""
    with pytest.raises(InvalidRecord, match="idle_s"):
        await any_store.sessions.for_key(KEY, idle_s=idle_s)
    assert await any_store.sessions.count() == 0


async def test_a_reset_ends_the_live_one_with_its_reason(any_store: AsyncSessionStore):
    """However young it is; without one, a reset only begins. A blank reason is refused."""
    first = await any_store.sessions.for_key(KEY, reset="/new")
    second = await any_store.sessions.for_key(KEY, reset="/new", idle_s=10**9, source="web")
    assert (second.id != first.id, second.source) == (True, "web")
    for wrong in ("", 1):
        with pytest.raises(InvalidRecord, match="reset"):
            await any_store.sessions.for_key(KEY, reset=wrong)
    assert await standing(any_store) == {first.id: ("ended", "/new", KEY), second.id: ("active", None, KEY)}


async def test_a_reset_of_an_idle_one_has_the_reason_that_was_given(any_store: AsyncSessionStore):
    """A reason is better than "idle"."""
    first = await any_store.sessions.for_key(KEY, created_at=AT)
    await any_store.sessions.for_key(KEY, idle_s=1, reset="/new")
    assert (await any_store.sessions.get(first.id)).end_reason == "/new"


async def test_the_next_one_may_continue_the_last(any_store: AsyncSessionStore):
    """It can be created with a parent as any session can: a line of sessions of one key."""
    line = [(await any_store.sessions.for_key(KEY)).id]
    for _ in range(3):
        session = await any_store.sessions.for_key(KEY, reset="compacted", parent_id=line[-1], relation="continuation")
        line.append(session.id)
    assert [each.id for each in await any_store.sessions.ancestors(line[-1])] == line[:-1]
    assert (await any_store.sessions.tip(line[0])).id == line[-1] == (await live(any_store))[0]


async def test_what_cannot_begin_does_not_end_the_last(any_store: AsyncSessionStore):
    """A title that is taken, a parent that is unknown: the error, and the live session stays the live one."""
    await any_store.sessions.create("holder", title="T")
    first = await any_store.sessions.for_key(KEY, created_at=AT)
    for fields, error in (({"title": "T"}, TitleTaken), ({"parent_id": "nobody"}, SessionNotFound)):
        for begins in ({"reset": "/new"}, {"idle_s": 1}):
            with pytest.raises(error):
                await any_store.sessions.for_key(KEY, **begins, **fields)
        with pytest.raises(error):
            await any_store.sessions.for_key("another", **fields)
    assert await any_store.sessions.for_key(KEY) == first
    assert await any_store.sessions.count() == 2


async def test_an_id_that_is_there_is_refused(any_store: AsyncSessionStore):
    """A next session with the id of another: SessionExists, as create says, and nothing ends."""
    await any_store.sessions.create("s")
    with pytest.raises(SessionExists, match="'s'"):
        await any_store.sessions.for_key(KEY, session_id="s")
    first = await any_store.sessions.for_key(KEY)
    with pytest.raises(SessionExists, match="'s'"):
        await any_store.sessions.for_key(KEY, session_id="s", reset="/new")
    assert await any_store.sessions.for_key(KEY) == first


# -- at once ---------------------------------------------------------------------------------------


async def test_two_hundred_tasks_get_one_session(any_store: AsyncSessionStore):
    """However many messages of a chat arrive at once, they have one session; and so after an end."""
    for _ in range(2):
        found = await asyncio.gather(*(any_store.sessions.for_key(KEY) for _ in range(200)))
        assert len({session.id for session in found}) == 1
        assert await live(any_store) == [found[0].id]
        await any_store.sessions.end(found[0].id, "done")
    assert await any_store.sessions.count() == 2


async def test_many_keys_at_once_have_one_session_each(any_store: AsyncSessionStore):
    """Ten tasks for each of twenty keys, mixed."""
    keys = [f"k{n % 20}" for n in range(200)]
    found = await asyncio.gather(*(any_store.sessions.for_key(key) for key in keys))
    assert [session.key for session in found] == keys
    assert len({session.id for session in found}) == await any_store.sessions.count() == 20


async def test_an_idle_session_is_followed_by_one_for_all_who_ask(any_store: AsyncSessionStore):
    """Two hundred tasks find it idle: the first begins the next, the others get that one."""
    old = await any_store.sessions.for_key(KEY, created_at=AT)
    found = await asyncio.gather(*(any_store.sessions.for_key(KEY, idle_s=HOUR_S) for _ in range(200)))
    assert len({session.id for session in found}) == 1
    assert await standing(any_store) == {old.id: ("ended", "idle", KEY), found[0].id: ("active", None, KEY)}


async def test_resets_at_once_each_begin_one_and_leave_one(any_store: AsyncSessionStore):
    """Whoever resets gets a session of its own, as it asked; the last of them lives."""
    found = await asyncio.gather(*(any_store.sessions.for_key(KEY, reset="/new") for _ in range(30)))
    assert len({session.id for session in found}) == await any_store.sessions.count() == 30
    assert await live(any_store) == [found[-1].id]


async def test_two_stores_on_one_file_agree_on_the_live_session(path: Path):
    """Neither has a memory of its own that could be wrong: what the other ended is over at once."""
    async with AsyncSessionStore(path) as one, AsyncSessionStore(path) as other:
        for _ in range(5):
            found = await asyncio.gather(*(store.sessions.for_key(KEY) for store in [one, other] * 20))
            assert len({session.id for session in found}) == 1
            await other.sessions.end(found[0].id, "done")
            assert (await one.sessions.for_key(KEY)).id != found[0].id
            await one.sessions.for_key(KEY, reset="again")


async def test_ends_and_asks_in_one_heap_leave_one_live_session(any_store: AsyncSessionStore):
    """Asked, ended, reset, archived, reopened and created at once: never two live ones, nothing but KeyTaken."""
    for _ in range(10):
        current = (await any_store.sessions.for_key(KEY)).id
        calls = [
            *(any_store.sessions.for_key(KEY) for _ in range(4)), any_store.sessions.end(current, "done"),
            any_store.sessions.for_key(KEY), any_store.sessions.reopen(current), any_store.sessions.create(key=KEY),
            any_store.sessions.for_key(KEY, reset="/new"), any_store.sessions.archive(current),
            any_store.sessions.reopen(current, switch="back"), any_store.sessions.for_key(KEY, idle_s=0),
            any_store.sessions.unarchive(current),
        ]  # fmt: skip
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in outcomes} <= {Session, KeyTaken}, outcomes
        await live(any_store)
    rows = await any_store.query("SELECT key FROM sessions WHERE status = 'active' GROUP BY key HAVING COUNT(*) > 1")
    assert rows == []


# -- a key that is taken ---------------------------------------------------------------------------

Call = Callable[[AsyncSessionStore], Awaitable[Session]]

TAKING: dict[str, Call] = {
    "create": lambda store: store.sessions.create("new", key=KEY),
    "create a child": lambda store: store.sessions.create("new", key=KEY, parent_id="over"),
    "ensure a new one": lambda store: store.sessions.ensure("new", key=KEY),
    "fork": lambda store: store.sessions.fork("over", session_id="new", key=KEY),
    "reopen": lambda store: store.sessions.reopen("over"),
    "unarchive": lambda store: store.sessions.unarchive("away"),
}


@pytest.fixture
async def taken(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """KEY had the session `over`, which ended, then `away`, which was archived; now `now` is live."""
    for name, steps in (("over", ["end"]), ("away", ["archive"]), ("now", [])):
        await any_store.sessions.create(name, key=KEY)
        await leave(any_store, name, steps)
    return any_store


@pytest.mark.parametrize("how", TAKING)
async def test_a_key_with_a_live_session_is_taken(taken: AsyncSessionStore, how: str):
    """KeyTaken names key and holder, in attributes and in words; nothing changed, nothing appeared."""
    before = [session async for session in taken.sessions.stream()]
    with pytest.raises(KeyTaken, match=f"'{KEY}' has a live session, 'now'; not stored") as error:
        await TAKING[how](taken)
    assert isinstance(error.value, SessionExists)
    assert (error.value.key, error.value.by, error.value.stored) == (KEY, "now", False)
    assert [session async for session in taken.sessions.stream()] == before


@pytest.mark.parametrize("how", TAKING)
async def test_a_key_without_a_live_session_is_free(taken: AsyncSessionStore, how: str):
    """As soon as the live one is over, each of these is possible, and makes the live one."""
    await taken.sessions.end("now", "done")
    session = await TAKING[how](taken)
    assert (session.status, session.key) == (Status.ACTIVE, KEY)
    assert (await taken.sessions.for_key(KEY)).id == session.id


async def test_ensure_of_an_existing_session_leaves_a_taken_key_out(taken: AsyncSessionStore):
    """It is never an error: the rest is filled in. One that has ended may have the key, for it is not live."""
    await taken.sessions.create("s")
    found = await taken.sessions.ensure("s", key=KEY, model="m")
    assert (found.key, found.model) == (None, "m")
    await taken.sessions.create("old")
    await taken.sessions.end("old", "done")
    assert (await taken.sessions.ensure("old", key=KEY)).key == KEY
    with pytest.raises(KeyTaken):
        await taken.sessions.reopen("old")
    await taken.sessions.end("now", "done")
    assert (await taken.sessions.ensure("s", key=KEY)).key == KEY
    assert await live(taken) == ["s"]


async def test_ensure_does_not_change_a_key(any_store: AsyncSessionStore):
    """A key that is there stays, be another one free or not."""
    await any_store.sessions.create("s", key=KEY)
    assert (await any_store.sessions.ensure("s", key="another")).key == KEY
    assert (await any_store.sessions.for_key("another")).id != "s"


async def test_one_that_ended_comes_back_ended_beside_the_live_one(taken: AsyncSessionStore):
    """Unarchiving what had ended needs no key: it is not live. Reopening what is archived neither."""
    await taken.sessions.archive("over")
    assert (await taken.sessions.unarchive("over")).status is Status.ENDED
    await taken.sessions.archive("over")
    assert (await taken.sessions.reopen("over", switch="back")).status is Status.ARCHIVED
    assert await live(taken) == ["now"]
    with pytest.raises(KeyTaken):
        await taken.sessions.unarchive("over")


async def test_reopening_can_switch(taken: AsyncSessionStore):
    """With a reason for it, the live one is ended and the reopened one lives, in one step; and back again."""
    session = await taken.sessions.reopen("over", switch="resumed")
    assert (session.id, session.status, session.ended_at, session.end_reason) == ("over", Status.ACTIVE, None, None)
    assert (await standing(taken))["now"] == ("ended", "resumed", KEY)
    assert (await taken.sessions.for_key(KEY)).id == "over"
    await taken.sessions.reopen("now", switch="back")
    assert await standing(taken) == {
        "over": ("ended", "back", KEY), "away": ("archived", None, KEY), "now": ("active", None, KEY),
    }  # fmt: skip


async def test_a_switch_without_need_ends_nothing(taken: AsyncSessionStore):
    """Of an active session, of one without a key, or where no other is live, it is a mere reopening."""
    await taken.sessions.reopen("now", switch="x")
    await taken.sessions.create("keyless")
    await taken.sessions.end("keyless", "done")
    assert (await taken.sessions.reopen("keyless", switch="x")).status is Status.ACTIVE
    await taken.sessions.create("elsewhere", key="another")
    assert await live(taken) == ["now"]
    await taken.sessions.end("now", "done")
    await taken.sessions.reopen("over", switch="x")
    assert "x" not in [reason for _, reason, _ in (await standing(taken)).values()]


async def test_a_switch_needs_a_reason_and_a_session(taken: AsyncSessionStore):
    """A blank reason is refused, an unknown session is not found; the live one stays."""
    for wrong in ("", 1):
        with pytest.raises(InvalidRecord, match="switch"):
            await taken.sessions.reopen("over", switch=wrong)
    with pytest.raises(SessionNotFound, match="nobody"):
        await taken.sessions.reopen("nobody", switch="x")
    assert await live(taken) == ["now"]


async def test_a_record_with_a_taken_key_arrives_without_it(taken: AsyncSessionStore):
    """Imported beside a live one: reported, and the key is left out; one that is not active keeps it."""
    records = [{"id": "i1", "key": KEY}, {"id": "i2", "key": KEY, "status": "archived"}, {"id": "i3", "key": "free"}]
    report = await taken.sessions.import_(records)
    assert (report.inserted["sessions"], report.rejected) == (3, Counter(keys=1))
    assert "'i1'" in report.rejections[0].reason
    found = await standing(taken)
    assert (found["i1"], found["i2"], found["i3"]) == (
        ("active", None, None), ("archived", None, KEY), ("active", None, "free"),
    )  # fmt: skip


# -- what it costs ---------------------------------------------------------------------------------

KEYS = 300


@pytest.fixture
async def busy(store: AsyncSessionStore) -> AsyncSessionStore:
    """A gateway with some hundred keys; every tenth has had a session before its live one."""
    for wave in range(2):
        keys = [f"agent:main:telegram:dm:{n}" for n in range(KEYS) if wave or n % 10 == 0]
        found = await asyncio.gather(*(store.sessions.for_key(key) for key in keys))
        assert len({session.id for session in found}) == len(keys)
        if not wave:
            await asyncio.gather(*(store.sessions.end(session.id, "done") for session in found))
    return store


async def test_a_live_session_costs_no_write(busy: AsyncSessionStore, path: Path):
    """Some hundred lookups: not one write, whether it is asked for idleness or not. By a store that refuses them, and
    that has no keeper, whose writes would be counted."""
    async with AsyncSessionStore(path, readonly=True) as reading:
        for n in range(KEYS):
            session = await reading.sessions.for_key(f"agent:main:telegram:dm:{n}", idle_s=HOUR_S if n % 2 else None)
            assert session.status is Status.ACTIVE
        after = await reading.stats()
        assert (after.writes, after.batches, after.sessions) == (0, 0, KEYS * 11 // 10)
        with pytest.raises(ReadOnly):
            await reading.sessions.for_key("agent:main:telegram:dm:0", reset="now it would write")


def first_statement(operation: Operation[object]) -> str:
    """The SQL that an operation begins with."""
    return next(operation).sql


NEW = NewSession("id", "unknown", None, KEY, *[None] * 7, "ephemeral", None, 0)

LOOKUPS = {
    "for_key, reading": first_statement(read_live(KEY, None, None)),
    "for_key, writing": first_statement(next_of_key(NEW, None, None, 3)),
    "whether a key is taken": first_statement(live_of(KEY, "id", None)),
}


@ON_FILES
@pytest.mark.parametrize("analyzed", [False, True])
async def test_the_live_session_is_found_by_its_index(busy: AsyncSessionStore, path: Path, analyzed: bool):
    """Of some hundred keys as of one: a lookup in sessions_live, which holds one entry per key; no scan, no sort.
    With the statistics of ANALYZE as without."""
    await busy.aclose()
    with closing(sqlite3.connect(path)) as db:
        if analyzed:
            db.execute("ANALYZE")
        for name, sql in LOOKUPS.items():
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", {"key": KEY, "id": "id"})]
            assert plan[0].startswith("SEARCH"), (name, plan)
            assert plan[0].endswith("USING INDEX sessions_live (key=?)"), (name, plan)
            assert not [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step], (name, plan)
