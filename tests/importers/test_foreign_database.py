"""SQLite files of others: read as they stand, in pieces, around what is damaged, and left as they are."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recollect import NotAStore, ReadOnly, StoreBusy, StoreDamaged
from recollect.importers import database
from recollect.importers.database import ForeignDatabase, Piece


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A name that a URI would take apart."""
    return tmp_path / "what? 100%#.db"


@pytest.fixture
def owner(file: Path) -> Iterator[sqlite3.Connection]:
    """The connection of whom the file belongs to: 100 notes in a WAL that nobody has checkpointed."""
    with closing(create(file, "WAL")) as connection:
        yield connection


def create(file: Path, journal: str, n: int = 100, size: int = 500) -> sqlite3.Connection:
    """A file with notes in three folders."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={journal}")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, folder TEXT, text TEXT)")
    connection.execute("CREATE INDEX notes_folder ON notes (folder)")
    rows = [(id, "abc"[id % 3], f"{id} ".ljust(size, "x")) for id in range(1, n + 1)]
    connection.executemany("INSERT INTO notes VALUES (?, ?, ?)", rows)
    return connection


async def pieces(opened: ForeignDatabase, keys: list[int]) -> list[Piece]:
    """All that is read."""
    return [piece async for piece in opened.read("notes", "id", ["text", "folder"], keys)]


def state(file: Path) -> tuple[bytes, int]:
    """What must not change."""
    return file.read_bytes(), file.stat().st_mtime_ns


# -- read ------------------------------------------------------------------------------------------


async def test_what_was_committed_is_seen_and_nothing_changes(file: Path, owner: sqlite3.Connection) -> None:
    """Though it is in the log of another connection only."""
    log = file.with_name(file.name + "-wal")
    before = state(file), state(log)
    async with ForeignDatabase(file, needs=["notes"]) as opened:
        assert await opened.columns("notes") == {"id", "folder", "text"}
        assert await opened.columns("nothing") == frozenset()
        keys = await opened.keys("notes", "id", "folder = ?", ["a"])
        assert keys == list(range(3, 101, 3))
        (piece,) = await pieces(opened, keys)
        assert [row["id"] for row in piece.rows] == keys
        assert {row["folder"] for row in piece.rows} == {"a"}
        owner.execute("INSERT INTO notes VALUES (101, 'a', 'new')")
        assert (await opened.keys("notes"))[-1] == 101
        owner.execute("DELETE FROM notes WHERE id = 101")
    assert state(file) == before[0]
    assert state(log)[0].startswith(before[1][0])


async def test_large_rows_come_a_few_at_a_time(tmp_path: Path) -> None:
    """In order, each once, whatever their size; those deleted since are passed over."""
    create(tmp_path / "x.db", "DELETE", n=30, size=1_000_000).close()
    async with ForeignDatabase(tmp_path / "x.db") as opened:
        read = await pieces(opened, list(range(31)))
    assert [row["id"] for piece in read for row in piece.rows] == list(range(1, 31))
    assert all(sum(len(row["text"]) for row in piece.rows) <= database.BYTES_AT_ONCE + 1_000_000 for piece in read)
    assert len(read) > 5


async def test_nothing_is_held_between_pieces(file: Path, owner: sqlite3.Connection) -> None:
    """Whom the file belongs to can empty its log while somebody reads."""
    owner.execute("INSERT INTO notes SELECT id + 1000, folder, printf('%.100000c', 'x') FROM notes")
    async with ForeignDatabase(file) as opened:
        keys = await opened.keys("notes")
        async for _ in opened.read("notes", "id", ["text"], keys):
            owner.execute("UPDATE notes SET folder = 'd' WHERE id = 1")
            assert owner.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


async def test_what_is_not_utf8_is_read(file: Path, owner: sqlite3.Connection) -> None:
    """With marks where the bytes mean nothing."""
    owner.execute("INSERT INTO notes VALUES (200, CAST(x'ff61' AS TEXT), x'ff')")
    async with ForeignDatabase(file) as opened:
        (row,) = await opened.rows("SELECT folder, text FROM notes WHERE id = ?", [200])
    assert tuple(row) == ("\ufffda", b"\xff")


async def test_a_file_at_rest_has_nothing_beside_it_afterwards(file: Path) -> None:
    """Reading one in WAL mode takes two files more; they go when it was read, and it is as it was."""
    create(file, "WAL").close()
    before = state(file)
    async with ForeignDatabase(file) as opened:
        assert len(await opened.keys("notes")) == 100
    assert ([each.name for each in file.parent.iterdir()], state(file)) == ([file.name], before)


async def test_what_its_owner_wrote_meanwhile_is_left_to_him(file: Path) -> None:
    """Whoever opened the file while it was read keeps his log."""
    create(file, "WAL").close()
    async with ForeignDatabase(file) as opened:
        await opened.keys("notes")
        owner = sqlite3.connect(file, isolation_level=None)
        owner.execute("DELETE FROM notes WHERE id > 50")
    before = state(file)
    with closing(owner):
        assert (file.with_name(file.name + "-wal").stat().st_size > 0, state(file)) == (True, before)
        assert owner.execute("SELECT COUNT(*) FROM notes").fetchone() == (50,)


async def test_any_name_of_a_column_can_be_read(tmp_path: Path) -> None:
    """Quotes in it too."""
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.executescript("""CREATE TABLE t (id INTEGER, "a""b" TEXT); INSERT INTO t VALUES (1, 'x');""")
    async with ForeignDatabase(tmp_path / "x.db") as opened:
        columns = sorted(await opened.columns("t"))
        assert [row['a"b'] async for piece in opened.read("t", "id", columns, [1]) for row in piece.rows] == ["x"]


async def test_writing_is_impossible(file: Path, owner: sqlite3.Connection) -> None:
    """Even for who tries."""
    async with ForeignDatabase(file) as opened:
        with pytest.raises(ReadOnly):
            await opened.rows("DELETE FROM notes")


async def test_a_reader_that_is_cancelled_closes_the_file(file: Path, owner: sqlite3.Connection) -> None:
    """Afterwards nobody else has it open: the log goes with the last connection."""

    async def read() -> None:
        async with ForeignDatabase(file) as opened:
            while True:
                await opened.keys("notes")

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    owner.close()
    assert not file.with_name(file.name + "-wal").exists()


# -- damaged ---------------------------------------------------------------------------------------


def spoil(file: Path, *pages: int) -> None:
    """Overwrites pages of 4 KB."""
    data = bytearray(file.read_bytes())
    for page in pages:
        data[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    file.write_bytes(data)


def roots(connection: sqlite3.Connection) -> dict[str, int]:
    """The first page of each table and index."""
    return dict(connection.execute("SELECT name, rootpage FROM sqlite_master").fetchall())


async def test_a_damaged_page_costs_its_rows_only(tmp_path: Path) -> None:
    """Their keys are known from an index, and told; all others are read."""
    file = tmp_path / "x.db"
    with closing(create(file, "DELETE")) as connection:
        last = connection.execute("PRAGMA page_count").fetchone()[0]
    spoil(file, last - 1)
    async with ForeignDatabase(file) as opened:
        keys = await opened.keys("notes", "id", "folder <> ''")
        assert keys == list(range(1, 101))
        read = await pieces(opened, keys)
    lost = [key for piece in read for key in piece.lost]
    assert 0 < len(lost) < 10
    assert sorted([row["id"] for piece in read for row in piece.rows] + lost) == keys


async def test_a_damaged_index_is_done_without(tmp_path: Path) -> None:
    """The table tells as well."""
    file = tmp_path / "x.db"
    with closing(create(file, "DELETE")) as connection:
        spoil_at = roots(connection)["notes_folder"]
    spoil(file, spoil_at)
    async with ForeignDatabase(file) as opened:
        assert await opened.keys("notes", "id", "folder = ?", ["a"]) == list(range(3, 101, 3))


async def test_damage_everywhere_is_an_error(tmp_path: Path) -> None:
    """With the name of the file."""
    file = tmp_path / "x.db"
    with closing(create(file, "DELETE")) as connection:
        pages = roots(connection)
    spoil(file, pages["notes"], pages["notes_folder"])
    async with ForeignDatabase(file) as opened:
        with pytest.raises(StoreDamaged, match=r"x\.db"):
            await opened.keys("notes", "id", "folder = ?", ["a"])


# -- refused ---------------------------------------------------------------------------------------


async def test_what_is_no_database_is_refused(tmp_path: Path, file: Path, owner: sqlite3.Connection) -> None:
    """A folder, text, something short, an empty file, tables of another program."""
    (tmp_path / "text").write_text("not a database " * 100)
    (tmp_path / "short").write_text("short")
    (tmp_path / "empty").touch()
    for name in (".", "text", "short", "empty", file.name):
        with pytest.raises(NotAStore, match=r"not a|no table"):
            async with ForeignDatabase(tmp_path / name, needs=["notes", "sessions"]):
                pass
    assert (tmp_path / "empty").stat().st_size == 0
    for missing in (ForeignDatabase(tmp_path / "missing"), ForeignDatabase(tmp_path, within="missing")):
        with pytest.raises(FileNotFoundError):
            await missing.open()
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("script", ["CREATE TABLE t (id); INSERT INTO t VALUES (1), ('a'), (NULL)",
                                    "CREATE TABLE t (other)", "CREATE VIEW t AS SELECT id FROM gone"],
                         ids=["keys", "columns", "view"])  # fmt: skip
async def test_tables_of_another_make_are_refused(tmp_path: Path, script: str) -> None:
    """Keys that are no numbers, no such column, a view of nothing."""
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.executescript(script)
    async with ForeignDatabase(tmp_path / "x.db") as opened:
        with pytest.raises(NotAStore, match=r"x\.db"):
            await opened.keys("t", "id")


async def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """No cursor could remember it."""
    file = tmp_path / os.fsdecode(b"\xff.db")
    file.touch()
    with pytest.raises(NotAStore, match="UTF-8"):
        await ForeignDatabase(file).open()


async def test_a_folder_stands_for_the_file_in_it(tmp_path: Path, file: Path, owner: sqlite3.Connection) -> None:
    """Where its name is known."""
    async with ForeignDatabase(tmp_path, within=file.name) as opened:
        assert opened.path == str(file)
        assert opened.stat.st_size == file.stat().st_size


async def test_a_file_that_stays_locked_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some patience."""
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    with closing(create(tmp_path / "x.db", "DELETE")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy, match=r"x\.db"):
            await ForeignDatabase(tmp_path / "x.db").open()


# -- places that cannot be written -----------------------------------------------------------------

as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")


@as_user
async def test_a_file_in_a_place_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    """Though a file in WAL mode wants another beside it."""
    create(tmp_path / "x.db", "WAL").close()
    tmp_path.chmod(0o500)
    try:
        async with ForeignDatabase(tmp_path / "x.db") as opened:
            assert len(await opened.keys("notes")) == 100
    finally:
        tmp_path.chmod(0o700)


@as_user
async def test_a_log_that_cannot_be_read_there_is_not_passed_over(tmp_path: Path) -> None:
    """Half of the data would be missing."""
    copied: Any = tmp_path / "copied"
    copied.mkdir()
    with closing(create(tmp_path / "x.db", "WAL")):
        for end in ("", "-wal"):
            (copied / f"x.db{end}").write_bytes((tmp_path / f"x.db{end}").read_bytes())
    copied.chmod(0o500)
    try:
        with pytest.raises(ReadOnly, match=r"x\.db"):
            await ForeignDatabase(copied / "x.db").open()
    finally:
        copied.chmod(0o700)
