"""The earlier event index: its first schema, a file of a release, rows that come later, files that are replaced."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore, NotAStore, RecordedEvent
from recollect.importers import database, little_loops

DATA = Path(__file__).parent / "data" / "little_loops"

FIRST = """
CREATE TABLE tool_events (id INTEGER PRIMARY KEY AUTOINCREMENT, ts TEXT NOT NULL, session_id TEXT, tool_name TEXT,
  args_hash TEXT, result_size INTEGER, bytes_in INTEGER, bytes_out INTEGER, cache_hit INTEGER);
CREATE TABLE file_events (id INTEGER PRIMARY KEY AUTOINCREMENT, ts TEXT NOT NULL, session_id TEXT, path TEXT, op TEXT,
  issue_id TEXT, git_sha TEXT);
CREATE TABLE issue_events (id INTEGER PRIMARY KEY AUTOINCREMENT, ts TEXT NOT NULL, issue_id TEXT, transition TEXT,
  discovered_by TEXT);
CREATE TABLE loop_events (id INTEGER PRIMARY KEY AUTOINCREMENT, ts TEXT NOT NULL, loop_name TEXT, state TEXT,
  transition TEXT, retries INTEGER);
CREATE TABLE user_corrections (id INTEGER PRIMARY KEY AUTOINCREMENT, ts TEXT NOT NULL, session_id TEXT, content TEXT,
  source TEXT);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
INSERT INTO meta VALUES ('schema_version', '1');
INSERT INTO tool_events (ts, session_id, tool_name, args_hash, result_size, cache_hit)
  VALUES ('2026-03-01T09:00:04Z', 's', 'Grep', '0123456789abcdef', 7, 1);
INSERT INTO file_events (ts, session_id, path, op, issue_id, git_sha)
  VALUES ('2026-03-01T09:00:05Z', 's', 'a.py', 'edit', 'BUG-7', 'c0ffee');
INSERT INTO issue_events (ts, issue_id, transition, discovered_by) VALUES ('2026-03-02T10:30:00Z', 'BUG-7', 'done', 'scan'),
  ('', 'BUG-8', 'open', NULL);
INSERT INTO loop_events (ts, loop_name, state, transition, retries) VALUES ('2026-03-01T09:04:58Z', 'fix', 'verify', 'state_enter', 2),
  ('2026-03-01T09:05:01Z', NULL, NULL, 'route', NULL);
INSERT INTO user_corrections (ts, session_id, content, source) VALUES ('2026-03-01T09:06:00Z', 's', 'not that file', 'prompt');
"""

ALL = {"tools": 1, "files": 1, "issues": 2, "loops": 2, "corrections": 1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An index of the first schema."""
    path = tmp_path / "session.db"
    execute(path, FIRST)
    return path


def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


async def by_kind(store: AsyncSessionStore) -> dict[str, list[RecordedEvent]]:
    kinds: dict[str, list[RecordedEvent]] = {}
    async for event in store.events.stream():
        kinds.setdefault(event.kind, []).append(event)
    return kinds


async def test_every_table_becomes_events(store: AsyncSessionStore, file: Path) -> None:
    """With every column, found by what they say; the file stays as it is."""
    before = file.read_bytes()
    imported = await little_loops.load(store, file)
    assert (imported.inserted, imported.rejections, file.read_bytes()) == (ALL, (), before)
    assert sorted(await by_kind(store)) == ["correction", "file", "issue", "loop", "tool"]
    for view, expected in {
        "SELECT session_id, tool_name, args_hash, result_size, cache_hit FROM tool_events": [("s", "Grep", "0123456789abcdef", 7, 1)],
        "SELECT session_id, path, op, issue_id, git_sha FROM file_events": [("s", "a.py", "edit", "BUG-7", "c0ffee")],
        "SELECT issue_id, transition, discovered_by FROM issue_events": [("BUG-7", "done", "scan"), ("BUG-8", "open", None)],
        "SELECT loop_name, state, transition, retries FROM loop_events": [
            ("fix", "verify", "state_enter", 2), (None, None, "route", None)],
        "SELECT session_id, content, source FROM user_corrections": [("s", "not that file", "prompt")],
    }.items():  # fmt: skip
        assert [tuple(row) for row in await store.query(f"{view} ORDER BY id")] == expected
    assert [hit.anchor async for hit in store.search("not that file")] == [f"{file}:user_corrections:1"]
    issues = (await by_kind(store))["issue"]
    assert [event.at.isoformat() for event in issues] == ["2026-03-02T10:30:00+00:00"] * 2  # one has no time of its own
    assert issues[0].anchor == f"{file}:issue_events:1"


async def test_a_file_of_a_release_comes_in(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Its further tables and columns do no harm; of a route it knows both states."""
    (packed,) = DATA.glob("*.db.gz")
    path = tmp_path / "history.db"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    imported = await little_loops.load(store, path)
    assert (imported.inserted, imported.rejections) == ({"issues": 1, "loops": 3}, ())
    kinds = await by_kind(store)
    rows = await store.query("SELECT transition, state FROM loop_events ORDER BY id")
    assert [tuple(row) for row in rows][:2] == [("state_enter", "verify"), ("route", "done")]
    route: Any = kinds["loop"][1].payload
    assert (route["from_state"], route["to_state"]) == ("verify", "done")
    assert (kinds["issue"][0].payload or {})["priority"] == "P2"
    assert (await little_loops.load(store, path)).inserted == {}


async def test_a_second_run_reads_what_came_since(store: AsyncSessionStore, file: Path) -> None:
    """And nothing else, also where the first row is still the last."""
    await little_loops.load(store, file)
    again = await little_loops.load(store, file)
    assert (again.inserted.total(), again.duplicate.total(), again.unchanged) == (0, 0, 1)
    execute(
        file, "INSERT INTO loop_events (ts, loop_name, transition) VALUES ('2026-03-03T00:00:00Z', 'fix', 'loop_start')"
    )
    more = await little_loops.load(store, file)
    assert (more.inserted, more.duplicate.total()) == ({"loops": 1}, 0)


async def test_a_copy_brings_nothing_and_a_new_file_everything(
    store: AsyncSessionStore, file: Path, tmp_path: Path
) -> None:
    """Rows are known by what they are: not by where the file lies, nor by their numbers alone."""
    await little_loops.load(store, file)
    copy = tmp_path / "copy.db"
    shutil.copy(file, copy)
    assert (await little_loops.load(store, copy)).duplicate == ALL
    file.unlink()
    execute(file, FIRST.replace("2026-03-0", "2026-04-0"))
    assert (await little_loops.load(store, file)).inserted == {**ALL, "issues": 1}  # one has no time to tell it by


async def test_what_cannot_be_understood_stops_nothing(store: AsyncSessionStore, file: Path) -> None:
    """It is told by table and number."""
    execute(
        file,
        "INSERT INTO issue_events (ts, issue_id) VALUES ('2026-03-01T00:00:00Z', NULL);"
        "INSERT INTO file_events (ts, path) VALUES ('2026-03-01T00:00:00Z', NULL);"
        "INSERT INTO user_corrections (ts, content) VALUES (x'00ff', NULL), ('', x'61ff');"
        "INSERT INTO tool_events (ts, tool_name, result_size, bytes_in) VALUES ('soon', NULL, 9e999, x'ff')",
    )
    imported = await little_loops.load(store, file)
    assert imported.inserted == {**ALL, "tools": 2, "files": 2}
    assert [(each.kind, each.line) for each in imported.rejections] == [
        ("issues", 3),
        ("corrections", 2),
        ("corrections", 3),
    ]


async def test_an_import_goes_on_where_it_was_ended(
    store: AsyncSessionStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two pieces."""
    execute(
        file,
        "INSERT INTO loop_events (ts, transition) SELECT '2026-03-01T00:00:00Z', 'route' FROM loop_events, tool_events",
    )
    monkeypatch.setattr(database, "AT_ONCE", 1)

    def end(_: object) -> None:
        raise KeyError("enough")

    for _ in range(20):
        try:
            await little_loops.load(store, file, progress=end)
        except KeyError:
            continue
        break
    total = sum(map(len, (await by_kind(store)).values()))
    assert total == sum(ALL.values()) + 2


@pytest.mark.parametrize("script", ["CREATE TABLE t (id)", "CREATE TABLE loop_events (name)"])
async def test_another_database_is_refused(store: AsyncSessionStore, tmp_path: Path, script: str) -> None:
    """Who mistypes a file is told."""
    execute(tmp_path / "other.db", script)
    with pytest.raises(NotAStore, match="none of the tables"):
        await little_loops.load(store, tmp_path / "other.db")
