"""Files that issues name: found as people write them, recorded once for each issue."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from recollect import AsyncSessionStore
from recollect.importers import issues
from recollect.importers.mentions import LONGEST, MOST, files_named


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("see `config/core.py:44`, then core/run.py:10-20.", ["config/core.py", "core/run.py"]),
        ("(tests/test_net.py::test_retry) ./setup.cfg", ["tests/test_net.py", "setup.cfg"]),
        ("**docs/A-B_c.md** and .claude/CLAUDE.md and /etc/app/x.conf", ["docs/A-B_c.md", ".claude/CLAUDE.md", "/etc/app/x.conf"]),
        ("net.py, and src/net.py", ["src/net.py"]),  # the same, for short
        ("src/net.py and src/net.py", ["src/net.py"]),
        ("a/__init__.py a/b/__init__.py", ["a/__init__.py", "a/b/__init__.py"]),
        ("https://x.org/a/b.html e.g. self.run() v1.2 and/or ~/.cache/x.json $HOME/x.py src/*.py **/x.py", []),
        ("`src/` src/net", []),
        ("Fehler in naïve.py", ["naïve.py"]),
    ],
)  # fmt: skip
def test_paths_are_found_as_people_write_them(line: str, paths: list[str]) -> None:
    """With line numbers, in code marks, at the end of a sentence; no URLs, no patterns, no folders."""
    assert files_named([line]) == paths


def test_what_is_found_is_bounded() -> None:
    """In number, length and time, whatever the text."""
    assert len(files_named([f"src/f{n}.py" for n in range(MOST * 2)])) == MOST
    assert files_named([f"{'d' * LONGEST}/x.py"]) == []
    began = time.monotonic()
    for evil in ("a" * 300_000, "a/" * 150_000, "a." * 150_000, "./" * 150_000, "a.b-" * 75_000, "a@+" * 100_000):
        files_named([evil, f"{evil}.py"])
    assert time.monotonic() - began < 5


ISSUE = """---
id: BUG-7
status: {status}
captured_at: 2026-03-01T09:00:00Z
affected_files: [src/config.py]
---
# BUG-7: retry never stops
In `src/net.py:41` there is no cap; tests/test_net.py passes.
```
src/generated.py
```
{more}
"""


async def test_each_file_of_an_issue_is_an_event(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Those of the body but for its code, and of the front matter; again nothing, when the issue moves on only
    what is new; each has the issue's id, which is what joins them."""
    file = tmp_path / "P2-BUG-007-retry.md"
    file.write_text(ISSUE.format(status="open", more=""))
    first = await issues.load(store, tmp_path)
    assert first.inserted == {"issues": 1, "files": 3}
    file.write_text(ISSUE.format(status="done", more="Also docs/NET.md."))
    second = await issues.load(store, tmp_path)
    assert (second.inserted, second.duplicate) == ({"issues": 1, "files": 1}, {"files": 3})
    rows = await store.query("SELECT path, op, issue_id, at FROM file_events ORDER BY id")
    assert [tuple(row)[:3] for row in rows] == [
        (path, "mentioned", "BUG-7") for path in ("src/config.py", "src/net.py", "tests/test_net.py", "docs/NET.md")
    ]
    assert {row.at for row in rows} == {1_772_355_600_000}
    assert [event.anchor async for event in store.events.stream(path="src/net.py")] == [str(file)]


def test_of_a_line_without_end_the_beginning_is_looked_at() -> None:
    """Nothing else runs while a line is searched."""
    line = "src/a.py " + "x " * 100_000 + "src/b.py"
    assert files_named([line, "src/c.py"]) == ["src/a.py", "src/c.py"]
