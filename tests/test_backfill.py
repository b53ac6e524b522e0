"""`store.backfill`: every source in one call, as often as one likes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from recollect import AsyncSessionStore, Backfilled
from recollect.importers.source import Progress

CALL = {
    "type": "assistant",
    "uuid": "a1",
    "sessionId": "s1",
    "timestamp": "2026-03-01T09:00:04Z",
    "message": {
        "id": "m",
        "content": [{"type": "tool_use", "id": "c", "name": "Read", "input": {"file_path": "a.py"}}],
    },
}
RESULT = {
    "type": "user",
    "uuid": "u1",
    "sessionId": "s1",
    "timestamp": "2026-03-01T09:00:05Z",
    "message": {"content": [{"type": "tool_result", "tool_use_id": "c", "content": "ok"}]},
}
ALL = {"issues": 1, "loops": 1, "tools": 1, "files": 1}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an issue, a loop that runs, and a transcript."""
    (tmp_path / ".issues").mkdir()
    (tmp_path / ".issues" / "P1-BUG-1-it-stops.md").write_text("---\nstatus: open\n---\n# BUG-1: It stops\n")
    (tmp_path / ".loops" / ".running").mkdir(parents=True)
    log = tmp_path / ".loops" / ".running" / "fix.events.jsonl"
    log.write_text('{"event": "loop_start", "ts": "2026-03-01T09:00:00Z", "loop": "fix"}\n')
    (tmp_path / "transcripts").mkdir()
    (tmp_path / "transcripts" / "s1.jsonl").write_text(f"{json.dumps(CALL)}\n{json.dumps(RESULT)}\n")
    return tmp_path


async def backfill(store: AsyncSessionStore, project: Path) -> Backfilled:
    return await store.backfill(
        issues_dir=project / ".issues", loops_dir=project / ".loops", transcripts=project / "transcripts"
    )


async def test_everything_comes_in_one_call_and_once(store: AsyncSessionStore, project: Path) -> None:
    """A second call opens nothing and records nothing."""
    first = await backfill(store, project)
    assert (first.inserted, first.files, first.rejections) == (ALL, 3, ())
    assert sorted(await store.events.kinds()) == ["file", "issue", "loop", "tool"]
    second = await backfill(store, project)
    assert (second.inserted.total(), second.unchanged) == (0, 3)
    assert await store.sessions.count() == 0  # what was said is for another importer


async def test_sources_that_are_not_named_are_left_out(any_store: AsyncSessionStore, project: Path) -> None:
    """One at a time comes to the same; transcripts may be several."""
    store = any_store
    assert (await store.backfill()).files == 0
    assert (await store.backfill(issues_dir=project / ".issues")).inserted == {"issues": 1}
    assert (await store.backfill(loops_dir=str(project / ".loops"))).inserted == {"loops": 1}
    file = project / "transcripts" / "s1.jsonl"
    assert (await store.backfill(transcripts=[file, file.parent])).inserted == {"tools": 1, "files": 1}


@pytest.mark.parametrize("name", ["issues_dir", "loops_dir", "transcripts"])
async def test_a_folder_that_is_not_there_is_an_error(store: AsyncSessionStore, project: Path, name: str) -> None:
    """Before anything is read."""
    places = {"issues_dir": project / ".issues", "transcripts": project / "transcripts", name: project / "nowhere"}
    with pytest.raises(FileNotFoundError):
        await store.backfill(**places)
    assert await store.events.kinds() == []


async def test_progress_tells_of_every_source(store: AsyncSessionStore, project: Path) -> None:
    """In the order of the files, to the end of each."""
    told: list[Progress] = []
    await store.backfill(
        issues_dir=project / ".issues", loops_dir=project / ".loops", transcripts=project / "transcripts",
        progress=told.append,
    )  # fmt: skip
    ends = [Path(each.file).suffix for each in told if each.files_done == each.files_total]
    assert ends == [".md", ".jsonl", ".jsonl"]
    assert all(each.bytes_done <= each.bytes_total for each in told)


async def test_a_cancelled_backfill_goes_on_where_it_stopped(store: AsyncSessionStore, project: Path) -> None:
    """What is in is in, with its cursor."""

    def stop(_: Progress) -> None:
        task.cancel()

    task = asyncio.ensure_future(
        store.backfill(issues_dir=project / ".issues", loops_dir=project / ".loops", progress=stop)
    )
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.events.kinds() == ["issue"]
    assert (await backfill(store, project)).inserted == {"loops": 1, "tools": 1, "files": 1}
    assert sorted(await store.events.kinds()) == ["file", "issue", "loop", "tool"]
    assert (await backfill(store, project)).inserted.total() == 0


async def test_two_backfills_at_once_record_nothing_twice(store: AsyncSessionStore, project: Path) -> None:
    """Each event is inserted by one of them."""
    first, second = await asyncio.gather(backfill(store, project), backfill(store, project))
    assert first.inserted + second.inserted == ALL
    (row,) = await store.query("SELECT COUNT(*) AS n FROM events")
    assert row.n == 4


async def test_others_do_not_wait_for_a_backfill(store: AsyncSessionStore, project: Path) -> None:
    """It stays on the background lane: an append meanwhile is in, in between."""
    many = project / "transcripts" / "many.jsonl"
    lines = [
        json.dumps(CALL | {"message": {"content": [CALL["message"]["content"][0] | {"id": f"c{n}"}]}})
        for n in range(8_000)
    ]  # type: ignore[index]
    many.write_text("\n".join(lines) + "\n")
    await store.sessions.create("s1")
    seen: list[int] = []

    async def say() -> None:
        while not running.done():
            await store.messages.append("s1", role="user", content="meanwhile")
            seen.append((await store.stats()).events)

    running = asyncio.ensure_future(backfill(store, project))
    await say()
    assert running.result().inserted["tools"] == 8_001
    assert len(set(seen)) > 2
