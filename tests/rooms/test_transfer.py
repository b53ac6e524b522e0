"""Moving sessions: export and import, exact in every column, whole or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import AsyncSessionStore, InvalidRecord, Limits, Session

AT = datetime(2020, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
Record = dict[str, Any]


def exact(record: Any) -> str:
    """A record as text, so that 1, 1.0 and True are not the same, and the order of keys counts."""
    return json.dumps(record)


async def everything(store: AsyncSessionStore, **filters: Any) -> list[Record]:
    return [record async for record in store.sessions.export_all(**filters)]


async def family(store: AsyncSessionStore) -> None:
    """root, with the line spawned → continued below it, and a fork."""
    await store.sessions.create("root", source="cli", title="Root", created_at=AT)
    await store.messages.append("root", role="user", content="hello")
    await store.sessions.create("spawned", source="cli", parent_id="root", created_at=AT)
    await store.sessions.create("continued", source="web", parent_id="spawned", relation="continuation")
    await store.sessions.fork("root", session_id="forked", source="web", user_id="u")


# -- what a record is ------------------------------------------------------------------------------


async def test_there_is_no_record_of_an_unknown_session(any_store: AsyncSessionStore):
    """None; so for one that was deleted."""
    assert await any_store.sessions.export("nobody") is None
    await any_store.sessions.create("s")
    await any_store.sessions.delete("s")
    assert await any_store.sessions.export("s") is None


async def test_a_record_is_flat_and_json_can_hold_it(any_store: AsyncSessionStore):
    """Every column of the session by its name, the title too; messages in all states, compactions, usage."""
    await any_store.sessions.create("s", title="Über 🏔", key="k", metadata={"a": [1, None]}, created_at=AT)
    for n in range(1, 5):
        usage = {"prompt_tokens": n, "actual_cost_usd": 0.1}
        await any_store.messages.append("s", role="user", content=f"m{n}", usage=usage, created_at=AT)
    await any_store.messages.compact("s", to_seq=2, note="n")
    await any_store.messages.rewind("s", 3)
    record = await any_store.sessions.export("s")
    assert {*Session.__struct_fields__} <= {*record}
    assert (record["recollect"], record["title"], record["key"], record["metadata"]) == (
        1,
        "Über 🏔",
        "k",
        {"a": [1, None]},
    )
    assert (record["created_at"], record["status"], record["input_tokens"]) == (
        "2020-01-02T03:04:05.678000Z",
        "active",
        10,
    )
    assert [(each["seq"], each["content"], each["state"]) for each in record["messages"]] == [
        (1, "m1", "compacted"), (2, "m2", "compacted"), (3, "m3", "active"), (4, "m4", "rewound"), (5, "n", "active"),
    ]  # fmt: skip
    assert [(each["seq"], each["note_seq"], each["count"]) for each in record["compactions"]] == [(1, 5, 2)]
    assert [(each["prompt_tokens"], each["actual_cost_usd"]) for each in record["usage"]] == [
        (n, 0.1) for n in range(1, 5)
    ]
    assert json.loads(json.dumps(record)) == record
    assert "id" not in record["messages"][0], "the ids of messages number one store"


async def test_a_session_is_alive_after_its_import(any_store: AsyncSessionStore):
    """It goes on where it was: seqs, sends, external ids, notes, what was taken back, words, title and key."""
    async with AsyncSessionStore(":memory:") as other:
        await other.sessions.create("s", title="T", key="k", user_id="u")
        for n in range(1, 8):
            await other.messages.append("s", role="user", content=f"quokka{n}", external_id=f"e{n}")
        await other.messages.compact("s", from_seq=2, to_seq=4, note="note")
        await other.messages.rewind("s", 6)
        await any_store.sessions.import_([await other.sessions.export("s")])
    assert (await any_store.messages.append("s", role="user", content="on")).seq == 9
    assert (await any_store.messages.append("s", role="user", external_id="e3")).seq == 3
    assert (await any_store.sessions.state("s")).send_index == 8
    assert await any_store.messages.restore("s") == 1
    await any_store.messages.uncompact("s", 1)
    said = [message.content for message in await any_store.messages.list("s")]
    assert said == [*(f"quokka{n}" for n in range(1, 8)), "on"]
    assert [hit.seq async for hit in any_store.search("quokka3", user_id="u")] == [3]
    assert (await any_store.sessions.by_title("T")).id == "s"
    assert (await any_store.sessions.for_key("k")).id == "s"
    assert (await any_store.messages.compact("s", seqs=[9], note="n")).seq == 2
    await any_store.messages.rewind("s", 5)
    assert [message.content for message in await any_store.messages.tail("s", 1)] == ["quokka5"]


async def test_an_id_is_all_that_a_record_needs(any_store: AsyncSessionStore):
    """What is left out is as in a new session; messages are numbered as they come."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ["x"], "tool_calls": [{"id": "c"}]}]
    imported = await any_store.sessions.import_([{"id": "bare"}, {"id": "s", "messages": messages}])
    assert imported.inserted == {"sessions": 2, "messages": 2}
    bare, session = await any_store.sessions.get("bare"), await any_store.sessions.get("s")
    assert (bare.source, bare.status, bare.kind, bare.lifecycle) == ("unknown", "active", "root", "ephemeral")
    assert (session.message_count, session.tool_call_count, session.preview) == (2, 1, "hi")
    assert [message.seq for message in await any_store.messages.list("s")] == [1, 2]
    assert (await any_store.messages.append("s", role="user")).seq == 3


async def test_counters_are_made_anew(any_store: AsyncSessionStore):
    """From the messages and the ledger, whatever the record says."""
    await any_store.sessions.create("s")
    await any_store.messages.append("s", role="user", content="hi", usage={"prompt_tokens": 3, "actual_cost_usd": 0.5})
    true = await any_store.sessions.export("s")
    wrong = {
        **true, "id": "t", "message_count": 99, "tool_call_count": -5, "preview": "lies", "input_tokens": 1,
        "output_tokens": 2, "actual_cost_usd": 7.5, "estimated_cost_usd": 1.0, "next_seq": 1,
    }  # fmt: skip
    assert not (await any_store.sessions.import_([wrong])).rejected
    assert await any_store.sessions.export("t") == {**true, "id": "t"}


async def test_what_arrives_is_redacted(path):
    """As all that is stored."""

    def redact(text: str) -> str:
        return text.replace("secret", "[…]")

    async with AsyncSessionStore(path, redact=redact) as store:
        await store.sessions.import_([{"id": "s", "messages": [{"role": "user", "content": "a secret"}]}])
        assert (await store.messages.get("s", 1)).content == "a […]"
        assert [hit async for hit in store.search("secret")] == []


# -- the round trip --------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12) | st.sampled_from(
    ["", " ", "🏔👩\u200d🚀", "a\nb\r\n\t\"'\\", "İß\u0301", "京都", "\ufeff\u202e", "NULL", "x" * 5_000]
)
NAME = TEXT.filter(bool)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
TIME = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))
NUMBER = st.integers(0, 2**40)
COST = st.none() | st.integers(-(10**12), 10**12).map(lambda millionths: millionths / 1_000_000)
USAGE = {
    "prompt_tokens": NUMBER, "completion_tokens": NUMBER, "total_tokens": st.none() | NUMBER, "cache_read_tokens": NUMBER,
    "cache_write_tokens": NUMBER, "reasoning_tokens": NUMBER, "estimated_cost_usd": COST, "actual_cost_usd": COST,
    "model": TEXT, "source": TEXT, "cost_status": TEXT, "cost_source": TEXT, "pricing_version": TEXT,
    "billing_provider": TEXT, "billing_base_url": TEXT, "billing_mode": TEXT, "created_at": TIME,
}  # fmt: skip
SIGNED = {
    name: each if name == "total_tokens" else NUMBER.map(lambda n: -n)
    for name, each in USAGE.items()
    if "tokens" in name
}
MESSAGE = st.fixed_dictionaries(
    {"role": NAME, "content": TEXT | st.none() | st.lists(JSON, max_size=3) | OBJECT},
    optional={
        "name": TEXT, "tool_calls": JSON, "tool_call_id": TEXT, "reasoning": TEXT, "reasoning_details": JSON,
        "provider_items": JSON, "token_count": NUMBER, "finish_reason": TEXT, "round_index": st.integers(-5, 2**40),
        "send_index": st.integers(0, 50), "external_id": NAME, "metadata": OBJECT, "created_at": TIME, "pending": JSON,
        "usage": st.fixed_dictionaries({}, optional=USAGE),
    },
)  # fmt: skip
SESSION = st.fixed_dictionaries(
    {},
    optional={
        "source": NAME, "user_id": TEXT, "key": NAME, "model": TEXT, "config": OBJECT, "system_prompt": TEXT,
        "title": TEXT.filter(lambda text: len(text) <= 100), "metadata": OBJECT, "created_at": TIME,
        "spawn_tool_call_id": TEXT, "lifecycle": st.sampled_from(["ephemeral", "linked", "detached"]),
        "relation": st.sampled_from(["spawn", "continuation", "fork", "followup"]),
    },
)  # fmt: skip
SEQ = st.integers(0, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append_many"), st.lists(MESSAGE, min_size=1, max_size=4)),
        st.tuples(st.just("append_many"), st.lists(MESSAGE, min_size=1, max_size=4)),
        st.tuples(st.just("replace"), st.lists(MESSAGE, max_size=2)),
        st.tuples(st.just("compact"), SEQ, SEQ, OBJECT, st.none() | NUMBER), st.tuples(st.just("uncompact"), st.integers(1, 3)),
        st.tuples(st.just("rewind"), SEQ), st.tuples(st.just("restore")), st.tuples(st.just("clear")),
        st.tuples(st.just("set_round"), st.integers(-3, 2**40)), st.tuples(st.just("set_pending"), JSON),
        st.tuples(st.just("round"), st.integers(0, 2), st.fixed_dictionaries({}, optional=USAGE)),
        st.tuples(st.just("add"), st.fixed_dictionaries({}, optional=SIGNED)),
        st.tuples(st.just("set"), st.fixed_dictionaries({}, optional=USAGE)),
        st.tuples(st.just("end"), NAME), st.tuples(st.just("archive")), st.tuples(st.just("unarchive")),
    ),
    max_size=12,
)  # fmt: skip


@given(session=SESSION, steps=STEPS)
@settings(derandomize=True, deadline=None, max_examples=40)
def test_every_column_comes_back_exactly(session: Record, steps: list[tuple[Any, ...]]):
    """Whatever was given and done: the record of the imported session is the same text, through JSON."""
    asyncio.run(_round_trip(session, steps))


async def _round_trip(session: Record, steps: list[tuple[Any, ...]]) -> None:
    async with AsyncSessionStore(":memory:") as store, AsyncSessionStore(":memory:") as other:
        await store.sessions.create("parent", key="of the parent")
        above = {"parent_id": "parent"} if "relation" in session else {}
        await store.sessions.create("s", **above, **session)
        for step in steps:
            with suppress(InvalidRecord):  # of a place that is not there
                await _step(store, *step)
        records = await everything(store)
        imported = await other.sessions.import_(json.loads(json.dumps(records)))
        assert (imported.rejections, imported.existing) == ((), ())
        assert [exact(record) for record in await everything(other)] == [exact(record) for record in records]
        assert await other.usage.totals() == await store.usage.totals()
        assert (await other.sessions.get("s")) == (await store.sessions.get("s"))


async def _step(store: AsyncSessionStore, how: str, *args: Any) -> None:
    if how == "compact":
        first, last, meta, tokens = args
        await store.messages.compact(
            "s",
            from_seq=first,
            to_seq=last,
            note=f"{first} to {last}",
            note_meta=meta,
            before_tokens=tokens,
            round_index=tokens,
        )
    elif how == "round":
        await store.usage.record_round("s", round_index=args[0], **args[1])
    elif how in ("add", "set"):
        await getattr(store.usage, how)("s", **args[0])
    elif how in ("end", "archive", "unarchive", "set_round", "set_pending"):
        await getattr(store.sessions, how)("s", *args)
    else:
        await getattr(store.messages, how)("s", *args)


async def test_a_big_session_goes_through_whole(path, tmp_path):
    """4,000 messages with compactions, out and in again."""
    async with AsyncSessionStore(path) as store, AsyncSessionStore(tmp_path / "other.db") as other:
        await store.sessions.create("s")
        for at in range(0, 4_000, 400):
            batch = [
                {"role": "user", "content": f"message number {n}", "external_id": str(n)} for n in range(at, at + 400)
            ]
            await store.messages.append_many("s", batch)
            await store.messages.compact("s", from_seq=at + at // 400 + 1, note=f"note {at}")
        record = await store.sessions.export("s")
        assert (len(record["messages"]), record["message_count"], len(record["compactions"])) == (4_010, 10, 10)
        imported = await other.sessions.import_([record])
        assert imported.inserted == {"sessions": 1, "messages": 4_010, "compactions": 10}
        assert exact(await other.sessions.export("s")) == exact(record)
        await other.flush(index=True)
        assert [hit.seq async for hit in other.search('"number 3999"')] == [4_009]


# -- export_all ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pages")
async def test_all_are_exported_in_the_order_of_creation(any_store: AsyncSessionStore):
    """By created_at, more than one page of them, those of one time too; a clear does not move a session."""
    names = [f"s{n}" for n in range(23)]
    for n, name in reversed([*enumerate(names)]):
        await any_store.sessions.create(name, created_at=AT + timedelta(milliseconds=n // 3))
    for name in names[::3]:
        await any_store.messages.clear(name)
    exported = await everything(any_store)
    assert sorted(record["id"] for record in exported) == sorted(names)
    assert [record["created_at"] for record in exported] == sorted(record["created_at"] for record in exported)
    assert exported[0] == await any_store.sessions.export(exported[0]["id"])


@pytest.mark.usefixtures("small_pages")
async def test_no_session_is_exported_twice(any_store: AsyncSessionStore):
    """Whatever happens to it in between, also where many are of one time."""
    for n in range(25):
        await any_store.sessions.create(f"s{n:03}", created_at=AT)
    names: list[str] = []
    async for record in any_store.sessions.export_all():
        names.append(record["id"])
        if len(names) in (1, 11, 21):
            for n in range(0, 25, 7):
                await any_store.messages.clear(f"s{n:03}")
    assert sorted(names) == [f"s{n:03}" for n in range(25)]


FILTERS = [
    ({"source": "cli"}, {"root", "spawned"}), ({"source": ["web", "x"]}, {"continued", "forked"}), ({"source": []}, set()),
    ({"exclude_source": "cli"}, {"continued", "forked"}), ({"exclude_source": []}, {"root", "spawned", "continued", "forked"}),
    ({"user_id": "u"}, {"forked"}), ({"kind": "subagent"}, {"spawned"}), ({"parent_id": "root"}, {"spawned", "forked"}),
    ({"status": "ended"}, {"spawned"}), ({"title_contains": "oo"}, {"root"}), ({"since": datetime(2021, 1, 1, tzinfo=UTC)}, {"continued", "forked"}),
    ({"until": AT}, set()), ({"since": AT, "until": datetime(2021, 1, 1, tzinfo=UTC)}, {"root", "spawned"}),
]  # fmt: skip


@pytest.mark.parametrize(("filters", "names"), FILTERS, ids=range(len(FILTERS)))
async def test_filters_are_those_of_a_listing(any_store: AsyncSessionStore, filters: Any, names: set[str]):
    """Times are those of creation."""
    await family(any_store)
    await any_store.sessions.end("spawned", "done")
    assert {record["id"] for record in await everything(any_store, **filters)} == names


async def test_what_is_deleted_meanwhile_is_left_out(any_store: AsyncSessionStore):
    """Also from the page that was read already; what is created meanwhile may come."""
    for n in range(5):
        await any_store.sessions.create(f"s{n}")
    names: list[str] = []
    async for record in any_store.sessions.export_all():
        names.append(record["id"])
        if len(names) == 1:
            await any_store.sessions.delete("s3")
    assert names == ["s0", "s1", "s2", "s4"]


async def test_a_session_that_is_written_to_is_exported_as_of_one_moment(store: AsyncSessionStore):
    """Its counters agree with its messages and its ledger, whenever it is read."""
    await store.sessions.create("s")
    done = asyncio.Event()

    async def write() -> None:
        for n in range(150):
            await store.messages.append(
                "s", role="user", content=str(n), usage={"prompt_tokens": 1}, tool_calls=[{"id": "c"}]
            )
            if n % 10 == 9:
                await store.messages.compact("s", note="n")
            if n % 17 == 16:
                await store.messages.rewind("s", 0)
        done.set()

    writer = asyncio.create_task(write())
    seen: set[int] = set()
    while not done.is_set():
        record = await store.sessions.export("s")
        active = [each for each in record["messages"] if each["state"] == "active"]
        assert record["message_count"] == len(active)
        assert record["tool_call_count"] == sum(len(each["tool_calls"] or []) for each in active)
        assert record["input_tokens"] == sum(each["prompt_tokens"] for each in record["usage"]) == len(record["usage"])
        assert record["next_seq"] == len(record["messages"]) + 1
        assert record["last_compaction_seq"] == len(record["compactions"])
        assert [each["seq"] for each in record["messages"]] == [*range(1, record["next_seq"])]
        seen.add(record["next_seq"])
    await writer
    assert len(seen) > 5, "it was read while it grew"


# -- import ----------------------------------------------------------------------------------------


async def test_what_is_there_is_left_alone_and_reported(any_store: AsyncSessionStore):
    """Nothing of it is changed, whatever the record says; the others come in."""
    await family(any_store)
    before = await everything(any_store)
    changed = [{**record, "title": "Other", "messages": [], "metadata": {"x": 1}} for record in before]
    imported = await any_store.sessions.import_([*changed, {"id": "new"}, {"id": "new"}])
    assert imported.existing == ("root", "spawned", "continued", "forked", "new")
    assert (imported.inserted, imported.duplicate, imported.rejected) == ({"sessions": 1}, {"sessions": 5}, {})
    assert (await everything(any_store))[:4] == before


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
async def test_children_get_their_parents_in_whatever_order_they_come(any_store: AsyncSessionStore, order: list[int]):
    """With their relation, kind and depth; nothing is reported."""
    async with AsyncSessionStore(":memory:") as other:
        await family(other)
        records = await everything(other)
    imported = await any_store.sessions.import_([records[at] for at in order])
    assert (imported.rejections, imported.existing) == ((), ())
    found = {record["id"]: record for record in await everything(any_store)}
    assert found == {record["id"]: record for record in records}
    assert [each.id for each in await any_store.sessions.ancestors("continued")] == ["root", "spawned"]


async def test_a_parent_that_is_not_there_is_left_out_and_reported(any_store: AsyncSessionStore):
    """The child comes in without one, with the place of its record; one that is there already is joined."""
    await any_store.sessions.create("there")
    records = [
        {"id": "a"}, {"id": "b", "parent_id": "gone", "relation": "fork"},
        {"id": "c", "parent_id": "there", "relation": "spawn", "kind": "subagent", "spawn_depth": 1},
    ]  # fmt: skip
    imported = await any_store.sessions.import_(records)
    assert imported.inserted == {"sessions": 3}
    [rejection] = imported.rejections
    assert (rejection.kind, rejection.line, imported.rejected) == ("parents", 2, {"parents": 1})
    assert "'gone'" in rejection.reason
    assert ((await any_store.sessions.get("b")).parent_id, (await any_store.sessions.get("b")).relation) == (
        None,
        "fork",
    )
    assert (await any_store.sessions.get("c")).parent_id == "there"


@pytest.mark.parametrize("size", [2, 3, 5])
async def test_records_in_a_circle_make_no_circle(any_store: AsyncSessionStore, size: int):
    """One of them is left without a parent, and told; lines have an end."""
    records = [{"id": f"s{n}", "parent_id": f"s{(n + 1) % size}", "relation": "continuation"} for n in range(size)]
    imported = await any_store.sessions.import_(records)
    assert imported.inserted == {"sessions": size}
    assert [rejection.kind for rejection in imported.rejections] == ["parents"]
    async with asyncio.timeout(5):
        roots = [n for n in range(size) if not await any_store.sessions.ancestors(f"s{n}")]
        assert len(roots) == 1
        assert len(await any_store.sessions.descendants(f"s{roots[0]}")) == size - 1
        assert await any_store.messages.conversation("s0", ancestors=True) == []


async def test_the_depth_is_as_it_was_elsewhere(path):
    """limits.spawn_depth holds for what is spawned here, not for what arrives."""
    records: list[Record] = [{"id": "s0"}]
    for n in range(1, 8):
        records.append(
            {"id": f"s{n}", "parent_id": f"s{n - 1}", "relation": "spawn", "kind": "subagent", "spawn_depth": n}
        )
    async with AsyncSessionStore(path, limits=Limits(spawn_depth=1)) as store:
        assert not (await store.sessions.import_(reversed(records))).rejected
        assert [each.spawn_depth for each in await store.sessions.ancestors("s7")] == [0, 1, 2, 3, 4, 5, 6]


async def test_a_title_or_key_that_somebody_has_is_left_out_and_reported(any_store: AsyncSessionStore):
    """The rest of the session comes in; a key is somebody's only while that session is active."""
    await any_store.sessions.create("holder", title="T", key="k")
    records = [
        {"id": "a", "title": "T", "key": "k", "metadata": {"x": 1}},
        {"id": "b", "key": "k", "status": "ended", "ended_at": "2020-01-01T00:00:00Z"},
        {"id": "c", "title": "U", "key": "l"}, {"id": "d", "title": "U", "key": "l"},
        {"id": "e", "key": "l", "status": "archived"},
    ]  # fmt: skip
    imported = await any_store.sessions.import_(records)
    assert imported.inserted == {"sessions": 5}
    assert [(each.kind, each.line) for each in imported.rejections] == [
        ("titles", 1), ("keys", 1), ("titles", 4), ("keys", 4),
    ]  # fmt: skip
    found = [await any_store.sessions.get(name) for name in "abcde"]
    assert [each.title for each in found] == [None, None, "U", None, None]
    assert [each.key for each in found] == [None, "k", "l", None, "l"]
    assert found[0].metadata == {"x": 1}
    assert (await any_store.sessions.for_key("k")).id == "holder"


MESSAGE_ = {"role": "user", "content": "x"}
NOTE = {"seq": 1, "note_seq": 3, "from_seq": 1, "to_seq": 2, "count": 2, "created_at": "2020-01-01T00:00:00Z"}


def with_messages(*changes: Record, **more: Any) -> Record:
    return {"id": "bad", "messages": [{**MESSAGE_, **change} for change in changes], **more}


def compacted(*changes: Record, **note: Any) -> Record:
    """Two messages put away under the third, with these changes to them and to the compaction."""
    rows = [{"state": "compacted", "compacted_by": 1}, {"state": "compacted", "compacted_by": 1}, {"position": 1}]
    rows = [{**row, **change} for row, change in zip(rows, (*changes, {}, {}, {}), strict=False)]
    return with_messages(*rows, compactions=[{**NOTE, **note}])


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


MALFORMED: dict[str, Any] = {
    "none": None, "number": 5, "text": "x", "list": [], "no id": {}, "empty id": {"id": ""}, "id of NUL": {"id": "a\x00"},
    "id of a surrogate": {"id": "\ud800"}, "numeric id": {"id": 5}, "unknown field": {"id": "bad", "other": 1},
    "another format": {"id": "bad", "recollect": 2}, "status": {"id": "bad", "status": "gone"},
    "relation": {"id": "bad", "relation": "cousin"}, "kind": {"id": "bad", "kind": 1}, "lifecycle": {"id": "bad", "lifecycle": ""},
    "empty source": {"id": "bad", "source": ""}, "numeric title": {"id": "bad", "title": 5},
    "metadata": {"id": "bad", "metadata": [1]}, "numeric keys": {"id": "bad", "metadata": {1: 2}},
    "config": {"id": "bad", "config": {"f": object()}}, "pending": {"id": "bad", "pending": {"f": {1, 2}}},
    "no time": {"id": "bad", "created_at": "yesterday"}, "naive": {"id": "bad", "updated_at": "2020-01-01T00:00:00"},
    "out of range": {"id": "bad", "created_at": "0001-01-01T00:00:00+23:00"}, "naive object": {"id": "bad", "created_at": datetime(2020, 1, 1)},
    "ended without a time": {"id": "bad", "status": "ended"}, "active with an end": {"id": "bad", "ended_at": "2020-01-01T00:00:00Z"},
    "its own parent": {"id": "bad", "parent_id": "bad"}, "negative depth": {"id": "bad", "spawn_depth": -1},
    "huge depth": {"id": "bad", "spawn_depth": 2**63}, "huge seq to come": {"id": "bad", "next_seq": 2**63 - 1},
    "huge round": {"id": "bad", "round_index": 2**63}, "negative send": {"id": "bad", "send_index": -1},
    "huge compaction": {"id": "bad", "last_compaction_seq": 2**63}, "messages": {"id": "bad", "messages": {"role": "user"}},
    "message none": {"id": "bad", "messages": [None]}, "no role": {"id": "bad", "messages": [{"content": "x"}]},
    "empty role": with_messages({}, {"role": ""}), "unknown field of a message": with_messages({}, {"id": 1}),
    "content object": with_messages({}, {"content": object()}), "content number": with_messages({}, {"content": 5}),
    "content set": with_messages({}, {"content": {1}}), "content bytes": with_messages({}, {"content": b"x"}),
    "not a number": with_messages({}, {"content": [float("nan")]}), "too deep": with_messages({}, {"content": nested(300)}),
    "too large": with_messages({}, {"content": "x" * 9_000_000}), "negative tokens": with_messages({"token_count": -1}),
    "message of no time": with_messages({"created_at": 5.5}), "empty external id": with_messages({"external_id": ""}),
    "two of one external id": with_messages({"external_id": "e"}, {"external_id": "e"}),
    "two of one seq": with_messages({"seq": 1}, {"seq": 1}), "seq zero": with_messages({"seq": 0}), "seq below": with_messages({"seq": -3}),
    "seq true": with_messages({"seq": True}), "huge seq": with_messages({"seq": 2**63 - 1}), "place zero": with_messages({"position": 0}),
    "place behind": with_messages({"position": 2}), "state": with_messages({"state": "lost"}),
    "put away by nothing": with_messages({"state": "compacted", "compacted_by": 1}), "no note": with_messages({}, compactions=[NOTE]),
    "two of one compaction": with_messages({}, {}, {"position": 1}, compactions=[NOTE, NOTE]), "compaction": compacted(other=1),
    "compaction of no time": compacted(created_at="2020-01-01T00:00:00"), "undone at no time": compacted(undone_at="never"),
    "huge count": compacted(count=2**70), "huge number": compacted(seq=2**63), "huge place": with_messages({}, {}, {"state": "compacted", "position": 1}, compactions=[{**NOTE, "undone_at": AT, "to_seq": 2**63}]),
    "two of one note": with_messages({}, {}, {"position": 1}, compactions=[NOTE, {**NOTE, "seq": 2}]),
    "by one that was undone": compacted(undone_at="2020-01-01T00:00:00Z"), "active and put away": compacted({"state": "active"}),
    "taken back and put away": compacted({"state": "rewound"}), "note in its place": compacted({}, {}, {"position": 3}),
    "note under itself": compacted({}, {}, {"state": "compacted", "compacted_by": 1}),
    "notes in a circle": with_messages(
        {"state": "compacted", "compacted_by": 1}, {"state": "compacted", "compacted_by": 2},
        {"state": "compacted", "compacted_by": 2, "position": 1}, {"state": "compacted", "compacted_by": 1, "position": 2},
        compactions=[NOTE, {**NOTE, "seq": 2, "note_seq": 4}],
    ),
    "no tokens": {"id": "bad", "usage": [{"prompt_tokens": None}]}, "half a token": {"id": "bad", "usage": [{"prompt_tokens": 1.5}]},
    "huge tokens": {"id": "bad", "usage": [{"prompt_tokens": 2**63}]}, "no cost": {"id": "bad", "usage": [{"actual_cost_usd": float("nan")}]},
    "endless cost": {"id": "bad", "usage": [{"actual_cost_usd": float("inf")}]}, "cost as text": {"id": "bad", "usage": [{"actual_cost_usd": "1"}]},
    "long title": {"id": "bad", "title": "t" * 101}, "empty key": {"id": "bad", "key": ""}, "key of NUL": {"id": "bad", "key": "a\x00"},
    "empty parent": {"id": "bad", "parent_id": ""}, "parent of a surrogate": {"id": "bad", "parent_id": "\ud800"},
    "negative count": compacted(count=-1), "compaction zero": compacted(seq=0), "huge cost": {"id": "bad", "usage": [{"actual_cost_usd": 1e30}]}, "usage": {"id": "bad", "usage": [[]]},
    "negative send of usage": {"id": "bad", "usage": [{"send_index": -1}]}, "unknown field of usage": {"id": "bad", "usage": [{"id": 1}]},
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_not_a_record_is_rejected_with_its_place(memory: AsyncSessionStore, name: str):
    """Nothing of it is stored, the rest goes in, and the session can be imported once it is mended."""
    await _is_rejected(memory, MALFORMED[name])


async def _is_rejected(store: AsyncSessionStore, bad: Any) -> None:
    before = await store.query("SELECT COUNT(*) AS n FROM sessions")
    good = [{"id": name, "messages": [MESSAGE_]} for name in "ab"]
    async with asyncio.timeout(10):
        imported = await store.sessions.import_([good[0], bad, good[1]])
    [rejection] = imported.rejections
    assert (rejection.kind, rejection.file, rejection.line) == ("sessions", "", 2)
    assert rejection.reason
    assert (imported.inserted, imported.rejected, imported.existing) == (
        {"sessions": 2, "messages": 2},
        {"sessions": 1},
        (),
    )
    assert (await store.query("SELECT COUNT(*) AS n FROM sessions"))[0].n == before[0].n + 2
    assert (await store.query("SELECT COUNT(*) AS n FROM messages"))[0].n == 2
    assert not (await store.sessions.import_([{"id": "bad", "messages": [MESSAGE_]}])).rejected


async def test_a_compaction_of_a_record_is_taken(memory: AsyncSessionStore):
    """The one that the malformed ones differ from."""
    assert not (await memory.sessions.import_([compacted()])).rejected
    await memory.messages.uncompact("bad", 1)
    assert (await memory.sessions.get("bad")).message_count == 2


# -- how records are given -------------------------------------------------------------------------


def as_generator(records: list[Record]) -> Iterator[Record]:
    yield from records


async def as_async_generator(records: list[Record]) -> AsyncIterator[Record]:
    for record in records:
        await asyncio.sleep(0)
        yield record


@pytest.mark.parametrize("given", [list, tuple, iter, as_generator, as_async_generator])
async def test_records_may_be_given_in_any_way(any_store: AsyncSessionStore, given: Any):
    """A collection, an iterator, an async one; export_all of another store as it is."""
    imported = await any_store.sessions.import_(given([{"id": name} for name in "abc"]))
    assert imported.inserted == {"sessions": 3}
    async with AsyncSessionStore(":memory:") as other:
        assert (await other.sessions.import_(any_store.sessions.export_all())).inserted == {"sessions": 3}
        assert await everything(other) == await everything(any_store)


@pytest.mark.parametrize("given", [{"id": "s"}, 5, None])
async def test_one_record_is_not_several(any_store: AsyncSessionStore, given: Any):
    """InvalidRecord; nothing is stored."""
    with pytest.raises(InvalidRecord):
        await any_store.sessions.import_(given)
    assert await any_store.sessions.count() == 0


async def test_nothing_to_import_is_nothing(any_store: AsyncSessionStore):
    """An empty iterable is a report of zeros."""
    imported = await any_store.sessions.import_([])
    assert (imported.inserted, imported.rejected, imported.existing) == ({}, {}, ())


async def test_progress_counts_every_record(any_store: AsyncSessionStore):
    """Those rejected and those that are there too, one by one."""
    told: list[int] = []
    await any_store.sessions.import_([{"id": "a"}, None, {"id": "a"}, {"id": "b"}], progress=told.append)  # type: ignore[list-item]
    assert told == [1, 2, 3, 4]


async def test_an_import_that_is_cancelled_is_completed_by_repeating_it(any_store: AsyncSessionStore):
    """What was in is whole and is skipped the second time; parents are joined then as well."""
    async with AsyncSessionStore(":memory:") as other:
        for n in range(60):
            above = {"parent_id": f"s{n - 1}", "relation": "continuation"} if n else {}
            await other.sessions.create(f"s{n}", **above)
            await other.messages.append_many(f"s{n}", [MESSAGE_] * 20)
        records = (await everything(other))[::-1]
    half = asyncio.Event()

    def progress(done: int) -> None:
        if done == 30:
            half.set()

    task = asyncio.create_task(any_store.sessions.import_(records, progress=progress))
    await half.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await any_store.flush()
    there = await everything(any_store)
    assert 30 <= len(there) < 60
    assert all(len(record["messages"]) == record["message_count"] == 20 for record in there)
    imported = await any_store.sessions.import_(records)
    assert len(imported.existing) == len(there)
    assert imported.inserted["sessions"] == 60 - len(there)
    found = {record["id"]: record for record in await everything(any_store)}
    assert {name: {**each, "parent_id": None} for name, each in found.items()} == {
        record["id"]: {**record, "parent_id": None} for record in records
    }


async def test_the_parents_of_a_cancelled_import_are_joined_by_repeating_it(any_store: AsyncSessionStore):
    """A child whose record came before its parent's, and whose import ended in between."""
    async with AsyncSessionStore(":memory:") as other:
        await family(other)
        records = (await everything(other))[::-1]

    async def broken() -> AsyncIterator[Record]:
        for record in records:
            if record["id"] == "root":
                raise ConnectionError("gone")
            yield record

    with pytest.raises(ConnectionError):
        await any_store.sessions.import_(broken())
    imported = await any_store.sessions.import_(records)
    assert (len(imported.existing), imported.rejections) == (3, ())
    found = {record["id"]: record for record in await everything(any_store)}
    assert found == {record["id"]: record for record in records}


async def test_a_title_that_arrives_is_cleaned(any_store: AsyncSessionStore):
    """As any title: a blank one is none."""
    await any_store.sessions.import_([{"id": "a", "title": " "}, {"id": "b", "title": "x\u200b \n y"}])
    assert [(await any_store.sessions.get(name)).title for name in "ab"] == [None, "x y"]


async def test_an_iterable_that_fails_keeps_what_came_before(any_store: AsyncSessionStore):
    """Its error is the caller's; the store goes on."""

    def broken() -> Iterator[Record]:
        yield {"id": "a"}
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await any_store.sessions.import_(broken())
    assert [record["id"] for record in await everything(any_store)] == ["a"]
    await any_store.sessions.create("b")


async def test_the_rejections_of_many_are_counted_and_the_first_are_listed(memory: AsyncSessionStore):
    """1,000 places are remembered, all are counted."""
    imported = await memory.sessions.import_({"id": ""} for _ in range(1_100))
    assert imported.rejected == {"sessions": 1_100}
    assert [each.line for each in imported.rejections] == [*range(1, 1_001)]


async def test_one_users_store_moves_his_own_only(any_store: AsyncSessionStore):
    """Another's session is not exported, and a record of another is rejected; one of nobody becomes his; a parent
    of another is not named."""
    await any_store.sessions.create("theirs", user_id="v")
    await any_store.sessions.create("mine", user_id="u", parent_id="theirs", relation="fork")
    own = any_store.scoped(user_id="u")
    assert await own.sessions.export("theirs") is None
    records = [record async for record in own.sessions.export_all()]
    assert [(record["id"], record["parent_id"]) for record in records] == [("mine", None)]
    below = {"user_id": "u", "parent_id": "theirs", "relation": "fork"}
    imported = await own.sessions.import_([{"id": "a", "user_id": "v"}, {"id": "b"}, {"id": "c", **below}])
    assert [(each.kind, each.line) for each in imported.rejections] == [("sessions", 1), ("parents", 3)]
    assert (await any_store.sessions.get("b")).user_id == "u"
    assert (await any_store.sessions.get("c")).parent_id is None


def test_records_are_those_of_the_models():
    """What a message has is in its record, but the ids and the text that is made of the content."""
    from recollect import Compaction, Message, UsageRound
    from recollect.sessions.transfer import CompactionRecord, MessageRecord, SessionRecord, UsageRecord

    def names(kind: type[msgspec.Struct]) -> set[str]:
        return {*kind.__struct_fields__}

    assert names(MessageRecord) == names(Message) - {"id", "session_id", "text"}
    assert names(CompactionRecord) == names(Compaction) - {"session_id"}
    assert names(UsageRecord) == names(UsageRound) - {"id", "session_id"}
    assert names(SessionRecord) >= names(Session)
