"""A chat gateway: what a message costs to route, beside an append; with ten chats and with a thousand."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from recollect import AsyncSessionStore

from .report import Row, paired

MESSAGES = 400
"""routed and appended in each repetition"""


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1000


async def measure(path: Path, chats: int) -> tuple[float, float]:
    """Median milliseconds of `for_key` and of the append that follows it."""
    routed: list[float] = []
    appended: list[float] = []
    async with AsyncSessionStore(path) as store:
        keys = [f"agent:main:telegram:dm:{n}" for n in range(chats)]
        ids = [(await store.sessions.for_key(key, source="telegram", user_id=key)).id for key in keys]
        for n in range(MESSAGES):
            at = n * 7 % chats
            routed.append(await timed(lambda at=at: store.sessions.for_key(keys[at], idle_s=3600, source="telegram")))
            appended.append(
                await timed(lambda at=at, n=n: store.messages.append(ids[at], role="user", content=f"message {n}"))
            )
    return statistics.median(routed), statistics.median(appended)


def rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """The table of routing."""
    for chats in (10, 1_000):
        pairs = [asyncio.run(measure(folder / f"gateway-{chats}-{n}.db", chats)) for n in range(repetitions)]
        yield paired(f"for_key, {chats:,} chats, p50", pairs, "ms", "beside it: one append")
