"""A store as one user may see it: what belongs to others is not there, in no answer and no error."""

from __future__ import annotations

import asyncio
import inspect
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from recollect import (
    AsyncSessionStore,
    Change,
    InvalidQuery,
    InvalidRecord,
    KeyTaken,
    MessageRef,
    NewUsage,
    Receipt,
    ScopedStore,
    SessionExists,
    SessionNotFound,
    StoreError,
    TitleTaken,
    Turn,
)
from recollect.events.room import Events
from recollect.messages.room import Messages
from recollect.sessions.room import Sessions
from recollect.usage.room import Usage

from .outside import last_number

AT = datetime(2020, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
EVER = timedelta(0)
SECRET = re.compile(r"bob|nobodys", re.IGNORECASE)
"""everything of Bob's, and of those without a user, has this in it, whatever it is; nothing of Ann's has"""


async def furnish(store: AsyncSessionStore, session_id: str, user_id: str | None, **fields: Any) -> None:
    """A session of which every call has something to find and to do."""
    await store.sessions.create(
        session_id, user_id=user_id, source=f"{session_id} source", key=f"{session_id} key", title=f"{session_id} title",
        model=f"{session_id} model", metadata={"of": session_id}, system_prompt=session_id, created_at=AT, **fields,
    )  # fmt: skip
    rows = [{"role": "user", "content": f"word of {session_id} {n}", "external_id": f"e{n}"} for n in range(6)]
    await store.messages.append_many(session_id, rows)
    await store.messages.compact(session_id, note=f"note of {session_id}", to_seq=2)
    await store.messages.rewind(session_id, 5)
    await store.sessions.set_pending(session_id, {"of": session_id})
    await store.usage.record_round(session_id, round_index=1, prompt_tokens=5, model=f"{session_id} model")
    await store.events.record(
        {"kind": f"{session_id} kind", "session_id": session_id, "text": f"event of {session_id}"}
    )


@pytest.fixture
async def house(memory: AsyncSessionStore) -> AsyncSessionStore:
    """Ann's sessions, Bob's, one of nobody's, and some where they meet: each has children of the other's."""
    for session_id, user_id, below in (
        ("ann-1", "ann", {}),
        ("bob-1", "bob", {}),
        ("nobodys", None, {}),
        ("ann-2", "ann", {"parent_id": "ann-1"}),
        ("bob-2", "bob", {"parent_id": "bob-1"}),
        ("ann-below", "ann", {"parent_id": "bob-1", "relation": "continuation"}),
        ("bob-below", "bob", {"parent_id": "ann-1"}),
        ("nobodys-below", None, {"parent_id": "ann-2", "relation": "followup"}),
    ):
        await furnish(memory, session_id, user_id, **below)
    await memory.sessions.create("bob-v", user_id="bob", title="bob-1 title #7")
    await memory.flush(index=True)
    return memory


@pytest.fixture
def ann(house: AsyncSessionStore) -> ScopedStore:
    """The house as Ann sees it."""
    return house.scoped(user_id="ann")


# -- what a call comes to --------------------------------------------------------------------------

Call = Callable[[ScopedStore, str], Any]


async def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns or yields, or the error it raises."""
    try:
        result = call()
        if isinstance(result, AsyncIterator):
            return [each async for each in result]
        if hasattr(result, "__aenter__"):
            async with result as turn:
                return turn
        return await result if isinstance(result, Awaitable | Receipt) else result
    except StoreError as error:
        return error


def shown(result: Any) -> str:
    """Everything a caller could read in an outcome."""
    if isinstance(result, BaseException):
        notes = getattr(result, "__notes__", [])
        hidden = [shown(each) for each in (result.__cause__, result.__context__) if each is not None]
        return f"{type(result).__name__}: {result} {result.args} {result.__dict__} {notes} {hidden}"
    return repr(result)


def leaks(result: Any, *typed: str) -> list[str]:
    """What of others' is in an outcome, but for what the caller typed himself."""
    text = shown(result)
    for word in sorted(typed, key=len, reverse=True):
        text = text.replace(word, "")
    return SECRET.findall(text)


async def everything(store: AsyncSessionStore, *users: str | None) -> dict[str, Any]:
    """All that is stored of these users' sessions."""
    return {each["id"]: each async for each in store.sessions.export_all() if each["user_id"] in users}


# -- calls on a session ----------------------------------------------------------------------------

ON_A_SESSION: dict[str, Call] = {
    "sessions.get": lambda s, id: s.sessions.get(id),
    "sessions.resolve": lambda s, id: s.sessions.resolve(id),
    "sessions.update": lambda s, id: s.sessions.update(id, model="m", system_prompt="p", metadata={}, config={"a": 1}),
    "sessions.end": lambda s, id: s.sessions.end(id, "r", replace=True),
    "sessions.reopen": lambda s, id: s.sessions.reopen(id, switch="r"),
    "sessions.archive": lambda s, id: s.sessions.archive(id),
    "sessions.unarchive": lambda s, id: s.sessions.unarchive(id),
    "sessions.set_title": lambda s, id: s.sessions.set_title(id, "A new title"),
    "sessions.by_title": lambda s, id: s.sessions.by_title(f"{id} title"),
    "sessions.resolve_title": lambda s, id: s.sessions.resolve_title(f"{id} title"),
    "sessions.children": lambda s, id: s.sessions.children(id),
    "sessions.ancestors": lambda s, id: s.sessions.ancestors(id),
    "sessions.descendants": lambda s, id: s.sessions.descendants(id),
    "sessions.root": lambda s, id: s.sessions.root(id),
    "sessions.tip": lambda s, id: s.sessions.tip(id),
    "sessions.fork": lambda s, id: s.sessions.fork(id, session_id="fork", at_seq=4),
    "sessions.returned": lambda s, id: s.sessions.returned(id),
    "sessions.state": lambda s, id: s.sessions.state(id),
    "sessions.set_round": lambda s, id: s.sessions.set_round(id, 4),
    "sessions.set_pending": lambda s, id: s.sessions.set_pending(id, [1]),
    "sessions.turn": lambda s, id: s.sessions.turn(id, holder="h"),
    "sessions.list": lambda s, id: s.sessions.list(key=f"{id} key"),
    "sessions.stream": lambda s, id: s.sessions.stream(title_contains=id),
    "sessions.count": lambda s, id: s.sessions.count(source=f"{id} source"),
    "sessions.delete": lambda s, id: s.sessions.delete(id),
    "sessions.prune": lambda s, id: s.sessions.prune(idle_for=EVER, source=f"{id} source", include_active=True),
    "sessions.export": lambda s, id: s.sessions.export(id),
    "sessions.export_all": lambda s, id: s.sessions.export_all(source=f"{id} source"),
    "messages.append": lambda s, id: s.messages.append(id, role="user", content="x"),
    "messages.append with more": lambda s, id: s.messages.append(
        id, role="user", content=["x"], expected_seq=8, external_id="new", pending=1, usage=NewUsage(prompt_tokens=1)
    ),
    "messages.append again": lambda s, id: s.messages.append(id, role="user", external_id="e1"),
    "messages.append with a fence": lambda s, id: s.messages.append(id, role="user", fence=1),
    "messages.append_many": lambda s, id: s.messages.append_many(id, [{"role": "user"}]),
    "messages.append_nowait": lambda s, id: s.messages.append_nowait(id, role="user", content="x"),
    "messages.get": lambda s, id: s.messages.get(id, 4),
    "messages.list": lambda s, id: s.messages.list(id, state="all"),
    "messages.list since": lambda s, id: s.messages.list(id, after_seq=1, limit=2),
    "messages.tail": lambda s, id: s.messages.tail(id, 3),
    "messages.stream": lambda s, id: s.messages.stream(id),
    "messages.conversation": lambda s, id: s.messages.conversation(id, ancestors=True),
    "messages.count": lambda s, id: s.messages.count(id),
    "messages.compact": lambda s, id: s.messages.compact(id, note="n", from_seq=4),
    "messages.uncompact": lambda s, id: s.messages.uncompact(id, 1),
    "messages.compactions": lambda s, id: s.messages.compactions(id),
    "messages.rewind": lambda s, id: s.messages.rewind(id, 4),
    "messages.restore": lambda s, id: s.messages.restore(id),
    "messages.replace": lambda s, id: s.messages.replace(id, [{"role": "user", "content": "x"}]),
    "messages.clear": lambda s, id: s.messages.clear(id),
    "usage.record_round": lambda s, id: s.usage.record_round(id, round_index=1, prompt_tokens=9),
    "usage.add": lambda s, id: s.usage.add(id, prompt_tokens=9),
    "usage.set": lambda s, id: s.usage.set(id, prompt_tokens=9),
    "usage.rounds": lambda s, id: s.usage.rounds(id),
    "usage.totals": lambda s, id: s.usage.totals(session_id=id),
    "usage.totals of a source": lambda s, id: s.usage.totals(by="source", source=f"{id} source"),
    "usage.totals of a model": lambda s, id: s.usage.totals(by="model", model=f"{id} model"),
    "events.recent": lambda s, id: s.events.recent(f"{id} kind"),
    "events.stream": lambda s, id: s.events.stream(session_id=id),
    "events.stream of a kind": lambda s, id: s.events.stream(kind=f"{id} kind"),
    "events.prune": lambda s, id: s.events.prune(datetime(2100, 1, 1, tzinfo=UTC), kind=f"{id} kind"),
    "search": lambda s, id: s.search("word", session=id),
    "search for events": lambda s, id: s.search("event", session=id, kinds="event"),
    "search for a word": lambda s, id: s.search(f'"{id}"', limit=None),
    "search of a source": lambda s, id: s.search("word", source=f"{id} source", order="newest", with_text=True),
}
"""calls that say which session they mean, by its id or by what is its alone"""

ELSEWHERE = {
    "sessions.create", "sessions.ensure", "sessions.for_key", "sessions.next_title", "sessions.import_",
    "events.record", "events.record_many", "events.kinds", "transport", "watch",
}  # fmt: skip
"""calls that make sessions and names, and those about no session: each has tests of its own below"""

OTHERS = ["bob-1", "bob-2", "bob-below", "nobodys", "nobodys-below"]


def public(kind: type) -> set[str]:
    return {name for name, value in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_every_public_method_is_covered():
    """A room that gets a method gets a line in the table, or this fails. And the scope has nothing but its rooms
    and search."""
    rooms = {"sessions": Sessions, "messages": Messages, "usage": Usage, "events": Events}
    methods = {f"{room}.{name}" for room, kind in rooms.items() for name in public(kind)} | public(ScopedStore)
    assert methods == {name.split()[0] for name in ON_A_SESSION} | ELSEWHERE
    assert public(ScopedStore) == {"search", "transport", "watch"}


def test_a_scope_has_nothing_else(house: AsyncSessionStore, ann: ScopedStore):
    """No query, no read, no write, no stats: those know no users."""
    assert {name for name in dir(ann) if not name.startswith("_")} == {
        "events", "messages", "search", "sessions", "transport", "usage", "user_id", "watch",
    }  # fmt: skip
    assert repr(ann) == f"{house!r}.scoped(user_id='ann')"


@pytest.mark.parametrize("name", ON_A_SESSION)
async def test_anothers_session_is_exactly_like_one_that_does_not_exist(
    house: AsyncSessionStore, ann: ScopedStore, name: str
):
    """Bob's and nobody's: the same answer or error as for an unknown id, word for word; it names nothing that was
    not typed; and nothing of theirs has changed."""
    before = await everything(house, "bob", None)
    for id in OTHERS:
        result = await outcome(lambda id=id: ON_A_SESSION[name](ann, id))
        unknown = await outcome(lambda id=id: ON_A_SESSION[name](ann, "x" * len(id)))
        assert shown(result).replace(id, "?") == shown(unknown).replace("x" * len(id), "?")
        assert leaks(result, id) == []
        if isinstance(result, BaseException):
            assert isinstance(result, SessionNotFound | InvalidQuery)  # the latter of kinds of events
            assert repr(f"{id} kind" if name == "events.recent" else id) in str(result), "it is named as it was called"
        else:
            assert not result or result == await _empty(ann, name)
    assert await everything(house, "bob", None) == before


async def _empty(scope: ScopedStore, name: str) -> Any:
    """What a call answers that has nothing to tell."""
    return await outcome(lambda: ON_A_SESSION[name](scope, "unknown"))


@pytest.mark.parametrize("name", ON_A_SESSION)
async def test_ones_own_session_is_there(house: AsyncSessionStore, name: str):
    """Every call of the table has something to find or to do in a session of one's own: the same as the store has."""
    await furnish(house, "twin-1", "twin", parent_id=(await house.sessions.create("twin-0", user_id="twin")).id)
    scope = house.scoped(user_id="twin")
    unknown = await outcome(lambda: ON_A_SESSION[name](scope, "unknown"))
    result = await outcome(lambda: ON_A_SESSION[name](scope, "twin-1"))
    if name in ("sessions.children", "sessions.descendants"):
        result = await outcome(lambda: ON_A_SESSION[name](scope, "twin-0"))
    if name == "messages.append with a fence":
        assert "TurnLost" in shown(result)
    else:
        assert not isinstance(result, BaseException), shown(result)
        if not isinstance(unknown, BaseException):
            assert shown(result) != shown(unknown)
    assert leaks(result) == []


@pytest.mark.parametrize("name", ON_A_SESSION)
async def test_relatives_of_others_are_not_named(house: AsyncSessionStore, ann: ScopedStore, name: str):
    """Below Bob's, above Bob's, beside Bob's: no answer about a session of Ann's tells of him, and what is done to
    hers changes nothing of his but that a parent of hers is gone."""
    before = await everything(house, "bob")
    for id in ("ann-below", "ann-2", "ann-1"):
        assert leaks(await outcome(lambda id=id: ON_A_SESSION[name](ann, id))) == []
    after = await everything(house, "bob")
    if name in ("sessions.delete", "sessions.prune"):
        assert after["bob-below"]["parent_id"] is None
        before["bob-below"]["parent_id"] = None
    assert after == before


# -- made by others, met by Ann --------------------------------------------------------------------

MAKING: dict[str, tuple[Call, type[StoreError]]] = {
    "create, an id": (lambda s, _: s.sessions.create("bob-1"), SessionExists),
    "create, nobody's id": (lambda s, _: s.sessions.create("nobodys"), SessionExists),
    "create, a user": (lambda s, _: s.sessions.create(user_id="bob"), InvalidRecord),
    "create, a title": (lambda s, _: s.sessions.create(title="bob-1 title"), TitleTaken),
    "create, a key": (lambda s, _: s.sessions.create(key="bob-1 key"), KeyTaken),
    "create, nobody's key": (lambda s, _: s.sessions.create(key="nobodys key"), KeyTaken),
    "create, a parent": (lambda s, _: s.sessions.create(parent_id="bob-1"), SessionNotFound),
    "create, a parent otherwise": (lambda s, _: s.sessions.create(parent_id="bob-1", relation="fork"), SessionNotFound),
    "create, nobody as a parent": (lambda s, _: s.sessions.create(parent_id="nobodys"), SessionNotFound),
    "ensure, an id": (lambda s, _: s.sessions.ensure("bob-1", model="m"), SessionExists),
    "ensure, nobody's id": (lambda s, _: s.sessions.ensure("nobodys", model="m"), SessionExists),
    "ensure, a user": (lambda s, _: s.sessions.ensure("ann-1", user_id="bob"), InvalidRecord),
    "ensure, a title": (lambda s, _: s.sessions.ensure("new", title="bob-1 title"), TitleTaken),
    "ensure, a key": (lambda s, _: s.sessions.ensure("new", key="bob-1 key"), KeyTaken),
    "ensure, a parent": (lambda s, _: s.sessions.ensure("new", parent_id="bob-1"), SessionNotFound),
    "for_key, a key": (lambda s, _: s.sessions.for_key("bob-1 key"), KeyTaken),
    "for_key, nobody's key": (lambda s, _: s.sessions.for_key("nobodys key"), KeyTaken),
    "for_key, idle": (lambda s, _: s.sessions.for_key("bob-1 key", idle_s=0), KeyTaken),
    "for_key, reset": (lambda s, _: s.sessions.for_key("bob-1 key", reset="r"), KeyTaken),
    "for_key, a title": (lambda s, _: s.sessions.for_key("new", title="bob-1 title"), TitleTaken),
    "for_key, a parent": (lambda s, _: s.sessions.for_key("new", parent_id="bob-1"), SessionNotFound),
    "for_key, a user": (lambda s, _: s.sessions.for_key("new", user_id="bob"), InvalidRecord),
    "for_key, an id": (lambda s, _: s.sessions.for_key("new", session_id="bob-1"), StoreError),
    "fork, an id": (lambda s, _: s.sessions.fork("ann-1", session_id="bob-1"), SessionExists),
    "fork, a user": (lambda s, _: s.sessions.fork("ann-1", user_id="bob"), InvalidRecord),
    "fork, a title": (lambda s, _: s.sessions.fork("ann-1", title="bob-1 title"), TitleTaken),
    "fork, a key": (lambda s, _: s.sessions.fork("ann-1", key="bob-1 key"), KeyTaken),
    "set_title": (lambda s, _: s.sessions.set_title("ann-1", "bob-1 title"), TitleTaken),
    "next_title of nothing": (lambda s, _: s.sessions.next_title(" "), StoreError),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKING)
async def test_what_others_have_is_refused_without_a_word_of_who_has_it(
    house: AsyncSessionStore, ann: ScopedStore, name: str
):
    """Ids, titles, keys and parents of others, and other users: the error says what was typed, and no more."""
    call, error = MAKING[name]
    before = await everything(house, "ann", "bob", None)
    result = await outcome(lambda: call(ann, ""))
    assert isinstance(result, error), result
    assert leaks(result, "bob-1 title", "bob-1 key", "nobodys key", "bob-1", "nobodys", "bob") == []
    assert getattr(result, "by", None) is None
    assert await everything(house, "ann", "bob", None) == before


async def test_own_holders_are_named(ann: ScopedStore):
    """Who has the title or the key, if it is one's own."""
    with pytest.raises(TitleTaken, match="'ann-1'") as title:
        await ann.sessions.set_title("ann-2", "ann-1 title")
    with pytest.raises(KeyTaken, match="'ann-1'") as key:
        await ann.sessions.create(key="ann-1 key")
    assert title.value.by == key.value.by == "ann-1"


async def test_what_is_made_in_a_scope_is_its_users(house: AsyncSessionStore, ann: ScopedStore):
    """create, ensure, for_key and fork, whether the user was said or not; the store sees whose it is."""
    sessions = ann.sessions
    made = [
        await sessions.create(), await sessions.create(user_id="ann"), await sessions.ensure("e"),
        await sessions.for_key("k"), await sessions.for_key("k", reset="r", user_id="ann"),
        await sessions.fork("ann-1"), await sessions.create(parent_id="ann-2"),
    ]  # fmt: skip
    for session in made:
        assert session.user_id == "ann"
        assert await house.sessions.get(session.id) == await sessions.get(session.id)


async def test_ensure_leaves_out_what_others_have(house: AsyncSessionStore, ann: ScopedStore):
    """On one's own session it is never an error: title, live key and parent of others stay theirs."""
    await ann.sessions.create("new")
    found = await ann.sessions.ensure("new", title="bob-1 title", key="bob-1 key", parent_id="bob-1", model="m")
    assert (found.title, found.key, found.parent_id, found.model) == (None, None, None, "m")
    assert leaks(found) == []


async def test_the_next_title_is_free_in_the_whole_store(house: AsyncSessionStore, ann: ScopedStore):
    """Titles are unique in the store: numbers of others are passed over, and nothing else of them is told."""
    assert await ann.sessions.next_title("bob-1 title") == "bob-1 title #8"
    assert await ann.sessions.set_title("ann-1", "bob-1 title #8") == "bob-1 title #8"
    assert await ann.sessions.resolve_title("bob-1 title") == "ann-1"
    assert await house.sessions.resolve_title("bob-1 title") == "bob-v"


async def test_reopening_does_not_end_anothers_session(house: AsyncSessionStore, ann: ScopedStore):
    """The key of an ended session went to Bob: KeyTaken, whatever is said, and his session lives."""
    await house.sessions.create("ann-old", user_id="ann", key="shared")
    await house.sessions.end("ann-old", "done")
    bobs = await house.sessions.for_key("shared", user_id="bob", session_id="bob-3")
    for switch in (None, "mine"):
        with pytest.raises(KeyTaken) as taken:
            await ann.sessions.reopen("ann-old", switch=switch)
        assert leaks(taken.value) == []
    assert await house.sessions.get("bob-3") == bobs


# -- all there is ----------------------------------------------------------------------------------

ANNS = {"ann-1", "ann-2", "ann-below"}


async def test_listings_and_totals_have_ones_own_only(ann: ScopedStore):
    """Without filters and with them; a filter for another user, or for what only others have, finds nothing."""
    sessions = ann.sessions
    assert {each.id for each in await sessions.list(limit=None)} == ANNS
    assert {each.id async for each in sessions.stream(order="created")} == ANNS
    assert {each["id"] async for each in sessions.export_all()} == ANNS
    assert (await sessions.count(), await ann.messages.count()) == (3, 3 * 4)
    assert {total.group for total in await ann.usage.totals()} == ANNS
    assert sum(total.rounds for total in await ann.usage.totals(by="day")) == 3
    assert {hit.session_id async for hit in ann.search("word", limit=None)} == ANNS
    assert {
        hit.session_id async for hit in ann.search("word", limit=None, order="oldest", include_rewound=True)
    } == ANNS
    for user in ("ann", ["ann"], ["bob", "ann"]):
        assert {each.id for each in await sessions.list(user_id=user)} == ANNS
        assert {each["id"] async for each in sessions.export_all(user_id=user)} == ANNS
        assert {total.group for total in await ann.usage.totals(user_id=user)} == ANNS
        assert {hit.session_id async for hit in ann.search("word", user_id=user, limit=None)} == ANNS
    for user in ("bob", ["bob"], [], ""):
        assert len(await sessions.list(user_id=user)) == await sessions.count(user_id=user) == 0
        assert await outcome(lambda user=user: sessions.export_all(user_id=user)) == []
        assert await ann.usage.totals(user_id=user) == []
        assert await outcome(lambda user=user: ann.search("word", user_id=user)) == []
        assert await outcome(lambda user=user: ann.search("word", user_id=user, session="bob-1")) == []


async def test_pages_of_a_listing_have_no_holes(house: AsyncSessionStore, ann: ScopedStore):
    """Sessions of others in between take no place on a page; a cursor from elsewhere opens nothing."""
    for n in range(12):
        await house.sessions.create(f"{'ann' if n % 3 else 'bob'}-p{n}", user_id="ann" if n % 3 else "bob")
    for order in ("activity", "created"):
        seen: list[str] = []
        after = None
        while True:
            page = await ann.sessions.list(order=order, limit=2, after=after)
            seen += [each.id for each in page]
            assert len(page) == 2 or page.next is None
            after = page.next
            if after is None:
                break
        assert len(seen) == len(set(seen)) == 11
        theirs = (await house.sessions.list(order=order, limit=1)).next
        assert leaks(await ann.sessions.list(order=order, limit=None, after=theirs)) == []


async def test_a_message_is_found_by_id_only_by_its_user(house: AsyncSessionStore, ann: ScopedStore):
    """Ids number the whole store: those of others' messages are of nothing."""
    own = {message.id for id in ANNS for message in await house.messages.list(id, state="all")}
    top = await last_number(house)
    found = [message for n in range(top + 2) if (message := await ann.messages.get(id=n))]
    assert {message.id for message in found} == own
    assert leaks(found) == []


async def test_a_prefix_is_one_among_ones_own(house: AsyncSessionStore, ann: ScopedStore):
    """Others' ids make no prefix ambiguous, and none resolves to them."""
    await house.sessions.create("ann-1x", user_id="bob")
    await house.sessions.create("zeta-1", user_id="ann")
    await house.sessions.create("zeta-2", user_id="bob")
    assert await ann.sessions.resolve("ann-1") == "ann-1"
    assert await ann.sessions.resolve("zeta") == "zeta-1"
    for prefix in ("bo", "bob-1", "no", "zeta-2", "ann-1x"):
        assert await ann.sessions.resolve(prefix) is None


async def test_prune_takes_ones_own_only(house: AsyncSessionStore, ann: ScopedStore):
    """Everything of Ann's, nothing of anybody else's; Bob's child of hers has no parent then. A dry run says so."""
    before = await everything(house, "bob", None)
    assert set(await ann.sessions.prune(idle_for=EVER, include_active=True, dry_run=True)) == ANNS
    assert set(await ann.sessions.prune(idle_for=EVER, include_active=True)) == ANNS
    before["bob-below"]["parent_id"] = before["nobodys-below"]["parent_id"] = None
    assert await everything(house, "ann", "bob", None) == before


async def test_a_cascade_takes_nobodys_children_along_and_leaves_others(house: AsyncSessionStore, ann: ScopedStore):
    """Spawned below Ann's by agents that said no user: they go with it, unnamed. Bob's stays, and what is below it."""
    await house.sessions.create("spawned", parent_id="ann-2")
    await house.sessions.create("anns-deep", user_id="ann", parent_id="bob-below")
    gone = await ann.sessions.delete("ann-1")
    assert gone == ["ann-1", "ann-2"]
    assert await house.sessions.get("spawned") is None
    assert (await house.sessions.get("bob-below")).parent_id is None
    assert (await house.sessions.get("anns-deep")).parent_id == "bob-below"
    assert (await house.sessions.get("nobodys-below")).parent_id is None


async def test_lines_that_lead_through_others_tell_of_ones_own(house: AsyncSessionStore, ann: ScopedStore):
    """Ann's above and below Bob's are hers; he between them is not there, and nobody's parent."""
    await house.sessions.create("ann-deep", user_id="ann", parent_id="bob-below", relation="continuation")
    await house.messages.append("ann-deep", role="user", content="deep")
    deep = await ann.sessions.get("ann-deep")
    assert deep.parent_id is None
    assert leaks(await ann.sessions.descendants("ann-1"), "followup") == []
    assert {each.id for each in await ann.sessions.ancestors("ann-deep")} <= ANNS
    assert [turn["content"] for turn in await ann.messages.conversation("ann-deep", ancestors=True)] == ["deep"]
    told = await ann.messages.conversation("ann-below", ancestors=True)
    assert leaks(told) == []
    assert told == await house.messages.conversation("ann-below")


async def test_the_tip_is_the_latest_of_ones_own(house: AsyncSessionStore, ann: ScopedStore):
    """A continuation that is not there for Ann does not stand before one that is."""
    for n, user in enumerate(("ann", "bob")):
        await house.sessions.create(
            f"{user}-next", user_id=user, parent_id="ann-2", relation="continuation", created_at=AT + n * HOUR
        )
    assert (await ann.sessions.tip("ann-2")).id == "ann-next"


async def test_whose_child_a_session_is_cannot_be_asked(house: AsyncSessionStore, ann: ScopedStore):
    """Bob's session is not there, so nothing is below it: as children says, so list, stream, count and export_all."""
    assert await ann.sessions.children("bob-1") == []
    for method in ("stream", "export_all"):
        assert await outcome(lambda method=method: getattr(ann.sessions, method)(parent_id="bob-1")) == []
    assert await ann.sessions.count(parent_id="bob-1") == len(await ann.sessions.list(parent_id="bob-1")) == 0


async def test_a_user_who_was_filled_in_late_has_his_words(house: AsyncSessionStore, ann: ScopedStore):
    """What was said before ensure said whose session it is, is found by him, and by nobody else."""
    bob = house.scoped(user_id="bob")
    await house.sessions.create("late")
    await house.messages.append("late", role="user", content="early words")
    await house.flush(index=True)
    assert await outcome(lambda: ann.search("early")) == []
    await house.sessions.ensure("late", user_id="ann")
    await house.messages.append("late", role="user", content="early and late words")
    assert [hit.seq for hit in await outcome(lambda: ann.search("early", order="oldest"))] == [1, 2]
    assert (await ann.sessions.get("late")).message_count == 2
    assert await outcome(lambda: bob.search("early")) == []


async def test_events_of_others_are_not_found(house: AsyncSessionStore, ann: ScopedStore):
    """Neither by their words nor by their session; those of no session are nobody's."""
    for session_id in ("ann-1", "bob-1", "nobodys", "unheard-of", None):
        await house.events.record({"kind": "tool", "session_id": session_id, "text": "happening"})
    assert len(await outcome(lambda: house.search("happening"))) == 5
    assert {hit.session_id async for hit in ann.search("happening")} <= {"ann-1"}
    assert [hit.session_id async for hit in ann.search("happening", session="ann-1", kinds="event")] == ["ann-1"]
    for session_id in ("bob-1", "nobodys", "unheard-of"):
        assert await outcome(lambda id=session_id: ann.search("happening", session=id)) == []


# -- moving ----------------------------------------------------------------------------------------


async def test_an_export_comes_back_as_it_was(house: AsyncSessionStore, ann: ScopedStore):
    """Of a session whose parent is another's, without that parent; else every column."""
    records = [record async for record in ann.sessions.export_all()]
    assert leaks(records) == []
    async with AsyncSessionStore(":memory:") as other:
        report = await other.scoped(user_id="ann").sessions.import_(records)
        assert (report.inserted["sessions"], report.rejected.total()) == (3, 0)
        assert [record async for record in other.sessions.export_all()] == records


async def test_only_ones_own_records_are_taken_in(house: AsyncSessionStore, ann: ScopedStore):
    """Those of others are rejected, those of nobody become one's own; ids, titles, keys and parents of others are left
    out and reported, without a word of who has them, and nothing that is theirs changes."""
    before = await everything(house, "bob", None)
    own = {"user_id": "ann"}
    records = [
        {"id": "i1", "user_id": "bob"},
        {"id": "i2"},
        {"id": "bob-1", **own, "messages": [{"role": "user", "content": "x"}]},
        {"id": "i4", **own, "title": "bob-1 title"},
        {"id": "i5", **own, "key": "bob-1 key"},
        {"id": "i6", **own, "parent_id": "bob-1", "relation": "fork"},
        {"id": "i7", **own, "parent_id": "nobodys", "relation": "fork"},
        {"id": "i8", **own, "parent_id": "ann-1", "relation": "fork"},
        {"id": "i9", **own},
    ]
    report = await ann.sessions.import_(records)
    assert (report.inserted["sessions"], report.duplicate["sessions"], report.existing) == (7, 1, ("bob-1",))
    assert [(each.kind, each.line) for each in report.rejections] == [
        ("sessions", 1), ("titles", 4), ("keys", 5), ("parents", 6), ("parents", 7),
    ]  # fmt: skip
    assert leaks(report, "bob-1 title", "bob-1 key", "bob-1", "nobodys") == []
    found = {id: await ann.sessions.get(id) for id in ("i1", "i2", "i4", "i5", "i6", "i7", "i8", "i9")}
    assert found["i1"] is None
    assert [found[id].user_id for id in ("i2", "i4", "i5", "i6", "i7", "i8", "i9")] == ["ann"] * 7
    assert [found[id].parent_id for id in ("i6", "i7", "i8")] == [None, None, "ann-1"]
    assert (await house.sessions.get("i6")).parent_id is None
    assert (found["i4"].title, found["i5"].key) == (None, None)
    assert await everything(house, "bob", None) == before


# -- at once ---------------------------------------------------------------------------------------


async def test_appends_of_two_users_in_one_batch_are_told_apart(house: AsyncSessionStore, hold):
    """Queued together, for one's own sessions and the other's: each is judged by who calls."""
    scopes = {"ann": house.scoped(user_id="ann"), "bob": house.scoped(user_id="bob"), None: house}
    owners = {"ann-1": "ann", "bob-1": "bob", "nobodys": None, "unknown": ...}
    calls = [(user, id) for _ in range(5) for user in scopes for id in owners]
    async with hold(house):
        tasks = [asyncio.ensure_future(scopes[user].messages.append(id, role="user")) for user, id in calls]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for (user, id), result in zip(calls, outcomes, strict=True):
        allowed = owners[id] is not ... and user in (None, owners[id])
        assert type(result) is (MessageRef if allowed else SessionNotFound), (user, id, result)


async def test_a_receipt_of_anothers_session_fails_as_of_an_unknown_one(house: AsyncSessionStore, ann: ScopedStore):
    """Awaited or not: SessionNotFound, with the id that was typed."""
    with pytest.raises(SessionNotFound, match="'bob-1'"):
        await ann.messages.append_nowait("bob-1", role="user")
    ann.messages.append_nowait("bob-1", role="user")
    with pytest.raises(SessionNotFound, match="'bob-1'"):
        await house.flush()


async def test_an_id_that_was_anothers_can_be_ones_own(house: AsyncSessionStore, ann: ScopedStore):
    """Deleted by Bob, it is free: what Ann makes of it is hers, and of his words nothing is found."""
    bob = house.scoped(user_id="bob")
    await bob.sessions.delete("bob-1")
    await ann.sessions.create("bob-1")
    assert await bob.sessions.get("bob-1") is None
    assert await ann.messages.count("bob-1") == 0
    assert await outcome(lambda: ann.search("word", session="bob-1", include_rewound=True)) == []
    assert await ann.usage.rounds("bob-1") == []


@pytest.mark.parametrize("wrong", ["", None, 1, "a\x00", "\ud800"])
def test_a_scope_needs_a_user(memory: AsyncSessionStore, wrong: object):
    """A user that nobody can be is refused at once: there is no scope of everybody."""
    with pytest.raises(InvalidRecord, match="user_id"):
        memory.scoped(user_id=wrong)


# -- whatever two users do -------------------------------------------------------------------------

Step = tuple[str, str]
STEPS = [name for name in ON_A_SESSION if name != "sessions.prune"]  # what it takes is a matter of milliseconds


def program(user: str, seed: int) -> list[Step]:
    """What a user does: to sessions of his own, of the other's, and to unknown ones."""
    dice = random.Random(f"{user} {seed}")
    targets = [f"{owner}-{n}" for owner in ("ann", "bob") for n in range(3)] + ["unknown"]
    own = [f"{user}-{n}" for n in range(3)]
    steps: list[Step] = [("create", id) for id in own]
    steps += [
        (dice.choice(["create", "ensure", "for_key", "below"]), dice.choice(own))
        if dice.random() < 0.2
        else (dice.choice(STEPS), dice.choice(targets))
        for _ in range(70)
    ]
    return steps


async def done(scope: ScopedStore, step: Step) -> str:
    """What a step came to, without what differs from run to run: times and the numbers of the whole store."""
    name, id = step
    sessions = scope.sessions
    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: sessions.create(id, title=f"{id} title", key=f"{id} key", source=f"{id} source"),
        "ensure": lambda: sessions.ensure(id, title=f"{id} title", model=f"{id} model"),
        "for_key": lambda: sessions.for_key(f"{id} key", session_id=f"{id}-next", reset="r", title=f"{id} title #2"),
        "below": lambda: sessions.create(f"{id}-below", parent_id=id),
        "sessions.fork": lambda: sessions.fork(id, session_id=f"{id}-fork"),
        "sessions.set_title": lambda: sessions.set_title(id, f"{scope.user_id} renamed {id}"),
    }
    result = await outcome(calls.get(name, lambda: ON_A_SESSION[name](scope, id)))
    if isinstance(result, BaseException):
        return f"{type(result).__name__}: {result}"
    if isinstance(result, Turn):
        return f"the turn of {result.session_id}, for {result.holder}"
    plain = _without_numbers(msgspec.to_builtins(result, builtin_types=(datetime,)))
    if name in ("sessions.list", "sessions.stream"):  # the order is that of the seconds in which they were active
        plain = sorted(map(repr, plain["items"] if isinstance(plain, dict) else plain))
    return repr(plain)


def _without_numbers(value: Any) -> Any:
    if isinstance(value, datetime):
        return "a time"
    if isinstance(value, dict):
        return {
            name: _without_numbers(inner)
            for name, inner in value.items()
            if name not in ("next", "cursor", "score") and not name.endswith("_at") and not (name == "id" and isinstance(inner, int))
        }  # fmt: skip
    if isinstance(value, list | tuple):
        if len(value) == 2 and all(type(inner) is int for inner in value):
            return value[1]  # a reference: its seq
        return [_without_numbers(inner) for inner in value]
    return value


@pytest.mark.parametrize("seed", range(8))
async def test_nobody_can_tell_whether_there_are_others(seed: int):
    """Two users do what they like, also with each other's ids, one step here, one there: each gets word for word
    what he would get if he were alone in the store."""
    alone: dict[str, list[str]] = {}
    for user in ("ann", "bob"):
        async with AsyncSessionStore(":memory:") as store:
            scope = store.scoped(user_id=user)
            alone[user] = [await done(scope, step) for step in program(user, seed)]
    dice = random.Random(seed)
    together: dict[str, list[str]] = {"ann": [], "bob": []}
    async with AsyncSessionStore(":memory:") as store:
        left = {user: list(program(user, seed)) for user in together}
        while any(left.values()):
            user = dice.choice([user for user, steps in left.items() if steps])
            step = left[user].pop(0)
            together[user].append(await done(store.scoped(user_id=user), step))
    for user in ("ann", "bob"):
        for step, here, there in zip(program(user, seed), together[user], alone[user], strict=True):
            assert here == there, (user, step)


# -- events ----------------------------------------------------------------------------------------


async def test_events_recorded_in_a_scope_are_its_users(house: AsyncSessionStore, ann: ScopedStore):
    """Also those that name another's session: who has that does not see them, nor learns of them."""
    mine, forged, free = await ann.events.record_many(
        [
            {"kind": "note", "session_id": "ann-1"},
            {"kind": "note", "session_id": "bob-1"},
            {"kind": "note"},
        ]
    )
    assert await ann.events.record({"kind": "note", "session_id": "nobodys"}) > free
    assert {event.id for event in await ann.events.recent("note")} >= {mine, forged, free}
    bob = house.scoped(user_id="bob")
    assert "note" not in await bob.events.kinds()
    assert [event async for event in bob.events.stream(kind="note")] == []
    assert {event.id for event in await house.events.recent("note")} >= {mine, forged, free}


async def test_kinds_of_events_are_ones_own(ann: ScopedStore):
    """Kinds that only others have are not told."""
    assert leaks(await ann.events.kinds()) == []
    assert "ann-1 kind" in await ann.events.kinds()


async def test_a_transport_of_a_scope_stores_for_its_user(house: AsyncSessionStore, ann: ScopedStore):
    """Whatever session the events name."""
    async with ann.transport() as transport:
        transport.publish({"event": "deploy", "session_id": "bob-1"})
        await transport.flush()
    assert [event.session_id for event in await ann.events.recent("deploy")] == ["bob-1"]
    assert "deploy" not in await house.scoped(user_id="bob").events.kinds()


async def test_a_watch_of_a_scope_tells_what_is_its_users(house: AsyncSessionStore, ann: ScopedStore):
    """Messages, events and what happens to sessions, also that they were deleted; nothing of others."""
    seen: list[Change] = []
    async with ann.watch() as live:
        for session_id in ("bob-1", "ann-1", "nobodys"):
            await house.messages.append(session_id, role="user", content=f"more of {session_id}")
            await house.events.record({"kind": "note", "session_id": session_id})
            await house.sessions.end(session_id, f"end of {session_id}")
            if session_id == "ann-1":  # once it is deleted, only that is told
                seen = [await anext(live) for _ in range(3)]
            await house.sessions.delete(session_id, cascade=False)
        seen.append(await anext(live))
    assert [(change.kind, change.session_id) for change in seen] == [
        ("message", "ann-1"), ("note", "ann-1"), ("store.ended", "ann-1"), ("store.deleted", "ann-1"),
    ]  # fmt: skip
    again = ann.watch(after=seen[2].cursor)
    assert (await anext(again)).kind == "store.deleted", "also replayed, when nothing else of the session is left"
    await again.aclose()
