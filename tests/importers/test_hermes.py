"""The chat gateway's file: everything in it is in the store, once, whatever release made it and however often
it is read."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tracemalloc
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gateway_files import CALLS, T0, VERSIONS, create, insert, later, message, session, small, unpacked

from recollect import AsyncSessionStore, NotAStore
from recollect.importers import hermes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the gateway's file is."""
    return tmp_path / "state.db"


def at(seconds: float) -> datetime:
    """A time of the gateway."""
    return datetime.fromtimestamp(T0, UTC) + timedelta(seconds=seconds)


async def contents(store: AsyncSessionStore, session_id: str, state: str = "active") -> list[Any]:
    """What is in the transcript, or was put away."""
    return [m.content for m in await store.messages.list(session_id, state="all") if m.state == state]


# -- every schema ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_schema_is_read(store: AsyncSessionStore, file: Path, version: int) -> None:
    """What the release stored is there, what it did not know is empty, nothing is rejected."""
    result = await hermes.load(store, small(file, version))
    assert result.rejections == ()
    assert result.inserted == {"sessions": 2, "messages": 4, "usage": 1}
    talk = await store.sessions.get("talk")
    assert talk is not None
    assert (talk.source, talk.user_id, talk.model, talk.system_prompt) == ("cli", "u", "m-1", "Be kind.")
    assert (talk.created_at, talk.ended_at, talk.end_reason, talk.status) == (at(0), at(60), "compression", "ended")
    assert talk.config == {"max_tokens": 9}
    assert talk.title == ("Files" if version >= 3 else None)
    assert (talk.message_count, talk.tool_call_count, talk.preview) == (3, 1, "list the files")
    cached = 42 if version >= 5 else 0
    assert (talk.input_tokens, talk.output_tokens, talk.reasoning_tokens) == (100 + cached, 10, 3 if cached else 0)
    assert (talk.estimated_cost_usd, talk.actual_cost_usd) == ((0.25, 0.125) if cached else (None, None))
    assert (talk.cost_status, talk.billing_base_url) == (("estimated", "http://p") if cached else (None, None))
    child = await store.sessions.get("talk2")
    assert child is not None
    assert (child.parent_id, child.relation, child.status, child.kind) == ("talk", "continuation", "active", "root")


@pytest.mark.parametrize("version", VERSIONS)
async def test_messages_are_in_the_order_of_their_ids(store: AsyncSessionStore, file: Path, version: int) -> None:
    """A result stands behind its call, though the clock stepped back; every field is where it belongs."""
    await hermes.load(store, small(file, version))
    question, call, result = await store.messages.list("talk")
    assert (question.role, question.text, question.external_id, question.send_index) == (
        "user",
        "list the files",
        "hermes:1",
        1,
    )
    assert (call.tool_calls, call.token_count, call.round_index, call.created_at) == (CALLS, 12, 1, at(3))
    assert call.finish_reason == ("tool_calls" if version >= 2 else None)
    assert call.reasoning == ("they want a list" if version >= 6 else None)
    assert (call.reasoning_details, call.provider_items) == (
        ([{"type": "text"}], [{"id": "rs_1"}]) if version >= 6 else (None, None)
    )
    assert (result.name, result.tool_call_id, result.content, result.created_at) == ("ls", "call_1", "a.txt", at(2))


async def test_a_row_of_the_ledger_says_where_it_is_from(store: AsyncSessionStore, file: Path) -> None:
    """Totals of a session are a correction, for they belong to no round."""
    await hermes.load(store, small(file))
    (row,) = await store.usage.rounds("talk")
    assert (row.source, row.model, row.round_index, row.prompt_tokens, row.cache_read_tokens) == (
        "hermes",
        "m-1",
        None,
        142,
        40,
    )
    assert row.created_at == at(60)


async def test_columns_and_tables_that_nobody_knows_are_passed_over(store: AsyncSessionStore, file: Path) -> None:
    """A release of tomorrow is read as far as it is known."""
    with closing(create(file)) as connection:
        later(connection)
        session(connection, "a", session_key="k", chat_id="7", tomorrow=b"\x00")
        message(connection, "a", someday="never")
    result = await hermes.load(store, file)
    assert (result.inserted, result.rejections) == ({"sessions": 1, "messages": 1}, ())
    found = await store.sessions.get("a")
    assert found is not None
    assert (found.key, found.metadata) == ("k", {"chat_id": "7"})


async def test_missing_columns_are_empty(store: AsyncSessionStore, file: Path) -> None:
    """Hardly anything must be there."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE sessions (id TEXT)")
        connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT)")
        connection.execute("INSERT INTO sessions VALUES ('a')")
        connection.execute("INSERT INTO messages VALUES (5, 'a', 'user', 'hi')")
        connection.commit()
    result = await hermes.load(store, file)
    assert (result.inserted, result.rejections) == ({"sessions": 1, "messages": 1}, ())


# -- files of the releases -------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["0.13.0", "0.19.0"])
async def test_files_of_releases_are_read(store: AsyncSessionStore, tmp_path: Path, release: str) -> None:
    """A talk with tools and a picture, and what its children are, from a file that the release itself made."""
    result = await hermes.load(store, unpacked(release, tmp_path))
    assert result.rejections == ()
    _, call, _, _, picture = await store.messages.list("talk")
    assert call.tool_calls[0]["function"]["name"] == "terminal"
    assert (call.reasoning, call.provider_items[0]["id"]) == ("they want a list", "rs_1")
    assert picture.content[0] == {"type": "text", "text": "what is this?"}
    assert picture.text == "what is this?"
    relations = {s.id: (s.relation, s.kind) async for s in store.sessions.stream() if s.parent_id}
    assert relations == {
        "helper": ("spawn", "subagent"), "talk2": ("continuation", "root"), "branch": ("fork", "root"),
    }  # fmt: skip
    talk = await store.sessions.get("talk")
    assert talk is not None
    aux = release != "0.13.0"
    assert (talk.input_tokens, talk.cache_read_tokens, talk.cache_write_tokens) == (198 + 7 * aux, 40, 8)
    assert (talk.estimated_cost_usd, talk.actual_cost_usd) == (0.75 + 0.0625 * aux, 0.125)
    assert (talk.title, talk.model, talk.key) == ("Files", "m-1", "agent:main:telegram:dm:7" if aux else None)
    again = await hermes.load(store, tmp_path)
    assert (again.inserted, again.amended, again.rejections) == ({}, {}, ())


async def test_usage_is_told_apart_by_model_where_the_release_does(store: AsyncSessionStore, tmp_path: Path) -> None:
    """The models, and the auxiliary calls that the session's totals leave out."""
    await hermes.load(store, unpacked("0.19.0", tmp_path))
    rows = [(r.model, r.source, r.prompt_tokens, r.completion_tokens) for r in await store.usage.rounds("talk")]
    assert sorted(rows) == [
        ("m-1", "hermes", 140, 10),
        ("m-2", "hermes", 58, 5),
        ("m-3", "hermes:title_generation", 7, 2),
    ]


async def test_rewritten_transcripts_come_as_they_stand(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Messages put away under a summary, and taken back, are there, but not in the transcript."""
    await hermes.load(store, unpacked("0.19.0", tmp_path))
    assert await contents(store, "compacted") == ["[three turns]", "go on"]
    assert await contents(store, "compacted", "compacted") == ["turn 0", "turn 1", "turn 2"]
    assert await contents(store, "rewound") == ["first", "yes"]
    assert await contents(store, "rewound", "rewound") == ["no, wait", "waiting"]
    compacted = await store.sessions.get("compacted")
    assert compacted is not None
    assert (compacted.status, compacted.message_count, compacted.preview) == ("archived", 2, "[three turns]")


async def test_the_package_itself_and_the_importer_agree(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Where a release is installed: what it reads from its file is what is here."""
    state = pytest.importorskip("hermes_state", reason="hermes-agent is not installed", exc_type=ImportError)
    sys.path.insert(0, str(Path(__file__).parent / "data" / "hermes"))
    make_samples = pytest.importorskip("make_samples")
    make_samples.make(tmp_path / "real.db")
    await hermes.load(store, tmp_path / "real.db")
    db = state.SessionDB(tmp_path / "real.db")
    for there in db.search_sessions(limit=100):
        here = await store.sessions.get(there["id"])
        assert here is not None
        assert (here.title, here.tool_call_count) == (there["title"], there["tool_call_count"])
        conversation = db.get_messages_as_conversation(there["id"])
        assert await contents(store, there["id"]) == [m["content"] for m in conversation]
        assert here.message_count == len(conversation)  # there, what was taken back still counts
    db.close()


# -- lineage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ({"ended_at": T0 + 60, "end_reason": "compression"}, {"started_at": T0 + 60}, "continuation"),
        ({"ended_at": T0 + 60, "end_reason": "compression"}, {"started_at": T0 + 59}, "continuation"),
        ({"ended_at": T0 + 900, "end_reason": "compression"}, {"started_at": T0 + 5}, "spawn"),
        ({"ended_at": T0 + 60, "end_reason": "compression"}, {"started_at": T0 + 5, "ended_at": T0 + 9}, "spawn"),
        ({"ended_at": T0 + 60, "end_reason": "compression"}, {"started_at": T0 + 61, "model_config": '{"_delegate_from": "p"}'}, "spawn"),
        ({"ended_at": T0 + 60, "end_reason": "branched"}, {"started_at": T0 + 61}, "fork"),
        ({}, {"model_config": '{"_branched_from": "p"}'}, "fork"),
        ({}, {}, "spawn"),
    ],
)  # fmt: skip
async def test_what_a_child_is_follows_from_marks_and_times(
    store: AsyncSessionStore, file: Path, parent: dict[str, Any], child: dict[str, Any], expected: str
) -> None:
    """Later releases mark what they make; of earlier ones the end of the parent tells."""
    with closing(create(file)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        session(connection, "c", parent_session_id="p", **child)  # before its parent, which goes in first
        session(connection, "p", **parent)
    result = await hermes.load(store, file)
    assert result.rejections == ()
    found = await store.sessions.get("c")
    assert found is not None
    assert (found.parent_id, found.relation) == ("p", expected)
    assert (found.kind, found.spawn_depth, found.lifecycle) == (
        ("subagent", 1, "linked") if expected == "spawn" else ("root", 0, "ephemeral")
    )


async def test_parents_that_make_a_ring_do_not_hold_it_up(store: AsyncSessionStore, file: Path) -> None:
    """The sessions come, one of them without its parent, which is told."""
    with closing(create(file)) as connection:
        session(connection, "a", parent_session_id="b")
        session(connection, "b", parent_session_id="a")
        session(connection, "lost", parent_session_id="nowhere")
    result = await hermes.load(store, file)
    assert result.inserted["sessions"] == 3
    assert result.rejected == {"parents": 2}


async def test_the_newest_live_session_has_the_key(store: AsyncSessionStore, file: Path) -> None:
    """Here a key has one live session; what others had is in their metadata."""
    with closing(create(file)) as connection:
        later(connection)
        for id, start, more in (
            ("ended", 0, {"ended_at": T0 + 1}),
            ("new", 9, {}),
            ("old", 5, {}),
            ("hidden", 20, {"archived": 1}),
        ):
            session(connection, id, session_key="k", started_at=T0 + start, **more)
    result = await hermes.load(store, file)
    assert result.rejections == ()
    keys = {s.id: (s.key, s.metadata) async for s in store.sessions.stream()}
    assert keys == {"ended": ("k", {}), "new": ("k", {}), "old": (None, {"session_key": "k"}), "hidden": ("k", {})}


# -- again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_second_run_brings_nothing(store: AsyncSessionStore, file: Path, version: int) -> None:
    """What is there is recognised, nothing is counted twice."""
    await hermes.load(store, small(file, version))
    before = await store.sessions.export("talk")
    again = await hermes.load(store, file)
    assert (again.inserted, again.amended, again.rejections) == ({}, {}, ())
    assert again.duplicate == {"sessions": 2, "messages": 4, "usage": 1}
    assert await store.sessions.export("talk") == before


async def test_what_has_grown_is_brought_up_to_date(store: AsyncSessionStore, file: Path) -> None:
    """Messages, tokens and costs that came since, and the end; a counter that went down goes down."""
    with closing(create(file)) as connection:
        session(connection, "a", input_tokens=100, output_tokens=50, estimated_cost_usd=0.3)
        message(connection, "a", "user", "one")
        await hermes.load(store, file)
        message(connection, "a", "assistant", "two")
        connection.execute(
            "UPDATE sessions SET input_tokens = 150, output_tokens = 40, estimated_cost_usd = 0.1, actual_cost_usd = 0.7"
        )
        connection.execute(
            "UPDATE sessions SET ended_at = ?, end_reason = 'done', title = 'Now', model = 'm'", (T0 + 9,)
        )
        grown = await hermes.load(store, file)
    assert (grown.inserted["messages"], grown.amended["sessions"], grown.rejections) == (1, 1, ())
    found = await store.sessions.get("a")
    assert found is not None
    assert (found.input_tokens, found.output_tokens, found.estimated_cost_usd, found.actual_cost_usd) == (
        150,
        40,
        0.1,
        0.7,
    )
    assert (found.status, found.ended_at, found.end_reason, found.title) == ("ended", at(9), "done", "Now")
    assert await contents(store, "a") == ["one", "two"]
    assert [m.round_index for m in await store.messages.list("a")] == [None, 1]
    again = await hermes.load(store, file)
    assert (again.inserted, again.amended) == ({}, {})


async def test_a_session_taken_up_again_there_is_taken_up_here(store: AsyncSessionStore, file: Path) -> None:
    """It had ended, and goes on."""
    with closing(create(file)) as connection:
        session(connection, "a", ended_at=T0 + 2, end_reason="idle")
        message(connection, "a")
        await hermes.load(store, file)
        connection.execute("UPDATE sessions SET ended_at = NULL, end_reason = NULL")
        message(connection, "a", "user", "back again")
        await hermes.load(store, file)
    found = await store.sessions.get("a")
    assert found is not None
    assert (found.status, found.ended_at) == ("active", None)


async def test_a_transcript_rewritten_there_is_rewritten_here(store: AsyncSessionStore, file: Path) -> None:
    """Rows replaced by others, as its retry and undo do, are taken back; rows that were only deleted stay."""
    with closing(create(file)) as connection:
        later(connection)
        for id in ("rewritten", "emptied", "compacted"):
            session(connection, id)
            for words in ("one", "two"):
                message(connection, id, "user", words)
        await hermes.load(store, file)
        connection.execute("DELETE FROM messages WHERE session_id IN ('rewritten', 'emptied')")
        message(connection, "rewritten", "user", "one")
        connection.execute("UPDATE messages SET active = 0, compacted = 1 WHERE session_id = 'compacted'")
        message(connection, "compacted", "user", "[both]")
        result = await hermes.load(store, file)
    assert (result.inserted, result.amended, result.rejections) == ({"messages": 2}, {"messages": 4}, ())
    assert await contents(store, "rewritten") == ["one"]
    assert await contents(store, "emptied") == ["one", "two"]
    assert await contents(store, "compacted") == ["[both]"]
    found = await store.sessions.get("compacted")
    assert found is not None
    assert (found.message_count, found.preview) == (1, "[both]")


async def test_a_session_that_is_not_from_there_is_not_mixed_with_it(store: AsyncSessionStore, file: Path) -> None:
    """Its id is reported, and nothing is added to it."""
    await store.sessions.create("talk")
    await store.messages.append("talk", role="user", content="mine")
    result = await hermes.load(store, small(file))
    assert [(r.kind, r.line) for r in result.rejections] == [("sessions", 1)]
    assert await contents(store, "talk") == ["mine"]
    assert await store.usage.rounds("talk") == []
    assert await contents(store, "talk2") == ["and now?"]


async def test_a_title_that_is_taken_is_left_out(store: AsyncSessionStore, file: Path) -> None:
    """The session comes without it, and that is told with its place."""
    await store.sessions.create("mine", title="Files")
    result = await hermes.load(store, small(file))
    assert [(r.kind, r.file, r.line) for r in result.rejections] == [("titles", str(file), 1)]
    found = await store.sessions.get("talk")
    assert found is not None
    assert (found.title, found.message_count) == (None, 3)


async def test_an_import_that_was_cut_off_goes_on(store: AsyncSessionStore, file: Path) -> None:
    """What raised in `progress` ends it, wherever it was; repeated, everything is there once."""
    with closing(create(file)) as connection:
        session(connection, "a", input_tokens=5)
        connection.executemany(
            "INSERT INTO messages (session_id, role, content, timestamp) VALUES ('a', 'user', ?, 0)", [(f"m{n}",) for n in range(3000)]
        )  # fmt: skip
    calls = iter(range(1))

    class Enough(Exception):
        pass

    def progress(_: Any) -> None:
        if next(calls, None) is None:
            raise Enough

    with pytest.raises(Enough):
        await hermes.load(store, file, progress=progress)
    assert 0 < len(await contents(store, "a")) < 3000
    result = await hermes.load(store, file)
    assert 0 < result.inserted["messages"] < 3000
    assert await contents(store, "a") == [f"m{n}" for n in range(3000)]
    assert [m.send_index for m in await store.messages.list("a")] == list(range(1, 3001))
    assert (await store.sessions.get("a")).input_tokens == 5  # pyright: ignore[reportOptionalMemberAccess]


async def test_cancelling_leaves_it_to_be_repeated(store: AsyncSessionStore, file: Path) -> None:
    """At any moment; the file is closed then."""
    with closing(create(file)) as connection:
        for n in range(50):
            session(connection, f"s{n}", input_tokens=7)
            message(connection, f"s{n}")
    for delay in (0.0, 0.01, 0.02, 0.05):
        task = asyncio.create_task(hermes.load(store, file))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])
    await hermes.load(store, file)
    found = [(s.message_count, s.input_tokens) async for s in store.sessions.stream()]
    assert found == [(1, 7)] * 50


async def test_progress_tells_how_far_it_is(store: AsyncSessionStore, file: Path) -> None:
    """It only grows, up to the size of the file."""
    seen: list[Any] = []
    await hermes.load(store, small(file), progress=seen.append)
    assert len(seen) >= 3
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    assert (seen[-1].bytes_done, seen[-1].files_done) == (seen[-1].bytes_total, 1)


# -- odd and damaged -------------------------------------------------------------------------------


async def test_odd_values_are_kept_or_rejected_with_their_place(store: AsyncSessionStore, file: Path) -> None:
    """One record at most is left out; its words are kept wherever they can be."""
    with closing(create(file)) as connection:
        session(
            connection,
            "a",
            model_config="{broken",
            started_at="yesterday",
            input_tokens="many",
            estimated_cost_usd=9e999,
        )
        message(connection, "a", "user", b"\xff\xfebytes")
        message(connection, "a", "", "no role")
        message(
            connection,
            "a",
            "assistant",
            "calls",
            tool_calls="[broken",
            reasoning_details='{"x": NaN}',
            token_count=-1,
            timestamp="noon",
        )
        message(connection, "a", "user", '\x00json:{"broken', codex_reasoning_items='["\\ud800"]', timestamp=9e999)
        connection.execute(
            "INSERT INTO messages (session_id, role, content, timestamp) VALUES ('a', 'user', CAST(x'ff41' AS TEXT), 1)"
        )
        session(connection, None)
        session(connection, "", started_at=-9e18)
        session(connection, "b", source="", started_at=1e18, ended_at="x", end_reason="y", model_config="[1]")
    result = await hermes.load(store, file)
    assert [(r.kind, r.line) for r in result.rejections] == [("sessions", 2), ("sessions", 3), ("messages", 2)]
    first, calls, broken, latin = await store.messages.list("a")
    assert first.content == "\ufffd\ufffdbytes"
    assert (calls.tool_calls, calls.reasoning_details, calls.token_count) == ("[broken", '{"x": NaN}', None)
    assert calls.created_at == at(1) == broken.created_at
    assert (broken.content, broken.provider_items) == ('\ufffdjson:{"broken', ["\ufffd"])
    assert latin.content == "\ufffdA"
    a, b = await store.sessions.get("a"), await store.sessions.get("b")
    assert a is not None
    assert b is not None
    assert (a.config, a.created_at, a.input_tokens, a.estimated_cost_usd) == ({"text": "{broken"}, at(-T0 + 1), 0, None)
    assert (b.source, b.status, b.end_reason, b.config) == ("unknown", "active", None, {"text": "[1]"})
    again = await hermes.load(store, file)
    assert (again.inserted, again.amended, again.rejected) == ({}, {}, {"sessions": 2, "messages": 1})


async def test_ids_that_are_not_utf8_lead_to_their_messages(store: AsyncSessionStore, file: Path) -> None:
    """The id has changed on its way here, the messages still belong to it."""
    with closing(create(file)) as connection:
        connection.execute("INSERT INTO sessions (id, source, started_at) VALUES (CAST(x'61ff' AS TEXT), 'cli', 1)")
        connection.execute(
            "INSERT INTO messages (session_id, role, content, timestamp) VALUES (CAST(x'61ff' AS TEXT), 'user', 'hi', 1)"
        )
    await hermes.load(store, file)
    assert await contents(store, "a\ufffd") == ["hi"]


async def test_messages_on_a_damaged_page_are_rejected_one_by_one(store: AsyncSessionStore, file: Path) -> None:
    """All others come."""
    with closing(create(file, wal=False)) as connection:
        for id in ("a", "b"):
            session(connection, id)
            for n in range(100):
                message(connection, id, "user", f"{id}{n} " + "x" * 500)
        page = (
            connection.execute(
                "SELECT pageno FROM dbstat WHERE name = 'messages' AND pagetype = 'leaf' LIMIT 1 OFFSET 5"
            ).fetchone()[0]
            if _has_dbstat(connection)
            else 20
        )
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    data = bytearray(file.read_bytes())
    data[(page - 1) * size : page * size] = b"\xa5" * size
    file.write_bytes(data)
    result = await hermes.load(store, file)
    lost = result.rejected["messages"]
    assert 0 < lost < 20
    assert result.inserted == {"sessions": 2, "messages": 200 - lost}
    lines = [r.line for r in result.rejections]
    assert lines == sorted(lines)
    assert len(set(lines)) == lost


def _has_dbstat(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1 FROM dbstat LIMIT 1")
    except sqlite3.OperationalError:
        return False
    return True


async def test_what_is_no_such_file_is_refused(store: AsyncSessionStore, tmp_path: Path) -> None:
    """With an error that says why."""
    text, empty, other = tmp_path / "text", tmp_path / "empty", tmp_path / "other.db"
    text.write_text("not a database at all " * 100)
    empty.touch()
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE sessions (id TEXT)")
    for path, reason in ((text, "not a SQLite database"), (empty, "no table"), (other, "no table messages")):
        with pytest.raises(NotAStore, match=reason):
            await hermes.load(store, path)
    with pytest.raises(FileNotFoundError):
        await hermes.load(store, tmp_path / "missing")


# -- while the gateway runs ------------------------------------------------------------------------


async def test_the_file_is_not_changed(store: AsyncSessionStore, file: Path) -> None:
    """Neither its bytes nor its time, whatever journal it has."""
    for wal in (True, False):
        path = small(file.with_name(f"{wal}.db"), wal=wal)
        before = path.read_bytes(), path.stat().st_mtime_ns
        await hermes.load(store, path)
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before


_WRITER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
c.execute("PRAGMA wal_autocheckpoint=0")
for n in range(int(sys.argv[2])):
    c.execute("INSERT INTO messages (session_id, role, content, timestamp) VALUES ('live', 'user', ?, 1)", (f"m{n}",))
    if n == 0:
        print("writing", flush=True)
print("done", flush=True)
sys.stdin.read()
"""


async def test_it_reads_while_another_process_writes(store: AsyncSessionStore, file: Path) -> None:
    """What was committed is seen, though it is in the log; repeated until it is quiet, everything came once."""
    with closing(create(file)) as connection:
        session(connection, "live")
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-c", _WRITER, str(file), "2000")
    writer = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        async with asyncio.timeout(60):
            assert writer.stdout is not None
            assert await writer.stdout.readline() == b"writing\n"
            results = [await hermes.load(store, file)]
            assert results[0].inserted["messages"] > 0
            assert await writer.stdout.readline() == b"done\n"
            assert file.with_name("state.db-wal").stat().st_size > 0
            results.append(await hermes.load(store, file))
    finally:
        writer.kill()
        await writer.wait()
    assert sum(r.inserted["messages"] for r in results) == 2000
    assert [r.rejections for r in results] == [(), ()]
    assert await contents(store, "live") == [f"m{n}" for n in range(2000)]


# -- large -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5_000, pytest.param(50_000, marks=pytest.mark.slow)])
async def test_a_large_session_takes_little_memory(store: AsyncSessionStore, file: Path, n: int) -> None:
    """It is read and written by the page, not at once: 3 KB are in a message."""
    with closing(create(file)) as connection:
        session(connection, "large")
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO messages (session_id, role, content, timestamp) VALUES ('large', 'user', ?, ?)",
            ((f"{at} words " * 300, T0 + at) for at in range(n)),
        )
        connection.execute("COMMIT")
    tracemalloc.start()
    try:
        result = await hermes.load(store, file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.inserted["messages"] == n
    assert peak < 10_000_000


async def test_records_that_are_json_in_text_survive(store: AsyncSessionStore, file: Path) -> None:
    """Content that was encoded is structure again, text that looks like JSON stays text."""
    with closing(create(file)) as connection:
        session(connection, "a")
        message(connection, "a", "user", "\x00json:" + json.dumps([{"type": "text", "text": "see"}]))
        message(connection, "a", "user", '["not", "structure"]')
        insert(connection, "messages", session_id="a", role="user", timestamp=T0)
    await hermes.load(store, file)
    assert await contents(store, "a") == [[{"type": "text", "text": "see"}], '["not", "structure"]', None]
