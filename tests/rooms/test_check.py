"""`store.check`: finds what is kept beside the rows and differs from them, and says nothing of what is sound."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recollect import AsyncSessionStore
from recollect.engine.operation import execute


async def _filled(store: AsyncSessionStore) -> None:
    await store.sessions.create("s")
    await store.sessions.create("child", parent_id="s")
    await store.messages.append("s", role="user", content="hello", usage={"prompt_tokens": 5, "actual_cost_usd": 0.1})
    await store.messages.append("s", role="assistant", tool_calls=[{"id": "1"}, {"id": "2"}])


async def test_a_sound_store_has_no_problems(any_store: AsyncSessionStore):
    """Every session is looked at, and progress told."""
    await _filled(any_store)
    seen: list[int] = []
    report = await any_store.check(progress=seen.append)
    assert report.is_sound
    assert report.sessions == seen[-1] == 2


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("message_count", 7), ("tool_call_count", 1), ("preview", "bye"), ("input_tokens", 4), ("output_tokens", 1),
        ("cache_read_tokens", 1), ("cache_write_tokens", 1), ("reasoning_tokens", 1), ("estimated_cost", 1),
        ("actual_cost", None), ("next_seq", 2), ("activity", 0),
    ],
)  # fmt: skip
async def test_a_counter_that_differs_from_its_rows_is_told(any_store: AsyncSessionStore, column: str, value: object):
    """By the name of the column and the session."""
    await _filled(any_store)
    await any_store.write(_set, column, value)
    (problem,) = (await any_store.check()).problems
    assert (problem.kind, problem.session_id) == ("counter", "s")
    assert problem.what.startswith(column)


def _set(column: str, value: object):
    yield execute(f"UPDATE sessions SET {column} = :value WHERE id = 's'", value=value)


_TOKENS = st.integers(0, 10_000)
_COST = st.none() | st.floats(0, 100, allow_nan=False) | st.integers(0, 50)
_CALL = st.one_of(
    st.tuples(
        st.just("record_round"),
        st.fixed_dictionaries(
            {"round_index": st.integers(0, 2), "prompt_tokens": _TOKENS},
            optional={"send_index": st.integers(0, 2), "estimated_cost_usd": _COST, "actual_cost_usd": _COST},
        ),
    ),
    st.tuples(
        st.just("add"),
        st.fixed_dictionaries(
            {"prompt_tokens": st.integers(-50, 50)},
            optional={"completion_tokens": st.integers(-9, 9), "estimated_cost_usd": st.floats(-5, 5), "model": st.just("m")},
        ),
    ),
    st.tuples(
        st.just("set"),
        st.fixed_dictionaries({}, optional={"prompt_tokens": _TOKENS, "total_tokens": _TOKENS, "estimated_cost_usd": _COST}),
    ),
    st.tuples(st.just("append"), st.fixed_dictionaries({"prompt_tokens": _TOKENS, "actual_cost_usd": _COST})),
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(st.lists(_CALL, max_size=12))
async def test_counters_always_equal_the_sums_of_the_ledger(memory: AsyncSessionStore, calls: list[tuple[str, dict]]):
    """After any sequence of rounds, corrections, totals and appends that carry usage."""
    session = await memory.sessions.create()
    for name, figures in calls:
        if name == "append":
            await memory.messages.append(session.id, role="assistant", content="x", usage=figures)
        else:
            await getattr(memory.usage, name)(session.id, **figures)
        if name == "set" and figures.get("prompt_tokens") is not None:
            after = await memory.sessions.get(session.id)
            assert after is not None
            assert after.input_tokens == figures["prompt_tokens"]
    report = await memory.check()
    assert report.is_sound, report
    rounds = await memory.usage.rounds(session.id)
    totals = await memory.usage.totals(session_id=session.id)
    assert sum(each.total_tokens for each in rounds) == sum(total.total_tokens for total in totals)
    after = await memory.sessions.get(session.id)
    assert after is not None
    assert after.input_tokens == sum(each.prompt_tokens for each in rounds)
