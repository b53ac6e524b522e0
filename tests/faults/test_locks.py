"""SQLite's locks on a file that is open: nothing that is done with the store drops them.

POSIX drops all locks of a process on a file when any descriptor of it is closed; another process may then remove the
log under us (sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore

LOCKS = Path("/proc/locks")

pytestmark = pytest.mark.skipif(not LOCKS.exists(), reason="no /proc/locks here")


def locks_on(path: Path) -> set[tuple[str, ...]]:
    """What this process holds on the database and its -shm: kind, mode and range of each."""
    files = [path, path.with_name(path.name + "-shm")]
    inodes = {str(os.stat(file).st_ino) for file in files}
    held = [line.split() for line in LOCKS.read_text().splitlines()]
    return {
        (fields[1], fields[3], fields[5].rpartition(":")[2], *fields[6:8])
        for fields in held
        if fields[1] == "POSIX" and fields[4] == str(os.getpid()) and fields[5].rpartition(":")[2] in inodes
    }


async def _search(store: AsyncSessionStore) -> None:
    assert [hit async for hit in store.search("word")]


async def _export(store: AsyncSessionStore) -> None:
    assert [record async for record in store.sessions.export_all()]


CALLS: dict[str, Callable[[AsyncSessionStore, Path], Awaitable[Any]]] = {
    "append": lambda s, _: s.messages.append("s", role="user", content="word"),
    "list": lambda s, _: s.messages.list("s"), "search": lambda s, _: _search(s), "export": lambda s, _: _export(s),
    "query": lambda s, _: s.query("SELECT 1 AS n"), "stats": lambda s, _: s.stats(), "check": lambda s, _: s.check(),
    "repair": lambda s, _: s.repair(), "optimize": lambda s, _: s.optimize(), "flush": lambda s, _: s.flush(index=True),
    "backup": lambda s, folder: s.backup(folder / "copy.db"), "erase": lambda s, _: s.erase(session_id="gone"),
    "vacuum": lambda s, _: s.erase(session_id="gone", vacuum=True),
    "event": lambda s, _: s.events.record({"kind": "noted"}), "delete": lambda s, _: s.sessions.delete("gone"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
async def test_no_call_drops_the_locks(store: AsyncSessionStore, path: Path, tmp_path: Path, name: str):
    """They are the same before and after, the log is still there, and what was written is seen by others."""
    await store.sessions.create("s")
    await store.messages.append("s", role="user", content="word")
    await store.messages.list("s")
    before = locks_on(path)
    assert len(before) >= 2
    await CALLS[name](store, tmp_path)
    assert locks_on(path) >= before
    assert path.with_name(path.name + "-wal").exists()


VISITOR = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
print(connection.execute("SELECT COUNT(*) FROM messages").fetchone()[0], flush=True)
connection.close()
"""


def visit(path: Path) -> str:
    """What the visitor saw."""
    command = [sys.executable, "-c", VISITOR, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


async def test_a_visitor_takes_nothing_away(store: AsyncSessionStore, path: Path):
    """Another process opens the file, reads, and closes it as the last it knows of: the log stays ours."""
    await store.sessions.create("s")
    for n in range(3):
        await store.messages.append("s", role="user", content="word")
        assert int(await asyncio.to_thread(visit, path)) == n + 1
    assert await store.messages.count("s") == 3
    assert (await store.check()).is_sound
