"""Killed at any moment: every acknowledged message is there, and the database is sound."""

from __future__ import annotations

import asyncio
import os
import random
import select
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from recollect import AsyncSessionStore

CHILD = """
import asyncio, itertools, os, sys
from recollect import AsyncSessionStore, Durability, Limits

path, durability, batch, round_ = sys.argv[1], Durability(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

async def work(store, task):
    session = f"s{task % 8}"
    await store.sessions.ensure(session)
    for n in itertools.count():
        key = f"{round_}-{task}-{n}"
        if n % 5 == 4:
            refs = await store.messages.append_many(
                session, [{"role": "user", "content": f"word {key} {i}", "external_id": f"{key}/{i}"} for i in range(3)])
            acks = [f"{ref.id} {ref.seq} {session} {key}/{i}\\n" for i, ref in enumerate(refs)]
        else:
            ref = await store.messages.append(session, role="user", content=f"word {key}", external_id=key)
            acks = [f"{ref.id} {ref.seq} {session} {key}\\n"]
        os.write(1, "".join(acks).encode())

async def main():
    async with AsyncSessionStore(path, durability=durability, limits=Limits(batch_operations=batch)) as store:
        await asyncio.gather(*(work(store, task) for task in range(64)))

asyncio.run(main())
"""


def acknowledged_until_killed(process, alive_s: float) -> list[tuple[int, int, str, str]]:
    """Reads the pipe for so long after the first acknowledgement, kills, and reads what is left in it."""
    pipe = process.stdout.buffer.raw
    data = b""
    end = None
    while end is None or time.monotonic() < end:
        if select.select([pipe], [], [], 0.005)[0]:
            chunk = os.read(pipe.fileno(), 1 << 20)
            assert chunk, process.stderr.read()
            data += chunk
            end = end or time.monotonic() + alive_s
    process.kill()
    while chunk := os.read(pipe.fileno(), 1 << 20):
        data += chunk
    process.wait()
    whole = data.decode().rpartition("\n")[0].splitlines()
    return [(int(a), int(b), c, d) for a, b, c, d in (line.split() for line in whole)]


def killing_rounds(path: Path, start, sound: Callable[[Path], None], rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    known: set[tuple[int, int, str, str]] = set()
    for round_ in range(rounds):
        process = start(CHILD, path, chance.choice(["commit", "process"]), chance.choice([1, 7, 512]), round_)
        acknowledged = acknowledged_until_killed(process, chance.uniform(0.0, 0.6))
        assert acknowledged
        known |= set(acknowledged)
        sound(path)
        with closing(sqlite3.connect(path)) as db:
            rows = set(
                db.execute(
                    "SELECT m.id, m.seq, s.id, external_id FROM messages m JOIN sessions s ON s.session = m.session"
                )
            )
            assert known <= rows
            halves = db.execute(
                "SELECT substr(external_id, 1, instr(external_id, '/')) AS call, COUNT(*) FROM messages"
                " WHERE external_id LIKE '%/%' GROUP BY call HAVING COUNT(*) <> 3"
            ).fetchall()
            assert halves == [], "append_many is all or none"
    asyncio.run(_everything_is_found(path, {key for *_, key in known}))
    sound(path)


async def _everything_is_found(path: Path, keys: set[str]) -> None:
    async with AsyncSessionStore(path) as store:
        await store.flush(index=True)
        for key in sorted(keys)[:: max(1, len(keys) // 20)]:
            assert [hit async for hit in store.search('"' + key.replace("/", " ") + '"')], key
        await store.messages.append("s0", role="user", content="life goes on")


def test_a_killed_process_loses_nothing_that_it_acknowledged(path: Path, start, sound):
    """64 tasks append, the process is killed at a random moment, on the same file again and again."""
    killing_rounds(path, start, sound, rounds=5, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_a_killed_process_loses_nothing_in_many_rounds(path: Path, start, sound, seed: int):
    """The same, 15 rounds on each of four files."""
    killing_rounds(path, start, sound, rounds=15, seed=seed)
