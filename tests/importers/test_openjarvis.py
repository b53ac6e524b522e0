"""Learning sessions of OpenJarvis come in whole, once, and grow; what is broken is told with its place."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recollect import AsyncSessionStore, LearningSession, LearningStatus, Limits, NotAStore, OutcomeStatus
from recollect.importers import openjarvis
from recollect.importers.source import Progress

SCRIPT = (Path(__file__).parent / "openjarvis.sql").read_text(encoding="utf-8")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A file of two sessions with three outcomes in four rows."""
    path = tmp_path / "learning.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCRIPT)
    return path


@contextmanager
def changing(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


async def get(store: AsyncSessionStore, session_id: str) -> LearningSession:
    found = await store.learning.get(session_id)
    assert found
    return found


async def test_everything_comes_in(any_store: AsyncSessionStore, theirs: Path) -> None:
    """Each field of sessions and outcomes, times with their offsets."""
    result = await openjarvis.load(any_store, theirs)
    assert result.inserted == {"learning_sessions": 2, "edit_outcomes": 3}
    assert result.duplicate == {"edit_outcomes": 1}
    assert result.rejections == ()
    one, two = await get(any_store, "session-1"), await get(any_store, "session-2")
    assert one.started_at.isoformat() == "2026-03-01T09:00:00.123456+02:00"
    assert (one.ended_at, one.trigger, one.autonomy_mode) == (
        datetime(2026, 3, 1, 10, tzinfo=UTC),
        "scheduled",
        "tiered",
    )
    assert (one.trigger_metadata, one.teacher_cost_usd) == ({"why": "cluster 7", "n": [1, 2]}, 0.1)
    assert (one.diagnosis_path, one.plan_path) == (Path("d.md"), Path("p.json"))
    assert one.benchmark_after
    assert (one.benchmark_before.cluster_scores, one.benchmark_after.overall_score) == ({"c": 0.25}, 0.75)
    assert (one.git_checkpoint_pre, one.git_checkpoint_post, one.error) == ("abc", "def", None)
    assert (two.parent_session_id, two.status, two.ended_at) == ("session-1", LearningStatus.EXECUTING, None)
    assert [each.id for each in await any_store.learning.list()] == ["session-2", "session-1"]


async def test_rows_of_one_outcome_are_laid_over_one_another(store: AsyncSessionStore, theirs: Path) -> None:
    """There, saving one again added a row."""
    await openjarvis.load(store, theirs)
    first, second, third = await store.learning.outcomes()
    assert (first.edit_id, first.status, first.benchmark_delta) == ("e1", OutcomeStatus.ROLLED_BACK, 0.25)
    assert (first.pillar, first.op, first.target) == ("agent", "patch_system_prompt", "agents.simple.prompt")
    assert (first.risk_tier, first.rationale, first.cluster_deltas) == ("review", "it forgets", {"c": 0.5})
    assert first.applied_at == datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    assert (second.edit_id, second.error, third.session_id) == ("e2", "worse", "session-2")


async def test_a_second_time_there_is_nothing_new(store: AsyncSessionStore, theirs: Path) -> None:
    """Everything is counted as there already."""
    await openjarvis.load(store, theirs)
    before = await store.learning.list(), await store.learning.outcomes()
    again = await openjarvis.load(store, theirs)
    assert (again.inserted, again.amended, again.rejected) == ({}, {}, {})
    assert again.duplicate == {"learning_sessions": 2, "edit_outcomes": 4}
    assert (await store.learning.list(), await store.learning.outcomes()) == before


async def test_what_came_since_is_brought(store: AsyncSessionStore, theirs: Path) -> None:
    """A session, outcomes, a further row of one, and how a session ended."""
    await openjarvis.load(store, theirs)
    with changing(theirs) as there:
        there.execute(
            "INSERT INTO learning_sessions SELECT 'session-3', 'session-2', trigger, '{}', status, autonomy_mode,"
            " started_at, NULL, 'd', 'p', benchmark_before, NULL, 'x', NULL, 0, NULL FROM learning_sessions"
            " WHERE id = 'session-2'"
        )
        there.execute(
            "UPDATE learning_sessions SET status = 'failed', ended_at = '2026-03-02T00:00:00+01:00', error = 'worse'"
            " WHERE id = 'session-2'"
        )
        there.executemany(
            "INSERT INTO edit_outcomes (session_id, edit_id, pillar, op, target, risk_tier, status)"
            " VALUES (?, ?, 'agent', 'set_agent_param', 't', 'auto', ?)",
            [("session-2", "e1", "applied"), ("session-2", "e2", "applied"), ("session-3", "e1", "skipped")],
        )
    grown = await openjarvis.load(store, theirs)
    assert grown.inserted == {"learning_sessions": 1, "edit_outcomes": 2}
    assert grown.amended == {"learning_sessions": 1, "edit_outcomes": 1}
    assert grown.duplicate == {"learning_sessions": 1, "edit_outcomes": 4}
    two = await get(store, "session-2")
    assert (two.status, two.error, [each.status for each in two.edit_outcomes]) == ("failed", "worse", ["applied"] * 2)
    assert (await openjarvis.load(store, theirs)).amended == {}


async def test_what_was_saved_here_since_stays(store: AsyncSessionStore, theirs: Path) -> None:
    """The session and the outcome that were changed here are not taken back."""
    await openjarvis.load(store, theirs)
    two = await get(store, "session-2")
    changed = {"id": two.id, **{name: getattr(two, name) for name in two.__struct_fields__}, "status": "rolled_back"}
    await store.learning.save({**changed, "ended_at": two.started_at + timedelta(hours=1)})
    await store.learning.save_outcome("session-1", {"edit_id": "e1", "status": "pending_review"})
    with changing(theirs) as there:
        there.execute("UPDATE learning_sessions SET ended_at = started_at")
    assert (await openjarvis.load(store, theirs)).amended == {}
    assert (await get(store, "session-2")).status == "rolled_back"
    assert (await store.learning.outcomes("session-1"))[0].status == "pending_review"


POISON = [
    ("status", "dreaming"), ("started_at", "2026-03-01T08:00:00"), ("started_at", "soon"), ("trigger_metadata", "{"),
    ("trigger_metadata", "[]"), ("benchmark_before", "null"), ("benchmark_before", '{"overall_score": 7}'),
    ("benchmark_after", b"\xff\xfe"), ("teacher_cost_usd", -1), ("teacher_cost_usd", float("inf")),
    ("diagnosis_path", b"\x00"), ("id", None), ("id", ""), ("error", "x" * 5000),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), POISON, ids=range(len(POISON)))
async def test_a_session_that_cannot_be_understood_is_told(
    path: Path, theirs: Path, column: str, value: object
) -> None:
    """With the number of its row; its outcomes are told as well, and the other comes in, though it was its parent."""
    with changing(theirs) as there:
        there.execute(f"UPDATE learning_sessions SET {column} = ? WHERE id = 'session-1'", [value])
    async with AsyncSessionStore(path, limits=Limits(row_bytes=4096)) as store:
        result = await openjarvis.load(store, theirs)
        assert result.inserted == {"learning_sessions": 1, "edit_outcomes": 1}
        assert result.rejected == {"learning_sessions": 1, "edit_outcomes": 3, "parents": 1}
        told = {(each.kind, each.line) for each in result.rejections}
        assert told == {("learning_sessions", 2), ("parents", 1), *[("edit_outcomes", n) for n in (1, 2, 3)]}
        assert {each.file for each in result.rejections} == {str(theirs)}
        assert (await get(store, "session-2")).parent_session_id == "session-1"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("status", "lost"),
        ("cluster_deltas", '{"c": NaN}'),
        ("applied_at", "2026-03-01"),
        ("edit_id", ""),
        ("op", b"\x01"),
    ],
)
async def test_an_outcome_that_cannot_be_understood_is_told(
    store: AsyncSessionStore, theirs: Path, column: str, value: object
) -> None:
    """With its id; the others come in."""
    with changing(theirs) as there:
        there.execute(f"UPDATE edit_outcomes SET {column} = ? WHERE id = 2", [value])
    result = await openjarvis.load(store, theirs)
    assert [(each.kind, each.line) for each in result.rejections] == [("edit_outcomes", 2)]
    assert result.inserted == {"learning_sessions": 2, "edit_outcomes": 2}


async def test_numbers_that_json_has_no_word_for_come_as_text(store: AsyncSessionStore, theirs: Path) -> None:
    """There they are written even so."""
    with changing(theirs) as there:
        there.execute("UPDATE learning_sessions SET trigger_metadata = '{\"score\": NaN}' WHERE id = 'session-1'")
    await openjarvis.load(store, theirs)
    assert (await get(store, "session-1")).trigger_metadata == {"score": "NaN"}


async def test_outcomes_without_a_session_are_told(store: AsyncSessionStore, theirs: Path) -> None:
    """Where somebody took it out without foreign keys."""
    with changing(theirs) as there:
        there.execute("UPDATE edit_outcomes SET session_id = 'gone' WHERE id = 4")
    result = await openjarvis.load(store, theirs)
    assert [(each.kind, each.line) for each in result.rejections] == [("edit_outcomes", 4)]


async def test_the_file_is_not_changed(store: AsyncSessionStore, theirs: Path) -> None:
    """Not a byte, and nothing is left beside it; its owner may have it open and write."""
    before = hashlib.sha256(theirs.read_bytes()).hexdigest()
    await openjarvis.load(store, theirs)
    assert hashlib.sha256(theirs.read_bytes()).hexdigest() == before
    assert {each.name for each in theirs.parent.iterdir() if each.name.startswith("learning")} == {"learning.db"}
    with changing(theirs) as there:
        there.execute("PRAGMA journal_mode=WAL")
        there.execute("UPDATE learning_sessions SET id = 'session-9' WHERE id = 'session-2'")
        there.commit()
        assert (await openjarvis.load(store, theirs)).inserted["learning_sessions"] == 1


async def test_another_kind_of_file_is_refused(store: AsyncSessionStore, tmp_path: Path) -> None:
    """No database, one without the tables, none at all."""
    (tmp_path / "text").write_text("no database at all " * 100)
    with pytest.raises(NotAStore):
        await openjarvis.load(store, tmp_path / "text")
    with changing(tmp_path / "other.db") as there:
        there.execute("CREATE TABLE learning_sessions (id TEXT)")
    with pytest.raises(NotAStore, match="edit_outcomes"):
        await openjarvis.load(store, tmp_path / "other.db")
    with pytest.raises(FileNotFoundError):
        await openjarvis.load(store, tmp_path / "none")


async def test_ids_that_are_numbers_are_told(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Of a file with tables of the same names: nothing comes in, and each row is told with its number."""
    with changing(tmp_path / "other.db") as there:
        there.execute("CREATE TABLE learning_sessions (id INTEGER PRIMARY KEY, parent_session_id TEXT)")
        there.execute("CREATE TABLE edit_outcomes (id INTEGER PRIMARY KEY, session_id TEXT)")
        there.execute("INSERT INTO learning_sessions VALUES (7, 'a')")
    imported = await openjarvis.load(store, tmp_path / "other.db")
    assert [(each.kind, each.line) for each in imported.rejections] == [("learning_sessions", 7)]


async def test_progress_is_told_and_ends_the_import(store: AsyncSessionStore, theirs: Path) -> None:
    """On the loop, after every session; the next import goes on."""
    loop, seen = asyncio.get_running_loop(), list[Progress]()

    def stop(progress: Progress) -> None:
        assert asyncio.get_running_loop() is loop
        raise KeyError

    with pytest.raises(KeyError):
        await openjarvis.load(store, theirs, progress=stop)
    assert [each.id for each in await store.learning.list()] == ["session-1"]  # the parent comes first
    result = await openjarvis.load(store, theirs, progress=seen.append)
    assert result.inserted == {"learning_sessions": 1, "edit_outcomes": 1}
    assert (seen[-1].files_done, seen[-1].bytes_done) == (1, seen[-1].bytes_total)
