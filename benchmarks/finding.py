"""Searching 50,000 messages: by class of query, the first hit and all of 20; and what the store weighs."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from recollect import AsyncSessionStore, Durability
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


MILLION = 10_000
"""sessions of a hundred messages each"""


async def prepare_million(path: Path) -> None:
    """A store of a million messages."""
    made = texts.messages(20_000, seed=11)
    async with AsyncSessionStore(path, durability=Durability.PROCESS) as store:
        for n in range(MILLION):
            await store.sessions.create(f"s{n}", user_id=f"u{n % 1000}")
            batch = [{"role": "user", "content": made[(n * EACH + k * 7) % len(made)]} for k in range(EACH)]
            await store.messages.append_many(f"s{n}", batch)
        await store.flush(index=True)


def million_rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """Searches within a scope of a store of a million messages."""
    path = folder / "million.db"
    asyncio.run(prepare_million(path))
    common = texts.words()[2]
    for name, scope in (("a session", {"session": "s77"}), ("a user", {"user_id": "u7"}), ("all", {})):
        times = [asyncio.run(_scoped(path, common, scope)) * 1000 for _ in range(repetitions)]
        yield alone(f"newest 20 in {name} of a million, common term, p50", times, "ms")
    for name, filters in (("all", {}), ("a user", {"user_id": "u7"}), ("by creation", {"order": "created"})):
        pairs = [asyncio.run(_listed(path, filters)) for _ in range(repetitions)]
        note = "beside it: the rows of the first page by plain sqlite3, with counts and newest times aggregated"
        yield paired(f"list 20 of {MILLION:,} sessions with a million messages, {name}, p50", pairs, "ms", note)


_AGGREGATED = """
SELECT s.*, (SELECT COUNT(*) FROM messages m WHERE m.session = s.session) AS messages,
  (SELECT MAX(created_at) FROM messages m WHERE m.session = s.session) AS newest
FROM sessions s ORDER BY s.created_at DESC LIMIT 20"""


async def _listed(path: Path, filters: dict[str, str]) -> tuple[float, float]:
    """Median milliseconds of a page, and of the same by aggregating."""
    times: list[float] = []
    async with AsyncSessionStore(path) as store:
        for _ in range(50):
            began = time.perf_counter()
            page = await store.sessions.list(**filters)  # type: ignore[arg-type]
            times.append(time.perf_counter() - began)
            assert page.items
    connection = sqlite3.connect(path)
    plain: list[float] = []
    for _ in range(50):
        began = time.perf_counter()
        connection.execute(_AGGREGATED).fetchall()
        plain.append(time.perf_counter() - began)
    connection.close()
    return statistics.median(times) * 1000, statistics.median(plain) * 1000


async def _scoped(path: Path, query: str, scope: dict[str, str]) -> float:
    times: list[float] = []
    async with AsyncSessionStore(path) as store:
        for _ in range(20):
            began = time.perf_counter()
            found = [hit async for hit in store.search(query, order="newest", **scope)]  # type: ignore[arg-type]
            times.append(time.perf_counter() - began)
            assert len(found) == 20
    return statistics.median(times)
