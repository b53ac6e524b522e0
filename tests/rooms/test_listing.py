"""Listing, streaming, counting and deleting sessions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recollect import AsyncSessionStore, InvalidRecord, Kind, Status
from recollect.engine.operation import ids as ids_of
from recollect.engine.operation import many

from .outside import indexed

T0 = datetime(2031, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def seven(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """s0…s6, created an hour apart; s1 became active last; s3 ended; s5 is a child of s4."""
    create = any_store.sessions.create
    for n in range(7):
        await create(
            f"s{n}", source="cli" if n % 2 else "web", user_id=f"u{n % 3}" if n != 6 else None, created_at=T0 + n * HOUR,
            title=f"Title {n}", key=f"k{n}", parent_id="s4" if n == 5 else None,
        )  # fmt: skip
    await any_store.sessions.end("s3", "done")
    await any_store.messages.append("s1", role="user", content="hi", created_at=T0 + 9 * HOUR)
    return any_store


async def ids(store: AsyncSessionStore, **filters: object) -> list[str]:
    page = await store.sessions.list(**filters)
    streamed = {name: value for name, value in filters.items() if name not in ("limit", "after")}
    if "limit" not in filters and "after" not in filters:
        assert [s.id async for s in store.sessions.stream(**streamed)] == [s.id for s in page]
        assert await store.sessions.count(**streamed) == len(page)
    return [session.id for session in page]


FILTERS = [
    ({}, "1654320"),
    ({"order": "created"}, "6543210"),
    ({"source": "cli"}, "153"),
    ({"source": ["cli", "web"], "user_id": "u0"}, "30"),
    ({"source": []}, ""),
    ({"source": ()}, ""),
    ({"exclude_source": "cli"}, "6420"),
    ({"exclude_source": []}, "1654320"),
    ({"exclude_source": ["cli", "web"]}, ""),
    ({"user_id": ["u1", "u2"]}, "1542"),
    ({"user_id": []}, ""),
    ({"key": "k2"}, "2"),
    ({"key": ["k2", "k4", "none"]}, "42"),
    ({"status": "ended"}, "3"),
    ({"status": Status.ACTIVE}, "165420"),
    ({"status": ["active", "ended"]}, "1654320"),
    ({"status": []}, ""),
    ({"kind": Kind.SUBAGENT}, "5"),
    ({"kind": "root"}, "164320"),
    ({"parent_id": "s4"}, "5"),
    ({"parent_id": ["s4", "s0"]}, "5"),
    ({"parent_id": []}, ""),
    ({"parent_id": "nobody"}, ""),
    ({"title_contains": "title"}, "1654320"),
    ({"title_contains": "E 3"}, "3"),
    ({"title_contains": "%"}, ""),
    ({"title_contains": "_"}, ""),
    ({"title_contains": "!"}, ""),
    ({"title_contains": ""}, "1654320"),
    ({"since": T0 + 4 * HOUR}, "1654"),
    ({"until": T0 + 4 * HOUR}, "320"),
    ({"since": T0 + 2 * HOUR, "until": T0 + 4 * HOUR}, "32"),
    ({"since": T0 + 4 * HOUR, "order": "created"}, "654"),
    ({"until": T0 + 2 * HOUR, "order": "created"}, "10"),
    ({"source": "cli", "status": "active", "user_id": "u1"}, "1"),
    ({"limit": 0}, ""),
    ({"limit": 2}, "16"),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS)
async def test_filters_and_orders_mean_what_they_say(
    seven: AsyncSessionStore, filters: dict[str, object], expected: str
):
    """list, stream and count agree; an empty include matches nothing, an empty exclude excludes nothing."""
    assert await ids(seven, **filters) == [f"s{n}" for n in expected]


@pytest.mark.parametrize("order", ["activity", "created"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_continue_where_the_one_before_ended(seven: AsyncSessionStore, order: str, limit: int):
    """Page by page gives what one page gives, and the last page has no next."""
    whole = await ids(seven, order=order)
    found, after = [], None
    while True:
        page = await seven.sessions.list(order=order, limit=limit, after=after)
        assert len(page) <= limit
        found += [session.id for session in page]
        if page.next is None:
            break
        after = page.next
    assert found == whole


async def test_sessions_of_one_instant_are_paged_without_loss(store: AsyncSessionStore):
    """Equal times are told apart: none is skipped, none comes twice."""
    for n in range(25):
        await store.sessions.create(f"s{n:02}", created_at=T0)
    found, after = [], None
    while True:
        page = await store.sessions.list(order="created", limit=4, after=after)
        found += [session.id for session in page]
        if (after := page.next) is None:
            break
    assert sorted(found) == [f"s{n:02}" for n in range(25)]
    assert len(found) == 25


async def test_a_page_is_not_moved_by_newer_sessions(store: AsyncSessionStore):
    """Keyset, not offset: what is created in between does not repeat or hide a row."""
    for n in range(6):
        await store.sessions.create(f"s{n}", created_at=T0 + n * HOUR)
    first = await store.sessions.list(limit=3, order="created")
    await store.sessions.create("new", created_at=T0 + 99 * HOUR)
    await store.sessions.delete("s3")
    second = await store.sessions.list(limit=3, order="created", after=first.next)
    assert [s.id for s in second] == ["s2", "s1", "s0"]


@pytest.mark.usefixtures("small_pages")
async def test_twenty_is_the_default_and_stream_has_no_end(store: AsyncSessionStore):
    """A page has 20 unless told otherwise; stream goes through all of them, over several pages."""
    for n in range(33):
        await store.sessions.create(f"s{n:03}", created_at=T0 + n * timedelta(seconds=1))
    page = await store.sessions.list()
    assert len(page) == 20
    assert page.next is not None
    streamed = [session.id async for session in store.sessions.stream()]
    assert streamed == [f"s{n:03}" for n in reversed(range(33))]
    behind = [session.id async for session in store.sessions.stream(after=page.next)]
    assert behind == streamed[20:]
    assert await store.sessions.count() == 33


async def test_a_title_is_found_in_any_script_as_it_was_written(any_store: AsyncSessionStore):
    """ASCII letters in any case; others at least as they stand in the title; `%`, `_` and `!` are themselves."""
    await any_store.sessions.create("a", title="École ÜBER 東京")
    await any_store.sessions.create("b", title="100%_done!")
    for part in ("École", "école"[1:], "ÜBER", "東", "cOLE"):
        assert await ids(any_store, title_contains=part) == ["a"], part
    for part in ("0%_D", "!", "DONE!"):
        assert await ids(any_store, title_contains=part) == ["b"], part


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": -1}, {"limit": 2.5}, {"limit": "3"}, {"limit": True}, {"order": "size"}, {"status": "gone"},
        {"kind": "sub"}, {"after": "nonsense"}, {"after": "created.1.2"}, {"after": "activity.1"}, {"after": 7},
        {"since": datetime(2030, 1, 1)}, {"until": "yesterday"},
    ],
)  # fmt: skip
async def test_arguments_that_mean_nothing_are_refused(store: AsyncSessionStore, arguments: dict[str, object]):
    """A negative limit, an unknown order or state, a cursor of another order, a naive time: InvalidRecord."""
    with pytest.raises(InvalidRecord):
        await store.sessions.list(**arguments)


# -- delete ----------------------------------------------------------------------------------------


async def family(store: AsyncSessionStore) -> None:
    """A root with spawned children of each lifecycle, theirs, and children of every other relation."""
    create = store.sessions.create
    await create("root")
    for lifecycle in ("ephemeral", "linked", "detached"):
        await create(lifecycle, parent_id="root", lifecycle=lifecycle)
        await create(f"{lifecycle}-child", parent_id=lifecycle)
    await create("linked-detached", parent_id="linked", lifecycle="detached")
    for relation in ("continuation", "fork", "followup"):
        await create(relation, parent_id="root", relation=relation)


async def test_a_cascade_follows_spawned_children_that_are_not_detached(any_store: AsyncSessionStore):
    """Ephemeral and linked ones go with theirs; detached ones and other relations stay, without a parent."""
    await family(any_store)
    gone = await any_store.sessions.delete("root")
    assert gone[0] == "root"
    assert sorted(gone) == ["ephemeral", "ephemeral-child", "linked", "linked-child", "root"]
    left = {session.id: session.parent_id async for session in any_store.sessions.stream()}
    assert left == {
        "detached": None, "detached-child": "detached", "linked-detached": None, "continuation": None, "fork": None,
        "followup": None,
    }  # fmt: skip


async def test_without_cascade_all_children_stay(any_store: AsyncSessionStore):
    """Only the named session goes; its children have no parent then."""
    await family(any_store)
    assert await any_store.sessions.delete("root", cascade=False) == ["root"]
    left = {session.id: session.parent_id async for session in any_store.sessions.stream()}
    assert len(left) == 10
    assert {left[name] for name in ("ephemeral", "linked", "detached", "continuation", "fork", "followup")} == {None}
    assert left["linked-child"] == "linked"


async def test_deleting_what_is_not_there_removes_nothing(any_store: AsyncSessionStore):
    """An unknown id, or one deleted before: an empty list."""
    await any_store.sessions.create("s")
    assert await any_store.sessions.delete("nobody") == []
    assert await any_store.sessions.delete("s") == ["s"]
    assert await any_store.sessions.delete("s") == []


async def test_a_deleted_session_is_invisible_at_once(any_store: AsyncSessionStore):
    """No read finds it or anything of it, whether or not its rows are erased yet."""
    await any_store.sessions.create("s", title="T", key="k", user_id="u")
    ref = await any_store.messages.append("s", role="user", content="words", usage={"prompt_tokens": 5})
    await any_store.sessions.delete("s")
    assert await any_store.sessions.get("s") is None
    assert await any_store.sessions.resolve("s") is None
    assert await ids(any_store) == []
    assert await any_store.messages.get(id=ref.id) is None
    assert await any_store.messages.get("s", 1) is None
    assert len(await any_store.messages.list("s", state="all")) == 0
    assert await any_store.messages.count("s") == await any_store.messages.count() == 0
    assert await any_store.usage.rounds("s") == await any_store.usage.totals() == []
    assert [hit async for hit in any_store.search("words")] == []
    assert await any_store.sessions.count() == 0


@pytest.mark.parametrize("name", ["source", "exclude_source", "user_id", "key", "status", "kind", "parent_id"])
@pytest.mark.parametrize("bad", [object(), [object()], b"x", [b"x"], 5, ["cli", None]])
async def test_a_filter_of_something_else_than_text_is_refused(seven: AsyncSessionStore, name: str, bad: object):
    """InvalidRecord, whatever it was given."""
    for call in (seven.sessions.list, seven.sessions.count):
        with pytest.raises(InvalidRecord):
            await call(**{name: bad})
    if name in ("source", "user_id"):
        with pytest.raises(InvalidRecord):
            await seven.usage.totals(**{name: bad})


async def test_many_events_of_a_session_are_erased_behind_it(any_store: AsyncSessionStore, eventually):
    """Gone from searches at once, and erased some at a time; those with a text leave the index as well. What is
    recorded of a session that has the id since stays."""
    await any_store.sessions.create("s")
    await any_store.write(_events, 2500)
    await any_store.flush(index=True)
    assert [hit.kind async for hit in any_store.search("words")] == ["event"]
    assert await any_store.sessions.delete("s") == ["s"]
    assert [hit async for hit in any_store.search("words")] == []
    await any_store.sessions.create("s")

    async def erased() -> bool:
        rows = await any_store.query("SELECT kind FROM events ORDER BY id")
        return [row.kind for row in rows] == ["store.deleted", "store.created"]

    await eventually(erased)
    await any_store.flush(index=True)
    assert await indexed(any_store) == set()


def _events(count: int):
    numbers = yield ids_of(count + 1)
    rows = [(number, None) for number in numbers[:-1]] + [(numbers[-1], "words")]
    yield many("INSERT INTO events (id, at, kind, session_id, text) VALUES (?, 0, 'tool', 's', ?)", rows)


async def test_id_and_title_are_free_again_after_deletion(any_store: AsyncSessionStore):
    """A new session of the same id begins empty, with seq 1 and external ids unused."""
    await any_store.sessions.create("s", title="T")
    await any_store.messages.append("s", role="user", content="old", external_id="e")
    await any_store.sessions.delete("s")
    await any_store.sessions.create("s", title="T")
    ref = await any_store.messages.append("s", role="user", content="new", external_id="e")
    assert ref.seq == 1
    assert [message.content async for message in any_store.messages.stream("s", state="all")] == ["new"]


async def test_the_rows_of_a_deleted_session_are_erased_soon(any_store: AsyncSessionStore, eventually):
    """The keeper erases messages, ledger and session behind each deletion, in the same process."""

    async def erased() -> bool:
        counts = [
            (await any_store.query(f"SELECT COUNT(*) AS n FROM {table}"))[0].n
            for table in ("messages", "usage_rounds", "session_texts", "sessions")
        ]
        return counts == [0, 0, 0, 0]

    for name in "st":
        await any_store.sessions.create(name, system_prompt="p")
        await any_store.messages.append_many(
            name, [{"role": "user", "content": f"m{n}", "usage": {"round_index": n}} for n in range(200)]
        )
        await any_store.flush(index=True)
        await any_store.sessions.delete(name)
        await eventually(erased)
