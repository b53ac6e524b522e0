"""Lineage: who is above and below whom, how deep, and what becomes of children when somebody goes."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from recollect import AsyncSessionStore, InvalidRecord, Limits, Relation, SessionNotFound, SpawnTooDeep, StoreError

AT = datetime(2020, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CHAIN = 1_000

DANGLING = """
SELECT c.id FROM sessions c LEFT JOIN sessions p ON p.session = c.parent
WHERE c.id IS NOT NULL AND c.parent IS NOT NULL AND p.id IS NULL"""


async def no_parent_dangles(store: AsyncSessionStore) -> None:
    """Every parent that a session has is a session that is there."""
    assert await store.query(DANGLING) == []
    for session in (await store.sessions.list(limit=None)).items:
        if session.parent_id is not None:
            assert await store.sessions.get(session.parent_id) is not None
            assert session.id in [child.id for child in await store.sessions.children(session.parent_id)]


async def parents(store: AsyncSessionStore) -> dict[str, str | None]:
    """Who is there, and below whom."""
    return {session.id: session.parent_id for session in (await store.sessions.list(limit=None)).items}


@pytest.fixture
async def family(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """root ─ spawned (spawn) ─ deep (spawn), beside it later (followup); root ─ forked (fork); root ─ next
    (continuation) ─ last (continuation), beside it other (continuation, earlier). And a stranger."""
    create = any_store.sessions.create
    await create("root", created_at=AT)
    await create("stranger", created_at=AT)
    for hours, name, parent, relation in (
        (5, "spawned", "root", "spawn"), (4, "forked", "root", "fork"), (3, "next", "root", "continuation"),
        (7, "deep", "spawned", "spawn"), (6, "later", "spawned", "followup"), (9, "last", "next", "continuation"),
        (8, "other", "next", "continuation"),
    ):  # fmt: skip
        await create(name, parent_id=parent, relation=relation, created_at=AT + hours * HOUR)
    return any_store


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "children", "ancestors", "descendants", "root", "tip"),
    [
        ("root", "next forked spawned", "", "next forked spawned later deep other last", "root", "last"),
        ("spawned", "later deep", "root", "later deep", "root", "spawned"),
        ("deep", "", "root spawned", "", "root", "deep"),
        ("later", "", "root spawned", "", "root", "later"),
        ("forked", "", "root", "", "root", "forked"),
        ("next", "other last", "root", "other last", "root", "last"),
        ("other", "", "root next", "", "root", "other"),
        ("last", "", "root next", "", "root", "last"),
        ("stranger", "", "", "", "stranger", "stranger"),
    ],
)
async def test_the_family_of_a_session(
    family: AsyncSessionStore, name: str, children: str, ancestors: str, descendants: str, root: str, tip: str
):
    """Children and descendants by creation, ancestors from the root down, the root, and where the line goes on to."""
    sessions = family.sessions
    assert [each.id for each in await sessions.children(name)] == children.split()
    assert [each.id for each in await sessions.ancestors(name)] == ancestors.split()
    assert [each.id for each in await sessions.descendants(name)] == descendants.split()
    assert (await sessions.root(name)).id == root
    assert (await sessions.tip(name)).id == tip


async def test_relatives_are_whole_sessions(family: AsyncSessionStore):
    """As get returns them, with everything that is known of them."""
    await family.sessions.update("spawned", system_prompt="p", config={"a": 1}, metadata={"b": 2})
    await family.messages.append("spawned", role="user", content="hello")
    sessions = family.sessions
    found = [*await sessions.children("root"), *await sessions.descendants("root"), *await sessions.ancestors("deep")]
    found += [await sessions.root("deep"), await sessions.tip("root")]
    assert "spawned" in {each.id for each in found}
    for each in found:
        assert each == await sessions.get(each.id)


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        (None, "next forked spawned"),
        ("spawn", "spawned"),
        (Relation.FORK, "forked"),
        (["fork", "continuation"], "next forked"),
        (("spawn", Relation.SPAWN), "spawned"),
        (list(Relation), "next forked spawned"),
        ("followup", ""),
        ([], ""),
    ],
)
async def test_children_of_some_relations(family: AsyncSessionStore, relation: object, expected: str):
    """One relation, several, or all of them; an empty list matches none."""
    assert [each.id for each in await family.sessions.children("root", relation=relation)] == expected.split()


async def test_an_unknown_relation_is_refused(family: AsyncSessionStore):
    """InvalidRecord names those that there are."""
    for relation in ("cousin", ["spawn", "cousin"], "", 1):
        with pytest.raises(InvalidRecord, match="spawn, continuation, fork, followup"):
            await family.sessions.children("root", relation=relation)


async def test_brothers_of_one_moment_are_in_the_order_of_their_ids(any_store: AsyncSessionStore):
    """By creation, then by id, however they came; of continuations the last by that order is the tip."""
    await any_store.sessions.create("p")
    for name in ("c", "a", "d", "b"):
        await any_store.sessions.create(name, parent_id="p", relation="continuation", created_at=AT)
    await any_store.sessions.create("0", parent_id="p", relation="continuation", created_at=AT - HOUR)
    assert [each.id for each in await any_store.sessions.children("p")] == ["0", "a", "b", "c", "d"]
    assert [each.id for each in await any_store.sessions.descendants("p")] == ["0", "a", "b", "c", "d"]
    assert (await any_store.sessions.tip("p")).id == "d"


async def test_an_unknown_session_has_no_family(family: AsyncSessionStore):
    """Reading is no error: nothing, for ids that are unknown, deleted, or no ids at all."""
    await family.sessions.delete("stranger")
    for name in ("nobody", "stranger", "", "\x00", "%"):
        for method in ("children", "ancestors", "descendants"):
            assert await getattr(family.sessions, method)(name) == []
        for method in ("root", "tip"):
            assert await getattr(family.sessions, method)(name) is None


async def test_the_tip_follows_continuations_only_and_whatever_their_status(any_store: AsyncSessionStore):
    """A fork, a spawned one and a followup are lines of their own; an ended or archived continuation goes on."""
    sessions = any_store.sessions
    await sessions.create("a", created_at=AT)
    await sessions.create("b", parent_id="a", relation="continuation", created_at=AT + HOUR)
    for n, relation in enumerate(("fork", "spawn", "followup")):
        await sessions.create(relation, parent_id="b", relation=relation, created_at=AT + (n + 2) * HOUR)
        await sessions.create(f"{relation}-2", parent_id=relation, relation="continuation")
    assert (await sessions.tip("a")).id == "b"
    await sessions.end("b", "compacted")
    await sessions.archive("b")
    assert (await sessions.tip("a")).id == "b"
    await sessions.create("c", parent_id="b", relation="continuation", created_at=AT + 9 * HOUR)
    assert (await sessions.tip("a")).id == "c"
    await sessions.delete("c")
    assert (await sessions.tip("a")).id == "b"


# -- depth -----------------------------------------------------------------------------------------


async def test_only_spawning_goes_deeper(any_store: AsyncSessionStore):
    """The depth is the number of spawns above; the limit meets those alone, and counts through the others."""
    sessions = any_store.sessions
    await sessions.create("s")
    parent = "s"
    for n in range(3):
        for relation in ("spawn", "continuation", "fork", "followup"):
            name = f"{relation}-{n}"
            session = await sessions.create(name, parent_id=parent, relation=relation)
            assert session.spawn_depth == n + 1
            parent = name
    with pytest.raises(SpawnTooDeep, match=r"limits\.spawn_depth is 3"):
        await sessions.create("deeper", parent_id=parent)
    with pytest.raises(SpawnTooDeep):
        await sessions.ensure("deeper", parent_id=parent)
    assert await sessions.get("deeper") is None
    assert (await sessions.create("beside", parent_id=parent, relation="fork")).spawn_depth == 3


async def test_the_limit_of_depth_is_the_stores():
    """limits.spawn_depth generations, exactly."""
    async with AsyncSessionStore(":memory:", limits=Limits(spawn_depth=7)) as store:
        parent = (await store.sessions.create()).id
        for _ in range(7):
            parent = (await store.sessions.create(parent_id=parent)).id
        with pytest.raises(SpawnTooDeep):
            await store.sessions.create(parent_id=parent)
        assert (await store.sessions.root(parent)).spawn_depth == 0


async def test_the_depth_stays_when_the_parent_goes(family: AsyncSessionStore):
    """An orphan is as deep as it was spawned: losing a parent is no way around the limit."""
    await family.sessions.delete("root", cascade=False)
    depths = {each.id: each.spawn_depth for each in (await family.sessions.list(limit=None)).items}
    assert depths == {"spawned": 1, "deep": 2, "later": 1, "forked": 0, "next": 0, "last": 0, "other": 0, "stranger": 0}
    await no_parent_dangles(family)


async def test_a_parent_that_is_gone_is_no_parent(family: AsyncSessionStore):
    """Nothing can be created or forked below a session that was deleted."""
    await family.sessions.delete("deep")
    with pytest.raises(SessionNotFound, match="deep"):
        await family.sessions.create("x", parent_id="deep")
    with pytest.raises(SessionNotFound, match="deep"):
        await family.sessions.fork("deep", session_id="x")
    assert await family.sessions.get("x") is None


# -- long chains -----------------------------------------------------------------------------------


@pytest.fixture
async def chain(memory: AsyncSessionStore) -> AsyncIterator[AsyncSessionStore]:
    """c0 to c999, each the continuation of the one before, with a message in every hundredth; half way a fork."""
    for n in range(CHAIN):
        parent = {"parent_id": f"c{n - 1}", "relation": "continuation"} if n else {}
        await memory.sessions.create(f"c{n}", created_at=AT + n * HOUR, **parent)
        if n % 100 == 0:
            await memory.messages.append(f"c{n}", role="user", content=f"in c{n}")
    await memory.sessions.create("forked", parent_id="c500", relation="fork", created_at=AT + CHAIN * HOUR)
    return memory


async def test_a_thousand_continuations_are_one_line(chain: AsyncSessionStore):
    """However long: ancestors in order, root, tip, descendants and the conversation, from anywhere in it."""
    sessions = chain.sessions
    last = await sessions.get(f"c{CHAIN - 1}")
    assert last.spawn_depth == 0
    names = [f"c{n}" for n in range(CHAIN)]
    assert [each.id for each in await sessions.ancestors(last.id)] == names[:-1]
    assert [each.id for each in await sessions.descendants("c0")] == [*names[1:], "forked"]
    for name in ("c0", "c1", "c500", last.id):
        assert (await sessions.root(name)).id == "c0"
        assert await sessions.tip(name) == last
    assert (await sessions.tip("forked")).id == "forked"
    told = [turn["content"] for turn in await chain.messages.conversation(last.id, ancestors=True)]
    assert told == [f"in c{n}" for n in range(0, CHAIN, 100)]
    newest = await chain.messages.conversation(last.id, ancestors=True, limit=3)
    assert [turn["content"] for turn in newest] == told[-3:]


async def test_a_line_that_was_cut_is_two(chain: AsyncSessionStore):
    """Delete one in the middle: what was below it is a line with a root of its own."""
    assert await chain.sessions.delete("c400") == ["c400"]
    assert (await chain.sessions.root("c999")).id == "c401"
    assert (await chain.sessions.tip("c0")).id == "c399"
    assert len(await chain.sessions.ancestors("c999")) == CHAIN - 402
    assert await chain.query(DANGLING) == []


# -- conversations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", list(Relation))
async def test_a_conversation_goes_on_across_continuations_alone(any_store: AsyncSessionStore, relation: Relation):
    """What the parent said is told before what a continuation says, and before nothing else's."""
    await any_store.sessions.create("p")
    await any_store.sessions.create("c", parent_id="p", relation=relation)
    await any_store.messages.append("p", role="user", content="before")
    await any_store.messages.append("c", role="user", content="after")
    told = [turn["content"] for turn in await any_store.messages.conversation("c", ancestors=True)]
    assert told == (["before", "after"] if relation is Relation.CONTINUATION else ["after"])
    assert [turn["content"] for turn in await any_store.messages.conversation("c")] == ["after"]
    assert [turn["content"] for turn in await any_store.messages.conversation("p", ancestors=True)] == ["before"]


async def test_a_conversation_stops_where_the_line_began_otherwise(any_store: AsyncSessionStore):
    """a ─continuation─ b ─fork─ c ─continuation─ d: d tells c and d. A limit keeps the newest, across sessions."""
    relations = {"a": None, "b": "continuation", "c": "fork", "d": "continuation", "e": "continuation"}
    for before, (name, relation) in zip(" abcd", relations.items(), strict=True):
        await any_store.sessions.create(name, **({"parent_id": before, "relation": relation} if relation else {}))
        await any_store.messages.append_many(name, [{"role": "user", "content": f"{name}{n}"} for n in (1, 2)])

    async def told(name: str, limit: int | None = None) -> str:
        turns = await any_store.messages.conversation(name, ancestors=True, limit=limit)
        return " ".join(turn["content"] for turn in turns)

    assert await told("e") == "c1 c2 d1 d2 e1 e2"
    assert await told("b") == "a1 a2 b1 b2"
    assert [await told("e", n) for n in (0, 1, 2, 3, 5, 6, 7)] == [
        "", "e2", "e1 e2", "d2 e1 e2", "c2 d1 d2 e1 e2", "c1 c2 d1 d2 e1 e2", "c1 c2 d1 d2 e1 e2",
    ]  # fmt: skip
    await any_store.messages.clear("d")
    assert await told("e") == "c1 c2 e1 e2"
    await any_store.sessions.delete("c")
    assert await told("e") == "e1 e2"


async def test_an_unknown_conversation_is_empty(any_store: AsyncSessionStore):
    """With ancestors or without."""
    for ancestors in (False, True):
        assert await any_store.messages.conversation("nobody", ancestors=ancestors) == []


# -- what goes with whom ---------------------------------------------------------------------------

RETURNS_AND_CLOSES = """
relation      lifecycle  | completed  failed  | cascade  no cascade
spawn         ephemeral  | gone       kept    | gone     kept
spawn         linked     | kept       kept    | gone     kept
spawn         detached   | kept       kept    | kept     kept
continuation  ephemeral  | kept       kept    | kept     kept
continuation  linked     | kept       kept    | kept     kept
continuation  detached   | kept       kept    | kept     kept
fork          ephemeral  | kept       kept    | kept     kept
fork          linked     | kept       kept    | kept     kept
fork          detached   | kept       kept    | kept     kept
followup      ephemeral  | kept       kept    | kept     kept
followup      linked     | kept       kept    | kept     kept
followup      detached   | kept       kept    | kept     kept
"""
"""What becomes of a child when it returns with a status, and when its parent is deleted: a line per kind of
child. Nothing but spawned ones ever goes; and what stays without its parent has none."""


def cells() -> list[tuple[str, str, str, bool, bool, bool]]:
    """Relation, lifecycle, status, cascade; whether it goes when it returns, and when its parent is deleted."""
    found: list[tuple[str, str, str, bool, bool, bool]] = []
    for line in RETURNS_AND_CLOSES.strip().splitlines()[1:]:
        (relation, lifecycle), returns, closes = (part.split() for part in line.split("|"))
        for (status, returned), (cascade, closed) in itertools.product(
            zip(("completed", "failed"), returns, strict=True), zip((True, False), closes, strict=True)
        ):
            found.append((relation, lifecycle, status, cascade, returned == "gone", closed == "gone"))
    return found


MATRIX = pytest.mark.parametrize(
    ("relation", "lifecycle", "status", "cascade", "goes_on_return", "goes_on_close"), cells()
)


def test_the_matrix_is_whole():
    """Every relation, lifecycle, status and cascade is in it, once."""
    assert len(cells()) == len({cell[:4] for cell in cells()}) == 4 * 3 * 2 * 2


async def returns(store: AsyncSessionStore, relation: str, status: str, goes: bool) -> None:
    """The child returns: gone, or kept; a spawned one that is kept has ended with the status."""
    before = await store.sessions.get("child")
    assert await store.sessions.returned("child", status) is goes
    after = await store.sessions.get("child")
    assert (after is None) is goes
    if after is not None and relation == "spawn":
        assert (after.status, after.end_reason) == ("ended", status)
    elif after is not None:
        assert after == before, "what was not spawned does not return"
    await no_parent_dangles(store)


@MATRIX
async def test_a_child_returns_and_then_its_parent_is_deleted(
    memory: AsyncSessionStore, relation: str, lifecycle: str, status: str, cascade: bool, goes_on_return: bool,
    goes_on_close: bool,
):  # fmt: skip
    """Each cell of the table, with a grandchild that keeps it company: spawned and ephemeral."""
    await memory.sessions.create("parent")
    await memory.sessions.create("child", parent_id="parent", relation=relation, lifecycle=lifecycle)
    await memory.sessions.create("grandchild", parent_id="child")
    await returns(memory, relation, status, goes_on_return)
    here = {} if goes_on_return else {"child": "parent", "grandchild": "child"}
    assert await parents(memory) == {"parent": None, **here}

    gone = await memory.sessions.delete("parent", cascade=cascade)
    goes = goes_on_close and not goes_on_return
    assert gone == ["parent", *(["child", "grandchild"] if goes else [])]
    assert await parents(memory) == ({} if goes or goes_on_return else {"child": None, "grandchild": "child"})
    await no_parent_dangles(memory)


@MATRIX
async def test_a_parent_is_deleted_and_then_its_child_returns(
    memory: AsyncSessionStore, relation: str, lifecycle: str, status: str, cascade: bool, goes_on_return: bool,
    goes_on_close: bool,
):  # fmt: skip
    """The other way round: an orphan returns as it would have, and one that is gone is SessionNotFound."""
    await memory.sessions.create("parent")
    await memory.sessions.create("child", parent_id="parent", relation=relation, lifecycle=lifecycle)
    assert await memory.sessions.delete("parent", cascade=cascade) == ["parent", *(["child"] if goes_on_close else [])]
    await no_parent_dangles(memory)
    if goes_on_close:
        with pytest.raises(SessionNotFound, match="child"):
            await memory.sessions.returned("child", status)
        return
    child = await memory.sessions.get("child")
    assert (child.parent_id, child.relation, child.lifecycle) == (None, relation, lifecycle)
    await returns(memory, relation, status, goes_on_return)


@pytest.mark.parametrize("method", ["delete", "returned"])
@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("lifecycle", ["ephemeral", "linked", "detached"])
async def test_a_grandchild_goes_with_its_child_by_its_own_lifecycle(
    any_store: AsyncSessionStore, method: str, relation: Relation, lifecycle: str
):
    """The one below an ephemeral child that goes: spawned, ephemeral or linked, it goes too; else it stays."""
    sessions = any_store.sessions
    await sessions.create("parent")
    await sessions.create("child", parent_id="parent")
    await sessions.create("grandchild", parent_id="child", relation=relation, lifecycle=lifecycle)
    await sessions.create("below", parent_id="grandchild")
    goes = relation is Relation.SPAWN and lifecycle != "detached"
    if method == "returned":
        assert await sessions.returned("child") is True
    else:
        assert await sessions.delete("parent") == ["parent", "child", *(["grandchild", "below"] if goes else [])]
        await sessions.create("parent")
    stays = {} if goes else {"grandchild": None, "below": "grandchild"}
    assert await parents(any_store) == {"parent": None, **stays}
    await no_parent_dangles(any_store)


async def test_a_cascade_names_who_went_generation_by_generation(family: AsyncSessionStore):
    """The deleted one first, then its children by creation and id, then theirs; other branches stay, parentless."""
    await family.sessions.create("late", parent_id="root", created_at=AT + 20 * HOUR, lifecycle="linked")
    await family.sessions.create("kept", parent_id="root", created_at=AT + 1 * HOUR, lifecycle="detached")
    await family.sessions.create("child-of-kept", parent_id="kept", created_at=AT + 2 * HOUR)
    assert await family.sessions.delete("root") == ["root", "spawned", "late", "deep"]
    assert await parents(family) == {
        "stranger": None, "later": None, "forked": None, "next": None, "last": "next", "other": "next", "kept": None,
        "child-of-kept": "kept",
    }  # fmt: skip
    await no_parent_dangles(family)
    assert await family.sessions.delete("root") == []


async def test_cascade_false_takes_one_session_only(family: AsyncSessionStore):
    """All its children stay, whatever they are, and theirs stay theirs."""
    assert await family.sessions.delete("root", cascade=False) == ["root"]
    assert await parents(family) == {
        "stranger": None, "spawned": None, "forked": None, "next": None, "deep": "spawned", "later": "spawned",
        "last": "next", "other": "next",
    }  # fmt: skip
    await no_parent_dangles(family)


async def test_what_went_took_its_messages_and_nobody_elses(family: AsyncSessionStore, eventually):
    """Messages, usage, events and state of all that went are gone from every answer; the rest is untouched."""
    names = list(await parents(family))
    for name in names:
        await family.messages.append(name, role="user", content="word", usage={"prompt_tokens": 1})
    gone = await family.sessions.delete("root")
    for name in names:
        there = name not in gone
        assert await family.messages.count(name) == there
        assert len(await family.usage.rounds(name)) == there
        assert (await family.sessions.state(name) is not None) is there
    assert {hit.session_id async for hit in family.search("word", limit=None)} == set(names) - set(gone)
    assert await family.messages.count() == len(names) - len(gone)

    async def their_events_are_gone() -> bool:
        left = await family.query("SELECT DISTINCT session_id FROM events WHERE kind = 'store.created'")
        return {row.session_id for row in left} == set(names) - set(gone)

    await eventually(their_events_are_gone)


async def test_who_returns_must_be_there(any_store: AsyncSessionStore):
    """SessionNotFound of an unknown one and of one that returned and is gone; a blank status is refused."""
    await any_store.sessions.create("parent")
    await any_store.sessions.create("child", parent_id="parent")
    with pytest.raises(InvalidRecord, match="status"):
        await any_store.sessions.returned("child", "")
    assert await any_store.sessions.returned("child") is True
    for name in ("child", "nobody"):
        with pytest.raises(SessionNotFound, match=name):
            await any_store.sessions.returned(name)


async def test_a_root_that_returns_is_kept_as_it_is(any_store: AsyncSessionStore):
    """It was not spawned, so there is nowhere to return to: its ephemeral lifecycle means nothing."""
    root = await any_store.sessions.create("root")
    for status in ("completed", "failed"):
        assert await any_store.sessions.returned("root", status) is False
    assert await any_store.sessions.get("root") == root


async def test_the_first_status_of_one_that_returns_stays(any_store: AsyncSessionStore):
    """A linked child that failed and then completed is kept, with the first reason; an ephemeral one goes then."""
    await any_store.sessions.create("parent")
    for lifecycle in ("linked", "ephemeral"):
        await any_store.sessions.create(lifecycle, parent_id="parent", lifecycle=lifecycle)
        assert await any_store.sessions.returned(lifecycle, "failed") is False
        assert (await any_store.sessions.get(lifecycle)).end_reason == "failed"
    assert await any_store.sessions.returned("linked", "completed") is False
    assert (await any_store.sessions.get("linked")).end_reason == "failed"
    assert await any_store.sessions.returned("ephemeral", "completed") is True
    assert await parents(any_store) == {"parent": None, "linked": "parent"}


# -- cleared ---------------------------------------------------------------------------------------


async def test_a_cleared_session_keeps_its_family(family: AsyncSessionStore):
    """Its messages go; its parent, its children and its place in the line stay."""
    before = await parents(family)
    for name in ("root", "next", "spawned"):
        await family.messages.append(name, role="user", content="x")
        await family.messages.clear(name)
    assert await parents(family) == before
    assert [each.id for each in await family.sessions.ancestors("last")] == ["root", "next"]
    assert [each.id for each in await family.sessions.children("root")] == ["next", "forked", "spawned"]
    assert (await family.sessions.tip("root")).id == "last"
    await no_parent_dangles(family)


# -- at once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_no_parent_dangles_whatever_happens_at_once(any_store: AsyncSessionStore, seed: int):
    """Created, adopted, forked, deleted, returned, pruned and cleared in one heap, in batches: every parent is there,
    nobody is his own ancestor, every depth is in its limit."""
    dice = random.Random(seed)
    sessions = any_store.sessions
    names = [f"s{n}" for n in range(8)]

    def call():
        one, other = dice.choice(names), dice.choice(names)
        relation, lifecycle = dice.choice(list(Relation)), dice.choice(["ephemeral", "linked", "detached"])
        below = {"parent_id": other, "relation": relation, "lifecycle": lifecycle}
        return dice.choice([
            lambda: sessions.create(one), lambda: sessions.create(one, **below), lambda: sessions.create(one, **below),
            lambda: sessions.ensure(one, **below), lambda: sessions.fork(other, session_id=one),
            lambda: sessions.delete(one, cascade=dice.random() < 0.7), lambda: sessions.returned(one),
            lambda: sessions.end(one, "done"), lambda: sessions.prune(idle_for=timedelta(0)),
            lambda: any_store.messages.clear(one), lambda: any_store.messages.append(one, role="user", content="x"),
        ])()  # fmt: skip

    for _ in range(12):
        outcomes = await asyncio.gather(*(call() for _ in range(12)), return_exceptions=True)
        failed = [each for each in outcomes if isinstance(each, BaseException)]
        assert all(isinstance(each, StoreError) and "database" not in str(each) for each in failed), failed
        await no_parent_dangles(any_store)
        for session_id in await parents(any_store):
            async with asyncio.timeout(5):
                above = [each.id for each in await sessions.ancestors(session_id)]
            assert session_id not in above
            assert (await sessions.get(session_id)).spawn_depth <= 3
