"""What every test may ask for: a store on disk, one in memory, both; and a loop that nothing blocks."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from blockbuster import blockbuster_ctx

from recollect import AsyncSessionStore
from recollect.engine.operation import one
from recollect.engine.postgres.engine import PostgresEngine
from recollect.testing.engines import Target
from rooms.outside import LOCK_ALL

PATIENCE_S = 10.0
"""how long a test waits for what must happen"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Tests wait for disks and processes as often as they compute: one more worker than there are CPUs."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """A call of recollect's that blocks the event loop fails the test; tests themselves may read files."""
    with blockbuster_ctx("recollect"):
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where `store` is."""
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[AsyncSessionStore]:
    """An open store on disk."""
    async with AsyncSessionStore(path) as opened:
        yield opened


@pytest.fixture
async def memory() -> AsyncIterator[AsyncSessionStore]:
    """An open store in memory."""
    async with AsyncSessionStore(":memory:") as opened:
        yield opened


@pytest.fixture
async def any_store(recollect_target: Target) -> AsyncIterator[AsyncSessionStore]:
    """An open store, once on each engine."""
    async with AsyncSessionStore(recollect_target) as opened:
        yield opened


Hold = Callable[[AsyncSessionStore], AbstractAsyncContextManager[None]]


@pytest.fixture
def hold() -> Hold:
    """`async with hold(store)`: its writers are busy in a transaction, so that writes queue up, and nobody else can
    write."""
    return _held


@asynccontextmanager
async def _held(store: AsyncSessionStore) -> AsyncIterator[None]:
    engine = store._engine
    held = _held_server(engine) if isinstance(engine, PostgresEngine) else _held_file(store)
    async with held:
        yield


@asynccontextmanager
async def _held_file(store: AsyncSessionStore) -> AsyncIterator[None]:
    entered, release = threading.Event(), threading.Event()
    busy = asyncio.create_task(store.write(_wait, entered, release))
    await asyncio.to_thread(entered.wait, PATIENCE_S)
    try:
        yield
    finally:
        release.set()
        await asyncio.wait([busy])


def _wait(entered: threading.Event, release: threading.Event):
    entered.set()
    release.wait(PATIENCE_S)
    return
    yield


@asynccontextmanager
async def _held_server(engine: PostgresEngine) -> AsyncIterator[None]:
    entered = asyncio.Semaphore(0)
    async with await psycopg.AsyncConnection.connect(engine._server.dsn) as other:
        await other.execute(f"SELECT pg_advisory_xact_lock({_KEY})")
        writers = [shard.writer for shard in engine._shards]
        busy = [asyncio.ensure_future(each.write(_wait_for_lock, (entered,), None, 0)) for each in writers]
        async with asyncio.timeout(PATIENCE_S):
            for _ in busy:
                await entered.acquire()
        await other.execute(LOCK_ALL)
        yield
    await asyncio.wait(busy)


def _wait_for_lock(entered: asyncio.Semaphore):
    entered.release()
    yield one(f"SELECT pg_advisory_xact_lock({_KEY})")


_KEY = 8
"""of an advisory lock that the store does not have"""

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Waits for a state that announces itself by no signal, such as what the keeper does behind."""
    return _eventually


async def _eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)
