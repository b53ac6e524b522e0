"""An agent whose store fails, or was never there: it goes on, and every event is told of."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import power_loop
import pytest
from power_loop.contracts.tools import ToolDefinition
from power_loop.core.events import AgentEventBus

from recollect import AsyncSessionStore, EventTransport

from .events import PATIENCE_S, check_sums, outside


class Scripted(power_loop.LLMService):
    """A model that calls a tool six times and then is done."""

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, request: Any, **_: Any) -> Any:
        self.calls += 1
        call = {"id": f"c{self.calls}", "type": "function", "function": {"name": "work", "arguments": "{}"}}
        usage = power_loop.LLMTokenUsage(prompt_tokens=10, completion_tokens=2, total_tokens=12)
        text, calls = ("working", [call]) if self.calls <= 6 else ("done", [])
        return power_loop.LLMResponse(raw_text=text, content_text=text, tool_calls=calls, token_usage=usage)

    def stream(self, request: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to close."""


async def run_agent(folder: Path, transport: EventTransport, fault: Callable[[], Any]) -> tuple[str, int]:
    """An agent whose events go into the transport, in which something happens in the middle of its work; its answer,
    and how many events it published."""
    bus, tools, events = AgentEventBus(), power_loop.ToolRegistry(), []
    worked = 0

    async def work() -> str:
        nonlocal worked
        worked += 1
        if worked == 3:
            await transport.flush()
            fault()
        await asyncio.sleep(0.01)
        return "worked"

    bus.subscribe(None, events.append)
    bus.subscribe(None, transport.sync())
    tools.register(ToolDefinition(name="work", description="works"), work)
    agent = power_loop.StatefulAgentLoop(
        llm=Scripted(), db_path=str(folder / "agent.db"), tool_registry=tools, event_bus=bus,
        config=power_loop.AgentLoopConfig(system_prompt="You work.", model="m-1"),
    )  # fmt: skip
    answer = await agent.send("Work.", session_id=await agent.new_session())
    await agent.aclose()
    return str(getattr(answer, "final_text", answer)), len(events)


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other.db")
    other.write_bytes(b"")
    os.replace(other, path)


def copied(path: Path) -> None:
    other = path.with_name("other.db")
    shutil.copy(path, other)
    os.replace(other, path)


@pytest.mark.parametrize("fault", [removed, replaced, copied])
async def test_an_agent_goes_on_when_its_store_is_lost(
    path: Path, tmp_path: Path, fault: Callable[[Path], None], caplog: pytest.LogCaptureFixture
):
    """Its file is removed, replaced or damaged in the middle of a run: the agent completes; the transport is disabled,
    which is told once; and what was not written is counted, exactly."""
    async with AsyncSessionStore(path) as store:
        transport = store.transport()
        await transport.open()
        answer, published = await asyncio.wait_for(run_agent(tmp_path, transport, lambda: fault(path)), PATIENCE_S)
        assert "done" in answer
        unwritten = await asyncio.wait_for(transport.aclose(), PATIENCE_S)
        statistics = transport.statistics()
        check_sums(statistics)
        assert (statistics.published, statistics.waiting, statistics.state) == (published, 0, "disabled")
        assert unwritten.events == statistics.unwritten > 0
        assert statistics.written > 0
        assert unwritten.reason == statistics.error
    assert len([record for record in caplog.records if "stores nothing any more" in record.message]) == 1


async def test_an_agent_goes_on_with_a_damaged_store(path: Path, tmp_path: Path):
    """Its pages were overwritten: found at the opening or by the first write, and told as any other loss."""
    async with AsyncSessionStore(path) as store:
        await store.events.record_many([{"kind": f"k{n}", "text": "word " * 500} for n in range(500)])
    whole = bytearray(path.read_bytes())
    for page in range(8, len(whole) // 4096):
        whole[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(whole)
    async with AsyncSessionStore(path).transport() as transport:
        answer, published = await asyncio.wait_for(run_agent(tmp_path, transport, lambda: None), PATIENCE_S)
    unwritten = await transport.aclose()
    check_sums(transport.statistics())
    assert "done" in answer
    assert (unwritten.events, transport.statistics().state) == (published, "disabled")
    assert "damaged" in (unwritten.reason or "")


async def test_an_agent_goes_on_when_its_store_is_closed(path: Path, tmp_path: Path):
    """By whoever owns it, in the middle of a run: what was published is in it, what comes is late."""
    store = await AsyncSessionStore(path).open()
    transport = store.transport()
    await transport.open()
    closing: list[asyncio.Task[None]] = []
    answer, published = await run_agent(
        tmp_path, transport, lambda: closing.append(asyncio.create_task(store.aclose()))
    )
    await closing[0]
    statistics = transport.statistics()
    check_sums(statistics)
    assert "done" in answer
    assert (statistics.published, statistics.unwritten, statistics.state) == (published, 0, "closed")
    assert statistics.late > 0
    assert len(outside(path)) == statistics.written


async def test_an_agent_runs_with_a_store_that_is_for_reading(path: Path, tmp_path: Path):
    """Nothing can be written: the agent completes, everything is unwritten, and the reason is named."""
    await (await AsyncSessionStore(path).open()).aclose()
    async with AsyncSessionStore(path, readonly=True) as store:
        transport = store.transport()
        await transport.open()
        answer, published = await run_agent(tmp_path, transport, lambda: None)
        unwritten = await transport.aclose()
    assert "done" in answer
    assert (unwritten.events, "readonly" in (unwritten.reason or "")) == (published, True)


def is_a_folder(path: Path) -> None:
    path.mkdir()


def is_something_else(path: Path) -> None:
    path.write_text("dear diary\n" * 500)


def is_below_a_file(path: Path) -> None:
    path.parent.touch()


def a_connect_that_fails(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("no")


@pytest.mark.parametrize("kind", [is_a_folder, is_something_else, is_below_a_file, None])
async def test_an_agent_runs_with_a_store_that_cannot_be_opened(
    tmp_path: Path, kind: Callable[[Path], None] | None, caplog: pytest.LogCaptureFixture
):
    """`async with` raises nothing; the agent completes; everything is unwritten and nothing is left open."""
    path = tmp_path / "below" / "store.db"
    if kind is not is_below_a_file:
        path.parent.mkdir()
    if kind is not None:
        kind(path)
    store = AsyncSessionStore(path, connect=a_connect_that_fails if kind is None else None)
    async with store.transport() as transport:
        assert transport.statistics().state == "disabled"
        answer, published = await run_agent(tmp_path, transport, lambda: None)
        assert (await transport.flush()).unwritten == published
        await transport.open()
    assert "done" in answer
    unwritten = await transport.aclose()
    assert (unwritten.events, bool(unwritten.reason)) == (published, True)
    assert not store.is_open
    assert len([record for record in caplog.records if "stores nothing any more" in record.message]) == 1


FORKING = """
import asyncio, os, sys, threading, time
from recollect import AsyncSessionStore

async def in_the_child(transport):
    return await transport.aclose()

async def main():
    async with AsyncSessionStore(sys.argv[1]) as store, store.transport() as transport:
        done = False

        def publish():
            while not done:
                transport.publish({"event": "parent"})
                time.sleep(0)

        threads = [threading.Thread(target=publish) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for _ in range(10):
            if not (child := os.fork()):
                began = time.monotonic()
                for _ in range(5):
                    transport.publish({"event": "child"})
                transport.sync().close()
                unwritten = asyncio.new_event_loop().run_until_complete(in_the_child(transport))
                fine = unwritten.events == 5 and "forked" in unwritten.reason and time.monotonic() - began < 5
                os._exit(0 if fine else 1)
            children.append(child)
            await asyncio.sleep(0.005)
        print([os.waitpid(child, 0)[1] for child in children])
        done = True
        for thread in threads:
            thread.join()
        statistics = await transport.flush()
        assert statistics.written == statistics.published, statistics
        print(len(await store.query("SELECT 1 FROM events WHERE kind = 'parent'")) == statistics.written)

asyncio.run(main())
"""


def test_a_child_process_does_not_hang(path: Path, run):
    """Forked while threads publish: what the child publishes is counted as unwritten, closing there returns at once,
    and the parent's transport goes on."""
    done = run(FORKING, path, timeout_s=PATIENCE_S)
    assert done.stdout.splitlines() == [str([0] * 10), "True"], done.stderr
