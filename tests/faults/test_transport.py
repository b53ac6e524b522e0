"""The transport while another process holds the store: nobody is held up, and what is said of each event is so."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from recollect import AsyncSessionStore, Durability, EventTransport, Overflow, Timeouts

from .events import PATIENCE_S, check_sums, numbers, outside, publish_some, small, told, until

HOLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
db.execute("ROLLBACK")
print("let go", flush=True)
"""


class Holder:
    """Another process in the middle of a write."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"

    def let_go(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "let go\n"


@pytest.fixture
def held(start: Callable[..., subprocess.Popen[str]], path: Path) -> Callable[[], Holder]:
    """Has another process hold the store."""
    return lambda: Holder(start(HOLDER, path))


class Flood:
    """What four threads measure that publish while the loop measures itself."""

    def __init__(self, transport: EventTransport, each: int) -> None:
        self.transport, self.each = transport, each
        self.took: list[float] = []
        self.lags: list[float] = []
        self.threads = [threading.Thread(target=self.publish, args=(k,)) for k in range(4)]

    def publish(self, k: int) -> None:
        took: list[float] = []
        for n in range(self.each):
            began = time.perf_counter()
            self.transport.publish({"event": f"p{k}", "n": n, "loop": "l", "state": "s", "run_id": "r"})
            took.append(time.perf_counter() - began)
            if n % 50 == 49:
                time.sleep(0.001)  # what an agent does between its events
        self.took += took

    async def watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.lags.append(time.perf_counter() - began - 0.001)

    @asynccontextmanager
    async def running(self):
        watching = asyncio.create_task(self.watch())
        for thread in self.threads:
            thread.start()
        yield
        await asyncio.to_thread(lambda: [thread.join() for thread in self.threads])
        await self.transport.flush()
        watching.cancel()


async def flood(path: Path, held: Callable[[], Holder], each: int, seconds: float) -> Flood:
    """Everything is there afterwards, in the order of each thread, and the sums are exact."""
    async with AsyncSessionStore(path) as store, store.transport() as transport:
        holder = held()
        flooding = Flood(transport, each)
        async with flooding.running():
            await asyncio.sleep(seconds)
            check_sums(transport.statistics())
            assert await asyncio.to_thread(outside, path) == []
            await asyncio.to_thread(holder.let_go)
        statistics = transport.statistics()
        check_sums(statistics)
        assert (statistics.published, statistics.written, statistics.waiting) == (4 * each, 4 * each, 0)
    found = outside(path)
    for k in range(4):
        assert [payload["n"] for payload in found if payload["event"] == f"p{k}"] == list(range(each))
    assert (len(found), told(path)) == (4 * each, 0)
    return flooding


async def test_four_threads_publish_while_another_process_holds_the_store(path: Path, held: Callable[[], Holder]):
    """Nobody is held up, and everything is written afterwards."""
    flooding = await flood(path, held, each=5_000, seconds=1)
    assert sorted(flooding.took)[len(flooding.took) // 2] < 0.001


@pytest.mark.slow
async def test_a_hundred_thousand_events_hold_up_nobody(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]):
    """A publisher for less than 50 µs, the loop for less than 5 ms, of a hundred 99 times. In the best of three
    runs, for what else the machine does only makes it slower; where it does too much, that cannot be told."""
    seen: list[tuple[float, float]] = []
    for n in range(3):
        path = tmp_path / f"{n}.db"
        flooding = await flood(path, lambda path=path: Holder(start(HOLDER, path)), each=25_000, seconds=3)
        took, lags = sorted(flooding.took), sorted(flooding.lags)
        seen.append((took[int(len(took) * 0.99)], lags[int(len(lags) * 0.99)]))
        if seen[-1][0] < 50e-6 and seen[-1][1] < 5e-3:
            return
    if os.getloadavg()[0] > (os.cpu_count() or 1) + 1:
        pytest.skip(f"the machine is busy with something else: {seen}")
    raise AssertionError(seen)


async def test_closing_while_another_process_holds_the_store(path: Path, held: Callable[[], Holder]):
    """It returns in about its time, and what it calls unwritten never appears, also when the lock is gone."""
    async with AsyncSessionStore(path) as store:
        transport = store.transport()
        await transport.open()
        publish_some(transport, 1_000)
        await transport.flush()
        holder = held()
        publish_some(transport, 1_000, start=1_000)
        began = time.monotonic()
        unwritten = await transport.aclose(0.3)
        assert 0.25 < time.monotonic() - began < 3
        assert (unwritten.events, unwritten.untold, unwritten.reason) == (1_000, 0, "the time to close was over")
        holder.let_go()
        await store.flush()
        assert numbers(path) == list(range(1_000))
        check_sums(transport.statistics())


async def test_let_go_at_the_last_moment(path: Path, held: Callable[[], Holder]):
    """The lock goes about when the time is over: whoever is first, the number is exact and nothing is half written."""
    async with AsyncSessionStore(path, durability=Durability.PROCESS) as store:
        first = 0
        for n in range(6):
            transport = store.transport()
            await transport.open()
            holder = held()
            publish_some(transport, 600, start=first)
            letting_go = asyncio.create_task(asyncio.to_thread(lambda h=holder: (time.sleep(0.1), h.let_go())))
            unwritten = await transport.aclose(0.085 + 0.006 * n)
            await letting_go
            await store.flush()
            found = [number for number in numbers(path) if number >= first]
            assert found == list(range(first, first + 600 - unwritten.events))
            first += 600


async def test_the_store_closes_in_time_while_it_is_held(path: Path, held: Callable[[], Holder]):
    """Its transports share its time; nothing hangs."""
    store = await AsyncSessionStore(path).open()
    transports = [store.transport() for _ in range(3)]
    for transport in transports:
        await transport.open()
    holder = held()
    for transport in transports:
        publish_some(transport, 10)
    began = time.monotonic()
    await store.aclose(timeout_s=0.3)
    assert time.monotonic() - began < 5
    assert [(await transport.aclose()).events for transport in transports] == [10, 10, 10]
    holder.let_go()
    assert outside(path) == []


async def test_past_its_patience_it_tries_again(
    path: Path, held: Callable[[], Holder], caplog: pytest.LogCaptureFixture
):
    """StoreBusy again and again: told once, shown as waiting, and everything is written when the store is free."""
    async with AsyncSessionStore(path, timeouts=Timeouts(busy_s=0.1)) as store, store.transport() as transport:
        holder = held()
        publish_some(transport, 1_000)
        await until(lambda: transport.statistics().retries >= 2)
        statistics = transport.statistics()
        assert (statistics.state, "held" in (statistics.error or "")) == ("waiting", True)
        holder.let_go()
        async with asyncio.timeout(PATIENCE_S):
            statistics = await transport.flush()
        assert (statistics.state, statistics.error, statistics.written) == ("open", None, 1_000)
    assert numbers(path) == list(range(1_000))
    assert len([record for record in caplog.records if "waits" in record.message]) == 1


async def test_a_flood_while_the_store_is_held(path: Path, held: Callable[[], Holder]):
    """More than the buffer holds: control events are all there, and gap records tell of every other that is not."""
    async with AsyncSessionStore(path) as store, store.transport(exclude=(), buffer=2_000) as transport:
        holder = held()
        for n in range(30_000):
            transport.publish({"event": "action_output", "n": n})
            if n % 30 == 0:
                transport.publish({"event": "route", "n": n})
        await asyncio.to_thread(holder.let_go)
        statistics = await transport.flush()
        check_sums(statistics)
        assert (statistics.published, statistics.waiting, statistics.high_water) == (31_000, 0, 2_000)
    found = outside(path)
    assert [payload["n"] for payload in found if payload["event"] == "route"] == list(range(0, 30_000, 30))
    bulk = [payload["n"] for payload in found if payload["event"] == "action_output"]
    assert bulk[-100:] == list(range(29_900, 30_000))
    assert bulk == sorted(bulk)
    assert len(found) + told(path) == 31_000
    assert told(path) == statistics.dropped


async def test_an_open_that_finds_the_store_busy_disables(path: Path, start: Callable[..., subprocess.Popen[str]]):
    """Past its patience; the agent is not kept longer."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
    holder = start(HOLDER.replace("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE").replace(
        "db.execute", "db.execute('PRAGMA locking_mode=EXCLUSIVE'); db.execute", 1), path)  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    async with asyncio.timeout(PATIENCE_S):
        async with AsyncSessionStore(path, timeouts=Timeouts(busy_s=0.2)).transport() as transport:
            publish_some(transport, 3)
            assert transport.statistics().state == "disabled"
    assert (await transport.aclose()).events == 3


async def test_closed_after_a_try_that_failed(path: Path, held: Callable[[], Holder]):
    """A batch that was tried and undone, for want of room, and waits for a lock when it is tried again, has not begun:
    closing does not wait for the lock."""
    async with AsyncSessionStore(path, connect=small) as store:
        transport = store.transport()
        await transport.open()
        for n in range(600):
            transport.publish({"event": "x", "n": n, "v": "y" * 2_000})
        await until(lambda: transport.statistics().retries >= 1)
        holder = held()
        await asyncio.sleep(0.6)  # it tries again after half a second
        assert transport.statistics().retries == 1
        began = time.monotonic()
        unwritten = await transport.aclose(0.1)
        assert time.monotonic() - began < 3
        holder.let_go()
        assert unwritten.events == 600 - len(outside(path)) > 0


async def test_blocked_senders_outlive_a_locked_store(path: Path, held: Callable[[], Holder]):
    """BLOCK: tasks that wait for room while another process holds the store lose nothing, and other tasks run on."""
    async with AsyncSessionStore(path) as store, store.transport(overflow=Overflow.BLOCK, buffer=50) as transport:
        holder = held()

        async def send(k: int) -> None:
            for n in range(300):
                await transport.send({"event": f"s{k}", "n": n})

        senders = [asyncio.create_task(send(k)) for k in range(4)]
        await asyncio.sleep(0.2)
        assert not any(sender.done() for sender in senders)
        assert transport.statistics().high_water == 50
        await asyncio.to_thread(holder.let_go)
        await asyncio.wait_for(asyncio.gather(*senders), PATIENCE_S)
        assert (await transport.flush()).written == 1_200
    found = outside(path)
    for k in range(4):
        assert [payload["n"] for payload in found if payload["event"] == f"s{k}"] == list(range(300))
