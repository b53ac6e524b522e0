"""The agent's state in a session: its round, its sends, and what it left to do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore, InvalidRecord, Limits, SequenceConflict, SessionNotFound, State, TurnLost

AT = datetime(2020, 1, 1, tzinfo=UTC)
PENDING = {"assistant_seq": 2, "tool_call_ids": ["c1", "c2"], "tool_calls": [{"id": "c1", "function": {"name": "f"}}]}


@pytest.fixture
async def chat(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """A store with the session `s`, made long ago."""
    await any_store.sessions.create("s", created_at=AT)
    return any_store


async def pending(store: AsyncSessionStore) -> Any:
    return (await store.sessions.state("s")).pending


async def test_a_new_session_is_at_the_beginning(chat: AsyncSessionStore):
    """The next seq is 1; no round, no send, no compaction, nothing pending. An unknown one has no state."""
    assert await chat.sessions.state("s") == State(1, 0, 0, 0, None)
    for name in ("nobody", "", "\x00"):
        assert await chat.sessions.state(name) is None


async def test_the_state_follows_what_happens(chat: AsyncSessionStore):
    """next_seq with every row, send_index with every user's, last_compaction_seq with every compaction."""
    await chat.messages.append("s", role="system", content="x")
    assert await chat.sessions.state("s") == State(2, 0, 0, 0, None)
    await chat.messages.append("s", role="user", content="x")
    await chat.messages.append_many("s", [{"role": "assistant"}, {"role": "tool"}, {"role": "user"}])
    assert await chat.sessions.state("s") == State(6, 0, 2, 0, None)
    await chat.sessions.set_round("s", 7)
    await chat.messages.compact("s", note="n", to_seq=2)
    await chat.messages.compact("s", note="n", to_seq=4)
    assert await chat.sessions.state("s") == State(8, 7, 2, 2, None)
    await chat.messages.uncompact("s", 2)
    await chat.messages.rewind("s", 1)
    assert await chat.sessions.state("s") == State(8, 7, 2, 2, None), "numbers are not used again"
    await chat.messages.clear("s")
    assert await chat.sessions.state("s") == State(8, 7, 2, 2, None)
    assert (await chat.messages.append("s", role="user")).seq == 8


async def test_the_state_survives_reopening(path: Path):
    """It is in the database, not in the store."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        await store.sessions.set_round("s", 3)
        await store.messages.append("s", role="user", content="x", pending=PENDING)
        before = await store.sessions.state("s")
    async with AsyncSessionStore(path) as store:
        assert await store.sessions.state("s") == before == State(2, 3, 1, 0, PENDING)


# -- rounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 17, -1, 2**63 - 1, -(2**63)])
async def test_the_round_is_what_the_agent_sets(chat: AsyncSessionStore, n: int):
    """Any whole number of 64 bits, forwards or back."""
    await chat.sessions.set_round("s", 5)
    assert await chat.sessions.set_round("s", n) is None
    assert (await chat.sessions.state("s")).round_index == n


@pytest.mark.parametrize("n", [None, "1", 1.0, True, 2**63, -(2**63) - 1])
async def test_a_round_that_is_no_number_is_refused(chat: AsyncSessionStore, n: object):
    """InvalidRecord, and the round stays."""
    await chat.sessions.set_round("s", 5)
    with pytest.raises(InvalidRecord, match="round_index"):
        await chat.sessions.set_round("s", n)
    assert (await chat.sessions.state("s")).round_index == 5


async def test_rounds_at_once_are_set_in_the_order_of_the_calls(chat: AsyncSessionStore):
    """The last one called is the last one set; what is appended meanwhile does not touch it."""
    await asyncio.gather(
        *(
            call
            for n in range(50)
            for call in (chat.sessions.set_round("s", n), chat.messages.append("s", role="user", content="x"))
        )
    )
    assert await chat.sessions.state("s") == State(51, 49, 50, 0, None)


# -- pending ---------------------------------------------------------------------------------------

ANY_JSON = [
    PENDING, {"a": None}, [], [1], [[]], [{}], "", "text", "京 \u2028", 0, 1, -1, 2**60, 0.1, 1e300, True, False,
    {"nested": {"a": [{"b": [1, 2.5, None, "x"]}]}}, {"": ""},
]  # fmt: skip


@pytest.mark.parametrize("value", ANY_JSON, ids=repr)
@pytest.mark.parametrize("how", ["set", "append", "append_many", "nowait"])
async def test_any_json_can_be_pending(chat: AsyncSessionStore, how: str, value: Any):
    """It comes back as it was given, of the same type, also where it is false."""
    if how == "set":
        await chat.sessions.set_pending("s", value)
    elif how == "append":
        await chat.messages.append("s", role="assistant", pending=value)
    elif how == "append_many":
        await chat.messages.append_many(
            "s", [{"role": "assistant", "pending": "first"}, {"role": "tool", "pending": value}]
        )
    else:
        await chat.messages.append_nowait("s", role="assistant", pending=value)
    found = await pending(chat)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("nothing", [None, {}])
async def test_nothing_pending_is_none(chat: AsyncSessionStore, nothing: object):
    """None and `{}` clear, by set_pending and with a row; clearing twice is no error."""
    for _ in range(2):
        await chat.sessions.set_pending("s", PENDING)
        for _ in range(2):
            await chat.sessions.set_pending("s", nothing)
            assert await pending(chat) is None
        await chat.messages.append("s", role="assistant", pending=PENDING)
        await chat.messages.append("s", role="tool", pending=nothing)
        assert await pending(chat) is None


async def test_a_row_that_says_nothing_of_it_keeps_what_is_pending(chat: AsyncSessionStore):
    """Left out means unchanged; of several rows in one call the last that says something counts."""
    await chat.sessions.set_pending("s", PENDING)
    await chat.messages.append("s", role="user", content="x")
    await chat.messages.append_many("s", [{"role": "tool"}, {"role": "tool"}])
    await chat.messages.compact("s", note="n")
    await chat.sessions.end("s", "r")
    assert await pending(chat) == PENDING
    rows = [{"role": "assistant", "pending": n} for n in (1, 2, 3)] + [{"role": "tool"}]
    await chat.messages.append_many("s", rows)
    assert await pending(chat) == 3


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", {1: 2}, (1, 2), float("nan"), float("inf"), AT, {"a": {3}}])
async def test_what_is_not_json_is_not_pending(chat: AsyncSessionStore, value: object):
    """InvalidRecord, from each way; what was pending stays and no row appears."""
    await chat.sessions.set_pending("s", PENDING)
    for call in (
        lambda: chat.sessions.set_pending("s", value),
        lambda: chat.messages.append("s", role="assistant", pending=value),
        lambda: chat.messages.append_many("s", [{"role": "user"}, {"role": "assistant", "pending": value}]),
    ):
        with pytest.raises(InvalidRecord, match="pending"):
            await call()
    assert await chat.sessions.state("s") == State(1, 0, 0, 0, PENDING)


async def test_too_much_pending_is_refused():
    """limits.row_bytes bounds it, alone and together with the rest of a row; what was pending stays."""
    async with AsyncSessionStore(":memory:", limits=Limits(row_bytes=10_000)) as store:
        await store.sessions.create("s")
        await store.sessions.set_pending("s", "x" * 9_000)
        for text in ("x" * 10_001, "é" * 5_001):
            with pytest.raises(InvalidRecord, match="10000"):
                await store.sessions.set_pending("s", text)
            with pytest.raises(InvalidRecord, match="10000"):
                await store.messages.append("s", role="assistant", pending=text)
        with pytest.raises(InvalidRecord, match="10000"):
            await store.messages.append("s", role="assistant", content="y" * 6_000, pending="x" * 6_000)
        assert await store.sessions.state("s") == State(1, 0, 0, 0, "x" * 9_000)
        await store.messages.append("s", role="assistant", content="y" * 4_000, pending="x" * 4_000)
        assert await pending(store) == "x" * 4_000


async def test_pending_is_redacted_as_every_text_is():
    """It holds the arguments of calls: no secret comes to the disk that way."""
    async with AsyncSessionStore(":memory:", redact=lambda text: text.replace("secret", "…")) as store:
        await store.sessions.create("s")
        await store.sessions.set_pending("s", {"arguments": ["my secret"]})
        assert await pending(store) == {"arguments": ["my …"]}
        await store.messages.append("s", role="assistant", pending=["secret"])
        assert await pending(store) == ["…"]


async def test_what_takes_the_transcript_back_takes_what_is_pending(chat: AsyncSessionStore):
    """A rewind and a clear: nothing is left to do of what is not there. A fork begins with nothing to do."""
    for _ in range(2):
        await chat.messages.append("s", role="user", content="x")
    for take in (lambda: chat.messages.rewind("s", 1), lambda: chat.messages.clear("s")):
        await chat.sessions.set_pending("s", PENDING)
        assert (await chat.sessions.state((await chat.sessions.fork("s")).id)).pending is None
        assert await pending(chat) == PENDING
        await take()
        assert await pending(chat) is None


# -- with the row or not at all --------------------------------------------------------------------


async def test_pending_and_usage_come_with_their_row(chat: AsyncSessionStore):
    """One append, one commit: the row, what is to be done, what it cost."""
    ref = await chat.messages.append("s", role="assistant", round_index=1, pending=PENDING, usage={"prompt_tokens": 7})
    session, state = await chat.sessions.get("s"), await chat.sessions.state("s")
    assert (ref.seq, state.pending, session.input_tokens, session.message_count) == (1, PENDING, 7, 1)
    assert [row.round_index for row in await chat.usage.rounds("s")] == [1]


async def test_a_row_that_is_refused_brings_nothing(chat: AsyncSessionStore):
    """A conflict of seqs, a lost turn, a session that is not there, a bad neighbour: no row, no pending, no usage."""
    await chat.messages.append("s", role="user", content="x", pending="before", usage={"prompt_tokens": 1})
    brought = {"role": "assistant", "pending": PENDING, "usage": {"prompt_tokens": 100}}
    for call, error in (
        (lambda: chat.messages.append("s", **brought, expected_seq=9), SequenceConflict),
        (lambda: chat.messages.append("s", **brought, fence=9), TurnLost),
        (lambda: chat.messages.append("nobody", **brought), SessionNotFound),
        (lambda: chat.messages.append_many("s", [brought, {"role": ""}]), InvalidRecord),
        (lambda: chat.messages.append_many("s", [brought, {**brought, "usage": {"prompt_tokens": -1}}]), InvalidRecord),
        (lambda: chat.messages.append_many("s", [brought], expected_seq=9), SequenceConflict),
    ):
        with pytest.raises(error):
            await call()
    assert await chat.sessions.state("s") == State(2, 0, 1, 0, "before")
    assert (await chat.sessions.get("s")).input_tokens == 1


async def test_a_repeated_row_brings_nothing_again(chat: AsyncSessionStore):
    """Of a known external_id the first answer is given: what was done since is not pending again."""
    row = {"role": "assistant", "external_id": "e", "pending": PENDING, "usage": {"prompt_tokens": 7}}
    first = await chat.messages.append("s", **row)
    await chat.sessions.set_pending("s", None)
    assert await chat.messages.append("s", **row) == first
    assert await pending(chat) is None
    assert (await chat.sessions.get("s")).input_tokens == 7


async def test_rows_in_one_batch_leave_the_last_state(chat: AsyncSessionStore):
    """A hundred appends and settings queued at once: as if one after the other."""
    calls: list[Any] = []
    for n in range(50):
        calls.append(chat.messages.append("s", role="assistant", pending={"n": n}, usage={"prompt_tokens": 1}))
        calls.append(chat.sessions.set_pending("s", n))
    await asyncio.gather(*calls[:-1])
    assert await pending(chat) == {"n": 49}
    await asyncio.gather(*(chat.messages.append("s", role="tool") for _ in range(50)), calls[-1])
    assert await pending(chat) == 49
    assert (await chat.sessions.get("s")).input_tokens == 50


# -- updated_at ------------------------------------------------------------------------------------


async def test_bookkeeping_does_not_update_a_session(chat: AsyncSessionStore):
    """Pending, round and usage move no time of the session: who lists by it sees what was said and changed."""
    before = await chat.sessions.get("s")
    await chat.sessions.set_pending("s", PENDING)
    await chat.sessions.set_pending("s", None)
    await chat.sessions.set_round("s", 3)
    await chat.usage.record_round("s", round_index=0)
    await chat.usage.add("s", prompt_tokens=0)
    await chat.usage.set("s", prompt_tokens=0)
    assert await chat.sessions.get("s") == before
    await chat.usage.record_round("s", round_index=0, prompt_tokens=5, cost_status="final")
    after = await chat.sessions.get("s")
    assert after.input_tokens == 5
    assert after.updated_at == after.last_active_at == before.updated_at == AT


async def test_a_row_updates_a_session(chat: AsyncSessionStore):
    """What is appended does, at the time of the call, whatever time the row has; its activity is the row's."""
    before = datetime.now(UTC).replace(microsecond=0)
    await chat.messages.append("s", role="assistant", created_at=AT, pending=PENDING, usage={"prompt_tokens": 1})
    session = await chat.sessions.get("s")
    assert session.updated_at >= before
    assert session.last_active_at == AT


# -- unknown ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "value"), [("set_round", 1), ("set_pending", PENDING), ("set_pending", None)])
async def test_an_unknown_session_has_no_state_to_set(chat: AsyncSessionStore, method: str, value: object):
    """SessionNotFound naming it, also of one that was deleted; nothing appears."""
    await chat.sessions.create("gone")
    await chat.sessions.delete("gone")
    for name in ("nobody", "gone"):
        with pytest.raises(SessionNotFound, match=name):
            await getattr(chat.sessions, method)(name, value)
        assert await chat.sessions.state(name) is None
    assert await chat.sessions.count() == 1
