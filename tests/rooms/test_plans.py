"""How the hot questions about sessions are answered: by which index, and what is never touched."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recollect import AsyncSessionStore
from recollect.engine.operation import Operation
from recollect.engine.sqlite.run import dialect, lists_of
from recollect.filters import Filter
from recollect.sessions import keys, listing, retention
from recollect.sessions.given import filter_of

from .engines import ON_FILES

pytestmark = ON_FILES


def plan(path: Path, operation: Operation[object]) -> str:
    """The plan of an operation's first statement, as SQLite would run it."""
    statement = next(operation)
    while not statement.sql:  # what another engine is asked for
        statement = operation.send(None)
    single = tuple(name for name in lists_of(statement.sql) if len(statement.params[name]) == 1)
    sql = dialect(statement.sql, single)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", dict.fromkeys(statement.params, 1)).fetchall()
    return "\n".join(row[3] for row in rows)


@pytest.fixture
async def filled(path: Path) -> Path:
    """A store with sessions of several users, closed again."""
    async with AsyncSessionStore(path) as store:
        for n in range(60):
            session = await store.sessions.for_key(f"k{n}", user_id=f"u{n % 10}", source="web")
            await store.messages.append(session.id, role="user", content="hello")
    return path


PAGES = [
    ("activity", Filter()),
    ("created", Filter()),
    ("activity", filter_of("activity", source="web", status="active", kind="root", title_contains="x")),
    ("activity", filter_of("activity", user_id="u1", since=datetime(2020, 1, 1, tzinfo=UTC))),
]


@pytest.mark.parametrize(("order", "where"), PAGES)
def test_a_page_of_sessions_is_read_along_an_index_and_aggregates_nothing(filled: Path, order: str, where: Filter):
    """No message is looked at, and not all sessions are sorted: at most those of one second are."""
    steps = plan(filled, listing.read_page(where, order, 20, None, None))
    assert "messages" not in steps
    assert "INDEX sessions_" in steps
    assert "SCAN s\n" not in steps + "\n"
    assert "USE TEMP B-TREE FOR ORDER BY" not in steps


def test_the_sessions_of_a_user_are_found_by_their_index(filled: Path):
    """The rest of the store is not passed through."""
    steps = plan(filled, listing.read_page(filter_of("activity", user_id="u1"), "activity", 20, None, None))
    assert "sessions_user (user_id=?)" in steps


def test_the_live_session_of_a_key_is_one_probe(filled: Path):
    """By the index that has only live sessions, however many there are."""
    steps = plan(filled, keys.read_live("k1", None, None))
    assert "sessions_live (key=?)" in steps
    assert "SCAN" not in steps


def test_what_is_pruned_is_found_from_the_longest_idle_on(filled: Path):
    """The sessions that were active since are not read."""
    where = Filter()
    where.add("s.activity <= :until_second", until_second=5)
    steps = plan(filled, retention.read_idle(where, (1, 1), 100))
    assert "sessions_activity" in steps
    assert "TEMP B-TREE" not in steps


async def test_routing_to_a_live_session_writes_nothing(store: AsyncSessionStore, path: Path):
    """One read, whatever was asked to begin it with: a store that refuses every write can do it."""
    first = await store.sessions.for_key("k", source="web")
    async with AsyncSessionStore(path, readonly=True) as reading:
        for _ in range(5):
            assert (await reading.sessions.for_key("k", idle_s=60, title="another")).id == first.id
        assert (await reading.stats()).writes == 0
