"""One process of a load on a PostgreSQL server: `python postgres_load.py ROLE DSN ARGUMENTS`, the arguments as JSON.

It says `ready` when its store is open, begins when a line comes, and prints what it knows as JSON at its end. Those
without an end of their own go on until another line comes.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from recollect import BEGINNING, AsyncSessionStore, Event, SessionExists, StoreError, Timeouts, TitleTaken

VOCABULARY = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
LONG_AGO = timedelta(days=30)
END = "the end"
"""the id of the session of the last message, and what it says"""

Answer = Any


def signal() -> Awaitable[str]:
    """The next line that the parent writes."""
    return asyncio.to_thread(sys.stdin.readline)


# -- appending -------------------------------------------------------------------------------------


async def append(store: AsyncSessionStore, given: dict[str, Any]) -> Answer:
    """Tasks that append to sessions of all: (task, session, id, seq, text) of every message, in the order of calls."""
    tasks = [_append(store, f"{given['name']}.{n}", given) for n in range(given["tasks"])]
    return [row for rows in await asyncio.gather(*tasks) for row in rows]


async def _append(store: AsyncSessionStore, task: str, given: dict[str, Any]) -> list[tuple[str, str, int, int, str]]:
    chance = random.Random(task)
    rows: list[tuple[str, str, int, int, str]] = []
    while len(rows) < given["messages"]:
        session = chance.choice(given["sessions"])
        how = chance.random()
        texts = [f"{task} {len(rows) + k} {chance.choice(VOCABULARY)}" for k in range(3 if how < 0.1 else 1)]
        if len(texts) > 1:
            refs = await store.messages.append_many(session, [{"role": "user", "content": text} for text in texts])
        elif how < 0.2:
            refs = [await store.messages.append_nowait(session, role="user", content=texts[0])]
        elif how < 0.3:
            refs = [await store.messages.append(session, role="user", content=texts[0], usage={"prompt_tokens": 1})]
        else:
            refs = [await store.messages.append(session, role="user", content=texts[0])]
        rows += [(task, session, ref.id, ref.seq, text) for ref, text in zip(refs, texts, strict=True)]
    return rows


# -- reading meanwhile -----------------------------------------------------------------------------


async def search(store: AsyncSessionStore, given: dict[str, Any]) -> Answer:
    """Searches until it is told to stop: (session, id, text) of everything found, and how often it searched."""
    stop = asyncio.ensure_future(signal())
    chance = random.Random(given["name"])
    found: set[tuple[str, int, str]] = set()
    searches = 0
    while not stop.done():
        word, order = chance.choice(VOCABULARY), chance.choice(["newest", "oldest", "relevance"])
        ids: set[int] = set()
        async for hit in store.search(word, order=order, limit=50, with_text=True, kinds="message"):
            assert hit.text is not None
            assert word in hit.text, (word, hit.text)
            assert hit.id not in ids, "each once"
            ids.add(hit.id)
            found.add((hit.session_id or "", hit.id, hit.text))
        searches += 1
    return {"searches": searches, "found": sorted(found)}


async def watch(store: AsyncSessionStore, given: dict[str, Any]) -> Answer:
    """Watches from the beginning to the last message: (session, id, seq, text) of each, in the order in which they came."""
    seen: list[tuple[str | None, int, int, Any]] = []
    async for change in store.watch(after=BEGINNING, kinds="message"):
        assert change.message is not None
        if change.session_id == END:
            return seen
        seen.append((change.session_id, change.id, change.message.seq, change.message.content))
    raise AssertionError("the watch ended")


# -- making and pruning ----------------------------------------------------------------------------


async def prune(store: AsyncSessionStore, given: dict[str, Any]) -> Answer:
    """Makes old sessions and old events and prunes them, until it is told to stop: what became of each round."""
    stop = asyncio.ensure_future(signal())
    rounds: list[dict[str, Any]] = []
    while not stop.done():
        n = len(rounds)
        made = [f"old {n}.{k}" for k in range(3)]
        for id in made:
            await _make_old(store, id)
        events = [Event(kind="load.old", at=datetime.now(UTC) - LONG_AGO, name=f"{n}.{k}") for k in range(5)]
        await store.events.record_many(events)
        gone = await store.sessions.prune(idle_for=LONG_AGO / 2, source="old")
        erased = await store.events.prune(LONG_AGO / 2, "load.old")
        left = [await store.sessions.get(id) for id in made]
        rounds.append({"made": made, "gone": sorted(gone), "erased": erased, "left": len([x for x in left if x])})
    return rounds


async def _make_old(store: AsyncSessionStore, id: str) -> None:
    at = datetime.now(UTC) - LONG_AGO
    await store.sessions.create(id, source="old", created_at=at)
    for k in range(2):
        text = f"{id} {k} {VOCABULARY[k]}"
        await store.messages.append(id, role="user", content=text, created_at=at + timedelta(seconds=k))
    await store.sessions.end(id, "done")


# -- the same at once ------------------------------------------------------------------------------


async def claim(store: AsyncSessionStore, given: dict[str, Any]) -> Answer:
    """Makes what another process makes at the same time; what came of each call."""
    me, count = given["name"], given["count"]
    calls: dict[str, Callable[[int], Awaitable[Any]]] = {
        "id": lambda n: store.sessions.create(f"id {n}", model=me),
        "title": lambda n: store.sessions.create(f"title {n} {me}", title=f"title {n}"),
        "key": lambda n: store.sessions.for_key(f"key {n}", session_id=f"key {n} {me}"),
        "ensure": lambda n: store.sessions.ensure(f"ensured {n}", model=me),
        "message": lambda n: store.messages.append("all", role="user", content=me, external_id=f"{n}"),
        "event": lambda n: store.events.record(Event(kind="load.same", text=me, dedupe_key=f"{n}")),
    }
    outcomes: dict[str, list[str]] = {}
    for name, call in calls.items():
        results = await asyncio.gather(*[call(n) for n in range(count)], return_exceptions=True)
        outcomes[name] = [_shown(each) for each in results]
    return outcomes


def _shown(outcome: Any) -> str:
    if isinstance(outcome, SessionExists | TitleTaken):
        return type(outcome).__name__
    if isinstance(outcome, BaseException):
        return repr(outcome)
    return str(getattr(outcome, "id", outcome))


async def mix(store: AsyncSessionStore, given: dict[str, Any]) -> Answer:
    """Tasks that do all kinds of writes to sessions of all: how many of each were acknowledged."""
    done: dict[str, int] = {}

    async def work(n: int) -> None:
        chance = random.Random(f"{given['name']} {n}")
        for k in range(given["rounds"]):
            session, text = chance.choice(given["sessions"]), f"{given['name']} {n} {k}"
            kinds: dict[str, Callable[[], Awaitable[Any]]] = {
                "append": lambda s=session, t=text: store.messages.append(s, role="user", content=t),
                "usage": lambda s=session: store.usage.add(s, prompt_tokens=1),
                "update": lambda s=session, t=text: store.sessions.update(s, model=t),
                "title": lambda s=session, t=text: store.sessions.set_title(s, t),
                "event": lambda s=session, t=text: store.events.record(Event(kind="load.mix", session_id=s, text=t)),
                "pending": lambda s=session, t=text: store.sessions.set_pending(s, {"next": t}),
            }
            kind = chance.choice(list(kinds))
            await kinds[kind]()
            done[kind] = done.get(kind, 0) + 1

    await asyncio.gather(*[work(n) for n in range(given["tasks"])])
    return done


ROLES: dict[str, Callable[[AsyncSessionStore, dict[str, Any]], Awaitable[Answer]]] = {
    "append": append, "search": search, "watch": watch, "prune": prune, "claim": claim, "mix": mix,
}  # fmt: skip


async def main(role: str, dsn: str, arguments: str) -> None:
    """Opens a store and plays the role."""
    given = json.loads(arguments)
    patient = Timeouts(search_s=60, search_catch_up_s=60)  # more processes than this machine may have cores for
    async with AsyncSessionStore(dsn, timeouts=patient) as store:
        print("ready", flush=True)
        await signal()
        answer = await ROLES[role](store, given)
        if role not in ("search", "watch", "prune"):
            await store.flush()
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except StoreError as error:
        sys.exit(f"{type(error).__name__}: {error}")
