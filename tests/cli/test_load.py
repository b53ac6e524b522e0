"""`recollect import`."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from .conftest import COMMAND, Run

SESSION = "0b8a1c52-0000-4000-8000-5a5a5a5a5a5a"


def record(at: int, role: str, text: str) -> dict[str, Any]:
    """A line of a transcript as Claude Code writes it."""
    return {
        "type": role,
        "uuid": f"record-{at}",
        "parentUuid": f"record-{at - 1}" if at else None,
        "sessionId": SESSION,
        "timestamp": f"2026-03-01T09:0{at}:00Z",
        "message": {"role": role, "content": text},
    }


@pytest.fixture
def transcripts(tmp_path: Path) -> Path:
    """A folder with a transcript of two messages and a line that is no record."""
    folder = tmp_path / "projects" / "one"
    folder.mkdir(parents=True)
    lines = [
        json.dumps(record(0, "user", "find the pineapple")),
        "{not json",
        json.dumps(record(1, "assistant", "here")),
    ]
    (folder / f"{SESSION}.jsonl").write_text("\n".join(lines) + "\n")
    return folder.parent


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Where there is no database yet."""
    return tmp_path / "folder" / "new.db"


def test_what_was_imported_is_found(recollect: Run, transcripts: Path, new: Path) -> None:
    """The database is made, and searched at once."""
    assert recollect("import", "claude-code", transcripts, on=new).status == 0
    assert [line[1] for line in recollect("search", "pineapple", on=new).lines] == [SESSION]
    assert recollect("stats", "--json", on=new).json[0]["index_lag"] == 0


def test_the_summary_says_what_became_of_everything(recollect: Run, transcripts: Path, new: Path) -> None:
    """In a pipe a line per kind (new, grown, there already, rejected), then the places of rejections."""
    ran = recollect("import", "claude-code", transcripts, on=new)
    assert (ran.status, ran.err) == (0, "")
    assert ["messages", "2", "0", "0", "0"] in ran.lines
    assert ["sessions", "1", "0", "0", "0"] in ran.lines
    [rejected] = [line for line in ran.lines if line[0] == "rejected"]
    assert rejected[1] == f"{transcripts / 'one' / SESSION}.jsonl:2"


def test_programs_get_one_object(recollect: Run, transcripts: Path, new: Path) -> None:
    """The counts and the rejections, as the library gives them."""
    [result] = recollect("import", "claude-code", transcripts, "--json", on=new).json
    assert result["inserted"]["messages"] == 2
    assert result["rejected"] == {"lines": 1}
    assert [rejection["line"] for rejection in result["rejections"]] == [2]


def test_importing_again_adds_what_has_come(recollect: Run, transcripts: Path, new: Path) -> None:
    """Nothing twice: an unchanged file is not opened, of a longer one the rest is read."""
    recollect("import", "claude-code", transcripts, on=new)
    [again] = recollect("import", "claude-code", transcripts, "--json", on=new).json
    assert (again["unchanged"], again["inserted"]) == (1, {})
    with (transcripts / "one" / f"{SESSION}.jsonl").open("a") as file:
        file.write(json.dumps(record(2, "user", "thanks")) + "\n")
    [more] = recollect("import", "claude-code", transcripts, "--json", on=new).json
    assert more["inserted"]["messages"] == 1
    assert [message["text"] for message in recollect("show", SESSION, "--json", on=new).json[0]["messages"]] == [
        "find the pineapple", "here", "thanks",
    ]  # fmt: skip


def test_a_folder_without_transcripts_is_an_error(recollect: Run, tmp_path: Path, new: Path) -> None:
    """Who mistypes a folder is not told that all went well."""
    (tmp_path / "empty").mkdir()
    ran = recollect("import", "claude-code", tmp_path / "empty", on=new)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == f"recollect: no transcripts (*.jsonl) in {tmp_path / 'empty'}\n"


def test_a_place_that_cannot_be_written_is_an_error(recollect: Run, transcripts: Path, tmp_path: Path) -> None:
    """A line on stderr, status 1."""
    (tmp_path / "file").write_text("")
    ran = recollect("import", "claude-code", transcripts, on=tmp_path / "file" / "sessions.db")
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("recollect: cannot create")


def test_a_terminal_sees_how_far_it_is(in_terminal: Run, transcripts: Path) -> None:
    """A bar while it goes on, then a table and the rejections; a second time, that there was nothing."""
    shown = in_terminal("import", "claude-code", transcripts).out
    for text in ("reading", "indexing", "there already", "messages", "1 file", "rejected", f"{SESSION}.jsonl:2"):
        assert text in shown
    assert "1 unchanged since the last import" in in_terminal("import", "claude-code", transcripts).out


def test_no_bar_where_nobody_watches(transcripts: Path, new: Path) -> None:
    """Stdout to a pipe with the bar on a terminal; stderr to a file without a bar, nor colours."""
    command = [*COMMAND, "import", "claude-code", str(transcripts), "--db", str(new)]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout
    ours, theirs = pty.openpty()
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    assert json.loads(done.stdout)["unchanged"] == 1
    with pytest.raises(OSError, match="Input/output error"):  # the terminal was closed and nothing had been written
        os.read(ours, 1)
    os.close(ours)


HERMES = """
CREATE TABLE sessions (id TEXT PRIMARY KEY, source TEXT NOT NULL, started_at REAL NOT NULL, title TEXT);
CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT NOT NULL, role TEXT NOT NULL, content TEXT,
  timestamp REAL NOT NULL);
INSERT INTO sessions VALUES ('talk', 'telegram', 1750000000, 'Fruit');
INSERT INTO messages VALUES (1, 'talk', 'user', 'find the pineapple', 1750000001);
INSERT INTO messages VALUES (2, 'talk', 'assistant', 'here', 1750000002)"""

POWER_LOOP = """
CREATE TABLE pl_sessions (session_id TEXT PRIMARY KEY, created_at, updated_at, system_prompt, model, config_json,
  status, kind, parent_session_id, spawn_tool_call_id, spawn_depth, lifecycle, metadata_json);
CREATE TABLE pl_messages (session_id, seq, role, name, content, tool_calls_json, tool_call_id, round_index, state,
  meta_json, send_index, created_at);
CREATE TABLE pl_compactions (session_id, compact_seq, note_seq, from_seq, to_seq, before_tokens, after_tokens,
  round_index, created_at);
CREATE TABLE pl_usage_rounds (session_id, send_index, round_index, prompt_tokens, completion_tokens, total_tokens,
  cached_tokens, model, created_at);
CREATE TABLE pl_session_state (session_id, next_seq, round_index, last_compact_seq, pending_json);
INSERT INTO pl_sessions (session_id, created_at, updated_at, status, kind, spawn_depth, lifecycle)
  VALUES ('talk', 1750000000000, 1750000002000, 'active', 'root', 0, 'ephemeral');
INSERT INTO pl_messages (session_id, seq, role, content, round_index, state, send_index, created_at)
  VALUES ('talk', 1, 'user', 'find the pineapple', 0, 'active', 1, 1750000001000),
    ('talk', 2, 'assistant', 'here', 1, 'active', 1, 1750000002000);
INSERT INTO pl_session_state VALUES ('talk', 3, 1, 0, NULL)"""


@pytest.fixture(params=["hermes", "power-loop"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """The name of an importer, and a file of two messages for it."""
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(HERMES if request.param == "hermes" else POWER_LOOP)
    return request.param, path


def test_files_of_others_come_in_once(recollect: Run, foreign: tuple[str, Path], new: Path) -> None:
    """The database is made; what was said is found; again, there is nothing new."""
    ran = recollect("import", *foreign, on=new)
    assert (ran.status, ran.err) == (0, "")
    assert ["sessions", "1", "0", "0", "0"] in ran.lines
    assert ["messages", "2", "0", "0", "0"] in ran.lines
    assert [line[1:3] for line in recollect("search", "pineapple", on=new).lines] == [["talk", "1"]]
    [again] = recollect("import", *foreign, "--json", on=new).json
    assert (again["inserted"], again["rejections"]) == ({}, [])


def test_a_terminal_sees_what_came_from_files_of_others(in_terminal: Run, foreign: tuple[str, Path]) -> None:
    """As it does for transcripts."""
    shown = in_terminal("import", *foreign).out
    for text in ("reading", "indexing", "there already", "messages", "1 file"):
        assert text in shown


@pytest.mark.parametrize("importer", ["hermes", "power-loop"])
def test_a_file_of_another_kind_is_an_error(recollect: Run, tmp_path: Path, new: Path, importer: str) -> None:
    """A line on stderr, status 1."""
    (tmp_path / "text").write_text("no database at all " * 100)
    ran = recollect("import", importer, tmp_path / "text", on=new)
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
