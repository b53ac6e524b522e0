"""Searching 50,000 messages: by class of query, the first hit and all of 20; and what the store weighs."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from recollect import AsyncSessionStore
from recollect.engine.sqlite.fulltext import FULLTEXT
from recollect.search.query import parse

from . import texts
from .report import Row, alone, paired

SESSIONS = 500
EACH = 100
RARE = "zebrafinch"


def made() -> list[str]:
    """50,000 messages of about 400 characters; 10 of them with a rare word."""
    messages = texts.messages(SESSIONS * EACH, seed=3)
    for at in range(0, len(messages), len(messages) // 10):
        messages[at] = f"{messages[at][:380]} {RARE}"
    return messages


def queries() -> dict[str, str]:
    """By class; the words are taken from the middle and the head of the vocabulary."""
    vocabulary = texts.words()
    common, second = vocabulary[2], vocabulary[40]
    sample = made()[777].split()
    return {
        "rare term": RARE,
        "common term": common,
        "two terms": f"{common} {second}",
        "phrase": f'"{sample[10]} {sample[11]}"',
        "prefix": f"{vocabulary[3000][:3]}*",
    }


async def prepare(path: Path) -> int:
    """Fills the store; bytes of text in it."""
    messages = made()
    async with AsyncSessionStore(path) as store:
        for n in range(SESSIONS):
            await store.sessions.create(f"s{n}", user_id=f"u{n % 50}")
            batch = messages[n * EACH : (n + 1) * EACH]
            await store.messages.append_many(f"s{n}", [{"role": "user", "content": text} for text in batch])
        await store.flush(index=True)
    return sum(len(text.encode()) for text in messages)


async def store_times(path: Path, query: str, order: str, rounds: int) -> tuple[list[float], list[float], int]:
    """Seconds to the first hit and to all of 20; how many there were."""
    first: list[float] = []
    everything: list[float] = []
    found = 0
    async with AsyncSessionStore(path) as store:
        for _ in range(rounds):
            began = time.perf_counter()
            found = 0
            async for _hit in store.search(query, order=order):  # type: ignore[arg-type]
                if not found:
                    first.append(time.perf_counter() - began)
                found += 1
            everything.append(time.perf_counter() - began)
    return first, everything, found


def plain_times(path: Path, query: str, order: str, rounds: int) -> list[float]:
    """The same MATCH, ranked and joined by hand, with FTS5's own ranking and no context or snippet."""
    connection = sqlite3.connect(path)
    match = parse(query)
    assert match is not None
    by = "bm25(search_index, 1.0, 0.0), f.rowid DESC" if order == "relevance" else "f.rowid DESC"
    sql = (
        "SELECT m.*, s.id FROM search_index f JOIN messages m ON m.id = f.rowid JOIN sessions s"
        f" ON s.session = m.session WHERE search_index MATCH ? ORDER BY {by} LIMIT 20"
    )
    times: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        connection.execute(sql, (FULLTEXT.expression(match, []),)).fetchall()
        times.append(time.perf_counter() - began)
    connection.close()
    return times


def rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """The table of searching."""
    path = folder / "finding.db"
    size = asyncio.run(prepare(path))
    yield alone("database to text, 50,000 messages", [path.stat().st_size / size], "×", "index included")
    for order in ("relevance", "newest"):
        for name, query in queries().items():
            pairs: list[tuple[float, float]] = []
            firsts: list[float] = []
            found = 0
            for _ in range(repetitions):
                first, everything, found = asyncio.run(store_times(path, query, order, 20))
                plain = statistics.median(plain_times(path, query, order, 20)) * 1000
                pairs.append((statistics.median(everything) * 1000, plain))
                firsts.append(statistics.median(first) * 1000)
            note = f"{found} hits; first after {statistics.median(firsts):.2f} ms; plain: no snippet, no context"
            yield paired(f"search, {name}, {order}, p50", pairs, "ms", note)
