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


def test_the_first_program_of_the_readme_runs(tmp_path):
    """As pasted into a file; it prints what it found."""
    program = tmp_path / "program.py"
    program.write_text(blocks("README.md")[0], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ">>>deploy<<<" in done.stdout
    assert ">>>deployed<<<" in done.stdout


def test_the_test_of_the_readme_passes(tmp_path):
    """In a test suite with nothing but the plugin."""
    (tmp_path / "test_it.py").write_text(blocks("README.md")[1], encoding="utf-8")
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
    for table in ("sessions", "session_texts", "messages", "usage_rounds", "events"):
        (row,) = re.findall(rf"^\| `{table}` \|.*$", page, re.MULTILINE)
        named = set(re.findall(r"`(\w+)`", row)) - {table, "text"}
        columns = {row.name for row in await recollect_store.read(_columns, table)} - {"text"}
        assert named == columns, table


def _columns(table: str):
    from recollect.operations import all

    return (yield all("SELECT name FROM pragma_table_info(:name)", name=table))
