"""A store on PostgreSQL in the wrong place: forked, on another loop, forgotten; misuse is told by name."""

from __future__ import annotations

import asyncio
import os
import textwrap
import time

import psycopg
import pytest

from recollect import AsyncSessionStore, ForkedStore, StoreClosed, WrongLoop

from .test_exit import CALLS, PRELUDE, SCRIPTS


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_is_told(recollect_postgres_dsn: str):
    """In the child every method is ForkedStore, and closing does nothing; the parent goes on, on its connections."""
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        await store.sessions.create("s")
        await store.messages.append("s", role="user", content="word")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = await _misuse(store)
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert (await store.messages.append("s", role="user")).seq == 2
        assert await store.messages.count("s") == 2
        assert [hit.seq async for hit in store.search("word")] == [1]


async def _misuse(store: AsyncSessionStore) -> int:
    for name, call in CALLS.items():
        try:
            await call(store)
        except ForkedStore:
            continue
        os.write(2, f"{name} was done in the child\n".encode())
        return 1
    return 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_what_was_queued_when_the_process_was_forked_is_stored_once(recollect_postgres_dsn: str):
    """Writes on their way at the fork are the parent's; a child that ends leaves the parent's connections alone."""
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        await store.sessions.create("s")
        for n in range(5):
            receipts = [store.messages.append_nowait("s", role="user", content=f"{n} {k}") for k in range(20)]
            await asyncio.sleep(n / 1000)
            child = os.fork()
            if child == 0:
                os._exit(0)
            await asyncio.to_thread(os.waitpid, child, 0)
            refs = [await receipt for receipt in receipts]
            assert [ref.seq for ref in refs] == list(range(20 * n + 1, 20 * n + 21))
        assert await store.messages.count("s") == 100


def test_another_loop_is_told(recollect_postgres_dsn: str):
    """A store is used on the loop it was opened on; elsewhere every method is WrongLoop, and it still works at home."""
    with asyncio.Runner() as home, asyncio.Runner() as away:
        store = home.run(AsyncSessionStore(recollect_postgres_dsn).open())
        home.run(store.sessions.create("s"))

        async def elsewhere() -> None:
            for call in CALLS.values():
                with pytest.raises(WrongLoop, match="loop"):
                    await call(store)

        away.run(elsewhere())
        assert home.run(store.messages.append("s", role="user")).seq == 1
        home.run(store.aclose())


async def test_a_store_that_is_not_open_says_so(recollect_postgres_dsn: str):
    """Before open and after aclose every method is StoreClosed."""
    store = AsyncSessionStore(recollect_postgres_dsn)
    for call in CALLS.values():
        with pytest.raises(StoreClosed, match="open"):
            await call(store)
    async with store:
        await store.sessions.create("s")
    for call in CALLS.values():
        with pytest.raises(StoreClosed, match="closed"):
            await call(store)


async def test_closing_and_opening_again_and_at_once_is_harmless(recollect_postgres_dsn: str):
    """Every aclose returns when the store is closed, with its connections; it can be opened again."""
    store = AsyncSessionStore(recollect_postgres_dsn)
    await store.aclose()
    for n in range(3):
        await asyncio.gather(store.open(), store.open())
        await store.sessions.create(f"s{n}")
        await asyncio.gather(*[store.sessions.get("s0") for _ in range(8)])
        await asyncio.gather(store.aclose(), store.aclose(), store.aclose())
        await no_connections(recollect_postgres_dsn)
    await store.aclose()


async def no_connections(dsn: str) -> None:
    """Returns when the server has none of a store; it takes a moment to see that one was closed."""
    end = time.monotonic() + 5
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while True:
            cursor = await connection.execute(
                "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'recollect'"
            )
            if await cursor.fetchone() == (0,):
                return
            assert time.monotonic() < end, "connections are left open"
            await asyncio.sleep(0.01)


# -- forgotten -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_process_that_forgets_to_close_ends(recollect_postgres_dsn: str, start, name: str):
    """Within a second of its last line, the best of three times; whatever it left open, with what it acknowledged
    stored, and nothing that goes on on the server."""
    took: list[float] = []
    while not took or (min(took) >= 1.0 and len(took) < 3):
        process = start(PRELUDE + textwrap.dedent(SCRIPTS[name]), recollect_postgres_dsn)
        assert await asyncio.to_thread(process.stdout.readline) == "used\n", process.stderr.read()
        began = time.monotonic()
        _, err = await asyncio.to_thread(process.communicate, timeout=10)
        took.append(time.monotonic() - began)
        assert process.returncode == (7 if name == "raises" else 0)
        assert "Exception in thread" not in err
        assert "Fatal" not in err
        async with AsyncSessionStore(recollect_postgres_dsn) as store:
            said = await store.messages.list("s")
            assert [message.content for message in said.items if message.content != "late"] == ["word"]
            await store.sessions.delete("s")
    assert min(took) < 1.0
    await no_connections(recollect_postgres_dsn)


def test_a_loop_ends_whatever_goes_on_in_the_store(recollect_postgres_dsn: str, run):
    """An error goes through the whole program at every moment of connecting, reading and writing: nothing keeps the
    loop from ending, though nobody closed."""
    code = """
import asyncio, contextlib, sys
from recollect import AsyncSessionStore
async def main(pause_s):
    store = await AsyncSessionStore(sys.argv[1]).open()
    await store.sessions.ensure("s")
    tasks = [asyncio.create_task(work) for _ in range(3) for work in (
        store.messages.list("s"), store.stats(), store.messages.append("s", role="user"), store.sessions.list())]
    await asyncio.sleep(pause_s)
    raise KeyError
for n in range(40):
    with contextlib.suppress(KeyError):
        asyncio.run(main(n / 2000))
"""
    done = run(code, recollect_postgres_dsn)
    assert done.returncode == 0, done.stderr


def test_a_closed_store_says_nothing_at_exit(recollect_postgres_dsn: str, run):
    """A proper end is silent, also with every warning an error."""
    code = (
        PRELUDE
        + "\nasync def main():\n    async with AsyncSessionStore(sys.argv[1]) as store:\n        await use(store)\nasyncio.run(main())\n"
    )
    done = run(code, recollect_postgres_dsn, options=("-W", "error"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "used\n", "")
