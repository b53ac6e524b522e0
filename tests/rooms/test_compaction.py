"""Compaction: messages put away under a note that stands where the first of them stood, and back."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import AsyncSessionStore, Durability, InvalidRecord, MessageState, SessionNotFound, TurnLost

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


async def said(store: AsyncSessionStore, **options: Any) -> list[str]:
    return [message.content for message in await store.messages.list("s", **options)]


async def found(store: AsyncSessionStore, query: str, **options: Any) -> list[str | None]:
    return sorted([hit.text async for hit in store.search(query, limit=None, with_text=True, **options)])


# -- what is put away ------------------------------------------------------------------------------

RANGES = [
    ({"from_seq": 3, "to_seq": 5}, m(3, 4, 5)), ({"to_seq": 4}, m(1, 2, 3, 4)), ({"from_seq": 9}, m(9, 10)),
    ({}, m(*range(1, 11))), ({"from_seq": 6, "to_seq": 6}, m(6)), ({"from_seq": 1, "to_seq": 10}, m(*range(1, 11))),
    ({"seqs": [2]}, m(2)), ({"seqs": [7, 3, 5, 3]}, m(3, 5, 7)), ({"seqs": range(1, 11)}, m(*range(1, 11))),
    ({"seqs": {10, 1}}, m(1, 10)),
]  # fmt: skip


@pytest.mark.parametrize(("which", "away"), RANGES, ids=str)
async def test_the_note_stands_where_the_first_of_them_stood(chat: AsyncSessionStore, which: Any, away: list[str]):
    """A range with both ends, or exact seqs in any order; nothing else moves, in whatever way it is read."""
    made = await chat.messages.compact("s", note="note", **which)
    whole = m(*range(1, 11))
    at = whole.index(away[0])
    expected = [each for each in whole[:at] if each not in away] + ["note"]
    expected += [each for each in whole[at:] if each not in away]
    assert await said(chat) == expected
    assert [message.content for message in await chat.messages.tail("s", 4)] == expected[-4:]
    assert [message.content async for message in chat.messages.stream("s")] == expected
    assert [turn["content"] for turn in await chat.messages.conversation("s")] == expected
    assert await chat.messages.count("s") == len(expected)
    assert (made.count, made.note_seq, made.seq) == (len(away), 11, 1)
    assert (made.from_seq, made.to_seq) == (int(away[0][1:]), int(away[-1][1:]))
    assert [each.content for each in await chat.messages.list("t")] == [f"t{n}" for n in range(1, 11)]


async def test_a_note_is_a_message_of_the_system_with_the_facts(chat: AsyncSessionStore):
    """Role, name, metadata, token count and place; what the caller says about it is kept beside."""
    await chat.sessions.set_round("s", 7)
    given = {"model": "m", "from_seq": "mine", "deep": {"list": [1, None]}}
    await chat.messages.compact(
        "s", from_seq=2, to_seq=4, note="so far", before_tokens=900, after_tokens=30, note_meta=given
    )
    note = await chat.messages.get("s", 11)
    assert (note.role, note.name, note.content, note.state) == ("system", "compact_note", "so far", MessageState.ACTIVE)
    assert (note.seq, note.position, note.token_count, note.compacted_by) == (11, 2, 30, None)
    assert note.metadata == {
        "model": "m", "deep": {"list": [1, None]}, "compacted_at_round": 7, "from_seq": 2, "to_seq": 4,
        "original_tokens": 900, "summary_tokens": 30,
    }  # fmt: skip
    assert note.send_index == 5
    assert await chat.messages.get(id=note.id) == note
    assert (await chat.messages.append("s", role="user", content="m12")).seq == 12


async def test_a_round_that_is_given_is_that_of_the_note(chat: AsyncSessionStore):
    """In the note, its metadata and the audit row; figures that are not given are None."""
    await chat.sessions.set_round("s", 7)
    made = await chat.messages.compact("s", to_seq=2, note="n", round_index=3)
    note = await chat.messages.get("s", made.note_seq)
    assert (note.round_index, note.metadata["compacted_at_round"], made.round_index) == (3, 3, 3)
    assert (note.metadata["original_tokens"], note.metadata["summary_tokens"], note.token_count) == (None, None, None)


async def test_a_structured_note_comes_back_and_is_found(chat: AsyncSessionStore):
    """A note's content is that of any message."""
    blocks = [{"type": "text", "text": "the quokka so far"}, {"n": 1}]
    made = await chat.messages.compact("s", to_seq=2, note=blocks)
    assert (await chat.messages.get("s", made.note_seq)).content == blocks
    assert await found(chat, "quokka") == ["the quokka so far"]


async def test_the_audit_rows_say_what_was_done(chat: AsyncSessionStore):
    """In order, numbered from 1; what compact returned is what is listed."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    first = await chat.messages.compact("s", seqs=[2, 5], note="a", before_tokens=50, after_tokens=5, round_index=4)
    second = await chat.messages.compact("s", from_seq=7, note="b")
    assert await chat.messages.compactions("s") == [first, second]
    assert (first.session_id, first.seq, first.note_seq, first.from_seq, first.to_seq) == ("s", 1, 11, 2, 5)
    assert (first.count, first.before_tokens, first.after_tokens, first.round_index) == (2, 50, 5, 4)
    assert (second.seq, second.note_seq, second.count, second.before_tokens) == (2, 12, 4, None)
    assert before <= first.created_at <= second.created_at <= datetime.now(UTC)
    assert first.undone_at is None
    assert (await chat.sessions.state("s")).last_compaction_seq == 2
    for unknown in ("t", "nobody"):
        assert await chat.messages.compactions(unknown) == []


async def test_what_was_put_away_says_by_which(chat: AsyncSessionStore):
    """state and compacted_by of each, its place and everything else unchanged."""
    was = {message.seq: message for message in await chat.messages.list("s")}
    await chat.messages.compact("s", seqs=[1, 9], note="a")
    await chat.messages.compact("s", seqs=[3], note="b")
    for seq, by in ((1, 1), (9, 1), (3, 2)):
        message = await chat.messages.get("s", seq)
        assert (message.state, message.compacted_by) == (MessageState.COMPACTED, by)
        same = {"id", "seq", "position", "role", "content", "created_at", "send_index"}
        assert {name: getattr(message, name) for name in same} == {name: getattr(was[seq], name) for name in same}


async def test_compacted_messages_are_found_and_listed_with_all(chat: AsyncSessionStore):
    """By searches, with their notes, and by list(state="all"), in the order of their places."""
    await chat.messages.append("s", role="user", content="the quokka sleeps")
    await chat.messages.compact("s", from_seq=3, note="it was a quokka")
    assert await found(chat, "quokka") == ["it was a quokka", "the quokka sleeps"]
    assert await found(chat, "quokka", role="user") == ["the quokka sleeps"]
    assert await said(chat) == ["m1", "m2", "it was a quokka"]
    everything = await said(chat, state="all")
    assert everything == ["m1", "m2", "m3", "it was a quokka", *m(*range(4, 11)), "the quokka sleeps"]
    assert [message.content async for message in chat.messages.stream("s", state="all")] == everything
    assert await said(chat, after_seq=9) == ["it was a quokka"]
    assert await said(chat, after_seq=9, state="all") == ["m10", "the quokka sleeps", "it was a quokka"]


async def test_notes_can_be_put_away(chat: AsyncSessionStore):
    """A range takes in the notes that stand in it; exact seqs name them; the new one stands at their place."""
    await chat.messages.compact("s", from_seq=2, to_seq=4, note="n1")
    await chat.messages.compact("s", from_seq=6, to_seq=7, note="n2")
    assert await said(chat) == ["m1", "n1", "m5", "n2", *m(8, 9, 10)]
    made = await chat.messages.compact("s", seqs=[12, 9], note="n3")
    assert await said(chat) == ["m1", "n1", "m5", "n3", *m(8, 10)]
    assert (made.from_seq, made.to_seq, made.count) == (6, 9, 2)
    made = await chat.messages.compact("s", from_seq=2, to_seq=8, note="n4")
    assert await said(chat) == ["m1", "n4", *m(10)]
    assert (made.from_seq, made.to_seq, made.count) == (2, 8, 4)
    assert (await chat.messages.get("s", made.note_seq)).position == 2
    await chat.messages.compact("s", note="all")
    assert await said(chat) == ["all"]


async def test_a_bound_may_be_a_message_that_was_put_away(chat: AsyncSessionStore):
    """Its place counts, whatever became of it: what stands there now is taken in."""
    await chat.messages.compact("s", from_seq=3, to_seq=5, note="n1")
    with pytest.raises(InvalidRecord):
        await chat.messages.compact("s", from_seq=4, to_seq=5, note="nothing stands there")
    await chat.messages.compact("s", from_seq=3, to_seq=6, note="n2")
    assert await said(chat) == ["m1", "m2", "n2", *m(7, 8, 9, 10)]
    await chat.messages.compact("s", from_seq=4, to_seq=8, note="n3")
    assert await said(chat) == ["m1", "m2", "n2", "n3", *m(9, 10)]


# -- the session -----------------------------------------------------------------------------------


async def test_counters_and_preview_follow(store: AsyncSessionStore):
    """The note counts as one, what is put away does not; the preview is of the first user who is left."""
    await store.sessions.create("s", created_at=AT)
    await store.messages.append("s", role="user", content="first words", created_at=AT)
    calls = [{"id": "a"}, {"id": "b"}]
    await store.messages.append("s", role="assistant", tool_calls=calls, created_at=AT)
    await store.messages.append("s", role="assistant", tool_calls={"id": "c"}, created_at=AT)
    await store.messages.append("s", role="user", content="later words", created_at=AT)

    async def counters() -> tuple[Any, ...]:
        session = await store.sessions.get("s")
        return session.message_count, session.tool_call_count, session.preview

    assert await counters() == (4, 3, "first words")
    await store.messages.compact("s", to_seq=2, note="user: not a user")
    assert await counters() == (3, 1, "later words")
    await store.messages.compact("s", from_seq=4, note="n")
    assert await counters() == (3, 1, None)
    await store.messages.uncompact("s", 1)
    assert await counters() == (4, 3, "first words")
    session = await store.sessions.get("s")
    assert session.last_active_at > AT, "a note is a message"
    assert session.updated_at > AT
    assert (await store.sessions.state("s")).send_index == 2


async def test_a_compaction_is_recorded_as_it_happens(store: AsyncSessionStore):
    """As events of the session, with the number of the compaction; a refused one is not."""
    await store.sessions.create("s")
    await store.messages.append("s", role="user", content="x")
    await store.messages.compact("s", note="n")
    await store.messages.uncompact("s", 1)
    with pytest.raises(InvalidRecord):
        await store.messages.uncompact("s", 1)
    rows = await store.query("SELECT kind, name FROM events WHERE session_id = 's' ORDER BY id")
    assert [tuple(row) for row in rows][1:] == [("store.compacted", "1"), ("store.uncompacted", "1")]


# -- refused ---------------------------------------------------------------------------------------

REFUSED = [
    {"seqs": []}, {"from_seq": 5, "to_seq": 2}, {"from_seq": 5, "to_seq": 12}, {"from_seq": 12}, {"to_seq": 12},
    {"to_seq": 0}, {"from_seq": 0}, {"from_seq": -1}, {"from_seq": 2**63 - 1}, {"from_seq": 2**63},
    {"seqs": [1, 12]}, {"seqs": [0]}, {"seqs": [-1]}, {"seqs": [2**70]}, {"seqs": [8]}, {"seqs": [3, 8]},
    {"from_seq": 8, "to_seq": 8}, {"seqs": [1], "from_seq": 1}, {"seqs": [1], "to_seq": 1},
    {"seqs": [], "from_seq": 1, "to_seq": 2}, {"seqs": ["1"]}, {"seqs": "12"}, {"seqs": [True]}, {"seqs": [1.0]},
    {"from_seq": "1"}, {"to_seq": 2.0}, {"from_seq": True}, {"before_tokens": -1}, {"after_tokens": "3"},
    {"round_index": "1"}, {"note_meta": [1]}, {"note_meta": {1: 2}}, {"note": b"x"}, {"note": 5}, {"fence": "x"},
]  # fmt: skip


@pytest.mark.parametrize("arguments", REFUSED, ids=str)
async def test_what_cannot_be_put_away_is_refused_and_changes_nothing(chat: AsyncSessionStore, arguments: Any):
    """Empty, inverted, beyond the tail, not in the transcript, both ways at once: InvalidRecord."""
    await chat.messages.compact("s", seqs=[7, 8], note="n")  # nothing stands at 8 now
    await chat.messages.rewind("s", 9)
    await chat.messages.restore("s")
    before = await chat.sessions.export("s")
    with pytest.raises(InvalidRecord):
        await chat.messages.compact("s", **{"note": "x", **arguments})
    assert await chat.sessions.export("s") == before


async def test_seqs_must_be_several(chat: AsyncSessionStore):
    """One number is not a list of them: InvalidRecord."""
    with pytest.raises(InvalidRecord):
        await chat.messages.compact("s", note="x", seqs=5)


async def test_what_was_taken_back_cannot_be_put_away(chat: AsyncSessionStore):
    """Named, it is refused; in a range, it is left where it is."""
    await chat.messages.rewind("s", 5)
    with pytest.raises(InvalidRecord, match="7"):
        await chat.messages.compact("s", seqs=[5, 7], note="x")
    await chat.messages.compact("s", from_seq=4, to_seq=8, note="n")
    assert await said(chat) == [*m(1, 2, 3), "n"]
    await chat.messages.restore("s")
    assert await said(chat) == [*m(1, 2, 3), "n", *m(6, 7, 8, 9, 10)]


async def test_the_session_must_exist(chat: AsyncSessionStore):
    """SessionNotFound, for compacting and for undoing it; an empty session has nothing to put away."""
    with pytest.raises(SessionNotFound, match="nobody"):
        await chat.messages.compact("nobody", note="x")
    with pytest.raises(SessionNotFound, match="nobody"):
        await chat.messages.uncompact("nobody", 1)
    await chat.sessions.create("empty")
    with pytest.raises(InvalidRecord):
        await chat.messages.compact("empty", note="x")
    with pytest.raises(InvalidRecord):
        await chat.messages.compact("empty", note="x", from_seq=1)


async def test_a_superseded_holder_compacts_nothing(chat: AsyncSessionStore):
    """A stale fence is TurnLost, the turn's own is not."""
    async with chat.sessions.turn("s", holder="w") as turn:
        made = await chat.messages.compact("s", to_seq=2, note="n", fence=turn.fence)
        await chat.messages.uncompact("s", made.seq, fence=turn.fence)
    for call in (
        chat.messages.compact("s", to_seq=2, note="n", fence=turn.fence),
        chat.messages.uncompact("s", 1, fence=turn.fence),
    ):
        with pytest.raises(TurnLost):
            await call
    assert await said(chat) == m(*range(1, 11))


async def test_of_two_at_once_the_second_sees_the_first(chat: AsyncSessionStore):
    """Compactions called together come one after the other: the later one puts the earlier note away."""
    made = await asyncio.gather(*(chat.messages.compact("s", from_seq=1, to_seq=4 + n, note=f"n{n}") for n in range(5)))
    assert [each.seq for each in made] == [1, 2, 3, 4, 5]
    assert [each.count for each in made] == [4, 2, 2, 2, 2]
    assert await said(chat) == ["n4", *m(9, 10)]


async def test_many_exact_seqs_are_one_compaction(store: AsyncSessionStore):
    """Every second of 5,000: more than a statement has parameters."""
    await store.sessions.create("s")
    await store.messages.append_many("s", [{"role": "user", "content": str(n)} for n in range(1, 5_001)])
    made = await store.messages.compact("s", seqs=range(1, 5_001, 2), note="odd")
    assert made.count == 2_500
    assert await said(store) == ["odd", *map(str, range(2, 5_001, 2))]
    await store.messages.uncompact("s", 1)
    assert await said(store) == [*map(str, range(1, 5_001))]


# -- undone ----------------------------------------------------------------------------------------


async def test_uncompact_puts_back_what_was_put_away(chat: AsyncSessionStore):
    """To where it stood; the note is put away and still found; the audit row says when."""
    before = await chat.messages.list("s")
    await chat.messages.compact("s", seqs=[2, 5, 6], note="a quokka")
    await chat.messages.append("s", role="user", content="m12")
    undone = await chat.messages.uncompact("s", 1)
    assert (await chat.messages.list("s", limit=10)).items == before.items
    assert await said(chat) == [*m(*range(1, 11)), "m12"]
    assert undone.created_at <= undone.undone_at <= datetime.now(UTC)
    note = await chat.messages.get("s", 11)
    assert (note.state, note.compacted_by) == (MessageState.COMPACTED, None)
    assert await found(chat, "quokka") == ["a quokka"]


async def test_compactions_tells_those_in_effect_or_all(chat: AsyncSessionStore):
    """`undone` adds those that were undone, in order, with the time."""
    for n in range(1, 4):
        await chat.messages.compact("s", seqs=[n], note=f"n{n}")
    await chat.messages.uncompact("s", 2)
    assert [each.seq for each in await chat.messages.compactions("s")] == [1, 3]
    everyone = await chat.messages.compactions("s", undone=True)
    assert [(each.seq, each.undone_at is None) for each in everyone] == [(1, True), (2, False), (3, True)]


async def test_a_nested_compaction_is_undone_from_the_outside(chat: AsyncSessionStore):
    """The inner one is refused while its note is put away, and says by which."""
    await chat.messages.compact("s", from_seq=2, to_seq=3, note="inner")
    await chat.messages.compact("s", from_seq=1, to_seq=5, note="middle")
    await chat.messages.compact("s", from_seq=1, to_seq=9, note="outer")
    for seq, by in ((1, 2), (2, 3)):
        with pytest.raises(InvalidRecord, match=f"put away by {by}"):
            await chat.messages.uncompact("s", seq)
    assert await said(chat) == ["outer", "m10"]
    await chat.messages.uncompact("s", 3)
    assert await said(chat) == ["middle", *m(6, 7, 8, 9, 10)]
    await chat.messages.uncompact("s", 2)
    assert await said(chat) == ["m1", "inner", *m(4, 5, 6, 7, 8, 9, 10)]
    await chat.messages.uncompact("s", 1)
    assert await said(chat) == m(*range(1, 11))


async def test_what_was_undone_may_be_put_away_again(chat: AsyncSessionStore):
    """As a compaction of its own, with the next number."""
    for n in range(1, 4):
        made = await chat.messages.compact("s", from_seq=3, to_seq=6, note=f"n{n}")
        assert (made.seq, made.note_seq) == (n, 10 + n)
        assert await said(chat) == [*m(1, 2), f"n{n}", *m(7, 8, 9, 10)]
        await chat.messages.uncompact("s", n)
        assert await said(chat) == m(*range(1, 11))


@pytest.mark.parametrize("seq", [0, -1, 2, 99, 2**63 - 1, 2**63, "1", True, None, 1.0])
async def test_only_a_compaction_that_there_is_can_be_undone(chat: AsyncSessionStore, seq: Any):
    """An unknown number is InvalidRecord and changes nothing."""
    await chat.messages.compact("s", seqs=[2, 5], note="n")
    before = await chat.sessions.export("s")
    with pytest.raises(InvalidRecord):
        await chat.messages.uncompact("s", seq)
    assert await chat.sessions.export("s") == before


async def test_nothing_is_undone_twice(chat: AsyncSessionStore):
    """The second time is InvalidRecord and changes nothing."""
    await chat.messages.compact("s", seqs=[2, 5], note="n")
    await chat.messages.uncompact("s", 1)
    before = await chat.sessions.export("s")
    with pytest.raises(InvalidRecord, match="no compaction 1"):
        await chat.messages.uncompact("s", 1)
    assert await chat.sessions.export("s") == before


async def test_a_note_that_was_taken_back_is_restored_before_it_is_undone(chat: AsyncSessionStore):
    """Rewound, the note is not in the transcript: refused. Restored, it is undone."""
    await chat.messages.compact("s", from_seq=4, to_seq=6, note="n")
    await chat.messages.rewind("s", 3)
    with pytest.raises(InvalidRecord, match="not in the transcript"):
        await chat.messages.uncompact("s", 1)
    assert await said(chat) == m(1, 2, 3)
    await chat.messages.restore("s")
    await chat.messages.uncompact("s", 1)
    assert await said(chat) == m(*range(1, 11))


async def test_a_note_that_was_replaced_is_not_undone(chat: AsyncSessionStore):
    """What was put away for good with the rewritten transcript stays so; the compaction is not in effect."""
    await chat.messages.compact("s", from_seq=4, to_seq=6, note="n")
    await chat.messages.replace("s", [{"role": "user", "content": "anew"}])
    with pytest.raises(InvalidRecord, match="no compaction 1"):
        await chat.messages.uncompact("s", 1)
    assert await chat.messages.compactions("s") == []
    assert [each.undone_at is not None for each in await chat.messages.compactions("s", undone=True)] == [True]
    assert await said(chat) == ["anew"]


# -- the property ----------------------------------------------------------------------------------

NUMBER = st.integers(0, 11)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("range"), NUMBER | st.none(), NUMBER | st.none()),
        st.tuples(st.just("set"), st.frozensets(NUMBER, min_size=1, max_size=6)),
        st.tuples(st.just("uncompact"), st.integers(1, 8)),
        st.tuples(st.just("reopen")),
    ),
    max_size=25,
)


class Transcript:
    """The same as a plain list: texts in order, a note in place of the first of what it puts away."""

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.text: dict[int, str] = {}
        self.away: dict[int, list[int]] = {}
        """what stood in the transcript when a compaction was made, and is under its note"""
        self.note: dict[int, int] = {}
        self.place: dict[int, int] = {}

    def append(self, text: str) -> None:
        seq = len(self.text) + 1
        self.text[seq] = text
        self.place[seq] = seq
        self.shown.append(seq)

    def compact(self, seqs: list[int]) -> None:
        note = len(self.text) + 1
        number = len(self.note) + 1
        self.text[note] = f"note {number}"
        self.place[note] = self.place[seqs[0]]
        self.shown.insert(self.shown.index(seqs[0]), note)
        self.shown = [seq for seq in self.shown if seq not in seqs]
        self.away[number], self.note[number] = seqs, note

    def uncompact(self, number: int) -> bool:
        if number not in self.away or self.note[number] not in self.shown:
            return False
        self.shown.remove(self.note[number])
        for seq in self.away.pop(number):  # each behind the last of those that began before it
            before = [each for each in self.shown if self.place[each] < self.place[seq]]
            self.shown.insert(len(before), seq)
        return True


@given(steps=STEPS)
@settings(derandomize=True, deadline=None, max_examples=30)
def test_any_sequence_of_compactions_reads_as_a_list_would(steps: list[tuple[Any, ...]]):
    """Ranges and exact sets, nested and interleaved, undone in any order, the store closed in between: order
    and content as in the plain list, after every step."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_reads_as_a_list(Path(folder) / "store.db", steps))


async def _reads_as_a_list(path: Path, steps: list[tuple[Any, ...]]) -> None:
    store = await AsyncSessionStore(path, durability=Durability.PROCESS).open()
    try:
        await store.sessions.create("s")
        plain = Transcript()
        for step in steps:
            if step[0] == "reopen":
                await store.aclose()
                store = await AsyncSessionStore(path, durability=Durability.PROCESS).open()
            else:
                await _step(store, plain, *step)
            expected = [(seq, plain.text[seq]) for seq in plain.shown]
            assert [(each.seq, each.content) for each in await store.messages.list("s")] == expected
            assert [turn["content"] for turn in await store.messages.conversation("s")] == [c for _, c in expected]
            assert (await store.sessions.get("s")).message_count == len(expected)
            everything = {each.seq: each.content for each in await store.messages.list("s", state="all")}
            assert everything == plain.text
    finally:
        await store.aclose()


async def _step(store: AsyncSessionStore, plain: Transcript, how: str, *args: Any) -> None:
    if how == "append":
        texts = [f"text {len(plain.text) + n}" for n in range(args[0])]
        await store.messages.append_many("s", [{"role": "user", "content": text} for text in texts])
        for text in texts:
            plain.append(text)
    elif how == "uncompact":
        if plain.uncompact(args[0]):
            await store.messages.uncompact("s", args[0])
        else:
            with pytest.raises(InvalidRecord):
                await store.messages.uncompact("s", args[0])
    elif how == "set":
        seqs = [seq for at, seq in enumerate(plain.shown) if at in args[0]]
        await _compact(store, plain, seqs, {"seqs": seqs})
    else:
        first, last = (None if each is None else min(each + 1, max(1, len(plain.text))) for each in args)
        least = 0 if first is None else plain.place.get(first, 0)
        most = 10**9 if last is None else plain.place.get(last, 0)
        seqs = [seq for seq in plain.shown if least <= plain.place[seq] <= most]
        await _compact(store, plain, seqs, {"from_seq": first, "to_seq": last})


async def _compact(store: AsyncSessionStore, plain: Transcript, seqs: list[int], which: dict[str, Any]) -> None:
    if not seqs:
        with pytest.raises(InvalidRecord):
            await store.messages.compact("s", note="nothing", **which)
        return
    made = await store.messages.compact("s", note=f"note {len(plain.note) + 1}", **which)
    plain.compact(seqs)
    assert (made.seq, made.note_seq, made.count) == (len(plain.note), len(plain.text), len(seqs))
