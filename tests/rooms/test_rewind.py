"""Rewinding and restoring, forking at any place, replacing and clearing a transcript."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from recollect import (
    AsyncSessionStore,
    InvalidRecord,
    MessageState,
    SessionExists,
    SessionNotFound,
    StoreError,
    TurnLost,
)

from .failing import failing
from .outside import indexed

AT = datetime(2020, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


@pytest.fixture
async def chat(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """`s` with messages m1…m10, those of another session in between."""
    for name in "st":
        await any_store.sessions.create(name)
    for n in range(1, 11):
        await any_store.messages.append("s", role="user" if n % 2 else "assistant", content=f"m{n}")
        await any_store.messages.append("t", role="user", content=f"t{n}")
    return any_store


def m(*numbers: int) -> list[str]:
    return [f"m{n}" for n in numbers]


async def said(store: AsyncSessionStore, session: str = "s", **options: Any) -> list[str]:
    return [message.content for message in await store.messages.list(session, **options)]


async def found(store: AsyncSessionStore, query: str, **options: Any) -> list[str | None]:
    return sorted([hit.text async for hit in store.search(query, limit=None, with_text=True, **options)])


async def counters(store: AsyncSessionStore, session: str = "s") -> tuple[int, int, str | None]:
    row = await store.sessions.get(session)
    return row.message_count, row.tool_call_count, row.preview


# -- rewinding -------------------------------------------------------------------------------------


async def test_what_was_taken_back_is_hidden_everywhere(chat: AsyncSessionStore):
    """From list, tail, stream, conversation, count, counters and search, and only of that session."""
    assert await chat.messages.rewind("s", 6) == 4
    assert await said(chat) == m(1, 2, 3, 4, 5, 6)
    assert [message.content for message in await chat.messages.tail("s", 2)] == m(5, 6)
    assert [message.content async for message in chat.messages.stream("s")] == m(1, 2, 3, 4, 5, 6)
    assert [turn["content"] for turn in await chat.messages.conversation("s", limit=2)] == m(5, 6)
    assert await said(chat, after_seq=5) == m(6)
    assert await chat.messages.count("s") == 6
    assert await chat.messages.count() == 16
    assert await counters(chat) == (6, 0, "m1")
    assert await found(chat, "m8") == []
    assert await found(chat, "m6") == ["m6"]
    assert await said(chat, "t") == [f"t{n}" for n in range(1, 11)]


async def test_what_was_taken_back_is_shown_to_whoever_asks(chat: AsyncSessionStore):
    """By get, by list(state="all") in order, and by a search with include_rewound."""
    was = await chat.messages.get("s", 8)
    await chat.messages.rewind("s", 6)
    message = await chat.messages.get("s", 8)
    assert (message.state, message.compacted_by, message.content) == (MessageState.REWOUND, None, "m8")
    assert await chat.messages.get(id=was.id) == message
    assert await said(chat, state="all") == m(*range(1, 11))
    assert await said(chat, after_seq=7, state="all") == m(8, 9, 10)
    assert await found(chat, "m8", include_rewound=True) == ["m8"]
    for order in ("newest", "oldest"):
        assert await found(chat, "m8 OR m2", order=order) == ["m2"]


async def test_counters_and_preview_follow_a_rewind(store: AsyncSessionStore):
    """And the way back; the tokens stay, for they were spent."""
    await store.sessions.create("s")
    await store.messages.append("s", role="assistant", content="hello", tool_calls=[{"id": "a"}])
    await store.messages.append("s", role="user", content="first words", usage={"prompt_tokens": 7})
    await store.messages.append("s", role="assistant", tool_calls=[{"id": "b"}, {"id": "c"}])
    assert await store.messages.rewind("s", 1) == 2
    assert await counters(store) == (1, 1, None)
    await store.messages.append("s", role="user", content="other words")
    assert await counters(store) == (2, 1, "other words")
    assert await store.messages.restore("s") == 2
    assert await counters(store) == (4, 3, "first words")
    assert (await store.sessions.get("s")).input_tokens == 7


async def test_everything_can_be_taken_back(chat: AsyncSessionStore):
    """Seq 0 is before the first message; nothing is left, and seqs go on."""
    assert await chat.messages.rewind("s", 0) == 10
    assert await said(chat) == []
    assert await chat.messages.conversation("s") == []
    assert await counters(chat) == (0, 0, None)
    assert (await chat.messages.append("s", role="user", content="anew")).seq == 11
    assert await said(chat) == ["anew"]


async def test_a_rewind_to_the_last_message_takes_nothing_back(chat: AsyncSessionStore):
    """0, also for an empty session and for one rewound twice to the same place; nothing is recorded."""
    before = await chat.sessions.export("s")
    assert await chat.messages.rewind("s", 10) == 0
    assert await chat.sessions.export("s") == before
    await chat.sessions.create("empty")
    assert await chat.messages.rewind("empty", 0) == 0
    assert await chat.messages.restore("empty") == 0
    assert await chat.messages.rewind("s", 4) == 6
    assert await chat.messages.rewind("s", 4) == 0
    assert await chat.messages.rewind("s", 0) == 4
    assert await chat.messages.rewind("s", 0) == 0
    rows = await chat.query("SELECT name FROM events WHERE kind = 'store.rewound' ORDER BY id")
    assert [row.name for row in rows] == ["4", "0"]


@pytest.mark.parametrize("seq", [11, -1, 2**63 - 1, 2**63, 8, 10, "3", None, 3.0, True])
async def test_a_seq_that_is_not_in_the_transcript_is_refused(chat: AsyncSessionStore, seq: Any):
    """Unknown, taken back already, no number: InvalidRecord, and nothing is changed; so for a fork."""
    await chat.messages.rewind("s", 6)
    before = await chat.sessions.export("s")
    with pytest.raises(InvalidRecord):
        await chat.messages.rewind("s", seq)
    if seq is not None:
        with pytest.raises(InvalidRecord):
            await chat.sessions.fork("s", at_seq=seq, session_id="f")
        assert await chat.sessions.get("f") is None
    assert await chat.sessions.export("s") == before


async def test_what_was_pending_is_taken_back_too(chat: AsyncSessionStore):
    """The agent's pending state belongs to what was said last."""
    await chat.sessions.set_pending("s", {"tool_calls": [1]})
    await chat.messages.rewind("s", 9)
    assert (await chat.sessions.state("s")).pending is None
    await chat.messages.restore("s")
    assert (await chat.sessions.state("s")).pending is None


async def test_a_rewind_needs_the_session_and_the_turn(chat: AsyncSessionStore):
    """SessionNotFound for one that is not there; a stale fence is TurnLost and changes nothing."""
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (chat.messages.rewind, (3,)), (chat.messages.restore, ()), (chat.messages.replace, ([],)), (chat.messages.clear, ()),
    ]  # fmt: skip
    async with chat.sessions.turn("s", holder="w") as turn:
        pass
    before = await chat.sessions.export("s")
    for call, args in calls:
        with pytest.raises(SessionNotFound, match="nobody"):
            await call("nobody", *args)
        with pytest.raises(TurnLost):
            await call("s", *args, fence=turn.fence)
    assert await chat.sessions.export("s") == before


# -- restoring -------------------------------------------------------------------------------------


async def test_restore_is_the_way_back(chat: AsyncSessionStore):
    """Everything stands where it stood, whatever the number of rewinds; a second one finds nothing."""
    before = await chat.messages.list("s")
    await chat.messages.rewind("s", 8)
    await chat.messages.rewind("s", 5)
    assert await chat.messages.restore("s") == 5
    assert await chat.messages.list("s") == before
    assert await chat.messages.restore("s") == 0
    assert await found(chat, "m9") == ["m9"]


async def test_what_is_restored_stands_before_what_was_appended_since(chat: AsyncSessionStore):
    """In the order of places, however rewinds and appends alternated."""
    await chat.messages.rewind("s", 4)
    await chat.messages.append("s", role="user", content="new1")
    await chat.messages.append("s", role="user", content="new2")
    await chat.messages.rewind("s", 11)
    await chat.messages.append("s", role="user", content="new3")
    assert await said(chat) == [*m(1, 2, 3, 4), "new1", "new3"]
    assert await chat.messages.restore("s") == 7
    assert await said(chat) == [*m(*range(1, 11)), "new1", "new2", "new3"]


# -- landings --------------------------------------------------------------------------------------


async def test_landing_inside_a_compaction_undoes_it(chat: AsyncSessionStore):
    """The message is in the transcript again, its note is not, and the audit row says it was undone."""
    await chat.messages.compact("s", from_seq=2, to_seq=5, note="a quokka")
    assert await chat.messages.rewind("s", 3) == 7
    assert await said(chat) == m(1, 2, 3)
    assert await counters(chat) == (3, 0, "m1")
    assert [each.undone_at is None for each in await chat.messages.compactions("s", undone=True)] == [False]
    assert await found(chat, "m3") == ["m3"]
    assert await found(chat, "m4") == []
    assert await chat.messages.restore("s") == 7
    assert await said(chat) == m(*range(1, 11))


@pytest.mark.parametrize("seq", [2, 3, 4, 5])
async def test_every_message_of_a_compaction_can_be_landed_on(chat: AsyncSessionStore, seq: int):
    """The first and the last of them too: what was put away is the end of the transcript now."""
    await chat.messages.compact("s", from_seq=2, to_seq=5, note="n")
    await chat.messages.rewind("s", seq)
    assert await said(chat) == m(*range(1, seq + 1))


async def test_landing_on_a_note_keeps_it(chat: AsyncSessionStore):
    """And so does landing behind what it stands for."""
    await chat.messages.compact("s", from_seq=2, to_seq=5, note="n")
    assert await chat.messages.rewind("s", 7) == 3
    assert await said(chat) == ["m1", "n", *m(6, 7)]
    assert await chat.messages.rewind("s", 11) == 2
    assert await said(chat) == ["m1", "n"]
    assert [each.seq for each in await chat.messages.compactions("s")] == [1]
    await chat.messages.restore("s")
    assert await said(chat) == ["m1", "n", *m(6, 7, 8, 9, 10)]


async def test_landing_before_a_compaction_takes_its_note_back(chat: AsyncSessionStore):
    """It stays in effect, and comes back with the note."""
    await chat.messages.compact("s", from_seq=4, to_seq=5, note="n")
    assert await chat.messages.rewind("s", 2) == 7
    assert await said(chat) == m(1, 2)
    with pytest.raises(InvalidRecord, match="under a note"):
        await chat.messages.rewind("s", 4)
    with pytest.raises(InvalidRecord):
        await chat.messages.rewind("s", 11)
    await chat.messages.restore("s")
    assert await said(chat) == [*m(1, 2, 3), "n", *m(6, 7, 8, 9, 10)]


async def nest(store: AsyncSessionStore) -> None:
    """m1 (outer: (inner: m2 m3) m4 (second: m5 m6) m7) m8…"""
    await store.messages.compact("s", from_seq=2, to_seq=3, note="inner")  # 11
    await store.messages.compact("s", from_seq=5, to_seq=6, note="second")  # 12
    await store.messages.compact("s", from_seq=2, to_seq=7, note="outer")  # 13


LANDINGS = [
    (1, m(1), {1, 2, 3}), (2, m(1, 2), {2}), (3, m(1, 2, 3), {2}), (11, ["m1", "inner"], {1, 2}),
    (4, ["m1", "inner", "m4"], {1, 2}), (5, ["m1", "inner", "m4", "m5"], {1}), (6, ["m1", "inner", "m4", *m(5, 6)], {1}),
    (12, ["m1", "inner", "m4", "second"], {1, 2}), (7, ["m1", "inner", "m4", "second", "m7"], {1, 2}),
    (13, ["m1", "outer"], {1, 2, 3}), (8, ["m1", "outer", "m8"], {1, 2, 3}), (0, [], {1, 2, 3}),
]  # fmt: skip


@pytest.mark.parametrize(("seq", "expected", "in_effect"), LANDINGS)
async def test_landing_in_a_nest_undoes_what_stands_across_and_no_more(
    chat: AsyncSessionStore, seq: int, expected: list[str], in_effect: set[int]
):
    """Outermost first; notes below that do not stand across the place stay; a fork is the same."""
    await nest(chat)
    before = await chat.sessions.export("s")
    if seq:
        await chat.sessions.fork("s", at_seq=seq, session_id="f")
        assert await said(chat, "f") == expected
        assert await chat.sessions.export("s") == before
    await chat.messages.rewind("s", seq)
    assert await said(chat) == expected
    assert {each.seq for each in await chat.messages.compactions("s")} == in_effect
    assert await counters(chat) == (len(expected), 0, "m1" if expected else None)


async def test_exact_sets_that_straddle_the_place_are_undone(chat: AsyncSessionStore):
    """What was left between them is the new end; what was put away behind it is taken back with the rest."""
    await chat.messages.compact("s", seqs=[2, 6, 9], note="wide")
    await chat.messages.compact("s", seqs=[4, 5], note="narrow")
    assert await said(chat) == ["m1", "wide", "m3", "narrow", *m(7, 8, 10)]
    await chat.messages.rewind("s", 7)
    assert await said(chat) == [*m(1, 2, 3), "narrow", *m(6, 7)]
    assert [each.seq for each in await chat.messages.compactions("s")] == [2]
    await chat.messages.restore("s")
    assert await said(chat) == [*m(1, 2, 3), "narrow", *m(6, 7, 8, 9, 10)]


async def test_a_note_inside_a_straddling_set_is_undone_after_it(chat: AsyncSessionStore):
    """The outer set hides a note which itself stands across the place: both are undone."""
    await chat.messages.compact("s", seqs=[3, 6], note="inner")
    await chat.messages.compact("s", seqs=[11, 9], note="outer")
    assert await said(chat) == [*m(1, 2), "outer", *m(4, 5, 7, 8, 10)]
    await chat.messages.rewind("s", 5)
    assert await said(chat) == m(1, 2, 3, 4, 5)
    assert await chat.messages.compactions("s") == []


async def test_landing_on_a_note_undoes_another_that_stands_across_it(chat: AsyncSessionStore):
    """The note that is landed on stays, the one around it does not."""
    await chat.messages.compact("s", from_seq=4, to_seq=5, note="kept")  # 11
    await chat.messages.compact("s", seqs=[2, 8], note="around")
    await chat.messages.rewind("s", 11)
    assert await said(chat) == [*m(1, 2, 3), "kept"]


async def test_a_note_that_was_undone_is_no_place_to_land(chat: AsyncSessionStore):
    """Neither it, nor what a replaced transcript put away for good."""
    await chat.messages.compact("s", from_seq=4, to_seq=5, note="n")
    await chat.messages.uncompact("s", 1)
    with pytest.raises(InvalidRecord):
        await chat.messages.rewind("s", 11)
    await chat.messages.compact("s", from_seq=4, to_seq=5, note="n")
    await chat.messages.replace("s", [{"role": "user", "content": "anew"}])
    for seq in (1, 4, 12):
        with pytest.raises(InvalidRecord):
            await chat.messages.rewind("s", seq)
    assert await said(chat) == ["anew"]
    assert await chat.messages.rewind("s", 13) == 0


# -- forks -----------------------------------------------------------------------------------------


async def build(store: AsyncSessionStore, name: str) -> None:
    """A session with nearly everything in it: nested and straddling notes, one undone, a part taken back."""
    await store.sessions.create(name, source="cli", created_at=AT)
    for n in range(1, 13):
        calls = [{"id": f"c{n}"}] * (n % 3) or None
        role = "user" if n % 2 else "assistant"
        await store.messages.append(
            name, role=role, content=f"m{n}", tool_calls=calls, round_index=n, external_id=f"e{n}"
        )
    await store.messages.compact(name, seqs=[2, 5], note="n13")
    await store.messages.compact(name, from_seq=3, to_seq=4, note="n14")
    await store.messages.compact(name, seqs=[14, 7], note="n15")
    await store.messages.compact(name, from_seq=9, to_seq=10, note="n16")
    await store.messages.uncompact(name, 4)
    await store.messages.rewind(name, 11)
    await store.messages.append(name, role="assistant", content=["m17", {"text": "parts"}], reasoning="why")
    await store.messages.compact(name, seqs=[10, 17], note="n18")


async def test_a_fork_at_any_place_is_what_a_rewind_there_would_be(memory: AsyncSessionStore):
    """The same messages in the same order with the same counters, and refused where a rewind is; the origin
    is not touched."""
    await build(memory, "s")
    origin = await memory.sessions.export("s")
    same = ("role", "content", "tool_calls", "round_index", "send_index", "external_id", "reasoning")
    landed = 0
    for seq in range(20):
        await build(memory, f"rewound{seq}")
        try:
            await memory.messages.rewind(f"rewound{seq}", seq)
        except InvalidRecord:
            with pytest.raises(InvalidRecord):
                await memory.sessions.fork("s", at_seq=seq, session_id=f"fork{seq}")
            continue
        fork = await memory.sessions.fork("s", at_seq=seq, session_id=f"fork{seq}")
        copied = (await memory.messages.list(fork.id)).items
        rewound = (await memory.messages.list(f"rewound{seq}")).items
        assert [[getattr(each, name) for name in same] for each in copied] == [
            [getattr(each, name) for name in same] for each in rewound
        ]
        assert [each.seq for each in copied] == [each.position for each in copied] == [*range(1, len(copied) + 1)]
        assert await counters(memory, fork.id) == await counters(memory, f"rewound{seq}")
        assert await memory.messages.list(fork.id, state="all") == await memory.messages.list(fork.id)
        assert await memory.sessions.export("s") == origin
        landed += len(copied) > 0
    assert landed >= 10


async def test_a_fork_without_a_place_is_the_whole_transcript(chat: AsyncSessionStore):
    """Notes as they are; what was put away or taken back is not in it; seqs begin anew and go on."""
    await chat.messages.compact("s", from_seq=2, to_seq=5, note="n")
    await chat.messages.rewind("s", 8)
    fork = await chat.sessions.fork("s")
    assert (fork.parent_id, fork.relation, fork.message_count, fork.preview) == ("s", "fork", 5, "m1")
    assert await said(chat, fork.id, state="all") == ["m1", "n", *m(6, 7, 8)]
    assert await chat.messages.compactions(fork.id) == []
    assert (await chat.messages.append(fork.id, role="user", content="on")).seq == 6
    assert await found(chat, "m7", session=fork.id) == ["m7"]
    assert await chat.messages.restore(fork.id) == 0
    assert await chat.messages.restore("s") == 2


async def test_a_fork_inherits_what_it_is_not_given(any_store: AsyncSessionStore):
    """Source, user, model, config, prompt and metadata; not title, key, tokens, or what is pending."""
    inherited = {
        "source": "cli", "user_id": "u", "model": "m", "config": {"a": 1}, "system_prompt": "p", "metadata": {"b": [2]},
    }  # fmt: skip
    await any_store.sessions.create("s", title="T", key="k", **inherited)
    await any_store.messages.append("s", role="user", content="x", usage={"prompt_tokens": 5}, pending={"p": 1})
    fork = await any_store.sessions.fork("s", session_id="f")
    assert {name: getattr(fork, name) for name in inherited} == inherited
    assert (fork.title, fork.key, fork.input_tokens, fork.id) == (None, None, 0, "f")
    assert (await any_store.sessions.state("f")).pending is None
    assert (await any_store.sessions.state("f")).send_index == 1
    other = await any_store.sessions.fork("s", source="web", model="m2", config={"c": 3}, title="U")
    assert (other.source, other.model, other.config, other.title, other.user_id) == ("web", "m2", {"c": 3}, "U", "u")
    with pytest.raises(SessionExists):
        await any_store.sessions.fork("s", session_id="f")
    with pytest.raises(SessionNotFound):
        await any_store.sessions.fork("nobody")


async def test_a_fork_of_nothing_is_an_empty_session(chat: AsyncSessionStore):
    """At seq 0, and of a session without messages."""
    for fork in (await chat.sessions.fork("s", at_seq=0), await chat.sessions.fork((await chat.sessions.create()).id)):
        assert await said(chat, fork.id, state="all") == []
        assert (fork.message_count, fork.preview) == (0, None)
        assert (await chat.messages.append(fork.id, role="user", content="x")).seq == 1


# -- replaced --------------------------------------------------------------------------------------


async def test_replace_writes_the_transcript_anew(chat: AsyncSessionStore):
    """What was there is put away and still found, what was taken back or under a note too; new seqs go on;
    another session is not touched."""
    await chat.messages.compact("s", from_seq=2, to_seq=3, note="n")
    await chat.messages.rewind("s", 9)
    news = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ["b"], "tool_calls": [{"id": "c"}]}]
    refs = await chat.messages.replace("s", news)
    assert [ref.seq for ref in refs] == [12, 13]
    assert [message.content for message in await chat.messages.list("s")] == ["a", ["b"]]
    assert await counters(chat) == (2, 1, "a")
    everything = {each.seq: (each.state, each.compacted_by) for each in await chat.messages.list("s", state="all")}
    assert all(everything[seq] == (MessageState.COMPACTED, None) for seq in range(1, 12))
    for word in ("m2", "m5", "m10"):
        assert await found(chat, word) == [word]
    assert await said(chat, "t") == [f"t{n}" for n in range(1, 11)]


async def test_nothing_of_before_comes_back_into_a_replaced_transcript(chat: AsyncSessionStore):
    """Neither by restoring, nor by undoing a compaction, nor by rewinding."""
    await chat.messages.compact("s", from_seq=2, to_seq=3, note="n")
    await chat.messages.rewind("s", 9)
    await chat.messages.replace("s", [{"role": "user", "content": "anew"}])
    assert await chat.messages.restore("s") == 0
    assert await chat.messages.compactions("s") == []
    for seq in range(1, 12):
        with pytest.raises(InvalidRecord):
            await chat.messages.rewind("s", seq)
    assert await said(chat) == ["anew"]


async def test_replace_is_all_or_nothing(chat: AsyncSessionStore):
    """One bad message: nothing is changed."""
    before = await chat.sessions.export("s")
    bad: list[Any] = [{"role": ""}, {"role": "user", "unknown": 1}, None, {"role": "user", "content": object()}]
    for each in bad:
        with pytest.raises(InvalidRecord):
            await chat.messages.replace("s", [{"role": "user", "content": "good"}, each])
    for several in (None, 5):
        with pytest.raises(InvalidRecord):
            await chat.messages.replace("s", several)  # type: ignore[arg-type]
    assert await chat.sessions.export("s") == before


async def test_a_replaced_transcript_is_never_seen_half(chat: AsyncSessionStore):
    """Readers at any time see the old one or the new one, and appends called meanwhile come behind."""
    seen: set[tuple[str, ...]] = set()

    async def watch() -> None:
        while not done.is_set():
            seen.add(tuple(await said(chat, "s")))

    done = asyncio.Event()
    watcher = asyncio.create_task(watch())
    old, new = m(*range(1, 11)), [f"new{n}" for n in range(50)]
    await asyncio.sleep(0)
    await chat.messages.replace("s", [{"role": "user", "content": text} for text in new])
    await chat.messages.append("s", role="user", content="behind")
    done.set()
    await watcher
    assert seen <= {tuple(old), tuple(new), (*new, "behind")}
    assert await said(chat) == [*new, "behind"]


async def test_the_new_messages_take_over_external_ids(any_store: AsyncSessionStore):
    """Of whatever state the old ones were in; repeating an append then finds the new message."""
    await any_store.sessions.create("s")
    for n in range(1, 5):
        await any_store.messages.append("s", role="user", content=f"old{n}", external_id=f"e{n}")
    await any_store.messages.compact("s", to_seq=1, note="n")
    await any_store.messages.rewind("s", 3)
    news = [{"role": "user", "content": f"new{n}", "external_id": f"e{n}"} for n in (1, 2, 4)]
    refs = await any_store.messages.replace("s", news)
    assert [ref.seq for ref in refs] == [6, 7, 8]
    assert await said(any_store) == ["new1", "new2", "new4"]
    for ref, n in zip(refs, (1, 2, 4), strict=True):
        assert await any_store.messages.append("s", role="user", content="again", external_id=f"e{n}") == ref
        assert (await any_store.messages.get("s", n)).external_id is None
    assert (await any_store.messages.get("s", 3)).external_id == "e3"


async def test_replacing_begins_no_send(chat: AsyncSessionStore):
    """User messages of a rewritten transcript belong to the current one, unless they say otherwise."""
    assert (await chat.sessions.state("s")).send_index == 5
    await chat.messages.replace("s", [{"role": "user"}, {"role": "user", "send_index": 2}, {"role": "assistant"}])
    assert [message.send_index for message in await chat.messages.list("s")] == [5, 2, 5]
    assert (await chat.sessions.state("s")).send_index == 5
    await chat.messages.append("s", role="user")
    assert (await chat.sessions.state("s")).send_index == 6


async def test_a_transcript_can_be_replaced_by_nothing(chat: AsyncSessionStore):
    """An empty list: the transcript is empty, what was there put away."""
    assert await chat.messages.replace("s", []) == []
    assert await said(chat) == []
    assert await counters(chat) == (0, 0, None)
    assert await said(chat, state="all") == m(*range(1, 11))
    [ref] = await chat.messages.replace("s", [{"role": "user", "content": "a"}])
    assert ref.seq == 11
    assert await said(chat) == ["a"]


async def test_usage_and_pending_come_with_the_new_messages(any_store: AsyncSessionStore):
    """As with any append, in the same transaction."""
    await any_store.sessions.create("s")
    await any_store.messages.replace("s", [{"role": "user", "usage": {"prompt_tokens": 3}, "pending": {"p": [1]}}])
    assert (await any_store.sessions.get("s")).input_tokens == 3
    assert (await any_store.sessions.state("s")).pending == {"p": [1]}


# -- cleared ---------------------------------------------------------------------------------------


async def test_clear_empties_the_transcript_and_keeps_the_session(any_store: AsyncSessionStore):
    """Its columns, tokens, costs and ledger stay; counters, preview and pending go; it is as young as made."""
    given = {
        "source": "cli", "user_id": "u", "key": "k", "model": "m", "config": {"a": 1}, "system_prompt": "p",
        "title": "T", "metadata": {"b": 2}, "created_at": AT,
    }  # fmt: skip
    await any_store.sessions.create("s", **given)
    await any_store.messages.append("s", role="user", content="x", usage={"prompt_tokens": 5, "actual_cost_usd": 0.5})
    await any_store.messages.append("s", role="assistant", tool_calls=[{"id": "c"}], pending={"p": 1})
    await any_store.messages.append("s", role="user", content="y")
    await any_store.sessions.set_round("s", 4)
    await any_store.messages.compact("s", to_seq=1, note="n")
    await any_store.messages.rewind("s", 2)
    rounds = await any_store.usage.rounds("s")
    was = await any_store.sessions.get("s")
    assert await any_store.messages.clear("s") == 2
    session = await any_store.sessions.get("s")
    assert {name: getattr(session, name) for name in given} == given
    assert (session.input_tokens, session.actual_cost_usd) == (5, 0.5)
    assert (session.message_count, session.tool_call_count, session.preview) == (0, 0, None)
    assert (session.last_active_at, session.status) == (AT, was.status)
    assert await any_store.usage.rounds("s") == rounds
    state = await any_store.sessions.state("s")
    assert (state.next_seq, state.round_index, state.send_index, state.pending) == (5, 4, 2, None)
    assert await said(any_store, state="all") == []
    assert await any_store.messages.compactions("s", undone=True) == []
    assert await any_store.messages.restore("s") == 0
    assert (await any_store.sessions.by_title("T")).id == "s"
    assert (await any_store.sessions.for_key("k")).id == "s"


async def test_after_a_clear_numbers_go_on_and_external_ids_are_free(chat: AsyncSessionStore):
    """No seq and no number of a compaction is used twice; a message of an old external id is a new one."""
    first = await chat.messages.append("s", role="user", content="old", external_id="e")
    await chat.messages.compact("s", seqs=[1], note="n")
    assert await chat.messages.clear("s") == 11
    again = await chat.messages.append("s", role="user", content="new", external_id="e")
    assert (first.seq, again.seq) == (11, 13)
    assert await chat.messages.get(id=first.id) is None
    assert await chat.messages.get("s", 3) is None
    assert (await chat.messages.compact("s", note="n2")).seq == 2
    assert await said(chat) == ["n2"]
    for seq in (1, 11, 12):
        with pytest.raises(InvalidRecord):
            await chat.messages.rewind("s", seq)


async def test_children_and_parents_stay_where_they_are(any_store: AsyncSessionStore):
    """A cleared session keeps its place in the line, in both directions."""
    await any_store.sessions.create("root")
    await any_store.sessions.create("s", parent_id="root", relation="continuation")
    for relation in ("spawn", "fork", "continuation"):
        await any_store.sessions.create(relation, parent_id="s", relation=relation)
    await any_store.messages.append("s", role="user", content="x")
    await any_store.messages.clear("s")
    assert [each.id for each in await any_store.sessions.ancestors("fork")] == ["root", "s"]
    assert {each.id for each in await any_store.sessions.children("s")} == {"spawn", "fork", "continuation"}
    assert [each.id for each in await any_store.sessions.children("root")] == ["s"]
    assert (await any_store.sessions.tip("root")).id == "continuation"
    assert await any_store.sessions.delete("s") == ["s", "spawn"]


async def test_a_turn_goes_on_after_a_clear(chat: AsyncSessionStore):
    """The lease is kept: its fence still holds, another's still does not, and it is given back at the end."""
    async with chat.sessions.turn("s", holder="w") as turn:
        await chat.messages.clear("s")
        await chat.messages.append("s", role="user", content="mine", fence=turn.fence)
        with pytest.raises(TurnLost):
            await chat.messages.append("s", role="user", content="late", fence=turn.fence - 1)
    async with chat.sessions.turn("s", holder="v") as other:
        assert other.fence > turn.fence
    assert await said(chat) == ["mine"]


async def test_old_words_are_not_found_and_new_ones_are(any_store: AsyncSessionStore):
    """Within the session, the user and the store, at once; also of those rows that are not erased yet."""
    await any_store.sessions.create("s", user_id="u")
    await any_store.messages.append("s", role="user", content="old quokka")
    await any_store.flush(index=True)
    await any_store.messages.clear("s")
    for options in ({}, {"session": "s"}, {"user_id": "u"}, {"include_rewound": True}):
        assert await found(any_store, "quokka", **options) == []
    await any_store.messages.append("s", role="user", content="new quokka")
    for options in ({}, {"session": "s"}, {"user_id": "u"}):
        assert await found(any_store, "quokka", **options) == ["new quokka"]


async def test_cleared_rows_leave_the_tables(any_store: AsyncSessionStore, eventually):
    """The keeper erases them, more than one chunk of them, and nothing of the session that goes on."""
    await any_store.sessions.create("s", system_prompt="p")
    await any_store.messages.append_many("s", [{"role": "user", "content": f"m{n}"} for n in range(300)])
    await any_store.messages.compact("s", to_seq=200, note="n")
    await any_store.usage.add("s", prompt_tokens=3)
    assert await any_store.messages.clear("s") == 101
    await any_store.messages.append("s", role="user", content="kept")

    async def erased() -> bool:
        rows = await any_store.query("SELECT COUNT(*) AS n FROM messages")
        return rows[0].n == 1

    await eventually(erased)
    counts = {
        table: (await any_store.query(f"SELECT COUNT(*) AS n FROM {table}"))[0].n
        for table in ("sessions", "compactions", "usage_rounds", "session_texts", "leases")
    }
    assert counts == {"sessions": 1, "compactions": 0, "usage_rounds": 1, "session_texts": 1, "leases": 0}
    await any_store.flush(index=True)
    assert len(await indexed(any_store)) == 1
    assert await found(any_store, "kept") == ["kept"]


async def test_a_clear_that_fails_changes_nothing(chat: AsyncSessionStore):
    """It is one transaction: the transcript is there as before."""
    before = await chat.sessions.export("s")
    async with failing(chat, "INSERT ON events", "NEW.kind = 'store.cleared'"):
        with pytest.raises(StoreError, match="broken"):
            await chat.messages.clear("s")
    assert await chat.sessions.export("s") == before
    assert await found(chat, "m5") == ["m5"]
