"""Sessions: created, filled in, found, updated, ended, reopened."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from recollect import (
    AsyncSessionStore,
    InvalidRecord,
    InvalidTitle,
    Kind,
    Lifecycle,
    Limits,
    QueueFull,
    Relation,
    SessionExists,
    SessionNotFound,
    SpawnTooDeep,
    Status,
    TitleTaken,
)

AT = datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
EVERYTHING = {
    "source": "telegram", "user_id": "u1", "key": "k1", "model": "m-1", "config": {"temperature": 0.5, "tools": [1]},
    "system_prompt": "Be brief.", "title": "A title", "metadata": {"a": {"b": None}}, "spawn_tool_call_id": "call_1",
}  # fmt: skip
FILLABLE = ("source", "user_id", "key", "model", "config", "system_prompt", "title", "metadata")


async def test_a_session_comes_back_as_it_was_created(any_store: AsyncSessionStore):
    """Every field given to create is in what it returns, and in what get returns later."""
    created = await any_store.sessions.create("s-1", created_at=AT, **EVERYTHING)
    assert {name: getattr(created, name) for name in EVERYTHING} == EVERYTHING
    assert (created.id, created.kind, created.status) == ("s-1", Kind.ROOT, Status.ACTIVE)
    assert created.created_at == created.updated_at == created.last_active_at == AT
    assert await any_store.sessions.get("s-1") == created


async def test_a_bare_session_has_an_id_and_empty_fields(any_store: AsyncSessionStore):
    """Nothing has to be given: the id is `sess_` and 24 hex digits, the rest is empty or zero."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    session = await any_store.sessions.create()
    assert re.fullmatch(r"sess_[0-9a-f]{24}", session.id)
    assert session.source == "unknown"
    assert session.lifecycle is Lifecycle.EPHEMERAL
    assert (session.config, session.metadata) == ({}, {})
    empty = ("user_id", "key", "model", "system_prompt", "title", "end_reason", "parent_id", "relation", "ended_at",
             "preview", "estimated_cost_usd", "actual_cost_usd", "cost_status", "billing_mode")  # fmt: skip
    assert [getattr(session, name) for name in empty] == [None] * len(empty)
    counters = ("message_count", "tool_call_count", "input_tokens", "output_tokens", "cache_read_tokens",
                "cache_write_tokens", "reasoning_tokens", "spawn_depth")  # fmt: skip
    assert [getattr(session, name) for name in counters] == [0] * len(counters)
    assert before <= session.created_at <= datetime.now(UTC)
    assert session.created_at.tzinfo is UTC


async def test_an_empty_config_is_no_config_and_a_time_comes_back_in_utc(store: AsyncSessionStore):
    """`{}` reads back as `{}`; a time in another zone is the same instant in UTC."""
    local = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    session = await store.sessions.create("s", config={}, metadata={}, created_at=local)
    assert (session.config, session.metadata, session.created_at) == ({}, {}, AT)
    assert session.created_at.utcoffset() == timedelta(0)


async def test_a_duplicate_id_is_refused_and_changes_nothing(any_store: AsyncSessionStore):
    """create of an id that is there: SessionExists, and the first one stays as it was."""
    first = await any_store.sessions.create("s", source="cli")
    with pytest.raises(SessionExists, match="ensure"):
        await any_store.sessions.create("s", source="web", user_id="u")
    assert await any_store.sessions.get("s") == first
    assert await any_store.sessions.count() == 1


async def test_ids_are_text_in_any_script_and_case_counts(store: AsyncSessionStore):
    """An id is kept as given; two that differ in case are two."""
    for name in ("a", "A", "é", "e\u0301", "会话/1", " spaced ", "%_'\""):
        assert (await store.sessions.create(name)).id == name
        found = await store.sessions.get(name)
        assert found is not None
        assert found.id == name
    assert await store.sessions.count() == 7


async def test_a_title_is_cleaned_and_limited_and_unique(any_store: AsyncSessionStore):
    """Titles are cleaned as clean_title says; one too long or taken is refused, and blank ones are no titles."""
    await any_store.sessions.create("a", title="  My\u200b \t title\x00 ")
    assert (await any_store.sessions.get("a")).title == "My title"
    await any_store.sessions.create("100", title="x" * 100)
    with pytest.raises(InvalidTitle):
        await any_store.sessions.create("101", title="x" * 101)
    with pytest.raises(TitleTaken) as taken:
        await any_store.sessions.create("b", title="My title")
    assert (taken.value.by, taken.value.title) == ("a", "My title")
    assert "'a'" in str(taken.value)
    for name in ("blank-1", "blank-2"):
        assert (await any_store.sessions.create(name, title=" \u200b ")).title is None
    assert await any_store.sessions.get("b") is None


# -- parents ---------------------------------------------------------------------------------------


async def test_a_parent_without_a_relation_means_spawn(any_store: AsyncSessionStore):
    """The child is a subagent, one deeper, and names its parent."""
    await any_store.sessions.create("root")
    child = await any_store.sessions.create("child", parent_id="root", lifecycle="linked")
    assert (child.parent_id, child.relation, child.kind) == ("root", Relation.SPAWN, Kind.SUBAGENT)
    assert (child.spawn_depth, child.lifecycle) == (1, Lifecycle.LINKED)


async def test_spawning_goes_three_deep_and_no_deeper(store: AsyncSessionStore):
    """Depth 3 is the default limit; deeper is SpawnTooDeep and not stored; the limit can be chosen."""
    parent = (await store.sessions.create()).id
    for depth in (1, 2, 3):
        session = await store.sessions.create(parent_id=parent)
        assert session.spawn_depth == depth
        parent = session.id
    with pytest.raises(SpawnTooDeep):
        await store.sessions.create("too-deep", parent_id=parent)
    assert await store.sessions.get("too-deep") is None
    async with AsyncSessionStore(":memory:", limits=Limits(spawn_depth=1)) as shallow:
        await shallow.sessions.create("a")
        await shallow.sessions.create("b", parent_id="a")
        with pytest.raises(SpawnTooDeep):
            await shallow.sessions.create("c", parent_id="b")


@pytest.mark.parametrize("relation", [Relation.CONTINUATION, "fork", Relation.FOLLOWUP])
async def test_other_relations_keep_the_parents_depth(store: AsyncSessionStore, relation: Relation | str):
    """A chain of them grows without limit, at the depth of its start; they are no subagents."""
    await store.sessions.create("root")
    parent = (await store.sessions.create("spawned", parent_id="root")).id
    for _ in range(8):
        session = await store.sessions.create(parent_id=parent, relation=relation)
        assert (session.spawn_depth, session.kind, session.relation) == (1, Kind.ROOT, relation)
        parent = session.id


async def test_a_subagent_stays_one_when_its_parent_is_gone(any_store: AsyncSessionStore):
    """kind tells how it began, not whether the parent is still there."""
    await any_store.sessions.create("parent")
    await any_store.sessions.create("child", parent_id="parent")
    assert await any_store.sessions.delete("parent", cascade=False) == ["parent"]
    child = await any_store.sessions.get("child")
    assert (child.kind, child.parent_id, child.spawn_depth) == (Kind.SUBAGENT, None, 1)


async def test_a_parent_must_exist_and_a_relation_needs_one(store: AsyncSessionStore):
    """An unknown parent is SessionNotFound naming it; a relation without a parent, or unknown, InvalidRecord."""
    with pytest.raises(SessionNotFound, match="nobody"):
        await store.sessions.create("s", parent_id="nobody")
    with pytest.raises(InvalidRecord, match="parent_id"):
        await store.sessions.create("s", relation="fork")
    await store.sessions.create("p")
    with pytest.raises(InvalidRecord, match="spawn"):
        await store.sessions.create("s", parent_id="p", relation="cousin")
    assert await store.sessions.get("s") is None


# -- ensure ----------------------------------------------------------------------------------------


async def test_ensure_creates_what_is_not_there(any_store: AsyncSessionStore):
    """On an unknown id, ensure is create."""
    session = await any_store.sessions.ensure("s", created_at=AT, **EVERYTHING)
    assert {name: getattr(session, name) for name in EVERYTHING} == EVERYTHING
    assert (session.id, session.created_at) == ("s", AT)


@pytest.mark.parametrize("name", FILLABLE)
async def test_ensure_fills_a_field_that_is_empty_and_no_other(any_store: AsyncSessionStore, name: str):
    """What is still empty is filled in, what is there stays, whatever is given later."""
    await any_store.sessions.create("s", created_at=AT)
    filled = await any_store.sessions.ensure("s", **{name: EVERYTHING[name]})
    assert getattr(filled, name) == EVERYTHING[name]
    assert filled.created_at == AT
    other = {"changed": True} if name in ("config", "metadata") else "changed"
    again = await any_store.sessions.ensure("s", **{name: other})
    assert getattr(again, name) == EVERYTHING[name]


async def test_ensure_never_raises_for_an_existing_id(any_store: AsyncSessionStore):
    """Not for a title that is taken, nor for a parent that is unknown: it fills what it can."""
    await any_store.sessions.create("holder", title="Taken")
    await any_store.sessions.create("s")
    session = await any_store.sessions.ensure("s", title="Taken", user_id="u", parent_id="nobody")
    assert (session.title, session.user_id, session.parent_id) == (None, "u", None)


async def test_ensure_gives_a_parent_to_one_that_has_none(any_store: AsyncSessionStore):
    """With relation, kind, depth, lifecycle and the call that spawned it; what is below it gets its depth. A
    second parent changes nothing."""
    for name in ("root", "s", "other"):
        await any_store.sessions.create(name)
    await any_store.sessions.create("below", parent_id="s")
    given = {"parent_id": "root", "lifecycle": "detached", "spawn_tool_call_id": "call_1"}
    found = await any_store.sessions.ensure("s", **given)
    assert (found.parent_id, found.relation, found.kind) == ("root", Relation.SPAWN, Kind.SUBAGENT)
    assert (found.spawn_depth, found.lifecycle, found.spawn_tool_call_id) == (1, Lifecycle.DETACHED, "call_1")
    assert (await any_store.sessions.get("below")).spawn_depth == 2
    again = await any_store.sessions.ensure("s", parent_id="other", relation="fork", spawn_tool_call_id="call_2")
    assert again == found
    fork = await any_store.sessions.ensure("other", parent_id="s", relation="fork")
    assert (fork.parent_id, fork.relation, fork.kind, fork.spawn_depth) == ("s", Relation.FORK, Kind.ROOT, 1)


@pytest.mark.parametrize("parent", ["nobody", "s", "below", "third"])
async def test_ensure_leaves_out_a_parent_that_cannot_be(any_store: AsyncSessionStore, parent: str):
    """Unknown, itself, one of its own descendants, or so deep that it or what is below it would be too deep."""
    above = None
    for name in ("first", "second", "third"):
        await any_store.sessions.create(name, parent_id=above)
        above = name
    await any_store.sessions.create("s")
    await any_store.sessions.create("below", parent_id="s")
    before = await any_store.sessions.get("s")
    assert await any_store.sessions.ensure("s", parent_id=parent) == before
    assert (await any_store.sessions.get("below")).spawn_depth == 1


async def test_a_session_over_the_limit_is_refused(any_store: AsyncSessionStore):
    """limits.row_bytes counts every text of a session, when it is made and when it is changed."""
    async with AsyncSessionStore(":memory:", limits=Limits(row_bytes=10_000)) as store:
        await store.sessions.create("s", system_prompt="x" * 9_000)
        for fields in ({"system_prompt": "é" * 5_000}, {"config": {"k": "x" * 10_000}}, {"model": "x" * 10_000}):
            for call in (store.sessions.create, store.sessions.ensure, store.sessions.update):
                with pytest.raises(InvalidRecord, match="10000"):
                    await call("s" if call == store.sessions.update else "t", **fields)
        assert await store.sessions.count() == 1
        assert (await store.sessions.get("s")).model is None


async def test_the_texts_of_a_session_count_in_the_queue(path: Path, hold):
    """What is large has no room behind what is large: the bound in bytes holds for sessions too."""
    async with AsyncSessionStore(path, limits=Limits(queue_bytes=10_000)) as store:
        await store.sessions.create("s")
        async with hold(store):
            task = asyncio.create_task(store.sessions.update("s", system_prompt="x" * 9_500))
            await asyncio.sleep(0)
            with pytest.raises(QueueFull):
                store.messages.append_nowait("s", role="user", content="y" * 500)
        await task


async def test_ensures_at_once_make_one_session(any_store: AsyncSessionStore):
    """However many tasks ensure an id, one of them creates it."""
    found = await asyncio.gather(*(any_store.sessions.ensure("s", source="cli") for _ in range(32)))
    assert {session.id for session in found} == {"s"}
    assert await any_store.sessions.count() == 1


async def test_creates_at_once_of_one_id_make_one_session(any_store: AsyncSessionStore):
    """Of many creates of one id one succeeds, the others are told."""
    found = await asyncio.gather(*(any_store.sessions.create("s") for _ in range(16)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in found) == ["Session"] + ["SessionExists"] * 15


# -- get and resolve -------------------------------------------------------------------------------


async def test_an_unknown_session_is_none(any_store: AsyncSessionStore):
    """Reading what is not there is no error."""
    assert await any_store.sessions.get("nobody") is None
    assert await any_store.sessions.resolve("nobody") is None


async def test_resolve_takes_the_exact_id_first_then_the_only_prefix(any_store: AsyncSessionStore):
    """An exact id wins over longer ones; an ambiguous prefix, an unknown or a blank one is None."""
    for name in ("abc", "abcd", "b_1", "bx1", "100%", "1000", "Zed", "\U0010ffff\U0010ffff", "\ud7ffx"):
        await any_store.sessions.create(name)
    expected = {
        "abc": "abc", "abcd": "abcd", "abcde": None, "ab": None, "b_": "b_1", "bx": "bx1", "b": None, "100%": "100%",
        "%": None, "_": None, "100": None, "1000": "1000", "Z": "Zed", "z": None, "": None, "  ": None,
        "\U0010ffff": "\U0010ffff\U0010ffff", "\ud7ff": "\ud7ffx",
    }  # fmt: skip
    assert {prefix: await any_store.sessions.resolve(prefix) for prefix in expected} == expected


async def test_a_prefix_finds_no_deleted_session(store: AsyncSessionStore):
    """A deleted session does not make a prefix ambiguous."""
    await store.sessions.create("ab1")
    await store.sessions.create("ab2")
    await store.sessions.delete("ab1")
    assert await store.sessions.resolve("ab") == "ab2"


# -- update ----------------------------------------------------------------------------------------

CHANGES = [
    ("model", "m-2", None), ("system_prompt", "Be long.", None), ("config", {"x": 1}, {}),
    ("metadata", {"only": ["this"]}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "empty"), CHANGES)
async def test_update_changes_what_is_given_and_nothing_else(
    any_store: AsyncSessionStore, name: str, value: object, empty: object
):
    """One field is replaced as a whole; None clears it; every other field stays; updated_at moves."""
    before = await any_store.sessions.create("s", created_at=AT - timedelta(days=4000), **EVERYTHING)
    after = await any_store.sessions.update("s", **{name: value})
    assert getattr(after, name) == value
    others = [each for each in EVERYTHING if each != name]
    assert [getattr(after, each) for each in others] == [getattr(before, each) for each in others]
    assert after.updated_at > before.updated_at
    cleared = await any_store.sessions.update("s", **{name: None})
    assert getattr(cleared, name) == empty
    assert await any_store.sessions.get("s") == cleared


async def test_an_update_of_several_fields_is_one_change(any_store: AsyncSessionStore):
    """Columns and long texts together; a call that names nothing changes nothing and does not fail."""
    await any_store.sessions.create("s")
    session = await any_store.sessions.update("s", model="m", system_prompt="p", metadata={"k": 1})
    assert (session.model, session.system_prompt, session.metadata) == ("m", "p", {"k": 1})
    same = await any_store.sessions.update("s")
    assert (same.model, same.system_prompt, same.metadata) == ("m", "p", {"k": 1})


# -- end and reopen --------------------------------------------------------------------------------


async def test_the_first_reason_stays_unless_replaced(any_store: AsyncSessionStore):
    """A second end keeps reason and time; `replace=True` gives another reason, not another time."""
    await any_store.sessions.create("s")
    ended = await any_store.sessions.end("s", "user_exit")
    assert (ended.status, ended.end_reason) == (Status.ENDED, "user_exit")
    assert ended.ended_at is not None
    again = await any_store.sessions.end("s", "timeout")
    assert (again.end_reason, again.ended_at) == ("user_exit", ended.ended_at)
    replaced = await any_store.sessions.end("s", "compression", replace=True)
    assert (replaced.end_reason, replaced.ended_at) == ("compression", ended.ended_at)


async def test_an_ended_session_takes_messages_and_stays_ended(any_store: AsyncSessionStore):
    """Late messages are not lost, and do not bring a session back."""
    await any_store.sessions.create("s")
    await any_store.sessions.end("s", "done")
    ref = await any_store.messages.append("s", role="user", content="one more thing")
    session = await any_store.sessions.get("s")
    assert (ref.seq, session.status, session.end_reason, session.message_count) == (1, Status.ENDED, "done", 1)


async def test_reopen_makes_it_active_again(any_store: AsyncSessionStore):
    """Time and reason of the end are gone; an active session stays as it is; it can end anew."""
    await any_store.sessions.create("s", title="T")
    await any_store.sessions.end("s", "done")
    session = await any_store.sessions.reopen("s")
    assert (session.status, session.ended_at, session.end_reason, session.title) == (Status.ACTIVE, None, None, "T")
    assert await any_store.sessions.reopen("s") == session
    assert (await any_store.sessions.end("s", "again")).end_reason == "again"


async def test_what_happens_to_a_session_is_recorded(store: AsyncSessionStore, eventually):
    """Created, ended, reopened and deleted are events in the transaction that did it, in order; of what was
    deleted only that is left."""
    await store.sessions.create("s")
    await store.sessions.end("s", "done")
    await store.sessions.end("s", "ignored")
    await store.sessions.reopen("s")
    rows = await store.query("SELECT kind, name FROM events WHERE session_id = 's' ORDER BY id")
    assert [tuple(row) for row in rows] == [("store.created", None), ("store.ended", "done"), ("store.reopened", None)]
    await store.sessions.delete("s")

    async def only_that_is_left() -> bool:
        rows = await store.query("SELECT kind FROM events WHERE session_id = 's'")
        return [row.kind for row in rows] == ["store.deleted"]

    await eventually(only_that_is_left)


UNKNOWN = [
    ("update", {"model": "m"}), ("update", {"system_prompt": "p"}), ("end", {"reason": "r"}), ("reopen", {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "args"), UNKNOWN)
async def test_a_write_to_an_unknown_session_says_so(any_store: AsyncSessionStore, method: str, args: dict[str, str]):
    """SessionNotFound names it; never a silent no-op, and no session appears."""
    with pytest.raises(SessionNotFound, match="nobody"):
        await getattr(any_store.sessions, method)("nobody", **args)
    assert await any_store.sessions.count() == 0
