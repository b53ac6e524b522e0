"""The baseline: plain synchronous sqlite3 doing the same work on the same schema in the same batches.

It has the statements of a careful hand-written program: per batch one transaction, the counters of
the sessions concerned read (a message needs its seq, and a session its number), messages inserted and
counters updated by executemany. No threads, no event loop, no queue, nothing checked.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from recollect.engine.sqlite.connect import open_writer
from recollect.options import Durability

COUNTERS = "SELECT session, next_seq, send_index FROM sessions WHERE id = ?"
INSERT = (
    "INSERT INTO messages (id, session, seq, position, role, content, send_index, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
COUNT = (
    "UPDATE sessions SET next_seq = ?, send_index = ?, message_count = message_count + 1, last_active_at = ?,"
    " activity = ?, updated_at = ?, revision = revision + 1 WHERE session = ?"
)
CREATE = (
    "INSERT INTO sessions (session, id, kind, source, lifecycle, created_at, updated_at, last_active_at, activity,"
    " preview) VALUES (?, ?, 'root', 'bench', 'ephemeral', 0, 0, 0, 0, 'x')"
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection set up like the store's writer, on the store's schema."""
    path.touch()
    return open_writer(sqlite3.connect, str(path), durability=Durability.COMMIT, checkpoint_pages=1000, patience_s=5)


def append(path: Path, sessions: int, each: int, batch: int, texts: Sequence[str]) -> tuple[float, list[float]]:
    """Appends `each` messages to each session, `batch` rows per transaction; seconds from the first to the
    last, as for the store, and seconds of each transaction."""
    connection = connect(path)
    connection.execute("BEGIN")
    connection.executemany(CREATE, [(number, f"s{number}") for number in range(1, sessions + 1)])
    connection.execute("COMMIT")
    times: list[float] = []
    rows = sessions * each
    begun = time.perf_counter()
    for start in range(0, rows, batch):
        chunk = [(f"s{row % sessions + 1}", texts[row % len(texts)]) for row in range(start, min(start + batch, rows))]
        began = time.perf_counter()
        _append_batch(connection, chunk)
        times.append(time.perf_counter() - began)
    elapsed = time.perf_counter() - begun
    connection.close()
    return elapsed, times


def _append_batch(connection: sqlite3.Connection, chunk: Sequence[tuple[str, str]]) -> None:
    now = time.time_ns() // 1_000_000
    connection.execute("BEGIN IMMEDIATE")
    query = "UPDATE sequence SET last = last + ? RETURNING last"
    id = connection.execute(query, (len(chunk),)).fetchone()[0] - len(chunk)
    messages, counters = [], []
    for session_id, text in chunk:
        session, seq, send = connection.execute(COUNTERS, (session_id,)).fetchone()
        id += 1
        messages.append((id, session, seq, seq, "user", text, send + 1, now))
        counters.append((seq + 1, send + 1, now, now // 1000, now, session))
    connection.executemany(INSERT, messages)
    connection.executemany(COUNT, counters)
    connection.execute("COMMIT")
