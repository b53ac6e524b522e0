"""What an agent's loop asks of its store, call by call: each comment names the call it knew before, and each
test what the answer is here, where the one before tore a write apart, accepted what meant nothing, or stuck."""

from __future__ import annotations

import asyncio
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from recollect import (
    AsyncSessionStore,
    InvalidRecord,
    Kind,
    Lifecycle,
    Limits,
    MessageState,
    Relation,
    Session,
    SessionExists,
    SessionNotFound,
    SpawnTooDeep,
    State,
    Status,
    StoreClosed,
    StoreError,
    Timeouts,
)
from recollect.operations import one

from .engines import WITH_READERS
from .failing import failing
from .outside import long_read

T0 = datetime(2021, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
async def loop(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """A store with the session `s`."""
    await any_store.sessions.create("s", created_at=T0)
    return any_store


async def session_of(store: AsyncSessionStore, session_id: str = "s") -> Session:
    found = await store.sessions.get(session_id)
    assert found is not None
    return found


async def state_of(store: AsyncSessionStore, session_id: str = "s") -> State:
    found = await store.sessions.state(session_id)
    assert found is not None
    return found


async def say(store: AsyncSessionStore, *contents: str) -> None:
    await store.messages.append_many("s", [{"role": "user", "content": content} for content in contents])


async def said(store: AsyncSessionStore, session_id: str = "s") -> list[str]:
    return [message.content for message in await store.messages.list(session_id)]


# -- opening ---------------------------------------------------------------------------------------


# open
async def test_a_store_opens_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`~` is expanded and folders are made; `:memory:` is no file; a plain text is a path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for target in ("~/deep/er/loop.db", ":memory:", str(tmp_path / "plain.db")):
        async with AsyncSessionStore(target) as store:
            assert await store.sessions.count() == 0
    assert {each.name for each in tmp_path.iterdir() if each.suffix != ".lock"} == {"deep", "plain.db"}
    assert (tmp_path / "deep" / "er" / "loop.db").is_file()


# close
async def test_a_closed_store_says_so(any_store: AsyncSessionStore):
    """By an error of ours, from every room; closing twice is silent."""
    await any_store.sessions.create("s")
    await any_store.aclose()
    await any_store.aclose()
    for call in (
        any_store.sessions.state("s"), any_store.messages.append("s", role="user"), any_store.messages.list("s"),
        any_store.usage.record_round("s", round_index=0), any_store.usage.rounds("s"), any_store.messages.compact("s", note="n"),
    ):  # fmt: skip
        with pytest.raises(StoreClosed) as closed:
            await call
        assert closed.value.stored is False


# -- sessions: create_session, get_session, list_children, archive_session, update_session_prompt --


async def test_a_session_is_created_whole(any_store: AsyncSessionStore):
    """With its id, everything given, and the state of an agent that has not begun."""
    given: dict[str, Any] = {
        "system_prompt": "p", "model": "m", "config": {"tools": ["a"]}, "metadata": {"k": [None]}, "spawn_tool_call_id": "c1",
    }  # fmt: skip
    session = await any_store.sessions.create(**given)
    assert re.fullmatch(r"sess_[0-9a-f]{24}", session.id)
    assert {name: getattr(session, name) for name in given} == given
    assert await any_store.sessions.state(session.id) == State(1, 0, 0, 0, None)
    assert (await any_store.sessions.create("my-own")).id == "my-own"
    with pytest.raises(SessionExists, match="'my-own'"):
        await any_store.sessions.create("my-own")


async def test_a_child_is_spawned_one_deeper(any_store: AsyncSessionStore):
    """Its kind says so, which only a parent makes; the bound has a name; an unknown parent is told."""
    parent = (await any_store.sessions.create("root")).id
    for depth in (1, 2, 3):
        child = await any_store.sessions.create(parent_id=parent)
        assert (child.kind, child.relation, child.spawn_depth) == (Kind.SUBAGENT, Relation.SPAWN, depth)
        parent = child.id
    with pytest.raises(SpawnTooDeep, match="spawn_depth is 3"):
        await any_store.sessions.create(parent_id=parent)
    with pytest.raises(SessionNotFound, match="'nobody'"):
        await any_store.sessions.create(parent_id="nobody")
    with pytest.raises(TypeError):
        await any_store.sessions.create(kind="subagent")
    assert await any_store.sessions.count() == 4


async def test_a_parent_cannot_go_while_its_child_is_made(store: AsyncSessionStore):
    """Looked for in the transaction that makes the child: it has that parent, or goes with it, or is not made."""
    for n in range(50):
        await store.sessions.create(f"p{n}")
    calls = [
        call
        for n in range(50)
        for call in (store.sessions.create(f"c{n}", parent_id=f"p{n}"), store.sessions.delete(f"p{n}"))
    ]
    random.Random(1).shuffle(calls)
    await asyncio.gather(*calls, return_exceptions=True)
    assert [session async for session in store.sessions.stream()] == []
    assert (await store.check()).is_sound


async def test_unknown_sessions_have_nothing(any_store: AsyncSessionStore):
    """Reads answer None, or nothing."""
    assert await any_store.sessions.get("nobody") is None
    assert await any_store.sessions.state("nobody") is None
    assert await any_store.messages.get("nobody", 1) is None
    assert await any_store.sessions.children("nobody") == []
    assert len(await any_store.messages.list("nobody", state="all")) == 0
    assert list(await any_store.messages.compactions("nobody")) == []
    assert await any_store.usage.rounds("nobody") == []


async def test_a_write_for_an_unknown_session_is_never_silent(any_store: AsyncSessionStore):
    """Each says SessionNotFound with the name, and leaves no orphan."""
    for call in (
        any_store.sessions.archive("nobody"), any_store.sessions.unarchive("nobody"),
        any_store.sessions.update("nobody", system_prompt="p"), any_store.sessions.set_round("nobody", 1),
        any_store.sessions.set_pending("nobody", {"a": 1}), any_store.sessions.returned("nobody"),
        any_store.messages.append("nobody", role="user"), any_store.messages.compact("nobody", note="n"),
        any_store.messages.uncompact("nobody", 1), any_store.usage.record_round("nobody", round_index=0, prompt_tokens=1),
    ):  # fmt: skip
        with pytest.raises(SessionNotFound, match="'nobody'"):
            await call
    assert await any_store.sessions.delete("nobody") == []
    assert await any_store.usage.totals() == []
    assert await any_store.sessions.count() == 0


async def test_children_are_in_order(any_store: AsyncSessionStore):
    """By creation, those of one instant by id; the grandchildren are not among them."""
    await any_store.sessions.create("root")
    for name, minutes in (("z", 0), ("b", 1), ("a", 1), ("c", 1)):
        await any_store.sessions.create(name, parent_id="root", created_at=T0 + timedelta(minutes=minutes))
    await any_store.sessions.create("below", parent_id="z")
    assert [session.id for session in await any_store.sessions.children("root")] == ["z", "a", "b", "c"]


async def test_archiving_can_be_undone(loop: AsyncSessionStore):
    """An archived session still takes messages and stays archived; what had ended comes back ended."""
    assert (await loop.sessions.archive("s")).status is Status.ARCHIVED
    await say(loop, "late")
    assert (await session_of(loop)).status is Status.ARCHIVED
    assert (await loop.sessions.unarchive("s")).status is Status.ACTIVE
    await loop.sessions.end("s", "done")
    await loop.sessions.archive("s")
    assert (await loop.sessions.unarchive("s")).status is Status.ENDED


async def test_a_prompt_can_be_changed_and_cleared(loop: AsyncSessionStore):
    """updated_at moves with it; model, config and metadata can be changed as well."""
    before = await session_of(loop)
    changed = await loop.sessions.update("s", system_prompt="new", model="m2", config={"a": 1}, metadata={"b": 2})
    assert (changed.system_prompt, changed.model, changed.config, changed.metadata) == ("new", "m2", {"a": 1}, {"b": 2})
    assert changed.updated_at > before.updated_at
    assert (await loop.sessions.update("s", system_prompt=None)).system_prompt is None


# -- messages: append_message, load_active_messages, load_all_messages, get_message ----------------


async def test_a_message_comes_back_with_all_its_fields(loop: AsyncSessionStore):
    """Seqs from one; meta and calls decoded; an empty list of calls is none."""
    given: dict[str, Any] = {
        "role": "assistant", "content": "c", "tool_calls": [{"id": "1", "function": {"name": "f"}}], "tool_call_id": "0",
        "name": "n", "round_index": 3, "metadata": {"deep": {"a": [1]}},
    }  # fmt: skip
    ref = await loop.messages.append("s", **given)
    message = await loop.messages.get("s", 1)
    assert ref.seq == 1
    assert {name: getattr(message, name) for name in given} == given
    await loop.messages.append("s", role="any role", tool_calls=[])
    message = await loop.messages.get("s", 2)
    assert (message.role, message.content, message.tool_calls, message.metadata) == ("any role", None, None, {})
    assert await loop.messages.get("s", 3) is None


CONTENTS = [
    "", "text", '[{"type": "text"}]', [{"type": "text", "text": "hi"}, {"type": "image", "data": "AAAA"}], {"a": None},
]  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS)
async def test_structured_content_is_not_a_text_that_looks_like_it(loop: AsyncSessionStore, content: object):
    """A list comes back a list, and a text that is JSON a text."""
    await loop.messages.append("s", role="user", content=content)
    found = (await loop.messages.get("s", 1)).content
    assert (type(found), found) == (type(content), content)


async def test_what_cannot_be_stored_is_refused_or_replaced_with_notice(loop: AsyncSessionStore):
    """A number is no content: InvalidRecord. NUL and half a character become U+FFFD, and are counted."""
    for content in (7, b"bytes", object(), 1.5):
        with pytest.raises(InvalidRecord):
            await loop.messages.append("s", role="user", content=content)
    await say(loop, "nul \x00", "half \ud83d")
    assert await said(loop) == ["nul \ufffd", "half \ufffd"]
    assert (await loop.stats()).replaced == 2


async def test_active_and_all_messages_can_be_loaded(loop: AsyncSessionStore):
    """Whole, in pages, the last ones, or those since a seq."""
    await say(loop, *(f"m{n}" for n in range(1, 8)))
    await loop.messages.compact("s", note="sum", from_seq=2, to_seq=4)
    await loop.messages.rewind("s", 6)
    assert await said(loop) == ["m1", "sum", "m5", "m6"]
    everything = await loop.messages.list("s", state="all")
    assert {message.content: message.state for message in everything} == {
        "m1": MessageState.ACTIVE, "m2": MessageState.COMPACTED, "m3": MessageState.COMPACTED,
        "m4": MessageState.COMPACTED, "m5": MessageState.ACTIVE, "m6": MessageState.ACTIVE, "m7": MessageState.REWOUND,
        "sum": MessageState.ACTIVE,
    }  # fmt: skip
    page = await loop.messages.list("s", limit=3)
    rest = await loop.messages.list("s", limit=3, after=page.next)
    assert [message.content for message in (*page, *rest)] == ["m1", "sum", "m5", "m6"]
    assert [message.content for message in await loop.messages.tail("s", 2)] == ["m5", "m6"]
    assert [message.content for message in await loop.messages.list("s", after_seq=5)] == ["m6", "sum"]


# -- the order of seqs -----------------------------------------------------------------------------


async def test_seqs_have_no_gap_across_stores(path: Path):
    """Several stores on one file append to one session: every call succeeds, no number twice."""
    stores = [AsyncSessionStore(path) for _ in range(4)]
    for store in stores:
        await store.open()
    try:
        await stores[0].sessions.create("s")
        refs = await asyncio.gather(
            *(store.messages.append("s", role="user", content=f"{n}") for store in stores for n in range(125))
        )
        assert sorted(ref.seq for ref in refs) == list(range(1, 501))
        assert (await state_of(stores[1])).next_seq == 501
        assert (await session_of(stores[2])).message_count == 500
    finally:
        for store in stores:
            await store.aclose()


async def test_a_seq_is_never_given_twice(loop: AsyncSessionStore):
    """Not after rewinding, nor after clearing, nor for a message that was refused."""
    await say(loop, "1", "2", "3")
    await loop.messages.rewind("s", 1)
    with pytest.raises(InvalidRecord):
        await loop.messages.append("s", role="user", content=7)
    assert (await loop.messages.append("s", role="user")).seq == 4
    await loop.messages.clear("s")
    assert (await loop.messages.append("s", role="user")).seq == 5
    assert (await state_of(loop)).next_seq == 6


# -- what goes: close_session ----------------------------------------------------------------------


async def tree(store: AsyncSessionStore) -> None:
    """root ── ephemeral, linked ── (detached, linked), detached ── ephemeral, and a fork."""
    create = store.sessions.create
    await create("root")
    await create("eph", parent_id="root")
    await create("link", parent_id="root", lifecycle=Lifecycle.LINKED)
    await create("free", parent_id="root", lifecycle="detached")
    await create("link-free", parent_id="link", lifecycle="detached")
    await create("link-link", parent_id="link", lifecycle="linked")
    await create("free-eph", parent_id="free")
    await create("fork", parent_id="root", relation="fork")
    for name in ("root", "eph", "link", "free", "link-free", "link-link", "free-eph", "fork"):
        await store.messages.append(name, role="user", content=name, usage={"prompt_tokens": 1})


async def test_a_cascade_takes_what_is_not_detached(any_store: AsyncSessionStore):
    """Ephemeral and linked, at any depth; a detached one keeps its kind, depth and what is below it."""
    await tree(any_store)
    assert set(await any_store.sessions.delete("root")) == {"root", "eph", "link", "link-link"}
    left = {session.id: session async for session in any_store.sessions.stream()}
    assert {id: session.parent_id for id, session in left.items()} == {
        "free": None, "link-free": None, "free-eph": "free", "fork": None,
    }  # fmt: skip
    assert [(left[id].kind, left[id].spawn_depth) for id in ("free", "link-free", "free-eph", "fork")] == [
        (Kind.SUBAGENT, 1), (Kind.SUBAGENT, 2), (Kind.SUBAGENT, 2), (Kind.ROOT, 0),
    ]  # fmt: skip
    assert await any_store.messages.count() == 4
    assert sum(total.prompt_tokens for total in await any_store.usage.totals()) == 4
    assert (await any_store.check()).is_sound


async def test_without_a_cascade_no_child_points_at_the_dead(any_store: AsyncSessionStore):
    """They have no parent, the dead has no children, and they can spawn on."""
    await tree(any_store)
    assert await any_store.sessions.delete("root", cascade=False) == ["root"]
    assert await any_store.sessions.children("root") == []
    assert {(await session_of(any_store, id)).parent_id for id in ("eph", "link", "free", "fork")} == {None}
    assert (await any_store.sessions.create(parent_id="eph")).spawn_depth == 2
    assert (await any_store.check()).is_sound


async def test_a_child_that_returned_is_the_stores_to_delete(any_store: AsyncSessionStore):
    """An ephemeral one that completed goes, with what it spawned; a failed, linked or detached one is kept
    and ended with its status; a root is left alone."""
    await tree(any_store)
    await any_store.sessions.create("eph-eph", parent_id="eph")
    assert await any_store.sessions.returned("free-eph", "failed") is False
    kept = await session_of(any_store, "free-eph")
    assert (kept.status, kept.end_reason) == (Status.ENDED, "failed")
    assert await any_store.sessions.returned("eph") is True
    assert await any_store.sessions.get("eph") is None
    assert await any_store.sessions.get("eph-eph") is None
    for name in ("link", "free"):
        assert await any_store.sessions.returned(name, "completed") is False
        assert (await session_of(any_store, name)).end_reason == "completed"
    assert await any_store.sessions.returned("root") is False
    assert (await session_of(any_store, "root")).status is Status.ACTIVE


# -- compaction: record_compaction, list_compactions -----------------------------------------------


async def test_a_note_stands_where_what_it_stands_for_stood(loop: AsyncSessionStore):
    """Before the kept tail, as in the agent's memory; with its audit; both seqs count on."""
    await say(loop, *(f"m{n}" for n in range(1, 7)))
    made = await loop.messages.compact(
        "s", note="sum", from_seq=1, to_seq=3, before_tokens=900, after_tokens=40, round_index=5
    )
    assert (made.seq, made.note_seq, made.from_seq, made.to_seq, made.count) == (1, 7, 1, 3, 3)
    assert (made.before_tokens, made.after_tokens, made.round_index, made.undone_at) == (900, 40, 5, None)
    assert list(await loop.messages.compactions("s")) == [made]
    assert await said(loop) == ["sum", "m4", "m5", "m6"]
    assert (await loop.messages.conversation("s"))[0] == {
        "role": "system",
        "content": "sum",
        "tool_name": "compact_note",
    }
    assert (await state_of(loop)) == State(8, 0, 6, 1, None)
    again = await loop.messages.compact("s", note="sum 2", from_seq=4, to_seq=5)
    assert (again.seq, again.note_seq) == (2, 8)
    assert await said(loop) == ["sum", "sum 2", "m6"]


async def test_the_metadata_of_a_note_is_the_stores(loop: AsyncSessionStore):
    """Its five keys are set whatever the caller gave under them; other keys are kept."""
    await say(loop, "a", "b")
    await loop.sessions.set_round("s", 4)
    await loop.messages.compact(
        "s", note="n", before_tokens=10, after_tokens=1, note_meta={"from_seq": 99, "original_tokens": 0, "own": True}
    )
    note = await loop.messages.get("s", 3)
    assert (note.role, note.name) == ("system", "compact_note")
    assert note.metadata == {
        "compacted_at_round": 4, "from_seq": 1, "to_seq": 2, "original_tokens": 10, "summary_tokens": 1, "own": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "chosen",
    [
        {"from_seq": 3, "to_seq": 2}, {"from_seq": 0}, {"to_seq": 99}, {"from_seq": 5}, {"seqs": []}, {"seqs": [1, 99]},
        {"seqs": [1], "to_seq": 2}, {"from_seq": "1"}, {"before_tokens": -1}, {"note": 7}, {"note_meta": "x"},
    ],
)  # fmt: skip
async def test_a_compaction_of_nothing_is_refused(loop: AsyncSessionStore, chosen: dict[str, Any]):
    """An inverted, empty or unknown range leaves neither note nor audit."""
    await say(loop, "1", "2", "3", "4")
    before = await loop.sessions.export("s")
    with pytest.raises(InvalidRecord):
        await loop.messages.compact("s", **{"note": "n", **chosen})
    assert await loop.sessions.export("s") == before


async def test_what_was_put_away_is_not_put_away_twice(loop: AsyncSessionStore):
    """A range over an earlier note takes the note; one of nothing but what is away is refused."""
    await say(loop, *"123456")
    first = await loop.messages.compact("s", note="A", from_seq=1, to_seq=2)
    with pytest.raises(InvalidRecord):
        await loop.messages.compact("s", note="B", seqs=[1, 2])
    with pytest.raises(InvalidRecord):
        await loop.messages.compact("s", note="B", from_seq=2, to_seq=2)
    outer = await loop.messages.compact("s", note="B", from_seq=1, to_seq=4)
    assert (outer.count, await said(loop)) == (3, ["B", "5", "6"])
    by = {message.seq: message.compacted_by for message in await loop.messages.list("s", state="all")}
    assert by == {1: first.seq, 2: first.seq, 3: outer.seq, 4: outer.seq, 5: None, 6: None, first.note_seq: outer.seq, outer.note_seq: None}  # fmt: skip


async def test_a_compaction_can_be_undone(loop: AsyncSessionStore):
    """The last one first; messages, counters and preview are as they were; nothing is lost meanwhile."""
    await say(loop, *"12345")
    before = (await said(loop), (await session_of(loop)).message_count, (await session_of(loop)).preview)
    inner = await loop.messages.compact("s", note="A", from_seq=1, to_seq=2)
    outer = await loop.messages.compact("s", note="B", from_seq=1, to_seq=4)
    assert [hit.seq async for hit in loop.search("3")] == [3]
    with pytest.raises(InvalidRecord, match="undo that one first"):
        await loop.messages.uncompact("s", inner.seq)
    assert (await loop.messages.uncompact("s", outer.seq)).undone_at is not None
    await loop.messages.uncompact("s", inner.seq)
    assert (await said(loop), (await session_of(loop)).message_count, (await session_of(loop)).preview) == before
    assert list(await loop.messages.compactions("s")) == []
    assert [each.seq for each in await loop.messages.compactions("s", undone=True)] == [1, 2]
    assert (await loop.check()).is_sound


# -- state: get_state, set_round_index, set_pending ------------------------------------------------


async def test_the_state_of_an_agent_is_one_read(loop: AsyncSessionStore):
    """Next seq, round, send, last compaction, pending; `{}` and None clear."""
    await say(loop, "a", "b")
    await loop.messages.compact("s", note="n", from_seq=1, to_seq=1)
    await loop.sessions.set_round("s", 7)
    await loop.sessions.set_pending("s", {"tool_call_ids": ["1", "2"]})
    assert await state_of(loop) == State(4, 7, 2, 1, {"tool_call_ids": ["1", "2"]})
    for nothing in ({}, None):
        await loop.sessions.set_pending("s", {"a": 1})
        await loop.sessions.set_pending("s", nothing)
        assert (await state_of(loop)).pending is None


async def test_bookkeeping_does_not_look_like_activity(loop: AsyncSessionStore):
    """updated_at moves with messages, compactions, prompt and archiving; not with pending, round and usage."""
    before = (await session_of(loop)).updated_at
    await loop.sessions.set_pending("s", {"a": 1})
    await loop.sessions.set_round("s", 1)
    await loop.usage.record_round("s", round_index=1, prompt_tokens=1)
    assert (await session_of(loop)).updated_at == before == T0
    await say(loop, "a")
    assert (await session_of(loop)).updated_at != before


# -- pending calls ---------------------------------------------------------------------------------

CALLS = [{"id": "c1", "name": "f"}, {"id": "c2", "name": "g"}]


async def test_pending_calls_commit_with_the_row_that_asks_for_them(loop: AsyncSessionStore):
    """Set with the assistant row, narrowed with each result and cleared with the last: after any of these
    commits the next process knows exactly what is left to run."""
    await say(loop, "go")
    ref = await loop.messages.append("s", role="assistant", tool_calls=CALLS, pending={"seq": 2, "calls": CALLS})
    assert ((await state_of(loop)).pending, ref.seq) == ({"seq": 2, "calls": CALLS}, 2)
    await loop.messages.append("s", role="tool", tool_call_id="c1", content="1", pending={"seq": 2, "calls": CALLS[1:]})
    assert (await state_of(loop)).pending == {"seq": 2, "calls": CALLS[1:]}
    await loop.messages.append("s", role="tool", tool_call_id="c2", content="2", pending=None)
    assert (await state_of(loop)).pending is None


async def test_a_row_that_is_refused_leaves_what_was_pending(loop: AsyncSessionStore):
    """And its usage is not counted: it is all one write."""
    await loop.messages.append("s", role="assistant", tool_calls=CALLS, pending={"calls": CALLS})
    with pytest.raises(StoreError):
        await loop.messages.append("s", role="tool", expected_seq=99, pending=None, usage={"prompt_tokens": 5})
    assert (await state_of(loop)).pending == {"calls": CALLS}
    assert (await session_of(loop)).input_tokens == 0


async def test_resuming_after_a_crash_runs_each_call_once(path: Path):
    """Opened again, what is pending is there with everything needed to run it; a result that comes twice is one row."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        await store.messages.append("s", role="assistant", tool_calls=CALLS, pending=CALLS)
        await store.messages.append("s", role="tool", tool_call_id="c1", external_id="c1", pending=CALLS[1:])
    async with AsyncSessionStore(path) as store:
        left = (await state_of(store)).pending
        assert left == CALLS[1:]
        for call in (CALLS[0], *left):
            await store.messages.append("s", role="tool", tool_call_id=call["id"], external_id=call["id"], pending=None)
        assert [m.tool_call_id for m in await store.messages.list("s")] == [None, "c1", "c2"]
        assert (await state_of(store)).pending is None


async def test_aborting_is_rewinding_or_answering(loop: AsyncSessionStore):
    """Either the call is taken back with what was pending, or its answers are written in one call."""
    await say(loop, "go")
    await loop.messages.append("s", role="assistant", tool_calls=CALLS, pending=CALLS)
    assert await loop.messages.rewind("s", 1) == 1
    assert ((await state_of(loop)).pending, (await session_of(loop)).tool_call_count) == (None, 0)
    await loop.messages.append("s", role="assistant", tool_calls=CALLS, pending=CALLS)
    answers = [{"role": "tool", "tool_call_id": call["id"], "content": "<aborted>"} for call in CALLS]
    await loop.messages.append_many("s", [*answers[:-1], {**answers[-1], "pending": None}])
    assert (await state_of(loop)).pending is None
    assert await said(loop) == ["go", None, "<aborted>", "<aborted>"]


# -- usage: record_usage ---------------------------------------------------------------------------


async def test_a_round_is_kept_per_send(loop: AsyncSessionStore):
    """Rounds begin anew with each send and do not overwrite those before; the same round again replaces itself."""
    for send in (1, 2):
        await say(loop, f"question {send}")
        for index in (0, 1):
            await loop.usage.record_round(
                "s", round_index=index, prompt_tokens=10 * send, completion_tokens=1, model="m"
            )
    await loop.usage.record_round("s", round_index=1, prompt_tokens=50, completion_tokens=5, total_tokens=60, model="m")
    rounds = {(row.send_index, row.round_index): row.prompt_tokens for row in await loop.usage.rounds("s")}
    assert rounds == {(1, 0): 10, (1, 1): 10, (2, 0): 20, (2, 1): 50}
    [total] = await loop.usage.totals(session_id="s")
    assert (total.rounds, total.prompt_tokens, total.completion_tokens, total.total_tokens) == (4, 90, 8, 103)
    assert (await session_of(loop)).input_tokens == 90


async def test_usage_and_messages_can_be_added_up_and_searched(loop: AsyncSessionStore):
    """By model, by day, by one's own SQL; words in results and calls are found."""
    await loop.messages.append("s", role="tool", content="error in deploy.yml", tool_call_id="c9")
    await loop.usage.record_round("s", round_index=0, prompt_tokens=3, model="m1")
    await loop.usage.record_round("s", round_index=1, prompt_tokens=4, model="m2", created_at=T0)
    assert {total.group: total.prompt_tokens for total in await loop.usage.totals(by="model")} == {"m1": 3, "m2": 4}
    assert [total.group for total in await loop.usage.totals(by="day", since=T0, until=T0 + timedelta(1))] == [
        "2021-05-01"
    ]
    assert [hit.seq async for hit in loop.search("deploy.yml", session="s", role="tool")] == [1]
    rows = await loop.query("SELECT seq FROM messages WHERE tool_call_id = :id", id="c9")
    assert [row.seq for row in rows] == [1]


# -- what it lacked --------------------------------------------------------------------------------


async def test_sessions_can_be_listed_titled_forked_and_moved(loop: AsyncSessionStore):
    """Listing, counting, titles, forking, export, pruning: there is a call for each."""
    await say(loop, "1", "2", "3")
    await loop.sessions.set_title("s", "Notes")
    fork = await loop.sessions.fork("s", at_seq=2, session_id="f")
    assert (fork.parent_id, fork.relation, await said(loop, "f")) == ("s", Relation.FORK, ["1", "2"])
    assert [session.id for session in await loop.sessions.list(title_contains="note")] == ["s"]
    records = [record async for record in loop.sessions.export_all()]
    async with AsyncSessionStore(":memory:") as other:
        assert (await other.sessions.import_(records)).inserted["sessions"] == 2
        assert await other.sessions.export("s") == records[0]
    await loop.sessions.create("old", created_at=T0)
    await loop.sessions.end("old", "done")
    assert await loop.sessions.prune(idle_for=timedelta(days=1)) == ["old"]
    assert await loop.sessions.count() == 2


async def test_an_export_of_several_sends_comes_back(loop: AsyncSessionStore):
    """Rounds of the same number in two sends do not collide."""
    for send in (1, 2):
        await say(loop, f"{send}")
        await loop.usage.record_round("s", round_index=0, prompt_tokens=send, created_at=T0)
    await loop.messages.compact("s", note="n", from_seq=1, to_seq=1)
    await loop.sessions.set_pending("s", [1])
    record = await loop.sessions.export("s")
    async with AsyncSessionStore(":memory:") as other:
        result = await other.sessions.import_([record])
        assert (result.inserted["usage"], result.rejected.total()) == (2, 0)
        assert await other.sessions.export("s") == record
        assert await other.sessions.state("s") == await loop.sessions.state("s")


# -- one write is one transaction ------------------------------------------------------------------


TORN = [
    ("append", "INSERT ON messages"), ("append", "UPDATE OF next_seq ON sessions"),
    ("append", "UPDATE OF pending ON sessions"), ("append", "INSERT ON usage_rounds"),
    ("append", "UPDATE OF input_tokens ON sessions"), ("compact", "INSERT ON messages"),
    ("compact", "INSERT ON compactions"), ("compact", "UPDATE OF message_count ON sessions"), ("compact", "INSERT ON events"),
    ("uncompact", "UPDATE ON compactions"), ("rewind", "INSERT ON events"), ("replace", "INSERT ON messages"),
    ("clear", "UPDATE ON messages"), ("clear", "INSERT ON events"), ("record", "INSERT ON usage_rounds"),
    ("record", "UPDATE OF input_tokens ON sessions"), ("end", "INSERT ON events"), ("fork", "INSERT ON messages"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "event"), TORN)
async def test_a_write_that_fails_half_way_leaves_the_session_as_it_was(
    store: AsyncSessionStore, call: str, event: str
):
    """Neither row without counter nor note without audit; it can be repeated when the fault is gone."""
    await store.sessions.create("s")
    await say(store, "1", "2", "3", "4")
    await store.messages.append("s", role="assistant", tool_calls=CALLS, round_index=1, usage={"prompt_tokens": 9})
    await store.messages.compact("s", note="first", from_seq=1, to_seq=2)
    writes = {
        "append": lambda: store.messages.append(
            "s", role="assistant", tool_calls=CALLS, pending=CALLS, round_index=2, usage={"prompt_tokens": 3}
        ),
        "compact": lambda: store.messages.compact("s", note="n", from_seq=3, to_seq=4),
        "uncompact": lambda: store.messages.uncompact("s", 1),
        "rewind": lambda: store.messages.rewind("s", 1),
        "replace": lambda: store.messages.replace("s", [{"role": "user", "content": "new"}]),
        "clear": lambda: store.messages.clear("s"),
        "record": lambda: store.usage.record_round("s", round_index=1, prompt_tokens=7),
        "end": lambda: store.sessions.end("s", "done"),
        "fork": lambda: store.sessions.fork("s", session_id="f"),
    }
    before = await store.sessions.export("s")
    async with failing(store, event):
        with pytest.raises(StoreError) as failed:
            await writes[call]()
        assert failed.value.stored is False
        assert await store.sessions.export("s") == before
        assert await store.sessions.count() == 1
    await writes[call]()
    after = await store.sessions.export("s")
    assert after is not None
    assert (after == before) is (call == "fork")
    ref = await store.messages.append("s", role="user", content="goes on")
    assert ref.seq == after["next_seq"]
    assert (await store.check()).is_sound


@pytest.mark.parametrize("event", ["INSERT ON session_texts", "INSERT ON events"])
async def test_a_session_is_created_with_all_its_rows_or_not_at_all(store: AsyncSessionStore, event: str):
    """No session without the rest of it."""
    async with failing(store, event):
        with pytest.raises(StoreError):
            await store.sessions.create("s", system_prompt="p")
    assert await store.sessions.get("s") is None
    await store.sessions.create("s", system_prompt="p")
    assert (await store.messages.append("s", role="user")).seq == 1


async def test_an_append_is_one_transaction(store: AsyncSessionStore):
    """Whatever comes with it: another reader sees all of it or nothing."""
    await store.sessions.create("s")
    stop = asyncio.Event()
    seen = []

    def state():
        row = yield one(
            "SELECT s.next_seq, s.message_count, s.tool_call_count, s.input_tokens, s.pending,"
            " (SELECT COUNT(*) FROM messages m WHERE m.session = s.session) AS n,"
            " (SELECT COUNT(*) FROM usage_rounds u WHERE u.session = s.session) AS rounds FROM sessions s WHERE s.id = 's'"
        )
        return tuple(row)

    async def watch() -> None:
        while not stop.is_set():
            seen.append(await store.read(state))

    watching = asyncio.create_task(watch())
    for n in range(1, 101):
        await store.messages.append(
            "s", role="assistant", tool_calls=CALLS, round_index=n, usage={"prompt_tokens": 1}, pending=[n]
        )
    stop.set()
    await watching
    assert {row for row in seen if row[:4] != (row[5] + 1, row[5], 2 * row[5], row[5])} == set()
    assert all(rounds == n and pending == (f"[{n}]" if n else None) for *_, pending, n, rounds in seen)


# -- readers and writers, cancellation -------------------------------------------------------------


@WITH_READERS
async def test_reads_do_not_queue_behind_writers(store: AsyncSessionStore, hold):
    """While the writer is busy, the state, the transcript and the ledger can be read."""
    await store.sessions.create("s")
    await say(store, "a")
    async with hold(store):
        waiting = asyncio.create_task(store.messages.append("s", role="user", content="b"))
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            assert (await state_of(store)).next_seq == 2
            assert await said(store) == ["a"]
            assert await store.usage.rounds("s") == []
        assert not waiting.done()
    await waiting


async def test_a_long_read_stalls_no_writer(path: Path):
    """Nor other reads."""
    async with AsyncSessionStore(path, limits=Limits(readers=2)) as store:
        await store.sessions.create("s")
        async with long_read(store), asyncio.timeout(30):
            for n in range(50):
                await say(store, str(n))
            assert (await state_of(store)).next_seq == 51


async def test_cancelling_never_wedges_the_store(store: AsyncSessionStore, path: Path):
    """Whenever it strikes: what was acknowledged is there, everyone writes on, other stores too."""
    await store.sessions.create("s")
    random_ = random.Random(7)
    acknowledged = []

    async def work(n: int) -> None:
        ref = await store.messages.append("s", role="user", content=str(n))
        acknowledged.append((ref.seq, str(n)))

    for n in range(300):
        task = asyncio.create_task(work(n))
        for _ in range(random_.randrange(6)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    ref = await store.messages.append("s", role="user", content="after")
    async with AsyncSessionStore(path, timeouts=Timeouts(busy_s=5)) as other:
        assert (await other.messages.append("s", role="user")).seq == ref.seq + 1
    contents = {message.seq: message.content for message in await store.messages.list("s")}
    assert sorted(contents) == list(range(1, ref.seq + 2))
    assert {seq: contents[seq] for seq, _ in acknowledged} == dict(acknowledged)
    assert (await store.check()).is_sound


async def test_a_read_between_writes_of_one_task_does_not_deadlock(loop: AsyncSessionStore):
    """There is no transaction that a caller holds open: what must go together is one call."""
    async with asyncio.timeout(30):
        for n in range(20):
            writing = asyncio.create_task(loop.messages.append("s", role="user", content=str(n)))
            await loop.sessions.state("s")
            await writing
            assert (await state_of(loop)).next_seq == n + 2
