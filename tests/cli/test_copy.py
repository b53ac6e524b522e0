"""`recollect copy`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from recollect import AsyncSessionStore
from recollect.cli.safe import printable

from .conftest import Do, Run


def test_a_store_is_copied_and_told_of(recollect: Run, db: Path, tmp_path: Path):
    """A line for each table; the copy has the same sessions and finds the same."""
    copy = tmp_path / "copy.db"
    ran = recollect("copy", db, copy, on=None)
    assert (ran.status, ran.err) == (0, "")
    lines = {name: counts for name, *counts in ran.lines}
    assert lines["sessions"][:4] == ["3", "3", "0", "0"]
    assert lines["messages"][:4] == ["8", "8", "0", "0"]
    for command in (["sessions", "--json"], ["search", "deploy", "--json"], ["export", "--all"]):
        assert recollect(*command, on=copy).out == recollect(*command).out


def test_again_it_brings_what_is_new(recollect: Run, db: Path, tmp_path: Path, do: Do):
    """And says so, for a program."""
    copy = tmp_path / "copy.db"
    recollect("copy", db, copy, on=None)
    do(lambda store: store.messages.append("chat-1", role="user", content="one more"))
    [told] = recollect("copy", db, copy, "--json", on=None).json
    assert told["source"] == str(db)
    assert told["target"] == str(copy)
    changed = {table["table"]: (table["new"], table["changed"], table["removed"]) for table in told["tables"]}
    assert {name: counts for name, counts in changed.items() if any(counts)} == {
        "messages": (1, 0, 0), "sessions": (0, 1, 0)
    }  # fmt: skip
    assert "one more" in recollect("show", "chat-1", on=copy).out


def test_what_would_destroy_something_is_refused(recollect: Run, db: Path, tmp_path: Path):
    """A store that is no copy, and a source that is not there: nothing is made or changed."""
    nothing, other = tmp_path / "nothing.db", tmp_path / "other.db"
    ran = recollect("copy", nothing, other, on=None)
    assert (ran.status, ran.out, ran.err) == (1, "", f"recollect: there is no database at {nothing}\n")
    assert not nothing.exists()
    assert not other.exists()
    asyncio.run(_make(other))
    before = recollect("export", "--all").out
    ran = recollect("copy", other, db, on=None)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("recollect: the target is not empty: it has sessions that were not copied;")
    assert recollect("export", "--all").out == before


async def _make(path: Path) -> None:
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("mine")


def test_a_person_gets_a_table(recollect: Run, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of what there is, and where it is now."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    copy = tmp_path / "copy.db"
    shown = printable(recollect("copy", db, copy, on=None).out)
    assert [line.split() for line in shown.splitlines() if line.startswith(("messages", " "))] == [
        ["rows", "new", "changed", "removed"], ["messages", "8", "8", "-", "-"]
    ]  # fmt: skip
    assert shown.endswith(f"the same in {copy}, row by row\n")
