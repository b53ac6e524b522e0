"""What a project's event index was asked, call by call: each comment names the call it knew before, and each test what
the answer is here, where the one before was silent, wrong or empty."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from recollect import (
    AsyncSessionStore,
    Correction,
    FileEvent,
    Hit,
    InvalidQuery,
    InvalidRecord,
    LoopEvent,
    ToolEvent,
    args_hash,
    map_event,
)

from .engines import ON_FILES
from .outside import occupied

AT = datetime(2026, 3, 1, 9, tzinfo=UTC)
TS = "2026-03-01T09:00:00Z"
HOUR = timedelta(hours=1)


async def hits(store: AsyncSessionStore, query: str, **options: Any) -> list[Hit]:
    return [hit async for hit in store.search(query, **options)]


async def sent(store: AsyncSessionStore, **event: Any) -> dict[str, Any]:
    """What the view of loops has of an event that was sent."""
    id = await store.events.record(map_event(event))
    (row,) = await store.query(
        "SELECT loop_name, state, transition, retries, at FROM loop_events WHERE id = :id", id=id
    )
    return dict(zip(row.columns, row, strict=True))


# -- opening: DEFAULT_DB_PATH, SCHEMA_VERSION, ensure_db, connect ----------------------------------


async def test_a_new_store_is_opened_by_many_at_once(path: Path):
    """Eight at the same time: the schema is made once, nobody fails, and each can record."""

    async def use(n: int) -> int:
        async with AsyncSessionStore(path) as store:
            return await store.events.record({"kind": "x", "name": str(n)})

    ids = await asyncio.gather(*[use(n) for n in range(8)])
    assert len(set(ids)) == 8
    async with AsyncSessionStore(path) as store:
        assert len(await store.events.recent("x", limit=None)) == 8
        assert (await store.stats()).schema_version == 1


@pytest.fixture
def relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncSessionStore:
    """A store whose path is relative."""
    monkeypatch.chdir(tmp_path)
    return AsyncSessionStore("session.db")


async def test_the_file_is_where_one_says(relative: AsyncSessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A relative path is that of the moment it was named: changing directories later does not open another."""
    async with relative as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        await store.events.record({"kind": "x"})
        assert len(await store.events.recent("x")) == 1
    assert (tmp_path / "session.db").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_readers_do_not_wait_for_a_writer(store: AsyncSessionStore, path: Path):
    """A foreign transaction that holds the store stops no read; what is recorded meanwhile comes, and is not dropped."""
    await store.events.record({"kind": "x"})
    async with occupied(path):
        late = asyncio.create_task(store.events.record({"kind": "late"}))
        assert len(await store.events.recent("x")) == 1
        assert not late.done()
    await late
    assert len(await store.events.recent("late")) == 1


# -- search(query, limit) --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["BUG-490", 'foo"', "a AND", "x:y", "*", "", '"', "(", "NEAR(a", "col:val*", "-", "\x00"]
)
async def test_no_query_is_a_syntax_error(any_store: AsyncSessionStore, query: str):
    """What people type into a search box: some of it finds something, none of it raises."""
    await any_store.events.record({"kind": "x", "issue_id": "BUG-490", "text": "foo a x y"})
    found = await hits(any_store, query)
    assert [hit.ref for hit in found] == (["BUG-490"] if query in ("BUG-490", 'foo"', "x:y", "a AND") else [])


async def test_a_hit_has_what_it_had_and_its_place(any_store: AsyncSessionStore):
    """Kind, reference, anchor, time and score; and id, session, a marked snippet and, if asked for, the text."""
    id = await any_store.events.record(
        {"kind": "tool", "session_id": "s", "name": "Grep", "anchor": "a.jsonl:7", "text": "max_retries", "at": AT}
    )
    (hit,) = await hits(any_store, "max_retries", with_text=True)
    assert (hit.kind, hit.id, hit.session_id, hit.ref, hit.anchor, hit.at) == (
        "event",
        id,
        "s",
        "Grep",
        "a.jsonl:7",
        AT,
    )
    assert (hit.snippet, hit.text) == ("Grep >>>max_retries<<<", "Grep\nmax_retries")
    assert hit.score > 0


async def test_the_better_match_comes_first_and_higher_is_better(any_store: AsyncSessionStore):
    """A score was negative and lower was better."""
    await any_store.events.record_many(
        [
            {"kind": "x", "text": "retry " + "and many other words " * 40},
            {"kind": "x", "text": "retry retry"},
        ]
    )
    found = await hits(any_store, "retry")
    assert found[0].snippet.count(">>>") == 2
    assert found[0].score > found[1].score


async def test_a_negative_limit_is_not_unlimited(any_store: AsyncSessionStore):
    """It was; None is, here."""
    await any_store.events.record_many([{"kind": "x", "text": "word"} for _ in range(30)])
    assert len(await hits(any_store, "word")) == 20
    assert len(await hits(any_store, "word", limit=None)) == 30
    with pytest.raises(InvalidRecord, match="limit"):
        await hits(any_store, "word", limit=-1)


# -- recent(kind, limit) ---------------------------------------------------------------------------


async def test_recent_is_by_when_it_was_recorded(any_store: AsyncSessionStore):
    """As before: insertion order, the newest first, whatever time an event has."""
    for n in range(3):
        await any_store.events.record(LoopEvent(loop_name=f"l{n}", transition="t", at=AT - n * HOUR))
    assert [event.name for event in await any_store.events.recent("loop", limit=2)] == ["l2", "l1"]


async def test_every_kind_of_the_index_can_be_recorded(any_store: AsyncSessionStore):
    """Files and corrections had tables and no writer; an unknown kind is an error that names those there are."""
    assert await any_store.events.recent("file") == await any_store.events.recent("correction") == []
    await any_store.events.record(FileEvent(path="net.py", op="edit", git_sha="abc"))
    await any_store.events.record(Correction(content="not that file", source="chat"))
    assert [event.path for event in await any_store.events.recent("file")] == ["net.py"]
    assert [event.text for event in await any_store.events.recent("correction")] == ["not that file"]
    with pytest.raises(InvalidQuery, match="correction, file, issue, loop, tool"):
        await any_store.events.recent("tools")


# -- SQLiteTransport.send: what it mapped ----------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "loop_name", "state", "retries"),
    [
        ({"event": "loop_start", "loop": "fix"}, "fix", None, None),
        ({"event": "loop_resume", "loop": "fix", "from_state": "verify", "iteration": 3}, "fix", "verify", None),
        ({"event": "state_enter", "loop": "fix", "state": "verify", "iteration": 1}, "fix", "verify", None),
        ({"event": "state_enter", "loop_name": "fix", "state": "verify"}, "fix", "verify", None),
        ({"event": "route", "loop": "fix", "from": "verify", "to": "done"}, "fix", "done", None),
        ({"event": "loop_complete", "loop": "fix", "final_state": "done", "iterations": 3}, "fix", "done", None),
        ({"event": "loop_complete", "loop_name": "fix", "outcome": "failed"}, "fix", "failed", None),
        ({"event": "retry_exhausted", "loop": "fix", "state": "try", "retries": 3, "next": "x"}, "fix", "try", 3),
        ({"event": "retry_exhausted", "loop": "fix", "state": "try", "retries": True}, "fix", "try", None),
        ({"event": "retry_exhausted", "loop": "fix", "state": "try", "retries": "3"}, "fix", "try", None),
        ({"event": "cycle_detected", "loop": "fix", "from": "a", "to": "b", "count": 3, "max": 2}, "fix", "b", None),
    ],
    ids=lambda value: value["event"] if isinstance(value, dict) else None,
)
async def test_a_live_event_has_its_loop_its_state_and_its_retries(
    any_store: AsyncSessionStore, event: dict[str, Any], loop_name: str, state: str | None, retries: int | None
):
    """Defect 1: every live row had no loop name, and `route` and `loop_complete` had no state, for the fields have other
    names than were read. A flag is no number of retries."""
    row = await sent(any_store, ts=TS, **event)
    assert row == {
        "loop_name": loop_name, "state": state, "transition": event["event"], "retries": retries,
        "at": int(AT.timestamp() * 1000),
    }  # fmt: skip
    assert [hit.ref for hit in await hits(any_store, "fix")] == ["fix"]
    if state is not None:
        assert len(await hits(any_store, state)) == 1


async def test_events_that_were_ignored_are_kept(any_store: AsyncSessionStore):
    """Only seven of more than sixty were: actions, evaluations, costs and workers are found as well."""
    for event in (
        {"event": "action_complete", "loop": "fix", "exit_code": 1, "stderr_preview": "segfault"},
        {"event": "evaluate", "loop": "fix", "verdict": "blocked"},
        {"event": "cost_ceiling_exceeded", "loop": "fix", "state": "spend", "action": "stop"},
        {"event": "parallel.worker_blocked", "issue_id": "BUG-9", "reason": "overlap"},
        {"event": "issue.closed", "issue_id": "BUG-9", "close_reason": "duplicate"},
    ):
        await any_store.events.record(map_event(event))
    for word in ("segfault", "blocked", "spend", "overlap", "duplicate"):
        assert len(await hits(any_store, word, kinds="event")) >= 1
    assert {event.kind for event in [each async for each in any_store.events.stream()]} == {"loop", "parallel", "issue"}


async def test_route_has_both_its_states(any_store: AsyncSessionStore):
    """Where it leads is the state, where it came from among the words; both are in the payload."""
    await sent(any_store, event="route", loop="fix", **{"from": "verify", "to": "done"})
    (event,) = await any_store.events.recent("loop")
    assert (event.payload["from"], event.payload["to"]) == ("verify", "done")
    assert len(await hits(any_store, "verify")) == 1


async def test_a_time_that_is_missing_is_that_of_the_call(any_store: AsyncSessionStore):
    """In milliseconds, where it was cut to the second."""
    before = datetime.now(UTC)
    row = await sent(any_store, event="loop_start", loop="fix")
    assert int(before.timestamp() * 1000) <= row["at"] <= int(datetime.now(UTC).timestamp() * 1000)


# -- _hash_args ------------------------------------------------------------------------------------


async def test_arguments_have_the_hash_they_had(any_store: AsyncSessionStore):
    """So that rows of both can be compared; it comes with the event, and equal calls are found by it."""
    assert args_hash({"command": "ls"}) == "f9574a3389c9e0fe"
    assert len(args_hash(object())) == 16
    for args in ({"command": "ls", "cwd": "/"}, {"cwd": "/", "command": "ls"}, {"command": "ps"}):
        await any_store.events.record(ToolEvent(tool_name="Bash", args=args))
    rows = await any_store.query("SELECT args_hash, COUNT(*) AS n FROM tool_events GROUP BY args_hash ORDER BY n")
    assert [tuple(row) for row in rows] == [
        (args_hash({"command": "ps"}), 1), (args_hash({"command": "ls", "cwd": "/"}), 2),
    ]  # fmt: skip


async def test_the_reserved_columns_are_filled(any_store: AsyncSessionStore):
    """Sizes and cache hits of tools were always NULL."""
    await any_store.events.record(ToolEvent(tool_name="Read", result_size=9, bytes_in=1, bytes_out=2, cache_hit=False))
    (row,) = await any_store.query("SELECT result_size, bytes_in, bytes_out, cache_hit FROM tool_events")
    assert tuple(row) == (9, 1, 2, 0)


# -- the other defects -----------------------------------------------------------------------------


async def test_the_same_again_doubles_nothing(any_store: AsyncSessionStore):
    """Defect 2, as far as it is the store's: an event with a key of its own is recorded once."""
    given = [{"kind": "tool", "text": "word", "dedupe_key": f"a.jsonl:{n}"} for n in range(50)]
    assert await any_store.events.record_many(given) == await any_store.events.record_many(given)
    assert len(await hits(any_store, "word", limit=None)) == 50


async def test_what_happened_can_be_read_again(any_store: AsyncSessionStore):
    """Defect 8: an event keeps its session, its run, its order and everything that was sent."""
    events = [
        {
            "event": "state_enter",
            "ts": TS,
            "loop": "fix",
            "run_id": "r1",
            "session_id": "s1",
            "state": f"state{n}",
            "n": n,
        }
        for n in range(5)
    ]
    await any_store.events.record_many([map_event(each) for each in events])
    replayed = [event async for event in any_store.events.stream(run_id="r1", session_id="s1")]
    assert [event.payload for event in replayed] == events
    assert [event.at for event in replayed] == [AT] * 5
    assert [event.id for event in replayed] == sorted({event.id for event in replayed})


async def test_events_can_be_filtered_paged_and_pruned(any_store: AsyncSessionStore):
    """Defect 9: by kind, session and time, in both reading and search, with a cursor, a snippet and an end."""
    await any_store.events.record_many(
        [
            {
                "kind": "tool" if n % 2 else "note",
                "session_id": f"s{n % 3}",
                "text": f"word number{n}",
                "at": AT + n * HOUR,
            }
            for n in range(60)
        ]
    )
    chosen = {"kind": "tool", "session_id": "s1", "since": AT + 6 * HOUR, "until": AT + 40 * HOUR}
    found = [event async for event in any_store.events.stream(**chosen)]
    assert [event.text for event in found] == [f"word number{n}" for n in range(7, 40, 6)]
    rest = [event async for event in any_store.events.stream(after=found[2].id, **chosen)]
    assert rest == found[3:]
    pages: list[str] = []
    cursor = None
    while page := await hits(
        any_store, "word", session="s1", order="oldest", limit=7, after=cursor, since=AT + 6 * HOUR
    ):
        pages += [hit.snippet for hit in page]
        cursor = page[-1].cursor
    assert pages == [f">>>word<<< number{n}" for n in range(7, 60, 3)]
    assert await any_store.events.prune(AT + 30 * HOUR, kind="tool") == 15
    assert len(await hits(any_store, "word", limit=None)) == 45


async def test_a_session_takes_its_events_along(any_store: AsyncSessionStore):
    """Nothing could be deleted."""
    await any_store.sessions.create("s")
    await any_store.events.record({"kind": "tool", "session_id": "s", "text": "word"})
    await any_store.sessions.delete("s")
    assert (
        await hits(any_store, "word")
        == [event async for event in any_store.events.stream(session_id="s", kind="tool")]
        == []
    )


@ON_FILES
async def test_the_texts_of_events_are_stored_once(path: Path):
    """The index had a copy of its own, and no way back to the row."""
    text = "".join(f"unmistakable{n % 10} " for n in range(20_000))
    async with AsyncSessionStore(path) as store:
        id = await store.events.record({"kind": "x", "text": text})
        assert [hit.id for hit in await hits(store, "unmistakable7")] == [id]
    assert path.stat().st_size < 2 * len(text)
