"""Every operation of every room, called at least once, with every filter and on every branch."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from recollect import (
    BEGINNING,
    AsyncSessionStore,
    InvalidQuery,
    InvalidRecord,
    KeyTaken,
    SessionExists,
    SessionNotFound,
    StoreError,
    TitleTaken,
    TurnTaken,
)
from recollect.copying import copy_store
from recollect.copying.pages import Change, read_last, read_page, write_page
from recollect.copying.tables import TABLES
from recollect.engine.operation import execute
from recollect.events.given import EventRow, Recording, prepare
from recollect.events.record import record
from recollect.importers import claude_code, hermes, little_loops, openjarvis, power_loop
from recollect.search.index import condemn, reset_step
from recollect.sessions.retention import delete

NOW = datetime.now(UTC)
BETWEEN = {"since": NOW - timedelta(days=1), "until": NOW + timedelta(days=1)}


async def exercise(store: AsyncSessionStore) -> None:
    """Runs all of it."""
    await sessions(store)
    await lineage(store)
    await messages(store)
    await rewriting(store)
    await usage(store)
    await moving(store)
    await scoped(store)
    await searches(store)
    await watching(store)
    await imports(store)
    await other_stores(store)
    await events(store)
    await backfills(store)
    await learning(store)
    await copying(store)
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


async def lineage(store: AsyncSessionStore) -> None:
    """Titles, who is above and below, keys, states, turns."""
    room = store.sessions
    await room.create("top", title="Base")
    await room.create("spawned", parent_id="top", title="Base #2", lifecycle="linked")
    await room.create("gone-on", parent_id="top", relation="continuation")
    await refused(TitleTaken, room.set_title("top", "Base #2"))
    await room.set_title("gone-on", "Base #5")
    await room.by_title("Base")
    await room.resolve_title("Base")
    await room.next_title("Base")
    await room.children("top", relation=["spawn", "fork"])
    await room.children("top")
    for call in (room.ancestors, room.descendants, room.root, room.tip):
        await call("top")
        await call("spawned")
    await room.for_key("chat", idle_s=60)
    await room.for_key("chat")
    first = await room.for_key("chat", reset="new")
    second = await room.for_key("chat", idle_s=0)
    await refused(KeyTaken, room.create(key="chat"))
    await room.ensure("without-key")
    await room.ensure("without-key", key="chat", title="Base")
    await room.reopen(first.id, switch="back")
    await refused(KeyTaken, room.reopen(second.id))
    await room.archive(first.id)
    await room.unarchive(first.id)
    await room.set_round("top", 3)
    await room.set_pending("top", {"a": 1})
    await room.state("top")
    for call in (room.set_round, room.set_pending):
        await refused(SessionNotFound, call("nobody", 1))
    async with room.turn("top", holder="h", ttl_s=0.6) as turn:
        await asyncio.sleep(0.25)  # by then it was renewed
        await refused(TurnTaken, _enter(room.turn("top", holder="other")))
        await store.messages.append("top", role="user", content="mine", fence=turn.fence)
        await store.messages.compact("top", note="n", fence=turn.fence)
    await room.create("errand", parent_id="top")
    await store.messages.append("errand", role="user", content="words")
    await room.returned("errand")
    await room.returned("spawned", "failed")


async def _enter(context) -> None:
    async with context:
        pass


async def rewriting(store: AsyncSessionStore) -> None:
    """Messages put away, taken back, replaced, cleared; forks of each."""
    room = store.messages
    await store.sessions.create("long", config={"a": 1})
    for n in range(8):
        calls = [{"id": str(n)}] if n % 2 else None
        await room.append("long", role="assistant" if n % 2 else "user", content=f"line {n}", tool_calls=calls)
    await room.append("long", role="user", content=" ")
    inner = await room.compact("long", note="inner", from_seq=2, to_seq=4, before_tokens=9, after_tokens=1)
    outer = await room.compact("long", note="outer", seqs=[inner.note_seq, 5], note_meta={"x": 1})
    await refused(InvalidRecord, room.compact("long", note="n", seqs=[2]))
    await refused(InvalidRecord, room.uncompact("long", inner.seq))
    await room.compactions("long")
    await room.compactions("long", undone=True)
    await store.sessions.fork("long", at_seq=3)
    await store.sessions.fork("long", at_seq=7, title="A fork")
    await store.sessions.fork("long")
    await room.uncompact("long", outer.seq)
    await room.rewind("long", 3)
    await room.restore("long")
    await room.rewind("long", 0)
    await store.sessions.fork("long")
    await room.replace("long", [{"role": "user", "content": "anew", "external_id": "x", "usage": {"prompt_tokens": 1}}])
    async with store.sessions.turn("long", holder="h"):
        await room.clear("long")
    await room.append("long", role="user", content="after")


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

    await store.usage.add("root", prompt_tokens=-1, estimated_cost_usd=0.5)
    await store.usage.set("root", prompt_tokens=4, total_tokens=9, actual_cost_usd=1)


async def moving(store: AsyncSessionStore) -> None:
    """Out and in again; what goes by itself."""
    room = store.sessions
    await store.messages.compact("root", note="n", to_seq=2)
    record = await room.export("root")
    assert record is not None
    everything = [found async for found in room.export_all(source="x")]
    await room.import_([record])
    taken = {**record, "id": "moved", "messages": [*record["messages"], {"role": "user"}]}
    await room.import_(
        [
            {"id": "below", "parent_id": "above-it"},
            {"id": "above-it", "parent_id": "root"},
            {"id": "alone", "parent_id": "nobody"},
            {**taken, "key": "chat", "status": "active", "ended_at": None},
            *everything,
        ]
    )
    await room.create("old", source="old", created_at=NOW - timedelta(days=400))
    await room.create("old-child", parent_id="old")
    await room.create("older", source="old", created_at=NOW - timedelta(days=500))
    await room.end("older", "done")
    for dry_run in (True, False):
        await room.prune(idle_for=timedelta(days=300), source="old", include_active=True, dry_run=dry_run)


async def scoped(store: AsyncSessionStore) -> None:
    """The same as one user."""
    own = store.scoped(user_id="u")
    mine = await own.sessions.create(key="mine", metadata={"a": 1})
    await own.messages.append(mine.id, role="user", content="hello")
    await refused(SessionNotFound, own.messages.append("top", role="user", content="hello"))
    await refused(SessionNotFound, own.messages.clear("top"))
    await own.sessions.get("top")
    await own.sessions.resolve(mine.id)
    await own.sessions.resolve("sess_")
    await own.sessions.create("my-child", parent_id=mine.id)
    await own.messages.count()
    await own.messages.count(mine.id)
    await own.sessions.list()
    await own.sessions.count()
    await own.usage.totals()
    [found async for found in own.sessions.export_all()]
    await own.sessions.prune(idle_for=timedelta(days=300))
    await own.sessions.delete(mine.id)


async def searches(store: AsyncSessionStore) -> None:
    """Every order, scope and filter."""
    await store.events.record({"kind": "tool", "session_id": "root", "text": "it happened"})
    filters = [
        {}, {"session": "root"}, {"user_id": ["u", "u2"]}, {"session": "root", "user_id": "u"},
        {"source": "x", "exclude_source": "z", "role": "user", **BETWEEN}, {"kinds": "event"}, {"kinds": "message"},
        {"source": "x", "include_rewound": True}, {"context": 0}, {"context": 2}, {"limit": None},
    ]  # fmt: skip
    for order in ("relevance", "newest", "oldest"):
        for given in filters:
            hits = [hit async for hit in store.search("hello OR happened", order=order, **given)]
            if hits:
                cursor = hits[0].cursor
                [hit async for hit in store.search("hello OR happened", order=order, after=cursor, **given)]


async def watching(store: AsyncSessionStore) -> None:
    """Replayed with every filter, then live."""
    filters = [
        {}, {"session_id": ["root", "top"]}, {"kinds": "message"}, {"kinds": ["event", "tool", "store.*", "*"]},
        {"session_id": "root", "kinds": ["tool", "store.created"]},
    ]  # fmt: skip
    for scope in (store, store.scoped(user_id="u")):
        for given in filters:
            async with scope.watch(**given) as live, scope.watch(after=BEGINNING, **given) as replay:
                await store.messages.append("root", role="user", content="watched")
                await store.events.record({"kind": "tool", "session_id": "root"})
                for watch in (live, replay):
                    await anext(watch)


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


SAMPLES = Path(__file__).parent.parent / "importers" / "data"


async def other_stores(store: AsyncSessionStore) -> None:
    """Files of the earlier stores, and what was done in them since."""
    for name in ("first", "second"):
        with TemporaryDirectory() as folder:
            copy = Path(folder, "store.sqlite")  # always the same path, so that it has grown
            copy.write_bytes((SAMPLES / "power_loop" / f"8.0.0-{name}.sqlite").read_bytes())
            await power_loop.load(store, copy)
    with TemporaryDirectory() as folder:
        copy = Path(folder, "state.db")
        copy.write_bytes(gzip.decompress((SAMPLES / "hermes" / "hermes-0.19.0.db.gz").read_bytes()))
        await hermes.load(store, copy)
        with closing(sqlite3.connect(copy)) as there, there:
            there.execute("UPDATE messages SET active = 0")
            there.execute("UPDATE sessions SET ended_at = started_at + 9, end_reason = 'later' WHERE ended_at IS NULL")
            there.execute(
                "INSERT INTO messages (session_id, role, content, timestamp)"
                " SELECT id, 'assistant', 'since then', started_at + 8 FROM sessions"
            )
        await hermes.load(store, copy)


async def events(store: AsyncSessionStore) -> None:
    """Every verb of `store.events`, of everybody and as one user; what is pruned, damaged, deleted."""
    room = store.events
    full = {
        "session_id": "root", "run_id": "r", "name": "n", "action": "a", "issue_id": "i", "path": "p", "anchor": "l",
        "text": "it happened", "at": NOW - timedelta(days=9),
    }  # fmt: skip
    await store.sessions.ensure("root")
    await room.record({"kind": "noted", "dedupe_key": "k", **full})
    await room.record_many([{"kind": "noted", "dedupe_key": "k"}, {"kind": "tool", "payload": {"result_size": 1}}])
    own = store.scoped(user_id="u3")
    for each in (room, own.events):
        await each.record({"kind": "mine", "dedupe_key": "k", "session_id": "unheard-of", "text": "it happened"})
        await each.recent("tool")
        await each.recent("tool", limit=None)
        await refused(InvalidQuery, each.recent("nothing"))
        await each.kinds()
        named = {name: full[name] for name in ("session_id", "run_id", "issue_id", "path")}
        for filters in ({}, {**named, **BETWEEN, "kind": ["noted", "tool"]}):
            [event async for event in each.stream(after=1, **filters)]
    await store.sessions.create("unheard-of", user_id="u3")
    await store.flush(index=True)
    [hit async for hit in store.search("happened", user_id="u3")]
    await store.sessions.ensure("has-events")
    for key in ("gone", "pruned"):
        await room.record({"kind": "noted", "session_id": "has-events", "text": "it happened", "dedupe_key": key})
    await store.sessions.ensure("has-events", user_id="u3")
    await store.write(_deleted_and_recorded_again, prepare(store._encoder, {"kind": "noted", "dedupe_key": "gone"}))
    await room.prune(timedelta(days=8), kind="noted")
    await store.flush(index=True)


def _deleted_and_recorded_again(row: EventRow):
    """In one transaction, before the keeper can erase them."""
    yield from delete("has-events", True, None)
    yield from record([Recording((row,))])


async def learning(store: AsyncSessionStore) -> None:
    """Every verb of `store.learning`, and files of the earlier one."""
    room = store.learning
    snapshot = {"benchmark_version": "1", "overall_score": 0.5, "task_count": 1, "elapsed_seconds": 1}
    given = {
        "id": "learned", "trigger": "scheduled", "status": "completed", "autonomy_mode": "auto", "started_at": NOW,
        "diagnosis_path": "d", "plan_path": "p", "benchmark_before": snapshot, "git_checkpoint_pre": "g",
        "edit_outcomes": [{"edit_id": "e", "status": "applied"}],
    }  # fmt: skip
    await refused(SessionNotFound, room.save({**given, "parent_session_id": "nobody"}))
    await refused(SessionNotFound, room.save_outcome("nobody", {"edit_id": "e", "status": "applied"}))
    with TemporaryDirectory() as folder:
        for id_, parent in (("learned", None), ("learned", None), ("again", "learned"), ("again", "learned")):
            await room.save({**given, "id": id_, "parent_session_id": parent}, edits=[{"id": "e"}], directory=folder)
        await room.rebuild(folder)
    await room.save({**given, "edit_outcomes": []})
    await room.save_outcome("learned", {"edit_id": "e", "status": "skipped"}, op="set_agent_param")
    await room.get("learned")
    await room.list()
    await room.list(status=["completed"], limit=1)
    await room.outcomes()
    texts = ("op", "pillar", "target", "risk_tier")
    await room.outcomes("learned", status=["applied"], **{name: ["x"] for name in texts})
    with TemporaryDirectory() as folder:
        copy = Path(folder, "learning.db")
        with closing(sqlite3.connect(copy)) as there:
            there.executescript((SAMPLES.parent / "openjarvis.sql").read_text())
        await openjarvis.load(store, copy)
        await openjarvis.load(store, copy)


async def backfills(store: AsyncSessionStore) -> None:
    """An issue that is indexed and changes, a call whose result comes later, a loop, and the earlier index."""
    issue = "---\nstatus: open\n---\n# BUG-1: it stops\n"
    with TemporaryDirectory() as folder:
        places = {"issues_dir": folder, "loops_dir": folder, "transcripts": folder}
        Path(folder, "BUG-1-it.md").write_text(issue)
        _write(folder, "backfilled", _said("tool_use", id="t", name="Read", input={"file_path": "a.py"}))
        await store.backfill(**places)
        await store.flush(index=True)
        Path(folder, "BUG-1-it.md").write_text(issue + "Now and then.\n")
        _write(folder, "backfilled", {"type": "user", "uuid": "r", "message": {"content": RESULT}})
        again = await store.backfill(**places)
        assert again.amended == {"issues": 1, "tools": 1}
        index = Path(folder, "session.db")
        with closing(sqlite3.connect(index)) as there, there:
            there.execute(
                "CREATE TABLE loop_events (id INTEGER PRIMARY KEY, ts, loop_name, state, transition, retries)"
            )
            there.execute("INSERT INTO loop_events VALUES (1, '2026-03-01T09:00:00Z', 'l', 's', 'state_enter', 0)")
        await little_loops.load(store, index)


RESULT = [{"type": "tool_result", "tool_use_id": "t", "content": "out"}]


def _said(kind: str, **block) -> dict:
    usage = {"input_tokens": 1, "output_tokens": 2}
    message = {"id": "m", "model": "m", "content": [{"type": kind, **block}], "usage": usage}
    return {"type": "assistant", "uuid": kind, "message": message}


def _write(folder: str, session: str, *records: dict) -> None:
    with open(f"{folder}/{session}.jsonl", "a") as file:
        for record in records:
            file.write(json.dumps({"sessionId": session, "timestamp": "2026-03-01T09:00:00Z", **record}) + "\n")


async def copying(store: AsyncSessionStore) -> None:
    """Into another store, in which then every row is taken out and put again; and once more."""
    async with AsyncSessionStore(":memory:") as copy:
        await copy_store(store, copy)
        await copy.flush(index=True)
        last = await copy.read(read_last)
        for table in reversed(TABLES):
            ((rows,), _) = await copy.read(read_page, [table], table.beginning, last)
            change = Change(table, rows, [table.key_of(row) for row in rows])
            await copy.write(write_page, copy._engine.fulltext, [change], True, None)
        await store.messages.append("root", role="user", content="since then")
        await copy_store(store, copy)
        assert (await copy.check()).is_sound


async def upkeep(store: AsyncSessionStore) -> None:
    """The keeper's work, statistics, one's own SQL."""
    await store.stats()
    report = await store.check()
    assert report.is_sound, report
    await store.query("SELECT COUNT(*) AS n FROM sessions WHERE source = :source", source="x")
    await store.flush(index=True)
    await store.write(condemn)
    engine = store._engine
    while not await store.write(reset_step, engine.fulltext, 1000):
        pass
    await store.flush(index=True)
    await maintenance(store)


async def maintenance(store: AsyncSessionStore) -> None:
    """Checks of what is wrong, and setting it right; tidying; erasing."""
    await store.write(_spoil)
    assert not (await store.check()).is_sound
    assert (await store.repair()).is_sound
    assert (await store.check()).is_sound
    assert await store.optimize(60)
    await store.sessions.create("to-erase", user_id="erased")
    await store.messages.append("to-erase", role="user", content="words")
    await store.scoped(user_id="erased").events.record({"kind": "noted"})
    await store.flush(index=True)
    await store.erase(session_id="to-erase")
    await store.erase(user_id="erased")


def _spoil():
    yield execute("UPDATE sessions SET message_count = 77 WHERE id = 'root'")
