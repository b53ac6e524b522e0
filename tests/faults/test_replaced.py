"""The file under an open store: replaced or removed it is noticed; and nothing of ours lets go of its locks."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore, NewMessage, StoreReplaced


async def other_store(path: Path) -> Path:
    """A sound store of other content beside ours."""
    other = path.with_name("other.db")
    async with AsyncSessionStore(other) as store:
        await store.sessions.create("foreign")
        await store.messages.append("foreign", role="user", content="foreign word")
        await store.flush(index=True)
    return other


def removed(path: Path, other: Path) -> None:
    path.unlink()


def replaced(path: Path, other: Path) -> None:
    os.replace(other, path)


def moved_away(path: Path, other: Path) -> None:
    path.rename(path.with_name("moved.db"))


def copied_over(path: Path, other: Path) -> None:
    path.unlink()
    shutil.copy(other, path)


def log_removed(path: Path, other: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


@pytest.mark.parametrize("how", [removed, replaced, moved_away, copied_over, log_removed])
async def test_a_replaced_file_stops_writing_for_good(store: AsyncSessionStore, path: Path, how: Callable[..., None]):
    """StoreReplaced for every write from then on, also when the file comes back; reads never show another file."""
    await store.sessions.create("s")
    await store.messages.append("s", role="user", content="word")
    await store.flush(index=True)
    assert await store.messages.count("s") == 1
    other = await other_store(path)
    how(path, other)
    for _ in range(2):
        outcomes = await asyncio.gather(
            *(store.messages.append("s", role="user") for _ in range(5)),
            store.sessions.create("t"),
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes] == [StoreReplaced] * 6
    assert {(each.stored, "replaced or removed" in str(each)) for each in outcomes} == {(False, True)}
    with pytest.raises(StoreReplaced):
        store.messages.append_nowait("s", role="user")
    assert [m.content for m in await store.messages.list("s")] == ["word"]
    assert await store.sessions.get("foreign") is None
    assert [hit.seq async for hit in store.search("word")] == [1]
    async with asyncio.timeout(5):
        await store.aclose()


@pytest.mark.parametrize("how", [removed, replaced])
async def test_a_reader_opened_after_the_replacement_does_not_read_the_other_file(
    store: AsyncSessionStore, path: Path, how: Callable[..., None]
):
    """Readers are opened when first needed: then it is another file, which is told and not shown."""
    await store.sessions.create("s")
    how(path, await other_store(path))
    with pytest.raises(StoreReplaced):
        await store.sessions.get("foreign")


# -- locks -----------------------------------------------------------------------------------------


async def _all(generator: Any) -> list[Any]:
    return [each async for each in generator]


CALLS: dict[str, Callable[[AsyncSessionStore], Awaitable[Any]]] = {
    "create": lambda s: s.sessions.create(), "ensure": lambda s: s.sessions.ensure("s", user_id="u"),
    "get": lambda s: s.sessions.get("s"), "resolve": lambda s: s.sessions.resolve("s"), "list": lambda s: s.sessions.list(),
    "update": lambda s: s.sessions.update("s", model="m"), "end": lambda s: s.sessions.end("s", "r"),
    "reopen": lambda s: s.sessions.reopen("s"), "stream": lambda s: _all(s.sessions.stream()),
    "count": lambda s: s.sessions.count(), "append": lambda s: s.messages.append("s", role="user", content="word"),
    "append_many": lambda s: s.messages.append_many("s", [NewMessage(role="user")]),
    "append_nowait": lambda s: _receipt(s), "message": lambda s: s.messages.get("s", 1),
    "messages": lambda s: s.messages.list("s"), "tail": lambda s: s.messages.tail("s", 2),
    "message stream": lambda s: _all(s.messages.stream("s")), "conversation": lambda s: s.messages.conversation("s"),
    "record_round": lambda s: s.usage.record_round("s", round_index=0), "rounds": lambda s: s.usage.rounds("s"),
    "totals": lambda s: s.usage.totals(), "search": lambda s: _all(s.search("word")),
    "relevance": lambda s: _all(s.search("word", order="newest")), "query": lambda s: s.query("SELECT 1"),
    "flush": lambda s: s.flush(index=True), "stats": lambda s: s.stats(), "delete": lambda s: s.sessions.delete("t"),
    "open": lambda s: s.open(), "check": lambda s: s.check(), "repair": lambda s: s.repair(),
    "optimize": lambda s: s.optimize(), "erase": lambda s: s.erase(session_id="t"),
    "vacuum": lambda s: s.erase(session_id="t", vacuum=True), "backup": lambda s: s.backup(f"{s._engine.name}.copy"),
    "event": lambda s: s.events.record({"kind": "noted"}), "export": lambda s: _all(s.sessions.export_all()),
}  # fmt: skip


async def _receipt(store: AsyncSessionStore) -> None:
    await store.messages.append_nowait("s", role="user")


def locks(path: Path) -> list[str]:
    """This process's POSIX locks on the database and its shared memory, as the kernel sees them."""
    inodes = {str(place.stat().st_ino) for place in (path, path.with_name(path.name + "-shm")) if place.exists()}
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    fields = [line.split() for line in lines]
    return sorted({  # the kernel may list one twice, when others take and release theirs meanwhile
        " ".join(each[1:]) for each in fields
        if each[1] == "POSIX" and each[4] == str(os.getpid()) and each[5].rpartition(":")[2] in inodes
    })  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/locks")
async def test_no_method_lets_go_of_the_databases_locks(store: AsyncSessionStore, path: Path):
    """SQLite's own locks on the file and its shared memory are all there after every public method."""
    for name in "st":
        await store.sessions.create(name)
    await store.messages.append("s", role="user", content="word")
    assert [hit async for hit in store.search("word")]
    await store.flush(index=True)
    held = locks(path)
    assert len(held) == 2, "the database's, and the one that keeps others from removing the log"
    for name, call in CALLS.items():
        await call(store)
        await store.flush(index=True)
        assert locks(path) == held, name


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/locks")
async def test_another_store_in_the_process_does_not_let_go_of_them(store: AsyncSessionStore, path: Path):
    """Opening, reading and closing a second store on the file, also for reading only, leaves ours guarded."""
    await store.sessions.create("s")
    held = locks(path)
    assert held
    for readonly in (False, True):
        async with AsyncSessionStore(path, readonly=readonly) as other:
            assert await other.sessions.count() == 1
        assert locks(path) == held
    await store.messages.append("s", role="user")


VISITOR = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
print(connection.execute("SELECT COUNT(*) FROM messages").fetchone()[0], flush=True)
connection.close()
"""


def visit(path: Path) -> str:
    """What a process sees that opens the file, reads, and closes it again."""
    command = [sys.executable, "-c", VISITOR, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


async def test_a_visitor_takes_nothing_away(store: AsyncSessionStore, path: Path):
    """It closes the file as the last that it knows of: the log stays ours."""
    await store.sessions.create("s")
    for n in range(3):
        await store.messages.append("s", role="user", content="word")
        assert int(await asyncio.to_thread(visit, path)) == n + 1
    assert await store.messages.count("s") == 3
    assert (await store.check()).is_sound
