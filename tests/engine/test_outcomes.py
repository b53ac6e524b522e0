"""Odd ends of operations and questions: each is its own caller's, and nobody else's."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from recollect import AsyncSessionStore, InvalidRecord


def ends_oddly():
    """No generator at all, and it raises what would end one."""
    return next(iter([]))


async def test_an_operation_that_raises_stop_iteration_fails_alone(store: AsyncSessionStore):
    """As a RuntimeError, in a write and in a read; the writes of its batch are stored, and later ones too."""
    await store.sessions.create("s")
    outcomes = await asyncio.gather(
        store.write(ends_oddly),
        *[store.messages.append("s", role="user", content=str(n)) for n in range(5)],
        store.read(ends_oddly),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], RuntimeError)
    assert isinstance(outcomes[-1], RuntimeError)
    assert [ref.seq for ref in outcomes[1:-1]] == [1, 2, 3, 4, 5]
    assert (await store.messages.append("s", role="user", content="after")).seq == 6


async def test_no_question_condemns_the_index(store: AsyncSessionStore):
    """However it is nested: what is too much for the engine is not damage."""
    await store.sessions.create("s", user_id="u")
    await store.messages.append("s", role="user", content="x y z")
    await store.flush(index=True)
    nested = "x"
    for _ in range(16):
        nested = f"y OR z ({nested})"
    for query in (nested, f"-({nested}) x", "(" * 50 + "x" + ")" * 50, "(x OR " * 30 + "y" + ")" * 30):
        assert [hit.seq async for hit in store.search(query, user_id="u")] in ([1], [])
        assert (await store.stats()).index_state == "ready"
    assert store._keeper is not None
    assert store._keeper.rebuilds == 0


async def test_json_that_could_not_be_read_again_is_refused(memory: AsyncSessionStore):
    """Nested more than 200 deep, in whatever field; what looks deep in a text is not."""
    deep = 1
    for _ in range(300):
        deep = [deep]
    await memory.sessions.create("s")
    for fields in ({"content": [deep]}, {"tool_calls": [deep]}, {"metadata": {"a": deep}}, {"pending": {"a": deep}}):
        with pytest.raises(InvalidRecord, match="200 deep"):
            await memory.messages.append("s", role="user", **fields)
    await memory.messages.append("s", role="user", content=["[{" * 500, {'"[' * 300: '\\"{{{' * 300}])
    assert len(await memory.messages.list("s")) == 1


async def test_counts_whose_sums_would_not_fit_are_refused(memory: AsyncSessionStore):
    """At the call, so that no ledger is poisoned."""
    await memory.sessions.create("s")
    for fields in ({"prompt_tokens": 2**63 - 1}, {"prompt_tokens": 2**53 + 1}, {"send_index": 2**63 - 1}):
        with pytest.raises(InvalidRecord):
            await memory.usage.record_round("s", round_index=1, **fields)
    with pytest.raises(InvalidRecord):
        await memory.messages.append("s", role="user", send_index=2**63 - 1)
    assert (await memory.messages.append("s", role="user")).seq == 1


async def test_a_cost_that_is_taken_back_is_unknown_again(memory: AsyncSessionStore):
    """Not zero: the counters are the sums of the ledger, also where there is nothing to sum."""
    await memory.sessions.create("s")
    await memory.usage.record_round("s", round_index=1, actual_cost_usd=0.5, estimated_cost_usd=0.25)
    await memory.usage.record_round("s", round_index=1, estimated_cost_usd=0.125)
    session = await memory.sessions.get("s")
    assert session is not None
    assert (session.actual_cost_usd, session.estimated_cost_usd) == (None, 0.125)


async def test_a_letter_under_a_heap_of_marks_is_found_and_stalls_nobody(memory: AsyncSessionStore):
    """65,000 marks on one letter: the work grows with the text, not with its square."""
    await memory.sessions.create("s")
    heap = "a" + "\u0301\u0316" * 32_000
    await memory.messages.append("s", role="user", content=f"before {heap} after \u05d0" + "\u05b0\u05c1" * 32_000)
    async with asyncio.timeout(5):  # it took twelve seconds
        assert [hit.seq async for hit in memory.search("before a after")] == [1]
        assert [hit.seq async for hit in memory.search(heap)] == [1]


async def test_what_is_pending_is_cleared_by_none_and_an_empty_object_alone(memory: AsyncSessionStore):
    """Other values are kept as given, false ones too."""
    await memory.sessions.create("s")
    for given, kept in ((0, "0"), (False, "false"), ([], "[]"), ({}, None), ({"a": 1}, '{"a":1}'), (None, None)):
        await memory.messages.append("s", role="assistant", pending=given)
        assert [row.pending for row in await memory.query("SELECT pending FROM sessions")] == [kept]


async def test_a_day_before_1970_has_its_name(memory: AsyncSessionStore):
    """Totals by day, on either side of the epoch."""
    await memory.sessions.create("s")
    for n, when in enumerate(("1969-12-31T23:00:00+00:00", "1970-01-01T01:00:00+00:00")):
        await memory.usage.record_round("s", round_index=n, prompt_tokens=1, created_at=datetime.fromisoformat(when))
    assert {total.group for total in await memory.usage.totals(by="day")} == {"1969-12-31", "1970-01-01"}
