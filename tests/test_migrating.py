"""The page for those who come from another store: every name on it is one, and what it shows runs."""

from __future__ import annotations

import gzip
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import recollect
from recollect import AsyncSessionStore, fields
from recollect.events.room import Events
from recollect.learning.room import Learning
from recollect.messages.room import Messages
from recollect.sessions.room import Sessions
from recollect.usage.room import Usage

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SAMPLES = ROOT / "tests" / "importers" / "data"

ROOMS = {
    "sessions": Sessions, "messages": Messages, "usage": Usage, "events": Events, "store": AsyncSessionStore,
    "learning": Learning,
}  # fmt: skip

GATEWAY = """
SessionDB create_session ensure_session end_session reopen_session update_system_prompt update_token_counts
set_token_counts get_session resolve_session_id sanitize_title set_session_title get_session_title get_session_by_title
resolve_session_by_title get_next_title_in_lineage list_sessions_rich search_sessions session_count message_count
append_message get_messages get_messages_as_conversation search_messages export_session export_all clear_messages
delete_session prune_sessions get_stats close WriteBatcher.flush WriteBatcher.shutdown WriteBatcher.get_stats
ConnectionPool.initialize ConnectionPool.get_write_connection ConnectionPool.get_read_connection ConnectionPool.close
"""

LOOP = """
SessionStore.open close create_session get_session list_children archive_session close_session update_session_prompt
append_message load_active_messages load_all_messages get_message record_compaction list_compactions get_state
set_round_index set_pending record_usage
"""

INDEX = """
DEFAULT_DB_PATH SCHEMA_VERSION ensure_db connect search recent SQLiteTransport SQLiteTransport.send
SQLiteTransport.close backfill _hash_args _now ll-session ll-session ll-session
"""


def section(title: str) -> str:
    """What stands below a heading."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def ours(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """The calls of ours in a text: room, method, keywords."""
    for room, method, arguments in re.findall(r"`(sessions|messages|usage|events|store)\.(\w+)(?:\(([^`]*)\))?`", text):
        yield room, method, re.findall(r"(\w+)=", arguments)


@pytest.mark.parametrize(
    ("title", "methods"),
    [
        ("Hermes Agent's SessionDB", GATEWAY),
        ("power-loop's SessionStore", LOOP),
        ("little-loops's session_store", INDEX),
    ],
)
def test_every_method_of_the_earlier_stores_has_a_row(title: str, methods: str):
    """One each, and each says a name of ours."""
    table = rows(section(title))
    assert [re.findall(r"`([\w.-]+)", there)[0] for there, *_ in table] == methods.split()
    assert all("`" in here for _, here, *_ in table)


def test_every_name_of_ours_exists():
    """With the keywords that are named."""
    known = {
        name for kind in vars(fields).values() if hasattr(kind, "__annotations__") for name in kind.__annotations__
    }
    found = list(ours(PAGE))
    for room, method, keywords in found:
        call = getattr(ROOMS[room], method, None)
        assert call is not None, f"{room}.{method}"
        assert set(keywords) <= known | set(inspect.signature(call).parameters), f"{room}.{method}{keywords}"
    assert len(found) > 60
    for name in re.findall(r"`([A-Z][a-z]\w+)[`(.]", "\n".join(here for _, here, *_ in rows(PAGE))) + ["clean_title"]:
        assert hasattr(recollect, name), name


def test_every_error_and_bound_that_is_named_exists():
    """Classes of the package, and their fields."""
    theirs = {"SessionDB", "SessionStore", "WriteBatcher", "ConnectionPool"}
    for name, field in re.findall(r"`([A-Z][a-z]+[A-Z]\w+|Limits|Timeouts)(?:\.(\w+))?[`(]", PAGE):
        if name not in theirs:
            assert hasattr(recollect, name), name
            assert not field or field in getattr(recollect, name).__struct_fields__, field


@pytest.mark.parametrize("room", ["sessions", "messages", "usage", "events", "learning"])
def test_the_readme_names_every_method_of_a_room(room: str):
    """And none that is not there."""
    table = README.partition("## What is where")[2].partition("\n## ")[0]
    part = table.partition(f"| `store.{room}` |")[2]
    part = part[: re.search(r"\n(?!\| …)|$", part).start()]  # type: ignore[union-attr]
    named = set(re.findall(r"`(\w+)`", part)) - {*recollect.__all__}
    assert named == {name for name in vars(ROOMS[room]) if not name.startswith("_")}


def run(program: str, folder: Path) -> str:
    """What a program prints."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error", "program.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_what_the_page_shows_runs(tmp_path: Path):
    """Both files come in; a round of the loop is as it says."""
    (tmp_path / "state.db").write_bytes(gzip.decompress((SAMPLES / "hermes" / "hermes-0.13.0.db.gz").read_bytes()))
    shutil.copy(SAMPLES / "power_loop" / "0.2.0-first.sqlite", tmp_path / "power_loop_sessions.db")
    importing, loop = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for line in run(importing, tmp_path).splitlines():
        sessions, messages, _ = map(int, line.split())
        assert sessions > 0
        assert messages > 0
    assert run(loop, tmp_path) == "None 30\n"
