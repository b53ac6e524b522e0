"""`store.learning`: sessions and outcomes come back as they were given, and the files are the truth."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import structs

import recollect
from recollect import (
    AsyncSessionStore,
    AutonomyMode,
    BenchmarkSnapshot,
    Edit,
    EditOp,
    EditOutcome,
    EditPillar,
    EditRiskTier,
    FailureCluster,
    InvalidRecord,
    LearningPlan,
    LearningSession,
    LearningStatus,
    Limits,
    OutcomeStatus,
    ReadOnly,
    RecordedOutcome,
    SessionNotFound,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreFull,
    Timeouts,
    TriggerKind,
)
from recollect.learning import files, lock
from recollect.learning.given import merged
from recollect.learning.lock import DirectoryLock
from recollect.learning.rebuild import AT_ONCE, parents_first
from recollect.learning.room import Learning

from .engines import WITH_READERS
from .failing import failing

START = datetime(2026, 3, 1, 9, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
BEFORE = BenchmarkSnapshot(
    benchmark_version="v1", overall_score=0.1 + 0.2, cluster_scores={"c": 0.25}, task_count=3, elapsed_seconds=1.5
)


def session(session_id: str = "s", **fields: Any) -> LearningSession:
    """A learning session; what is not given is the least there can be."""
    least: dict[str, Any] = {
        "trigger": TriggerKind.SCHEDULED, "status": LearningStatus.COMPLETED, "autonomy_mode": AutonomyMode.TIERED,
        "started_at": START, "diagnosis_path": Path("d.md"), "plan_path": Path("p.json"), "benchmark_before": BEFORE,
        "git_checkpoint_pre": "abc",
    }  # fmt: skip
    return LearningSession(id=session_id, **{**least, **fields})


def full(session_id: str = "s") -> LearningSession:
    """One with everything in it."""
    return session(
        session_id, trigger_metadata={"why": "größer 再", "n": [1, None, {"deep": True}]}, ended_at=START + timedelta(1),
        benchmark_after=structs.replace(BEFORE, overall_score=1.0), git_checkpoint_post="def", teacher_cost_usd=0.1,
        error="tired", edit_outcomes=[
            EditOutcome(edit_id="e1", status=OutcomeStatus.APPLIED, benchmark_delta=1 / 3, cluster_deltas={"c": -0.1},
                        applied_at=START),
            EditOutcome(edit_id="e2", status=OutcomeStatus.SKIPPED, error="not needed"),
        ],
    )  # fmt: skip


EDIT = Edit(
    id="e1", pillar=EditPillar.AGENT, op=EditOp.PATCH_SYSTEM_PROMPT, target="agents.simple.prompt",
    rationale="it forgets", risk_tier=EditRiskTier.REVIEW, payload={"text": "remember"},
)  # fmt: skip
LABELS = {"pillar": "agent", "op": "patch_system_prompt", "target": "agents.simple.prompt", "risk_tier": "review"}


def outcome(edit_id: str = "e1", status: str = "applied", **fields: Any) -> EditOutcome:
    return EditOutcome(edit_id=edit_id, status=OutcomeStatus(status), **fields)


async def count(store: AsyncSessionStore, table: str) -> int:
    return (await store.query(f"SELECT COUNT(*) AS n FROM {table}"))[0].n


# -- each call of the earlier store ----------------------------------------------------------------


async def test_the_room_opens_with_the_store(tmp_path: Path) -> None:
    """There: a store of its own, without the folder made. Here it is a room, and the folders are made."""
    store = AsyncSessionStore(tmp_path / "new" / "folder" / "store.db")
    with pytest.raises(StoreClosed):
        await store.learning.get("s")
    async with store:
        assert await store.learning.list() == []
    with pytest.raises(StoreClosed):
        await store.learning.save(session())


async def test_the_schema_comes_with_the_store(path: Path) -> None:
    """No statement is tried and its error swallowed: the tables are of a version, and stay."""
    for _ in range(2):
        async with AsyncSessionStore(path) as store:
            assert await count(store, "learning_sessions") == await count(store, "edit_outcomes") == 0


async def test_a_session_comes_back_as_it_was_saved(any_store: AsyncSessionStore) -> None:
    """Every field, with its outcomes; the same for the least there can be."""
    for given in (full("one"), session("two")):
        assert await any_store.learning.save(given) == given
        assert await any_store.learning.get(given.id) == given


async def test_saving_again_replaces(store: AsyncSessionStore) -> None:
    """The session as a whole; its children and outcomes stay where they are."""
    await store.learning.save(full())
    await store.learning.save(session("child", parent_session_id="s"))
    again = session("s", status=LearningStatus.FAILED)
    assert await store.learning.save(again) == structs.replace(again, edit_outcomes=full().edit_outcomes)
    assert (await store.learning.get("child")).parent_session_id == "s"
    assert await count(store, "edit_outcomes") == 2


async def test_an_unknown_session_is_none(store: AsyncSessionStore) -> None:
    """Also an empty id."""
    assert await store.learning.get("nope") is None
    assert await store.learning.get("") is None


async def test_the_newest_come_first_by_status(store: AsyncSessionStore) -> None:
    """One status, several, or any; at most as many as asked for."""
    room = store.learning
    for at, status in enumerate(LearningStatus):
        await room.save(session(f"s{at}", status=status, started_at=START + timedelta(minutes=at)))
    assert [each.id for each in await room.list()] == [f"s{at}" for at in reversed(range(8))]
    assert [each.id for each in await room.list(limit=2)] == ["s7", "s6"]
    assert [each.id for each in await room.list(status="failed")] == ["s6"]
    assert [each.id for each in await room.list(status=[LearningStatus.FAILED, "initiated"])] == ["s6", "s0"]
    assert await room.list(status=[]) == []
    with pytest.raises(InvalidRecord, match="status must be one of initiated"):
        await room.list(status="lost")


async def test_an_outcome_is_saved_by_itself(store: AsyncSessionStore) -> None:
    """With what is known of its edit; it comes back whole, and is one of its session."""
    await store.learning.save(session())
    saved = await store.learning.save_outcome("s", outcome(benchmark_delta=0.1), **LABELS, rationale="why")
    assert saved == RecordedOutcome(
        edit_id="e1", status=OutcomeStatus.APPLIED, benchmark_delta=0.1, session_id="s", **LABELS, rationale="why"
    )
    assert (await store.learning.get("s")).edit_outcomes == [outcome(benchmark_delta=0.1)]


async def test_outcomes_are_listed_with_their_edits(store: AsyncSessionStore) -> None:
    """In the order in which they were first saved; nothing that was written cannot be read."""
    await store.learning.save(full("one"), edits=[EDIT])
    await store.learning.save(full("two"))
    first, *rest = await store.learning.outcomes()
    assert (first.session_id, first.pillar, first.op, first.target) == ("one", "agent", EDIT.op, EDIT.target)
    assert (first.risk_tier, first.rationale) == (EditRiskTier.REVIEW, "it forgets")
    assert [(each.session_id, each.edit_id, each.op) for each in rest] == [
        ("one", "e2", None), ("two", "e1", None), ("two", "e2", None),
    ]  # fmt: skip
    assert await store.learning.outcomes("one") == [first, rest[0]]


async def test_everything_is_kept_when_the_store_closes(path: Path) -> None:
    """`async with` closes it; what was saved is there again."""
    async with AsyncSessionStore(path) as store:
        await store.learning.save(full(), edits=[EDIT])
        outcomes = await store.learning.outcomes()
    async with AsyncSessionStore(path, readonly=True) as store:
        assert await store.learning.list() == [full()]
        assert await store.learning.outcomes() == outcomes


# -- the defects of the earlier store --------------------------------------------------------------


async def test_an_unknown_parent_leaves_no_transaction_open(path: Path) -> None:
    """There the next writer found the database locked. Here nothing is stored, and both go on."""
    async with AsyncSessionStore(path) as store, AsyncSessionStore(path) as other:
        with pytest.raises(SessionNotFound, match="no learning session 'nope'"):
            await store.learning.save(structs.replace(full(), parent_session_id="nope"))
        assert await count(store, "learning_sessions") == await count(store, "edit_outcomes") == 0
        await other.learning.save(session())
        await store.learning.save(session("child", parent_session_id="s"))


async def test_outcomes_are_stored_with_their_session(store: AsyncSessionStore) -> None:
    """There nothing stored them. Here they are in the same commit."""
    with pytest.raises(InvalidRecord):
        await store.learning.save(structs.replace(full(), edit_outcomes=[outcome(), outcome(benchmark_delta="much")]))
    assert await count(store, "learning_sessions") == await count(store, "edit_outcomes") == 0
    batches = (await store.stats()).batches
    await store.learning.save(full(), edits=[EDIT])
    assert (await store.stats()).batches == batches + 1
    assert len(await store.learning.outcomes("s")) == 2


async def test_mixed_offsets_sort_by_the_instant(store: AsyncSessionStore) -> None:
    """There by the text. 01:00+02:00 is before 00:30Z, and 23:30-05:00 after."""
    times = ["2026-03-01T01:00:00+02:00", "2026-03-01T00:30:00+00:00", "2026-02-28T23:30:00-05:00"]
    for at, text in enumerate(times):
        await store.learning.save(session(f"s{at}", started_at=datetime.fromisoformat(text)))
    assert [each.id for each in await store.learning.list()] == ["s2", "s1", "s0"]
    await store.learning.save(session("micro", started_at=datetime.fromisoformat("2026-02-28T23:30:00.000001-05:00")))
    assert [each.id for each in await store.learning.list(limit=2)] == ["micro", "s2"]


async def test_a_negative_limit_is_refused(store: AsyncSessionStore) -> None:
    """There it was all of them. 0 is none, None is all."""
    await store.learning.save(session())
    assert await store.learning.list(limit=0) == []
    assert len(await store.learning.list(limit=None)) == 1
    for limit in (-1, True, 1.0):
        with pytest.raises(InvalidRecord, match="limit"):
            await store.learning.list(limit=limit)


async def test_listing_takes_two_statements(store: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions there are; there it took one for each."""
    for n in range(5):
        await store.learning.save(full(f"s{n}"))
    seen: list[str] = []

    def counted(op: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any):
            operation, reply = op(*args), None
            while True:
                try:
                    statement = operation.send(reply)
                except StopIteration as end:
                    return end.value
                seen.append(statement.sql)
                reply = yield statement

        return run

    read = store._engine.read
    monkeypatch.setattr(store._engine, "read", lambda op, *args, **options: read(counted(op), *args, **options))
    listed = await store.learning.list()
    assert [len(each.edit_outcomes) for each in listed] == [2] * 5
    assert len([sql for sql in seen if "learning_sessions" in sql or "edit_outcomes" in sql]) == 2


async def test_saving_an_outcome_again_updates_it(store: AsyncSessionStore) -> None:
    """There it was there twice. What is not said again is not blanked, also when the session is saved."""
    await store.learning.save(session())
    known = outcome(benchmark_delta=0.5, cluster_deltas={"c": 1.0}, error="slow", applied_at=START)
    await store.learning.save_outcome("s", known, **LABELS, rationale="why")
    saved = await store.learning.save_outcome("s", outcome(status="rolled_back"))
    assert saved == (await store.learning.outcomes("s"))[0]
    await store.learning.save(session(edit_outcomes=[outcome(status="rolled_back")]))
    (stored,) = await store.learning.outcomes("s")
    assert stored == saved
    assert (stored.status, stored.rationale, stored.op) == ("rolled_back", "why", LABELS["op"])
    assert (stored.benchmark_delta, stored.cluster_deltas, stored.error, stored.applied_at) == (
        0.5, {"c": 1.0}, "slow", START,
    )  # fmt: skip
    assert (await store.learning.save_outcome("s", outcome(error=""), op="lora_finetune")).error == ""
    assert (await store.learning.outcomes("s"))[0].op == "lora_finetune"


SAID = RecordedOutcome(
    edit_id="e1", status=OutcomeStatus.APPLIED, benchmark_delta=0.5, cluster_deltas={"c": 1.0}, error="slow",
    applied_at=START, session_id="s", pillar="agent", op="x", target="t", risk_tier="auto", rationale="why",
)  # fmt: skip
UNSAID = RecordedOutcome(edit_id="e1", status=OutcomeStatus.SKIPPED, session_id="s")
OVER: dict[str, tuple[RecordedOutcome, dict[str, Any], RecordedOutcome]] = {
    "nothing": (SAID, {}, structs.replace(SAID, status=OutcomeStatus.SKIPPED)),
    "nothing_over_nothing": (UNSAID, {}, UNSAID),
    "zero": (SAID, {"benchmark_delta": 0.0}, structs.replace(SAID, status=OutcomeStatus.SKIPPED, benchmark_delta=0.0)),
    "no_error": (SAID, {"error": ""}, structs.replace(SAID, status=OutcomeStatus.SKIPPED, error="")),
    "deltas": (SAID, {"cluster_deltas": {"d": 0.0}},
               structs.replace(SAID, status=OutcomeStatus.SKIPPED, cluster_deltas={"d": 0.0})),
    "time": (SAID, {"applied_at": START + timedelta(1)},
             structs.replace(SAID, status=OutcomeStatus.SKIPPED, applied_at=START + timedelta(1))),
    **{name: (SAID, {name: "new"}, structs.replace(SAID, status=OutcomeStatus.SKIPPED, **{name: "new"}))
       for name in ("pillar", "op", "target", "risk_tier", "rationale")},
    "all": (UNSAID, structs.asdict(SAID), SAID),
}  # fmt: skip
"""what was known, what is said then, what is known of it"""


@pytest.mark.parametrize("case", list(OVER))
async def test_an_outcome_lies_over_another_alike_in_files_and_in_the_table(
    store: AsyncSessionStore, case: str
) -> None:
    """The rule stands twice, once in Python and once in SQL: both give what is written here."""
    before, said, expected = OVER[case]
    after = structs.replace(UNSAID, **said)
    assert merged([before], [after]) == (expected,)
    await store.learning.save(session())
    assert await store.learning.save_outcome("s", before) == before
    assert await store.learning.save_outcome("s", after) == expected


async def test_an_outcome_of_an_unknown_session_is_refused(store: AsyncSessionStore) -> None:
    """Under the store's own error; nothing is stored."""
    with pytest.raises(SessionNotFound, match="no learning session 'nope'"):
        await store.learning.save_outcome("nope", outcome())
    assert await count(store, "edit_outcomes") == 0


async def test_a_locked_database_is_waited_for(path: Path, hold: Any) -> None:
    """There a lock could be taken for a migration that had been made already."""
    async with AsyncSessionStore(path) as one, AsyncSessionStore(path) as other:
        async with hold(one):
            saving = asyncio.create_task(other.learning.save(full()))
            await asyncio.wait([saving], timeout=0.05)
            assert not saving.done()
        assert await saving == full()


async def test_many_tasks_save_at_once(store: AsyncSessionStore) -> None:
    """There two threads shared a connection without a lock."""
    await store.learning.save(session("root"))
    await asyncio.gather(*[store.learning.save(session(f"s{n}", parent_session_id="root")) for n in range(50)])
    await asyncio.gather(*[store.learning.save_outcome("root", outcome(f"e{n % 10}")) for n in range(50)])
    assert len(await store.learning.list()) == 51
    assert len(await store.learning.outcomes("root")) == 10


# -- what is given ---------------------------------------------------------------------------------


class TheirStatus(Enum):
    """An enumeration of somebody else."""

    COMPLETED = "completed"


class Model:
    """Something with `model_dump`."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self._fields


def as_mapping(given: LearningSession) -> dict[str, Any]:
    """Python values inside, as a model dumps them."""
    fields = structs.asdict(given)
    for name in ("benchmark_before", "benchmark_after"):
        fields[name] = structs.asdict(fields[name])
    return {
        **fields,
        "status": TheirStatus.COMPLETED,
        "edit_outcomes": [structs.asdict(each) for each in given.edit_outcomes],
    }


def as_json(given: LearningSession) -> dict[str, Any]:
    """Texts and numbers only."""
    return msgspec.json.decode(msgspec.json.encode(given, enc_hook=str))


@pytest.mark.parametrize(
    "shape", [as_mapping, as_json, lambda given: Model(as_mapping(given))], ids=["python", "json", "model"]
)
async def test_a_session_may_be_given_in_any_shape(store: AsyncSessionStore, shape: Any) -> None:
    """As a mapping of Python values or of texts, and as what dumps itself; the same comes back."""
    assert await store.learning.save(shape(full())) == full()
    assert await store.learning.get("s") == full()


async def test_a_pydantic_model_may_be_given(store: AsyncSessionStore) -> None:
    """With models inside, and enumerations and paths of Python."""
    pydantic = pytest.importorskip("pydantic")
    snapshot = pydantic.create_model("Snapshot", **dict.fromkeys(BenchmarkSnapshot.__struct_fields__, (Any, ...)))
    kinds: dict[str, Any] = dict.fromkeys(LearningSession.__struct_fields__, (Any, ...))
    model = pydantic.create_model("Session", **{**kinds, "started_at": (datetime, ...), "diagnosis_path": (Path, ...)})
    told = model(**{**as_mapping(full()), "benchmark_before": snapshot(**structs.asdict(BEFORE))})
    assert await store.learning.save(told) == full()
    assert await store.learning.save(json.loads(told.model_dump_json())) == full()


@pytest.mark.parametrize(
    "at",
    [
        START,
        datetime(2026, 3, 1, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=-12))),
        datetime(1890, 1, 1, 12, tzinfo=timezone(timedelta(minutes=17, seconds=30))),
    ],
    ids=["offset", "utc", "first", "last", "seconds"],
)
async def test_times_come_back_exactly(store: AsyncSessionStore, tmp_path: Path, at: datetime) -> None:
    """The same instant to the microsecond with the same offset, out of the table and out of a file."""
    given = session(started_at=at, ended_at=at, edit_outcomes=[outcome(applied_at=at)])
    await store.learning.save(given, directory=tmp_path)
    await store.learning.rebuild(tmp_path)
    stored = await store.learning.get("s")
    for found in (stored.started_at, stored.ended_at, stored.edit_outcomes[0].applied_at):
        assert (found, found.utcoffset(), found.isoformat()) == (at, at.utcoffset(), at.isoformat())


async def test_the_offset_of_a_zone_is_kept(store: AsyncSessionStore) -> None:
    """As it was at that time: the second half past two of the night on which summer ended."""
    zone = pytest.importorskip("zoneinfo").ZoneInfo("Europe/Berlin")
    at = datetime(2025, 10, 26, 2, 30, tzinfo=zone, fold=1)
    saved = await store.learning.save(session(started_at=at))
    assert saved.started_at.isoformat() == at.isoformat() == "2025-10-26T02:30:00+01:00"


async def test_numbers_come_back_exactly(store: AsyncSessionStore) -> None:
    """To the last bit; whole ones as floats."""
    for cost in (0.1 + 0.2, 5e-324, 1.7976931348623157e308, 0, 1 / 3):
        given = session(
            teacher_cost_usd=cost, edit_outcomes=[outcome(benchmark_delta=-cost, cluster_deltas={"c": cost})]
        )
        saved = await store.learning.save(given)
        assert (saved.teacher_cost_usd, saved.edit_outcomes[0].benchmark_delta) == (cost, -cost)
        assert saved.edit_outcomes[0].cluster_deltas == {"c": cost}


SNAPSHOT = structs.asdict(BEFORE)
NAIVE = datetime(2026, 3, 1)
WRONG = {
    "id": ["", 3, None, "a\x00b", "\ud800"],
    "trigger": ["sometimes", None, 3],
    "status": ["done", ["completed"]],
    "autonomy_mode": ["full"],
    "trigger_metadata": [None, [], {"a": float("nan")}, {1: 2}, {"a": START}, {"a": (1, 2)}],
    "started_at": [NAIVE, "2026-03-01T09:00:00", "yesterday", None, 3],
    "ended_at": [NAIVE, "2026-03-01", 0],
    "diagnosis_path": [None, 3, b"d", "a\x00b"],
    "plan_path": [None, "\udcff"],
    "benchmark_before": [None, [], {}, {**SNAPSHOT, "overall_score": 1.1}, {**SNAPSHOT, "task_count": -1},
                         {**SNAPSHOT, "elapsed_seconds": float("inf")}, {**SNAPSHOT, "cluster_scores": {"c": "x"}},
                         {**SNAPSHOT, "cluster_scores": {"c": float("nan")}}, {**SNAPSHOT, "surprise": 1}],
    "benchmark_after": [{**SNAPSHOT, "overall_score": float("nan")}, {**SNAPSHOT, "overall_score": True}],
    "edit_outcomes": [None, "e1", {"e1": 1}, [3], [{"edit_id": "e1", "status": "lost"}], [{"status": "applied"}],
                      [{"edit_id": "", "status": "applied"}],
                      [{"edit_id": "e", "status": "applied", "applied_at": NAIVE}],
                      [{"edit_id": "e", "status": "applied", "benchmark_delta": float("inf")}],
                      [{"edit_id": "e", "status": "applied", "op": 3}]],
    "git_checkpoint_pre": [None, 3],
    "git_checkpoint_post": [3],
    "teacher_cost_usd": [-0.01, float("nan"), float("inf"), "1", None, 10**400],
    "error": [3],
    "parent_session_id": ["", 3, "s"],
    "surprise": [1],
}  # fmt: skip


@pytest.mark.parametrize("field", list(WRONG))
async def test_what_is_wrong_is_refused_by_its_name(store: AsyncSessionStore, tmp_path: Path, field: str) -> None:
    """Wrong types, what is out of bounds, naive times, what is no JSON; neither table nor file is touched."""
    for value in WRONG[field]:
        with pytest.raises(InvalidRecord, match=f"{field}|op must be text"):
            await store.learning.save({**structs.asdict(session()), field: value}, directory=tmp_path / "sessions")
    assert await count(store, "learning_sessions") == 0
    assert not (tmp_path / "sessions").exists()


@pytest.mark.parametrize("field", ["id", "trigger", "started_at", "benchmark_before", "git_checkpoint_pre"])
async def test_what_is_missing_is_named(store: AsyncSessionStore, field: str) -> None:
    """A field without which there is no session."""
    fields = structs.asdict(session())
    del fields[field]
    with pytest.raises(InvalidRecord, match=field):
        await store.learning.save(fields)


async def test_only_records_are_taken(store: AsyncSessionStore) -> None:
    """A session, an outcome and an edit are no texts, lists or numbers."""
    for value in ("s", 3, None, [session()]):
        with pytest.raises(InvalidRecord, match="the session must be a LearningSession"):
            await store.learning.save(value)
        with pytest.raises(InvalidRecord, match="the outcome must be a RecordedOutcome"):
            await store.learning.save_outcome("s", value)
    for edits in ("e1", [3], {"id": "e1"}, [{"pillar": "agent"}], [{"id": "e1", "op": 3}]):
        with pytest.raises(InvalidRecord, match=r"edits|op"):
            await store.learning.save(session(), edits=edits)


async def test_edits_name_their_outcomes(store: AsyncSessionStore) -> None:
    """By their ids, as records or mappings; those without an outcome are passed over."""
    edits = [{"id": "e2", "op": EditOp.LORA_FINETUNE, "surprise": 1}, EDIT, {"id": "e9", "op": "x"}]
    await store.learning.save(full(), edits=edits)
    assert [(each.edit_id, each.op, each.rationale) for each in await store.learning.outcomes()] == [
        ("e1", "patch_system_prompt", "it forgets"), ("e2", "lora_finetune", ""),
    ]  # fmt: skip


async def test_an_edit_given_twice_in_a_session_is_one_outcome(store: AsyncSessionStore) -> None:
    """The later lies over the earlier, as if they had been saved one after the other."""
    both = [outcome(benchmark_delta=0.5), outcome(status="rolled_back")]
    saved = await store.learning.save(session(edit_outcomes=both))
    assert saved.edit_outcomes == [outcome(status="rolled_back", benchmark_delta=0.5)]


FILTERS = [
    ({}, ["a1", "a2", "b1"]),
    ({"session_id": "a"}, ["a1", "a2"]),
    ({"session_id": ["a", "b", "nope"]}, ["a1", "a2", "b1"]),
    ({"op": EditOp.LORA_FINETUNE}, ["a2"]),
    ({"op": ["lora_finetune", "set_agent_class"]}, ["a2", "b1"]),
    ({"pillar": "agent"}, ["a1", "b1"]),
    ({"target": "x"}, ["a1", "a2"]),
    ({"risk_tier": EditRiskTier.MANUAL}, ["a2"]),
    ({"status": ["applied", OutcomeStatus.SKIPPED]}, ["a1", "b1"]),
    ({"status": "applied", "pillar": "agent", "session_id": "a"}, ["a1"]),
    ({"op": []}, []),
    ({"session_id": ""}, []),
]


@pytest.mark.parametrize(("filters", "found"), FILTERS, ids=range(len(FILTERS)))
async def test_outcomes_are_found_by_what_they_are(
    store: AsyncSessionStore, filters: dict[str, Any], found: list[str]
) -> None:
    """By one value or several of each."""
    room = store.learning
    for name in "ab":
        await room.save(session(name))
    await room.save_outcome(
        "a", outcome("a1"), pillar="agent", op="patch_system_prompt", target="x", risk_tier="review"
    )
    await room.save_outcome(
        "a", outcome("a2", "rolled_back"), pillar="tools", op="lora_finetune", target="x", risk_tier="manual"
    )
    await room.save_outcome(
        "b", outcome("b1", "skipped"), pillar=EditPillar.AGENT, op=EditOp.SET_AGENT_CLASS, target="y", risk_tier="auto"
    )
    assert [each.edit_id for each in await room.outcomes(**filters)] == found


async def test_filters_that_mean_nothing_are_refused(store: AsyncSessionStore) -> None:
    """A status that there is not, and what is no text."""
    for filters in ({"status": "lost"}, {"op": 3}, {"session_id": [None]}):
        with pytest.raises(InvalidRecord):
            await store.learning.outcomes(**filters)


async def test_texts_are_redacted_in_the_table_and_the_file(tmp_path: Path) -> None:
    """Whatever people or models wrote; what names something is unchanged."""
    async with AsyncSessionStore(":memory:", redact=lambda text: text.replace("secret", "***")) as store:
        given = session(error="a secret", trigger_metadata={"k": ["secret"]}, edit_outcomes=[outcome(error="secret")])
        saved = await store.learning.save(given, edits=[structs.replace(EDIT, rationale="secret")], directory=tmp_path)
        assert (saved.error, saved.trigger_metadata) == ("a ***", {"k": ["***"]})
        assert (await store.learning.outcomes())[0].rationale == "***"
    assert "secret" not in (tmp_path / "s" / "session.json").read_text()


async def test_what_cannot_be_stored_is_replaced_and_counted(store: AsyncSessionStore) -> None:
    """NUL and lone surrogates in texts."""
    saved = await store.learning.save(session(error="a\x00b", trigger_metadata={"k": "\ud800"}))
    assert (saved.error, saved.trigger_metadata) == ("a\ufffdb", {"k": "\ufffd"})
    assert (await store.stats()).replaced == 2


async def test_a_session_over_the_limit_is_refused(path: Path, tmp_path: Path) -> None:
    """`limits.row_bytes` is for the session with its outcomes; also for one outcome, and for what is known already."""
    async with AsyncSessionStore(path, limits=Limits(row_bytes=4096)) as store:
        with pytest.raises(InvalidRecord, match=r"limits\.row_bytes"):
            await store.learning.save(session(error="x" * 5000))
        await store.learning.save(session(error="x" * 2000))
        with pytest.raises(InvalidRecord, match=r"limits\.row_bytes"):
            await store.learning.save_outcome("s", outcome(error="x" * 5000))
        await store.learning.save_outcome("s", outcome(error="x" * 2000))
        with pytest.raises(InvalidRecord, match=r"limits\.row_bytes"):
            await store.learning.save(session(error="x" * 2000), directory=tmp_path / "sessions")
        assert not (tmp_path / "sessions").exists()


def test_the_records_of_a_plan_are_there() -> None:
    """Clusters, edits and the plan itself, checked where they are made out of JSON."""
    cluster = FailureCluster(
        id="c", description="d", student_failure_rate=0.5, teacher_success_rate=1, skill_gap="g", sample_trace_ids=["t"]
    )
    plan = LearningPlan(
        session_id="s", diagnosis_summary="d", failure_clusters=[cluster], edits=[EDIT], teacher_model="t",
        estimated_cost_usd=0.5, created_at=START,
    )  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(plan), type=LearningPlan) == plan
    with pytest.raises(msgspec.ValidationError, match="student_failure_rate"):
        msgspec.convert({**structs.asdict(cluster), "student_failure_rate": 1.5}, FailureCluster)


# -- files -----------------------------------------------------------------------------------------


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_file_has_all_there_is(store: AsyncSessionStore, tmp_path: Path) -> None:
    """The session's fields, and its outcomes with what is known of their edits: also those saved before."""
    await store.learning.save(session())
    await store.learning.save_outcome("s", outcome("e0"), op="set_model_param")
    saved = await store.learning.save(full(), edits=[EDIT], directory=tmp_path)
    written = json.loads((tmp_path / "s" / "session.json").read_text())
    assert list(written) == list(LearningSession.__struct_fields__)
    assert {name: written[name] for name in ("id", "started_at", "diagnosis_path", "trigger_metadata")} == {
        "id": "s", "started_at": START.isoformat(), "diagnosis_path": "d.md",
        "trigger_metadata": full().trigger_metadata,
    }  # fmt: skip
    assert [(each["edit_id"], each["op"]) for each in written["edit_outcomes"]] == [
        ("e0", "set_model_param"), ("e1", "patch_system_prompt"), ("e2", None),
    ]  # fmt: skip
    async with AsyncSessionStore(":memory:") as other:
        await other.learning.rebuild(tmp_path)
        assert await other.learning.get("s") == saved
        assert await other.learning.outcomes() == await store.learning.outcomes()


async def test_files_are_private(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Folders 0700, also those above that had to be made, files 0600; nothing else is left there."""
    top = tmp_path / "home" / "sessions"
    for _ in range(2):
        await store.learning.save(session(), directory=top)
    assert [permissions(path) for path in (top.parent, top, top / "s")] == [0o700] * 3
    assert permissions(top / "s" / "session.json") == 0o600
    assert os.listdir(top / "s") == ["session.json"]


BAD_NAMES = ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "a\\b", "a\x00b", "x" * 256, "é" * 128, "\ud800"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
async def test_an_id_that_is_no_plain_name_becomes_no_path(store: AsyncSessionStore, tmp_path: Path, name: str) -> None:
    """It is refused before anything is written; some are good ids where there is no directory."""
    top = tmp_path / "sessions"
    with pytest.raises(InvalidRecord, match="id"):
        await store.learning.save(session(name), directory=top)
    assert not top.exists()
    assert await store.learning.list() == []


async def test_a_linked_folder_is_not_entered(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Neither to write nor to read: it may lead anywhere. A link in place of the file is replaced, not followed."""
    outside = tmp_path / "outside"
    top = tmp_path / "sessions"
    outside.mkdir()
    top.mkdir()
    (top / "s").symlink_to(outside)
    with pytest.raises(InvalidRecord, match="link"):
        await store.learning.save(session(), directory=top)
    assert list(outside.iterdir()) == []
    assert await store.learning.list() == []

    (outside / "session.json").write_bytes(files.encoded(given(session("s"))))
    rebuilt = await store.learning.rebuild(top)
    assert (rebuilt.sessions, "link" in rebuilt.rejections[0].reason) == (0, True)

    (top / "t").mkdir()
    (top / "t" / "session.json").symlink_to(outside / "session.json")
    rebuilt = await store.learning.rebuild(top)
    assert rebuilt.rejected == {"sessions": 2}
    await store.learning.save(session("t"), directory=top)
    assert not (top / "t" / "session.json").is_symlink()
    assert json.loads((outside / "session.json").read_text())["id"] == "s"


def given(record: LearningSession) -> Any:
    """The record as `files.encoded` takes it."""
    from recollect.encoding import Encoder
    from recollect.learning.given import session_of

    return session_of(Encoder(row_bytes=10**6), record, {})


async def test_an_unknown_parent_writes_no_file(store: AsyncSessionStore, tmp_path: Path) -> None:
    """It is looked for before."""
    with pytest.raises(SessionNotFound):
        await store.learning.save(session(parent_session_id="nope"), directory=tmp_path / "sessions")
    assert not (tmp_path / "sessions").exists()


async def test_a_store_that_cannot_write_writes_no_file(path: Path, tmp_path: Path) -> None:
    """Opened to be read only."""
    async with AsyncSessionStore(path):
        pass
    async with AsyncSessionStore(path, readonly=True) as store:
        with pytest.raises(ReadOnly):
            await store.learning.save(session(), directory=tmp_path / "sessions")
    assert not (tmp_path / "sessions").exists()


async def test_a_file_without_room_leaves_the_old_one(
    store: AsyncSessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the table as it was."""
    await store.learning.save(session(), directory=tmp_path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full_disk)
        with pytest.raises(StoreFull):
            await store.learning.save(session(status=LearningStatus.FAILED), directory=tmp_path)
    assert os.listdir(tmp_path / "s") == ["session.json"]
    assert json.loads((tmp_path / "s" / "session.json").read_text())["status"] == "completed"
    assert (await store.learning.get("s")).status == "completed"


async def test_where_the_table_fails_the_file_is_told(path: Path, tmp_path: Path) -> None:
    """The error says that it is there, and a rebuild brings it in."""
    async with AsyncSessionStore(path) as store:
        async with failing(store, "INSERT ON learning_sessions"):
            with pytest.raises(StoreError, match="broken") as failed:
                await store.learning.save(session(), directory=tmp_path / "sessions")
        assert "its file is written" in "".join(getattr(failed.value, "__notes__", ()))
        assert (await store.learning.rebuild(tmp_path / "sessions")).sessions == 1


async def test_of_two_who_save_at_once_the_same_is_last_in_both(store: AsyncSessionStore, tmp_path: Path) -> None:
    """File and row agree, whoever came last."""
    saves = [store.learning.save(session(error=f"n{n}"), directory=tmp_path) for n in range(20)]
    await asyncio.gather(*saves)
    assert json.loads((tmp_path / "s" / "session.json").read_text())["error"] == (await store.learning.get("s")).error


async def test_a_save_that_is_cancelled_does_not_overtake_the_next(
    store: AsyncSessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file may still be on its way to the disk: who saves next waits for it, and is last in both."""
    begun, go = threading.Event(), threading.Event()
    replace = os.replace

    def slowly(*args: Any, **options: Any) -> None:
        monkeypatch.setattr(os, "replace", replace)
        begun.set()
        go.wait()
        replace(*args, **options)

    monkeypatch.setattr(os, "replace", slowly)
    first = asyncio.create_task(store.learning.save(session(error="first"), directory=tmp_path))
    await asyncio.to_thread(begun.wait)
    first.cancel()
    second = asyncio.create_task(store.learning.save(session(error="second"), directory=tmp_path))
    await asyncio.sleep(0)  # both have come to where they wait
    first.cancel()  # who is in a hurry
    await asyncio.sleep(0)
    assert not first.done()
    assert not second.done()
    go.set()
    await second
    assert first.cancelled()
    assert json.loads((tmp_path / "s" / "session.json").read_text())["error"] == "second"
    assert (await store.learning.get("s")).error == "second"


@WITH_READERS
async def test_who_is_cancelled_while_the_row_is_written_leaves_both(
    store: AsyncSessionStore, tmp_path: Path, hold: Any, eventually: Any
) -> None:
    """The file is written by then, so its row follows before anybody is told."""

    async def is_written() -> bool:
        return (tmp_path / "s" / "session.json").exists()

    async with hold(store):
        saving = asyncio.create_task(store.learning.save(session(error="kept"), directory=tmp_path))
        await eventually(is_written)
        saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert (await store.learning.get("s")).error == "kept"


async def test_what_a_crash_left_of_a_file_is_removed(store: AsyncSessionStore, tmp_path: Path) -> None:
    """When that session is saved next; not what is new, is of another session, or is something else."""
    top = tmp_path / "sessions"
    left, new, other = (f".session.json.{digit * 16}" for digit in "0a9")
    for place in (top / "s" / left, top / "s" / new, top / "s" / ".session.json.swp", top / "t" / other):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("torn")
        if place.name != new:
            os.utime(place, (0, time.time() - files.STALE_S - 1))
    await store.learning.save(session(), directory=top)
    assert set(os.listdir(top / "s")) == {"session.json", new, ".session.json.swp"}
    assert os.listdir(top / "t") == [other]


# -- the lock of a directory -----------------------------------------------------------------------


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the lock as another store or process does."""
    with closing((directory / ".recollect.lock").open("w")) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def test_the_lock_is_a_private_file_that_stays(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Beside the folders; no link in its place is followed, to save or to rebuild."""
    await store.learning.save(session(), directory=tmp_path / "one")
    place = tmp_path / "one" / ".recollect.lock"
    assert (permissions(place), place.read_bytes()) == (0o600, b"")
    place.unlink()
    place.symlink_to(tmp_path / "elsewhere")
    for call in (store.learning.save(session(), directory=tmp_path / "one"), store.learning.rebuild(tmp_path / "one")):
        with pytest.raises(InvalidRecord, match=r"\.recollect\.lock is a link"):
            await call
    assert not (tmp_path / "elsewhere").exists()


async def test_a_lock_that_is_held_is_waited_for(store: AsyncSessionStore, tmp_path: Path) -> None:
    """To save and to rebuild: neither reads nor writes before."""
    write(tmp_path, "t", session("t"))
    with locked(tmp_path):
        waiting = [
            asyncio.create_task(call)
            for call in (store.learning.save(session(), directory=tmp_path), store.learning.rebuild(tmp_path))
        ]
        await asyncio.wait(waiting, timeout=0.05)
        assert [task.done() for task in waiting] == [False, False]
        write(tmp_path, "t", session("t", error="meanwhile"))
        assert not (tmp_path / "s").exists()
        await store.learning.save(session("u"), directory=tmp_path / "another")  # which nobody holds
    await asyncio.gather(*waiting)
    assert {each.id: each.error for each in await store.learning.list()} == {"s": None, "t": "meanwhile", "u": None}


async def test_patience_with_a_lock_has_an_end(path: Path, tmp_path: Path) -> None:
    """Of all who wait at the same time, not of one after the other. Nothing is stored, and no file written."""
    top = tmp_path / "sessions"
    write(top, "t", session("t"))
    async with AsyncSessionStore(path, timeouts=Timeouts(busy_s=0.2)) as store:
        with locked(top):
            began = time.monotonic()
            saves = [store.learning.save(session(f"s{n}"), directory=top) for n in range(10)]
            results = await asyncio.gather(*saves, store.learning.rebuild(top), return_exceptions=True)
            assert 0.2 <= time.monotonic() - began < 1.0
        assert [type(result) for result in results] == [StoreBusy] * 11
        assert "past the deadline; not stored, and no file was written" in str(results[0])
        assert await store.learning.list() == []
        assert set(os.listdir(top)) == {"t", ".recollect.lock"}
        await store.learning.save(session(), directory=top)


def native(task: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    task.cancel()


def scoped(task: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    scope.cancel()


@pytest.mark.parametrize("cancel", [native, scoped])
async def test_who_is_cancelled_while_waiting_leaves_nothing(
    store: AsyncSessionStore, tmp_path: Path, cancel: Callable[[Any, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """He leaves at once, no thread goes on trying, no descriptor stays open, and the lock is free for the next."""
    await store.learning.save(session(), directory=tmp_path)
    tries: list[str] = []
    opening = files.open_lock
    monkeypatch.setattr(files, "open_lock", lambda top, **how: tries.append(top) or opening(top, **how))
    scope = anyio.CancelScope()

    async def save() -> None:
        with scope:
            await store.learning.save(session(error="cancelled"), directory=tmp_path)

    before = open_locks()
    with locked(tmp_path):
        waiting = asyncio.create_task(save())
        await asyncio.wait([waiting], timeout=0.03)
        cancel(waiting, scope)
        await asyncio.wait([waiting], timeout=5)
        assert waiting.done()
        tried = len(tries)
        await asyncio.sleep(5 * lock.POLL_S)
        assert 0 < len(tries) <= tried + 1
    await until(lambda: open_locks() == before)
    assert await store.learning.save(session(error="next"), directory=tmp_path) == await store.learning.get("s")
    assert open_locks() == before
    assert json.loads((tmp_path / "s" / "session.json").read_text())["error"] == "next"


async def test_who_is_cancelled_as_the_thread_gets_the_lock_leaves_nothing(
    store: AsyncSessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the thread then has is closed by the thread, for nobody else knows of it."""
    await store.learning.save(session(), directory=tmp_path)
    got, go_on = threading.Event(), threading.Event()
    flock = fcntl.flock

    def slow(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if operation & fcntl.LOCK_EX:
            got.set()
            go_on.wait(10)

    before = open_locks()
    with monkeypatch.context() as patch:
        patch.setattr(lock.fcntl, "flock", slow)
        waiting = asyncio.create_task(store.learning.save(session(error="cancelled"), directory=tmp_path))
        await asyncio.to_thread(got.wait, 10)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
        await until(lambda: open_locks() == before)
    await asyncio.wait_for(store.learning.save(session(error="next"), directory=tmp_path), 5)
    assert (await store.learning.get("s")).error == "next"


async def test_the_lock_is_not_left_to_a_child(tmp_path: Path) -> None:
    """One that was forked meanwhile has the descriptor as well, and nobody closes it there."""
    held = DirectoryLock(str(tmp_path), 0, is_made=True)
    async with held:
        child = os.dup(held._descriptor)  # shares the lock, as that of a child does
        with pytest.raises(StoreBusy):
            async with DirectoryLock(str(tmp_path), 0, is_made=True):
                pass
    async with DirectoryLock(str(tmp_path), 0, is_made=True):
        os.close(child)


async def test_a_store_that_cannot_write_takes_no_lock(path: Path, tmp_path: Path) -> None:
    """Nothing is made where only a rebuild would write."""
    write(tmp_path, "s", session())
    async with AsyncSessionStore(path):
        pass
    async with AsyncSessionStore(path, readonly=True) as store:
        with pytest.raises(ReadOnly):
            await store.learning.rebuild(tmp_path)
    assert not (tmp_path / ".recollect.lock").exists()


def open_locks() -> int:
    """How many files of locks this process has open."""
    count = 0
    for each in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed since
            count += os.readlink(f"/proc/self/fd/{each}").endswith(".recollect.lock")
    return count


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what a thread does that nobody waits for any more."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("directory", ["", 3, b"sessions", "a\x00b"], ids=ascii)
async def test_a_directory_is_a_path(store: AsyncSessionStore, directory: Any) -> None:
    """Anything else is refused."""
    for call in (store.learning.save(session(), directory=directory), store.learning.rebuild(directory)):
        with pytest.raises(InvalidRecord, match="directory"):
            await call


# -- rebuilding ------------------------------------------------------------------------------------


def write(top: Path, name: str, content: Any) -> Path:
    """A session's file, whatever is in it."""
    (top / name).mkdir(parents=True, exist_ok=True)
    place = top / name / "session.json"
    place.write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content, enc_hook=str))
    return place


async def test_the_table_is_made_anew_from_the_files(any_store: AsyncSessionStore, tmp_path: Path) -> None:
    """Their fields and outcomes take the place of the rows; parents come in whatever the order of the names."""
    records = [session("b"), session("a", parent_session_id="b"), session("c", parent_session_id="a"), full("d")]
    for each in records:
        write(tmp_path, each.id, each)
    await any_store.learning.save(session("a", status=LearningStatus.FAILED))
    seen: list[tuple[int, int]] = []
    rebuilt = await any_store.learning.rebuild(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert (rebuilt.files, rebuilt.sessions, rebuilt.outcomes, rebuilt.rejections) == (4, 4, 2, ())
    assert {each.id: each for each in await any_store.learning.list()} == {each.id: each for each in records}
    assert seen[-1] == (4, 4)


async def test_a_plan_names_the_edits(store: AsyncSessionStore, tmp_path: Path) -> None:
    """The earlier store's files say nothing of them; a plan that is broken is told, and the session comes."""
    for name in ("good", "bad", "worse"):
        write(tmp_path, name, full(name))
    (tmp_path / "good" / "plan.json").write_bytes(msgspec.json.encode({"edits": [EDIT]}))
    (tmp_path / "bad" / "plan.json").write_bytes(b"{")
    (tmp_path / "worse" / "plan.json").write_bytes(b'{"edits": [{"id": "e1", "op": 3}]}')
    rebuilt = await store.learning.rebuild(tmp_path)
    assert (rebuilt.sessions, rebuilt.rejected) == (3, {"plans": 2})
    assert [each.session_id for each in await store.learning.outcomes(op=EDIT.op)] == ["good"]


BROKEN = {
    "empty": b"",
    "torn": b'{"id": "torn", "trig',
    "list": b"[]",
    "bytes": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "nan": b'{"id": "nan", "teacher_cost_usd": NaN}',
    "other": {"id": "another one"},
    "naive": {"id": "naive", "started_at": "2026-03-01T09:00:00"},
    "itself": {"id": "itself", "parent_session_id": "itself"},
}


async def test_broken_files_do_not_stop_the_rest(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Each is told with its place; the row it had stays. What is no file, a pipe even, holds nobody up."""
    for name, content in BROKEN.items():
        write(tmp_path, name, content if isinstance(content, bytes) else {**as_json(session()), **content})
    write(tmp_path, "good", session("good"))
    write(tmp_path, "surprising", {**as_json(session("surprising")), "of_a_later_version": 1})
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "session.json")
    (tmp_path / "folder" / "session.json").mkdir(parents=True)
    (tmp_path / "nothing").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a file").write_text("")
    await store.learning.save(session("torn"))
    rebuilt = await store.learning.rebuild(tmp_path)
    assert {each.id for each in await store.learning.list()} == {"good", "surprising", "torn"}
    assert (rebuilt.files, rebuilt.sessions, rebuilt.rejected) == (13, 2, {"sessions": 11})
    told = {Path(each.file).parent.name: each.reason for each in rebuilt.rejections}
    assert told.keys() == {*BROKEN, "pipe", "folder"}
    assert "started_at" in told["naive"]
    assert "JSON" in told["torn"]


async def test_large_files_are_not_read(path: Path, tmp_path: Path) -> None:
    """As large as a session may be, and no more."""
    async with AsyncSessionStore(path, limits=Limits(row_bytes=4096)) as store:
        write(tmp_path, "large", session("large", error="x" * 5000))
        rebuilt = await store.learning.rebuild(tmp_path)
        assert (rebuilt.sessions, "4096 are allowed" in rebuilt.rejections[0].reason) == (0, True)


async def test_what_no_file_has_stays(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Sessions are told of; outcomes that were saved by themselves, and what is known of their edits, are kept."""
    for name in ("with", "without"):
        await store.learning.save(full(name), edits=[EDIT])
    await store.learning.save_outcome("with", outcome("e3"))
    known = await store.learning.outcomes("with")
    write(tmp_path, "with", full("with"))
    assert (await store.learning.rebuild(tmp_path)).without_file == ("without",)
    assert await store.learning.outcomes("with") == known
    assert await store.learning.get("without") == full("without")


async def test_a_lost_parent_does_not_take_its_children(store: AsyncSessionStore, tmp_path: Path) -> None:
    """They come in as their files say, are told of, and can be saved again."""
    child = session("child", parent_session_id="lost")
    write(tmp_path, "child", child)
    rebuilt = await store.learning.rebuild(tmp_path)
    assert (rebuilt.sessions, rebuilt.rejected) == (1, {"parents": 1})
    assert await store.learning.save(child) == child
    with pytest.raises(SessionNotFound):
        await store.learning.save(session("child", parent_session_id="also lost"))


async def test_many_files_come_in_chunks(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Other writes go in between; what the progress raises ends it, and the next rebuild goes on."""
    names = [f"s{n:03}" for n in range(AT_ONCE * 2 + 1)]
    for at, name in enumerate(names):
        write(tmp_path, name, session(name, parent_session_id=names[at + 1] if at + 1 < len(names) else None))

    def stop(done: int, total: int) -> None:
        raise KeyError(done)

    with pytest.raises(KeyError):
        await store.learning.rebuild(tmp_path, progress=stop)
    assert await count(store, "learning_sessions") == AT_ONCE
    rebuilt = await store.learning.rebuild(tmp_path)
    assert (rebuilt.sessions, rebuilt.rejections) == (len(names), ())


async def test_a_save_during_a_rebuild_is_not_undone(
    store: AsyncSessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of a file is in the table before the file can be replaced."""
    write(tmp_path, "s", session(error="old"))
    read, entered, go_on = files.read, threading.Event(), threading.Event()

    def slow(directory: str, name: str, file: str, most: int) -> bytes | None:
        content = read(directory, name, file, most)
        if file == files.PLAN:  # of the second pass
            entered.set()
            go_on.wait(10)
        return content

    monkeypatch.setattr(files, "read", slow)
    rebuilding = asyncio.create_task(store.learning.rebuild(tmp_path))
    await asyncio.to_thread(entered.wait, 10)
    saving = asyncio.create_task(store.learning.save(session(error="new"), directory=tmp_path))
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(rebuilding, saving)
    assert (await store.learning.get("s")).error == "new"


async def test_a_missing_directory_is_an_error(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Who mistypes one is not told that all went well."""
    with pytest.raises(FileNotFoundError):
        await store.learning.rebuild(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        await store.learning.rebuild(tmp_path / "file")


def test_parents_stand_first_and_circles_end() -> None:
    """Whatever the order, and whatever the files say."""
    assert parents_first({"c": "b", "b": "a", "a": None, "d": "gone"}) == ["a", "b", "c", "d"]
    assert sorted(parents_first({"a": "b", "b": "c", "c": "a", "d": "a"})) == ["a", "b", "c", "d"]
    assert parents_first({"a": "a"}) == ["a"]
    long = {str(n): str(n + 1) for n in range(50_000)}
    assert parents_first(long)[0] == str(49_999)


# -- the pages -------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("table", ["learning_sessions", "edit_outcomes"])
async def test_the_schema_page_names_every_column(memory: AsyncSessionStore, table: str) -> None:
    """And nothing that is not there."""
    page = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{table}` \|.*$", page, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", row)) - {table}
    await memory.learning.save(full())
    assert named == set((await memory.query(f"SELECT * FROM {table}"))[0].columns)


def _migrating() -> Iterator[list[str]]:
    page = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    section = page.partition("\n## OpenJarvis's SessionStore\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_page_for_those_who_come_has_every_method() -> None:
    """One row each, and each names a method of ours that there is."""
    table = list(_migrating())
    assert [re.findall(r"`([\w.]+)", there)[0] for there, *_ in table] == [
        "SessionStore", "save_session", "get_session", "list_sessions", "save_outcome", "list_outcomes", "close",
    ]  # fmt: skip
    rooms = {"learning": Learning, "store": AsyncSessionStore}
    for _, here, what in table:
        for room, method in re.findall(r"`(learning|store)\.(\w+)", f"{here} {what}"):
            assert hasattr(rooms[room], method), method
    for name in re.findall(r"`([A-Z][a-z]\w+)", "".join(here for _, here, _ in table)):
        assert hasattr(recollect, name), name
