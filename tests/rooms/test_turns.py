"""Turns: one holder at a time, across tasks, stores and processes; whoever was superseded stores nothing."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from recollect import (
    AsyncSessionStore,
    InvalidRecord,
    MessageRef,
    ReadOnly,
    SessionNotFound,
    StoreClosed,
    Timeouts,
    Turn,
    TurnLost,
    TurnTaken,
)
from recollect.engine.operation import execute, one
from recollect.sessions.turns import acquire

from .outside import occupied

SHORT_S = 0.3
"""life of a lease that is waited out"""


@pytest.fixture
async def chat(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """A store with the session `s`."""
    await any_store.sessions.create("s")
    return any_store


def expiring(session_id: str):
    """What time does to a lease that nobody renews."""
    yield execute(
        "UPDATE leases SET expires_at = 1 WHERE session = (SELECT session FROM sessions WHERE id = :id)", id=session_id
    )


def leased(session_id: str):
    """The lease as it stands in the table: holder, expires_at in milliseconds, fence."""
    return (yield one("SELECT l.holder, l.expires_at, l.fence FROM leases l JOIN sessions s ON s.session = l.session"
                      " WHERE s.id = :id", id=session_id))  # fmt: skip


@asynccontextmanager
async def superseded(store: AsyncSessionStore) -> AsyncIterator[tuple[Turn, Turn]]:
    """A turn that expired, and the one that another holder has taken since."""
    async with store.sessions.turn("s", holder="old", ttl_s=60) as old:
        await store.write(expiring, "s")
        async with store.sessions.turn("s", holder="new", ttl_s=60) as new:
            yield old, new


async def is_free(store: AsyncSessionStore) -> bool:
    """Whether the turn can be taken now."""
    try:
        async with store.sessions.turn("s", holder="asking"):
            return True
    except TurnTaken:
        return False


# -- taken and given back --------------------------------------------------------------------------


async def test_a_turn_says_whose_it_is(chat: AsyncSessionStore):
    """Session, holder and fence; the session itself is not changed by it."""
    before = await chat.sessions.get("s")
    async with chat.sessions.turn("s", holder="worker 1") as turn:
        assert (turn.session_id, turn.holder, type(turn), type(turn.fence)) == ("s", "worker 1", Turn, int)
        assert (await chat.messages.append("s", role="user", content="x", fence=turn.fence)).seq == 1
        await chat.messages.clear("s")
    after = await chat.sessions.get("s")
    assert (after.message_count, after.status, after.created_at) == (0, before.status, before.created_at)


async def test_a_turn_that_is_held_is_taken(chat: AsyncSessionStore):
    """TurnTaken has session, holder and the time until when; for the same holder too, for there is one turn."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    async with chat.sessions.turn("s", holder="first", ttl_s=30):
        for holder in ("second", "first"):
            with pytest.raises(TurnTaken, match="'first' has the turn of session 's' until") as taken:
                await chat.sessions.turn("s", holder=holder).__aenter__()
            error = taken.value
            assert (error.session_id, error.holder, error.stored) == ("s", "first", False)
            assert before + timedelta(seconds=30) <= error.expires_at <= datetime.now(UTC) + timedelta(seconds=30)
            assert error.expires_at.isoformat() in str(error)
    assert await is_free(chat)


async def test_each_session_has_its_own_turn(chat: AsyncSessionStore):
    """Turns of different sessions are held at once; a fence is no good for another session."""
    for name in "abc":
        await chat.sessions.create(name)
    async with AsyncExitStack() as stack:
        turns = [await stack.enter_async_context(chat.sessions.turn(name, holder="h")) for name in "abcs"]
        for turn in turns:
            assert (await chat.messages.append(turn.session_id, role="user", fence=turn.fence)).seq == 1
    async with chat.sessions.turn("a", holder="h") as turn:
        with pytest.raises(TurnLost):
            await chat.messages.append("b", role="user", fence=turn.fence)


async def test_the_fence_grows_from_turn_to_turn(path: Path):
    """Also across stores, after a reopening and a clear, and however the turn before it ended."""
    fences: list[int] = []
    async with AsyncSessionStore(path) as one_, AsyncSessionStore(path) as other:
        await one_.sessions.create("s")
        for store in (one_, other, one_):
            async with store.sessions.turn("s", holder="h") as turn:
                fences.append(turn.fence)
            with suppress(ZeroDivisionError):
                async with store.sessions.turn("s", holder="h") as turn:
                    fences.append(turn.fence)
                    raise ZeroDivisionError
        await one_.messages.clear("s")
        async with superseded(other) as (old, new):
            fences += [old.fence, new.fence]
    async with AsyncSessionStore(path) as store, store.sessions.turn("s", holder="h") as turn:
        fences.append(turn.fence)
    assert fences == sorted(set(fences))
    assert len(fences) == 9


async def test_a_turn_can_be_entered_again_after_it_was_left(chat: AsyncSessionStore):
    """The same object: a new turn each time."""
    lease = chat.sessions.turn("s", holder="h")
    async with lease as first:
        pass
    async with lease as second:
        assert second.fence > first.fence
        assert not await is_free(chat)
    assert await is_free(chat)


async def test_an_error_in_a_turn_passes_and_gives_it_back(chat: AsyncSessionStore):
    """What the body raises is what comes out; the turn is free at once, and nothing goes on behind."""
    with pytest.raises(ZeroDivisionError):
        async with chat.sessions.turn("s", holder="h", ttl_s=SHORT_S):
            raise ZeroDivisionError
    assert await is_free(chat)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "recollect-turn"]


@pytest.mark.parametrize("state", ["end", "archive"])
async def test_the_turn_of_what_is_over_can_be_taken(chat: AsyncSessionStore, state: str):
    """Such sessions still take messages."""
    await getattr(chat.sessions, state)("s", *(["done"] if state == "end" else []))
    async with chat.sessions.turn("s", holder="h") as turn:
        assert (await chat.messages.append("s", role="user", fence=turn.fence)).seq == 1


async def test_only_what_exists_has_a_turn(chat: AsyncSessionStore):
    """SessionNotFound on entering, of an unknown session and of a deleted one."""
    await chat.sessions.create("gone")
    await chat.sessions.delete("gone")
    for name in ("nobody", "gone"):
        with pytest.raises(SessionNotFound, match=name):
            await chat.sessions.turn(name, holder="h").__aenter__()


@pytest.mark.parametrize(
    "arguments",
    [{"holder": ""}, {"holder": None}, {"holder": 1}, {"holder": "a\x00"}]
    + [{"holder": "h", "ttl_s": ttl_s} for ttl_s in (-1, float("nan"), float("inf"), "1", True)],
    ids=repr,
)
async def test_a_turn_needs_a_holder_and_a_span_of_time(chat: AsyncSessionStore, arguments: dict[str, Any]):
    """Refused at the call, before anything is written."""
    with pytest.raises(InvalidRecord, match=r"holder|ttl_s"):
        chat.sessions.turn("s", **arguments)
    for session_id in ("", 1):
        with pytest.raises(InvalidRecord, match="session_id"):
            chat.sessions.turn(session_id, holder="h")
    assert await chat.write(leased, "s") is None


async def test_a_store_to_read_has_no_turns(path: Path):
    """ReadOnly, on entering."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
    async with AsyncSessionStore(path, readonly=True) as store:
        with pytest.raises(ReadOnly):
            await store.sessions.turn("s", holder="h").__aenter__()


async def test_a_lease_lasts_as_long_as_the_store_says(path: Path):
    """timeouts.lease_s, where nothing was said."""
    async with AsyncSessionStore(path, timeouts=Timeouts(lease_s=1000)) as store:
        await store.sessions.create("s")
        before = datetime.now(UTC)
        async with store.sessions.turn("s", holder="h"):
            lease = await store.write(leased, "s")
        assert 999 <= lease.expires_at / 1000 - before.timestamp() <= 1001


async def test_of_many_who_want_a_turn_one_has_it(chat: AsyncSessionStore):
    """Fifty tasks at once: one enters, the others are told who did; then each gets its turn, alone."""
    inside: list[str] = []

    async def take(holder: str, patient: bool) -> str:
        while True:
            try:
                async with chat.sessions.turn("s", holder=holder) as turn:
                    inside.append(holder)
                    await chat.messages.append("s", role="user", content=holder, fence=turn.fence)
                    assert inside == [holder], "somebody else is in his turn"
                    inside.remove(holder)
                    return "had it"
            except TurnTaken as taken:
                if not patient:
                    return taken.holder

    outcomes = await asyncio.gather(*(take(f"h{n}", False) for n in range(50)))
    winners = [n for n, outcome in enumerate(outcomes) if outcome == "had it"]
    assert {outcome for outcome in outcomes if outcome != "had it"} <= {f"h{n}" for n in winners}
    async with asyncio.timeout(30):
        assert await asyncio.gather(*(take(f"p{n}", True) for n in range(20))) == ["had it"] * 20
    contents = [message.content async for message in chat.messages.stream("s")]
    assert len(contents) == len(set(contents)) == len(winners) + 20


# -- what a fence is good for ----------------------------------------------------------------------

Write = Callable[[AsyncSessionStore, int | None], Awaitable[Any]]

WRITES: dict[str, Write] = {
    "append": lambda store, fence: store.messages.append("s", role="user", content="x", fence=fence),
    "append with state": lambda store, fence: store.messages.append(
        "s", role="user", content=["x"], pending={"a": 1}, usage={"prompt_tokens": 1}, fence=fence
    ),
    "append_nowait": lambda store, fence: _received(store, fence),
    "append_many": lambda store, fence: store.messages.append_many("s", [{"role": "user"}] * 3, fence=fence),
    "replace": lambda store, fence: store.messages.replace("s", [{"role": "user", "content": "x"}], fence=fence),
    "replace by nothing": lambda store, fence: store.messages.replace("s", [], fence=fence),
    "compact": lambda store, fence: store.messages.compact("s", note="n", from_seq=3, fence=fence),
    "uncompact": lambda store, fence: store.messages.uncompact("s", 1, fence=fence),
    "rewind": lambda store, fence: store.messages.rewind("s", 4, fence=fence),
    "restore": lambda store, fence: store.messages.restore("s", fence=fence),
}  # fmt: skip


async def _received(store: AsyncSessionStore, fence: int | None) -> MessageRef:
    return await store.messages.append_nowait("s", role="user", content="x", fence=fence)


@pytest.fixture
async def story(chat: AsyncSessionStore) -> AsyncSessionStore:
    """`s` has messages, a compaction, a rewind, something pending and usage: each write has something to do."""
    await chat.messages.append_many("s", [{"role": "user", "content": f"m{n}"} for n in range(8)])
    await chat.messages.compact("s", note="n", to_seq=2)
    await chat.messages.rewind("s", 7)
    await chat.sessions.set_pending("s", {"before": 1})
    await chat.usage.add("s", prompt_tokens=5)
    return chat


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if not name.endswith("_at")}


@pytest.mark.parametrize("how", WRITES)
async def test_who_was_superseded_stores_nothing(story: AsyncSessionStore, how: str):
    """Each write that takes a fence: TurnLost, and the session is exactly as it was. The new holder's is taken."""
    async with superseded(story) as (old, new):
        before = await story.sessions.export("s")
        events = await story.query("SELECT COUNT(*) AS n FROM events")
        for stale in (old.fence, new.fence + 1, 0, -1, 2**62):
            with pytest.raises(TurnLost, match=rf"fence {stale} does not hold the turn of 's'; not stored") as lost:
                await WRITES[how](story, stale)
            assert lost.value.stored is False
        assert await story.sessions.export("s") == before
        assert await story.query("SELECT COUNT(*) AS n FROM events") == events
        await WRITES[how](story, new.fence)
        assert without_times(await story.sessions.export("s")) != without_times(before)


@pytest.mark.parametrize("how", WRITES)
async def test_the_fence_of_a_turn_that_is_over_is_refused(story: AsyncSessionStore, how: str):
    """Given back is given back, though nobody has taken it since; and before the first turn no fence holds."""
    before = await story.sessions.export("s")
    with pytest.raises(TurnLost):
        await WRITES[how](story, 1)
    async with story.sessions.turn("s", holder="h") as turn:
        pass
    with pytest.raises(TurnLost):
        await WRITES[how](story, turn.fence)
    assert await story.sessions.export("s") == before


@pytest.mark.parametrize("how", WRITES)
async def test_without_a_fence_nothing_is_asked(story: AsyncSessionStore, how: str):
    """Turns are an agreement of those who use them: other writes are taken, in and out of them."""
    async with story.sessions.turn("s", holder="h"):
        await WRITES[how](story, None)


@pytest.mark.parametrize("wrong", ["1", 1.0, True, 2**63])
async def test_a_fence_is_a_number(story: AsyncSessionStore, wrong: object):
    """InvalidRecord from each, and nothing is stored."""
    before = await story.sessions.export("s")
    for how in WRITES:
        with pytest.raises(InvalidRecord, match="fence"):
            await WRITES[how](story, wrong)
    assert await story.sessions.export("s") == before


async def test_a_repeat_is_answered_as_it_was_the_first_time(chat: AsyncSessionStore):
    """A row that was stored in time is known by its external_id, also to whom has lost the turn since."""
    async with superseded(chat) as (_, new):
        first = await chat.messages.append("s", role="user", external_id="e", fence=new.fence)
    assert await chat.messages.append("s", role="user", external_id="e", fence=new.fence) == first
    with pytest.raises(TurnLost):
        await chat.messages.append_many("s", [{"role": "user", "external_id": e} for e in "ef"], fence=new.fence)
    assert await chat.messages.count("s") == 1


async def test_fences_of_many_sessions_are_told_apart_in_one_batch(chat: AsyncSessionStore):
    """Appends queued together, with good fences, those of turns that are over and none: each is judged by its own."""
    names = [f"b{n}" for n in range(10)]
    good: dict[str, int] = {}
    over: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        for name in names:
            await chat.sessions.create(name)
            async with chat.sessions.turn(name, holder="h") as turn:
                over[name] = turn.fence
            good[name] = (await stack.enter_async_context(chat.sessions.turn(name, holder="h"))).fence
        calls = [(name, fence) for fences in (good, over, dict.fromkeys(names), good) for name, fence in fences.items()]
        random.Random(1).shuffle(calls)
        outcomes = await asyncio.gather(
            *(chat.messages.append(name, role="user", fence=fence) for name, fence in calls), return_exceptions=True
        )
        for (name, fence), outcome in zip(calls, outcomes, strict=True):
            assert type(outcome) is (TurnLost if fence == over[name] else MessageRef)
        assert [await chat.messages.count(name) for name in names] == [3] * 10


# -- time ------------------------------------------------------------------------------------------


async def test_a_turn_is_renewed_while_it_is_held(chat: AsyncSessionStore, eventually):
    """A body that takes several times the lease's life keeps it: its end moves on, nobody gets in, the fence holds."""
    life_s = 0.9  # of which a disk that stalls may take most
    async with chat.sessions.turn("s", holder="h", ttl_s=life_s) as turn:
        began = (await chat.write(leased, "s")).expires_at

        async def two_lives_later() -> bool:
            assert not await is_free(chat)
            return (await chat.write(leased, "s")).expires_at >= began + 2 * life_s * 1000

        await eventually(two_lives_later)
        assert (await chat.messages.append("s", role="user", fence=turn.fence)).seq == 1
    assert await is_free(chat)


async def test_a_lease_that_nobody_renews_is_taken_when_it_expires(chat: AsyncSessionStore, eventually):
    """Not before its time, and then by whoever asks first, with a greater fence."""
    fence = await chat.write(acquire, "s", "dead", int(SHORT_S * 1000))
    expires_at = (await chat.write(leased, "s")).expires_at

    async def taken_over() -> bool:
        try:
            async with chat.sessions.turn("s", holder="heir") as turn:
                assert datetime.now(UTC).timestamp() * 1000 >= expires_at
                assert turn.fence > fence
                return True
        except TurnTaken as taken:
            assert taken.holder == "dead"
            return False

    assert not await taken_over()
    await eventually(taken_over)


async def test_an_expired_turn_that_nobody_took_is_still_its_holders(chat: AsyncSessionStore):
    """Late is not superseded: what it writes cannot contradict anybody."""
    async with chat.sessions.turn("s", holder="slow", ttl_s=60) as turn:
        await chat.write(expiring, "s")
        assert (await chat.messages.append("s", role="user", fence=turn.fence)).seq == 1


async def test_who_was_superseded_leaves_the_turn_to_its_holder(chat: AsyncSessionStore):
    """Leaving gives back one's own turn only."""
    async with AsyncExitStack() as later:
        async with chat.sessions.turn("s", holder="old", ttl_s=60):
            await chat.write(expiring, "s")
            new = await later.enter_async_context(chat.sessions.turn("s", holder="new", ttl_s=60))
        assert not await is_free(chat)
        assert (await chat.write(leased, "s")).holder == "new"
        assert (await chat.messages.append("s", role="user", fence=new.fence)).seq == 1
    assert await is_free(chat)


async def test_who_was_superseded_renews_nothing(chat: AsyncSessionStore, caplog: pytest.LogCaptureFixture, eventually):
    """Its renewal finds out, says so once, and stops; the new holder's lease is as it was."""
    async with chat.sessions.turn("s", holder="old", ttl_s=SHORT_S):
        await chat.write(expiring, "s")
        async with chat.sessions.turn("s", holder="new", ttl_s=1000):
            lease = await chat.write(leased, "s")

            async def it_found_out() -> bool:
                return "'old' has lost the turn of 's'" in caplog.text

            await eventually(it_found_out)
            assert await chat.write(leased, "s") == lease
            renewals = [task for task in asyncio.all_tasks() if task.get_name() == "recollect-turn"]
            assert len(renewals) == 1, "that of the new holder"
    assert len(caplog.records) == 1


async def test_a_renewal_that_fails_is_tried_again(path: Path, caplog: pytest.LogCaptureFixture, eventually):
    """The database was busy for a while: it is logged, and the lease is renewed when it is not any more."""
    async with AsyncSessionStore(path, timeouts=Timeouts(busy_s=0.05)) as store:
        await store.sessions.create("s")
        await store.flush(index=True)
        async with store.sessions.turn("s", holder="h", ttl_s=0.9) as turn:
            lease = await store.read(leased, "s")

            async def it_is_logged() -> bool:
                return "the turn of 's' could not be renewed now" in caplog.text

            async with occupied(path):
                await eventually(it_is_logged)

            async def it_is_renewed() -> bool:
                return (await store.read(leased, "s")).expires_at > lease.expires_at

            await eventually(it_is_renewed)
            assert (await store.messages.append("s", role="user", fence=turn.fence)).seq == 1


# -- cancelled -------------------------------------------------------------------------------------


async def test_cancelled_while_it_waits_for_the_turn_it_has_none(store: AsyncSessionStore, hold, eventually):
    """Queued behind a busy writer and cancelled there: the call ends at once, the turn is free."""
    await store.sessions.create("s")
    async with hold(store):
        entering = asyncio.ensure_future(store.sessions.turn("s", holder="cancelled").__aenter__())
        await asyncio.sleep(0.01)
        entering.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([entering])
        assert entering.cancelled()
    await eventually(lambda: is_free(store))


async def test_cancelled_at_any_moment_of_entering_it_gives_the_turn_back(chat: AsyncSessionStore, eventually):
    """After every number of turns of the loop: whoever did not get in does not keep others out."""
    entered = 0
    for count in range(60):
        held = asyncio.Event()

        async def take(held: asyncio.Event = held) -> None:
            async with chat.sessions.turn("s", holder="h", ttl_s=60):
                held.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(take())
        for _ in range(count):
            await asyncio.sleep(0)
        entered += held.is_set()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await eventually(lambda: is_free(chat))
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "recollect-turn"]


async def test_cancelled_while_it_holds_the_turn_it_gives_it_back(chat: AsyncSessionStore):
    """The body is cancelled, the turn is free when the task has ended."""
    for _ in range(3):
        held = asyncio.Event()

        async def work(held: asyncio.Event = held) -> None:
            async with chat.sessions.turn("s", holder="h", ttl_s=60):
                held.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await held.wait()
        assert not await is_free(chat)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await is_free(chat)


async def test_cancelled_again_while_it_gives_the_turn_back_it_still_does(store: AsyncSessionStore, hold, eventually):
    """Who is in a hurry leaves at once; the turn is given back behind him."""
    await store.sessions.create("s")
    held, leave = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with store.sessions.turn("s", holder="h", ttl_s=60):
            held.set()
            await leave.wait()

    task = asyncio.create_task(work())
    await held.wait()
    async with hold(store):
        leave.set()
        await asyncio.sleep(0.01)
        assert not task.done(), "it waits for the busy writer"
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([task])
        assert task.cancelled()
    await eventually(lambda: is_free(store))


async def test_a_timeout_in_a_turn_is_a_timeout(chat: AsyncSessionStore, eventually):
    """asyncio's and anyio's scopes end the body, and are not masked; the turn comes back."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), chat.sessions.turn("s", holder="h", ttl_s=60):
            await asyncio.Event().wait()
    await eventually(lambda: is_free(chat))
    with anyio.move_on_after(0.01) as scope:
        async with chat.sessions.turn("s", holder="h", ttl_s=60):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    await eventually(lambda: is_free(chat))


# -- the session goes, the store goes --------------------------------------------------------------


async def test_a_session_cleared_in_a_turn_keeps_it(chat: AsyncSessionStore):
    """The lease goes with the session: its holder writes on, nobody else gets in."""
    async with chat.sessions.turn("s", holder="h", ttl_s=60) as turn:
        await chat.messages.append("s", role="user", fence=turn.fence)
        await chat.messages.clear("s")
        assert not await is_free(chat)
        assert (await chat.messages.append("s", role="user", fence=turn.fence)).seq == 2
    assert await is_free(chat)


async def test_a_session_deleted_in_a_turn_is_gone(chat: AsyncSessionStore, caplog: pytest.LogCaptureFixture):
    """Writing is SessionNotFound, leaving is harmless."""
    async with chat.sessions.turn("s", holder="h", ttl_s=60) as turn:
        await chat.sessions.delete("s")
        with pytest.raises(SessionNotFound):
            await chat.messages.append("s", role="user", fence=turn.fence)
    assert caplog.records == []


async def test_a_new_session_of_that_id_has_no_turn_of_the_old_one(chat: AsyncSessionStore):
    """Deleted and created again: the turn is free, and the old holder's fence is not good."""
    async with chat.sessions.turn("s", holder="old", ttl_s=60) as turn:
        await chat.sessions.delete("s")
        await chat.sessions.create("s")
        with pytest.raises(TurnLost):
            await chat.messages.append("s", role="user", fence=turn.fence)
        assert await is_free(chat)
    assert await chat.messages.count("s") == 0


async def test_a_fence_of_the_old_session_is_not_that_of_the_new_ones_holder(chat: AsyncSessionStore):
    """A holder of the turn of a session that is gone has lost it, also when the new one's turn is held."""
    async with chat.sessions.turn("s", holder="old", ttl_s=60) as old:
        await chat.sessions.delete("s")
        await chat.sessions.create("s")
        async with chat.sessions.turn("s", holder="new", ttl_s=60) as new:
            assert new.fence != old.fence
            with pytest.raises(TurnLost):
                await chat.messages.append("s", role="user", fence=old.fence)


async def test_a_fork_has_a_turn_of_its_own(chat: AsyncSessionStore):
    """Nobody holds it, and the fence of the origin is not good there."""
    async with chat.sessions.turn("s", holder="h") as turn:
        await chat.sessions.fork("s", session_id="f")
        with pytest.raises(TurnLost):
            await chat.messages.append("f", role="user", fence=turn.fence)
        async with chat.sessions.turn("f", holder="other"):
            pass


async def test_a_store_closed_in_a_turn_gives_it_back(path: Path, caplog: pytest.LogCaptureFixture):
    """Before it closes; leaving then has nothing to do and nothing to say."""
    async with AsyncSessionStore(path) as other:
        await other.sessions.create("s")
        store = AsyncSessionStore(path)
        async with store, store.sessions.turn("s", holder="h", ttl_s=60) as turn:
            await store.messages.append("s", role="user", fence=turn.fence)
            await store.aclose()
            with pytest.raises(StoreClosed):
                await store.messages.append("s", role="user", fence=turn.fence)
            assert await is_free(other)
        assert caplog.records == []
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "recollect-turn"]


async def test_an_error_in_a_turn_of_a_closed_store_passes(path: Path):
    """It is not replaced by one about the turn."""
    store = AsyncSessionStore(path)
    async with store:
        await store.sessions.create("s")
        with pytest.raises(ZeroDivisionError):
            async with store.sessions.turn("s", holder="h", ttl_s=1):
                await store.aclose()
                raise ZeroDivisionError


# -- two stores, another process -------------------------------------------------------------------


async def test_two_stores_on_one_file_have_one_turn(path: Path):
    """Who holds it in one is told in the other; each gets it in its turn; fences hold in both."""
    async with AsyncSessionStore(path) as one_, AsyncSessionStore(path) as other:
        await one_.sessions.create("s")
        for mine, theirs in ((one_, other), (other, one_), (one_, other)):
            async with mine.sessions.turn("s", holder="mine") as turn:
                assert not await is_free(theirs)
                await mine.messages.append("s", role="user", fence=turn.fence)
                await theirs.messages.append("s", role="user", fence=turn.fence)
            assert await is_free(theirs)
            for store in (mine, theirs):
                with pytest.raises(TurnLost):
                    await store.messages.append("s", role="user", fence=turn.fence)
        assert await one_.messages.count("s") == 6


async def test_a_holder_whose_lease_expired_in_one_store_is_superseded_from_the_other(path: Path):
    """Stealing works across stores, and so does being found out."""
    async with AsyncSessionStore(path) as one_, AsyncSessionStore(path) as other:
        await one_.sessions.create("s")
        async with one_.sessions.turn("s", holder="old", ttl_s=60) as old:
            await other.write(expiring, "s")
            async with other.sessions.turn("s", holder="new", ttl_s=60) as new:
                with pytest.raises(TurnLost):
                    await one_.messages.append("s", role="user", fence=old.fence)
                await other.messages.append("s", role="user", fence=new.fence)
        assert await one_.messages.count("s") == 1


HOLDING = """
import asyncio, sys
from recollect import AsyncSessionStore

async def main():
    async with AsyncSessionStore(sys.argv[1]) as store:
        async with store.sessions.turn("s", holder="process", ttl_s=float(sys.argv[2])) as turn:
            await store.messages.append("s", role="user", content="from the process", fence=turn.fence)
            print(turn.fence, flush=True)
            await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


@asynccontextmanager
async def holding_process(path: Path, ttl_s: float) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A process that has the turn until it reads a line or is killed, and its fence."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDING, str(path), str(ttl_s), stdin=pipe, stdout=pipe
    )
    try:
        async with asyncio.timeout(20):
            yield process, int(await process.stdout.readline())
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_killed_process_keeps_its_turn_until_it_expires(path: Path, eventually):
    """It cannot give it back: whoever asks is told until when, and takes over then, behind what it stored."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        async with holding_process(path, ttl_s=1) as (process, fence):
            process.kill()
            await process.wait()
            with pytest.raises(TurnTaken) as taken:
                await store.sessions.turn("s", holder="heir").__aenter__()
            assert taken.value.holder == "process"
            await eventually(lambda: is_free(store))
            assert datetime.now(UTC) >= taken.value.expires_at
            with pytest.raises(TurnLost):
                await store.messages.append("s", role="user", fence=fence)
            async with store.sessions.turn("s", holder="heir") as turn:
                assert turn.fence > fence
                assert (await store.messages.append("s", role="user", fence=turn.fence)).seq == 2


async def test_a_process_that_ends_in_order_gives_its_turn_back(path: Path):
    """Well before its lease would have expired."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        async with holding_process(path, ttl_s=1000) as (process, _):
            assert not await is_free(store)
            process.stdin.write(b"go\n")
            assert await process.wait() == 0
            assert await is_free(store)


# -- in any order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_only_the_present_holder_writes_whatever_happens(chat: AsyncSessionStore, seed: int):
    """Taken, left, expired, stolen and written to by old holders and new, a few hundred times: what is stored is
    what was written under the fence of the time."""
    dice = random.Random(seed)
    holders: list[tuple[AsyncExitStack, Turn]] = []
    present: Turn | None = None
    expired = False
    written: list[str] = []
    for step in range(150):
        what = dice.choice(["take", "take", "leave", "expire", "write", "write", "write"])
        if what == "take":
            stack = AsyncExitStack()
            try:
                turn = await stack.enter_async_context(chat.sessions.turn("s", holder=f"h{step}", ttl_s=60))
            except TurnTaken:
                assert present is not None
                assert not expired
            else:
                assert present is None or expired
                assert all(turn.fence > other.fence for _, other in holders)
                present, expired = turn, False
                holders.append((stack, turn))
        elif what == "leave" and holders:
            stack, turn = holders.pop(dice.randrange(len(holders)))
            await stack.aclose()
            if turn is present:
                present = None
        elif what == "expire":
            await chat.write(expiring, "s")
            expired = True
        elif what == "write" and holders:
            _, turn = dice.choice(holders)
            text = f"{step} {turn.fence}"
            try:
                await chat.messages.append("s", role="user", content=text, fence=turn.fence)
            except TurnLost:
                assert turn is not present
            else:
                assert turn is present
                written.append(text)
    for stack, _ in holders:
        await stack.aclose()
    assert [message.content async for message in chat.messages.stream("s")] == written
    assert await is_free(chat)
