"""Every operation of every room, called at least once, with every filter and on every branch."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryDirectory

from recollect import AsyncSessionStore, SessionExists, StoreError, TitleTaken
from recollect.engine.operation import execute
from recollect.importers import claude_code
from recollect.search.index import condemn, reset_step

NOW = datetime.now(UTC)
BETWEEN = {"since": NOW - timedelta(days=1), "until": NOW + timedelta(days=1)}


async def exercise(store: AsyncSessionStore) -> None:
    """Runs all of it."""
    await sessions(store)
    await messages(store)
    await usage(store)
    await searches(store)
    await imports(store)
    await upkeep(store)


async def refused(error: type[StoreError], awaitable) -> None:
    """The call raises that error."""
    try:
        await awaitable
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")


async def sessions(store: AsyncSessionStore) -> None:
    """Every verb of `store.sessions`."""
    room = store.sessions
    await room.create("root", source="x", user_id="u", key="k", model="m", config={"a": 1}, title="First")
    await refused(SessionExists, room.create("root"))
    await refused(TitleTaken, room.create("other", title="First"))
    await room.create("child", parent_id="root", metadata={"b": 2}, system_prompt="be kind")
    await room.create("next", parent_id="root", relation="continuation")
    await room.ensure("late")
    await store.messages.append("late", role="user", content="before anybody knew the user")
    await room.ensure("late", user_id="u2", title="Second", config={"c": 3}, system_prompt="p", source="y")
    for id_ in ("above", "late-child"):
        await room.create(id_)
    await room.ensure("late-child", parent_id="late", spawn_tool_call_id="c")
    await room.ensure("late", parent_id="above")
    for id_ in ("root", "ro", "nobody"):
        await room.resolve(id_)
    await room.get("root")
    await room.update("root", model="m-2", metadata={"d": 4})
    await room.end("root", "done")
    await room.reopen("root")
    filters = {
        "source": "x", "exclude_source": ["z"], "user_id": ["u"], "key": "k", "status": "active", "kind": "root",
        "parent_id": "nobody", "title_contains": "irs", **BETWEEN,
    }  # fmt: skip
    for order in ("activity", "created"):
        first = await room.list(order=order, limit=1)
        await room.list(order=order, limit=1, after=first.next)
        await room.list(order=order, **filters)
        [session async for session in room.stream(order=order, **filters)]
    await room.count(**filters)
    await room.create("gone", source="x")
    await room.create("with-it", parent_id="gone")
    for id_ in ("gone", "with-it"):
        await store.messages.append(id_, role="user", content="words to be erased")
        await store.usage.record_round(id_, round_index=1, prompt_tokens=1)
    await store.flush(index=True)
    await room.delete("gone")


async def messages(store: AsyncSessionStore) -> None:
    """Every verb of `store.messages`."""
    room = store.messages
    for n in range(3):
        await room.append("root", role="user", content=f"hello number {n}", external_id=f"e{n}")
    await room.append("root", role="user", content="hello number 0", external_id="e0", expected_seq=1)
    await refused(StoreError, room.append("root", role="user", content="x", fence=7))
    await room.append(
        "root", role="assistant", content=[{"type": "text", "text": "structured"}], name="n",
        tool_calls=[{"id": "1", "name": "Bash", "input": {"command": "ls"}}], reasoning="because",
        reasoning_details=[1], provider_items=[2], token_count=3, finish_reason="stop", round_index=1,
        send_index=9, metadata={"a": 1}, created_at=NOW, pending={"x": 1}, usage={"prompt_tokens": 5},
    )  # fmt: skip
    await room.append_nowait("root", role="tool", content="out", tool_call_id="1")
    await room.append("root", role="user", content="later", created_at=NOW + timedelta(hours=1))
    for state in ("active", "all"):
        page = await room.list("root", state=state, limit=2)
        await room.list("root", state=state, limit=2, after=page.next)
        page = await room.list("root", state=state, after_seq=1, limit=2)
        await room.list("root", state=state, after_seq=1, after=page.next)
        await room.list("root", state=state, after_seq=1)
        await room.list("root", state=state)
    await room.tail("root", 2)
    await room.get("root", 1)
    await room.get(id=(await room.get("root", 1)).id)
    await room.conversation("next", ancestors=True)
    await room.conversation("root", limit=2)
    await room.count()
    await room.count("root")


async def usage(store: AsyncSessionStore) -> None:
    """Every verb of `store.usage`."""
    for tokens in (5, 7):  # the second takes the place of the first
        await store.usage.record_round("root", round_index=1, prompt_tokens=tokens, estimated_cost_usd=0.1, model="m")
    await store.usage.record_round("root", round_index=1, prompt_tokens=7)  # the cost is taken back
    await store.usage.rounds("root")
    for by in ("session", "model", "source", "day"):
        await store.usage.totals(by=by)
        await store.usage.totals(by=by, session_id="root", source="x", user_id="u", model="m", **BETWEEN)


async def searches(store: AsyncSessionStore) -> None:
    """Every order, scope and filter."""
    await store.write(_event, 10**6)
    filters = [
        {}, {"session": "root"}, {"user_id": ["u", "u2"]}, {"session": "root", "user_id": "u"},
        {"source": "x", "exclude_source": "z", "role": "user", **BETWEEN}, {"kinds": "event"}, {"kinds": "message"},
        {"source": "x", "include_rewound": True}, {"context": 0}, {"limit": None},
    ]  # fmt: skip
    for order in ("relevance", "newest", "oldest"):
        for given in filters:
            hits = [hit async for hit in store.search("hello OR happened", order=order, **given)]
            if hits:
                cursor = hits[0].cursor
                [hit async for hit in store.search("hello OR happened", order=order, after=cursor, **given)]


def _event(id_: int):
    yield execute(
        "INSERT INTO events (id, at, kind, session_id, text) VALUES (:id, 0, 'tool', 'root', 'it happened')", id=id_
    )
    yield execute("UPDATE sequence SET last = :id", id=id_)


async def imports(store: AsyncSessionStore) -> None:
    """A transcript, its fork, and what is added to it in the middle of a message."""
    with TemporaryDirectory() as folder:
        for session in ("imported", "forked"):
            asked = {"type": "user", "uuid": "q", "toolUseResult": {"agentId": "a"}, "message": {"content": RESULT}}
            _write(folder, session, asked, _said("text", text="words"), {"type": "ai-title", "aiTitle": "Third"})
        await claude_code.load(store, folder)
        await store.flush(index=True)
        _write(folder, "imported", _said("tool_use", name="Bash", input={"command": "more words"}))
        await claude_code.load(store, folder)


RESULT = [{"type": "tool_result", "tool_use_id": "t", "content": "out"}]


def _said(kind: str, **block) -> dict:
    usage = {"input_tokens": 1, "output_tokens": 2}
    message = {"id": "m", "model": "m", "content": [{"type": kind, **block}], "usage": usage}
    return {"type": "assistant", "uuid": kind, "message": message}


def _write(folder: str, session: str, *records: dict) -> None:
    with open(f"{folder}/{session}.jsonl", "a") as file:
        for record in records:
            file.write(json.dumps({"sessionId": session, "timestamp": "2026-03-01T09:00:00Z", **record}) + "\n")


async def upkeep(store: AsyncSessionStore) -> None:
    """The keeper's work, statistics, one's own SQL."""
    await store.stats()
    await store.query("SELECT COUNT(*) AS n FROM sessions WHERE source = :source", source="x")
    await store.flush(index=True)
    await store.write(condemn)
    engine = store._engine
    while not await store.write(reset_step, engine.fulltext, 1000):
        pass
    await store.flush(index=True)
