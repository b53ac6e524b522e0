"""The question of the example `loops_on_file.py` and of docs/schema.md: what it finds, and how it looks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore, FileEvent, IssueEvent, LoopEvent, Row

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data"

sys.path.insert(0, str(ROOT / "examples"))
try:
    from loops_on_file import QUERY, run, write
finally:
    sys.path.remove(str(ROOT / "examples"))

FAILURES: list[dict[str, Any]] = [
    {"transition": "failed"}, {"transition": "timed_out"},
    {"transition": "loop_complete", "state": "failed"}, {"transition": "loop_complete", "state": "error"},
]  # fmt: skip


async def ask(store: AsyncSessionStore, path: str = "src/net.py", full: str = "/w/src/net.py") -> list[Row]:
    return await store.query(QUERY, path=path, full=full)


async def loop(store: AsyncSessionStore, run_id: str, issue_id: str | None, **ending: Any) -> None:
    """A run, of which only the first event says what it is about."""
    await store.events.record(LoopEvent(loop_name="fix", transition="loop_start", run_id=run_id, issue_id=issue_id))
    await store.events.record(LoopEvent(loop_name="fix", run_id=run_id, **ending))


def test_it_is_the_one_that_is_documented():
    """Word by word."""
    page = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    assert re.findall(r"```sql\n(.*?)\n```", page, re.DOTALL) == [QUERY.strip("\n")]


@pytest.mark.parametrize("ending", FAILURES, ids=["failed", "timed_out", "complete-failed", "complete-error"])
async def test_a_failed_run_on_an_issue_with_the_file_is_found(
    recollect_store: AsyncSessionStore, ending: dict[str, Any]
) -> None:
    """Once, however often it says so; not one that went well, nor one on another issue, nor one on none."""
    store = recollect_store
    await store.events.record(FileEvent(path="src/net.py", op="mentioned", issue_id="BUG-7"))
    await store.events.record(FileEvent(path="src/other.py", op="mentioned", issue_id="BUG-8"))
    await loop(store, "r1", "BUG-7", **ending)
    await store.events.record(LoopEvent(loop_name="fix", run_id="r1", **ending))
    await loop(store, "r2", "BUG-7", transition="loop_complete", state="done")
    await loop(store, "r3", "BUG-8", **ending)
    await loop(store, "r4", None, **ending)
    assert [tuple(row)[:3] for row in await ask(store)] == [("fix", "r1", "BUG-7")]


@pytest.mark.parametrize("path", ["src/net.py", "/w/src/net.py"])
async def test_what_an_issues_session_touched_counts(recollect_store: AsyncSessionStore, path: str) -> None:
    """In either spelling; and a run whose issue only another event of the run tells."""
    store = recollect_store
    await store.events.record(IssueEvent(issue_id="BUG-7", transition="started", session_id="s", run_id="r1"))
    await store.events.record(FileEvent(path=path, op="edit", session_id="s"))
    await loop(store, "r1", None, transition="failed")
    assert [tuple(row)[:3] for row in await ask(store)] == [("fix", "r1", "BUG-7")]


async def test_every_step_goes_by_an_index(recollect_store: AsyncSessionStore) -> None:
    """By path, session, issue and run; never through all events, nor through all of a kind."""
    plan = [row.detail for row in await recollect_store.query(f"EXPLAIN QUERY PLAN {QUERY}", path="a", full="b")]
    steps = [detail for detail in plan if re.search(r"\bevents\b", detail)]
    indexes = [re.findall(r"^SEARCH \w+ USING INDEX (\w+)", detail) for detail in steps]
    assert indexes == [
        ["events_path"], ["events_session"], ["events_issue"], ["events_issue"], ["events_run"]
    ]  # fmt: skip


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real issues and transcripts are not at {REAL}")
async def test_real_issues_are_found_by_the_files_they_name(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Runs on three of the issues that name a file, and on one that does not: those of the three that failed."""
    await store.backfill(issues_dir=REAL / "issues", transcripts=REAL / "claude_code")
    path = "scripts/little_loops/fsm/schema.py"
    naming = {event.issue_id async for event in store.events.stream(kind="file", path=path)}
    about = {event.issue_id: event.text or "" async for event in store.events.stream(kind="issue")}
    assert len(naming) >= 10
    assert all(path in about[issue_id or ""] for issue_id in naming)
    one, two, three = sorted(map(str, naming))[:3]
    other = next(str(issue_id) for issue_id, text in about.items() if "schema.py" not in text)
    for hour, (issue_id, state) in enumerate([(one, "failed"), (two, "done"), (three, "failed"), (other, "failed")]):
        start = f"2026-03-02T0{hour}0000"
        write(tmp_path / ".history" / f"{start}-fix" / "events.jsonl", run("fix", start, issue_id, state))
    assert (await store.backfill(loops_dir=tmp_path)).inserted == {"loops": 16}
    rows = await ask(store, path)
    assert rows[0].keys() == ("loop_name", "run_id", "issue_id", "at")
    assert [row.issue_id for row in rows] == [three, one]  # the latest first
