"""What tests of the transport share: what it left in the store, seen from outside, and a small disk."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from recollect import EventTransport, TransportStatistics

PATIENCE_S = 30


def outside(path: Path) -> list[dict[str, Any]]:
    """The payloads of what was published, in the order of recording, as another process finds them."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT payload FROM events WHERE kind NOT LIKE 'store.%' AND kind <> 'transport.gap' ORDER BY id"
        ).fetchall()
    return [json.loads(row[0]) for row in rows]


def told(path: Path) -> int:
    """How many losses the gap records tell of."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT payload FROM events WHERE kind = 'transport.gap'").fetchall()
    return sum(json.loads(row[0])["lost"] for row in rows)


def check_sums(s: TransportStatistics) -> None:
    assert s.published == s.filtered + s.late + s.accepted, s
    assert s.accepted == s.written + s.skipped + s.dropped + s.rejected + s.unwritten + s.waiting, s


def publish_some(transport: EventTransport, n: int, start: int = 0) -> None:
    for k in range(start, start + n):
        transport.publish({"event": "x", "n": k})


def numbers(path: Path) -> list[int]:
    return [payload["n"] for payload in outside(path)]


async def until(reached: Callable[[], bool]) -> None:
    """Waits for what announces itself by no signal."""
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)


def small(database: str, **options: Any) -> sqlite3.Connection:
    """A disk of few pages, for whoever writes."""
    connection = sqlite3.connect(database, **options)
    if not options.get("uri"):
        connection.execute("PRAGMA max_page_count=120")
    return connection
