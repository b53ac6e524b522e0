"""Runs of loops: while they go on, when they are archived, in every layout there was."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore, RecordedEvent
from recollect.importers import loops

RUN = "2026-03-01T090000-fix-types"
INSTANCE = "fix-types-20260301T100000"  # in local time, which need not be that of the run
STARTED = {"loop_name": "fix-types", "started_at": "2026-03-01T09:00:00Z"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A `.loops` folder."""
    path = tmp_path / ".loops"
    (path / ".running").mkdir(parents=True)
    return path


def state(status: str = "running", now: str = "verify", minute: int = 5, **more: Any) -> dict[str, Any]:
    return {
        **STARTED, "current_state": now, "updated_at": f"2026-03-01T09:{minute:02}:00Z", "status": status,
        "iteration": 4, "last_result": {"verdict": "pineapple"}, **more,
    }  # fmt: skip


def event(name: str, second: int = 0, **more: Any) -> dict[str, Any]:
    return {"event": name, "ts": f"2026-03-01T09:04:{second:02}Z", **more}


EVENTS = [
    event("state_enter", 1, run_id=RUN, loop="fix-types", state="verify", iteration=4),
    event("route", 2, run_id=RUN, loop="fix-types", **{"from": "verify", "to": "done"}),
    event("loop_complete", 3, run_id=RUN, loop="fix-types", final_state="done", terminated_by="terminal"),
]


def lines(*given: Any) -> bytes:
    return b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in given)


def write(path: Path, *given: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lines(*given))
    return path


async def recorded(store: AsyncSessionStore) -> list[RecordedEvent]:
    return [event async for event in store.events.stream()]


async def test_a_run_becomes_its_state_and_its_events(store: AsyncSessionStore, folder: Path) -> None:
    """With the loop, the run, the states it went through, and all that was told."""
    write(folder / ".running" / f"{INSTANCE}.state.json", state())
    log = write(folder / ".running" / f"{INSTANCE}.events.jsonl", *EVENTS)
    imported = await loops.load(store, folder)
    assert (imported.inserted, imported.rejections) == ({"loops": 4}, ())
    found = {event.action: event for event in await recorded(store)}
    assert {(event.name, event.run_id, event.kind) for event in found.values()} == {("fix-types", RUN, "loop")}
    assert found["route"].payload == {**EVENTS[1], "state": "done"}
    assert found["route"].anchor == f"{log}:2"
    assert found["running"].payload == {**state(), "state": "verify"}
    assert found["running"].at == datetime(2026, 3, 1, 9, 5, tzinfo=UTC)
    rows = await store.query("SELECT transition, state FROM loop_events ORDER BY at")
    assert [(row.transition, row.state) for row in rows] == [
        ("state_enter", "verify"), ("route", "done"), ("loop_complete", "done"), ("running", "verify"),
    ]  # fmt: skip
    assert [hit.ref async for hit in store.search("pineapple")] == ["fix-types"]


async def test_a_run_that_is_archived_brings_nothing_twice(store: AsyncSessionStore, folder: Path) -> None:
    """Its lines are known again, with a run of their own or by the state beside them; its state is the latest."""
    running, archived = folder / ".running", folder / ".history" / RUN
    bare = [{k: v for k, v in each.items() if k not in ("run_id", "loop")} for each in EVENTS]
    write(running / f"{INSTANCE}.state.json", state())
    log = write(running / f"{INSTANCE}.events.jsonl", *EVENTS[:2], *bare[:2])
    assert (await loops.load(store, folder)).inserted == {"loops": 5}
    archived.mkdir(parents=True)
    shutil.move(log, archived / "events.jsonl")
    (running / f"{INSTANCE}.state.json").unlink()
    write(archived / "state.json", state("completed", "done", 9))
    with (archived / "events.jsonl").open("ab") as file:
        file.write(lines(EVENTS[2]))
    imported = await loops.load(store, folder)
    assert (imported.inserted, imported.amended, imported.duplicate) == ({"loops": 1}, {"loops": 1}, {"loops": 4})
    assert sorted(event.action or "" for event in await recorded(store)) == [
        "completed", "loop_complete", "route", "route", "state_enter", "state_enter",
    ]  # fmt: skip
    assert {event.run_id for event in await recorded(store)} == {RUN}


@pytest.mark.parametrize(
    "place",
    [".history/{run}/", ".history/fix-types/2026-03-01T090000/", ".history/old.", ".running/fix-types."],
)
@pytest.mark.parametrize("told", [True, False])
async def test_every_layout_is_read(store: AsyncSessionStore, folder: Path, place: str, told: bool) -> None:
    """Run and loop are those of the state, or else of where it lies."""
    start = f"{folder}/{place.format(run=RUN)}"
    said = state()
    if not told:
        said = {name: value for name, value in said.items() if name not in STARTED}
    write(Path(start + "state.json"), said)
    write(Path(start + "events.jsonl"), event("action_start", 1, state="verify"))
    assert (await loops.load(store, folder)).inserted == {"loops": 2}
    runs = {(event.run_id, event.name) for event in await recorded(store)}
    if told or place.endswith("/"):
        assert runs == {(RUN, "fix-types")}
    else:
        assert len(runs) == 1


async def test_other_files_of_a_run_are_passed_over(store: AsyncSessionStore, folder: Path) -> None:
    """Summaries, what a run left behind, and loops themselves."""
    for name in ("summary.json", "deep/er/state.json", "meta-eval.jsonl"):
        write(folder / ".history" / RUN / name, {"a": 1})
    write(folder / "runs" / "state.json", state())
    assert (await loops.load(store, folder)).files == 0


async def test_a_state_is_replaced_by_a_later_one(store: AsyncSessionStore, folder: Path) -> None:
    """In place, and not by an earlier one, such as an old copy has."""
    path = write(folder / ".running" / "a.state.json", state())
    await loops.load(store, folder)
    (before,) = await recorded(store)
    await store.flush(index=True)
    write(path, state("awaiting_continuation", "review", 7, continuation_prompt="go on with the mango"))
    assert (await loops.load(store, folder)).amended == {"loops": 1}
    (after,) = await recorded(store)
    assert (after.id, after.action, after.at.minute) == (before.id, "awaiting_continuation", 7)
    assert [hit.ref async for hit in store.search("mango")] == ["fix-types"]
    assert [hit.ref async for hit in store.search("verify")] == []
    copy = folder.parent / "copy" / ".running"
    write(copy / "a.state.json", state(minute=6))
    assert (await loops.load(store, copy)).duplicate == {"loops": 1}
    assert await recorded(store) == [after]


async def test_a_log_that_has_grown_costs_what_was_added(store: AsyncSessionStore, folder: Path) -> None:
    """Repeated lines are events of their own; a torn last one waits; the second run opens nothing."""
    log = write(folder / ".running" / "a.events.jsonl", EVENTS[0], EVENTS[0])
    assert (await loops.load(store, log)).inserted == {"loops": 2}
    assert (await loops.load(store, log)).unchanged == 1
    torn = lines(EVENTS[0], EVENTS[1])
    for part, new in ((torn[:-9], 1), (torn[-9:], 1)):
        with log.open("ab") as file:
            file.write(part)
        imported = await loops.load(store, log)
        assert (imported.inserted, imported.duplicate.total(), imported.rejected.total()) == ({"loops": new}, 0, 0)
    assert [event.anchor for event in await recorded(store)] == [f"{log}:{n}" for n in (1, 2, 3, 4)]


async def test_what_comes_by_the_thousand_is_left_out(store: AsyncSessionStore, folder: Path) -> None:
    """And counted."""
    write(folder / ".running" / "a.events.jsonl", EVENTS[0], *[event("action_output", line="x")] * 5)
    imported = await loops.load(store, folder)
    assert (imported.inserted, imported.skipped) == ({"loops": 1}, {"action_output": 5})


async def test_what_is_broken_stops_nothing(store: AsyncSessionStore, folder: Path) -> None:
    """Counted with its place, once; what has no time has that of the line before, or of the file."""
    running = folder / ".running"
    surrogate = b'{"event": "state_enter", "loop": "l", "state": "\\ud800", "run_id": "\\u0000"}'
    deep = b'{"event": "route", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    log = write(running / "a.events.jsonl", b"{not json", b"[1, 2]", b"null", b"\xff\xfe", surrogate, deep, b"",
                {"event": "state_enter", "run_id": 5, "ts": "soon"}, EVENTS[0])  # fmt: skip
    os.utime(log, (1_750_000_000, 1_750_000_000))
    write(running / "b.state.json", b"{torn")
    write(running / "c.json", b"[]")
    write(running / "d.json", {"x": float("nan"), "status": "running"})
    write(running / "e.json", {})
    write(running / "f.state.json", state())
    imported = await loops.load(store, folder)
    assert imported.inserted == {"loops": 4}
    assert imported.rejected == {"lines": 5, "loops": 4}
    places = [(Path(each.file).name, each.line) for each in imported.rejections if each.line]
    assert places == [("a.events.jsonl", line) for line in (1, 2, 3, 4, 6)]
    again = await loops.load(store, folder)
    assert (again.inserted.total(), again.rejected.total(), again.unchanged) == (0, 0, 6)
    times = [event.at.year for event in await recorded(store)]
    assert times == [2025, 2025, 2026, 2026]


async def test_a_state_that_is_no_file_holds_nobody_up(store: AsyncSessionStore, folder: Path) -> None:
    """The log beside it comes in."""
    write(folder / ".running" / "a.events.jsonl", EVENTS[0])
    os.mkfifo(folder / ".running" / "a.state.json")
    assert (await loops.load(store, folder)).inserted == {"loops": 1}


async def test_names_that_are_not_utf8_are_told_once(store: AsyncSessionStore, folder: Path) -> None:
    """Of states and of logs."""
    write(folder / ".running" / "a.events.jsonl", EVENTS[0])
    write(folder / ".running" / os.fsdecode(b"\xff.events.jsonl"), EVENTS[0])
    write(folder / ".running" / os.fsdecode(b"\xff.state.json"), state())
    imported = await loops.load(store, folder)
    assert (imported.inserted, imported.rejected) == ({"loops": 1}, {"loops": 2})
    assert {each.reason for each in imported.rejections} == {"its name is not UTF-8"}


async def test_a_folder_that_is_not_there_is_an_error(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Who mistypes it is told."""
    with pytest.raises(FileNotFoundError):
        await loops.load(store, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("context", "issue"),
    [
        ({"input": "BUG-490"}, "BUG-490"),
        ({"input": ".issues/bugs/P2-BUG-490-retry-never-stops.md"}, "BUG-490"),
        ({"input": "compare BUG-490 with ENH-7"}, None),
        ({"issue_id": "FEAT-1", "input": "BUG-490"}, "FEAT-1"),
        ({"input": "make it faster"}, None),
        (["BUG-490"], None),
    ],
)
async def test_a_run_is_of_the_issue_it_was_given(store: AsyncSessionStore, tmp_path: Path, context, issue):
    """So that runs which name none in their events are found by it as well."""
    state = {"loop_name": "fix", "status": "failed", "started_at": "2026-03-01T09:00:00Z", "context": context}
    place = tmp_path / ".running" / "fix.state.json"
    place.parent.mkdir()
    place.write_text(json.dumps(state))
    await loops.load(store, tmp_path)
    (event,) = await store.events.recent("loop")
    assert event.issue_id == issue
