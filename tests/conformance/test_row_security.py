"""Row-level security: the database itself keeps users apart, also from an operation that forgets to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from types import FunctionType
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from recollect import AsyncSessionStore, InvalidRecord, NotGuarded, ScopedStore
from recollect.access import Access
from recollect.engine.operation import Statement
from recollect.engine.postgres.dialect import dialect
from recollect.engine.postgres.row_security import POLICIES
from recollect.engine.postgres.run import Flow
from recollect.operations import Operation, all, execute
from rooms import test_scoped as scoped

from .exercise import exercise

Superuser = psycopg.Connection[tuple[Any, ...]]


class Places(NamedTuple):
    """A guarded schema, as each role sees it."""

    superuser: Superuser
    """a connection, to whom no policy applies"""
    owner: str
    """the DSN of the role that owns the tables"""
    agent: str
    """…and of one that may only use them"""


@pytest.fixture(scope="session")
def guarded_schema(recollect_postgres_server: str) -> Iterator[Places]:
    """Made by its owner, who asks for it; used by another."""
    schema = f"recollect_guarded_{os.getpid()}"
    owner, agent = f"{schema}_owner", f"{schema}_agent"
    with psycopg.connect(recollect_postgres_server, autocommit=True) as superuser:
        try:
            superuser.execute(f"CREATE ROLE {owner}; CREATE ROLE {agent}; CREATE SCHEMA {schema} AUTHORIZATION {owner}")
        except psycopg.errors.InsufficientPrivilege:
            pytest.skip("the server's user may make no roles")
        superuser.execute(f"SET search_path TO {schema}")
        places = Places(superuser, *[as_role(recollect_postgres_server, schema, role) for role in (owner, agent)])
        asyncio.run(opened(places.owner))
        superuser.execute(
            f"GRANT USAGE ON SCHEMA {schema} TO {agent};"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {agent};"
            f"GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {agent}"
        )
        yield places
        superuser.execute(f"DROP SCHEMA {schema} CASCADE; DROP ROLE {agent}; DROP ROLE {owner}")


def as_role(server: str, schema: str, role: str) -> str:
    """The DSN of a schema, for whom the role is the present one from the beginning."""
    given = {**conninfo_to_dict(server), "options": f"-c search_path={schema} -c role={role}"}
    return f"postgresql://?{urlencode({name: value for name, value in given.items() if value}, quote_via=quote)}"


async def opened(dsn: str, *, row_security: bool = True, readonly: bool = False) -> bool:
    """Opens and closes a store; whether its rows are guarded."""
    async with AsyncSessionStore(dsn, row_security=row_security, readonly=readonly) as store:
        return store._engine.guards_rows


@pytest.fixture
def places(guarded_schema: Places) -> Places:
    """The guarded schema, with nothing in it."""
    tables = [name for name in POLICIES if name != "index_state"]
    guarded_schema.superuser.execute(f"TRUNCATE {', '.join(tables)} CASCADE; UPDATE index_state SET watermark = 0")
    return guarded_schema


@pytest.fixture
async def memory(places: Places) -> AsyncIterator[AsyncSessionStore]:
    """An open store of a role that may only use the tables."""
    async with AsyncSessionStore(places.agent, row_security=True) as store:
        yield store


# -- what scopes promise holds all the same --------------------------------------------------------

house, ann = scoped.house, scoped.ann

HERE = {
    "test_a_cascade_takes_nobodys_children_along_and_leaves_others",
    "test_a_user_who_was_filled_in_late_has_his_words",
    "test_a_watch_of_a_scope_tells_what_is_its_users",
    "test_appends_of_two_users_in_one_batch_are_told_apart",
    "test_ensure_leaves_out_what_others_have",
    "test_events_recorded_in_a_scope_are_its_users",
    "test_listings_and_totals_have_ones_own_only",
    "test_only_ones_own_records_are_taken_in",
    "test_prune_takes_ones_own_only",
    "test_reopening_does_not_end_anothers_session",
    "test_the_next_title_is_free_in_the_whole_store",
}
"""tests of the scopes that run here too; all the others with `-m matrix`"""

ELSEWHERE = {"test_a_scope_has_nothing_else", "test_nobody_can_tell_whether_there_are_others"}
"""those about a store that they open themselves"""


def here(name: str, test: FunctionType) -> FunctionType:
    """The same test, so that marks on it are its own."""
    twin = FunctionType(test.__code__, test.__globals__, name, test.__defaults__, test.__closure__)
    marks = [] if name in HERE else [pytest.mark.matrix]
    twin.__dict__ = {**test.__dict__, "pytestmark": [*getattr(test, "pytestmark", []), *marks]}
    return twin


TESTS = {name: value for name, value in vars(scoped).items() if name.startswith("test_") and name not in ELSEWHERE}
globals().update({name: here(name, test) for name, test in TESTS.items()})


async def test_anothers_session_is_like_one_that_does_not_exist(house: AsyncSessionStore, ann: ScopedStore):
    """Whatever is called on it: the same answer or error, and nothing of it has changed."""
    before = await scoped.everything(house, "bob", None)
    for name, call in scoped.ON_A_SESSION.items():
        result = await scoped.outcome(lambda call=call: call(ann, "bob-1"))
        unknown = await scoped.outcome(lambda call=call: call(ann, "x-x-x"))
        assert scoped.shown(result).replace("bob-1", "?") == scoped.shown(unknown).replace("x-x-x", "?"), name
        assert scoped.leaks(result, "bob-1") == [], name
    assert await scoped.everything(house, "bob", None) == before


async def test_every_call_on_ones_own_session_does_what_it_does(memory: AsyncSessionStore):
    """What an operation needs of others' rows it has: no call fails for want of them."""
    twin = memory.scoped(user_id="twin")
    await scoped.furnish(memory, "twin", "twin")
    for name, call in scoped.ON_A_SESSION.items():
        result = await scoped.outcome(lambda call=call: call(twin, "twin"))
        if (
            isinstance(result, BaseException) and name != "messages.append with a fence"
        ):  # what came before left nothing
            await twin.sessions.delete("fork")
            await twin.sessions.delete("twin")
            await scoped.furnish(memory, "twin", "twin")
            result = await scoped.outcome(lambda call=call: call(twin, "twin"))
            assert not isinstance(result, BaseException), (name, scoped.shown(result))


async def test_what_others_have_is_refused_in_the_same_words(house: AsyncSessionStore, ann: ScopedStore):
    """Ids, titles, keys and parents of others, which no row tells the user of."""
    before = await scoped.everything(house, "ann", "bob", None)
    for name, (call, error) in scoped.MAKING.items():
        result = await scoped.outcome(lambda call=call: call(ann, ""))
        assert isinstance(result, error), (name, result)
        assert getattr(result, "by", None) is None, name
    assert await scoped.everything(house, "ann", "bob", None) == before


async def test_the_store_does_all_that_the_rooms_ask(places: Places):
    """As the owner, for whom the policies are forced."""
    async with AsyncSessionStore(places.owner, row_security=True) as store:
        await exercise(store)
        assert (await store.check()).is_sound


# -- fails closed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["owner", "agent"])
async def test_where_nothing_is_set_nothing_is_read_or_written(house: AsyncSessionStore, places: Places, role: str):
    """By whoever comes to the tables without recollect, be it their owner."""
    with psycopg.connect(getattr(places, role), autocommit=True) as connection:
        for table in [*POLICIES, "search_words", "tool_events"]:
            if (role, table) != ("owner", "search_terms"):  # he reads it for the view
                assert connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,), table
        assert connection.execute("UPDATE sessions SET title = 'taken'").rowcount == 0
        assert connection.execute("DELETE FROM events").rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            connection.execute("INSERT INTO events (id, at, kind) VALUES (1, 1, 'x')")
        connection.execute("SELECT set_config('recollect.user_id', 'ann', false)")
        assert set(connection.execute("SELECT DISTINCT user_id FROM sessions")) == {("ann",)}


def test_every_table_has_a_policy(places: Places):
    """A table that a migration makes without one fails this."""
    tables = {name for (name,) in places.superuser.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")}  # fmt: skip
    assert tables == {*POLICIES, "recollect_schema"}


# -- an operation that forgets ---------------------------------------------------------------------


def everything_there_is() -> Operation[list[str]]:
    """Forgets whose sessions, messages and events it may read."""
    found = yield all(
        "SELECT id FROM sessions UNION ALL SELECT content FROM messages UNION ALL SELECT text FROM events"
        " UNION ALL SELECT system_prompt FROM session_texts"
    )
    return [text for (text,) in found if text is not None]


def write_everywhere() -> Operation[tuple[int, int]]:
    """Forgets whose it may change."""
    changed = yield execute("UPDATE messages SET content = 'changed'")
    gone = yield execute("DELETE FROM events")
    return changed, gone


def put_into(session_id: str) -> Operation[None]:
    """Writes into another's session, whose number it has from elsewhere."""
    yield execute(
        "INSERT INTO messages (id, session, seq, position, role, send_index, created_at)"
        " VALUES (0, :session, 99, 99, 'user', 1, 1)",
        session=NUMBERS[session_id],
    )


NUMBERS: dict[str, int] = {}


async def test_an_operation_that_forgets_whose_rows_reads_ones_own_only(house: AsyncSessionStore):
    """Where it runs for a user; as the store it has them all."""
    ann = Access(house._engine, "ann")
    own = await ann.read_any(everything_there_is)
    assert "ann-1" in own
    assert [text for text in own if "bob" in text or "nobody" in text] == []
    assert {"bob-1", "nobodys", *own} < set(await house.read(everything_there_is))


async def test_an_operation_that_forgets_whose_rows_writes_ones_own_only(house: AsyncSessionStore):
    """What it may not see it cannot change; what it may not write is refused, and its batch-mates are stored."""
    before = await scoped.everything(house, "bob", None)
    NUMBERS.update({row.id: row.session for row in await house.query("SELECT id, session FROM sessions")})
    ann = Access(house._engine, "ann")
    (events,) = await house.query("SELECT COUNT(*) AS n FROM events WHERE user_id = 'ann'")
    assert await ann.write_any(write_everywhere) == (3 * (6 + 1), events.n), "messages and notes of three sessions"
    writes = [ann.write_any(put_into, id, session="s") for id in ("ann-1", "bob-1", "nobodys")]
    stored, *refused = await asyncio.gather(*writes, return_exceptions=True)
    assert stored is None
    assert [type(error) for error in refused] == [InvalidRecord, InvalidRecord]
    assert await scoped.everything(house, "bob", None) == before


async def test_the_next_operation_of_a_batch_has_everybodys_rows(house: AsyncSessionStore, hold):
    """A scope ends with its operation, whether that went well or not."""
    ann = Access(house._engine, "ann")
    NUMBERS.update({row.id: row.session for row in await house.query("SELECT id, session FROM sessions")})
    async with hold(house):
        writes = [
            ann.write_any(everything_there_is, session="s"),
            house._engine.write(everything_there_is, session="s"),
            ann.write_any(put_into, "bob-1", session="s"),
            house._engine.write(everything_there_is, session="s"),
        ]
    own, first, refused, second = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(refused, InvalidRecord)
    assert "bob-1" not in own
    assert "bob-1" in first
    assert first == second


# -- what it costs ---------------------------------------------------------------------------------


async def test_searches_go_along_the_index_of_words(memory: AsyncSessionStore, places: Places, monkeypatch):
    """A policy would keep `@@` from it, so they read a view."""
    statements: list[Statement] = []
    perform = Flow.perform

    async def recorded(flow: Flow, statement: Statement) -> Any:
        statements.append(statement)
        return await perform(flow, statement)

    await scoped.furnish(memory, "ann-1", "ann")
    monkeypatch.setattr(Flow, "perform", recorded)
    for order in ("relevance", "newest"):
        for filters in ({}, {"role": "user"}):
            assert [hit async for hit in memory.scoped(user_id="ann").search("word", order=order, **filters)]
    monkeypatch.undo()
    places.superuser.execute(
        "INSERT INTO search_terms SELECT n, 0, 1, to_tsvector('simple', 'w' || n) FROM generate_series(-3000, -1) n;"
        "ANALYZE search_terms"
    )
    asked = {statement.sql: statement.params for statement in statements if "search_words" in statement.sql}
    assert len(asked) >= 4
    with psycopg.connect(places.agent) as connection:
        connection.execute("SET recollect.user_id = 'ann'; SET enable_seqscan = off; SET enable_indexscan = off")
        for sql, params in asked.items():
            text, names = dialect(sql)
            plan = psycopg.RawCursor(connection).execute("EXPLAIN " + text, [params[name] for name in names])
            steps = "\n".join(step for (step,) in plan)
            assert "Bitmap Index Scan on search_terms_words" in steps, steps


# -- made, found, refused --------------------------------------------------------------------------


@pytest.fixture
async def plain(recollect_postgres_server: str, guarded_schema: Places) -> AsyncIterator[Places]:
    """A schema of its own, not guarded yet."""
    schema = f"recollect_plain_{os.getpid()}"
    superuser = guarded_schema.superuser
    owner, agent = [f"recollect_guarded_{os.getpid()}_{role}" for role in ("owner", "agent")]
    superuser.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {owner}")
    places = Places(superuser, *[as_role(recollect_postgres_server, schema, role) for role in (owner, agent)])
    assert not await opened(places.owner, row_security=False)
    superuser.execute(
        f"GRANT USAGE ON SCHEMA {schema} TO {agent};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {agent}"
    )
    superuser.execute(f"SET search_path TO {schema}")
    yield places
    superuser.execute(f"DROP SCHEMA {schema} CASCADE; SET search_path TO recollect_guarded_{os.getpid()}")


async def test_the_owner_makes_it_and_everybody_finds_it(plain: Places):
    """However many of them come at once; who did not ask works with it as well."""
    with pytest.raises(NotGuarded, match="as the owner"):
        await opened(plain.agent)
    with pytest.raises(NotGuarded, match="sessions"):
        await opened(plain.owner, readonly=True)
    assert not await opened(plain.agent, row_security=False)
    assert await asyncio.gather(*[opened(plain.owner) for _ in range(4)]) == [True] * 4
    for dsn in (plain.agent, plain.owner):
        for asked in (True, False):
            assert await opened(dsn, row_security=asked)
            assert await opened(dsn, row_security=asked, readonly=True)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE messages DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE messages NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY recollect_1 ON messages",
        "DROP VIEW search_words",
    ],
)
async def test_whoever_asks_for_it_is_refused_where_it_would_not_hold(plain: Places, change: str):
    """The error says of what; its owner makes it good."""
    await opened(plain.owner)
    plain.superuser.execute(change)
    with pytest.raises(NotGuarded, match=r"messages|search_words"):
        await opened(plain.agent)
    await opened(plain.owner)
    await opened(plain.agent)


async def test_a_policy_that_lets_more_through_is_not_put_up_with(plain: Places):
    """It is not ours to drop."""
    await opened(plain.owner)
    plain.superuser.execute("CREATE POLICY more ON messages USING (true)")
    for dsn in (plain.agent, plain.owner):
        with pytest.raises(NotGuarded, match="messages has the policies more, recollect_1"):
            await opened(dsn)


async def test_a_role_to_whom_no_policy_applies_is_refused(places: Places, recollect_postgres_dsn: str):
    """A superuser, or with BYPASSRLS: what was asked for would not be so."""
    with pytest.raises(NotGuarded, match="superuser"):
        await opened(recollect_postgres_dsn)
    agent = f"recollect_guarded_{os.getpid()}_agent"
    places.superuser.execute(f"ALTER ROLE {agent} BYPASSRLS")
    try:
        with pytest.raises(NotGuarded, match=agent):
            await opened(places.agent)
        assert await opened(places.agent, row_security=False)
    finally:
        places.superuser.execute(f"ALTER ROLE {agent} NOBYPASSRLS")


def test_a_file_has_none():
    """Asked for it, a store on SQLite is not made."""
    with pytest.raises(InvalidRecord, match="PostgreSQL"):
        AsyncSessionStore(":memory:", row_security=True)


async def test_rows_that_are_guarded_from_now_on_are_seen_by_those_who_are_there(plain: Places):
    """A store that was opened before goes on as it did, and its watch leaves nothing out."""
    async with AsyncSessionStore(plain.owner) as before:
        await before.sessions.create("s")
        async with before.watch(kinds="message") as watch, AsyncSessionStore(plain.owner, row_security=True) as after:
            await after.messages.append("s", role="user", content="one")
            async with asyncio.timeout(10):
                assert (await anext(watch)).message.content == "one"
            assert [each.content for each in (await before.messages.list("s")).items] == ["one"]
            await before.messages.append("s", role="user", content="two")
            await before.sessions.ensure("s", model="m")
            assert await after.messages.count("s") == 2
            assert len([hit async for hit in before.search("two")]) == 1
