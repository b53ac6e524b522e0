"""Several processes on one directory of learning sessions: files and table agree, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore, Durability, StoreBusy, Timeouts

SESSION: dict[str, Any] = {
    "id": "s", "trigger": "scheduled", "status": "completed", "autonomy_mode": "auto",
    "started_at": "2026-03-01T09:00:00+02:00", "diagnosis_path": "d", "plan_path": "p", "git_checkpoint_pre": "g",
    "benchmark_before": {"benchmark_version": "1", "overall_score": 0.5, "task_count": 1, "elapsed_seconds": 1},
}  # fmt: skip

SAVING = """
import asyncio, json, sys
from recollect import AsyncSessionStore, Durability

async def main():
    path, directory, name, session = sys.argv[1:]
    session = json.loads(session)
    async with AsyncSessionStore(path, durability=Durability.PROCESS) as store:
        print("ready", flush=True)
        while n := (await asyncio.to_thread(sys.stdin.readline)).strip():
            told = {**session, "error": name + n, "edit_outcomes": [{"edit_id": name + n, "status": "applied"}]}
            await store.learning.save(told, directory=directory)
            print("saved", flush=True)

asyncio.run(main())
"""

HOLDING = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def in_table(path: Path) -> tuple[str, list[str]]:
    """The session's error and edits, as the table has them."""
    with closing(sqlite3.connect(path)) as db:
        (error,) = db.execute("SELECT error FROM learning_sessions WHERE id = 's'").fetchone()
        return error, sorted(edit for (edit,) in db.execute("SELECT edit_id FROM edit_outcomes WHERE session_id = 's'"))


def in_file(directory: Path) -> tuple[str, list[str]]:
    """The same, as the file has them."""
    told = json.loads((directory / "s" / "session.json").read_text())
    return told["error"], sorted(each["edit_id"] for each in told["edit_outcomes"])


def told(process: Any, line: str) -> None:
    """Gives a process its next line."""
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def heard(process: Any, line: str) -> None:
    """The process says that."""
    assert process.stdout.readline() == f"{line}\n", process.stderr.read()


def test_of_two_processes_the_same_is_last_in_both(path: Path, tmp_path: Path, start) -> None:
    """60 times they save one session at once: each time file and table agree, and neither's outcomes are lost."""
    directory = tmp_path / "sessions"
    processes = [start(SAVING, path, directory, name, json.dumps(SESSION)) for name in "ab"]
    for process in processes:
        heard(process, "ready")
    for n in range(60):
        for process in processes:
            told(process, str(n))
        for process in processes:
            heard(process, "saved")
        assert in_file(directory) == in_table(path)
        assert in_table(path)[1] == sorted(f"{name}{done}" for name in "ab" for done in range(n + 1))


async def test_a_rebuild_does_not_undo_what_another_process_saves(path: Path, tmp_path: Path, start) -> None:
    """What it read of a file is in the table before that file can be replaced."""
    directory = tmp_path / "sessions"
    for name in ("s", *[f"t{n:02}" for n in range(60)]):
        (directory / name).mkdir(parents=True)
        (directory / name / "session.json").write_text(json.dumps({**SESSION, "id": name}))
    async with AsyncSessionStore(path, durability=Durability.PROCESS) as store:
        saving = start(SAVING, path, directory, "a", json.dumps(SESSION))
        await asyncio.to_thread(heard, saving, "ready")
        for n in range(20):
            rebuilding = asyncio.create_task(store.learning.rebuild(directory))
            await asyncio.sleep(n / 1000)  # somewhere in it
            told(saving, str(n))
            assert (await rebuilding).sessions == 61
            await asyncio.to_thread(heard, saving, "saved")
            assert in_file(directory) == in_table(path)
            assert in_table(path)[0] == f"a{n}"


async def test_a_process_that_holds_the_lock_is_waited_for_until_it_dies(path: Path, tmp_path: Path, start) -> None:
    """Past the deadline nothing is stored, and no file written; after a crash the lock is free by itself."""
    directory = tmp_path / "sessions"
    directory.mkdir()
    async with AsyncSessionStore(path, timeouts=Timeouts(busy_s=0.1)) as store:
        holding = start(HOLDING, directory / ".recollect.lock")
        await asyncio.to_thread(heard, holding, "held")
        with pytest.raises(StoreBusy, match="not stored, and no file was written"):
            await store.learning.save(SESSION, directory=directory)
        assert [each.name for each in directory.iterdir()] == [".recollect.lock"]
        assert await store.learning.list() == []
        holding.kill()
        holding.wait()
        await store.learning.save({**SESSION, "error": "e"}, directory=directory)
    assert in_file(directory) == in_table(path) == ("e", [])


REBUILDING = """
import asyncio, os, sys, tempfile
from recollect import AsyncSessionStore, StoreError, Timeouts

async def main():
    async with AsyncSessionStore(":memory:", timeouts=Timeouts(busy_s=0.05)) as store:
        with tempfile.TemporaryDirectory() as empty:
            await store.learning.rebuild(empty)  # loads everything, while Python's own files can still be read
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            print((await store.learning.rebuild(sys.argv[1])).sessions)
        except (StoreError, OSError) as error:
            print(type(error).__name__)

asyncio.run(main())
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that others may enter and read; pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="recollect-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become somebody else")
def test_a_directory_that_may_only_be_read_is_rebuilt_from(public: Path, run, start) -> None:
    """Without a lock if it has none; else with it, and not if it may not even be opened."""
    (public / "s").mkdir()
    (public / "s" / "session.json").write_text(json.dumps(SESSION))
    done = run(REBUILDING, public)
    assert (done.stdout, done.stderr) == ("1\n", "")
    lock = public / ".recollect.lock"
    assert not lock.exists()
    lock.touch()
    lock.chmod(0o644)
    assert run(REBUILDING, public).stdout == "1\n"
    lock.chmod(0o600)
    assert run(REBUILDING, public).stdout == "PermissionError\n"
    lock.chmod(0o644)
    heard(start(HOLDING, lock), "held")
    assert run(REBUILDING, public).stdout == "StoreBusy\n"
