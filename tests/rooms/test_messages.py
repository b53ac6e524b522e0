"""Messages: appended with what belongs to them, counted, and read back as they were given."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from recollect import (
    AsyncSessionStore,
    InvalidRecord,
    Limits,
    MessageRef,
    MessageState,
    NewMessage,
    SequenceConflict,
    SessionNotFound,
    TurnLost,
)

AT = datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
FIELDS = {
    "name": "search", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}], "tool_call_id": "c0",
    "reasoning": "because", "reasoning_details": [{"type": "t", "n": 1}], "provider_items": {"items": [None, 1.5]},
    "token_count": 12, "finish_reason": "stop", "round_index": 3, "send_index": 2, "external_id": "tg-1",
    "metadata": {"deep": {"list": [1, "zwei", None, True, 2.5]}},
}  # fmt: skip


@pytest.fixture
async def chat(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """A store with the session `s`."""
    await any_store.sessions.create("s", created_at=AT - timedelta(days=1))
    return any_store


async def test_a_message_comes_back_as_it_was_appended(chat: AsyncSessionStore):
    """Every field given to append is in the record; the reference names it by id and by seq."""
    ref = await chat.messages.append("s", role="assistant", content="Zürich 🏔 NUL-free", created_at=AT, **FIELDS)
    message = await chat.messages.get("s", ref.seq)
    assert {name: getattr(message, name) for name in FIELDS} == FIELDS
    assert (message.id, message.session_id, message.seq, message.position) == (ref.id, "s", 1, 1)
    assert (message.role, message.content, message.text) == ("assistant", "Zürich 🏔 NUL-free", "Zürich 🏔 NUL-free")
    assert (message.created_at, message.state, message.compacted_by) == (AT, MessageState.ACTIVE, None)
    assert await chat.messages.get(id=ref.id) == message


async def test_a_bare_message_needs_a_role_only(chat: AsyncSessionStore):
    """Content may be None or empty, and each comes back as given; the time is that of the call."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    for content in (None, ""):
        ref = await chat.messages.append("s", role="assistant", content=content)
        message = await chat.messages.get("s", ref.seq)
        assert message.content == content
        assert (message.metadata, message.tool_calls, message.parts) == ({}, None, None)
        assert before <= message.created_at <= datetime.now(UTC)


STRUCTURED = [
    [{"type": "text", "text": "look at"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
    {"type": "text", "text": "one block"},
    [], {}, [[]], ["plain", "words"], [1, 2.5, None, True, False, "x"], [{"text": "a\nb\t\"c\" \\ \u2028 é 京 🏔"}],
    {"k": [{"k": [{"k": "deep"}]}]}, [0.1, 1e300, -0.0, 2**53, -(2**63)], {"": ""}, [{"b": 1, "a": 2}],
]  # fmt: skip


@pytest.mark.parametrize("content", STRUCTURED)
async def test_structured_content_round_trips_exactly(chat: AsyncSessionStore, content: object):
    """A list or dict comes back equal, in the same order of keys, with the same types."""
    ref = await chat.messages.append("s", role="user", content=content)
    message = await chat.messages.get("s", ref.seq)
    assert repr(message.content) == repr(content)
    assert message.parts == content
    assert (await chat.messages.conversation("s"))[-1] == {"role": "user", "content": content}


async def test_structured_content_is_found_by_its_words(chat: AsyncSessionStore):
    """The texts inside are searchable; ids, types and data URLs are not words."""
    await chat.messages.append("s", role="user", content=STRUCTURED[0])
    await chat.messages.append("s", role="user", content={"blocks": [{"text": "quokka"}, {"content": ["numbat"]}]})
    found = {word: [h.seq async for h in chat.search(word)] for word in ("look", "quokka", "numbat", "AAAA", "image")}
    assert found == {"look": [1], "quokka": [2], "numbat": [2], "AAAA": [], "image": []}
    assert (await chat.messages.get("s", 1)).text == "look at"


async def test_seq_counts_from_one_without_gaps_and_ids_grow(chat: AsyncSessionStore):
    """seq is per session, id is per store; both follow the order of commits."""
    await chat.sessions.create("t")
    refs = [await chat.messages.append(each, role="user", content="x") for each in "stsst"]
    assert [ref.seq for ref in refs] == [1, 1, 2, 3, 2]
    assert [ref.id for ref in refs] == sorted({ref.id for ref in refs})


async def test_appends_at_once_lose_nothing_and_keep_their_order(chat: AsyncSessionStore):
    """200 tasks at once: seq in the order of the calls, no gap, no double."""
    refs = await asyncio.gather(*(chat.messages.append("s", role="user", content=f"m{n}") for n in range(200)))
    assert [ref.seq for ref in refs] == list(range(1, 201))
    assert [m.content async for m in chat.messages.stream("s")] == [f"m{n}" for n in range(200)]


async def test_a_session_must_exist(chat: AsyncSessionStore):
    """An append to an unknown session is SessionNotFound, by every way of appending."""
    with pytest.raises(SessionNotFound, match="nobody"):
        await chat.messages.append("nobody", role="user", content="x")
    with pytest.raises(SessionNotFound):
        await chat.messages.append_many("nobody", [{"role": "user"}])
    with pytest.raises(SessionNotFound):
        await chat.messages.append_nowait("nobody", role="user")
    assert await chat.messages.count() == 0


# -- append_many -----------------------------------------------------------------------------------


async def test_append_many_takes_mappings_and_records(chat: AsyncSessionStore):
    """Consecutive seqs, in order; the fields are those of append."""
    refs = await chat.messages.append_many(
        "s", [{"role": "user", "content": "a"}, NewMessage(role="assistant", content=["b"], token_count=3)]
    )
    assert [ref.seq for ref in refs] == [1, 2]
    assert all(type(ref) is MessageRef for ref in refs)
    assert [message.content async for message in chat.messages.stream("s")] == ["a", ["b"]]
    assert await chat.messages.append_many("s", []) == []


BAD = [
    {"content": "no role"}, {"role": "user", "unknown": 1}, {"role": "user", "created_at": datetime(2030, 1, 1)},
    {"role": ""}, {"role": "user", "content": object()}, {"role": "user", "token_count": -1}, "user: hi", None,
    {"role": "user", "external_id": ""}, {"role": "user", "usage": {"tokens": 1}},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
async def test_append_many_stores_all_or_none(chat: AsyncSessionStore, bad: object):
    """One bad message: nothing of the call is stored, counters included."""
    with pytest.raises(InvalidRecord):
        await chat.messages.append_many("s", [{"role": "user", "content": "good"}, bad])
    session = await chat.sessions.get("s")
    assert (session.message_count, session.preview) == (0, None)
    assert (await chat.messages.append("s", role="user")).seq == 1


# -- idempotency -----------------------------------------------------------------------------------


async def test_a_repeated_external_id_returns_the_first_reference(chat: AsyncSessionStore):
    """Nothing is stored twice, counted twice or changed, whatever the repetition says."""
    first = await chat.messages.append("s", role="user", content="one", external_id="e")
    again = await chat.messages.append("s", role="user", content="other", external_id="e")
    assert again == first
    session = await chat.sessions.get("s")
    assert (session.message_count, session.preview) == (1, "one")
    await chat.sessions.create("t")
    assert (await chat.messages.append("t", role="user", content="mine", external_id="e")).id != first.id


async def test_an_external_id_repeated_within_one_call_is_one_message(chat: AsyncSessionStore):
    """append_many returns a reference per message given, the same one for repetitions."""
    await chat.messages.append("s", role="user", content="known", external_id="k")
    refs = await chat.messages.append_many(
        "s",
        [{"role": "user", "content": c, "external_id": e} for c, e in (("a", "x"), ("b", "x"), ("c", "k"), ("d", "y"))],
    )
    assert [ref.seq for ref in refs] == [2, 2, 1, 3]
    assert [message.content async for message in chat.messages.stream("s")] == ["known", "a", "d"]


async def test_an_external_id_appended_at_once_is_one_message(chat: AsyncSessionStore, hold):
    """64 tasks, one key, in one batch and in several: one message, 64 equal references."""
    refs = await asyncio.gather(*(chat.messages.append("s", role="user", external_id="e") for _ in range(64)))
    assert len(set(refs)) == 1
    async with hold(chat):
        tasks = [asyncio.create_task(chat.messages.append("s", role="user", external_id="f")) for _ in range(64)]
        await asyncio.sleep(0)
    assert len(set(await asyncio.gather(*tasks))) == 1
    assert await chat.messages.count("s") == 2


async def test_external_ids_of_many_sessions_in_one_batch_are_their_own(chat: AsyncSessionStore, hold):
    """More sessions than are looked through at once, some ids in several: each finds the message of its session."""
    names = [f"s{n}" for n in range(30)]
    for name in names:
        await chat.sessions.create(name)

    async def append_all() -> list[MessageRef]:
        async with hold(chat):
            receipts = [
                chat.messages.append_nowait(name, role="user", external_id=external_id)
                for n, name in enumerate(names)
                for external_id in (f"own-{n}", f"of-some-{n % 3}")
            ]
        return [await receipt for receipt in receipts]

    first = await append_all()
    assert len({ref.id for ref in first}) == 60
    assert await append_all() == first


async def test_repeating_a_whole_call_is_harmless(chat: AsyncSessionStore):
    """expected_seq, pending and usage of a repetition that stored nothing take no effect again."""
    call = {
        "role": "assistant", "content": "a", "external_id": "e", "expected_seq": 2, "pending": {"call": 1},
        "usage": {"round_index": 0, "prompt_tokens": 10},
    }  # fmt: skip
    await chat.messages.append("s", role="user", content="q")
    first = await chat.messages.append("s", **call)
    await chat.messages.append("s", role="user", content="next", pending=None)
    assert await chat.messages.append("s", **call) == first
    assert (await chat.sessions.get("s")).input_tokens == 10
    rows = await chat.query("SELECT pending, next_seq FROM sessions WHERE id = 's'")
    assert tuple(rows[0]) == (None, 4)


# -- order, turns ----------------------------------------------------------------------------------


async def test_an_append_can_demand_its_seq(chat: AsyncSessionStore):
    """expected_seq: stored if the message gets that seq, else SequenceConflict and nothing stored."""
    assert (await chat.messages.append("s", role="user", expected_seq=1)).seq == 1
    with pytest.raises(SequenceConflict) as conflict:
        await chat.messages.append("s", role="user", expected_seq=1)
    assert (conflict.value.session_id, conflict.value.expected, conflict.value.actual) == ("s", 1, 2)
    with pytest.raises(SequenceConflict):
        await chat.messages.append_many("s", [{"role": "user"}], expected_seq=3)
    assert await chat.messages.count("s") == 1


async def test_of_appends_that_demand_one_seq_one_succeeds(chat: AsyncSessionStore):
    """At once, in one batch: the first gets it, the others are told."""
    appends = (chat.messages.append("s", role="user", expected_seq=1) for _ in range(8))
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert [type(each) for each in outcomes] == [MessageRef] + [SequenceConflict] * 7


async def test_a_foreign_fence_is_refused(chat: AsyncSessionStore):
    """Without a turn, or with another fence than its holder's, TurnLost and nothing stored."""
    with pytest.raises(TurnLost):
        await chat.messages.append("s", role="user", fence=1)
    with pytest.raises(TurnLost):
        await chat.messages.append_many("s", [{"role": "user"}], fence=7)
    assert await chat.messages.count("s") == 0


async def test_send_index_is_advanced_by_user_messages(chat: AsyncSessionStore):
    """A user message begins the next send, what follows belongs to it; a given one is kept."""
    roles = ["system", "user", "assistant", "tool", "user", "assistant"]
    await chat.messages.append_many("s", [{"role": role} for role in roles])
    await chat.messages.append("s", role="assistant", send_index=1)
    await chat.messages.append("s", role="assistant")
    await chat.messages.append("s", role="user", send_index=7)
    await chat.messages.append("s", role="assistant")
    assert [m.send_index async for m in chat.messages.stream("s")] == [0, 1, 1, 1, 2, 2, 1, 2, 7, 7]


# -- counters --------------------------------------------------------------------------------------


async def test_counters_follow_the_messages(chat: AsyncSessionStore):
    """A tool row is no call, n parallel calls count n; empty tool_calls count nothing."""
    calls = [{"id": "1"}, {"id": "2"}, {"id": "3"}]
    await chat.messages.append_many(
        "s",
        [
            {"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": calls}, {"role": "tool"},
            {"role": "tool"}, {"role": "assistant", "tool_calls": []}, {"role": "assistant", "tool_calls": {"id": "4"}},
            {"role": "assistant", "tool_calls": {}},
        ],
    )  # fmt: skip
    session = await chat.sessions.get("s")
    assert (session.message_count, session.tool_call_count) == (7, 4)
    assert [m.tool_calls for m in await chat.messages.list("s")][1:2] == [calls]
    assert await chat.messages.count("s") == await chat.messages.count() == 7
    assert await chat.messages.count("nobody") == 0


PREVIEWS = [
    ("short", "short"), ("x" * 60, "x" * 60), ("x" * 61, "x" * 60 + "..."), ("x" * 5000, "x" * 60 + "..."),
    ("one\ntwo\r\nthree\rfour", "one two three four"), ("京" * 61, "京" * 60 + "..."), ("a\n\nb", "a  b"),
    (["a list", {"text": "of words"}], "a list of words"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "preview"), PREVIEWS)
async def test_the_preview_is_the_first_user_text(chat: AsyncSessionStore, content: object, preview: str):
    """60 characters and `...`, line ends as spaces; what is not the user's, or empty, is passed over."""
    await chat.messages.append_many("s", [{"role": "system", "content": "rules"}, {"role": "user", "content": ""}])
    assert (await chat.sessions.get("s")).preview is None
    await chat.messages.append("s", role="user", content=content)
    await chat.messages.append("s", role="user", content="later")
    assert (await chat.sessions.get("s")).preview == preview


async def test_last_active_is_the_newest_message_else_the_creation(chat: AsyncSessionStore):
    """Messages out of order do not turn it back; without any it is the time of creation."""
    assert (await chat.sessions.get("s")).last_active_at == AT - timedelta(days=1)
    for hours, expected in ((-100, -100), (0, 0), (-5, 0), (2, 2)):
        await chat.messages.append("s", role="user", created_at=AT + timedelta(hours=hours))
        assert (await chat.sessions.get("s")).last_active_at == AT + timedelta(hours=expected)


async def test_pending_commits_with_the_row(chat: AsyncSessionStore):
    """Set, kept, replaced and cleared by appends; a refused append does not touch it."""

    async def pending() -> object:
        return (await chat.query("SELECT pending FROM sessions WHERE id = 's'"))[0].pending

    await chat.messages.append("s", role="assistant", pending={"calls": [1]})
    assert await pending() == '{"calls":[1]}'
    await chat.messages.append("s", role="tool")
    assert await pending() == '{"calls":[1]}'
    with pytest.raises(SequenceConflict):
        await chat.messages.append("s", role="tool", pending=None, expected_seq=99)
    assert await pending() == '{"calls":[1]}'
    await chat.messages.append("s", role="tool", pending={})
    assert await pending() is None
    await chat.messages.append_many("s", [{"role": "tool", "pending": [1]}, {"role": "tool", "pending": None}])
    assert await pending() is None


async def test_text_is_redacted_before_it_is_stored():
    """The hook sees every text, also inside structured fields; table, index and conversation agree."""
    async with AsyncSessionStore(":memory:", redact=lambda text: text.replace("hunter2", "[gone]")) as store:
        await store.sessions.create("s", system_prompt="hunter2", metadata={"a": ["hunter2"]}, title="hunter2 t")
        await store.messages.append(
            "s", role="user", content="my hunter2", reasoning="hunter2", metadata={"m": "hunter2"},
            tool_calls=[{"args": "hunter2"}], name="hunter2",
        )  # fmt: skip
        await store.messages.append("s", role="user", content=[{"text": "hunter2"}])
        receipt = store.messages.append_nowait("s", role="user", content="hunter2")
        await receipt
        dump = str([await store.sessions.get("s"), *(await store.messages.list("s"))])
        assert "hunter2" not in dump
        assert dump.count("[gone]") >= 10
        assert [hit async for hit in store.search("hunter2")] == []
        assert len([hit async for hit in store.search("gone")]) == 3


async def test_a_row_over_the_limit_is_refused_and_one_at_it_is_not(any_store: AsyncSessionStore):
    """limits.row_bytes counts every field of a message; the error names both numbers."""
    async with AsyncSessionStore(":memory:", limits=Limits(row_bytes=10_000)) as store:
        await store.sessions.create("s")
        await store.messages.append("s", role="user", content="x" * 9_000)
        for fields in ({"content": "é" * 5_000}, {"reasoning": "x" * 10_000}, {"metadata": {"k": "x" * 10_000}}):
            with pytest.raises(InvalidRecord, match="10000"):
                await store.messages.append("s", role="user", **fields)
        assert await store.messages.count() == 1
