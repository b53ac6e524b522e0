"""Operations on the tables `learning_sessions` and `edit_outcomes`: checked records in, records out.

No foreign key ties a session to its parent: a parent whose file is lost must not take its children out
of the table. So it is looked for in the same transaction; nothing ever deletes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from ..encoding import EPOCH, decode_json
from ..engine.operation import Operation, Row, all, ids, many, one
from ..errors import SessionNotFound
from ..filters import Filter
from .given import Given, as_outcome
from .models import (
    AutonomyMode,
    BenchmarkSnapshot,
    LearningSession,
    LearningStatus,
    OutcomeStatus,
    RecordedOutcome,
    TriggerKind,
)

_MICROSECOND = timedelta(microseconds=1)

_COLUMNS = (
    "id", "parent_session_id", "trigger_kind", "trigger_metadata", "status", "autonomy_mode", "started_at",
    "started_instant", "ended_at", "diagnosis_path", "plan_path", "benchmark_before", "benchmark_after",
    "git_checkpoint_pre", "git_checkpoint_post", "teacher_cost_usd", "error",
)  # fmt: skip

_OUTCOME_COLUMNS = (
    "id", "session_id", "edit_id", "pillar", "op", "target", "risk_tier", "status", "benchmark_delta",
    "cluster_deltas", "rationale", "error", "applied_at",
)  # fmt: skip


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


_PUT_SESSION = f"""
{_insert("learning_sessions", _COLUMNS)}
ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])}"""

_KEPT = ("pillar", "op", "target", "risk_tier", "benchmark_delta", "error", "applied_at")

_PUT_OUTCOME = f"""
{_insert("edit_outcomes", _OUTCOME_COLUMNS)}
ON CONFLICT (session_id, edit_id) DO UPDATE SET status = excluded.status,
  {", ".join(f"{name} = COALESCE(excluded.{name}, edit_outcomes.{name})" for name in _KEPT)},
  cluster_deltas = CASE WHEN excluded.cluster_deltas = '{{}}' THEN edit_outcomes.cluster_deltas
    ELSE excluded.cluster_deltas END,
  rationale = CASE WHEN excluded.rationale = '' THEN edit_outcomes.rationale ELSE excluded.rationale END"""
"""what is said again takes the place of what was known, what is not said leaves it. It is the rule of
`given.merged`, which files need, once more: of several writers at once, none may undo what another one said."""


# -- writing ---------------------------------------------------------------------------------------


def save(given: Given) -> Operation[LearningSession]:
    """Puts a session in place of the one with its id, adds its outcomes to those that are there, and
    returns all of it. Raises SessionNotFound for a parent that is not there."""
    yield from check_parent(given.session)
    yield from put([given])
    session = yield from read_session(given.session.id)
    assert session is not None
    return session


def check_parent(session: LearningSession) -> Operation[None]:
    """Raises SessionNotFound for a parent that is not there, unless the session is stored with it already:
    a file may have said so whose parent's file is lost."""
    parent = session.parent_session_id
    if parent is None:
        return
    before = yield one("SELECT parent_session_id AS parent FROM learning_sessions WHERE id = :id", id=session.id)
    if (before is None or before.parent != parent) and (yield from missing_of([parent])):
        raise missing(parent)


def missing(session_id: str) -> SessionNotFound:
    """The error of a write for a learning session that is not there."""
    return SessionNotFound(f"no learning session {session_id!r}; not stored: save it first")


def missing_of(session_ids: Sequence[str]) -> Operation[set[str]]:
    """Which of these are not there."""
    if not session_ids:
        return set()
    rows = yield all("SELECT id FROM learning_sessions WHERE id IN :ids", ids=list(session_ids))
    return {*session_ids} - {row.id for row in rows}


def put(several: Sequence[Given]) -> Operation[None]:
    """Writes sessions and their outcomes, whatever their parents."""
    yield many(_PUT_SESSION, [_row_of(given.session) for given in several])
    yield from put_outcomes([outcome for given in several for outcome in given.outcomes])


def put_outcomes(outcomes: Sequence[RecordedOutcome]) -> Operation[None]:
    """Writes outcomes of sessions that are there."""
    if outcomes:
        numbers = yield ids(len(outcomes))
        rows = [_outcome_row(number, outcome) for number, outcome in zip(numbers, outcomes, strict=True)]
        yield many(_PUT_OUTCOME, rows)


def save_outcome(outcome: RecordedOutcome) -> Operation[RecordedOutcome]:
    """Writes one outcome and returns all that is known of it. Raises SessionNotFound."""
    if (yield from missing_of([outcome.session_id])):
        raise missing(outcome.session_id)
    yield from put_outcomes([outcome])
    where = Filter()
    where.among("session_id", outcome.session_id)
    where.among("edit_id", outcome.edit_id)
    (stored,) = yield from read_outcomes(where)
    return stored


def put_indexed(several: Sequence[Given]) -> Operation[set[str]]:
    """Writes what files say; returns the parents that are not there, which is no reason to leave anything out."""
    yield from put(several)
    return (yield from missing_of(sorted({id for given in several if (id := given.session.parent_session_id)})))


def _row_of(session: LearningSession) -> tuple[Any, ...]:
    after = session.benchmark_after
    return (
        session.id, session.parent_session_id, str(session.trigger), _json(session.trigger_metadata),
        str(session.status), str(session.autonomy_mode), session.started_at.isoformat(),
        (session.started_at - EPOCH) // _MICROSECOND, _iso(session.ended_at), str(session.diagnosis_path),
        str(session.plan_path), _json(session.benchmark_before), None if after is None else _json(after),
        session.git_checkpoint_pre, session.git_checkpoint_post, session.teacher_cost_usd, session.error,
    )  # fmt: skip


def _outcome_row(number: int, outcome: RecordedOutcome) -> tuple[Any, ...]:
    return (
        number, outcome.session_id, outcome.edit_id, outcome.pillar, outcome.op, outcome.target, outcome.risk_tier,
        str(outcome.status), outcome.benchmark_delta, _json(outcome.cluster_deltas), outcome.rationale,
        outcome.error, _iso(outcome.applied_at),
    )  # fmt: skip


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


# -- reading ---------------------------------------------------------------------------------------


def read_session(session_id: str) -> Operation[LearningSession | None]:
    """A session with its outcomes, or None."""
    where = Filter()
    where.among("id", session_id)
    found = yield from read_sessions(where, None)
    return found[0] if found else None


def read_sessions(where: Filter, limit: int | None) -> Operation[list[LearningSession]]:
    """Sessions with their outcomes, the newest first by the instant at which they began."""
    if limit == 0:
        return []
    sql = f"SELECT {', '.join(_COLUMNS)} FROM learning_sessions WHERE id IS NOT NULL{where.sql}"
    sql, params = f"{sql} ORDER BY started_instant DESC, id DESC", dict(where.params)
    if limit is not None:
        sql, params = f"{sql} LIMIT :limit", {**params, "limit": limit}
    rows = yield all(sql, **params)
    outcomes: dict[str, list[RecordedOutcome]] = {row.id: [] for row in rows}
    if rows:
        of_these = Filter()
        of_these.among("session_id", list(outcomes))
        for outcome in (yield from read_outcomes(of_these)):
            outcomes[outcome.session_id].append(outcome)
    return [_session(row, outcomes[row.id]) for row in rows]


def read_outcomes(where: Filter) -> Operation[list[RecordedOutcome]]:
    """Outcomes in the order in which they were first stored."""
    columns = ", ".join(_OUTCOME_COLUMNS)
    rows = yield all(f"SELECT {columns} FROM edit_outcomes WHERE id IS NOT NULL{where.sql} ORDER BY id", **where.params)
    return [_outcome(row) for row in rows]


def read_known(session: LearningSession) -> Operation[list[RecordedOutcome]]:
    """The outcomes that are known of a session about to be saved. Raises SessionNotFound like `save`."""
    yield from check_parent(session)
    where = Filter()
    where.among("session_id", session.id)
    return (yield from read_outcomes(where))


def read_ids() -> Operation[list[str]]:
    """The ids of all sessions, in order."""
    rows = yield all("SELECT id FROM learning_sessions ORDER BY id")
    return [row.id for row in rows]


def _session(row: Row, outcomes: Iterable[RecordedOutcome]) -> LearningSession:
    return LearningSession(
        id=row.id,
        parent_session_id=row.parent_session_id,
        trigger=TriggerKind(row.trigger_kind),
        trigger_metadata=decode_json(row.trigger_metadata),
        status=LearningStatus(row.status),
        autonomy_mode=AutonomyMode(row.autonomy_mode),
        started_at=datetime.fromisoformat(row.started_at),
        ended_at=_time(row.ended_at),
        diagnosis_path=Path(row.diagnosis_path),
        plan_path=Path(row.plan_path),
        benchmark_before=_snapshot(row.benchmark_before),
        benchmark_after=None if row.benchmark_after is None else _snapshot(row.benchmark_after),
        edit_outcomes=[as_outcome(outcome) for outcome in outcomes],
        git_checkpoint_pre=row.git_checkpoint_pre,
        git_checkpoint_post=row.git_checkpoint_post,
        teacher_cost_usd=row.teacher_cost_usd,
        error=row.error,
    )


def _snapshot(text: str) -> BenchmarkSnapshot:
    return msgspec.json.decode(text, type=BenchmarkSnapshot)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _outcome(row: Row) -> RecordedOutcome:
    return RecordedOutcome(
        edit_id=row.edit_id,
        status=OutcomeStatus(row.status),
        benchmark_delta=row.benchmark_delta,
        cluster_deltas=decode_json(row.cluster_deltas),
        error=row.error,
        applied_at=_time(row.applied_at),
        session_id=row.session_id,
        pillar=row.pillar,
        op=row.op,
        target=row.target,
        risk_tier=row.risk_tier,
        rationale=row.rationale,
    )
