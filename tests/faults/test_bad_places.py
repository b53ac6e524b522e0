"""Places a store cannot be: each its own typed error, a helpful message, and the place left as it was."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recollect import AsyncSessionStore, NotAStore, ReadOnly, SchemaTooNew, StoreDamaged, StoreError

AS_NOBODY = """
import asyncio, os, sys
from recollect import AsyncSessionStore, StoreError

async def load():  # everything, while Python's own files can still be read
    async with AsyncSessionStore(":memory:") as store:
        await store.sessions.create("s")
        assert [hit async for hit in store.search("word")] == []
        await store.stats()

asyncio.run(load())
os.setgroups([]); os.setgid(65534); os.setuid(65534)

async def main():
    try:
        async with AsyncSessionStore(sys.argv[1], readonly=sys.argv[2] == "readonly") as store:
            print("open", await store.messages.count(), [hit.seq async for hit in store.search("word")])
            if sys.argv[2] != "readonly":
                await store.sessions.create()
                print("stored")
    except StoreError as error:
        print(type(error).__name__, error)

asyncio.run(main())
"""


def sqlite_file(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def foreign_sqlite(path: Path) -> None:
    sqlite_file(path, "CREATE TABLE theirs (x)", "INSERT INTO theirs VALUES ('precious')")


def foreign_by_id(path: Path) -> None:
    sqlite_file(path, "PRAGMA application_id = 1234", "CREATE TABLE sessions (x)")


def foreign_by_version(path: Path) -> None:
    sqlite_file(path, "PRAGMA user_version = 6", "CREATE TABLE schema_version (version)")


FOREIGN = {
    "random bytes": lambda path: path.write_bytes(os.urandom(50_000)),
    "text": lambda path: path.write_text("dear diary\n" * 500),
    "one byte": lambda path: path.write_bytes(b"x"),
    "a header and rubbish": lambda path: path.write_bytes(b"SQLite format 3\x00" + os.urandom(8_000)),
    "another application's database": foreign_sqlite,
    "another application's id": foreign_by_id,
    "another application's version": foreign_by_version,
}


@pytest.mark.parametrize("readonly", [False, True], ids=["writing", "readonly"])
@pytest.mark.parametrize("kind", FOREIGN)
async def test_what_is_not_a_store_is_refused_and_left_alone(tmp_path: Path, kind: str, readonly: bool):
    """NotAStore names the file; its bytes are unchanged; it is refused again the second time."""
    path = tmp_path / "theirs.db"
    FOREIGN[kind](path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises((NotAStore, StoreDamaged) if "rubbish" in kind else NotAStore, match=r"theirs\.db"):
            async with AsyncSessionStore(path, readonly=readonly):
                pass
        assert path.read_bytes() == before


async def test_an_empty_file_becomes_a_store(tmp_path: Path):
    """A file of no bytes is nobody's; one that SQLite has made and left empty likewise."""
    (tmp_path / "a.db").touch()
    sqlite_file(tmp_path / "b.db", "PRAGMA journal_mode=WAL", "CREATE TABLE t (x)", "DROP TABLE t")
    for name in "ab":
        async with AsyncSessionStore(tmp_path / f"{name}.db") as store:
            await store.sessions.create("s")


async def test_a_place_that_is_no_file_is_refused(tmp_path: Path):
    """A directory, a path through a file, a device: a typed error that names it."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    for place in (tmp_path / "dir", tmp_path / "file" / "s.db", Path("/dev/null"), tmp_path / ("n" * 300)):
        for readonly in (False, True):
            with pytest.raises((NotAStore, ReadOnly)) as refused:
                async with AsyncSessionStore(place, readonly=readonly):
                    pass
            assert place.name[:50] in str(refused.value)


@pytest.mark.parametrize("readonly", [False, True], ids=["writing", "readonly"])
async def test_a_newer_schema_is_refused_and_left_alone(path: Path, readonly: bool):
    """SchemaTooNew says which and what to do; nothing is changed."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
    sqlite_file(path, "PRAGMA user_version = 999")
    before = path.read_bytes()
    with pytest.raises(SchemaTooNew, match=r"999.*upgrade"):
        async with AsyncSessionStore(path, readonly=readonly):
            pass
    assert path.read_bytes() == before


async def test_many_failed_opens_leave_nothing_open(tmp_path: Path, descriptors, eventually):
    """Neither descriptors nor threads, by any of the errors."""
    (tmp_path / "text.db").write_text("x" * 5_000)
    foreign_sqlite(tmp_path / "foreign.db")
    (tmp_path / "dir").mkdir()
    before = descriptors(), threading.active_count()
    for _ in range(20):
        for name in ("text.db", "foreign.db", "dir"):
            for readonly in (False, True):
                with pytest.raises(StoreError):
                    await AsyncSessionStore(tmp_path / name, readonly=readonly).open()

    async def nothing_is_left() -> bool:
        return descriptors() <= before[0] and threading.active_count() <= before[1]

    await eventually(nothing_is_left)


async def test_structural_damage_is_told_and_is_not_repaired(path: Path):
    """Pages overwritten: StoreDamaged for those who meet it, no rewrite of what is left."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        await store.messages.append_many("s", [{"role": "user", "content": "word " * 500} for _ in range(200)])
        await store.flush(index=True)
    whole = bytearray(path.read_bytes())
    for page in range(8, len(whole) // 4096):
        whole[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(whole)
    try:
        async with AsyncSessionStore(path) as store:
            with pytest.raises(StoreDamaged, match="damaged"):
                await store.messages.list("s")
            outcomes = [await told(store.messages.append("s", role="user")) for _ in range(3)]
            assert {type(each) for each in outcomes} == {StoreDamaged}
    except StoreDamaged:
        pass  # found at the opening already


async def told(call) -> object:
    try:
        return await call
    except StoreError as error:
        return error


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that others may enter and read; pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="recollect-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become somebody else")
@pytest.mark.parametrize("mode", ["readonly", "writing"])
@pytest.mark.parametrize("writable", ["nothing", "file", "folder"])
def test_a_place_that_may_not_be_written_says_so(public: Path, run, mode: str, writable: str):
    """Without the right to write the folder or the file, writing is ReadOnly with the reason; reading is open,
    where SQLite can, or ReadOnly too. Never a hang, never another error."""

    async def fill() -> None:
        async with AsyncSessionStore(folder / "s.db") as store:
            await store.sessions.create("s")
            await store.messages.append("s", role="user", content="word")
            await store.flush(index=True)

    folder = public / "folder"
    folder.mkdir()
    asyncio.run(fill())
    for file in folder.iterdir():
        file.chmod(0o666 if writable == "file" else 0o444)
    folder.chmod(0o777 if writable == "folder" else 0o555)
    done = run(AS_NOBODY, folder / "s.db", mode)
    assert done.stderr == ""
    assert "stored" not in done.stdout.splitlines()
    first = done.stdout.split()[0]
    assert first in (("open", "ReadOnly") if mode == "readonly" else ("ReadOnly",))
    if first == "open":
        assert done.stdout == "open 1 [1]\n"
    else:
        assert "s.db" in done.stdout or "permission" in done.stdout


READING_TWICE = (
    AS_NOBODY.partition("async def main")[0]
    + """
async def main():
    async with AsyncSessionStore(sys.argv[1], readonly=True) as store:
        print(await store.messages.count(), flush=True)
        sys.stdin.readline()
        try:
            print(await store.messages.count(), len(await store.messages.list("s")), flush=True)
        except StoreError as error:
            print(type(error).__name__, flush=True)

asyncio.run(main())
"""
)


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become somebody else")
async def test_a_reader_that_may_not_write_does_not_read_the_past(public: Path, start):
    """Opened while nobody wrote, in a folder it may not write: what is committed later is seen, or refused."""
    path = public / "s.db"
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        await store.messages.append("s", role="user", content="word")
    path.chmod(0o644)
    reader = start(READING_TWICE, path)
    first = await asyncio.to_thread(reader.stdout.readline)
    if first == "":
        return  # it may be refused as well
    assert first == "1\n"
    async with AsyncSessionStore(path) as store:
        for n in range(50):
            await store.messages.append("s", role="user", content=f"word {n} " + "x" * 5_000)
    reader.stdin.write("go\n")
    reader.stdin.flush()
    answer = await asyncio.to_thread(reader.stdout.readline)
    assert answer in ("51 51\n", "StoreReplaced\n", "StoreBusy\n", "ReadOnly\n"), answer


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become somebody else")
def test_a_new_store_in_a_folder_of_others_says_so(public: Path, run):
    """ReadOnly names the path and the system's reason; nothing is made."""
    (public / "theirs").mkdir(mode=0o755)
    done = run(AS_NOBODY, public / "theirs" / "new.db", "writing")
    assert (done.stdout.split()[0], done.stderr) == ("ReadOnly", "")
    assert "new.db" in done.stdout
    assert "Permission denied" in done.stdout
    assert list((public / "theirs").iterdir()) == []
