"""`recollect backfill`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an issue and something that is none, a loop that runs, and a transcript."""
    (tmp_path / ".issues").mkdir()
    (tmp_path / ".issues" / "P1-BUG-1-it-stops.md").write_text("# BUG-1: The pineapple stops\n")
    (tmp_path / ".issues" / "notes.md").write_text("nothing\n")
    (tmp_path / ".loops" / ".running").mkdir(parents=True)
    (tmp_path / ".loops" / ".running" / "fix.events.jsonl").write_text('{"event": "loop_start", "loop": "fix"}\n')
    call = {"type": "tool_use", "id": "c", "name": "Bash", "input": {"command": "make"}}
    line = {"type": "assistant", "uuid": "a", "sessionId": "s", "message": {"content": [call]}}
    (tmp_path / "s.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Where there is no database yet."""
    return tmp_path / "folder" / "new.db"


def places(project: Path) -> list[object]:
    return ["--issues", project / ".issues", "--loops", project / ".loops", "--transcripts", project / "s.jsonl"]


def test_what_happened_before_is_found(recollect: Run, project: Path, new: Path) -> None:
    """A line per kind, then the places of rejections; the database is made, and searched at once."""
    ran = recollect("backfill", *places(project), on=new)
    assert (ran.status, ran.err) == (0, "")
    assert [line for line in ran.lines if line[0] != "rejected"] == [
        ["issues", "1", "0", "0", "1"], ["loops", "1", "0", "0", "0"], ["tools", "1", "0", "0", "0"],
    ]  # fmt: skip
    [rejected] = [line for line in ran.lines if line[0] == "rejected"]
    assert rejected[1] == str(project / ".issues" / "notes.md")
    assert [line[3] for line in recollect("search", "pineapple", on=new).lines] == ["BUG-1"]


def test_a_second_time_brings_nothing(recollect: Run, project: Path, new: Path) -> None:
    """Programs get one object."""
    recollect("backfill", *places(project), on=new)
    [again] = recollect("backfill", *places(project), "--json", on=new).json
    assert (again["inserted"], again["unchanged"], again["files"]) == ({}, 4, 4)


def test_nothing_named_is_wrong_usage(recollect: Run, new: Path) -> None:
    """So is a folder that does not exist."""
    assert recollect("backfill", on=new).status == 2
    assert recollect("backfill", "--issues", new, on=new).status == 2
    assert not new.exists()


def test_a_folder_without_any_of_it_is_an_error(recollect: Run, tmp_path: Path, new: Path) -> None:
    """Who mistypes a folder is not told that all went well."""
    (tmp_path / "empty").mkdir()
    ran = recollect("backfill", "--issues", tmp_path / "empty", on=new)
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)


def test_a_terminal_sees_how_far_it_is(in_terminal: Run, project: Path) -> None:
    """A bar while it goes on, then a table and the rejections."""
    shown = in_terminal("backfill", *places(project)).out
    for text in ("reading", "indexing", "there already", "issues", "4 files", "rejected", "notes.md"):
        assert text in shown
