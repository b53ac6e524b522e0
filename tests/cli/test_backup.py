"""`recollect backup` and `recollect restore`."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from recollect import AsyncSessionStore
from recollect.cli.safe import printable

from .conftest import Do, Run


def test_a_database_is_backed_up_and_restored(recollect: Run, db: Path, tmp_path: Path, do: Do):
    """The same sessions, found in the same way; what came after is gone again."""
    copy = tmp_path / "backup.db"
    commands = ["sessions", "--json"], ["search", "deploy", "--json"], ["export", "--all"]
    before = [recollect(*command).out for command in commands]
    ran = recollect("backup", copy)
    assert (ran.status, ran.lines, ran.err) == (0, [[str(copy), str(copy.stat().st_size)]], "")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    do(lambda store: store.messages.append("chat-1", role="user", content="one more deploy"))
    assert [recollect(*command).out for command in commands] != before
    ran = recollect("restore", copy, "--yes")
    assert (ran.status, ran.lines, ran.err) == (0, [[str(db), str(db.stat().st_size)]], "")
    assert [recollect(*command).out for command in commands] == before


def test_a_program_gets_json(recollect: Run, db: Path, tmp_path: Path):
    """From where, to where, and how many bytes."""
    copy, new = tmp_path / "backup.db", tmp_path / "folder" / "new.db"
    [told] = recollect("backup", copy, "--json").json
    assert told == {"source": str(db), "target": str(copy), "bytes": copy.stat().st_size}
    [told] = recollect("restore", copy, "--json", on=new).json  # where nothing is replaced nobody is asked
    assert told == {"source": str(copy), "target": str(new), "bytes": new.stat().st_size}
    assert recollect("export", "--all", on=new).out == recollect("export", "--all").out


def test_a_file_is_written_over_only_by_force(recollect: Run, tmp_path: Path):
    """A backup of yesterday is not lost by a typing mistake."""
    copy = tmp_path / "backup.db"
    copy.write_text("mine")
    ran = recollect("backup", copy)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == f"recollect: {copy} is there already; --force writes over it\n"
    assert copy.read_text() == "mine"
    assert recollect("backup", copy, "--force").status == 0
    assert len(recollect("sessions", on=copy).lines) == 3


def test_what_cannot_be_done_is_said_in_a_line(recollect: Run, db: Path, tmp_path: Path):
    """No database, no backup, the database itself, something else than a backup, a server."""
    nothing, text = tmp_path / "nothing.db", tmp_path / "text"
    text.write_text("text" * 1_000)
    before = recollect("export", "--all").out
    for arguments, on, said in [
        (["backup", tmp_path / "b.db"], nothing, f"there is no database at {nothing}"),
        (["backup", db, "--force"], db, "is the store itself"),
        (["restore", nothing, "--yes"], db, f"there is no backup at {nothing}"),
        (["restore", text, "--yes"], db, "not a SQLite database"),
        (["restore", db, "--yes"], db, "is the store itself"),
        (["restore", db, "--yes"], "postgresql://nowhere/db", "are files"),
    ]:
        ran = recollect(*arguments, on=on)
        assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert said in ran.err
    assert not nothing.exists()
    assert recollect("export", "--all").out == before


def test_a_database_in_use_is_not_replaced(recollect: Run, db: Path, tmp_path: Path):
    """By a restore: whoever has it open goes on."""
    copy = tmp_path / "backup.db"
    recollect("backup", copy)

    async def restore_meanwhile() -> None:
        async with AsyncSessionStore(db) as store:
            ran = await asyncio.to_thread(recollect, "restore", copy, "--yes")
            assert (ran.status, ran.out) == (1, "")
            assert "open elsewhere" in ran.err
            await store.sessions.create("goes on")

    asyncio.run(restore_meanwhile())
    assert "goes on" in recollect("sessions").out


def test_a_restore_over_a_database_asks(recollect: Run, in_terminal: Run, db: Path, tmp_path: Path, do: Do):
    """Where nobody can be asked it wants --yes; on a terminal only a yes goes on."""
    copy = tmp_path / "backup.db"
    recollect("backup", copy)
    do(lambda store: store.sessions.create("later"))
    ran = recollect("restore", copy)
    assert (ran.status, ran.out) == (2, "")
    assert "--yes" in ran.err
    ran = in_terminal("restore", copy, columns=400, answer="n\n")
    assert ran.status == 1
    assert f"Replace {db}, with all that is in it, by {copy}?" in ran.out
    assert "later" in recollect("sessions").out
    ran = in_terminal("restore", copy, columns=400, answer="y\n")
    assert ran.status == 0
    assert f"restored: {db.stat().st_size:,} bytes, verified, in {db}" in printable(ran.out)
    assert "later" not in recollect("sessions").out


def test_a_person_is_told_in_a_sentence(recollect: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """How much, and where; `~` is the home."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = printable(recollect("backup", "~/backup.db").out)
    size = os.stat(tmp_path / "backup.db").st_size
    assert shown == f"backed up: {size:,} bytes, verified, in {tmp_path / 'backup.db'}\n"
