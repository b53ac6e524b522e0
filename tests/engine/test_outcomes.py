"""Odd ends of operations and questions: each is its own caller's, and nobody else's."""

from __future__ import annotations

import asyncio

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
