"""Reading a transcript: the last 200 of 2,000 messages, and all 2,000."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recollect import AsyncSessionStore

from . import texts
from .report import Row, paired

N = 2_000
TAIL = 200

_COLUMNS = "SELECT * FROM messages WHERE session = ? AND state = 0"


async def prepare(path: Path) -> str:
    """A session of 2,000 messages among others."""
    async with AsyncSessionStore(path) as store:
        made = texts.messages(N)
        for id in ("a", "b"):
            await store.sessions.create(id)
            await store.messages.append_many(id, [{"role": "user", "content": text} for text in made])
        await store.flush(index=True)
    return "b"


async def store_times(path: Path, session_id: str, rounds: int) -> dict[str, list[float]]:
    """Seconds per call."""
    times: dict[str, list[float]] = {"tail": [], "load": []}
    async with AsyncSessionStore(path) as store:
        for _ in range(rounds):
            began = time.perf_counter()
            tail = await store.messages.tail(session_id, TAIL)
            times["tail"].append(time.perf_counter() - began)
            began = time.perf_counter()
            page = await store.messages.list(session_id)
            times["load"].append(time.perf_counter() - began)
            assert (len(tail), len(page)) == (TAIL, N)
    return times


def plain_times(path: Path, session_id: str, rounds: int) -> dict[str, list[float]]:
    """The same by plain sqlite3, rows as dicts."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    (session,) = connection.execute("SELECT session FROM sessions WHERE id = ?", (session_id,)).fetchone()
    queries = {
        "tail": f"{_COLUMNS} ORDER BY position DESC, seq DESC LIMIT {TAIL}",
        "load": f"{_COLUMNS} ORDER BY position, seq",
    }
    times: dict[str, list[float]] = {"tail": [], "load": []}
    for _ in range(rounds):
        for name, sql in queries.items():
            began = time.perf_counter()
            found: list[dict[str, Any]] = [dict(row) for row in connection.execute(sql, (session,))]
            times[name].append(time.perf_counter() - began)
            assert found
    connection.close()
    return times


def rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """The table of reading."""
    path = folder / "reading.db"
    session_id = asyncio.run(prepare(path))
    pairs = [
        (asyncio.run(store_times(path, session_id, 50)), plain_times(path, session_id, 50)) for _ in range(repetitions)
    ]
    for name, what in (("tail", f"tail of {TAIL} from {N}"), ("load", f"load of {N}")):
        medians = [(statistics.median(o[name]) * 1000, statistics.median(p[name]) * 1000) for o, p in pairs]
        yield paired(f"{what}, p50", medians, "ms", "plain: rows as dicts")
