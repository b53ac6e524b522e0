"""Processes that want the same thing at the same moment: one gets it, the others are told who did."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore
from recollect.engine.operation import execute

ROUNDS = 12
HEADSTART_S = 0.004
"""in which every process has read its command; then all begin at once"""
PATIENCE_S = 30

RACING = """
import asyncio, contextlib, json, sys, time
from datetime import datetime
from recollect import AsyncSessionStore, StoreError

async def main():
    async with AsyncSessionStore(sys.argv[1]) as store, contextlib.AsyncExitStack() as turns:
        async def turn(*args, **fields):
            return await turns.enter_async_context(store.sessions.turn(*args, **fields))
        async def leave():
            await turns.aclose()
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            at, name, args, fields = json.loads(line)
            if "created_at" in fields:
                fields["created_at"] = datetime.fromisoformat(fields["created_at"])
            call = {"turn": turn, "leave": leave}.get(name) or getattr(store.sessions, name)
            while time.monotonic() < at:
                pass
            try:
                result = await call(*args, **fields)
                answer = ["", getattr(result, "id", getattr(result, "fence", result))]
            except StoreError as error:
                answer = [type(error).__name__, getattr(error, "by", getattr(error, "holder", str(error)))]
            print(json.dumps(answer), flush=True)

asyncio.run(main())
"""

Answer = tuple[str, Any]
"""the name of the error, or nothing; and what was got, or who has it"""


class Racers:
    """Some processes with the same store open."""

    def __init__(self, processes: list[subprocess.Popen[str]], path: Path) -> None:
        self.processes = processes
        self.path = path

    def __len__(self) -> int:
        return len(self.processes)

    async def race(self, name: str, arguments: Callable[[int], tuple[list[Any], dict[str, Any]]]) -> list[Answer]:
        """Each calls the method, with its own arguments, at one moment; what each got."""
        at = time.monotonic() + HEADSTART_S
        for n, process in enumerate(self.processes):
            args, fields = arguments(n)
            process.stdin.write(json.dumps([at, name, args, fields]) + "\n")
            process.stdin.flush()
        async with asyncio.timeout(PATIENCE_S):
            lines = [await asyncio.to_thread(process.stdout.readline) for process in self.processes]
        return [tuple(json.loads(line)) for line in lines]

    async def one(self, n: int, name: str, *args: Any, **fields: Any) -> Answer:
        """One of them calls it alone."""
        return (await Racers([self.processes[n]], self.path).race(name, lambda _: (list(args), fields)))[0]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Racers]:
    """Four processes for all the races, so that none is spent on starting them."""
    path = tmp_path_factory.mktemp("races") / "store.db"
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([sys.executable, "-c", RACING, str(path)], stdin=pipe, stdout=pipe, text=True)
        for _ in range(4)
    ]
    try:
        for process in running:
            assert process.stdout.readline() == "ready\n"
        yield Racers(running, path)
        for process in running:
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0, "it left in order"
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(params=[2, 4])
def racers(request: pytest.FixtureRequest, four: Racers, sound: Callable[[Path], None]) -> Iterator[Racers]:
    """Two of them, then all four; the store is sound after each race."""
    yield Racers(four.processes[: request.param], four.path)
    sound(four.path)


@pytest.fixture
async def store(four: Racers):
    """The same store, to look at."""
    async with AsyncSessionStore(four.path) as opened:
        yield opened


def winner(answers: list[Answer], error: str) -> int:
    """Which of them got it: exactly one did, all others were told so by this error."""
    assert Counter(kind for kind, _ in answers) == {"": 1, error: len(answers) - 1}, answers
    return next(n for n, (kind, _) in enumerate(answers) if not kind)


def told(answers: list[Answer]) -> set[Any]:
    """What the losers were told."""
    return {value for kind, value in answers if kind}


@pytest.fixture
def names(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Ids that no other race uses."""
    return lambda *parts: "-".join(map(str, (request.node.name, *parts)))


async def test_one_of_them_gets_the_title(racers: Racers, store: AsyncSessionStore, names):
    """set_title of one title for a session each: one has it, the others' TitleTaken names it, theirs have none."""
    for round_ in range(ROUNDS):
        title = names(round_)
        own = [(await store.sessions.create(names(round_, n))).id for n in range(len(racers))]
        answers = await racers.race("set_title", lambda n, title=title, own=own: ([own[n], title], {}))
        first = winner(answers, "TitleTaken")
        assert answers[first] == ("", title)
        assert told(answers) == {own[first]}
        assert (await store.sessions.by_title(title)).id == own[first]
        titles = [(await store.sessions.get(id)).title for id in own]
        assert titles == [title if n == first else None for n in range(len(racers))]


async def test_one_of_them_creates_a_session_with_the_title(racers: Racers, store: AsyncSessionStore, names):
    """create with one title and ids of their own: one session appears, which the others' TitleTaken names."""
    for round_ in range(ROUNDS):
        title = names(round_)
        answers = await racers.race("create", lambda n, title=title: ([f"{title}-{n}"], {"title": title}))
        first = winner(answers, "TitleTaken")
        assert told(answers) == {f"{title}-{first}"}
        assert [each.id async for each in store.sessions.stream(title_contains=title)] == [f"{title}-{first}"]
        there = [await store.sessions.get(f"{title}-{n}") is not None for n in range(len(racers))]
        assert there == [n == first for n in range(len(racers))]


async def test_one_of_them_creates_the_session(racers: Racers, store: AsyncSessionStore, names):
    """create of one id: the winner's session is there as the winner wanted it; the others get SessionExists."""
    for round_ in range(ROUNDS):
        id = names(round_)
        answers = await racers.race("create", lambda n, id=id: ([id], {"source": f"by {n}", "metadata": {"by": n}}))
        first = winner(answers, "SessionExists")
        session = await store.sessions.get(id)
        assert (session.source, session.metadata) == (f"by {first}", {"by": first})
        rows = await store.query("SELECT kind FROM events WHERE session_id = :id ORDER BY kind", id=id)
        assert [row.kind for row in rows][:1] == ["store.created"], "once"
        assert {row.kind for row in rows[1:]} <= {"store.titled"}


async def test_all_of_them_ensure_one_session(racers: Racers, store: AsyncSessionStore, names):
    """ensure of one id, each with a field of its own: nobody is refused, one session has them all."""
    fields = ["model", "system_prompt", "user_id", "title"]
    for round_ in range(ROUNDS):
        id = names(round_)
        answers = await racers.race("ensure", lambda n, id=id: ([id], {fields[n]: f"{id} {n}"}))
        assert answers == [("", id)] * len(racers)
        session = await store.sessions.get(id)
        assert [getattr(session, fields[n]) for n in range(len(racers))] == [f"{id} {n}" for n in range(len(racers))]
        rows = await store.query("SELECT kind FROM events WHERE session_id = :id ORDER BY kind", id=id)
        assert [row.kind for row in rows][:1] == ["store.created"], "once"
        assert {row.kind for row in rows[1:]} <= {"store.titled"}


async def test_all_of_them_get_one_session_of_a_key(racers: Racers, store: AsyncSessionStore, names):
    """for_key, each with an id of its own: one of those ids is what all get, and the only session that appears."""
    key = names()
    for round_ in range(ROUNDS):
        answers = await racers.race("for_key", lambda n, at=round_: ([key], {"session_id": names(at, n)}))
        assert [kind for kind, _ in answers] == [""] * len(racers)
        (id,) = {value for _, value in answers}
        assert id in [names(round_, n) for n in range(len(racers))]
        assert [each.id for each in await store.sessions.list(key=key, status="active")] == [id]
        assert await store.sessions.count(key=key) == round_ + 1
        assert await racers.one(round_ % len(racers), "end", id, "done") == ("", id)


async def test_all_of_them_get_one_session_after_an_idle_one(racers: Racers, store: AsyncSessionStore, names):
    """for_key of a key whose session was idle: it is ended once, and all get the one that follows it."""
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    for round_ in range(ROUNDS):
        key = names(round_)
        old = await store.sessions.for_key(key, created_at=long_ago)
        answers = await racers.race("for_key", lambda _, key=key: ([key], {"idle_s": 60}))
        assert [kind for kind, _ in answers] == [""] * len(racers)
        (id,) = {value for _, value in answers}
        assert id != old.id
        assert (await store.sessions.get(old.id)).end_reason == "idle"
        assert await store.sessions.count(key=key) == 2
        rows = await store.query(
            "SELECT COUNT(*) AS n FROM events WHERE session_id = :id AND kind = 'store.ended'", id=old.id
        )
        assert rows[0].n == 1, "it was ended once"


async def test_each_of_them_that_resets_a_key_gets_its_own(racers: Racers, store: AsyncSessionStore, names):
    """for_key with a reset: as many sessions as resets, one of which lives."""
    key = names()
    for round_ in range(ROUNDS):
        answers = await racers.race("for_key", lambda n: ([key], {"reset": f"by {n}"}))
        assert [kind for kind, _ in answers] == [""] * len(racers)
        got = {value for _, value in answers}
        assert len(got) == len(racers)
        (live,) = await store.sessions.list(key=key, status="active")
        assert live.id in got
        assert await store.sessions.count(key=key) == (round_ + 1) * len(racers)


async def test_one_of_them_creates_the_live_session_of_a_key(racers: Racers, store: AsyncSessionStore, names):
    """create with one key: the others get KeyTaken, which names the winner's session."""
    for round_ in range(ROUNDS):
        key = names(round_)
        answers = await racers.race("create", lambda n, key=key: ([f"{key}-{n}"], {"key": key}))
        first = winner(answers, "KeyTaken")
        assert told(answers) == {f"{key}-{first}"}
        assert [each.id for each in await store.sessions.list(key=key)] == [f"{key}-{first}"]


async def test_one_of_them_reopens_the_session_of_a_key(racers: Racers, store: AsyncSessionStore, names):
    """reopen of ended sessions with one key: one is live again, the others stay ended, and are told which it is."""
    for round_ in range(ROUNDS):
        key = names(round_)
        own = [(await store.sessions.for_key(key, reset="next")).id for _ in range(len(racers))]
        await store.sessions.end(own[-1], "next")
        answers = await racers.race("reopen", lambda n, own=own: ([own[n]], {}))
        first = winner(answers, "KeyTaken")
        assert told(answers) == {own[first]}
        assert [each.id for each in await store.sessions.list(key=key, status="active")] == [own[first]]


async def test_one_of_them_gets_the_turn(racers: Racers, store: AsyncSessionStore, names):
    """turn of one session: one is in, the others get TurnTaken with its holder; the fence grows from round to round."""
    id = names()
    await store.sessions.create(id)
    fences: list[int] = []
    for _ in range(ROUNDS):
        answers = await racers.race("turn", lambda n: ([id], {"holder": f"racer {n}", "ttl_s": 60}))
        first = winner(answers, "TurnTaken")
        assert told(answers) == {f"racer {first}"}
        fences.append(answers[first][1])
        assert (await store.messages.append(id, role="user", fence=fences[-1])).seq == len(fences)
        assert await racers.one(first, "leave") == ("", None)
    assert fences == sorted(set(fences))


def _expire(session_id: str):
    yield execute(
        "UPDATE leases SET expires_at = 1 WHERE session = (SELECT session FROM sessions WHERE id = :id)", id=session_id
    )


async def test_one_of_them_takes_over_a_turn_that_expired(racers: Racers, store: AsyncSessionStore, names):
    """turn, where a holder is gone without giving it back: one heir, the others are told of it and not of the dead."""
    id = names()
    await store.sessions.create(id)
    for _ in range(ROUNDS):
        async with store.sessions.turn(id, holder="dead", ttl_s=600) as dead:
            await store.write(_expire, id)
            answers = await racers.race("turn", lambda n: ([id], {"holder": f"racer {n}", "ttl_s": 60}))
            first = winner(answers, "TurnTaken")
            assert told(answers) == {f"racer {first}"}
            assert answers[first][1] > dead.fence
        assert await racers.one(first, "leave") == ("", None)


async def test_one_of_them_makes_the_fork(racers: Racers, store: AsyncSessionStore, names):
    """fork with one id: one copy of the transcript, the winner's; the others get SessionExists and add nothing."""
    origin = names()
    await store.sessions.create(origin)
    await store.messages.append_many(origin, [{"role": "user", "content": f"m{n}"} for n in range(20)])
    for round_ in range(ROUNDS):
        id = names(round_)
        answers = await racers.race(
            "fork", lambda n, id=id: ([origin], {"session_id": id, "at_seq": 10 + n, "source": f"by {n}"})
        )
        first = winner(answers, "SessionExists")
        session = await store.sessions.get(id)
        assert (session.source, session.parent_id, session.message_count) == (f"by {first}", origin, 10 + first)
        contents = [message.content for message in await store.messages.list(id, state="all")]
        assert contents == [f"m{n}" for n in range(10 + first)]
    assert len(await store.sessions.children(origin, relation="fork")) == ROUNDS


async def test_one_of_them_deletes_it(racers: Racers, store: AsyncSessionStore, names):
    """delete of one session and its children: one is told which went, the others that there was nothing."""
    for round_ in range(ROUNDS):
        id = names(round_)
        await store.sessions.create(id)
        await store.sessions.create(f"{id}-child", parent_id=id)
        answers = await racers.race("delete", lambda _, id=id: ([id], {}))
        assert sorted(value for _, value in answers) == [*([[]] * (len(racers) - 1)), [id, f"{id}-child"]]
        assert await store.sessions.get(id) is None


async def test_one_of_them_returns(racers: Racers, store: AsyncSessionStore, names):
    """returned of an ephemeral child: it goes once, the others are told that there is none."""
    parent = names()
    await store.sessions.create(parent)
    for round_ in range(ROUNDS):
        id = names(round_)
        await store.sessions.create(id, parent_id=parent)
        answers = await racers.race("returned", lambda _, id=id: ([id], {}))
        assert answers[winner(answers, "SessionNotFound")] == ("", True)
        assert await store.sessions.children(parent) == []


async def test_a_session_is_created_below_a_parent_that_is_there_or_not_at_all(
    racers: Racers, store: AsyncSessionStore, names
):
    """The parent is deleted while the others spawn below it: a child that came first goes along, one that came late
    is refused; none is left without a parent."""
    for round_ in range(ROUNDS):
        id = names(round_)
        await store.sessions.create(id)
        commands = [([id], {}), *(([f"{id}-{n}"], {"parent_id": id}) for n in range(1, len(racers)))]
        calls = ["delete", *["create"] * (len(racers) - 1)]
        singles = [Racers([process], racers.path) for process in racers.processes]
        answers = await asyncio.gather(
            *(single.race(call, lambda _, c=command: c) for single, call, command in zip(singles, calls, commands, strict=True))
        )  # fmt: skip
        (deleted,), *created = answers
        came = [value for ((kind, value),) in created if not kind]
        assert {kind for ((kind, _),) in created} <= {"", "SessionNotFound"}
        assert sorted(deleted[1]) == [id, *sorted(came)]
        assert [each.id for each in await store.sessions.list(limit=None) if each.id.startswith(id)] == []
