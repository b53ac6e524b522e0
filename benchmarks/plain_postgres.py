"""The baseline on PostgreSQL: asynchronous psycopg doing the same work on the same schema in the same batches.

It has what a careful hand-written program would: as many connections as the store has writers, each with a queue of
its own that sessions are shared out to, and a task that commits whatever is queued: sessions locked and read by one
statement in the order of keys, numbers taken by one, messages inserted and counters updated by executemany. Nothing
checked, no savepoints, no horizon of numbers.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psycopg

COUNTERS = (
    "SELECT id, session, next_seq, send_index FROM sessions WHERE id = ANY(%s) ORDER BY id FOR UPDATE"  # no deadlock
)
NUMBERS = "SELECT nextval('store_sequence') FROM generate_series(1, %s)"
INSERT = (
    "INSERT INTO messages (id, session, seq, position, role, content, send_index, created_at)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
)
COUNT = (
    "UPDATE sessions SET next_seq = %s, send_index = %s, message_count = message_count + %s, last_active_at = %s,"
    " activity = %s, updated_at = %s, revision = revision + 1 WHERE session = %s"
)
CREATE = (
    "INSERT INTO sessions (session, id, kind, source, lifecycle, created_at, updated_at, last_active_at, activity,"
    " preview) VALUES (nextval('store_sequence'), %s, 'root', 'bench', 'ephemeral', 0, 0, 0, 0, 'x')"
)


class Message(NamedTuple):
    """One message on its way."""

    session_id: str
    text: str
    stored: asyncio.Future[tuple[int, int]]
    """its id and seq, after COMMIT"""


class Program:
    """Connections with a queue and a task each; `most` messages in a transaction."""

    def __init__(self, connections: Sequence[psycopg.AsyncConnection[Any]], most: int) -> None:
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._queues: list[asyncio.Queue[Message]] = [asyncio.Queue() for _ in connections]
        pairs = zip(connections, self._queues, strict=True)
        self.tasks = [asyncio.create_task(self._write(connection, queue)) for connection, queue in pairs]

    def append(self, session_id: str, text: str) -> asyncio.Future[tuple[int, int]]:
        """Queues a message."""
        stored: asyncio.Future[tuple[int, int]] = self._loop.create_future()
        queue = self._queues[zlib.crc32(session_id.encode()) % len(self._queues)]
        queue.put_nowait(Message(session_id, text, stored))
        return stored

    async def _write(self, connection: psycopg.AsyncConnection[Any], queue: asyncio.Queue[Message]) -> None:
        while True:
            batch = [await queue.get()]
            while len(batch) < self._most and not queue.empty():
                batch.append(queue.get_nowait())
            numbers = await _commit(connection, batch)
            for message, stored in zip(batch, numbers, strict=True):
                message.stored.set_result(stored)


async def _commit(connection: psycopg.AsyncConnection[Any], batch: Sequence[Message]) -> list[tuple[int, int]]:
    """One transaction: the id and seq of each message."""
    now = time.time_ns() // 1_000_000
    cursor = connection.cursor()
    await cursor.execute(COUNTERS, (sorted({message.session_id for message in batch}),))
    counters = {id: [session, seq, send, 0] for id, session, seq, send in await cursor.fetchall()}
    await cursor.execute(NUMBERS, (len(batch),))
    ids = [id for (id,) in await cursor.fetchall()]
    rows: list[tuple[Any, ...]] = []
    stored: list[tuple[int, int]] = []
    for id, message in zip(ids, batch, strict=True):
        counter = counters[message.session_id]
        session, seq, send, _ = counter
        rows.append((id, session, seq, seq, "user", message.text, send + 1, now))
        stored.append((id, seq))
        counter[1:] = [seq + 1, send + 1, counter[3] + 1]
    await cursor.executemany(INSERT, rows)
    await cursor.executemany(
        COUNT, [(seq, send, n, now, now // 1000, now, session) for session, seq, send, n in counters.values()]
    )
    await connection.commit()
    return stored


@asynccontextmanager
async def program(dsn: str, *, connections: int, most: int, sessions: Sequence[str]) -> AsyncIterator[Program]:
    """A program at work, with its sessions made."""
    opened = [await psycopg.AsyncConnection.connect(dsn) for _ in range(connections)]
    async with opened[0].transaction():
        await opened[0].cursor().executemany(CREATE, [(id,) for id in sessions])
    running = Program(opened, most)
    try:
        yield running
    finally:
        for task in running.tasks:
            task.cancel()
        await asyncio.wait(running.tasks)
        for connection in opened:
            await connection.close()
