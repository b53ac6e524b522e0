"""What the documents show runs as shown."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from recollect import AsyncSessionStore

ROOT = Path(__file__).parents[1]


def blocks(document: str) -> list[str]:
    """The Python snippets of a document, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


def run(program: str, folder: Path) -> str:
    """What a program prints that was pasted into a file."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error", "program.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_first_program_of_the_readme_runs(tmp_path):
    """It prints what it found."""
    out = run(blocks("README.md")[0], tmp_path)
    assert ">>>deploy<<<" in out
    assert ">>>deployed<<<" in out


def test_the_gateway_of_the_readme_runs(tmp_path):
    """A chat keeps its session until it is reset, and one's search finds one's own."""
    assert run(blocks("README.md")[1], tmp_path) == "True False\nTrue the >>>invoice<<< is due\n"


def test_the_interrupted_agent_of_the_readme_runs(tmp_path):
    """What was pending is done, put away, and taken back."""
    conversation, transcript = run(blocks("README.md")[2], tmp_path).splitlines()
    assert conversation.count("'role'") == 2
    assert "Both tools were run." in conversation
    assert transcript == "['user', 'assistant'] 3"


def test_the_events_of_the_readme_are_recorded(tmp_path):
    """Once each; by session, by words, and in a view."""
    assert run(blocks("README.md")[3], tmp_path).splitlines() == [
        "True",
        "file src/net.py edit",
        "tool pytest failed",
        "staging rolled back: no answer on >>>port<<< >>>8080<<<",
        "src/net.py edit",
    ]


def test_the_event_stream_of_the_readme_is_stored(tmp_path):
    """But for the token."""
    assert run(blocks("README.md")[4], tmp_path).splitlines() == [
        "{'name': 'grep'}",
        "2 1 0",
        "[('tool', 'grep', 'started'), ('loop', 'fix-types', 'state_enter')]",
    ]


def test_what_the_readme_follows_goes_on_behind_the_cursor(tmp_path):
    """In the order of commits, across a restart."""
    assert run(blocks("README.md")[5], tmp_path).splitlines() == [
        "store.created None", "message hello", "message good morning", "store.titled A greeting"
    ]  # fmt: skip


def test_the_test_of_the_readme_passes(tmp_path):
    """In a test suite with nothing but the plugin."""
    (tmp_path / "test_it.py").write_text(blocks("README.md")[6], encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
        "--rootdir",
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


async def test_the_query_of_the_schema_page_runs(
    recollect_store: AsyncSessionStore, capsys: pytest.CaptureFixture[str]
):
    """It finds the session whose tool failed."""
    await recollect_store.sessions.create("s")
    await recollect_store.messages.append("s", role="tool", content="Error: no such file")
    namespace: dict[str, object] = {}
    (snippet,) = blocks("docs/schema.md")
    exec("async def run(store):\n" + textwrap.indent(snippet, "    "), namespace)
    await namespace["run"](recollect_store)  # type: ignore[operator]
    assert capsys.readouterr().out == "[('s', 1)]\n"


async def test_the_schema_page_names_every_table_and_column(recollect_store: AsyncSessionStore):
    """But for the store's own bookkeeping, and nothing that is not there."""
    page = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    for table in ("sessions", "session_texts", "messages", "usage_rounds", "compactions", "leases", "events"):
        (row,) = re.findall(rf"^\| `{table}` \|.*$", page, re.MULTILINE)
        named = set(re.findall(r"`(\w+)`", row)) - {table, "text"}
        columns = {row.name for row in await recollect_store.read(_columns, table)} - {"text"}
        assert named == columns, table


def test_the_schema_page_names_every_event_of_a_session():
    """Every kind that the source records, and nothing that it does not."""
    page = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    recorded = {kind for source in sources for kind in re.findall(r"""["'](store\.[a-z]+)["']""", source)}
    assert set(re.findall(r"`(store\.[a-z]+)`", page)) == recorded


def _columns(table: str):
    from recollect.operations import all

    return (yield all("SELECT name FROM pragma_table_info(:name)", name=table))


def test_every_promise_has_its_test():
    """Each that is named as showing one is there."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/reliability.md").read_text("utf-8"))
    assert len(named) > 30
    for file, test in named:
        assert not test or f"def {test}(" in (ROOT / file).read_text("utf-8"), f"{file}::{test}"
