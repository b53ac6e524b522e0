"""Many processes on one PostgreSQL server: nothing lost, nothing twice, everybody in the order of his calls."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from recollect import AsyncSessionStore, Limits, MessageRef, StoreError

from .postgres_load import END, VOCABULARY

LOAD = Path(__file__).with_name("postgres_load.py").read_text("utf-8")
PATIENCE_S = 300

Child = subprocess.Popen[str]
StartRole = Callable[..., Child]


@pytest.fixture
def start_role(start, recollect_postgres_dsn: str) -> StartRole:
    """Starts a process with a store of its own, which waits for `go`."""

    def _start_role(role: str, **given: Any) -> Child:
        return start(LOAD, role, recollect_postgres_dsn, json.dumps(given))

    return _start_role


async def ready(children: list[Child]) -> None:
    """Returns when each has its store open."""
    for child in children:
        line = await asyncio.to_thread(child.stdout.readline)
        assert line == "ready\n", await asyncio.to_thread(child.stderr.read)


def go(children: list[Child]) -> None:
    """Begin, or end."""
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()


async def answers(children: list[Child]) -> list[Any]:
    """What each knows at its end, which must be a good one."""

    async def answer(child: Child) -> Any:
        out, err = await asyncio.to_thread(child.communicate, timeout=PATIENCE_S)
        assert (child.returncode, err) == (0, "")
        return json.loads(out)

    return await asyncio.gather(*[answer(child) for child in children])


async def deadlocks(dsn: str) -> int:
    """How many the server has broken so far; asked when no store is open, for connections report at their end."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for _ in range(500):
            cursor = await connection.execute(
                "SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                " AND datname = current_database() AND application_name LIKE 'recollect%'"
            )
            if (await cursor.fetchone()) == (0,):
                break
            await asyncio.sleep(0.01)
        cursor = await connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        (count,) = await cursor.fetchone() or (0,)
        return count


# -- everything at once ----------------------------------------------------------------------------


SIZES = [
    pytest.param(4, 8, 12, id="4x8"),
    pytest.param(8, 16, 100, id="8x16", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("processes", "tasks", "messages"), SIZES)
async def test_nothing_is_lost_under_the_load_of_many_processes(
    recollect_postgres_dsn: str, start_role, record_property, processes: int, tasks: int, messages: int
):
    """They append to 128 sessions of all, while others search, watch and prune: every acknowledged message is there
    once, each task's in the order of its calls; the watch told of each once, in order; found was only what exists."""
    before = await deadlocks(recollect_postgres_dsn)
    sessions = [f"s{n}" for n in range(128)]
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        await asyncio.gather(*[store.sessions.create(id) for id in [*sessions, END]])
        given = {"sessions": sessions, "tasks": tasks, "messages": messages}
        appending = [start_role("append", name=f"p{n}", **given) for n in range(processes)]
        searching = [start_role("search", name=f"q{n}") for n in range(2)]
        watching, pruning = start_role("watch"), start_role("prune")
        await ready([*appending, *searching, watching, pruning])
        began = time.monotonic()
        go([*appending, *searching, watching, pruning])
        acknowledged = [tuple(row) for rows in await answers(appending) for row in rows]
        took = time.monotonic() - began
        go([*searching, pruning])
        (rounds,) = await answers([pruning])
        await store.messages.append(END, role="user", content=END)
        found, seen = await answers(searching), (await answers([watching]))[0]
        rows = await stored(store)
        in_order(acknowledged, rows)
        told = [tuple(row) for row in seen]
        assert [id for _, id, *_ in told] == sorted({id for _, id, *_ in told}), "ascending, each once"
        assert {row for row in told if row[0] in rows} == {(s, *row) for s, own in rows.items() for row in own}
        existing_only(found, rows)
        as_pruned(rounds)
        await searchable(store, acknowledged)
        assert (await store.check()).is_sound
    figures = {
        "messages": len(acknowledged), "per_s": round(len(acknowledged) / took), "deadlocks": await deadlocks(recollect_postgres_dsn) - before,
        "searches": sum(each["searches"] for each in found), "rounds pruned": len(rounds),
    }  # fmt: skip
    for name, value in figures.items():
        record_property(name, value)
    print(figures)
    assert figures["deadlocks"] == 0


async def stored(store: AsyncSessionStore) -> dict[str, list[tuple[int, int, str]]]:
    """(id, seq, text) of every message that is no pruner's, by session, in the order of seqs."""
    rows: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for row in await store.query(
        "SELECT s.id AS session, m.id, m.seq, m.content FROM messages m JOIN sessions s ON s.session = m.session"
        " WHERE s.source <> 'old' AND s.id <> :end ORDER BY s.session, m.seq",
        end=END,
    ):
        rows[row.session].append((row.id, row.seq, row.content))
    return rows


def in_order(acknowledged: list[tuple[Any, ...]], rows: dict[str, list[tuple[int, int, str]]]) -> None:
    """What is stored is what was acknowledged; numbers without a gap; each task's own in the order of its calls."""
    everything = Counter((session, *row) for session, own in rows.items() for row in own)
    assert everything == Counter(row[1:] for row in acknowledged)
    for session, own in rows.items():
        assert [seq for _, seq, _ in own] == list(range(1, len(own) + 1)), session
        assert [id for id, _, _ in own] == sorted(id for id, _, _ in own), session
    ids: dict[str, list[int]] = defaultdict(list)
    for task, _, id, _, _ in acknowledged:
        ids[task].append(id)
    for task, own in ids.items():
        assert own == sorted(own), task


def existing_only(found: list[dict[str, Any]], rows: dict[str, list[tuple[int, int, str]]]) -> None:
    """Every search found something sometimes, and nothing that is not as it was found."""
    texts = {id: (session, text) for session, own in rows.items() for id, _, text in own}
    for each in found:
        assert each["searches"] > 0
        assert each["found"]
        for session, id, text in each["found"]:
            assert texts.get(id, ("", "")) == (session, text) or text.startswith(f"{session} "), (session, id, text)


def as_pruned(rounds: list[dict[str, Any]]) -> None:
    """Every round erased what it had made, and nothing else."""
    assert rounds
    for each in rounds:
        assert (each["gone"], each["erased"], each["left"]) == (each["made"], 5, 0)


async def searchable(store: AsyncSessionStore, acknowledged: list[tuple[Any, ...]]) -> None:
    """Each word is found in every message that has it."""
    await store.flush(index=True)
    for word in VOCABULARY:
        hits = [hit.id async for hit in store.search(word, order="oldest", limit=None, kinds="message")]
        assert hits == sorted(row[2] for row in acknowledged if row[4].split()[-1] == word)


# -- the same at once ------------------------------------------------------------------------------


async def test_of_two_processes_that_make_the_same_one_wins(recollect_postgres_dsn: str, start_role):
    """A session of that id, title, key, a message of that external id, an event of that key: made once; the other
    gets its error, or what the first has made."""
    count = 15
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        await store.sessions.create("all")
        children = [start_role("claim", name=name, count=count) for name in ("a", "b")]
        await ready(children)
        go(children)
        first, second = await answers(children)
        for name, refused in (("id", "SessionExists"), ("title", "TitleTaken")):
            for n, pair in enumerate(zip(first[name], second[name], strict=True)):
                assert sum(each == refused for each in pair) == 1, pair
                (winner,) = [each for each in pair if each != refused]
                assert winner == f"id {n}" or winner[:-1] == f"title {n} ", pair
                if name == "title":
                    holder = await store.sessions.by_title(f"title {n}")
                    assert holder is not None
                    assert holder.id == winner
        for name in ("key", "ensure", "message", "event"):
            assert first[name] == second[name]
            assert len(set(first[name])) == count
        assert await store.messages.count("all") == count
        assert await store.sessions.count(key=[f"key {n}" for n in range(count)]) == count
        assert (await store.check()).is_sound


# -- no deadlocks ----------------------------------------------------------------------------------


async def test_batches_on_the_same_sessions_do_not_wait_for_each_other_in_a_circle(recollect_postgres_dsn: str):
    """Three stores of eight writers append to the same 128 sessions, many in one batch, each in an order of its own."""
    before = await deadlocks(recollect_postgres_dsn)
    sessions = [f"s{n}" for n in range(128)]
    stores = [AsyncSessionStore(recollect_postgres_dsn, limits=Limits(writers=8)) for _ in range(3)]
    try:
        for store in stores:
            await store.open()
        await asyncio.gather(*[stores[0].sessions.create(id) for id in sessions])
        writes = []
        for n, store in enumerate(stores):
            order = random.Random(n).sample(sessions * 4, len(sessions) * 4)
            writes += [store.messages.append(id, role="user", content=f"{n} {k}") for k, id in enumerate(order)]
        refs = await asyncio.gather(*writes)
        assert {type(ref) for ref in refs} == {MessageRef}
        assert len({ref.id for ref in refs}) == len(refs) == await stores[0].messages.count()
        stats = [await store.stats() for store in stores]
        assert max(each.largest_batch for each in stats) >= 8, "or nothing was tried"
    finally:
        for store in stores:
            await store.aclose()
    assert await deadlocks(recollect_postgres_dsn) == before


@pytest.mark.parametrize(
    ("tasks", "rounds"), [pytest.param(8, 8, id="8x8"), pytest.param(32, 100, id="32x100", marks=pytest.mark.slow)]
)
async def test_writes_of_every_kind_to_the_same_sessions_are_all_done(
    recollect_postgres_dsn: str, start_role, record_property, tasks: int, rounds: int
):
    """Appends, corrections, titles, events, changes of the same 16 sessions by three processes: every one is done, and
    none had to be broken off for another's sake."""
    before = await deadlocks(recollect_postgres_dsn)
    sessions = [f"s{n}" for n in range(16)]
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        await asyncio.gather(*[store.sessions.create(id) for id in sessions])
        children = [start_role("mix", name=name, tasks=tasks, rounds=rounds, sessions=sessions) for name in "abc"]
        await ready(children)
        began = time.monotonic()
        go(children)
        done = Counter[str]()
        for answer in await answers(children):
            done.update(answer)
        took = time.monotonic() - began
        assert done.total() == 3 * tasks * rounds
        assert await store.messages.count() == done["append"]
        (row,) = await store.query("SELECT CAST(SUM(prompt_tokens) AS BIGINT) AS tokens FROM usage_rounds")
        assert row.tokens == done["usage"]
        assert len([event async for event in store.events.stream(kind="load.mix")]) == done["event"]
        assert (await store.check()).is_sound
    broken = await deadlocks(recollect_postgres_dsn) - before
    record_property("deadlocks", broken)
    print({"writes": done.total(), "per_s": round(done.total() / took), "deadlocks": broken})
    assert broken == 0


# -- order within a process ------------------------------------------------------------------------


@pytest.mark.parametrize("room", [8_192, 2], ids=["room", "no-room"])
async def test_what_touches_every_session_lets_nothing_change_places(recollect_postgres_dsn: str, room: int):
    """Appends among flushes and deletions, called without waiting: each session's are stored in the order of calls,
    also where the queues have no room."""
    async with AsyncSessionStore(recollect_postgres_dsn, limits=Limits(queue_operations=room)) as store:
        for n in range(4):
            await store.sessions.create(f"s{n}")
        chance = random.Random(1)
        calls: list[asyncio.Future[Any]] = []
        for n in range(200):
            calls.append(asyncio.ensure_future(store.messages.append(f"s{n % 4}", role="user", content=f"{n}")))
            if chance.random() < 0.3:
                calls.append(asyncio.ensure_future(store.flush()))
            if chance.random() < 0.3:
                calls.append(asyncio.ensure_future(store.sessions.delete("nobody")))
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        calls += [asyncio.ensure_future(store.messages.append(f"s{n}", role="user", content="last")) for n in range(4)]
        await asyncio.gather(*calls)
        for n in range(4):
            said = [message.content async for message in store.messages.stream(f"s{n}")]
            assert said == [f"{k}" for k in range(n, 200, 4)] + ["last"]


async def test_a_queue_without_room_lets_nothing_change_places(recollect_postgres_dsn: str):
    """Who waits for room behind a flush is not passed by who comes when it is over."""
    limits = Limits(queue_operations=2, batch_operations=1, writers=1)
    async with AsyncSessionStore(recollect_postgres_dsn, limits=limits) as store:
        await store.sessions.create("s")
        said: list[str] = []

        async def say(text: str) -> None:
            said.append(text)
            await store.messages.append("s", role="user", content=text)

        async def flush_and_say(text: str) -> None:
            await store.flush()
            await say(text)

        calls: list[asyncio.Future[Any]] = []
        for n in range(60):
            calls.append(asyncio.ensure_future(flush_and_say(f"flushed {n}") if n % 5 == 1 else say(f"{n}")))
            if n % 3 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*calls)
        assert [message.content async for message in store.messages.stream("s")] == said


async def test_what_was_called_behind_a_flush_comes_before_what_is_called_after_it(recollect_postgres_dsn: str):
    """Whoever waited for the flush does not pass those who called while it was under way, whichever way they did."""
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        for n in range(20):
            await store.sessions.create(f"s{n}")

            async def flush_and_append(session: str) -> None:
                await store.flush()
                await store.messages.append(session, role="user", content="after the flush")

            flushing = asyncio.ensure_future(flush_and_append(f"s{n}"))
            await asyncio.sleep(0)
            receipt = store.messages.append_nowait(f"s{n}", role="user", content="receipt")
            await asyncio.gather(store.messages.append(f"s{n}", role="user", content="behind"), flushing, receipt)
            said = [message.content async for message in store.messages.stream(f"s{n}")]
            assert said == ["receipt", "behind", "after the flush"]


async def test_what_touches_every_session_and_is_cancelled_lets_nothing_pass(recollect_postgres_dsn: str):
    """A session that is deleted behind a deletion that was given up is made anew, not found to exist."""
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        for n in range(20):
            await store.sessions.create("s")
            deleting = asyncio.ensure_future(store.sessions.delete("s"))
            given_up = asyncio.ensure_future(store.sessions.delete("nobody"))
            for _ in range(n % 5):
                await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.wait([given_up])
            making = asyncio.ensure_future(store.sessions.create("s"))
            assert await deleting == ["s"]
            assert not isinstance(await making, StoreError)
            await store.sessions.delete("s")
