"""Session stores of power-loop come in whole, grow, and their defects do not."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore
from recollect.errors import NotAStore
from recollect.importers import power_loop
from recollect.importers.power_loop.folding import Fold, Line, replay

SAMPLES = Path(__file__).parent / "data" / "power_loop"
"""made by make.py beside them, with the real package"""

SESSIONS = {"0.2.0": 11, "8.0.0": 8}
"""how many there are in the first file of a version"""


@pytest.fixture(params=list(SESSIONS))
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def first(version: str, tmp_path: Path) -> Path:
    """A file of that version."""
    return _copy(version, "first", tmp_path)


def _copy(version: str, name: str, folder: Path) -> Path:
    return Path(shutil.copy(SAMPLES / f"{version}-{name}.sqlite", folder / "theirs.db"))


def _prefix(path: Path) -> str:
    with _changing(path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    return "pl_" if "pl_sessions" in names else ""


@contextmanager
def _changing(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


async def _texts(store: AsyncSessionStore, session_id: str) -> list[Any]:
    return [message.text for message in await store.messages.list(session_id)]


# -- what comes in ---------------------------------------------------------------------------------


async def test_all_sessions_come_with_their_lineage(store: AsyncSessionStore, first: Path, version: str) -> None:
    """Parents, kinds, depths and lifecycles are as they were."""
    result = await power_loop.load(store, first)
    assert result.inserted["sessions"] == await store.sessions.count() == SESSIONS[version]
    main, deep, free, alone = [await store.sessions.get(id) for id in ("main", "deep", "free", "alone")]
    assert main
    assert deep
    assert free
    assert alone
    assert (main.source, main.kind, main.system_prompt, main.model) == ("power-loop", "root", "You help.", "m-1")
    assert (main.config, main.metadata) == ({"temperature": 0.2}, {"app": "demo"})
    assert (deep.parent_id, deep.spawn_depth, deep.relation) == ("linked", 2, "spawn")
    assert (free.lifecycle, free.spawn_tool_call_id, free.kind) == ("detached", "c2", "subagent")
    assert (alone.kind, alone.parent_id) == ("subagent", None)
    assert [child.id for child in await store.sessions.children("main")] == ["linked", "short", "free"]
    old = await store.sessions.get("old")
    assert old
    assert old.status == "archived"


async def test_messages_are_as_they_were(store: AsyncSessionStore, first: Path) -> None:
    """Seq, role, content, calls, round and time of each, in every state."""
    prefix = _prefix(first)
    with _changing(first) as connection:
        rows = connection.execute(
            f"SELECT seq, role, name, tool_call_id, round_index, created_at FROM {prefix}messages"
            " WHERE session_id = 'main' ORDER BY seq"
        ).fetchall()
    await power_loop.load(store, first)
    stored = sorted(await store.messages.list("main", state="all"), key=lambda message: message.seq)
    assert rows == [
        (m.seq, m.role, m.name, m.tool_call_id, m.round_index, int(m.created_at.timestamp() * 1000)) for m in stored
    ]
    assert [message.external_id for message in stored] == [f"power-loop:{message.seq}" for message in stored]
    assert stored[1].tool_calls[0]["function"]["name"] == "search"
    assert stored[2].content == "net.py: max_retries = None  # größer als 5, 再試行"
    assert [message.send_index for message in stored] == [1, 1, 1, 1, 2, 2, 2, 2]


async def test_the_note_stands_where_the_compacted_stood(store: AsyncSessionStore, first: Path) -> None:
    """There a note of the old version is the last on reload; here it is the first."""
    await power_loop.load(store, first)
    assert [message.seq for message in await store.messages.list("main")] == [6, 5, 7, 8]
    (compaction,) = await store.messages.compactions("main")
    assert (compaction.note_seq, compaction.from_seq, compaction.to_seq, compaction.count) == (6, 1, 4, 4)
    assert (compaction.before_tokens, compaction.after_tokens, compaction.round_index) == (900, 90, 2)
    stored = await store.messages.list("main", state="all")
    assert {message.seq: message.compacted_by for message in stored if message.state == "compacted"} == dict.fromkeys(
        [1, 2, 3, 4], 1
    )


async def test_what_came_can_be_uncompacted(store: AsyncSessionStore, first: Path) -> None:
    """A compaction from there is one of ours."""
    await power_loop.load(store, first)
    await store.messages.uncompact("main", 1)
    assert [message.seq for message in await store.messages.list("main")] == [1, 2, 3, 4, 5, 7, 8]


async def test_usage_sums_equal_an_independent_count(store: AsyncSessionStore, version: str, tmp_path: Path) -> None:
    """The counters of the session are the sums over its rows there, also after it has grown."""
    for name in ("first", "second"):
        path = _copy(version, name, tmp_path)
        await power_loop.load(store, path)
        with _changing(path) as connection:
            sums = connection.execute(
                f"SELECT SUM(prompt_tokens), SUM(completion_tokens) FROM {_prefix(path)}usage_rounds"
                " WHERE session_id = 'main'"
            ).fetchone()
        session = await store.sessions.get("main")
        assert session
        assert (session.input_tokens, session.output_tokens) == sums


async def test_cached_tokens_and_sends_of_rounds_come_with_later_versions(
    store: AsyncSessionStore, tmp_path: Path
) -> None:
    """Two rounds with one index, of two sends, stay two."""
    await power_loop.load(store, _copy("8.0.0", "second", tmp_path))
    rounds = await store.usage.rounds("main")
    assert [(row.send_index, row.round_index, row.cache_read_tokens) for row in rounds] == [
        (1, 1, 512), (2, 0, 0), (2, 1, 128), (3, 0, 0),
    ]  # fmt: skip


async def test_what_the_agent_left_to_do_comes(store: AsyncSessionStore, first: Path) -> None:
    """Pending, round and next seq are as they were."""
    await power_loop.load(store, first)
    state = await store.sessions.state("main")
    assert state
    assert state.pending["tool_call_ids"] == ["c3"]
    assert (state.next_seq, state.round_index, state.last_compaction_seq) == (9, 0, 1)


async def test_marked_content_is_structured_again(store: AsyncSessionStore, tmp_path: Path) -> None:
    """A picture comes back as the list that was given; its marker has done its work."""
    await power_loop.load(store, _copy("8.0.0", "first", tmp_path))
    message = await store.messages.get("main", 5)
    assert message
    assert message.content[0] == {"type": "text", "text": "What is in this picture?"}
    assert message.metadata == {}


async def test_unmarked_content_stays_text(store: AsyncSessionStore, tmp_path: Path) -> None:
    """The old version writes a list as text; whether it was one cannot be told."""
    await power_loop.load(store, _copy("0.2.0", "first", tmp_path))
    message = await store.messages.get("main", 5)
    assert message
    assert message.content.startswith('[{"type": "text"')


async def test_what_has_no_place_here_is_counted(store: AsyncSessionStore, tmp_path: Path) -> None:
    """By the name of its table."""
    result = await power_loop.load(store, _copy("8.0.0", "first", tmp_path))
    assert {name: result.skipped[name] for name in ("timers", "notes", "follow_up_queue", "session_stats")} == {
        "timers": 1, "notes": 1, "follow_up_queue": 1, "session_stats": 1,
    }  # fmt: skip


# -- the source ------------------------------------------------------------------------------------


async def test_the_source_is_not_changed(store: AsyncSessionStore, first: Path) -> None:
    """Neither a byte of it nor its time."""
    before = first.read_bytes(), first.stat().st_mtime_ns
    await power_loop.load(store, first)
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before


async def test_another_database_is_refused(store: AsyncSessionStore, path: Path) -> None:
    """A SQLite file with other tables is not taken for one."""
    other = path.with_name("other.db")
    with _changing(other) as connection:
        connection.execute("CREATE TABLE sessions (session_id TEXT)")
    with pytest.raises(NotAStore, match="power-loop"):
        await power_loop.load(store, other)


async def test_both_stores_of_an_upgraded_file_come(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Version 2.0 put its tables beside those of version 1, in the same file."""
    path = _copy("0.2.0", "first", tmp_path)
    with _changing(path) as connection:
        for table in ("sessions", "messages", "compactions", "usage_rounds", "session_state"):
            connection.execute(f"CREATE TABLE pl_{table} AS SELECT * FROM {table} WHERE session_id = 'free'")
            connection.execute(f"DELETE FROM {table} WHERE session_id = 'free'")
    await power_loop.load(store, path)
    assert await _texts(store, "free") == ["You are free."]
    assert await _texts(store, "short") == ["You are short."]


# -- again -----------------------------------------------------------------------------------------


async def test_a_second_run_inserts_nothing(store: AsyncSessionStore, first: Path) -> None:
    """What is there already is counted, and nothing is written."""
    await power_loop.load(store, first)
    exported = [record async for record in store.sessions.export_all()]
    result = await power_loop.load(store, first)
    assert not result.inserted
    assert not result.amended
    assert result.duplicate["sessions"] == len(exported)
    assert [record async for record in store.sessions.export_all()] == exported


async def test_growth_equals_a_first_import(version: str, tmp_path: Path) -> None:
    """What came since is as if all had come at once, but for the times of notes and changes."""
    async with AsyncSessionStore(":memory:") as grown, AsyncSessionStore(":memory:") as whole:
        await power_loop.load(grown, _copy(version, "first", tmp_path))
        second = _copy(version, "second", tmp_path)
        result = await power_loop.load(grown, second)
        await power_loop.load(whole, second)
        assert result.amended["sessions"] == 1
        assert (result.inserted["sessions"], result.inserted["messages"], result.inserted["compactions"]) == (1, 5, 1)
        for id in ("main", "late", "linked"):
            assert _timeless(await grown.sessions.export(id)) == _timeless(await whole.sessions.export(id))
        again = await power_loop.load(grown, second)
        assert not again.inserted
        assert not again.amended


def _timeless(record: dict[str, Any] | None) -> dict[str, Any]:
    assert record is not None
    for one in (record, *record["compactions"], *record["usage"]):
        one.pop("updated_at", None)
        one.pop("last_active_at", None)
    for compaction in record["compactions"]:
        compaction.pop("created_at")
    for message in record["messages"]:
        if message["name"] == "compact_note":  # made here, it knows the places instead of the seqs
            for name in ("created_at", "external_id", "metadata", "send_index", "token_count"):
                message.pop(name)
    record["usage"].sort(key=lambda row: (row["send_index"], row["round_index"]))
    return record


async def test_pending_follows_the_source(store: AsyncSessionStore, version: str, tmp_path: Path) -> None:
    """When the answer came there, nothing is pending here."""
    await power_loop.load(store, _copy(version, "first", tmp_path))
    await power_loop.load(store, _copy(version, "second", tmp_path))
    state = await store.sessions.state("main")
    assert state
    assert state.pending is None


async def test_a_session_continued_here_keeps_its_state(store: AsyncSessionStore, first: Path) -> None:
    """What is pending there is no news to a session whose agent went on here."""
    await power_loop.load(store, first)
    await store.messages.append("main", role="tool", content="a dog", tool_call_id="c3", pending=None)
    await power_loop.load(store, first)
    state = await store.sessions.state("main")
    assert state
    assert state.pending is None


async def test_a_stranger_with_the_same_id_is_left_alone(store: AsyncSessionStore, first: Path) -> None:
    """Sessions are not mixed: it is reported, and its children come."""
    await store.sessions.create("main", source="elsewhere")
    result = await power_loop.load(store, first)
    assert await store.messages.count("main") == 0
    assert "sessions" in result.rejected
    assert "'main'" in result.rejections[0].reason
    assert await _texts(store, "linked") == ["You are linked."]


async def test_a_run_that_was_ended_goes_on(store: AsyncSessionStore, first: Path) -> None:
    """What `progress` raises ends the import after some sessions; the next one brings the others."""

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.bytes_done > progress.bytes_total // 2:
            raise Stop

    with pytest.raises(Stop):
        await power_loop.load(store, first, progress=stop)
    there = await store.sessions.count()
    result = await power_loop.load(store, first)
    assert result.inserted["sessions"] > 0
    assert result.duplicate["sessions"] == there
    assert there + result.inserted["sessions"] == await store.sessions.count()


async def test_progress_comes_after_every_session(store: AsyncSessionStore, first: Path) -> None:
    """It grows, and ends with the file."""
    seen: list[Any] = []
    result = await power_loop.load(store, first, progress=seen.append)
    assert len(seen) == result.inserted["sessions"] + 1
    assert [one.bytes_done for one in seen] == sorted(one.bytes_done for one in seen)
    assert (seen[-1].bytes_done, seen[-1].files_done) == (seen[-1].bytes_total, 1)


async def test_a_cancelled_run_goes_on(version: str, tmp_path: Path) -> None:
    """Wherever it is cancelled, the next one ends with what one run alone brings."""
    async with AsyncSessionStore(":memory:") as whole:
        await power_loop.load(whole, _copy(version, "second", tmp_path))
        expected = [_timeless(record) async for record in whole.sessions.export_all()]
    for turns in range(1, 200, 20):
        async with AsyncSessionStore(":memory:") as store:
            await power_loop.load(store, _copy(version, "first", tmp_path))
            second = _copy(version, "second", tmp_path)
            run = asyncio.create_task(power_loop.load(store, second))
            for _ in range(turns):
                await asyncio.sleep(0)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            await power_loop.load(store, second)
            assert [_timeless(record) async for record in store.sessions.export_all()] == expected


# -- growth that cannot be repeated as it was ------------------------------------------------------

_NEW = (
    "INSERT INTO $messages (session_id, seq, role, name, content, state, meta_json, created_at)"
    " VALUES ('linked', ?, ?, ?, ?, ?, ?, 1750000900000)"
)


def _add(path: Path, *rows: tuple[Any, ...], audit: tuple[int, int, int, int] | None = None) -> None:
    """Adds messages to the session `linked`, and an audit row for a compaction of it."""
    prefix = _prefix(path)
    with _changing(path) as connection:
        connection.executemany(_NEW.replace("$", prefix), rows)
        if audit is not None:
            connection.execute(
                f"INSERT INTO {prefix}compactions (session_id, compact_seq, note_seq, from_seq, to_seq, created_at)"
                " VALUES ('linked', ?, ?, ?, ?, 1750000900000)",
                audit,
            )


async def test_a_new_message_that_cannot_be_stored_is_left_out(store: AsyncSessionStore, first: Path) -> None:
    """Those around it come."""
    await power_loop.load(store, first)
    _add(first, *[(seq, role, None, f"{seq}", "active", None) for seq, role in ((2, "user"), (3, ""), (4, "user"))])
    result = await power_loop.load(store, first)
    assert await _texts(store, "linked") == ["You are linked.", "2", "4"]
    assert ("messages", 3) in [(one.kind, one.line) for one in result.rejections]


async def test_a_new_compaction_of_nothing_brings_its_note(store: AsyncSessionStore, first: Path) -> None:
    """Its audit row has no place; it is told."""
    await power_loop.load(store, first)
    _add(first, (2, "system", "compact_note", "of nothing", "active", '{"from_seq":1}'), audit=(1, 2, 1, 0))
    result = await power_loop.load(store, first)
    assert await _texts(store, "linked") == ["You are linked.", "of nothing"]
    assert ("compactions", 1) in [(one.kind, one.line) for one in result.rejections]


async def test_a_compaction_that_was_made_here_before_is_not_made_again(store: AsyncSessionStore, first: Path) -> None:
    """Who compacted here first keeps that; the other's is told."""
    await power_loop.load(store, first)
    await store.messages.compact("linked", note="ours", seqs=[1])
    with _changing(first) as connection:
        connection.execute(f"UPDATE {_prefix(first)}messages SET state = 'compacted_out' WHERE session_id = 'linked'")
    note = (2, "system", "compact_note", "theirs", "active", '{"from_seq":1}')
    _add(first, note, (3, "user", None, "more", "active", None), audit=(1, 2, 1, 1))
    result = await power_loop.load(store, first)
    assert await _texts(store, "linked") == ["ours", "more"]
    assert ("compactions", 2) in [(one.kind, one.line) for one in result.rejections]


async def test_a_new_message_that_was_taken_out_there_does_not_come(store: AsyncSessionStore, first: Path) -> None:
    """Active it would be in the transcript; it is told."""
    await power_loop.load(store, first)
    _add(first, (2, "tool", None, "an orphan", "dropped", None), (3, "user", None, "more", "active", None))
    result = await power_loop.load(store, first)
    assert await _texts(store, "linked") == ["You are linked.", "more"]
    assert ("messages", 2) in [(one.kind, one.line) for one in result.rejections]


async def test_a_round_that_was_written_over_is_amended(store: AsyncSessionStore, first: Path) -> None:
    """The old versions write each send's rounds over those of the one before; the sums follow."""
    await power_loop.load(store, first)
    with _changing(first) as connection:
        connection.execute(f"UPDATE {_prefix(first)}usage_rounds SET prompt_tokens = 7 WHERE session_id = 'main'")
    result = await power_loop.load(store, first)
    session = await store.sessions.get("main")
    assert session is not None
    assert (result.amended["usage"], session.input_tokens) == (2, 14)


async def test_half_of_a_compaction_is_never_seen(tmp_path: Path) -> None:
    """While somebody compacts there, every message that is put away here has its note."""
    path = _copy("8.0.0", "first", tmp_path)
    done = threading.Event()
    writing = threading.Thread(target=_compact_on, args=(path, done))
    writing.start()
    try:
        for _ in range(20):
            async with AsyncSessionStore(":memory:") as store:
                await power_loop.load(store, path)
                stored = await store.messages.list("linked", state="all")
                assert all(message.compacted_by for message in stored if message.state == "compacted")
    finally:
        done.set()
        writing.join()


def _compact_on(path: Path, done: threading.Event) -> None:
    """A message, and a compaction of it, again and again, each in its transaction."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        for number in range(1, 1_000):
            user, note = 2 * number, 2 * number + 1
            with connection:
                connection.execute(_NEW.replace("$", "pl_"), (user, "user", None, "a", "active", None))
                connection.execute("UPDATE pl_session_state SET next_seq = ? WHERE session_id = 'linked'", [note])
            with connection:
                connection.execute(
                    "UPDATE pl_messages SET state = 'compacted_out' WHERE session_id = 'linked' AND seq = ?", [user]
                )
                meta = f'{{"from_seq":{user},"to_seq":{user},"ord":{user}}}'
                connection.execute(_NEW.replace("$", "pl_"), (note, "system", "compact_note", "b", "active", meta))
                connection.execute(
                    "INSERT INTO pl_compactions (session_id, compact_seq, note_seq, from_seq, to_seq, created_at)"
                    " VALUES ('linked', ?, ?, ?, ?, 1750000900000)",
                    (number, note, user, user),
                )
                connection.execute("UPDATE pl_session_state SET next_seq = ? WHERE session_id = 'linked'", [note + 1])
            if done.wait(0.003):
                return


# -- defects of old files --------------------------------------------------------------------------


async def test_orphans_are_reported_and_break_nothing(store: AsyncSessionStore, first: Path) -> None:
    """Usage without a session has no place; it is told where it is."""
    result = await power_loop.load(store, first)
    (rejection,) = [one for one in result.rejections if one.kind == "usage"]
    assert rejection.file == str(first)
    assert rejection.line is not None


async def test_a_child_whose_parent_is_gone_comes_without_it(store: AsyncSessionStore, tmp_path: Path) -> None:
    """And it is told."""
    result = await power_loop.load(store, _copy("0.2.0", "first", tmp_path))
    orphan = await store.sessions.get("orphan")
    assert orphan
    assert (orphan.parent_id, orphan.spawn_depth, orphan.kind) == (None, 1, "subagent")
    assert result.rejected["parents"] == 1


async def test_a_compaction_of_nothing_keeps_its_note(store: AsyncSessionStore, tmp_path: Path) -> None:
    """A range that runs backwards put nothing away there; the note stands where the range begins."""
    result = await power_loop.load(store, _copy("0.2.0", "first", tmp_path))
    assert await _texts(store, "inverted") == ["one", "two", "three", "of nothing"]
    assert await store.messages.compactions("inverted") == []
    assert ("compactions", 1) in [(one.kind, one.line) for one in result.rejections]


async def test_what_a_crash_left_comes_as_it_is(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Sessions without a state, seqs behind the rows, and messages put away without an audit row."""
    await power_loop.load(store, _copy("0.2.0", "first", tmp_path))
    assert await store.sessions.get("stateless") is not None
    assert (await store.messages.append("old", role="user", content="again")).seq == 2
    assert await _texts(store, "crashed") == ["in short"]
    put_away = [m for m in await store.messages.list("crashed", state="all") if m.state == "compacted"]
    assert [message.compacted_by for message in put_away] == [None, None]
    note = await store.messages.get("crashed", 3)
    assert note
    assert note.position == 1


async def test_a_repaired_message_stays_out_of_the_transcript(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Dropped there, it is put away under nothing here, and says why."""
    await power_loop.load(store, _copy("8.0.0", "first", tmp_path))
    assert await _texts(store, "repaired") == ["go", "gone"]
    dropped = await store.messages.get("repaired", 2)
    assert dropped
    assert (dropped.state, dropped.compacted_by) == ("compacted", None)
    assert dropped.metadata == {"power_loop_state": "dropped"}


@pytest.mark.parametrize(
    ("change", "kind", "line"),
    [
        ("UPDATE $messages SET meta_json = '{' WHERE session_id = 'main' AND seq = 2", "messages", 2),
        ("UPDATE $messages SET tool_calls_json = '\"\ud83d' WHERE session_id = 'main' AND seq = 2", "messages", 2),
        ("UPDATE $messages SET created_at = 'noon' WHERE session_id = 'main' AND seq = 2", "messages", 2),
        ("UPDATE $messages SET role = '' WHERE session_id = 'main' AND seq = 2", "messages", 2),
        ("UPDATE $messages SET content = x'00ff' WHERE session_id = 'main' AND seq = 2", "messages", 2),
        ("UPDATE $messages SET meta_json = '{' WHERE session_id = 'main' AND seq = 6", "compactions", 1),
        ("UPDATE $compactions SET created_at = 'noon' WHERE session_id = 'main'", "compactions", 1),
        ("UPDATE $session_state SET pending_json = '{' WHERE session_id = 'main'", "pending", 1),
        ("UPDATE $sessions SET config_json = '[]' WHERE session_id = 'main'", "sessions", 1),
        ("UPDATE $sessions SET status = 'asleep' WHERE session_id = 'main'", "sessions", 1),
        ("UPDATE $usage_rounds SET prompt_tokens = -1 WHERE session_id = 'main' AND round_index = 1", "usage", 1),
    ],
)
async def test_what_cannot_be_understood_does_not_stop_the_rest(
    store: AsyncSessionStore, first: Path, change: str, kind: str, line: int
) -> None:
    """It is told with its place; the session comes with all the rest, and a second run brings nothing."""
    with _changing(first) as connection:
        connection.execute(change.replace("$", _prefix(first)).encode("utf-8", "replace").decode())
    result = await power_loop.load(store, first)
    assert (kind, line) in [(one.kind, one.line) for one in result.rejections]
    assert await store.messages.count("main") >= 3
    again = await power_loop.load(store, first)
    assert not again.inserted


async def test_numbers_that_json_does_not_know_come_as_text(store: AsyncSessionStore, first: Path) -> None:
    """NaN is written there into JSON."""
    with _changing(first) as connection:
        connection.execute(
            f"UPDATE {_prefix(first)}messages SET meta_json = ? WHERE session_id = 'main' AND seq = 2", ['{"p": NaN}']
        )
    await power_loop.load(store, first)
    message = await store.messages.get("main", 2)
    assert message
    assert message.metadata == {"p": "NaN"}


async def test_parents_in_a_circle_come(store: AsyncSessionStore, first: Path) -> None:
    """The circle is broken at one of them."""
    with _changing(first) as connection:
        connection.execute(f"UPDATE {_prefix(first)}sessions SET parent_session_id = 'deep' WHERE session_id = 'main'")
    await power_loop.load(store, first)
    line = [await store.sessions.get(id) for id in ("main", "linked", "deep")]
    assert [one is not None and one.parent_id for one in line].count(None) == 1


# -- which compaction put away what ----------------------------------------------------------------


def _away(*seqs: int) -> list[Line]:
    return [Line(seq, "compacted_out") for seq in seqs]


def test_ranges_that_overlap_leave_a_message_under_the_first() -> None:
    """The old versions mark again what was put away before."""
    lines = [*_away(1, 2, 3, 4, 5, 6), Line(7, "active", first=1), Line(8, "active", first=3)]
    folded = replay(lines, [Fold(1, 7, 1, 4), Fold(2, 8, 3, 6)])
    assert folded.under == {1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2}
    assert (folded.places[7], folded.places[8]) == (1, 5)


def test_a_range_beyond_the_end_does_not_take_what_came_later() -> None:
    """Only what was there was put away."""
    lines = [*_away(1, 2), Line(3, "active", first=1), *_away(4), Line(5, "active", first=4)]
    assert replay(lines, [Fold(1, 3, 1, 9), Fold(2, 5, 4, 4)]).under == {1: 1, 2: 1, 4: 2}


def test_a_note_in_a_note_stands_where_the_inner_one_stood() -> None:
    """The outer one begins where the inner one does, though that has a high seq."""
    lines = [*_away(1, 2), Line(3, "active"), Line(4, "compacted_out", 1, 1), Line(5, "active", 1, 4)]
    folded = replay(lines, [Fold(1, 4, 1, 2), Fold(2, 5, 4, 4)])
    assert folded.under == {1: 1, 2: 1, 4: 2}
    assert (folded.places[4], folded.places[5]) == (1, 1)


def test_a_later_range_tells_how_far_neighbours_reached() -> None:
    """The kept tail (8, 9) lies in the range of the compaction that kept it, for a note's seq ends it; the
    next one, which put it away, begins with it."""
    notes = [Line(10, "compacted_out", 1, 1), Line(15, "compacted_out", 1, 5), Line(18, "active", 1, 8)]
    lines = [*_away(*range(1, 10)), *notes, *_away(11, 12, 13, 14, 16), Line(17, "active")]
    folds = [Fold(1, 10, 1, 4), Fold(2, 15, 5, 10), Fold(3, 18, 8, 16)]
    assert replay(lines, folds).under == {
        **dict.fromkeys([1, 2, 3, 4], 1),
        **dict.fromkeys([5, 6, 7, 10], 2),
        **dict.fromkeys([8, 9, 11, 12, 13, 14, 15, 16], 3),
    }


def test_a_note_without_what_it_stands_for_stands_where_it_says() -> None:
    """What was put away can be deleted there."""
    folded = replay([Line(5, "active"), Line(6, "active", 2, 2)], [Fold(1, 6, 2, 4)])
    assert (folded.under, folded.places) == ({}, {5: 5, 6: 2})


# -- the real package ------------------------------------------------------------------------------


async def test_a_store_that_the_installed_package_has_open(store: AsyncSessionStore, tmp_path: Path) -> None:
    """While it is open there, what was committed comes; then what came since."""
    package = pytest.importorskip("power_loop.runtime.store.store", reason="power-loop is not installed")
    path = tmp_path / "live.db"
    async with await package.SessionStore.open(str(path)) as theirs:
        id = await theirs.create_session(system_prompt="Be brief.")
        await theirs.append_message(id, role="user", content="one", send_index=1)
        await power_loop.load(store, path)
        assert await _texts(store, id) == ["one"]
        await theirs.append_message(id, role="assistant", content="two", round_index=0, send_index=1)
        await theirs.record_compaction(
            id, from_seq=1, to_seq=1, note_content="in short", before_tokens=9, after_tokens=3, round_index=0,
            fold_seqs=[1], order_key=1,
        )  # fmt: skip
        await theirs.set_pending(id, {"tool_call_ids": ["c1"]})
        result = await power_loop.load(store, path)
        assert (result.inserted["messages"], result.inserted["compactions"]) == (2, 1)
        assert await _texts(store, id) == [row.content for row in await theirs.load_active_messages(id)]
        state = await store.sessions.state(id)
        assert state
        assert state.pending == {"tool_call_ids": ["c1"]}
