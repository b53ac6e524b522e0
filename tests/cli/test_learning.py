"""`recollect learning`, and `recollect import openjarvis`."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from .conftest import NASTY, Run

SCRIPT = (Path(__file__).parents[1] / "importers" / "openjarvis.sql").read_text(encoding="utf-8")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A file of OpenJarvis."""
    path = tmp_path / "learning.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCRIPT)
    return path


@pytest.fixture
def learned(recollect: Run, theirs: Path) -> Run:
    """The command line on a store with what is in that file."""
    assert recollect("import", "openjarvis", theirs).status == 0
    return recollect


@pytest.fixture
def folder(tmp_path: Path, learned: Run) -> Path:
    """A folder with the file of one session, and one that is broken."""
    [shown] = learned("learning", "show", "session-1", "--json").json
    top = tmp_path / "learning" / "sessions"
    for name, content in (("filed", json.dumps({**shown["session"], "id": "filed"})), ("broken", "{")):
        (top / name).mkdir(parents=True)
        (top / name / "session.json").write_text(content)
    return top


def test_a_file_comes_in_once(recollect: Run, theirs: Path, tmp_path: Path) -> None:
    """The database is made; a second time there is nothing new."""
    new = tmp_path / "new" / "store.db"
    assert recollect("import", "openjarvis", theirs, on=new).lines == [
        ["learning_sessions", "2", "0", "0", "0"], ["edit_outcomes", "3", "0", "1", "0"],
    ]  # fmt: skip
    [again] = recollect("import", "openjarvis", theirs, "--json", on=new).json
    assert (again["inserted"], again["rejections"]) == ({}, [])


def test_a_file_of_another_kind_is_an_error(recollect: Run, tmp_path: Path) -> None:
    """A line on stderr, status 1; a path that is not there is wrong usage."""
    (tmp_path / "text").write_text("no database at all " * 100)
    ran = recollect("import", "openjarvis", tmp_path / "text")
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert recollect("import", "openjarvis", tmp_path / "nowhere").status == 2


def test_the_newest_come_first(learned: Run) -> None:
    """A line each in a pipe; times in UTC."""
    assert learned("learning", "list").lines == [
        ["session-2", "executing", "on_demand", "2026-03-01T08:00:00Z", "1", "0.0000", ""],
        ["session-1", "completed", "scheduled", "2026-03-01T07:00:00.123456Z", "2", "0.1000", ""],
    ]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--status", "completed"], ["session-1"]),
        (["--status", "completed", "--status", "EXECUTING"], ["session-2", "session-1"]),
        (["--status", "failed"], []),
        (["--limit", "1"], ["session-2"]),
        (["--limit", "0"], ["session-2", "session-1"]),
    ],
    ids=["one", "several", "none", "limit", "all"],
)
def test_listing_narrows(learned: Run, options: list[str], found: list[str]) -> None:
    """By status; as many as asked for."""
    assert [each["id"] for each in learned("learning", "list", "--json", *options).json] == found


def test_one_is_shown_with_its_outcomes(learned: Run) -> None:
    """What is known of it, and of each edit what it was and what became of it."""
    out = learned("learning", "show", "session-1").out
    for text in (
        "session-1", "completed · trigger scheduled · autonomy tiered", "score 0.500 → 0.750 · $0.1000",
        "diagnosis d.md · plan p.json · git abc · to def", "e1  rolled_back  +0.250",
        "agent · patch_system_prompt · agents.simple.prompt · review", "it forgets", "e2  rejected_by_gate", "worse",
    ):  # fmt: skip
        assert text in out
    assert "after session-1" in learned("learning", "show", "session-2").out


def test_programs_get_one_object(learned: Run) -> None:
    """The session and its outcomes, as the library gives them, times in UTC."""
    [shown] = learned("learning", "show", "session-1", "--json").json
    assert shown["session"]["started_at"] == "2026-03-01T07:00:00.123456Z"
    assert shown["session"]["diagnosis_path"] == "d.md"
    assert [each["op"] for each in shown["outcomes"]] == ["patch_system_prompt", "add_tool_to_agent"]


def test_an_unknown_one_is_an_error(recollect: Run) -> None:
    """A line on stderr, status 1; wrong usage is status 2."""
    ran = recollect("learning", "show", "nope")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("recollect: no learning session 'nope'")
    for arguments in (["list", "--status", "lost"], ["list", "--limit", "-1"], ["show"], ["rebuild", "/nowhere"]):
        assert recollect("learning", *arguments).status == 2


@pytest.mark.parametrize("command", [["list"], ["show", "x"]], ids=["list", "show"])
def test_reading_makes_no_database(recollect: Run, tmp_path: Path, command: list[str]) -> None:
    """It says that there is none, and leaves nothing behind."""
    ran = recollect("learning", *command, on=tmp_path / "none" / "missing.db")
    assert (ran.status, ran.out) == (1, "")
    assert not (tmp_path / "none").exists()


def test_the_index_is_made_anew(recollect: Run, folder: Path, tmp_path: Path) -> None:
    """Also where there is no database; what is broken is told, and does not change the status."""
    for given, without in (({"on": tmp_path / "new.db"}, "0"), ({}, "2")):
        ran = recollect("learning", "rebuild", folder, **given)
        assert (ran.status, ran.err) == (0, "")
        assert ran.lines[:4] == [["files", "2"], ["sessions", "1"], ["outcomes", "2"], ["without file", without]]
        assert ran.lines[4][:2] == ["rejected", str(folder / "broken" / "session.json")]
        assert "filed" in [line[0] for line in recollect("learning", "list", **given).lines]
    [rebuilt] = recollect("learning", "rebuild", folder, "--json").json
    assert (rebuilt["sessions"], rebuilt["without_file"]) == (1, ["session-1", "session-2"])


def test_a_folder_whose_name_is_not_utf8_is_told(recollect: Run, folder: Path) -> None:
    """To programs as well: what they get is JSON."""
    (folder / "broken").rename(folder / os.fsdecode(b"\xff"))
    ran = recollect("learning", "rebuild", folder, "--json")
    assert (ran.status, ran.json[0]["rejections"][0]["file"]) == (0, str(folder / "\ufffd" / "session.json"))


def test_a_terminal_gets_tables(in_terminal: Run, learned: Run, folder: Path) -> None:
    """The list, one of them, and what a rebuild did."""
    shown = in_terminal("learning", "list").out
    assert "began" in shown.splitlines()[0]
    assert "session-2" in shown
    assert "rolled_back" in in_terminal("learning", "show", "session-1").out
    shown = in_terminal("learning", "rebuild", folder).out
    for text in ("rebuilding", "1 session with 2 outcomes", "2 sessions without a file stayed", "rejected"):
        assert text in shown
    assert "no learning sessions" in in_terminal("learning", "list", "--status", "failed").out


def test_stored_text_cannot_steer_the_terminal(in_terminal: Run, learned: Run, theirs: Path, recollect: Run) -> None:
    """Escape sequences are taken out, in a pipe too."""
    with closing(sqlite3.connect(theirs)) as there, there:
        there.execute("UPDATE learning_sessions SET id = ?, error = ? WHERE id = 'session-2'", ["nasty", NASTY])
        there.execute(
            "UPDATE edit_outcomes SET session_id = 'nasty', rationale = ?, target = ? WHERE id = 4", [NASTY, NASTY]
        )
    assert recollect("import", "openjarvis", theirs).status == 0
    for shown in (in_terminal("learning", "show", "nasty").out, recollect("learning", "show", "nasty").out):
        assert not set(shown) & set("\x9b\u202e\x07")
        assert "\x1b]0;" not in shown
        assert "[bold]markup[/bold] :smile:" in shown
