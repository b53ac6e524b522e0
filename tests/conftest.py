"""What every test may ask for: a store on disk, one in memory, both; and a loop that nothing blocks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from recollect import AsyncSessionStore

PATIENCE_S = 10.0
"""how long a test waits for what must happen"""


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


@pytest.fixture(params=["disk", "memory"])
async def any_store(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[AsyncSessionStore]:
    """An open store, once on disk and once in memory."""
    async with AsyncSessionStore(path if request.param == "disk" else ":memory:") as opened:
        yield opened


Hold = Callable[[AsyncSessionStore], AbstractAsyncContextManager[None]]


@pytest.fixture
def hold() -> Hold:
    """`async with hold(store)`: the writer's thread is busy in a transaction, so that writes queue up."""
    return _held


@asynccontextmanager
async def _held(store: AsyncSessionStore) -> AsyncIterator[None]:
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
