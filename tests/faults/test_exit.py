"""The end of a store and of its process: nothing hangs, misuse is told by name."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import textwrap
import time
import warnings
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore, ForkedStore, StoreClosed, StoreError, WrongLoop

SCRIPTS = {
    "forgets to close": """
        async def main():
            store = await AsyncSessionStore(sys.argv[1]).open()
            keep.append(store)
            await use(store)
        asyncio.run(main())
        """,
    "forgets a local": """
        async def main():
            store = await AsyncSessionStore(sys.argv[1]).open()
            await use(store)
        asyncio.run(main())
        """,
    "raises": """
        async def main():
            store = await AsyncSessionStore(sys.argv[1]).open()
            keep.append(store)
            await use(store)
            raise SystemExit(7)
        asyncio.run(main())
        """,
    "closes the loop first": """
        loop = asyncio.new_event_loop()
        store = loop.run_until_complete(AsyncSessionStore(sys.argv[1]).open())
        keep.append(store)
        loop.run_until_complete(use(store))
        loop.close()
        """,
    "leaves a search half-read": """
        async def main():
            store = await AsyncSessionStore(sys.argv[1]).open()
            keep.append(store)
            await use(store)
            hits = store.search("word")
            keep.append(hits)
            await anext(hits)
        asyncio.run(main())
        """,
    "is in the middle of a write": """
        async def main():
            store = await AsyncSessionStore(sys.argv[1]).open()
            keep.append(store)
            await use(store)
            for n in range(100):
                store.messages.append_nowait("s", role="user", content="late")
        asyncio.run(main())
        """,
}  # fmt: skip

PRELUDE = """
import asyncio, sys
from recollect import AsyncSessionStore
keep = []
async def use(store):
    await store.sessions.ensure("s")
    await store.messages.append("s", role="user", content="word")
    assert [hit.seq async for hit in store.search("word", order="oldest", limit=1)] == [1]
    print("used", flush=True)
"""


@pytest.mark.parametrize("options", [(), ("-X", "dev")], ids=["plain", "dev"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_that_forgets_to_close_ends(path: Path, start, sound, name: str, options: tuple[str, ...]):
    """Within a second of its last line, the best of three times; whatever it left open, with what it
    acknowledged on the disk."""
    took: list[float] = []
    while not took or (min(took) >= 1.0 and len(took) < 3):
        process = start(PRELUDE + textwrap.dedent(SCRIPTS[name]), path, options=options)
        assert process.stdout.readline() == "used\n", process.stderr.read()
        began = time.monotonic()
        _, err = process.communicate(timeout=10)
        took.append(time.monotonic() - began)
        assert process.returncode == (7 if name == "raises" else 0)
        assert "Exception in thread" not in err
        assert "Fatal" not in err
        sound(path)
        for file in path.parent.iterdir():
            file.unlink()
    assert min(took) < 1.0


def test_a_closed_store_says_nothing_at_exit(path: Path, run):
    """A proper end is silent, also with every warning an error."""
    code = (
        PRELUDE
        + "\nasync def main():\n    async with AsyncSessionStore(sys.argv[1]) as store:\n        await use(store)\nasyncio.run(main())\n"
    )
    done = run(code, path, options=("-X", "dev", "-W", "error"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "used\n", "")


def test_an_interrupted_process_ends(path: Path, start, sound):
    """Ctrl-C in the middle of 64 appending tasks: the store is closed, the process ends."""
    code = (
        PRELUDE
        + """
async def work(store):
    while True:
        await store.messages.append("s", role="user", content="word")
async def main():
    async with AsyncSessionStore(sys.argv[1]) as store:
        await use(store)
        await asyncio.gather(*(work(store) for _ in range(64)))
asyncio.run(main())
"""
    )
    process = start(code, path)
    assert process.stdout.readline() == "used\n", process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=5)
    assert "KeyboardInterrupt" in err
    assert "Exception in thread" not in err
    assert not path.with_name("store.db-wal").exists(), "it was closed: the log is gone"
    sound(path)


# -- misuse ----------------------------------------------------------------------------------------


async def _search(store: AsyncSessionStore) -> None:
    async for _ in store.search("word"):
        pass


async def _stream(store: AsyncSessionStore) -> None:
    async for _ in store.messages.stream("s"):
        pass


async def _nowait(store: AsyncSessionStore) -> None:
    store.messages.append_nowait("s", role="user")


CALLS: dict[str, Callable[[AsyncSessionStore], Awaitable[Any]]] = {
    "append": lambda s: s.messages.append("s", role="user"), "append_nowait": _nowait, "search": _search, "stream": _stream,
    "append_many": lambda s: s.messages.append_many("s", [{"role": "user"}]), "create": lambda s: s.sessions.create(),
    "get": lambda s: s.sessions.get("s"), "list": lambda s: s.sessions.list(), "delete": lambda s: s.sessions.delete("s"),
    "record_round": lambda s: s.usage.record_round("s", round_index=0), "rounds": lambda s: s.usage.rounds("s"),
    "query": lambda s: s.query("SELECT 1"), "flush": lambda s: s.flush(index=True), "stats": lambda s: s.stats(),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
async def test_a_store_that_is_not_open_says_so(path: Path, name: str):
    """Before open and after aclose every method is StoreClosed, and nothing happens."""
    store = AsyncSessionStore(path)
    with pytest.raises(StoreClosed, match="open"):
        await CALLS[name](store)
    assert not path.exists()
    async with store:
        await store.sessions.create("s")
    with pytest.raises(StoreClosed, match="closed"):
        await CALLS[name](store)


@pytest.mark.parametrize("name", CALLS)
def test_another_loop_is_told(path: Path, name: str):
    """A store is used on the loop it was opened on; elsewhere it is WrongLoop, and it still works at home."""
    with asyncio.Runner() as home, asyncio.Runner() as away:
        store = home.run(AsyncSessionStore(path).open())
        home.run(store.sessions.create("s"))

        async def elsewhere() -> None:
            with pytest.raises(WrongLoop, match="loop"):
                await CALLS[name](store)

        away.run(elsewhere())
        assert home.run(store.messages.append("s", role="user")).seq == 1
        home.run(store.aclose())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", CALLS)
async def test_a_forked_child_is_told(store: AsyncSessionStore, name: str):
    """In the child every method is ForkedStore; the parent goes on."""
    await store.sessions.create("s")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            await CALLS[name](store)
        except ForkedStore:
            status = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(status)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (await store.messages.append("s", role="user")).seq == 1
    assert await store.messages.count("s") == 1


async def test_closing_twice_at_once_or_later_is_harmless(path: Path):
    """Every aclose returns when the store is closed; the log is gone by then."""
    store = await AsyncSessionStore(path).open()
    await store.sessions.create("s")

    async def close() -> None:
        await store.aclose()
        assert not path.with_name("store.db-wal").exists()

    await asyncio.gather(close(), close(), close())
    await store.aclose()


async def test_closing_what_was_never_opened_is_harmless(path: Path):
    """No error, no file."""
    await AsyncSessionStore(path).aclose()
    assert not path.exists()


async def test_generators_left_half_read_cost_nothing(store: AsyncSessionStore, path: Path):
    """Abandoned searches and streams hold no reader and no snapshot, and do not keep the store from closing."""
    await store.sessions.create("s")
    await store.messages.append_many("s", [{"role": "user", "content": "word"} for _ in range(600)])
    left = []
    for _ in range(20):
        for generator in (store.search("word", limit=None), store.messages.stream("s"), store.sessions.stream()):
            await anext(generator)
            left.append(generator)
    assert (await store.stats()).readers_busy <= 1
    assert await store.messages.count("s") == 600
    await store.flush(index=True)
    with closing(sqlite3.connect(path, timeout=5)) as outside:
        assert outside.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0), "no snapshot is held"
    await store.aclose()
    assert not path.with_name("store.db-wal").exists()
    for generator in left:
        with pytest.raises((StoreError, StopAsyncIteration)):
            for _ in range(1000):
                await anext(generator)


@pytest.mark.recollect_leaves_open
def test_a_store_forgotten_by_one_is_no_store_open_for_another(path: Path):
    """A store that was lost without closing does not make a later one, at its address, seem open."""

    async def lose() -> int:
        store = await AsyncSessionStore(path).open()
        return id(store)

    async def main() -> None:
        lost = set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            for _ in range(5):
                lost.add(await lose())
                gc.collect()
        for _ in range(20):
            async with AsyncSessionStore(":memory:") as store:
                await store.sessions.create("s")

    asyncio.run(main())
