"""Makes the files beside it with the real package, as its own sink writes them:

    python make.py    # with power-loop 0.2.0 installed: 0.2.0-first.sqlite, 0.2.0-second.sqlite

and so with 8.0.0, or any version between them. The second is the first, after it has grown. The clock is made up, so that the same comes out again.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import shutil
import sqlite3
from importlib import metadata
from pathlib import Path
from typing import Any

from power_loop.agent.sink import SQLiteSink

FOLDER = Path(__file__).parent
VERSION = metadata.version("power-loop")
OLD = int(VERSION.split(".")[0]) < 2
KNOWS_PLACES = "ords" in inspect.signature(SQLiteSink.init_history_seqs).parameters
"""whether it writes into a note where that stands"""

if OLD:
    from power_loop.runtime import session_store as clocked
else:
    from power_loop.runtime.store import store as clocked

clock = itertools.count(1_750_000_000_000, 1_000)
clocked._now_ms = lambda: next(clock)


async def now(value: Any) -> Any:
    """The old version's methods return at once, the new one's are awaited."""
    return await value if inspect.isawaitable(value) else value


async def opened(path: Path) -> Any:
    return await now(clocked.SessionStore.open(str(path)))


async def main() -> None:
    first, second = FOLDER / f"{VERSION}-first.sqlite", FOLDER / f"{VERSION}-second.sqlite"
    first.unlink(missing_ok=True)
    store = await opened(first)
    await begin(store)
    await (old_begin if OLD else new_begin)(store)
    await now(store.close())
    if OLD:
        break_old(first)
    shutil.copy(first, second)
    store = await opened(second)
    await go_on(store)
    await now(store.close())
    for path in (first, second):
        make_small(path)


def make_small(path: Path) -> None:
    with sqlite3.connect(path, isolation_level=None) as connection:
        for pragma in ("journal_mode=DELETE", "page_size=1024"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()


# -- a session as the agent loop writes it ---------------------------------------------------------

PICTURE = [{"type": "text", "text": "What is in this picture?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]


def call(id: str, **arguments: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "search", "arguments": str(arguments)}}


class Talk:
    """Appends to a session through the sink."""

    def __init__(self, store: Any, session_id: str) -> None:
        self.store, self.id = store, session_id
        self.sink = SQLiteSink(store, session_id)
        self.send = 0

    async def resume(self) -> Talk:
        rows = await now(self.store.load_active_messages(self.id))
        places = [[(row.meta or {}).get("ord", row.seq) for row in rows]] if KNOWS_PLACES else []
        self.sink.init_history_seqs([row.seq for row in rows], *places)
        rows = await now(self.store.load_all_messages(self.id))
        self.send = max(getattr(row, "send_index", None) or 0 for row in rows)
        return self

    async def say(self, role: str, content: Any, round_index: int | None = None, **fields: Any) -> None:
        if role == "user":
            self.send += 1
        message = {"role": role, "content": content, "send_index": self.send, **fields}
        await now(self.sink.on_message_appended(message, round_index=round_index))

    async def ask(self, round_index: int, calls: list[dict[str, Any]]) -> None:
        await self.say("assistant", "", round_index, tool_calls=calls)
        await now(self.sink.on_assistant_tool_calls(assistant_seq=2, tool_calls=calls, round_index=round_index))

    async def end(self, round_index: int, prompt: int, completion: int, cached: int = 0) -> None:
        await now(self.sink.on_round_started(round_index))
        self.sink.send_index = self.send
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        await now(self.sink.on_round_ended(round_index, usage={**usage, "cached_tokens": cached}))

    async def fold(self, first: int, last: int, summary: str, round_index: int) -> None:
        places = {"fold_start_idx": first, "fold_end_idx": last}
        tokens = {"before_tokens": 900, "after_tokens": 90}
        await now(self.sink.on_compaction(summary_text=summary, round_index=round_index, **places, **tokens))


async def begin(store: Any) -> None:
    """`main`: two sends, the first compacted; the last round asks for two calls and has one answer."""
    await now(store.create_session(
        session_id="main", system_prompt="You help.", model="m-1", config={"temperature": 0.2}, metadata={"app": "demo"}
    ))  # fmt: skip
    talk = Talk(store, "main")
    await talk.say("user", "Why does the gateway retry 137 times?")
    await talk.ask(0, [call("c1", q="retry")])
    await talk.say("tool", "net.py: max_retries = None  # größer als 5, 再試行", 0, tool_call_id="c1", name="search")
    await talk.say("assistant", "There is no cap.", 1)
    await talk.end(1, 1_000, 20, cached=512)
    await talk.say("user", PICTURE)
    await talk.fold(0, 3, "They looked for the retries; there is no cap.", 2)
    await talk.ask(0, [call("c2", q="picture"), call("c3", q="more")])
    await talk.end(0, 400, 30)
    await talk.say("tool", "a cat", 0, tool_call_id="c2", name="search")
    for name, lifecycle in (("linked", "linked"), ("short", "ephemeral"), ("free", "detached")):
        await now(store.create_session(
            session_id=name, parent_session_id="main", spawn_tool_call_id="c2",
            lifecycle=clocked.SubagentLifecycle(lifecycle),
        ))  # fmt: skip
        await Talk(store, name).say("user", f"You are {name}.")
    await now(store.create_session(session_id="deep", parent_session_id="linked"))
    await now(store.create_session(session_id="alone", kind=clocked.SessionKind.SUBAGENT))
    await now(store.create_session(session_id="old"))
    await Talk(store, "old").say("user", "long ago")
    await now(store.archive_session("old"))
    await now(store.record_usage("gone", round_index=0, prompt_tokens=5, completion_tokens=5, total_tokens=10))


async def go_on(store: Any) -> None:
    """The second answer, another send, and a compaction that swallows the first one's note."""
    talk = await Talk(store, "main").resume()
    talk.sink._unresolved, talk.sink._tool_calls = {"c3"}, [call("c3", q="more")]
    await talk.say("tool", "a dog", 0, tool_call_id="c3", name="search")
    await talk.say("assistant", "A cat and a dog.", 1)
    await talk.end(1, 700, 40, cached=128)
    await talk.say("user", "thanks")
    await talk.fold(*((0, 2) if KNOWS_PLACES else first_of_old(talk)), "No cap; a cat and a dog.", 0)
    await talk.say("assistant", "You are welcome.", 0)
    await talk.end(0, 90, 9)
    await now(store.create_session(session_id="late", parent_session_id="main"))


def first_of_old(talk: Talk) -> tuple[int, int]:
    """In the old version notes come last on reload; a fold from the picture to its note has a range."""
    seqs = talk.sink._history_seqs
    return seqs.index(5), seqs.index(6)


# -- what only one of them has ---------------------------------------------------------------------


async def old_begin(store: Any) -> None:
    """A child whose parent was deleted, and a compaction of nothing."""
    await now(store.create_session(session_id="parent"))
    await now(store.create_session(session_id="orphan", parent_session_id="parent"))
    store.append_message("orphan", role="user", content="where is my parent?")
    store.close_session("parent", cascade=False)
    store.create_session(session_id="inverted")
    for text in ("one", "two", "three"):
        store.append_message("inverted", role="user", content=text)
    tokens = {"before_tokens": None, "after_tokens": None, "round_index": None}
    store.record_compaction("inverted", from_seq=3, to_seq=2, note_content="of nothing", **tokens)


def break_old(path: Path) -> None:
    """What a crash left there, as that version commits each statement by itself."""
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO sessions SELECT 'stateless', created_at, updated_at, NULL, NULL, NULL, status,"
                           " kind, NULL, NULL, 0, lifecycle, NULL FROM sessions WHERE session_id = 'main'")  # fmt: skip
        connection.execute("UPDATE session_state SET next_seq = 1 WHERE session_id = 'old'")
        row = "'crashed', created_at, updated_at, NULL, NULL, NULL, status, kind, NULL, NULL, 0, lifecycle, NULL"
        connection.execute(f"INSERT INTO sessions SELECT {row} FROM sessions WHERE session_id = 'main'")
        put_away = [("crashed", seq, "user", f"line {seq}", "compacted_out", None, None) for seq in (1, 2)]
        note = ("crashed", 3, "system", "in short", "active", '{"from_seq":1,"to_seq":2}', "compact_note")
        connection.executemany(
            "INSERT INTO messages (session_id, seq, role, content, state, meta_json, name, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 1750000500000)",
            [*put_away, note],
        )
    connection.close()


async def new_begin(store: Any) -> None:
    """The tables that the new version has besides, and a message that its repair took out."""
    await store.create_timer("main", due_at=1_750_000_900_000, note="look again")
    await store.add_note("main", "they like cats", pinned=True)
    if hasattr(store, "inbox_put"):
        await store.inbox_put("main", [{"item_id": "i1", "content": "hurry"}])
    await store.set_runtime_state("main", "todo", {"items": []})
    await store.bump_session_stats("main", {"calls": 2, "prompt_tokens": 1_400, "completion_tokens": 50})
    await store.create_session(session_id="repaired")
    talk = Talk(store, "repaired")
    await talk.say("user", "go")
    await talk.say("tool", "an answer that nobody asked for", 0, tool_call_id="c9")
    await talk.say("assistant", "gone", 0)
    if hasattr(store, "deactivate_messages"):
        await store.deactivate_messages("repaired", [2])


if __name__ == "__main__":
    asyncio.run(main())
