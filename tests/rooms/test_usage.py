"""Usage: a ledger, whose sums are the session's counters, whatever is recorded, in whatever order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import AsyncSessionStore, InvalidQuery, InvalidRecord, NewUsage, SessionNotFound

AT = datetime(2030, 3, 1, 23, 59, tzinfo=UTC)
ROUND = {
    "prompt_tokens": 100, "completion_tokens": 20, "cache_read_tokens": 60, "cache_write_tokens": 5,
    "reasoning_tokens": 7, "estimated_cost_usd": 0.1, "actual_cost_usd": 0.25,
}  # fmt: skip
COUNTERS = {
    "input_tokens": "prompt_tokens", "output_tokens": "completion_tokens", "cache_read_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens", "reasoning_tokens": "reasoning_tokens",
    "estimated_cost_usd": "estimated_cost_usd", "actual_cost_usd": "actual_cost_usd",
}  # fmt: skip


@pytest.fixture
async def chat(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """A store with the session `s`."""
    await any_store.sessions.create("s", source="cli", user_id="u1")
    return any_store


async def test_a_round_is_a_row_and_counts(chat: AsyncSessionStore):
    """Everything given is in the ledger; the counters are its sums; the total is prompt and completion."""
    await chat.usage.record_round("s", round_index=1, model="m", source="api", created_at=AT, **ROUND)
    [row] = await chat.usage.rounds("s")
    assert {name: getattr(row, name) for name in ROUND} == ROUND
    assert (row.session_id, row.send_index, row.round_index, row.model, row.source) == ("s", 0, 1, "m", "api")
    assert (row.total_tokens, row.created_at) == (120, AT)
    session = await chat.sessions.get("s")
    assert {name: getattr(session, name) for name in COUNTERS} == {n: ROUND[c] for n, c in COUNTERS.items()}


async def test_a_round_recorded_again_replaces_itself(chat: AsyncSessionStore):
    """Its own row is replaced and the difference applied: more, less, or nothing."""
    for prompt in (100, 150, 30, 30):
        await chat.usage.record_round("s", round_index=0, prompt_tokens=prompt, estimated_cost_usd=prompt / 1000)
        assert [row.prompt_tokens for row in await chat.usage.rounds("s")] == [prompt]
        session = await chat.sessions.get("s")
        assert (session.input_tokens, session.estimated_cost_usd) == (prompt, prompt / 1000)


async def test_a_round_of_another_send_is_another_row(chat: AsyncSessionStore):
    """round_index begins anew with each send; left out, the send is the current one."""
    for prompt in (1, 10):
        await chat.messages.append("s", role="user")
        await chat.usage.record_round("s", round_index=0, prompt_tokens=prompt)
    await chat.usage.record_round("s", round_index=0, send_index=1, prompt_tokens=2)
    rows = await chat.usage.rounds("s")
    assert sorted((row.send_index, row.round_index, row.prompt_tokens) for row in rows) == [(1, 0, 2), (2, 0, 10)]
    assert (await chat.sessions.get("s")).input_tokens == 12


async def test_usage_commits_with_its_message(chat: AsyncSessionStore):
    """append(usage=) records the round of the message, as a mapping or a record; a refused append records nothing."""
    await chat.messages.append("s", role="user")
    await chat.messages.append("s", role="assistant", round_index=0, usage={"prompt_tokens": 5})
    await chat.messages.append("s", role="assistant", usage=NewUsage(round_index=1, prompt_tokens=7))
    with pytest.raises(SessionNotFound):
        await chat.messages.append("nobody", role="assistant", usage={"prompt_tokens": 100})
    rows = await chat.usage.rounds("s")
    assert [(row.send_index, row.round_index, row.prompt_tokens) for row in rows] == [(1, 0, 5), (1, 1, 7)]
    assert (await chat.sessions.get("s")).input_tokens == 12


async def test_usage_belongs_to_the_send_of_its_message_also_in_one_call(chat: AsyncSessionStore):
    """A call that appends two sends records the usage of each with its own."""
    await chat.messages.append_many(
        "s",
        [
            {"role": "user"}, {"role": "assistant", "round_index": 0, "usage": {"prompt_tokens": 5}},
            {"role": "user"}, {"role": "assistant", "round_index": 0, "usage": {"prompt_tokens": 7}},
        ],
    )  # fmt: skip
    rows = await chat.usage.rounds("s")
    assert [(row.send_index, row.prompt_tokens) for row in rows] == [(1, 5), (2, 7)]


async def test_usage_belongs_to_the_send_of_its_message_also_in_one_batch(chat: AsyncSessionStore, hold):
    """What is appended behind it in the same batch does not move it to a later send."""
    async with hold(chat):
        receipts = [
            chat.messages.append_nowait("s", role=role, **fields)
            for role, fields in (
                ("user", {}), ("assistant", {"round_index": 0, "usage": {"prompt_tokens": 5}}),
                ("user", {}), ("assistant", {"round_index": 0, "usage": {"prompt_tokens": 7}}), ("user", {}),
            )
        ]  # fmt: skip
    for receipt in receipts:
        await receipt
    rows = await chat.usage.rounds("s")
    assert [(row.send_index, row.prompt_tokens) for row in rows] == [(1, 5), (2, 7)]
    assert (await chat.sessions.get("s")).input_tokens == 12


async def test_usage_without_a_round_is_a_row_of_its_own(chat: AsyncSessionStore, hold):
    """Neither the message nor the usage names a round: nothing is replaced, neither by it nor of it, also in
    one batch; the row has the send of its message and no round."""
    async with hold(chat):
        receipts = [chat.messages.append_nowait("s", role="user")]
        for usage in ({"prompt_tokens": 1}, {"prompt_tokens": 10}, {"round_index": 0, "prompt_tokens": 100}):
            receipts.append(chat.messages.append_nowait("s", role="assistant", usage=usage))
    for receipt in receipts:
        await receipt
    await chat.messages.append("s", role="assistant", usage={"prompt_tokens": 1000, "send_index": 7})
    await chat.usage.record_round("s", round_index=0, prompt_tokens=200)
    rows = await chat.usage.rounds("s")
    assert [(row.send_index, row.round_index, row.prompt_tokens) for row in rows] == [
        (1, None, 1), (1, None, 10), (7, None, 1000), (1, 0, 200),
    ]  # fmt: skip
    assert (await chat.sessions.get("s")).input_tokens == 1211


STEADY = ({"model": "m1"}, {"model": "m2", "cost_status": "first", "estimated_cost_usd": 0.5}, {"prompt_tokens": 3})


async def test_rows_of_one_round_in_one_batch_are_as_if_written_one_after_the_other(chat: AsyncSessionStore, hold):
    """The last one's figures; the model that was given first, the status that was given last, by any of them."""
    await chat.sessions.create("t")
    for each in STEADY:
        await chat.usage.record_round("t", round_index=0, **each)
    async with hold(chat):
        receipts = [
            chat.messages.append_nowait("s", role="assistant", round_index=0, usage=dict(each)) for each in STEADY
        ]
    for receipt in receipts:
        await receipt
    [row] = await chat.usage.rounds("s")
    assert (row.model, row.prompt_tokens, row.estimated_cost_usd) == (None, 3, None)
    one, other = await chat.sessions.get("s"), await chat.sessions.get("t")
    assert (one.model, one.cost_status, one.input_tokens) == ("m1", "first", 3)
    for name in (*COUNTERS, "model", "cost_status"):
        assert getattr(one, name) == getattr(other, name), name


async def test_many_sends_and_sessions_replace_their_own_rounds(chat: AsyncSessionStore):
    """More keys than are looked for at once, every combination of them different: each row replaces its own."""
    names = [f"s{n}" for n in range(20)]
    for name in names:
        await chat.sessions.create(name)
    for tokens in (1, 2):
        await asyncio.gather(*(
            chat.messages.append_many(
                name,
                [
                    {"role": "assistant", "usage": {"send_index": n + m, "round_index": 2 * n + m, "prompt_tokens": tokens}}
                    for m in range(12)
                ],
            )
            for n, name in enumerate(names)
        ))  # fmt: skip
    for n, name in enumerate(names):
        rows = await chat.usage.rounds(name)
        found = sorted((row.send_index, row.round_index, row.prompt_tokens) for row in rows)
        assert found == [(n + m, 2 * n + m, 2) for m in range(12)]
        assert (await chat.sessions.get(name)).input_tokens == 24


async def test_the_first_model_and_billing_stay_and_the_last_status_wins(chat: AsyncSessionStore):
    """None keeps what is there, in both."""
    first = {"model": "m1", "billing_provider": "p1", "billing_base_url": "b1", "billing_mode": "o1"}
    status = {"cost_status": "estimated", "cost_source": "table", "pricing_version": "v1"}
    await chat.usage.record_round("s", round_index=0)
    await chat.usage.record_round("s", round_index=1, **first, **status)
    await chat.usage.record_round("s", round_index=2, **dict.fromkeys(first, "other"), cost_status="actual")
    await chat.usage.record_round("s", round_index=3)
    session = await chat.sessions.get("s")
    assert {name: getattr(session, name) for name in first} == first
    assert {name: getattr(session, name) for name in status} == {**status, "cost_status": "actual"}
    assert [row.model for row in await chat.usage.rounds("s")] == [None, "m1", "other", None]


async def test_costs_add_up_exactly(chat: AsyncSessionStore):
    """Ten times 0.1 is 1; a cost nobody gave is None, not zero."""
    for n in range(10):
        await chat.usage.record_round("s", round_index=n, estimated_cost_usd=0.1)
    session = await chat.sessions.get("s")
    assert (session.estimated_cost_usd, session.actual_cost_usd) == (1.0, None)
    assert (await chat.usage.totals())[0].estimated_cost_usd == 1.0


async def test_updated_at_is_not_moved_by_usage(chat: AsyncSessionStore):
    """Nor is the activity: usage is bookkeeping."""
    before = await chat.sessions.get("s")
    await chat.usage.record_round("s", round_index=0, prompt_tokens=1)
    after = await chat.sessions.get("s")
    assert (after.updated_at, after.last_active_at) == (before.updated_at, before.last_active_at)


async def test_an_unknown_session_has_no_ledger(chat: AsyncSessionStore):
    """Writing to it is SessionNotFound, reading finds nothing."""
    with pytest.raises(SessionNotFound):
        await chat.usage.record_round("nobody", round_index=0)
    assert await chat.usage.rounds("nobody") == []


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt_tokens": -1}, {"prompt_tokens": 1.5}, {"prompt_tokens": "1"}, {"prompt_tokens": None},
        {"total_tokens": -1}, {"estimated_cost_usd": "1"}, {"estimated_cost_usd": float("nan")},
        {"actual_cost_usd": float("inf")}, {"completion_tokens": 2**63}, {"created_at": datetime(2030, 1, 1)},
        {"send_index": -1}, {"model": 5}, {"actual_cost_usd": True}, {"round_index": "0"},
    ],
)  # fmt: skip
async def test_figures_that_cannot_be_are_refused(chat: AsyncSessionStore, bad: dict[str, Any]):
    """InvalidRecord, by record_round and by append, and nothing is recorded."""
    with pytest.raises(InvalidRecord):
        await chat.usage.record_round("s", **{"round_index": 0, **bad})
    with pytest.raises(InvalidRecord):
        await chat.messages.append("s", role="assistant", usage=bad)
    assert await chat.usage.rounds("s") == []
    assert await chat.messages.count("s") == 0


# -- totals ----------------------------------------------------------------------------------------


@pytest.fixture
async def ledger(chat: AsyncSessionStore) -> AsyncSessionStore:
    """Two sessions, two models, two days."""
    await chat.sessions.create("t", source="web", user_id="u2")
    day1, day2 = datetime(2030, 3, 1, 23, 59, 59, tzinfo=UTC), datetime(2030, 3, 2, tzinfo=UTC)
    for session, index, prompt, model, at in (
        ("s", 0, 1, "m1", day1), ("s", 1, 10, "m2", day2), ("t", 0, 100, "m1", day2), ("t", 1, 1000, None, day1),
    ):  # fmt: skip
        await chat.usage.record_round(
            session, round_index=index, prompt_tokens=prompt, completion_tokens=1, model=model, created_at=at,
            actual_cost_usd=0.5,
        )  # fmt: skip
    return chat


TOTALS = [
    ({}, [("t", 2, 1100), ("s", 2, 11)]),
    ({"by": "model"}, [(None, 1, 1000), ("m1", 2, 101), ("m2", 1, 10)]),
    ({"by": "source"}, [("web", 2, 1100), ("cli", 2, 11)]),
    ({"by": "day"}, [("2030-03-01", 2, 1001), ("2030-03-02", 2, 110)]),
    ({"session_id": "s"}, [("s", 2, 11)]),
    ({"source": ["web"]}, [("t", 2, 1100)]),
    ({"user_id": "u2", "by": "model"}, [(None, 1, 1000), ("m1", 1, 100)]),
    ({"model": "m1"}, [("t", 1, 100), ("s", 1, 1)]),
    ({"model": []}, []),
    ({"since": datetime(2030, 3, 2, tzinfo=UTC)}, [("t", 1, 100), ("s", 1, 10)]),
    ({"until": datetime(2030, 3, 2, tzinfo=UTC), "by": "day"}, [("2030-03-01", 2, 1001)]),
    ({"session_id": "nobody"}, []),
]


@pytest.mark.parametrize(("arguments", "expected"), TOTALS)
async def test_totals_add_up_by_what_is_asked(ledger: AsyncSessionStore, arguments: dict[str, Any], expected: list):
    """By session, model, source or day (UTC), within the filters, the largest prompt first."""
    totals = await ledger.usage.totals(**arguments)
    assert [(total.group, total.rounds, total.prompt_tokens) for total in totals] == expected
    assert [(t.completion_tokens, t.actual_cost_usd) for t in totals] == [(n, n / 2) for _, n, _ in expected]
    assert [t.total_tokens for t in totals] == [t.prompt_tokens + t.completion_tokens for t in totals]


async def test_equal_totals_are_in_order_what_has_no_group_first(chat: AsyncSessionStore):
    """Said in the SQL: databases differ in where they put NULL."""
    for n, model in enumerate(("b", None, "a")):
        await chat.usage.record_round("s", round_index=n, prompt_tokens=5, model=model)
    assert [total.group for total in await chat.usage.totals(by="model")] == [None, "a", "b"]


async def test_totals_by_something_else_name_the_choices(ledger: AsyncSessionStore):
    """InvalidQuery says what there is."""
    with pytest.raises(InvalidQuery, match="session, model, source, day"):
        await ledger.usage.totals(by="hour")


# -- the property ----------------------------------------------------------------------------------

TOKENS = st.integers(0, 10**6)
COSTS = st.none() | st.decimals(0, 1000, places=6).map(float)
STEPS = st.lists(
    st.fixed_dictionaries({
        "how": st.sampled_from(["round", "append", "user", "many"]), "session": st.sampled_from("st"),
        "round_index": st.none() | st.integers(0, 2), "send_index": st.none() | st.integers(0, 2), "prompt_tokens": TOKENS,
        "completion_tokens": TOKENS, "cache_read_tokens": TOKENS, "cache_write_tokens": TOKENS,
        "reasoning_tokens": TOKENS, "estimated_cost_usd": COSTS, "actual_cost_usd": COSTS,
    }),
    max_size=12,
)  # fmt: skip


@given(steps=STEPS, at_once=st.booleans())
@settings(derandomize=True, deadline=None, max_examples=40)
def test_the_counters_are_always_the_sums_of_the_ledger(steps: list[dict[str, Any]], at_once: bool):
    """Whatever is recorded, replaced and appended, one after the other or at once."""
    asyncio.run(_counters_equal_sums(steps, at_once))


async def _counters_equal_sums(steps: list[dict[str, Any]], at_once: bool) -> None:
    async with AsyncSessionStore(":memory:") as store:
        for name in "st":
            await store.sessions.create(name)
        pending = [asyncio.create_task(_step(store, **step)) for step in steps] if at_once else []
        await asyncio.gather(*pending)
        for step in [] if at_once else steps:
            await _step(store, **step)
        totals = {total.group: total for total in await store.usage.totals()}
        for name in "st":
            session, rows = await store.sessions.get(name), await store.usage.rounds(name)
            of_rounds = [(row.send_index, row.round_index) for row in rows if row.round_index is not None]
            assert len(set(of_rounds)) == len(of_rounds)
            for counter, column in COUNTERS.items():
                values = [value for row in rows if (value := getattr(row, column)) is not None]
                assert (getattr(session, counter) or 0) == pytest.approx(sum(values), abs=1e-7), counter
                if name in totals:
                    assert (getattr(session, counter) or 0) == getattr(totals[name], column), counter


async def _step(store: AsyncSessionStore, how: str, session: str, **usage: Any) -> None:
    if how == "round":
        usage["round_index"] = usage["round_index"] or 0
        await store.usage.record_round(session, **usage)
    elif how == "user":
        await store.messages.append(session, role="user")
    elif how == "append":
        await store.messages.append(session, role="assistant", usage=usage)
    else:
        await store.messages.append_many(session, [{"role": "user"}, {"role": "assistant", "usage": usage}] * 2)
