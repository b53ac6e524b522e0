"""Watching: what is committed, in the order of commits; replayed and live tell the same."""

from __future__ import annotations

import asyncio
import copy
import gc
import shutil
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recollect import (
    BEGINNING,
    AsyncSessionStore,
    Change,
    InvalidRecord,
    Limits,
    StoreClosed,
    Watch,
    changes,
    watch,
)
from recollect.scoped import ScopedStore

from .engines import ON_FILES

PATIENCE_S = 10.0

END, END_SESSION = "the.end", "the end"
"""kind and session of the event after which a test looks at what it was told"""

Store = AsyncSessionStore | ScopedStore


def with_end(session_id: Any = None, kinds: Any = None, **others: Any) -> dict[str, Any]:
    """These filters, and the end with them."""
    given = {"session_id": session_id, "kinds": kinds}
    ends = {"session_id": END_SESSION, "kinds": END}
    wider = {
        name: None if value is None else [*([value] if isinstance(value, str) else value), ends[name]]
        for name, value in given.items()
    }
    return {**wider, **others}


async def end(store: Store) -> None:
    await store.events.record({"kind": END, "session_id": END_SESSION})


async def until_end(watch: Watch) -> list[Change]:
    """What it tells before the end."""
    told: list[Change] = []
    async with asyncio.timeout(PATIENCE_S):
        while (change := await anext(watch)).kind != END:
            told.append(change)
    return told


async def replayed(store: Store, after: str = BEGINNING, **filters: Any) -> list[Change]:
    """What there is behind the cursor; the end was recorded."""
    async with store.watch(after=after, **with_end(**filters)) as watch:
        return await until_end(watch)


async def take(watch: Watch, n: int) -> list[Change]:
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(watch) for _ in range(n)]


def short(told: Sequence[Change]) -> list[tuple[str, str | None]]:
    return [(change.kind, change.session_id) for change in told]


async def say(store: Store, session_id: str, *texts: str) -> None:
    for text in texts:
        await store.messages.append(session_id, role="user", content=text)


async def waiting(watch: Watch) -> asyncio.Task[Change]:
    """A task that waits for the next change, and has got as far as waiting."""
    task = asyncio.ensure_future(anext(watch))
    while not watch._tail.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)
    return task


# -- what is told ----------------------------------------------------------------------------------


async def life(store: AsyncSessionStore) -> list[tuple[str, str | None]]:
    """Everything that can happen to sessions but that they go; what is to be told of it."""
    sessions, messages = store.sessions, store.messages
    await sessions.create("a", title="First", user_id="ann")
    await say(store, "a", "one")
    await messages.append_many("a", [{"role": "assistant", "content": text} for text in "23"])
    await messages.append_nowait("a", role="user", content="four")
    await store.events.record({"kind": "note", "session_id": "a"})
    await store.events.record({"kind": "message", "session_id": "b"})
    await store.events.record({"kind": "event"})
    await sessions.set_title("a", "Second")
    await sessions.set_title("a", "Second")  # it was that
    await sessions.set_title("a", "")
    compaction = await messages.compact("a", note="they counted", to_seq=2)
    await messages.uncompact("a", compaction.seq)
    await messages.rewind("a", 2)
    await messages.restore("a")
    await sessions.end("a", "done")
    await sessions.reopen("a")
    await sessions.archive("a")
    await sessions.unarchive("a")
    fork = await sessions.fork("a", session_id="f", at_seq=2)
    await messages.replace("f", [{"role": "user", "content": "anew"}])
    await sessions.ensure("e")
    await sessions.ensure("e", model="m")  # fills in what is told in no event
    await sessions.for_key("key", session_id="k1")
    await sessions.for_key("key", session_id="k2", reset="new")
    record = await sessions.export("a")
    assert record is not None
    await sessions.import_([{**record, "id": "i"}])
    return [
        ("store.created", "a"), *[("message", "a")] * 4, ("note", "a"), ("message", "b"), ("event", None),
        ("store.titled", "a"), ("store.titled", "a"), ("message", "a"), ("store.compacted", "a"),
        ("store.uncompacted", "a"), ("store.rewound", "a"), ("store.restored", "a"), ("store.ended", "a"),
        ("store.reopened", "a"), ("store.archived", "a"), ("store.unarchived", "a"),
        ("store.created", fork.id), *[("message", fork.id)] * 2, ("message", fork.id), ("store.replaced", fork.id),
        ("store.created", "e"),
        ("store.created", "k1"), ("store.ended", "k1"), ("store.created", "k2"),
        ("store.created", "i"), *[("message", "i")] * 5,
    ]  # fmt: skip


async def test_whatever_happens_is_told_in_the_order_of_commits(any_store: AsyncSessionStore):
    """Messages of every verb, events, and each thing that happens to a session; live, and replayed the same."""
    async with any_store.watch() as live:
        expected = await life(any_store)
        await end(any_store)
        told = await until_end(live)
    assert short(told) == expected
    assert [change.id for change in told] == sorted({change.id for change in told})
    again = await replayed(any_store)
    assert [(change.cursor, *short([change])[0]) for change in again] == [
        (change.cursor, *short([change])[0]) for change in told
    ]
    assert [event.event for event in again] == [event.event for event in told]


async def test_a_change_has_its_message_or_its_event(store: AsyncSessionStore):
    """As the rooms read them, with the time of what it tells."""
    async with store.watch() as live:
        await store.sessions.create("s", title="T")
        ref = await store.messages.append("s", role="user", content=[{"type": "text", "text": "hi"}], external_id="x")
        id = await store.events.record({"kind": "note", "session_id": "s", "payload": {"a": [1]}})
        await store.sessions.end("s", "why")
        created, said, noted, ended = await take(live, 4)
    assert said.message == await store.messages.get("s", 1)
    assert (said.id, said.cursor, said.at, said.event) == (ref.id, str(ref.id), said.message.created_at, None)
    assert (noted.id, noted.event.payload, noted.at, noted.message) == (id, {"a": [1]}, noted.event.at, None)
    assert (ended.event.kind, ended.event.name, ended.event.session_id) == ("store.ended", "why", "s")
    assert created.event.kind == created.kind == "store.created"


async def test_what_was_deleted_is_told_but_not_replayed(store: AsyncSessionStore):
    """Who was there saw it all; later there is one event of it. A cleared transcript, likewise; a session of
    the same id begins anew."""
    async with store.watch(session_id=["s", "child", "c", END_SESSION]) as live:
        await store.sessions.create("s")
        await say(store, "s", "one")
        await store.sessions.create("child", parent_id="s")
        await store.events.record({"kind": "note", "session_id": "s"})
        before = short(await take(live, 4))
        await store.sessions.delete("s")
        await store.sessions.create("c")
        await say(store, "c", "one", "two")
        seen = short(await take(live, 5))
        await store.messages.clear("c")
        await store.sessions.create("s")
        await end(store)
        after = short(await until_end(live))
    assert before == [("store.created", "s"), ("message", "s"), ("store.created", "child"), ("note", "s")]
    assert seen == [
        ("store.deleted", "s"), ("store.deleted", "child"), ("store.created", "c"), ("message", "c"), ("message", "c"),
    ]  # fmt: skip
    assert after == [("store.cleared", "c"), ("store.created", "s")]
    assert short(await replayed(store)) == [*seen[:3], *after]
    await store.flush(index=True)
    assert short(await replayed(store)) == [*seen[:3], *after], "also when the rows are gone"


async def test_children_that_return_and_sessions_that_are_pruned_are_told(store: AsyncSessionStore):
    """Deleted, or ended with the status."""
    from datetime import timedelta

    async with store.watch(kinds=["store.*", END]) as live:
        for id in ("p", "done", "failed"):
            await store.sessions.create(id, parent_id=None if id == "p" else "p")
        await take(live, 3)  # before a deletion takes with it what was told of a session
        await store.sessions.returned("done")
        await store.sessions.returned("failed", "failed")
        told = short(await take(live, 2))
        await store.sessions.prune(idle_for=timedelta(0), include_active=True)
        await end(store)
        pruned = short(await until_end(live))
    assert told == [("store.deleted", "done"), ("store.ended", "failed")]
    assert set(pruned) <= {("store.deleted", "p"), ("store.deleted", "failed")}


# -- what is wanted --------------------------------------------------------------------------------

KINDS: list[tuple[Any, Any]] = [
    ("message", lambda kind, message: message),
    ("event", lambda kind, message: not message and not kind.startswith("store.")),
    (["message", "event"], lambda kind, message: not kind.startswith("store.")),
    ("store.*", lambda kind, message: kind.startswith("store.")),
    ("store.created", lambda kind, message: kind == "store.created"),
    (["store.ended", "note"], lambda kind, message: kind in ("store.ended", "note")),
    (["store.[ae]*", "message"], lambda kind, message: message or kind[:7] in ("store.a", "store.e")),
    (["event", "store.un*"], lambda kind, message: not message and kind[:8] not in STORE_BUT_UN),
    ("*", lambda kind, message: True),
    ("*e", lambda kind, message: kind.endswith("e")),
    ("?ote", lambda kind, message: kind == "note"),
    ("Store.*", lambda kind, message: False),
    ([], lambda kind, message: False),
    (["nothing.like.it"], lambda kind, message: False),
]
STORE_BUT_UN = {f"store.{two}" for two in ("cr", "ti", "co", "re", "en", "ar")}


@pytest.mark.parametrize(("kinds", "wanted"), KINDS, ids=[str(kinds) for kinds, _ in KINDS])
async def test_kinds(memory: AsyncSessionStore, kinds: Any, wanted: Any):
    """Messages; every event but the store's own; kinds by name or glob. An event that is called `message` or
    `event` is an event. An empty list is nothing."""
    everything = memory.watch(after=BEGINNING)
    async with memory.watch(**with_end(kinds=kinds)) as live:
        await life(memory)
        await end(memory)
        told = await until_end(live)
    expected = [c for c in await until_end(everything) if wanted(c.kind, c.message is not None)]
    assert [change.id for change in told] == [change.id for change in expected]
    assert [change.id for change in await replayed(memory, kinds=kinds)] == [change.id for change in expected]


@pytest.mark.parametrize("kinds", [None, "message", "event", "store.*"], ids=str)
@pytest.mark.parametrize("session_id", ["a", ["a", "f"], ["nobody"], "", [], ("k1", "b")], ids=str)
async def test_sessions(memory: AsyncSessionStore, session_id: Any, kinds: Any):
    """Of one or several, whether or not they exist; together with kinds."""
    everything = memory.watch(after=BEGINNING, kinds=None if kinds is None else [kinds, END])
    async with memory.watch(**with_end(session_id=session_id, kinds=kinds)) as live:
        await life(memory)
        await end(memory)
        told = await until_end(live)
    of = [session_id] if isinstance(session_id, str) else session_id
    expected = [change.id for change in await until_end(everything) if change.session_id in of]
    assert [change.id for change in told] == expected
    again = await replayed(memory, session_id=session_id, kinds=kinds)
    assert [change.id for change in again] == expected


@pytest.mark.parametrize(
    "filters",
    [
        {"after": "x"}, {"after": ""}, {"after": "-1"}, {"after": 7}, {"after": "1.2"}, {"after": "9" * 19},
        {"kinds": 1}, {"kinds": [None]}, {"session_id": 1}, {"session_id": ["a", None]}, {"kinds": "\ud800"},
        {"session_id": "\ud800"},
    ],
    ids=str,
)  # fmt: skip
async def test_filters_that_mean_nothing_are_refused(memory: AsyncSessionStore, filters: Any):
    """At the call, not at the first change."""
    with pytest.raises(InvalidRecord):
        memory.watch(**filters)
    with pytest.raises(InvalidRecord):
        memory.scoped(user_id="u").watch(**filters)


# -- cursors ---------------------------------------------------------------------------------------


async def test_each_cursor_continues_behind_its_change(memory: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch):
    """Whichever it is: the rest comes, whole; also if a page or a window ends there."""
    monkeypatch.setattr(watch, "PAGE", 3)
    monkeypatch.setattr(changes, "WINDOW", 7)
    await life(memory)
    await end(memory)
    told = await replayed(memory)
    for at, change in enumerate(told):
        rest = await replayed(memory, after=change.cursor)
        assert [each.id for each in rest] == [each.id for each in told[at + 1 :]]


@pytest.mark.parametrize("kinds", [None, "message", "store.*"], ids=str)
async def test_the_cursor_of_a_watch_leads_to_what_it_has_not_given(
    memory: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch, kinds: Any
):
    """After each change, in a replay and live, and of a watch with nothing to give it is at the end."""
    monkeypatch.setattr(watch, "PAGE", 3)
    await life(memory)
    told = []
    async with memory.watch(after=BEGINNING, **with_end(kinds=kinds)) as watching:
        assert watching.cursor == BEGINNING
        await end(memory)
        everything = await replayed(memory, kinds=kinds)
        while (change := (await take(watching, 1))[0]).kind != END:
            told.append(change.id)
            rest = await replayed(memory, after=watching.cursor, kinds=kinds)
            assert [*told, *[each.id for each in rest]] == [each.id for each in everything]
            assert int(watching.cursor) >= change.id
    assert len(told) == len(everything)


async def test_a_watch_without_a_cursor_begins_where_it_is_entered(store: AsyncSessionStore):
    """What was committed before is not told, although another watch has not got so far; what comes after is.
    Without `async with` it begins with the first change that is asked for."""
    await store.sessions.create("s")
    for n in range(20):
        async with store.watch() as other:
            await say(store, "s", f"before {n}")
            unentered = store.watch()
            assert unentered.cursor is None
            async with store.watch(kinds="message") as live:
                assert int(live.cursor) >= (await store.messages.tail("s", 1))[0].id
                await say(store, "s", f"after {n}")
                assert [change.message.text for change in await take(live, 1)] == [f"after {n}"]
            task = await waiting(unentered)
            await say(store, "s", f"later {n}")
            assert (await task).message.text == f"later {n}"
            assert [change.message.text for change in await take(other, 1)] == [f"before {n}"]
            await unentered.aclose()


async def test_a_cursor_ahead_of_the_tail_is_not_told_again(path: Path):
    """From another process, or of a message just appended: nothing up to it comes a second time."""
    async with AsyncSessionStore(path) as store, AsyncSessionStore(path) as other:
        await store.sessions.create("s")
        async with store.watch() as live:
            for n in range(6):
                ref = await other.messages.append("s", role="user", content=f"{n}")
                async with store.watch(after=str(ref.id)) as ahead:
                    await other.messages.append("s", role="user", content=f"next {n}")
                    assert [change.message.text for change in await take(ahead, 1)] == [f"next {n}"]
            assert len(await take(live, 12)) == 12


async def test_a_cursor_beyond_the_end_waits_for_what_comes_behind_it(memory: AsyncSessionStore):
    """Nothing that has a lower number is told; the cursor does not go back."""
    async with memory.watch(after="5") as ahead:
        await memory.sessions.create("s")
        await say(memory, "s", *"12345")
        told = await take(ahead, 1)
        assert told[0].id == 6
        assert int(ahead.cursor) >= 6


async def test_a_cursor_survives_a_restart(path: Path):
    """Another store, on the same file, goes on where the first stopped."""
    ids = []
    cursor = BEGINNING
    for n in range(3):
        async with AsyncSessionStore(path) as store:
            await store.sessions.ensure("s")
            await say(store, "s", f"{n}")
            watching = store.watch(after=cursor, session_id="s", kinds="message")
            ids += [change.id for change in await take(watching, 1)]
            cursor = watching.cursor
    assert len(set(ids)) == 3
    assert ids == sorted(ids)


# -- life and end ----------------------------------------------------------------------------------


async def test_a_store_that_is_not_open_cannot_be_watched(path: Path):
    """Not before, not after."""
    store = AsyncSessionStore(path)
    with pytest.raises(StoreClosed):
        store.watch()
    async with store:
        unused = store.watch()
    with pytest.raises(StoreClosed):
        store.watch()
    assert [change async for change in unused] == []


@pytest.mark.parametrize("state", ["waiting", "with changes left", "behind", "not begun", "replaying"])
async def test_closing_the_store_ends_the_iteration(path: Path, state: str):
    """What the watch holds is given, then it ends, again and again; the cursor leads to the rest. Nobody hangs."""
    limits = Limits(watch_buffer=2 if state == "behind" else 1_024)
    async with AsyncSessionStore(path, limits=limits) as store:
        await store.sessions.create("s")
        begin = BEGINNING if state == "replaying" else None
        watching = store.watch(after=begin, kinds="message")
        if state != "not begun":
            await watching.__aenter__()
        async with store.watch(kinds=END) as other:
            if state != "waiting":
                await say(store, "s", *"1234")
                await end(store)
                await take(other, 1)  # so the tail has handed them out
        task = asyncio.create_task(_all(watching))
        if state == "waiting":
            await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        told = await task
        assert [change async for change in watching] == []
    if state == "with changes left":
        assert len(told) == 4
    if state not in ("waiting", "not begun"):
        async with store:
            again = store.watch(after=watching.cursor, kinds=["message", END])
            assert len([*told, *await until_end(again)]) == 4


async def _all(watching: Watch) -> list[Change]:
    return [change async for change in watching]


async def test_a_store_that_is_opened_again_is_watched_anew(path: Path):
    """The old watch stays ended."""
    store = AsyncSessionStore(path)
    async with store:
        await store.sessions.create("s")
        old = store.watch(after=BEGINNING)
        await take(old, 1)
    async with store:
        new = store.watch(after=old.cursor)
        await say(store, "s", "new")
        assert short(await take(new, 1)) == [("message", "s")]
        assert [change async for change in old] == []


async def test_leaving_ends_a_watch(memory: AsyncSessionStore):
    """What it held is left; its cursor says where it stood; closing twice is harmless; who waits is told."""
    await memory.sessions.create("s")
    async with memory.watch() as left:
        await say(memory, "s", *"12")
        [first] = await take(left, 1)
    assert [change async for change in left] == []
    assert left.cursor == first.cursor
    await left.aclose()
    async with left as again:
        assert [change async for change in again] == []
    other = memory.watch()
    task = await waiting(other)
    await other.aclose()
    with pytest.raises(StopAsyncIteration):
        await task


async def test_a_watch_may_be_entered_in_the_middle(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also when its buffer was too small: nothing comes twice."""
    monkeypatch.setattr(watch, "PAGE", 2)
    async with AsyncSessionStore(path, limits=Limits(watch_buffer=2)) as store:
        await store.sessions.create("s")
        for n in range(7):
            late = store.watch(after=BEGINNING, kinds="message")
            async with store.watch(kinds=END) as other:
                await say(store, "s", "x")
                told = [change.id for change in await take(late, 1)]
                await say(store, "s", *"123")
                await end(store)
                await take(other, 1)
            told += [change.id for change in await take(late, n % 3)]
            async with late:
                await say(store, "s", "last")
                told += [change.id for change in await take(late, 5 * n + 5 - len(told))]
            assert told == [message.id async for message in store.messages.stream("s")]


async def test_closing_a_watch_while_another_task_asks(path: Path):
    """At every moment of its beginning and reading: who asks is told that it ended, and nothing goes on."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        await say(store, "s", *"123")
        for turns in range(30):
            closing = store.watch(after=BEGINNING if turns % 2 else None)
            task = asyncio.ensure_future(anext(closing))
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            was_given = task.done()
            await closing.aclose()
            async with asyncio.timeout(PATIENCE_S):
                if was_given:
                    assert (await task).kind == "store.created"
                else:
                    with pytest.raises(StopAsyncIteration):
                        await task
            assert [change async for change in closing] == []
            assert not store._tail._watches


async def test_closing_the_store_at_every_moment_of_a_beginning(path: Path):
    """The iteration ends, and raises nothing."""
    store = AsyncSessionStore(path)
    for turns in range(25):
        async with store:
            task = asyncio.create_task(_all(store.watch(kinds=END)))
            for _ in range(turns):
                await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            assert await task == []


async def test_nobody_watching_costs_nothing(store: AsyncSessionStore, eventually):
    """The task ends with the last watch, left or forgotten, and begins with the next."""
    await store.sessions.create("s")

    async def nobody_reads() -> bool:
        return not any(task.get_name() == "recollect-watch" for task in asyncio.all_tasks())

    for leave in (True, False):
        watching = await store.watch().__aenter__()
        await say(store, "s", "1", "2")
        async for _ in watching:
            break
        assert not await nobody_reads()
        if leave:
            await watching.aclose()
        else:
            gone = weakref.ref(watching)
            del watching
            gc.collect()
            assert gone() is None
        await eventually(nobody_reads)
    assert len(store._engine.on_commit) == 2, "the keeper's and the tail's, however many watches there were"


async def test_a_task_that_only_its_watch_holds_is_kept_alive(memory: AsyncSessionStore):
    """Nobody else has a reference to it while it waits; what it waits for reaches it."""
    await memory.sessions.create("s")
    told: list[str] = []

    async def follow() -> None:
        async for change in memory.watch(kinds="message"):
            told.append(change.message.text)

    weak = weakref.ref(asyncio.create_task(follow()))
    while not memory._tail.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)
    gc.collect()
    async with memory.watch(kinds=END) as other:
        await say(memory, "s", "heard")
        await end(memory)
        await take(other, 1)
    await asyncio.sleep(0)
    assert told == ["heard"]
    task = weak()
    assert task is not None
    task.cancel()
    await asyncio.wait([task])


# -- one user's view -------------------------------------------------------------------------------


async def test_a_scope_is_told_of_its_users_alone(any_store: AsyncSessionStore):
    """Messages, events and deletions; what others record with his session's id is theirs."""
    ann, bob = any_store.scoped(user_id="ann"), any_store.scoped(user_id="bob")
    async with ann.watch() as live, bob.watch() as bobs:
        await any_store.sessions.create("nobodys")
        for scope, id in ((ann, "a"), (bob, "b")):
            await scope.sessions.create(id)
            await say(scope, id, "hi")
            await any_store.events.record({"kind": "note", "session_id": id})
        await bob.events.record({"kind": "note", "session_id": "a"})
        await any_store.events.record({"kind": "note"})
        await ann.sessions.delete("a")
        await bob.sessions.create("a")
        await end(ann)
        await end(bob)
        told, of_bob = short(await until_end(live)), short(await until_end(bobs))
    assert told == [("store.created", "a"), ("message", "a"), ("note", "a"), ("store.deleted", "a")]
    assert of_bob == [
        ("store.created", "b"), ("message", "b"), ("note", "b"), ("note", "a"), ("store.created", "a"),
    ]  # fmt: skip
    assert short(await replayed(ann)) == [("store.deleted", "a")]
    assert short(await replayed(bob)) == of_bob
    assert short(await replayed(ann, session_id="b")) == []
    assert short(await replayed(bob, session_id=["a", "nobodys"], kinds=["store.*", "message"])) == [of_bob[-1]]


async def test_a_user_who_is_filled_in_late_is_told_from_then_on(memory: AsyncSessionStore):
    """Live what comes since, replayed also what was before."""
    ann = memory.scoped(user_id="ann")
    async with ann.watch() as live:
        await memory.sessions.create("s")
        await say(memory, "s", "before")
        async with memory.watch(kinds=END) as other:
            await end(memory)
            await take(other, 1)  # until here the tail has read it as nobody's
        await memory.sessions.ensure("s", user_id="ann")
        await say(memory, "s", "after")
        await end(ann)
        assert short(await until_end(live)) == [("message", "s")]
    assert short(await replayed(ann)) == [("store.created", "s"), ("message", "s"), ("message", "s")]


async def test_a_user_called_like_a_pseudonym_is_another(memory: AsyncSessionStore):
    """His messages are not told to whom the pseudonym stands for."""
    from recollect.journal import pseudonym

    ann = memory.scoped(user_id="ann")
    async with ann.watch() as live:
        await memory.sessions.create("s", user_id=pseudonym("ann"))
        await say(memory, "s", "secret")
        await end(ann)
        assert ("message", "s") not in short(await until_end(live))


# -- other processes -------------------------------------------------------------------------------


async def test_another_stores_commits_are_told(path: Path):
    """To one that writes, and to one that only reads; its own and those of others in one order."""
    async with (
        AsyncSessionStore(path) as first,
        AsyncSessionStore(path) as second,
        AsyncSessionStore(path, readonly=True) as reading,
    ):
        await first.sessions.create("s")
        async with first.watch() as a, second.watch() as b, reading.watch() as c:
            for n in range(20):
                await say((first, second)[n % 2], "s", f"{n}")
            for watching in (a, b, c):
                told = [change.message.text for change in await take(watching, 20)]
                assert told == [str(n) for n in range(20)]
        assert len(await replayed_now(reading)) == 21


async def replayed_now(store: AsyncSessionStore) -> list[int]:
    """Everything there is, of a store in which no end can be recorded."""
    last = (await store.query("SELECT MAX(id) AS id FROM messages"))[0].id
    told: list[int] = []
    async with asyncio.timeout(PATIENCE_S), store.watch(after=BEGINNING) as watching:
        while not told or told[-1] < last:
            told.append((await anext(watching)).id)
    return told


# -- how it is read --------------------------------------------------------------------------------

CONDITIONS: list[dict[str, Any]] = [
    {}, {"session_id": "a"}, {"session_id": ["a", "b"]}, {"session_id": []}, {"kinds": "note"},
    {"kinds": ["note", "store.ended"]}, {"kinds": "store.*"}, {"kinds": ["event", "message", "x*"]},
    {"session_id": ["a", "b"], "kinds": ["note", "other", "message"]},
]  # fmt: skip


@ON_FILES
@pytest.mark.parametrize("filters", CONDITIONS, ids=str)
@pytest.mark.parametrize("user_id", [None, "ann"])
async def test_a_page_is_read_along_the_primary_key(
    path: Path, store: AsyncSessionStore, filters: dict[str, Any], user_id: str | None
):
    """A range of ids and no more, in their order, whatever is wanted: nothing is sorted, nothing else passed over."""
    from recollect.access import Access

    from .test_plans import plan

    wanted = changes.Wanted(Access(store._engine, user_id), filters.get("session_id"), filters.get("kinds"))
    for part, table in ((wanted.conditions.messages, "m"), (wanted.conditions.events, "e")):
        if part is None:
            continue
        only = changes.Conditions(part, None) if table == "m" else changes.Conditions(None, part)
        steps = plan(path, changes.read_changes(only, 5, 100, 10))
        assert steps.startswith(f"SEARCH {table} USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)")
        assert "TEMP B-TREE" not in steps


async def test_a_rare_session_is_looked_for_in_bounded_hops(store: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch):
    """So many ids a hop, and no more pages than windows: what is not wanted is not read again."""
    monkeypatch.setattr(changes, "WINDOW", 100)
    for id in ("much", "rare"):
        await store.sessions.create(id)
    for n in range(20):
        await store.messages.append_many("much", [{"role": "user", "content": "x"}] * 100)
        if n % 5 == 0:
            await say(store, "rare", f"{n}")
    await end(store)
    found = reads_of(store, monkeypatch, of_tail=False)
    told = await replayed(store, session_id="rare", kinds="message")
    assert [change.message.text for change in told] == ["0", "5", "10", "15"]
    assert all(page.reached - after <= 100 for after, page in found)
    assert len(found) == 21


def reads_of(
    store: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch, *, of_tail: bool
) -> list[tuple[int, changes.Found]]:
    """Pages of changes that the tail, or else watches, read from now on, each with where it began."""
    found: list[tuple[int, changes.Found]] = []
    read = store._engine.read

    async def counted(op, *args, **options):
        answer = await read(op, *args, **options)
        if op is changes.read_changes and (args[2] is None) is of_tail:
            found.append((args[1], answer))
        return answer

    monkeypatch.setattr(store._engine, "read", counted)
    return found


async def test_fifty_watchers_read_each_commit_once(store: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch):
    """One page for all of them, in which each change is once; and it is one object."""
    await store.sessions.create("s")
    found = reads_of(store, monkeypatch, of_tail=True)
    watches = [await store.watch().__aenter__() for _ in range(50)]
    texts = [str(n) for n in range(30)]
    await asyncio.gather(*(say(store, "s", text) for text in texts))
    told = [await take(watching, 30) for watching in watches]
    assert [change.id for _, page in found for _, change in page.changes] == [change.id for change in told[0]]
    assert all(each[at] is told[0][at] for each in told for at in range(30))
    for watching in watches:
        await watching.aclose()


async def test_a_tail_reads_again_only_when_there_may_be_more(
    store: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch
):
    """After a commit of this process, or the time between two looks."""
    monkeypatch.setattr(watch, "POLL_S", 3600.0)
    await store.sessions.create("s")
    await store.flush(index=True)
    found = reads_of(store, monkeypatch, of_tail=True)
    async with store.watch(kinds="message") as live:
        await say(store, "s", "x")
        await take(live, 1)
        await store.flush(index=True)
        commits = (await store.stats()).batches
        await asyncio.gather(*(store.messages.tail("s", 1) for _ in range(50)))
        assert len(found) <= commits + 2


async def test_a_gap_in_the_numbers_is_passed_at_once(memory: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch):
    """Windows without a change are not waited between."""
    monkeypatch.setattr(watch, "POLL_S", 3600.0)
    monkeypatch.setattr(changes, "WINDOW", 10)
    await memory.sessions.create("s")
    async with memory.watch() as live:
        await memory.write(_skip_numbers, 500)
        await say(memory, "s", "there")
        assert [change.message.text for change in await take(live, 1)] == ["there"]


def _skip_numbers(n: int):
    from recollect.engine.operation import ids

    yield ids(n)


async def test_a_commit_of_this_process_is_not_waited_for(memory: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch):
    """It wakes the tail: how long that waits between looks does not matter."""
    monkeypatch.setattr(watch, "POLL_S", 3600.0)
    await memory.sessions.create("s")
    async with memory.watch() as live:
        for n in range(20):
            task = await waiting(live)
            await say(memory, "s", f"{n}")
            async with asyncio.timeout(PATIENCE_S):
                assert (await task).message.text == f"{n}"


# -- numbers are in the order of commits -----------------------------------------------------------


@ON_FILES
async def test_every_way_to_write_numbers_its_rows_in_the_order_of_commits(path: Path, tmp_path: Path):
    """Also forks, imports and importers: the rows of a transaction are above all that there were before, so
    who has read up to an id has missed nothing."""
    from conformance.exercise import exercise

    orders: list[tuple[int, int]] = []
    async with AsyncSessionStore(path) as store:
        engine = store._engine
        batch = engine._batch

        def looking(connection, claim, jobs):
            last = _newest(connection)
            outcomes = batch(connection, claim, jobs)
            first = _oldest_above(connection, before)
            before.update(_rows(connection))
            if first is not None:
                orders.append((last, first))
            return outcomes

        before: set[int] = set()
        engine._batch = looking
        await exercise(store)
    assert len(orders) > 100
    assert [(last, first) for last, first in orders if first <= last] == []


def _rows(connection) -> set[int]:
    return {id for (id,) in connection.execute("SELECT id FROM messages UNION ALL SELECT id FROM events")}


def _newest(connection) -> int:
    newest = [connection.execute(f"SELECT MAX(id) FROM {table}").fetchone()[0] or 0 for table in ("messages", "events")]
    return max(newest)


def _oldest_above(connection, before: set[int]) -> int | None:
    return min(_rows(connection) - before, default=None)


# -- any order of it all ---------------------------------------------------------------------------

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 12)),
        st.tuples(st.just("take"), st.integers(1, 12)),
        st.tuples(st.just("cancel"), st.integers(0, 6)),
        st.tuples(st.just("restart"), st.booleans()),
        st.tuples(st.just("other"), st.integers(0, 2)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two sessions, closed: to be copied."""
    path = tmp_path_factory.mktemp("empty") / "store.db"

    async def make() -> None:
        async with AsyncSessionStore(path) as store:
            for id in ("s", "t"):
                await store.sessions.create(id)

    asyncio.run(make())
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=ACTIONS, buffer=st.sampled_from([1, 2, 8]), page=st.sampled_from([1, 3, 256]), only=st.booleans())
def test_whatever_happens_each_change_is_told_once_and_in_order(
    empty: Path, tmp_path: Path, actions: list[Any], buffer: int, page: int, only: bool
):
    """Writes, takes, takes that are cancelled, restarts from a cursor, watches that come and go, stores that
    close: what was told is what was committed."""
    path = tmp_path / "copy.db"
    shutil.copy(empty, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "PAGE", page)
        asyncio.run(_Interleaving(path, Limits(watch_buffer=buffer), only).run(copy.copy(actions)))
    for file in tmp_path.glob("copy.db*"):
        file.unlink()


class _Interleaving:
    """One watcher of session s (`only`), or of both, and what it was told, beside what was committed."""

    def __init__(self, path: Path, limits: Limits, only: bool) -> None:
        self.store = AsyncSessionStore(path, limits=limits)
        self.filters = {"session_id": "s" if only else None, "kinds": "message"}
        self.only = only
        self.committed: list[int] = []
        self.told: list[int] = []
        self.others: list[Watch] = []

    async def run(self, actions: list[tuple[str, Any]]) -> None:
        async with asyncio.timeout(60):
            await self.store.open()
            self.watch = self.store.watch(after=BEGINNING, **self.filters)
            for name, value in actions:
                await getattr(self, name)(value)
            await self.take(10**9)
            assert self.told == self.committed
            await self.store.aclose()

    async def write(self, n: int) -> None:
        for session in "st":
            refs = [self.store.messages.append(session, role="user", content=f"{at}") for at in range(n)]
            ids = [ref.id for ref in await asyncio.gather(*refs)]
            self.committed += ids if session == "s" or not self.only else []

    async def take(self, n: int) -> None:
        for _ in range(min(n, len(self.committed) - len(self.told))):
            self.told.append((await anext(self.watch)).id)

    async def cancel(self, turns: int) -> None:
        """Asks, and after so many turns of the loop asks no more."""
        task = asyncio.ensure_future(anext(self.watch))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            self.told.append((await task).id)

    async def restart(self, leave: bool) -> None:
        cursor = self.watch.cursor or BEGINNING
        if leave:
            await self.watch.aclose()
        self.watch = self.store.watch(after=cursor, **self.filters)

    async def other(self, what: int) -> None:
        if what == 0 and self.others:
            await self.others.pop().aclose()
        elif what == 1 and self.others:
            self.others.pop(0)
        else:
            self.others.append(await self.store.watch().__aenter__())

    async def reopen(self, _: None) -> None:
        cursor = self.watch.cursor or BEGINNING
        await self.store.aclose()
        self.others.clear()
        await self.store.open()
        self.watch = self.store.watch(after=cursor, **self.filters)
