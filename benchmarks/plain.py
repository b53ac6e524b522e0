"""The baseline: plain synchronous sqlite3, filling the same tables, indexes and counters."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from recollect.engine.sqlite.connect import open_writer
from recollect.options import Durability

INSERT = (
    "INSERT INTO messages (id, session, seq, position, role, content, send_index, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
COUNT = (
    "UPDATE sessions SET next_seq = next_seq + 1, send_index = send_index + 1, message_count = message_count + 1,"
    " last_active_at = ?, updated_at = ?, revision = revision + 1 WHERE session = ?"
)
CREATE = (
    "INSERT INTO sessions (session, id, kind, source, lifecycle, created_at, updated_at, last_active_at, preview)"
    " VALUES (?, ?, 'root', 'bench', 'ephemeral', 0, 0, 0, 'x')"
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection set up like the store's writer, on the store's schema."""
    path.touch()
    return open_writer(
        sqlite3.connect, str(path), durability=Durability.COMMIT, checkpoint_pages=1000, patience_s=5
    )


def append(path: Path, sessions: int, each: int, batch: int, texts: Sequence[str]) -> list[float]:
    """Appends `each` messages to each session, `batch` rows per transaction; seconds per transaction."""
    connection = connect(path)
    connection.execute("BEGIN")
    connection.executemany(CREATE, [(number, f"s{number}") for number in range(1, sessions + 1)])
    connection.execute("COMMIT")
    times: list[float] = []
    last, rows = sessions, sessions * each
    for start in range(0, rows, batch):
        began = time.perf_counter()
        now = time.time_ns() // 1_000_000
        chunk = range(start, min(start + batch, rows))
        connection.execute("BEGIN IMMEDIATE")
        last = connection.execute("UPDATE sequence SET last = last + ? RETURNING last", (len(chunk),)).fetchone()[0]
        connection.executemany(INSERT, [
            (last - len(chunk) + 1 + at, row % sessions + 1, row // sessions + 1, row // sessions + 1, "user",
             texts[row % len(texts)], row // sessions + 1, now)
            for at, row in enumerate(chunk)
        ])  # fmt: skip
        connection.executemany(COUNT, [(now, now, row % sessions + 1) for row in chunk])
        connection.execute("COMMIT")
        times.append(time.perf_counter() - began)
    connection.close()
    return times
