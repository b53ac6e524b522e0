"""Backups while others write, and restores: sound copies of one moment, or nothing; the old store or the new one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from recollect import (
    AsyncSessionStore,
    InvalidRecord,
    NotAStore,
    ReadOnly,
    SchemaTooNew,
    StoreBusy,
    StoreClosed,
    StoreDamaged,
    StoreFull,
)
from recollect.restoring import restore_store

ROWS = 800

TOGETHER = 7
"""messages that are committed at once"""


async def fill(store: AsyncSessionStore, session: str, rows: int = ROWS) -> None:
    """A session of so many messages, some MB of them, indexed."""
    await store.sessions.create(session)
    texts = [{"role": "user", "content": f"word {n} " + "filler " * 120} for n in range(rows)]
    await store.messages.append_many(session, texts)
    await store.flush(index=True)


@pytest.fixture
async def filled(store: AsyncSessionStore) -> AsyncSessionStore:
    """An open store with the session `s`."""
    await fill(store, "s")
    return store


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Where the copy goes: a folder with nothing else in it."""
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "copy.db"


def beside(path: Path) -> list[str]:
    """What is in its folder."""
    return sorted(os.listdir(path.parent))


def sessions(path: Path) -> dict[str, int]:
    """The sessions of a database, with the number of their messages, from outside; it must be sound."""
    with closing(sqlite3.connect(path, timeout=5)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        sql = (
            "SELECT s.id, COUNT(m.id) FROM sessions s LEFT JOIN messages m ON m.session = s.session GROUP BY s.session"
        )
        return dict(db.execute(sql).fetchall())


WRITE = """
    import asyncio, sys
    from recollect import AsyncSessionStore

    async def main():
        async with AsyncSessionStore(sys.argv[1]) as store:
            await store.sessions.create("other")
            print("ready", flush=True)
            while True:
                await store.messages.append_many("other", [{"role": "user", "content": "x" * 200}] * 7)

    asyncio.run(main())
"""


async def test_a_backup_under_full_load_ends_and_is_of_one_moment(
    filled: AsyncSessionStore, path: Path, copy: Path, start, sound
):
    """Tasks here and another process write without a pause: all that was acknowledged before is in it, each
    transaction as a whole or not at all, and writing goes on meanwhile."""
    process = start(WRITE, path)
    await asyncio.to_thread(process.stdout.readline)
    written, stop = 0, False

    async def write() -> None:
        nonlocal written
        while not stop:
            await filled.messages.append_many("t", [{"role": "user", "content": "y" * 200}] * TOGETHER)
            written += TOGETHER

    await filled.sessions.create("t")
    tasks = [asyncio.ensure_future(write()) for _ in range(8)]
    for _ in range(3):
        before = written
        await asyncio.wait_for(filled.backup(copy), timeout=10)
        assert written > before, "writing stood still"
        found = sessions(copy)
        assert found["s"] == ROWS
        assert found["t"] >= before
        assert (found["t"] % TOGETHER, found["other"] % TOGETHER) == (0, 0)
        sound(copy)
    stop = True
    await asyncio.gather(*tasks)


async def test_the_copy_is_a_store_like_any_other(filled: AsyncSessionStore, copy: Path):
    """0600, with a log of its own, nothing beside it; it finds what the store finds, and nothing is wrong with it."""
    await filled.backup(copy)
    assert beside(copy) == [copy.name]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert copy.read_bytes()[18:20] == b"\x02\x02"  # of a database with a write-ahead log
    async with AsyncSessionStore(copy) as copied:
        ours, theirs = [[hit.id async for hit in each.search("777")] for each in (filled, copied)]
        assert ours == theirs != []
        assert (await copied.check()).problems == ()
        await copied.messages.append("s", role="user", content="goes on")
    assert sessions(copy) == {"s": ROWS + 1}


async def test_progress_is_told_on_the_loop_up_to_the_end(filled: AsyncSessionStore, copy: Path):
    """Bytes done and all there are, never backwards."""
    told: list[tuple[int, int, int]] = []
    await filled.backup(copy, progress=lambda *counts: told.append((*counts, threading.get_ident())))
    size = copy.stat().st_size
    assert told == sorted(told)
    assert told[-1] == (size, size, threading.get_ident())


async def test_a_progress_that_raises_ends_the_backup(filled: AsyncSessionStore, copy: Path):
    """With its own error, and nothing is left."""

    def fail(*_: int) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await filled.backup(copy, progress=fail)
    assert beside(copy) in ([], [copy.name])  # a small one may be done before it is told


async def test_a_cancelled_backup_leaves_nothing(filled: AsyncSessionStore, copy: Path):
    """At any moment, and soon, unless it was there as a whole already; what was there stays, the next one works."""
    loop, slowest, nothing = asyncio.get_running_loop(), 0.0, 0
    for wait_ms in range(0, 40, 2):
        task = asyncio.ensure_future(filled.backup(copy))
        await asyncio.sleep(wait_ms / 1_000)
        began = loop.time()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        slowest = max(slowest, loop.time() - began)
        if beside(copy) == [copy.name]:
            assert sessions(copy) == {"s": ROWS}
            copy.unlink()
        else:
            assert (beside(copy), task.cancelled()) == ([], True)
            nothing += 1
    assert nothing >= 1
    assert slowest < 1.0
    await filled.backup(copy)
    assert sessions(copy) == {"s": ROWS}


async def test_a_closing_store_ends_its_backup(path: Path, copy: Path, descriptors, eventually):
    """StoreClosed, at once, nothing left; the store closes as if there had been none."""
    async with AsyncSessionStore(path) as store:
        await fill(store, "s")
    before = descriptors(), threading.active_count()
    outcomes = set()
    for wait_ms in (0, 1, 3, 6, 12):
        async with AsyncSessionStore(path) as store:
            task = asyncio.ensure_future(store.backup(copy))
            await asyncio.sleep(wait_ms / 1_000)
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        outcomes.add(type(outcome))
        if outcome is None:
            copy.unlink()
        assert beside(copy) == []
        assert beside(path) == ["copies", "store.db", "store.db.lock"], "its log was not emptied"

    async def gone() -> bool:
        return (descriptors(), threading.active_count()) <= before

    assert StoreClosed in outcomes
    assert outcomes <= {StoreClosed, type(None)}
    await eventually(gone)


async def test_backups_leak_nothing(filled: AsyncSessionStore, copy: Path, tmp_path: Path, descriptors, eventually):
    """Done, refused or cancelled: neither descriptors nor threads grow."""
    await filled.backup(copy)
    before = descriptors(), threading.active_count()
    for _ in range(5):
        await filled.backup(copy)
        with pytest.raises(InvalidRecord):
            await filled.backup(tmp_path)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(filled.backup(copy), timeout=0.005)

    async def gone() -> bool:
        return (descriptors(), threading.active_count()) <= before

    await eventually(gone)


async def test_a_store_in_memory_is_backed_up(memory: AsyncSessionStore, copy: Path):
    """While tasks write to it; the copy is a store in a file."""
    await fill(memory, "s", 500)
    stop = False

    async def write() -> None:
        await memory.sessions.create("t")
        while not stop:
            await memory.messages.append_many("t", [{"role": "user", "content": "y"}] * TOGETHER)

    task = asyncio.ensure_future(write())
    await asyncio.sleep(0.01)
    await memory.backup(copy)
    stop = True
    await task
    found = sessions(copy)
    assert (found["s"], found["t"] % TOGETHER) == (500, 0)
    assert beside(copy) == [copy.name]
    assert copy.read_bytes()[18:20] == b"\x02\x02"
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_store_that_is_only_read_is_backed_up(path: Path, copy: Path):
    """readonly=True is enough, as for a store of somebody else."""
    async with AsyncSessionStore(path) as store:
        await fill(store, "s", 10)
    async with AsyncSessionStore(path, readonly=True) as store:
        await store.backup(copy)
    assert sessions(copy) == {"s": 10}


async def test_a_store_that_cannot_be_backed_up_says_so(path: Path, copy: Path):
    """One that is not open, and one whose server has tools for that."""
    with pytest.raises(StoreClosed):
        await AsyncSessionStore(path).backup(copy)
    with pytest.raises(InvalidRecord, match="pg_dump"):
        await AsyncSessionStore("postgresql://localhost/nothing").backup(copy)
    assert beside(copy) == []


async def test_what_is_no_place_for_a_backup_is_refused(filled: AsyncSessionStore, path: Path, tmp_path: Path):
    """The store itself, whatever it is called, its files, folders, pipes; nothing is changed."""
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    before = beside(path)
    own = [path.name + end for end in ("", "-wal", "-shm", "-journal", ".lock")]
    for name in [*own, "link", "hard", "pipe", "copies-not-there/copy.db", "nul\x00", ""]:
        with pytest.raises(InvalidRecord):
            await filled.backup(tmp_path / name)
    with pytest.raises(ReadOnly):
        await filled.backup("/proc/copy.db")
    assert beside(path) == before
    assert await filled.messages.count("s") == ROWS


def small(database: str, **options: object) -> sqlite3.Connection:
    """A disk with room for 100 more pages."""
    connection = sqlite3.connect(database, **options)
    if ".recollect-" in database and not options.get("uri"):
        connection.execute("PRAGMA max_page_count=100")
    return connection


async def test_no_room_for_a_backup(path: Path, copy: Path, run):
    """StoreFull, from SQLite and from a quota; what was there stays, and nothing lies beside it."""
    async with AsyncSessionStore(path) as store:
        await fill(store, "s")
    copy.write_bytes(b"old")
    async with AsyncSessionStore(path, readonly=True, connect=small) as store:
        with pytest.raises(StoreFull):
            await store.backup(copy)
    ran = run(QUOTA, path, copy)
    assert (ran.stdout, ran.returncode) == ("StoreFull\n", 0), ran.stderr
    assert beside(copy) == [copy.name]
    assert copy.read_bytes() == b"old"


QUOTA = """
    import asyncio, resource, signal, sys
    from recollect import AsyncSessionStore, StoreFull

    async def main():
        async with AsyncSessionStore(sys.argv[1], readonly=True) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            try:
                await store.backup(sys.argv[2])
            except StoreFull:
                print("StoreFull")

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    asyncio.run(main())
"""


async def test_what_a_crash_left_is_removed(filled: AsyncSessionStore, copy: Path):
    """By the next backup into that folder, once it is old; what may be under way stays, and so do other files."""
    left, under_way, other = (copy.with_name(name) for name in (".recollect-backup-1", ".recollect-backup-2", ".other"))
    for each in (left, under_way, other):
        each.write_bytes(b"half")
    for each in (left, other):
        os.utime(each, (0, 0))
    await filled.backup(copy)
    assert set(beside(copy)) == {under_way.name, other.name, copy.name}


async def test_a_damaged_store_gives_no_backup(path: Path, copy: Path):
    """StoreDamaged; the good one of yesterday stays."""
    async with AsyncSessionStore(path) as store:
        await fill(store, "s")
    shutil.copy(path, copy)
    good = copy.read_bytes()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 16_384)
    async with AsyncSessionStore(path, readonly=True) as store:
        with pytest.raises(StoreDamaged):
            await store.backup(copy)
    assert beside(copy) == [copy.name]
    assert copy.read_bytes() == good


async def test_a_store_in_use_is_not_overwritten(filled: AsyncSessionStore, copy: Path):
    """By a backup of another: StoreBusy, and both go on."""
    async with AsyncSessionStore(copy) as other:
        await other.sessions.create("mine")
        with pytest.raises(StoreBusy):
            await filled.backup(copy)
        await other.sessions.create("mine too")
    assert sessions(copy) == {"mine": 0, "mine too": 0}
    await filled.backup(copy)
    assert sessions(copy) == {"s": ROWS}


async def test_links_are_followed(filled: AsyncSessionStore, copy: Path, path: Path):
    """A link that leads to the place is followed: what it names is replaced, not the link."""
    link = path.with_name("link.db")
    link.symlink_to(copy)
    await filled.backup(link)
    assert link.is_symlink()
    assert sessions(copy) == {"s": ROWS}
    async with AsyncSessionStore(copy):
        with pytest.raises(StoreBusy):
            await filled.backup(link)


# -- restoring -------------------------------------------------------------------------------------


@pytest.fixture
async def backup(tmp_path: Path) -> Path:
    """A backup with the session `new`."""
    (tmp_path / "backups").mkdir()
    place = tmp_path / "backups" / "backup.db"
    async with AsyncSessionStore(":memory:") as store:
        await fill(store, "new", 300)
        await store.backup(place)
    return place


@pytest.fixture
async def old(copy: Path) -> Path:
    """A store with the session `old`."""
    async with AsyncSessionStore(copy) as store:
        await fill(store, "old", 300)
    return copy


NEW, OLD = {"new": 300}, {"old": 300}


async def test_a_backup_takes_the_place_of_a_store(backup: Path, old: Path):
    """0600, nothing beside it but the lock; the backup stays as it is, and what is restored goes on."""
    before = backup.read_bytes()
    await restore_store(backup, old, replace=True)
    assert beside(old) == [old.name, old.name + ".lock"]
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert backup.read_bytes() == before
    async with AsyncSessionStore(old) as store:
        assert (await store.check()).problems == ()
        assert len([hit async for hit in store.search("filler", limit=5)]) == 5
        await store.messages.append("new", role="user", content="goes on")
    assert sessions(old) == {"new": 301}


async def test_a_backup_is_restored_where_there_is_nothing(backup: Path, tmp_path: Path):
    """Its folders are made; a second time it takes `replace`."""
    place = tmp_path / "a" / "b" / "store.db"
    await restore_store(backup, place)
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert sessions(place) == NEW
    with pytest.raises(InvalidRecord, match="there already"):
        await restore_store(backup, place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_backup_on_a_medium_that_cannot_be_written_is_restored(backup: Path, tmp_path: Path):
    """Reading it takes no file beside it."""
    backup.parent.chmod(0o500)
    try:
        await restore_store(backup, tmp_path / "new.db")
    finally:
        backup.parent.chmod(0o700)
    assert sessions(tmp_path / "new.db") == NEW


async def test_what_is_no_backup_changes_nothing(old: Path, backup: Path, tmp_path: Path):
    """Something else, a newer schema, a damaged one, nothing at all, and the store itself."""
    foreign, newer, damaged = (tmp_path / name for name in ("foreign.db", "newer.db", "damaged.db"))
    with closing(sqlite3.connect(foreign)) as db:
        db.execute("CREATE TABLE t (x)")
    shutil.copy(backup, newer)
    with closing(sqlite3.connect(newer)) as db:
        db.execute("PRAGMA user_version=9999")
    shutil.copy(backup, damaged)
    with damaged.open("r+b") as file:
        file.seek(damaged.stat().st_size // 2)
        file.write(b"\xff" * 16_384)
    for bad, error in [
        (foreign, NotAStore), (newer, SchemaTooNew), (damaged, StoreDamaged), (tmp_path / "none.db", ReadOnly),
        (old, InvalidRecord), (":memory:", InvalidRecord), ("postgresql://h/d", InvalidRecord),
    ]:  # fmt: skip
        with pytest.raises(error):
            await restore_store(bad, old, replace=True)
        assert sessions(old) == OLD
    assert [name for name in beside(old) if name.startswith(".")] == []


HOLD = """
    import asyncio, sys
    from recollect import AsyncSessionStore

    async def main():
        async with AsyncSessionStore(sys.argv[1], readonly=sys.argv[2] == "readonly") as store:
            await store.sessions.count()
            print("open", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            print(await store.sessions.count(), flush=True)

    asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["writing", "readonly"])
async def test_a_store_that_is_open_elsewhere_is_not_replaced(how: str, old: Path, backup: Path, start):
    """StoreBusy, nothing is changed, and who has it open goes on."""
    process = start(HOLD, old, how)
    await asyncio.to_thread(process.stdout.readline)
    with pytest.raises(StoreBusy, match="open elsewhere"):
        await restore_store(backup, old, replace=True)
    out, err = await asyncio.to_thread(process.communicate, "\n")
    assert (out, err) == ("1\n", "")
    assert sessions(old) == OLD
    await restore_store(backup, old, replace=True)
    assert sessions(old) == NEW


@pytest.mark.parametrize("left", ["database", "log", "text", "garbage"])
async def test_an_old_log_is_never_applied_to_the_new_file(left: str, old: Path, backup: Path, run):
    """Of a store that was killed, also one that is gone, or whose header is lost."""
    ran = run(LEAVE_LOG, old)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    log = Path(f"{old}-wal")
    assert log.stat().st_size > 0
    if left == "log":
        old.unlink()
    elif left == "text":
        old.write_bytes(b"text\n")
    elif left == "garbage":
        with old.open("r+b") as file:
            file.write(b"\xff" * 4_096)
    await restore_store(backup, old, replace=True)
    assert beside(old) == [old.name, old.name + ".lock"]
    assert sessions(old) == NEW
    async with AsyncSessionStore(old) as store:
        assert (await store.check()).problems == ()


LEAVE_LOG = """
    import asyncio, os, signal, sys
    from recollect import AsyncSessionStore

    async def main():
        async with AsyncSessionStore(sys.argv[1]) as store:
            await store.messages.append("old", role="user", content="in the log")
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(main())
"""


ROUNDS = 9

KILLED = """
    import asyncio, os, signal, sys, time
    from recollect import AsyncSessionStore
    from recollect.restoring import restore_store

    what, source, target, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

    async def work():
        if what == "restore":
            await restore_store(source, target, replace=True)
        else:
            async with AsyncSessionStore(source) as store:
                await store.backup(target)

    def child():
        started, now = os.pipe()
        if pid := os.fork():
            os.read(started, 1)
            return pid
        os.write(now, b".")
        asyncio.run(work())
        os._exit(0)

    took = 0.0
    for n in range(rounds):
        print("round", flush=True)
        sys.stdin.readline()
        began, pid = time.monotonic(), child()
        if n:
            time.sleep(took * n / rounds)
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        took = took or time.monotonic() - began
        print("ended", flush=True)
"""


async def _rounds(process, before: Callable[[], None], after: Callable[[], str]) -> set[str]:
    """Runs the rounds, the first to its end, each other killed a little later; what they ended with."""
    ended = set()
    for _ in range(ROUNDS):
        assert process.stdout.readline() == "round\n"
        before()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ended\n"
        ended.add(after())
    return ended


async def test_a_killed_restore_leaves_the_old_store_or_the_new_one(old: Path, backup: Path, run, start):
    """Whole, with what was in its log; at moments all through the restore."""
    run(LEAVE_LOG, old)
    saved = {each: each.read_bytes() for each in (old, Path(f"{old}-wal"))}

    def again() -> None:
        for each in old.parent.iterdir():
            each.unlink()
        for each, content in saved.items():
            each.write_bytes(content)

    def state() -> str:
        found = sessions(old)
        assert found in ({"old": 301}, NEW)
        return "new" if found == NEW else "old"

    ended = await _rounds(start(KILLED, "restore", backup, old, ROUNDS), again, state)
    assert ended == {"old", "new"}


async def test_a_killed_backup_leaves_no_half_of_one(old: Path, backup: Path, start):
    """Under the name is nothing, or a whole one; where one was, the old one or the new one."""

    def again() -> None:
        for each in backup.parent.iterdir():
            each.unlink()

    def state() -> str:
        if not backup.exists():
            return "nothing"
        assert sessions(backup) == OLD
        return "new"

    ended = await _rounds(start(KILLED, "backup", old, backup, ROUNDS), again, state)
    assert ended == {"nothing", "new"}


OPEN_OFTEN = """
    import asyncio, sys
    from recollect import AsyncSessionStore, StoreBusy, StoreReplaced

    async def main():
        print("ready", flush=True)
        stop = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
        while not stop.done():
            try:
                async with AsyncSessionStore(sys.argv[1]) as store:
                    [session] = [each.id for each in await store.sessions.list()]
                    await store.messages.append(session, role="user", content="one more")
            except (StoreBusy, StoreReplaced) as error:
                pass
            await asyncio.sleep(0.005)

    asyncio.run(main())
"""


async def test_restores_among_processes_that_open_the_store(old: Path, backup: Path, start, sound):
    """Whoever comes in between is refused, waits, or makes the restore wait: nothing is ever a mixture."""
    processes = [start(OPEN_OFTEN, old) for _ in range(2)]
    for process in processes:
        await asyncio.to_thread(process.stdout.readline)
    done = 0
    for _ in range(200):
        try:
            await restore_store(backup, old, replace=True)
            done += 1
        except StoreBusy:
            await asyncio.sleep(0.003)
        if done == 2:
            break
    for process in processes:
        _, err = await asyncio.to_thread(process.communicate, "\n")
        assert err == ""
    assert done == 2
    sound(old)
    assert set(sessions(old)) == {"new"}
