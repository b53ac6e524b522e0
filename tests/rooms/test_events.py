"""Events of any kind: recorded whole, in the order of the calls, and read, found, pruned and kept apart by user."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recollect import (
    AsyncSessionStore,
    Correction,
    Event,
    FileEvent,
    Hit,
    InvalidQuery,
    InvalidRecord,
    IssueEvent,
    Limits,
    LoopEvent,
    ReadOnly,
    RecordedEvent,
    SchemaTooNew,
    ScopedStore,
    SessionNotFound,
    StoreError,
    ToolEvent,
    args_hash,
)
from recollect.engine.operation import execute
from recollect.events import reading, room
from recollect.events.prune import as_aged
from recollect.filters import Filter

from .engines import ON_FILES, ON_SQLITE
from .failing import failing
from .outside import last_number
from .test_index_damage import DAMAGE, damage
from .test_plans import plan

AT = datetime(2026, 3, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def streamed(store: AsyncSessionStore | ScopedStore, **filters: Any) -> list[RecordedEvent]:
    """What a stream gives, but for what the store records itself."""
    return [event async for event in store.events.stream(**filters) if not event.kind.startswith("store.")]


async def hits(store: AsyncSessionStore | ScopedStore, query: str, **options: Any) -> list[Hit]:
    return [hit async for hit in store.search(query, **{"order": "oldest", **options})]


async def ids(store: AsyncSessionStore | ScopedStore, **filters: Any) -> list[int]:
    return [event.id for event in await streamed(store, **filters)]


# -- recording -------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "kind": "deploy", "at": AT, "session_id": "s", "run_id": "r", "name": "site", "action": "began", "issue_id": "BUG-1",
    "path": "src/a.py", "anchor": "log:7", "text": "all of it", "payload": {"a": [1, {"b": None}], "ü": "東"},
    "dedupe_key": "d1",
}  # fmt: skip


@pytest.mark.parametrize("as_given", [lambda: FULL, lambda: Event(**FULL)], ids=["mapping", "Event"])
async def test_every_field_comes_back_as_it_was_given(any_store: AsyncSessionStore, as_given: Callable[[], Any]):
    """Of an `Event`, or of a mapping with its fields; the id is the one that was returned."""
    id = await any_store.events.record(as_given())
    assert await streamed(any_store) == [RecordedEvent(id=id, **FULL)]


async def test_only_the_kind_is_needed(any_store: AsyncSessionStore):
    """The time is that of the call; everything else is None."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    id = await any_store.events.record({"kind": "x"})
    (event,) = await streamed(any_store)
    assert before <= event.at <= datetime.now(UTC)
    assert event == RecordedEvent("x", id=id, at=event.at)


async def test_a_record_can_be_recorded_again(any_store: AsyncSessionStore):
    """What came back is an event: another one of it has an id of its own."""
    await any_store.events.record({**FULL, "dedupe_key": None})
    (first,) = await streamed(any_store)
    second = await any_store.events.record(first)
    assert second > first.id
    assert [event.payload for event in await streamed(any_store)] == [FULL["payload"]] * 2


async def test_a_time_with_another_offset_is_the_same_instant(any_store: AsyncSessionStore):
    """Also before 1970 and at the end of time; finer than a millisecond is cut."""
    for at in (AT.astimezone(timezone(5 * HOUR)), datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)):
        await any_store.events.record({"kind": "x", "at": at})
    assert [event.at for event in await streamed(any_store)] == [
        AT, datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC),
    ]  # fmt: skip


async def test_any_kind_is_taken_but_the_stores_own(any_store: AsyncSessionStore):
    """`store.` is where the store records what happens to sessions: nobody else can."""
    kinds = ["tool", "parallel.queue", "store", "Store.x", "storey.x", "é ß 東京", "x" * 5_000]
    for kind in kinds:
        await any_store.events.record({"kind": kind})
    assert await any_store.events.kinds() == sorted(kinds)
    for kind in ("store.", "store.created", "store.mine"):
        with pytest.raises(InvalidRecord, match="recorded by the store itself"):
            await any_store.events.record({"kind": kind})


@pytest.mark.parametrize(
    "wrong",
    [
        None, "tool", 7, ["tool"], {}, {"name": "n"}, {"kind": None}, {"kind": ""}, {"kind": 1}, {"kind": "a\x00"},
        {"kind": "\ud800"}, {"kind": "x", "colour": "red"}, {"kind": "x", 1: 2}, {"kind": "x", "id": 1},
        {"kind": "x", "at": "2026-03-01T09:00:00Z"}, {"kind": "x", "at": datetime(2026, 3, 1)}, {"kind": "x", "at": 1},
        {"kind": "x", "session_id": ""}, {"kind": "x", "session_id": 1}, {"kind": "x", "run_id": ""},
        {"kind": "x", "issue_id": 7}, {"kind": "x", "name": 1}, {"kind": "x", "path": b"p"}, {"kind": "x", "text": ["t"]},
        {"kind": "x", "payload": [1]}, {"kind": "x", "payload": "p"}, {"kind": "x", "payload": 0},
        {"kind": "x", "payload": {"a": float("nan")}}, {"kind": "x", "payload": {"a": (1, 2)}},
        {"kind": "x", "payload": {1: 2}}, {"kind": "x", "payload": {"a": {1, 2}}}, {"kind": "x", "dedupe_key": ""},
        {"kind": "x", "dedupe_key": 3}, Event("tool", payload=[1]),
        ToolEvent(tool_name=3), LoopEvent(loop_name="l", transition="t", text=3), FileEvent(path=None, op=1),
        IssueEvent(issue_id="", transition="t"), ToolEvent(tool_name="t", payload=[1]), Correction(content=b"c"),
    ],
    ids=lambda wrong: repr(wrong)[:60].encode("ascii", "replace").decode(),
)  # fmt: skip
async def test_what_means_nothing_is_refused_before_the_queue(memory: AsyncSessionStore, wrong: Any):
    """InvalidRecord, whatever is wrong; nothing is stored, and nothing was asked of the writer."""
    with pytest.raises(InvalidRecord, match=r"not|must"):
        await memory.events.record(wrong)
    assert await streamed(memory) == []
    assert (await memory.stats()).writes == 0


async def test_an_event_that_is_too_large_is_refused():
    """`Limits.row_bytes` counts all of its texts."""
    async with AsyncSessionStore(":memory:", limits=Limits(row_bytes=1_000)) as store:
        await store.events.record({"kind": "x", "payload": {"a": "b" * 500}, "text": "c" * 200})
        with pytest.raises(InvalidRecord, match="row_bytes"):
            await store.events.record({"kind": "x", "payload": {"a": "b" * 500}, "text": "c" * 500})
        assert len(await streamed(store)) == 1


async def test_what_cannot_be_stored_is_replaced_and_counted(any_store: AsyncSessionStore):
    """NUL and lone surrogates become U+FFFD, in texts and in the payload."""
    await any_store.events.record(
        {"kind": "x", "text": "a\x00b\ud800", "name": "\udfff", "payload": {"p": ["\x00"], "k\ud800": 1}}
    )
    (event,) = await streamed(any_store)
    assert (event.text, event.name, event.payload) == ("a\ufffdb\ufffd", "\ufffd", {"p": ["\ufffd"], "k\ufffd": 1})
    assert (await any_store.stats()).replaced == 5


async def test_redact_sees_every_text_before_it_is_stored():
    """Those of columns, of payloads, and what typed columns take from payloads; ids stay what they are."""
    async with AsyncSessionStore(":memory:", redact=lambda text: text.replace("secret", "***")) as store:
        await store.events.record(
            LoopEvent(loop_name="secret loop", transition="secret t", state="secret s", run_id="secret-run",
                      text="a secret", anchor="secret a", payload={"deep": [{"secret": "secret"}]})
        )  # fmt: skip
        (event,) = await streamed(store)
        assert (event.name, event.action, event.anchor, event.text) == ("*** loop", "*** t", "*** a", "*** s\na ***")
        assert event.payload == {"state": "*** s", "deep": [{"***": "***"}]}
        (row,) = await store.query("SELECT state, run_id FROM loop_events")
        assert (row.state, row.run_id) == ("*** s", "secret-run")
        assert await hits(store, "secret") == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abé\n", max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.dictionaries(st.text("abcü", max_size=4), JSON, min_size=1, max_size=5))
async def test_the_whole_payload_is_kept_exactly(memory: AsyncSessionStore, payload: dict[str, Any]):
    """Whatever JSON it is, also under a typed kind: what comes back is equal, value by value and type by type."""
    for kind in ("any", "tool", "loop"):
        id = await memory.events.record({"kind": kind, "payload": payload})
        (event,) = [event async for event in memory.events.stream(after=id - 1)]
        assert json.dumps(event.payload) == json.dumps(payload)


# -- the typed kinds -------------------------------------------------------------------------------

ABOUT: dict[str, Any] = {"at": AT, "session_id": "s", "run_id": "r", "anchor": "a"}
TYPED_EVENTS: dict[str, tuple[Any, Event, dict[str, Any]]] = {
    "tool": (
        ToolEvent(tool_name="Bash", action="completed", args={"command": "ls"}, result_size=7, bytes_in=1, bytes_out=2,
                  cache_hit=True, path="p", text="t", **ABOUT),
        Event("tool", name="Bash", action="completed", path="p", text="t", **ABOUT,
              payload={"args_hash": args_hash({"command": "ls"}), "result_size": 7, "bytes_in": 1, "bytes_out": 2,
                       "cache_hit": True}),
        {"tool_name": "Bash", "action": "completed", "path": "p", "args_hash": args_hash({"command": "ls"}),
         "result_size": 7, "bytes_in": 1, "bytes_out": 2, "cache_hit": 1},
    ),
    "file": (
        FileEvent(path="src/a.py", op="edit", name="Edit", issue_id="BUG-1", git_sha="abc", **ABOUT),
        Event("file", path="src/a.py", action="edit", name="Edit", issue_id="BUG-1", **ABOUT, payload={"git_sha": "abc"}),
        {"path": "src/a.py", "op": "edit", "tool_name": "Edit", "issue_id": "BUG-1", "git_sha": "abc"},
    ),
    "issue": (
        IssueEvent(issue_id="BUG-1", transition="closed", discovered_by="scan", name="title", path="p", text="t", **ABOUT),
        Event("issue", issue_id="BUG-1", action="closed", name="title", path="p", text="t", **ABOUT,
              payload={"discovered_by": "scan"}),
        {"issue_id": "BUG-1", "transition": "closed", "discovered_by": "scan", "title": "title", "path": "p"},
    ),
    "loop": (
        LoopEvent(loop_name="fix", transition="route", state="verify", retries=3, issue_id="BUG-1", text="t", **ABOUT),
        Event("loop", name="fix", action="route", issue_id="BUG-1", text="verify\nt", **ABOUT,
              payload={"state": "verify", "retries": 3}),
        {"loop_name": "fix", "transition": "route", "state": "verify", "retries": 3, "issue_id": "BUG-1"},
    ),
    "correction": (
        Correction(content="no, the other file", source="chat", **ABOUT),
        Event("correction", text="no, the other file", **ABOUT, payload={"source": "chat"}),
        {"content": "no, the other file", "source": "chat"},
    ),
}  # fmt: skip
VIEWS = {
    "tool": "tool_events",
    "file": "file_events",
    "issue": "issue_events",
    "loop": "loop_events",
    "correction": "user_corrections",
}


@pytest.mark.parametrize("kind", TYPED_EVENTS)
async def test_a_typed_event_is_an_event_with_its_columns_in_a_view(any_store: AsyncSessionStore, kind: str):
    """What has a column goes there, the rest into the payload; the view has all of it, and nothing of other kinds."""
    given, event, columns = TYPED_EVENTS[kind]
    id = await any_store.events.record(given)
    await any_store.events.record({"kind": "other", "payload": columns})
    assert given.event() == event
    (recorded,) = await any_store.events.recent(kind)
    assert recorded == RecordedEvent(id=id, **{name: getattr(event, name) for name in event.__struct_fields__})
    (row,) = await any_store.query(f"SELECT * FROM {VIEWS[kind]}")
    common = {"id": id, "at": int(AT.timestamp() * 1000), "session_id": "s", "run_id": "r"}
    assert dict(zip(row.columns, row, strict=True)) == common | columns


@pytest.mark.parametrize("kind", TYPED_EVENTS)
async def test_a_mapping_of_a_typed_kind_fills_the_same_view(any_store: AsyncSessionStore, kind: str):
    """From its columns and its payload."""
    _, event, columns = TYPED_EVENTS[kind]
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    await any_store.events.record(fields)
    (row,) = await any_store.query(f"SELECT {', '.join(columns)} FROM {VIEWS[kind]}")
    assert tuple(row) == tuple(columns.values())


IN_PAYLOAD = {
    "tool": {"args_hash": str, "result_size": int, "bytes_in": int, "bytes_out": int, "cache_hit": bool},
    "file": {"git_sha": str},
    "issue": {"discovered_by": str},
    "loop": {"state": str, "retries": int},
    "correction": {"source": str},
}
SAMPLES = ["text", 7, True, 1.5, None, ["x"], {"x": 1}, 2**63 - 1, 2**63, -(2**63), ""]


@pytest.mark.parametrize("kind", IN_PAYLOAD)
async def test_a_payload_value_of_another_type_stays_in_the_payload(memory: AsyncSessionStore, kind: str):
    """And is NULL in the view: a flag is no number, a number no flag, and nothing is converted."""
    for value in SAMPLES:
        payload = dict.fromkeys(IN_PAYLOAD[kind], value)
        id = await memory.events.record({"kind": kind, "payload": payload})
        (row,) = await memory.query(f"SELECT {', '.join(payload)} FROM {VIEWS[kind]} WHERE id = :id", id=id)
        fits = [
            type(value) is type_ and not (type_ is int and abs(value) >= 2**63) for type_ in IN_PAYLOAD[kind].values()
        ]
        assert tuple(row) == tuple(value if fit else None for fit in fits)
        assert (await memory.events.recent(kind, limit=1))[0].payload == payload


async def test_the_payload_says_more_than_the_fields_of_a_typed_event(memory: AsyncSessionStore):
    """A name that the payload has already is not overwritten: it is the whole of what was sent."""
    await memory.events.record(
        LoopEvent(loop_name="l", transition="t", state="mine", payload={"state": "theirs", "x": 1})
    )
    (event,) = await memory.events.recent("loop")
    assert (event.payload, event.text) == ({"state": "theirs", "x": 1}, "mine")
    (row,) = await memory.query("SELECT state FROM loop_events")
    assert row.state == "theirs"


async def test_a_field_of_a_typed_event_that_is_of_another_type_is_kept(memory: AsyncSessionStore):
    """A state that is a number is no word and no state of the view, and nothing breaks."""
    await memory.events.record(LoopEvent(loop_name="l", transition="t", state=3, retries=True, text="words"))
    (event,) = await memory.events.recent("loop")
    assert (event.text, event.payload) == ("words", {"state": 3, "retries": True})
    (row,) = await memory.query("SELECT state, retries FROM loop_events")
    assert tuple(row) == (None, None)


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_args_hash_is_the_documented_one():
    """SHA-256 of sorted JSON, 16 digits; what is no JSON by its text; where JSON fails altogether, the `repr`."""
    assert args_hash({"b": 1, "a": [2]}) == args_hash({"a": [2], "b": 1}) == "41ff4104bc489a1b"
    assert args_hash(None) == _digest("null")
    assert args_hash({"at": AT}) == _digest(json.dumps({"at": str(AT)}))
    assert args_hash({1: 2, "a": 3}) == _digest("{1: 2, 'a': 3}")
    recursive: list[Any] = []
    recursive.append(recursive)
    assert args_hash(recursive) == _digest("[[...]]")
    assert args_hash("\ud800") == _digest('"\\ud800"')
    assert args_hash({"a"}) == _digest(json.dumps(str({"a"})))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def test_arguments_that_cannot_be_hashed_are_refused(memory: AsyncSessionStore):
    """Not even a `repr`, or nested deeper than Python can go: InvalidRecord, as for all that cannot be stored."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for args in (deep, Unspeakable()):
        with pytest.raises(InvalidRecord, match="cannot be hashed"):
            await memory.events.record(ToolEvent(tool_name="t", args=args))
    await memory.events.record(ToolEvent(tool_name="t", args=None))
    await memory.events.record(ToolEvent(tool_name="t", args={"a": 1}, args_hash="given"))
    found = await memory.query("SELECT args_hash FROM tool_events ORDER BY id")
    assert [row.args_hash for row in found] == [_digest("null"), "given"]


# -- several ---------------------------------------------------------------------------------------


async def test_several_are_recorded_in_this_order(any_store: AsyncSessionStore):
    """From any iterable, of any sessions and forms; their ids grow."""
    given = [{"kind": "a", "session_id": "x"}, Correction(content="c"), Event("b", session_id="y"), {"kind": "a"}]
    numbers = await any_store.events.record_many(iter(given))
    assert numbers == sorted(set(numbers)) == await ids(any_store)
    assert [event.kind for event in await streamed(any_store)] == ["a", "correction", "b", "a"]
    assert await any_store.events.record_many([]) == []


@pytest.mark.parametrize("at", [0, 3, 7])
async def test_several_are_recorded_all_or_none_and_the_error_names_which(any_store: AsyncSessionStore, at: int):
    """Nothing of the call is stored; nobody else's write is harmed."""
    events: list[Any] = [{"kind": "x"} for _ in range(8)]
    events[at] = {"kind": "store.x"}
    refused, fine = await asyncio.gather(
        any_store.events.record_many(events), any_store.events.record({"kind": "fine"}), return_exceptions=True
    )
    assert isinstance(refused, InvalidRecord)
    assert str(refused).startswith(f"event {at}: kinds that begin")
    assert await ids(any_store) == [fine]


@pytest.mark.parametrize("wrong", [{"kind": "x"}, "xyz", Event("x"), ToolEvent(tool_name="t"), 7, None])
async def test_one_event_is_not_several(memory: AsyncSessionStore, wrong: Any):
    """A mapping or a text can be gone through, but is no list of events."""
    with pytest.raises(InvalidRecord, match="must be several"):
        await memory.events.record_many(wrong)


async def test_a_write_that_fails_in_the_database_fails_alone(any_store: AsyncSessionStore, hold):
    """An event that the database refuses (here by a trigger) takes none of its batch-mates with it."""
    async with failing(any_store, "INSERT ON events", "NEW.kind = 'bad'"):
        async with hold(any_store):
            calls = [
                asyncio.ensure_future(any_store.events.record({"kind": kind, "session_id": f"s{n % 3}"}))
                for n, kind in enumerate(["good", "bad", "good", "bad", "good"])
            ]
            many = asyncio.ensure_future(any_store.events.record_many([{"kind": "good"}, {"kind": "bad"}]))
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*calls, many, return_exceptions=True)
    assert [isinstance(outcome, BaseException) for outcome in outcomes] == [False, True, False, True, False, True]
    assert await ids(any_store) == sorted([outcomes[0], outcomes[2], outcomes[4]])


async def recorded_at_once(store: AsyncSessionStore) -> list[tuple[str | None, int]]:
    """Session and id of events that many tasks recorded at once, one or several in a call, with other writes between
    them; in the order of the calls."""
    await store.sessions.ensure("s1")
    sessions: list[list[str | None]] = []
    calls: list[Any] = []
    for n in range(300):
        if n % 11 == 5:
            sessions.append([f"s{m}" for m in (n % 3, n % 5)])
            calls.append(store.events.record_many([{"kind": "x", "session_id": each} for each in sessions[-1]]))
        else:
            sessions.append([f"s{n % 4}" if n % 3 else None])
            calls.append(_one(store.events.record({"kind": "x", "session_id": sessions[-1][0]})))
        if n % 7 == 3:
            sessions.append([])
            calls.append(_nothing(store.messages.append("s1", role="user", content="between")))
    outcomes = await asyncio.gather(*calls)
    return [
        pair for named, numbers in zip(sessions, outcomes, strict=True) for pair in zip(named, numbers, strict=True)
    ]


async def _one(call: Any) -> list[int]:
    return [await call]


async def _nothing(call: Any) -> list[int]:
    await call
    return []


async def test_the_ids_of_a_session_have_the_order_of_the_calls(any_store: AsyncSessionStore):
    """Also those of a call that concerns several sessions, and those of events without one among each other."""
    recorded = await recorded_at_once(any_store)
    for session in {session for session, _ in recorded}:
        numbers = [id for of, id in recorded if of == session]
        assert numbers == sorted(set(numbers))
    assert await ids(any_store) == sorted([id for _, id in recorded])


@ON_SQLITE
async def test_the_order_of_ids_is_the_order_of_the_calls(any_store: AsyncSessionStore):
    """Whatever the session, where there is one writer."""
    numbers = [id for _, id in await recorded_at_once(any_store)]
    assert numbers == sorted(set(numbers))
    assert await ids(any_store) == numbers


# -- dedupe keys -----------------------------------------------------------------------------------


async def test_a_key_is_recorded_once(any_store: AsyncSessionStore):
    """Within a call, in calls at once and in later ones: the id of the first, which stays as it was."""
    first, again, other = await any_store.events.record_many(
        [{"kind": "x", "dedupe_key": "k"}, {"kind": "y", "dedupe_key": "k"}, {"kind": "z", "dedupe_key": "l"}]
    )
    assert first == again != other
    calls = [any_store.events.record({"kind": "w", "dedupe_key": "k", "session_id": f"s{n}"}) for n in range(5)]
    assert set(await asyncio.gather(*calls)) == {first}
    assert await any_store.events.record_many([{"kind": "v", "dedupe_key": "l"}]) == [other]
    assert [(event.id, event.kind) for event in await streamed(any_store)] == [(first, "x"), (other, "z")]


@settings(max_examples=25, deadline=None)
@given(
    calls=st.lists(st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=4), max_size=8),
    together=st.booleans(),
)
async def test_equal_keys_have_equal_ids(calls: list[list[str | None]], together: bool):
    """And only they: whatever is recorded in which call, at once or one after the other."""
    async with AsyncSessionStore(":memory:") as store:
        given = [[{"kind": "x", "dedupe_key": key} for key in keys] for keys in calls]
        if together:
            outcomes = await asyncio.gather(*[store.events.record_many(each) for each in given])
        else:
            outcomes = [await store.events.record_many(each) for each in given]
        by_key: dict[str | None, set[int]] = {}
        for keys, numbers in zip(calls, outcomes, strict=True):
            for key, id in zip(keys, numbers, strict=True):
                by_key.setdefault(key, set()).add(id)
        assert all(len(numbers) == 1 for key, numbers in by_key.items() if key is not None)
        recorded = [id for numbers in by_key.values() for id in numbers]
        assert sorted(recorded) == await ids(store)


async def test_what_is_there_already_writes_nothing(store: AsyncSessionStore):
    """Recording the same again takes no number of the sequence: an import that is repeated changes nothing."""
    given = [{"kind": "x", "dedupe_key": f"k{n}"} for n in range(10)]
    first = await store.events.record_many(given)
    before = await last_number(store)
    assert await store.events.record_many(given) == first
    assert await last_number(store) == before


async def test_a_key_is_free_when_its_event_goes(store: AsyncSessionStore):
    """Pruned, or of a session that was deleted, also while that waits to be erased: it can be recorded again."""
    await store.sessions.create("s")
    first = await store.events.record({"kind": "x", "session_id": "s", "dedupe_key": "k"})
    await store.sessions.delete("s")
    second = await store.events.record({"kind": "x", "dedupe_key": "k"})
    assert second > first
    assert await ids(store) == [second]
    assert await store.events.prune(datetime.now(UTC) + HOUR, kind="x") >= 1
    third = await store.events.record({"kind": "x", "dedupe_key": "k"})
    await store.flush(index=True)
    assert await ids(store) == [third]


# -- recent and kinds ------------------------------------------------------------------------------


async def test_recent_gives_the_newest_recorded_first(any_store: AsyncSessionStore):
    """By when they were recorded, not by when they happened; 20 unless one says otherwise, None is all."""
    numbers = [await any_store.events.record({"kind": "tool", "at": AT - n * HOUR}) for n in range(25)]
    await any_store.events.record({"kind": "other"})
    assert [event.id for event in await any_store.events.recent("tool")] == numbers[::-1][:20]
    assert [event.id for event in await any_store.events.recent("tool", limit=3)] == numbers[::-1][:3]
    assert [event.id for event in await any_store.events.recent("tool", limit=None)] == numbers[::-1]
    assert await any_store.events.recent("tool", limit=0) == []


@pytest.mark.parametrize("limit", [-1, 1.5, "3", True])
async def test_a_limit_that_means_nothing_is_refused(memory: AsyncSessionStore, limit: Any):
    """Negative is not unlimited."""
    with pytest.raises(InvalidRecord, match="limit"):
        await memory.events.recent("tool", limit=limit)


async def test_an_unknown_kind_is_named_with_those_there_are(any_store: AsyncSessionStore):
    """Typed kinds are known without events; others as soon as there is one."""
    await any_store.events.record({"kind": "deploy"})
    for limit in (20, 0, None):
        with pytest.raises(InvalidQuery, match="'deplo'; there are: correction, deploy, file, issue, loop, tool"):
            await any_store.events.recent("deplo", limit=limit)
    for kind in ("correction", "file", "issue", "loop", "tool"):
        assert await any_store.events.recent(kind) == []
    assert await any_store.events.recent("deploy", limit=0) == []
    for wrong in ("", None, 3):
        with pytest.raises(InvalidRecord, match="kind"):
            await any_store.events.recent(wrong)


async def test_kinds_are_those_there_are_events_of(any_store: AsyncSessionStore):
    """In order; also the store's own."""
    assert await any_store.events.kinds() == []
    for kind in ("tool", "b", "a", "tool"):
        await any_store.events.record({"kind": kind})
    assert await any_store.events.kinds() == ["a", "b", "tool"]
    await any_store.sessions.create("s")
    assert await any_store.events.kinds() == ["a", "b", "store.created", "tool"]


# -- streaming -------------------------------------------------------------------------------------


@pytest.fixture
async def many(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """Events of three kinds, sessions, runs, issues, paths, one an hour."""
    await any_store.events.record_many(
        [
            {
                "kind": f"k{n % 3}", "session_id": f"s{n % 3}", "run_id": f"r{n % 3}", "issue_id": f"i{n % 3}",
                "path": f"p{n % 3}", "at": AT + n * HOUR, "name": str(n),
            }
            for n in range(12)
        ]
    )  # fmt: skip
    await any_store.events.record({"kind": "bare", "name": "12", "at": AT + 12 * HOUR})
    return any_store


async def names(store: AsyncSessionStore, **filters: Any) -> list[int]:
    return [int(event.name or -1) for event in await streamed(store, **filters)]


@pytest.mark.parametrize(
    ("field", "letter"), [("kind", "k"), ("session_id", "s"), ("run_id", "r"), ("issue_id", "i"), ("path", "p")]
)
async def test_a_filter_takes_one_value_or_several(many: AsyncSessionStore, field: str, letter: str):
    """An empty list matches nothing; a value that nothing has neither."""
    assert await names(many, **{field: f"{letter}1"}) == [1, 4, 7, 10]
    assert await names(many, **{field: [f"{letter}1"]}) == [1, 4, 7, 10]
    assert await names(many, **{field: (f"{letter}1", f"{letter}2", "no")}) == [n for n in range(12) if n % 3]
    assert await names(many, **{field: []}) == []
    assert await names(many, **{field: "no"}) == []
    assert await names(many, **{field: None}) == list(range(13))
    with pytest.raises(InvalidRecord, match=field):
        await names(many, **{field: 7})


async def test_since_is_inclusive_and_until_is_not(many: AsyncSessionStore):
    """By the time of the event; a naive one is refused. Filters are joined."""
    assert await names(many, since=AT + 3 * HOUR, until=AT + 6 * HOUR) == [3, 4, 5]
    assert await names(many, since=AT + 3 * HOUR, until=AT + 6 * HOUR, kind="k1", session_id="s1") == [4]
    assert await names(many, kind="k1", session_id="s2") == []
    with pytest.raises(InvalidRecord, match="aware"):
        await names(many, since=datetime(2026, 3, 1))


async def test_a_stream_goes_on_behind_an_event(many: AsyncSessionStore):
    """`after` is an id, also one that is not there or was filtered out."""
    numbers = await ids(many)
    assert await ids(many, after=numbers[3]) == numbers[4:]
    assert await ids(many, after=numbers[3], kind="k0") == numbers[6:12:3]
    assert await ids(many, after=numbers[-1]) == []
    assert await ids(many, after=0) == await ids(many, after=-5) == numbers
    for wrong in ("1", 1.5, True, 2**63):
        with pytest.raises(InvalidRecord, match="after"):
            await ids(many, after=wrong)


@pytest.mark.parametrize("extra", [-1, 0, 1, 300])
async def test_a_stream_goes_over_pages(memory: AsyncSessionStore, extra: int):
    """Every event once, in order, also where a page ends exactly with the last."""
    wanted = await memory.events.record_many([{"kind": "x"} for _ in range(room._PAGE + extra)])
    assert await ids(memory) == wanted


async def test_what_is_recorded_meanwhile_is_streamed_too(memory: AsyncSessionStore):
    """The next page is read when it is asked for."""
    await memory.events.record_many([{"kind": "x"} for _ in range(room._PAGE)])
    seen = 0
    async for _ in memory.events.stream():
        if seen == 0:
            await memory.events.record({"kind": "x"})
        seen += 1
    assert seen == room._PAGE + 1


async def test_an_abandoned_stream_costs_nothing(store: AsyncSessionStore):
    """No reader stays taken: more streams are left in the middle than there are readers, and all goes on."""
    await store.events.record_many([{"kind": "x"} for _ in range(room._PAGE * 2)])
    abandoned = [store.events.stream() for _ in range(20)]
    for stream in abandoned:
        await anext(stream)
    assert (await store.stats()).readers_busy == 0
    await store.events.record({"kind": "x"})
    for stream in abandoned:
        await stream.aclose()


# -- pruning ---------------------------------------------------------------------------------------


async def test_prune_takes_what_happened_longer_ago(any_store: AsyncSessionStore):
    """Than a timedelta, or before a time, which itself stays; of one kind, of several, or of all."""
    now = datetime.now(UTC)
    for hours in (1, 2, 3, 4, 5):
        await any_store.events.record_many(
            [{"kind": kind, "at": now - hours * HOUR, "name": str(hours)} for kind in "ab"]
        )
    progress: list[int] = []
    assert await any_store.events.prune(4.5 * HOUR, progress=progress.append) == 2
    assert progress == [2]
    assert await any_store.events.prune(now - 3 * HOUR, kind="a") == 1
    assert await any_store.events.prune(2.5 * HOUR, kind=["b", "c"]) == 2
    assert await any_store.events.prune(timedelta(0), kind=[]) == 0
    assert [(event.kind, event.name) for event in await streamed(any_store)] == [
        ("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"), ("a", "3"),
    ]  # fmt: skip
    assert await any_store.events.prune(now + HOUR) == 5
    assert await streamed(any_store) == []


@pytest.mark.parametrize("wrong", [datetime(2026, 3, 1), timedelta(seconds=-1), 30, "30d", None])
async def test_prune_refuses_an_age_that_means_nothing(memory: AsyncSessionStore, wrong: Any):
    """Naive, negative, or neither a time nor a span: nothing is erased by accident."""
    await memory.events.record({"kind": "x", "at": AT})
    with pytest.raises(InvalidRecord, match="older_than"):
        await memory.events.prune(wrong)
    assert len(await streamed(memory)) == 1


async def test_prune_goes_in_chunks_and_tells_how_far_it_is(memory: AsyncSessionStore):
    """More than one transaction holds: the sum grows to what is returned."""
    await memory.events.record_many([{"kind": "x", "at": AT} for _ in range(150)])
    progress: list[int] = []
    assert await memory.events.prune(HOUR, progress=progress.append) == 150
    assert progress == [64, 128, 150]


async def test_what_is_pruned_leaves_the_index_to_the_last_word(store: AsyncSessionStore, eventually):
    """It is not found, its words are not in the index's pages, and what stays is found as before."""
    await store.events.record_many([{"kind": "x", "at": AT, "text": f"oldword number{n}"} for n in range(100)])
    await store.events.record({"kind": "x", "text": "newword"})
    await store.flush(index=True)
    assert len(await hits(store, "oldword", limit=None)) == 100
    await store.events.prune(HOUR)
    assert await hits(store, "oldword") == []
    assert len(await hits(store, "newword")) == 1

    async def purged() -> bool:
        (state,) = await store.query("SELECT erased, purged FROM index_state")
        return state.erased == state.purged == 100

    await eventually(purged)
    assert (await store.check()).is_sound


async def test_pruning_that_is_cancelled_leaves_a_sound_store(store: AsyncSessionStore):
    """What is done is done, no event is half erased, and it can be gone on with."""
    await store.events.record_many([{"kind": "x", "at": AT, "text": f"word number{n}"} for n in range(400)])
    await store.flush(index=True)
    task: asyncio.Task[int] = asyncio.create_task(
        store.events.prune(HOUR, progress=lambda n: n >= 128 and task.cancel())
    )
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.flush()
    left = await ids(store)
    assert 0 < len(left) < 400
    assert [hit.id for hit in await hits(store, "word", limit=None)] == left
    assert await store.events.prune(HOUR) == len(left)
    assert await hits(store, "word") == []


async def test_a_search_goes_on_while_events_are_pruned(store: AsyncSessionStore):
    """What goes meanwhile is left out; what stays is all found, once."""
    await store.events.record_many(
        [{"kind": "old" if n % 2 else "new", "at": AT, "text": f"word number{n}"} for n in range(400)]
    )
    await store.flush(index=True)
    stay = set(await ids(store, kind="new"))
    for order in ("oldest", "relevance"):
        found: list[int] = []
        pruning = asyncio.create_task(store.events.prune(HOUR, kind="old"))
        async for hit in store.search("word", order=order, limit=None):
            found.append(hit.id)
            await asyncio.sleep(0)
        await pruning
        assert len(found) == len(set(found))
        assert stay <= set(found)


async def test_prune_takes_what_the_store_recorded_itself(memory: AsyncSessionStore):
    """But only if no kind was named; sessions stay as they are."""
    await memory.sessions.create("s", created_at=AT)
    await memory.sessions.create("t")
    assert await memory.events.prune(HOUR, kind="tool") == 0
    assert await memory.events.prune(HOUR, kind="store.created") == 1
    assert [event.session_id async for event in memory.events.stream()] == ["t"]
    assert (await memory.check()).is_sound


# -- searching -------------------------------------------------------------------------------------


async def test_events_and_messages_are_found_together(any_store: AsyncSessionStore):
    """One order for both; `kinds=` takes one of them. What happens to sessions has no words."""
    await any_store.sessions.create("s", source="chat", user_id="ann", model="m", title="deploy")
    await any_store.messages.append("s", role="user", content="please deploy")
    event = await any_store.events.record(
        {"kind": "tool", "session_id": "s", "name": "runner", "text": "deploy done", "anchor": "log:7", "at": AT}
    )
    found = await hits(any_store, "deploy")
    assert [(hit.kind, hit.snippet) for hit in found] == [
        ("message", "please >>>deploy<<<"), ("event", "runner >>>deploy<<< done"),
    ]  # fmt: skip
    assert [hit.kind for hit in await hits(any_store, "deploy", kinds="event")] == ["event"]
    assert [hit.kind for hit in await hits(any_store, "deploy", kinds=["message"])] == ["message"]
    hit = found[1]
    assert (hit.id, hit.session_id, hit.ref, hit.anchor, hit.at) == (event, "s", "runner", "log:7", AT)
    assert (hit.source, hit.model, hit.role, hit.seq) == ("chat", "m", None, None)


@pytest.mark.parametrize("field", ["name", "action", "issue_id", "path", "text"])
async def test_an_event_is_found_by_what_it_is_about(any_store: AsyncSessionStore, field: str):
    """By name, action, issue, path or text, also the newest; not by kind, payload, anchor or ids."""
    id = await any_store.events.record(
        {
            "kind": "hidden",
            "session_id": "hidden",
            "anchor": "hidden",
            "payload": {"a": "hidden"},
            field: "src/BUG-490.py",
        }
    )
    assert [hit.id for hit in await hits(any_store, "BUG-490")] == [id]
    assert await hits(any_store, "hidden") == []


async def test_events_are_found_by_session_source_and_time(any_store: AsyncSessionStore):
    """Of sessions the store knows, and of those it does not; filters on roles are for messages alone."""
    await any_store.sessions.create("s", source="chat")
    first, second, third = await any_store.events.record_many(
        [
            {"kind": "x", "session_id": "s", "text": "word", "at": AT},
            {"kind": "x", "session_id": "unknown", "text": "word", "at": AT + HOUR},
            {"kind": "x", "text": "word", "at": AT + 2 * HOUR},
        ]
    )
    for order in ("oldest", "relevance"):
        assert [hit.id for hit in await hits(any_store, "word", session="s", order=order)] == [first]
        assert [hit.id for hit in await hits(any_store, "word", session="unknown", order=order)] == [second]
        assert [hit.id for hit in await hits(any_store, "word", source="chat", order=order)] == [first]
        assert {hit.id for hit in await hits(any_store, "word", exclude_source="chat", order=order)} == {second, third}
        assert [hit.id for hit in await hits(any_store, "word", since=AT + 2 * HOUR, order=order)] == [third]
        assert await hits(any_store, "word", role="user", order=order) == []


async def test_events_are_found_by_the_user_of_their_session(any_store: AsyncSessionStore):
    """Whenever it was known: before them, filled in after them, or with a session made after them."""
    record = any_store.events.record
    await any_store.sessions.create("known", user_id="ann")
    await any_store.sessions.create("late")
    wanted = [await record({"kind": "x", "session_id": id, "text": "word"}) for id in ("known", "late", "after")]
    await record({"kind": "x", "session_id": "bobs", "text": "word"})
    await record({"kind": "x", "text": "word"})
    await any_store.flush(index=True)
    await any_store.sessions.ensure("late", user_id="ann")
    await any_store.sessions.create("after", user_id="ann")
    await any_store.sessions.create("bobs", user_id="bob")
    wanted += [await record({"kind": "x", "session_id": id, "text": "word"}) for id in ("known", "late", "after")]
    for order in ("oldest", "relevance"):
        assert {hit.id for hit in await hits(any_store, "word", user_id="ann", order=order)} == set(wanted)
        assert {hit.session_id for hit in await hits(any_store, "word", user_id=["bob"], order=order)} == {"bobs"}
    assert {hit.id for hit in await hits(any_store, "word", user_id="ann", session="late")} == {wanted[1], wanted[4]}
    assert await hits(any_store, "word", user_id="bob", session="late") == []
    ann = any_store.scoped(user_id="ann")
    assert set(await ids(ann)) == set(wanted)


async def test_events_of_a_deleted_session_are_gone_at_once(any_store: AsyncSessionStore):
    """From stream, recent, search and kinds, before anything is erased; those of others stay. A new session of that
    id begins without them."""
    await any_store.sessions.create("s", user_id="ann")
    for text in ("before", "between"):
        await any_store.events.record({"kind": "mine", "session_id": "s", "text": f"word {text}"})
    other = await any_store.events.record({"kind": "other", "session_id": "t", "text": "word"})
    await any_store.flush(index=True)
    await any_store.sessions.delete("s")
    assert await ids(any_store) == [other]
    assert [hit.id for hit in await hits(any_store, "word")] == [other]
    assert await hits(any_store, "word", session="s") == await hits(any_store, "word", user_id="ann") == []
    assert await any_store.events.kinds() == ["other", "store.deleted"]
    with pytest.raises(InvalidQuery, match="mine"):
        await any_store.events.recent("mine")
    await any_store.sessions.create("s", user_id="ann")
    new = await any_store.events.record({"kind": "mine", "session_id": "s", "text": "word"})
    await any_store.flush(index=True)
    assert [hit.id for hit in await hits(any_store, "word", session="s")] == [new]
    assert await ids(any_store, session_id="s") == [new]


# -- of one user -----------------------------------------------------------------------------------


@pytest.fixture
async def house(memory: AsyncSessionStore) -> AsyncSessionStore:
    """Ann's and Bob's sessions and one of nobody's, each with an event of a kind and name of its own."""
    for session_id, user in (("anns", "ann"), ("bobs", "bob"), ("nobodys", None)):
        await memory.sessions.create(
            session_id, user_id=user, source=f"{session_id} source", model=f"{session_id} model"
        )
        await memory.events.record(
            {
                "kind": f"of {session_id}",
                "session_id": session_id,
                "run_id": "r",
                "name": session_id,
                "text": "word",
                "at": AT,
            }
        )
    await memory.events.record({"kind": "of no session", "run_id": "r", "name": "nobodys", "text": "word", "at": AT})
    return memory


async def seen(scope: ScopedStore) -> str:
    """All that a user can read of events, by every method."""
    told: list[Any] = [await scope.events.kinds()]
    for filters in (
        {},
        {"run_id": "r"},
        {"session_id": ["anns", "bobs", "nobodys"]},
        {"kind": ["of bobs", "of nobodys"]},
    ):
        told += [event async for event in scope.events.stream(**filters)]
    for kind in ("tool", "of bobs", "store.created"):
        try:
            told += await scope.events.recent(kind, limit=None)
        except InvalidQuery as error:
            told.append(str(error).replace(repr(kind), "?"))
    async for hit in scope.search("word", limit=None):
        told.append((hit.id, hit.session_id, hit.snippet, hit.ref, hit.source, hit.model, hit.session_started))
    return repr(told)


async def test_nothing_of_others_is_seen_in_a_scope(house: AsyncSessionStore):
    """In no method, by no filter, in no error; one's own is, also what the store recorded of one's sessions."""
    told = await seen(house.scoped(user_id="ann"))
    assert "bobs" not in told
    assert "nobodys" not in told
    assert "'of anns', 'store.created'" in told
    assert [event.kind async for event in house.scoped(user_id="ann").events.stream()] == ["store.created", "of anns"]


async def test_what_is_recorded_in_a_scope_is_its_users(house: AsyncSessionStore):
    """Whatever session it names: another's, nobody's, none, or one that is made later by another. He reads and finds
    it; nobody else does; and it tells nothing of those sessions."""
    ann, bob = house.scoped(user_id="ann"), house.scoped(user_id="bob")
    sessions = ["bobs", "nobodys", "later", None]
    wanted = [await ann.events.record({"kind": "note", "session_id": id, "text": "noted"}) for id in sessions]
    await bob.sessions.create("later")
    assert await ids(ann, kind="note") == wanted
    assert [event.id for event in await ann.events.recent("note")] == wanted[::-1]
    for options in ({}, {"order": "relevance"}, {"session": ["bobs", "nobodys", "later"]}):
        found = await hits(ann, "noted", limit=None, **options)
        assert {hit.id for hit in found} == set(wanted[:3] if "session" in options else wanted)
        assert {(hit.source, hit.model, hit.session_started) for hit in found} == {(None, None, None)}
    assert await hits(ann, "noted", source="bobs source") == []
    for other in (bob, house.scoped(user_id="carl")):
        assert await streamed(other, kind="note") == await hits(other, "noted") == []
        assert "note" not in await other.events.kinds()
    assert await ids(house, kind="note") == wanted


async def test_a_key_of_anothers_event_is_free_in_ones_scope(house: AsyncSessionStore):
    """Each records his own under it, once, and it reads as it was given; nobody can tell that another has it."""
    ann, bob = house.scoped(user_id="ann"), house.scoped(user_id="bob")
    first = await ann.events.record({"kind": "x", "dedupe_key": "call_1", "name": "anns"})
    second = await bob.events.record({"kind": "x", "dedupe_key": "call_1", "name": "bobs"})
    assert first != second
    both = [scope.events.record({"kind": "x", "dedupe_key": "call_1"}) for scope in (ann, bob, ann, bob)]
    assert await asyncio.gather(*both) == [first, second, first, second]
    for scope, id in ((ann, first), (bob, second)):
        assert [(event.id, event.dedupe_key) for event in await streamed(scope, kind="x")] == [(id, "call_1")]
    assert await house.events.record({"kind": "x", "dedupe_key": "call_1"}) not in (first, second)
    assert [event.dedupe_key for event in await streamed(house, kind="x")] == ["call_1", "call_1", "call_1"]
    of_session = await house.events.record({"kind": "y", "session_id": "anns", "dedupe_key": "k"})
    assert await ann.events.record({"kind": "y", "dedupe_key": "k"}) != of_session


async def test_who_deletes_a_session_deletes_no_events_of_others(house: AsyncSessionStore, eventually):
    """What Ann noted of Bob's session stays hers when he deletes it, now and when his are erased."""
    ann, bob = house.scoped(user_id="ann"), house.scoped(user_id="bob")
    note = await ann.events.record({"kind": "note", "session_id": "bobs", "text": "noted"})
    before = await seen(ann)
    await bob.sessions.delete("bobs")
    await house.flush(index=True)

    async def erased() -> bool:
        return not await house.query("SELECT 1 AS n FROM sessions WHERE gone_id IS NOT NULL")

    await eventually(erased)
    assert await seen(ann) == before
    assert await ids(ann, kind="note") == [note]
    assert await streamed(bob) == []
    assert [event async for event in bob.events.stream()] == []


async def test_a_session_that_was_somebody_elses_left_no_trace(house: AsyncSessionStore):
    """Ann may take an id that was deleted: that it was there before is not told her."""
    ann = house.scoped(user_id="ann")
    for session_id in ("bobs", "nobodys"):
        await house.sessions.delete(session_id)
        await ann.sessions.create(session_id)
        assert [event.kind async for event in ann.events.stream(session_id=session_id)] == ["store.created"]


async def test_prune_in_a_scope_takes_ones_own_only(house: AsyncSessionStore):
    """And says how many of one's own."""
    ann = house.scoped(user_id="ann")
    await ann.events.record({"kind": "note", "session_id": "bobs", "at": AT})
    assert await ann.events.prune(HOUR) == 2
    assert [event.name for event in await streamed(house)] == ["bobs", "nobodys", "nobodys"]


async def test_another_users_session_cannot_be_reached_through_events(house: AsyncSessionStore):
    """Naming it in an event gives no access to it."""
    ann = house.scoped(user_id="ann")
    await ann.events.record({"kind": "x", "session_id": "bobs"})
    assert await ann.sessions.get("bobs") is None
    with pytest.raises(SessionNotFound):
        await ann.messages.append("bobs", role="user")


EVENT_STEPS = (
    "create",
    "delete",
    "record",
    "keyed",
    "many",
    "stream",
    "of a session",
    "recent",
    "kinds",
    "search",
    "prune",
)


def program(user: str, seed: int) -> list[tuple[str, str, int]]:
    """What a user does with events and sessions: his own are his, in events he names the other's as well."""
    dice = random.Random(f"{user} {seed}")
    named = ["ann-0", "ann-1", "bob-0", "bob-1", "unknown"]
    own = [f"{user}-0", f"{user}-1"]
    steps = [dice.choice(EVENT_STEPS) for _ in range(60)]
    return [(step, dice.choice(own if step in ("create", "delete") else named), dice.randrange(3)) for step in steps]


async def done(scope: ScopedStore, step: tuple[str, str, int], names: dict[int, str]) -> Any:
    """What a step came to; numbers of the whole store as the order in which the user met them."""
    what, session_id, n = step
    events = scope.events
    event = {"kind": f"k{n}", "session_id": session_id, "text": f"word w{n}", "at": AT + n * HOUR}

    def told(each: RecordedEvent | Hit) -> Any:
        number = names.setdefault(each.id, f"event {len(names)}")
        if isinstance(each, Hit):
            return number, each.session_id, each.snippet, each.source, each.model, each.session_started is None
        return number, each.kind, each.session_id, each.name, each.text, each.payload, each.dedupe_key

    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: scope.sessions.create(session_id, source=f"source of {session_id}"),
        "delete": lambda: scope.sessions.delete(session_id),
        "record": lambda: events.record(event),
        "keyed": lambda: events.record({**event, "dedupe_key": f"key {n}"}),
        "many": lambda: events.record_many([event, {**event, "dedupe_key": "key of many"}]),
        "recent": lambda: events.recent(f"k{n}", limit=n),
        "kinds": lambda: events.kinds(),
        "prune": lambda: events.prune(AT + HOUR, kind="k0"),
    }
    try:
        if what in ("stream", "of a session"):
            chosen = {"session_id": session_id} if what == "of a session" else {}
            return [told(each) async for each in events.stream(**chosen)]
        if what == "search":
            options = {"session": session_id} if n else {}
            return [told(each) async for each in scope.search("word", order="oldest", limit=None, **options)]
        result = await calls[what]()
    except StoreError as error:
        return f"{type(error).__name__}: {error}"
    if what in ("record", "keyed", "many"):
        return [names.setdefault(id, f"event {len(names)}") for id in (result if what == "many" else [result])]
    if what == "recent":
        return [told(each) for each in result]
    return result.id if what == "create" else result


@pytest.mark.parametrize("seed", range(6))
async def test_nobody_can_tell_from_events_whether_there_are_others(seed: int):
    """Two users record, delete, read and prune as they like, also of each other's sessions and with the same keys: each
    gets what he would get if he were alone in the store."""
    users = ("ann", "bob")
    alone: dict[str, list[Any]] = {}
    for user in users:
        async with AsyncSessionStore(":memory:") as store:
            scope, names = store.scoped(user_id=user), dict[int, str]()
            alone[user] = [await done(scope, step, names) for step in program(user, seed)]
    dice = random.Random(seed)
    async with AsyncSessionStore(":memory:") as store:
        met: dict[str, dict[int, str]] = {user: {} for user in users}
        left = {user: list(enumerate(program(user, seed))) for user in users}
        while any(left.values()):
            user = dice.choice([user for user in users if left[user]])
            at, step = left[user].pop(0)
            assert await done(store.scoped(user_id=user), step, met[user]) == alone[user][at], (user, at, step)


# -- the rest --------------------------------------------------------------------------------------


async def test_a_store_that_is_read_only_records_nothing(store: AsyncSessionStore, path: Path):
    """Every write is ReadOnly; every read works."""
    id = await store.events.record({"kind": "x", "text": "word", "at": AT})
    await store.flush(index=True)
    async with AsyncSessionStore(path, readonly=True) as reading:
        for write in (
            lambda: reading.events.record({"kind": "x"}),
            lambda: reading.events.record_many([{"kind": "x"}]),
            lambda: reading.events.prune(HOUR),
        ):
            with pytest.raises(ReadOnly):
                await write()
        assert await ids(reading) == [id]
        assert [event.id for event in await reading.events.recent("x")] == [id]
        assert await reading.events.kinds() == ["x"]
        assert [hit.id for hit in await hits(reading, "word")] == [id]


@ON_FILES
@pytest.mark.parametrize(
    ("field", "index"),
    [
        ("kind", "events_kind (kind=? AND id>?)"),
        ("session_id", "events_session (session_id=? AND id>?)"),
        ("run_id", "events_run (run_id=? AND id>?)"),
        ("issue_id", "events_issue (issue_id=? AND id>?)"),
        ("path", "events_path (path=? AND id>?)"),
    ],
)
@pytest.mark.parametrize("value", ["x", ["x"]], ids=["one", "a list of one"])
async def test_a_page_of_a_stream_is_read_along_the_index_of_its_filter(
    store: AsyncSessionStore, path: Path, field: str, index: str, value: Any
):
    """From the event where it goes on; nothing is sorted, no other event is touched."""
    await store.events.record({"kind": "x"})
    steps = plan(path, reading.read_page(reading.as_filter(**{field: value}), 7, 256))
    assert f"SEARCH e USING INDEX {index}" in steps
    assert "TEMP B-TREE" not in steps


@ON_FILES
async def test_recent_kinds_and_the_whole_stream_are_read_along_an_index(store: AsyncSessionStore, path: Path):
    """Recent ends with the last it shows, kinds jump from kind to kind, the stream goes by the primary key."""
    await store.events.record({"kind": "x"})
    recent = plan(path, reading.read_recent("x", Filter(), 20))
    assert "SEARCH e USING INDEX events_kind (kind=?)" in recent
    kinds = plan(path, reading.read_kinds(Filter()))
    assert "COVERING INDEX events_kind (kind>?)" in kinds
    assert "SCAN events" not in kinds
    assert "SCAN e\n" not in kinds + "\n"
    everything = plan(path, reading.read_page(Filter(), 7, 256))
    assert "SEARCH e USING INTEGER PRIMARY KEY (rowid>?)" in everything
    aged = plan(path, reading.read_aged(as_aged(HOUR, "x"), 0, 64))
    assert "SEARCH e USING INDEX events_kind (kind=? AND id>?)" in aged
    for steps in (recent, everything, aged):
        assert "TEMP B-TREE" not in steps


@ON_FILES
async def test_a_damaged_index_does_not_stop_pruning(store: AsyncSessionStore, path: Path):
    """The events go; the index is made anew, without them, and what stays is found."""
    await store.events.record_many([{"kind": "old", "at": AT, "text": f"word number{n}"} for n in range(100)])
    stays = await store.events.record({"kind": "new", "text": "word"})
    await store.flush(index=True)
    damage(path, DAMAGE["data dropped"])
    assert await store.events.prune(HOUR, kind="old") == 100
    await store.flush(index=True)
    assert await ids(store) == [stays]
    assert [hit.id for hit in await hits(store, "word", limit=None)] == [stays]
    assert await hits(store, "number7") == []


async def test_events_of_a_newer_index_are_not_pruned_from_under_it(store: AsyncSessionStore):
    """Who does not know its words leaves them to who does: SchemaTooNew, and nothing is gone."""
    old = await store.events.record({"kind": "x", "at": AT, "text": "word"})
    await store.flush(index=True)
    await store.write(_made_by_a_newer_one)
    with pytest.raises(SchemaTooNew):
        await store.events.prune(HOUR)
    assert await ids(store) == [old]


def _made_by_a_newer_one():
    yield execute("UPDATE index_state SET version = version + 1000")
