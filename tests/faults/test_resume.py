"""An agent killed at every await of its loop: whatever was committed, its session can be gone on with."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recollect import AsyncSessionStore

AGENT = '''
import asyncio, os, signal, sys
from recollect import AsyncSessionStore

ROUNDS = 3


class Doomed:
    """A room whose calls are counted: at the one that is meant, the process is killed before it, after
    it, or while it is under way."""

    def __init__(self, room, fate):
        self._room, self._fate = room, fate

    def __getattr__(self, name):
        method = getattr(self._room, name)

        async def call(*args, **fields):
            self._fate.calls += 1
            meant = self._fate.calls == self._fate.at
            if meant and self._fate.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            work = asyncio.ensure_future(method(*args, **fields))
            if meant and self._fate.when.startswith("during"):
                for _ in range(int(self._fate.when[6:])):
                    await asyncio.sleep(0)
                os.kill(os.getpid(), signal.SIGKILL)
            result = await work
            if meant:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


class Fate:
    def __init__(self, at, when):
        self.at, self.when, self.calls = at, when, 0


async def run(path, fate):
    async with AsyncSessionStore(path) as store:
        await work(Doomed(store.sessions, fate), Doomed(store.messages, fate), Doomed(store.usage, fate))


async def work(sessions, messages, usage):
    await sessions.ensure("s", source="agent", title="an agent")
    await messages.append("s", role="user", content="do it", external_id="asked")
    while True:
        state = await sessions.state("s")
        if state.pending:
            await act(messages, state.pending)
        elif state.round_index < ROUNDS:
            await think(sessions, messages, state.round_index)
        else:
            break
    if not await messages.compactions("s"):
        await messages.compact("s", note="what was done", seqs=[1, 2, 3])
    await usage.record_round("s", round_index=99, prompt_tokens=7)
    await sessions.end("s", "completed")


async def think(sessions, messages, round_index):
    calls = [{"id": f"call-{round_index}-{n}"} for n in range(2 if round_index < ROUNDS - 1 else 0)]
    await messages.append(
        "s", role="assistant", content=f"round {round_index}", tool_calls=calls or None, external_id=f"said-{round_index}",
        round_index=round_index, pending={"calls": calls} if calls else None, usage={"prompt_tokens": 10},
    )
    await sessions.set_round("s", round_index + 1)


async def act(messages, pending):
    call, *rest = pending["calls"]
    await messages.append(
        "s", role="tool", content="result of " + call["id"], tool_call_id=call["id"], external_id=call["id"],
        pending={"calls": rest} if rest else None,
    )
'''

MAIN = (
    AGENT
    + '''

def die(folder, at, when):
    """In a process of its own, forked before anything is open; whether it came to its end."""
    child = os.fork()
    if not child:
        asyncio.run(run(f"{folder}/{when}-{at}.db", Fate(at, when)))
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


folder, *manners = sys.argv[1:]
for when in manners:
    at = 1
    while not die(folder, at, when):
        at += 1
    print(when, at - 1)
'''
)


def killed_everywhere(folder: Path, *manners: str) -> list[Path]:
    """The databases that agents left which were killed at each of their calls, in each of these manners."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, str(folder), *manners], capture_output=True, text=True, timeout=300, check=True
    )
    calls = {when: int(n) for when, n in (line.split() for line in done.stdout.splitlines())}
    assert set(calls) == set(manners)
    assert min(calls.values()) > 15
    return [folder / f"{when}-{at}.db" for when, n in calls.items() for at in range(1, n + 1)]


async def gone_on_with(path: Path) -> dict:
    """The session, after the agent was run again, this time to its end."""
    scope: dict = {}
    exec(AGENT, scope)
    await scope["run"](path, scope["Fate"](0, "never"))
    async with AsyncSessionStore(path) as store:
        report = await store.check()
        assert report.is_sound, report
        state = await store.sessions.state("s")
        assert state is not None
        assert state.pending is None
        record = await store.sessions.export("s")
    assert record is not None
    return _without_times(record)


def _without_times(value):
    if isinstance(value, list):
        return [_without_times(each) for each in value]
    if isinstance(value, dict):
        return {name: _without_times(each) for name, each in value.items() if not name.endswith("_at")}
    return value


async def resumes(folder: Path, *manners: str) -> None:
    expected = await gone_on_with(folder / "undisturbed.db")
    assert [message["role"] for message in expected["messages"]].count("tool") == 4
    for path in await asyncio.to_thread(killed_everywhere, folder, *manners):
        found = await gone_on_with(path)
        assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True), path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_an_agent_killed_at_any_await_can_be_gone_on_with(tmp_path: Path):
    """Killed before, during or after each call, and run again: the session is that of an agent that was
    never disturbed, message for message, with its usage and counters."""
    await resumes(tmp_path, "before", "during3")


@pytest.mark.slow
async def test_an_agent_killed_at_any_step_of_any_await_can_be_gone_on_with(tmp_path: Path):
    """The same, with each call under way for any number of turns of the loop."""
    await resumes(tmp_path, "after", *(f"during{turns}" for turns in range(9)))
