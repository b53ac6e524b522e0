"""What fault tests share: scripts in processes of their own, and a look at a database from outside."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a Python script in a process of its own; what still runs after the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def _start(code: str, *arguments: object, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *options, "-c", textwrap.dedent(code), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        return process

    yield _start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Start) -> Run:
    """Runs a script to its end, which must come within the time given."""

    def _run(
        code: str, *arguments: object, options: tuple[str, ...] = (), timeout_s: float = 20
    ) -> subprocess.CompletedProcess[str]:
        process = start(code, *arguments, options=options)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return _run


@pytest.fixture
def sound() -> Callable[[Path], None]:
    """Checks a database from outside: structure, index, counters, and that index and rows agree."""
    return _check


def _check(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        db.execute("BEGIN IMMEDIATE")  # nobody's transaction is open
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'search_index'").fetchone():
            db.execute("INSERT INTO search_index (search_index, rank) VALUES ('integrity-check', 0)")
            watermark, version = db.execute("SELECT watermark, version FROM index_state").fetchone()
            indexed = {row[0] for row in db.execute("SELECT id FROM search_index_docsize")}
            rows = {
                row[0] for row in db.execute("SELECT id FROM messages WHERE content <> '' AND id <= ?", (watermark,))
            }
            assert indexed == rows or version == 0
        counted = db.execute(
            "SELECT id, message_count, (SELECT COUNT(*) FROM messages m WHERE m.session = s.session), next_seq - 1,"
            " (SELECT COALESCE(MAX(seq), 0) FROM messages m WHERE m.session = s.session) FROM sessions s WHERE id NOTNULL"
        ).fetchall()
        for session_id, *counts in counted:
            assert len(set(counts)) == 1, (session_id, counts)
        db.execute("ROLLBACK")


@pytest.fixture
def descriptors() -> Callable[[], int]:
    """How many files this process has open."""
    return lambda: len(os.listdir("/proc/self/fd"))
