"""Reading transcripts: get, list, tail, stream, conversation."""

from __future__ import annotations

import pytest

from recollect import AsyncSessionStore, InvalidRecord
from recollect.engine.operation import all, execute
from recollect.messages.transcript import _arms_since

from .engines import ON_SQLITE


@pytest.fixture
async def chat(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """`s` with messages m1…m10, those of another session in between."""
    for name in "st":
        await any_store.sessions.create(name)
    for n in range(1, 11):
        await any_store.messages.append("s", role="user", content=f"m{n}")
        await any_store.messages.append("t", role="user", content=f"t{n}")
    return any_store


def contents(messages: object) -> list[str]:
    return [message.content for message in messages]


M = [f"m{n}" for n in range(1, 11)]


async def test_get_takes_a_place_or_an_id(chat: AsyncSessionStore):
    """None for a seq, session or id that is not there; neither given is InvalidRecord."""
    message = await chat.messages.get("s", 3)
    assert message.content == "m3"
    assert (await chat.messages.get(id=message.id)) == message
    for seq in (0, -1, 11, 2**63 - 1):
        assert await chat.messages.get("s", seq) is None
    assert await chat.messages.get("nobody", 1) is None
    assert await chat.messages.get(id=10**12) is None
    for arguments in ((), ("s",), (None, 1)):
        with pytest.raises(InvalidRecord):
            await chat.messages.get(*arguments)


async def test_list_is_the_transcript_of_one_session(chat: AsyncSessionStore):
    """All of it without a limit; an unknown session has none; states are active or all."""
    page = await chat.messages.list("s")
    assert contents(page) == M
    assert page.next is None
    assert contents(await chat.messages.list("s", state="all")) == M
    assert contents(await chat.messages.list("nobody")) == []
    with pytest.raises(InvalidRecord):
        await chat.messages.list("s", state="compacted")


@pytest.mark.parametrize("limit", [1, 3, 5, 10, 11])
async def test_pages_of_messages_continue_exactly(chat: AsyncSessionStore, limit: int):
    """No message is skipped or repeated, and the last page has no next."""
    found, after, pages = [], None, 0
    while True:
        page = await chat.messages.list("s", limit=limit, after=after)
        found += contents(page)
        pages += 1
        if (after := page.next) is None:
            break
    assert found == M
    assert pages == -(-10 // limit)


async def test_a_page_goes_on_into_what_came_later(chat: AsyncSessionStore):
    """Messages appended between two pages are on the later one."""
    page = await chat.messages.list("s", limit=9)
    await chat.messages.append("s", role="user", content="late")
    assert contents(await chat.messages.list("s", after=page.next)) == ["m10", "late"]


async def test_after_seq_is_what_was_appended_since(chat: AsyncSessionStore):
    """In the order of appending; 0 is everything, the last seq nothing; limits count."""
    assert contents(await chat.messages.list("s", after_seq=7)) == M[7:]
    assert contents(await chat.messages.list("s", after_seq=0, limit=2)) == M[:2]
    assert contents(await chat.messages.list("s", after_seq=10)) == []
    assert contents(await chat.messages.list("s", after_seq=3, state="all", limit=1)) == ["m4"]


def _move_and_compact():
    """A note, appended last, stands after the third message; two more are out of the transcript."""
    of_s = "session = (SELECT session FROM sessions WHERE id = 's')"
    yield execute(f"UPDATE messages SET position = 3 WHERE {of_s} AND seq = 10")
    yield execute(f"UPDATE messages SET state = 1 WHERE {of_s} AND seq = 2")
    yield execute(f"UPDATE messages SET state = 2 WHERE {of_s} AND seq = 5")


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
@pytest.mark.parametrize("state", ["active", "all"])
async def test_pages_after_a_seq_go_on_in_the_order_of_appending(chat: AsyncSessionStore, state: str, limit: int):
    """Whatever state a message is in and wherever it was moved to; the last page has no next."""
    await chat.write(_move_and_compact)
    await chat.messages.append("s", role="user", content="m11")
    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        page = await chat.messages.list("s", state=state, after_seq=1, after=after, limit=limit)
        found += contents(page)
        pages += 1
        after = page.next
    gone = () if state == "all" else ("m2", "m5")
    assert found == [each for each in [*M[1:], "m11"] if each not in gone]
    assert pages == -(-len(found) // limit)


@ON_SQLITE
async def test_a_page_after_a_seq_does_not_sort_the_session(chat: AsyncSessionStore):
    """Every part of the statement is read in the order of an index, so that a limit ends it early."""
    for states in ("active", "all"):
        rows = await chat.write(_explained, f"{_arms_since(states)} ORDER BY 1 LIMIT 5")
        assert [row for row in rows if "TEMP B-TREE" in row] == []


def _explained(sql: str):
    rows = yield all(f"EXPLAIN QUERY PLAN {sql}", session=1, after=0)
    return [row.detail for row in rows]


async def test_tail_is_the_last_ones_oldest_first(chat: AsyncSessionStore):
    """n of them, or as many as there are."""
    assert contents(await chat.messages.tail("s", 3)) == ["m8", "m9", "m10"]
    assert contents(await chat.messages.tail("s", 99)) == M
    assert contents(await chat.messages.tail("s", 0)) == []
    assert contents(await chat.messages.tail("nobody", 3)) == []


async def test_stream_goes_on_over_many_pages(store: AsyncSessionStore):
    """600 messages, fetched page by page, in order; `after` begins behind a page."""
    await store.sessions.create("s")
    await store.messages.append_many("s", [{"role": "user", "content": str(n)} for n in range(600)])
    assert [m.content async for m in store.messages.stream("s")] == [str(n) for n in range(600)]
    page = await store.messages.list("s", limit=590)
    assert [m.content async for m in store.messages.stream("s", after=page.next)] == [str(n) for n in range(590, 600)]
    assert [m async for m in store.messages.stream("nobody")] == []


async def test_a_plain_message_of_a_conversation_is_role_and_content(chat: AsyncSessionStore):
    """Exactly these two keys; None content stays None; a limit keeps the newest."""
    await chat.messages.append("s", role="assistant", content=None, token_count=3, finish_reason="stop")
    turns = await chat.messages.conversation("s")
    assert turns[:2] == [{"role": "user", "content": "m1"}, {"role": "user", "content": "m2"}]
    assert turns[-1] == {"role": "assistant", "content": None}
    assert await chat.messages.conversation("s", limit=2) == turns[-2:]
    assert await chat.messages.conversation("s", limit=0) == []
    assert await chat.messages.conversation("nobody") == []


async def test_a_conversation_has_what_providers_need(any_store: AsyncSessionStore):
    """Tool fields where set; reasoning on assistant rows only; the name is tool_name."""
    await any_store.sessions.create("s")
    extra = {"reasoning": "r", "reasoning_details": [1], "provider_items": [{"id": 2}]}
    await any_store.messages.append("s", role="assistant", content="c", tool_calls=[{"id": "c1"}], **extra)
    await any_store.messages.append("s", role="tool", content="out", tool_call_id="c1", name="bash", **extra)
    assert await any_store.messages.conversation("s") == [
        {
            "role": "assistant", "content": "c", "tool_calls": [{"id": "c1"}], "reasoning": "r",
            "reasoning_details": [1], "codex_reasoning_items": [{"id": 2}],
        },
        {"role": "tool", "content": "out", "tool_call_id": "c1", "tool_name": "bash"},
    ]  # fmt: skip


async def test_a_conversation_can_begin_with_what_it_continues(any_store: AsyncSessionStore):
    """`ancestors` follows continuations, oldest first, and no other relation; the limit counts from the end."""
    await any_store.sessions.create("zero")
    await any_store.sessions.create("a", parent_id="zero", relation="fork")
    await any_store.sessions.create("b", parent_id="a", relation="continuation")
    await any_store.sessions.create("c", parent_id="b", relation="continuation")
    for name in ("zero", "a", "b", "c"):
        await any_store.messages.append_many(name, [{"role": "user", "content": f"{name}{n}"} for n in (1, 2)])

    async def said(**options: object) -> list[str]:
        return [turn["content"] for turn in await any_store.messages.conversation("c", **options)]

    assert await said() == ["c1", "c2"]
    assert await said(ancestors=True) == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert await said(ancestors=True, limit=3) == ["b2", "c1", "c2"]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("list", {"limit": -1}), ("list", {"after": "x"}), ("list", {"after": "1"}), ("list", {"after": 3}),
        ("list", {"after_seq": "1"}),
        ("list", {"after_seq": 1, "after": "1.1"}), ("list", {"after_seq": 1, "after": 1}), ("list", {"after": "seq:1"}), ("list", {"limit": "1"}), ("conversation", {"limit": -1}), ("tail", {"n": -1}),
    ],
)  # fmt: skip
async def test_arguments_that_mean_nothing_are_refused(
    chat: AsyncSessionStore, method: str, arguments: dict[str, object]
):
    """InvalidRecord, not an empty answer."""
    with pytest.raises(InvalidRecord):
        await getattr(chat.messages, method)("s", **arguments)
