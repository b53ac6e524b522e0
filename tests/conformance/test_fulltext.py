"""The full-text index of both engines: the same rows for the same query, whatever the texts and the query are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recollect.engine.fulltext import Match
from recollect.engine.operation import Statement
from recollect.engine.postgres.dialect import dialect
from recollect.engine.postgres.fulltext import FULLTEXT as POSTGRES
from recollect.engine.sqlite import run
from recollect.engine.sqlite.fulltext import FULLTEXT as SQLITE
from recollect.search.query import parse
from recollect.search.segment import segment

Rows = list[tuple[int, str, str]]


class Sqlite:
    """FTS5."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        run.drive(self.connection, SQLITE.reset())

    def do(self, statement: Statement) -> None:
        run.perform(self.connection, statement)

    def find(self, match: Match, keys: Sequence[str]) -> set[int]:
        sql = f"SELECT {SQLITE.id} FROM {SQLITE.table} WHERE {SQLITE.matches}"
        return {id for (id,) in self.connection.execute(sql, {"match": SQLITE.expression(match, keys)})}

    def clear(self) -> None:
        self.connection.execute("INSERT INTO search_index (search_index) VALUES ('delete-all')")


class Postgres:
    """tsvector."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.cursor = psycopg.RawCursor(connection)

    def do(self, statement: Statement) -> None:
        text, _ = dialect(statement.sql)
        self.cursor.executemany(text, statement.params)

    def find(self, match: Match, keys: Sequence[str]) -> set[int]:
        condition, params = POSTGRES.condition(match, keys)
        text, names = dialect(f"SELECT {POSTGRES.id} FROM {POSTGRES.table} WHERE {condition}")
        self.cursor.execute(text, [params[name] for name in names])
        return {id for (id,) in self.cursor.fetchall()}

    def clear(self) -> None:
        self.cursor.execute("DELETE FROM search_terms")


@pytest.fixture
def both(postgres_schema: psycopg.Connection[Any]) -> Iterator[tuple[Sqlite, Postgres]]:
    """An empty index of each engine."""
    engines = Sqlite(), Postgres(postgres_schema)
    yield engines
    for engine in engines:
        engine.clear()


def rows_of(texts: Sequence[str]) -> Rows:
    return [(id, segment(text), f"s{id % 3:x} u{id % 2:x}") for id, text in enumerate(texts, 1)]


def same(both: tuple[Sqlite, Postgres], query: str, keys: Sequence[str] = ()) -> set[int]:
    """What both of them find."""
    match = parse(query, terms=32)
    if match is None:
        return set()
    of_sqlite, of_postgres = (engine.find(match, keys) for engine in both)
    assert of_postgres == of_sqlite, (query, keys)
    return of_sqlite


WORDS = st.sampled_from(
    ["a", "b", "ab", "abc", "it's", "x\\y", "naïve", "東京", "京", "file_name.py", "BUG-490", "😀", "%", "'"]
)
TEXTS = st.lists(st.lists(WORDS, max_size=8).map(" ".join), min_size=1, max_size=6)
QUERIES = st.lists(
    st.one_of(WORDS, WORDS.map("{}*".format), WORDS.map("-{}".format), st.lists(WORDS, max_size=3).map('"{}"'.format),
              st.sampled_from(["AND", "OR", "NOT", "(", ")"])),
    min_size=1, max_size=6,
).map(" ".join)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, QUERIES, st.sampled_from([(), ("s0",), ("s1", "s2"), ("u1",)]))
def test_both_find_the_same(both: tuple[Sqlite, Postgres], texts: list[str], query: str, keys: tuple[str, ...]):
    """Words, phrases, prefixes, operators, any script, within scopes; and when rows are taken out again."""
    rows = [row for row in rows_of(texts) if row[1]]
    for engine, fulltext in zip(both, (SQLITE, POSTGRES), strict=True):
        engine.clear()
        if rows:
            engine.do(fulltext.insert(rows))
    same(both, query, keys)
    for engine, fulltext in zip(both, (SQLITE, POSTGRES), strict=True):
        if rows:
            engine.do(fulltext.remove(rows[:2]))
    assert same(both, query, keys).isdisjoint({id for id, _, _ in rows[:2]})


def test_long_rows_are_found_by_every_word_and_phrase(both: tuple[Sqlite, Postgres]):
    """Also by those for whose places a tsvector has no room: behind 16,383 words, or the 256th of the same."""
    many = " ".join(f"w{n}" for n in range(40_000))
    often = " ".join(f"the n{n}" for n in range(2_000))
    rows = rows_of([many, often, "w39998 elsewhere"])
    for engine, fulltext in zip(both, (SQLITE, POSTGRES), strict=True):
        engine.do(fulltext.insert(rows))
    assert same(both, '"w39998 w39999"') == {1}
    assert same(both, '"the n1999"') == {2}
    assert same(both, '"n1999 the"') == set()
    assert same(both, "w0 w20000 w39999") == {1}
    assert same(both, "w39998 -w0") == {3}
    for n in range(15_950, 16_050):
        assert same(both, f'"w{n} w{n + 1} w{n + 2}"') == {1}


def test_what_marks_a_key_is_no_word(both: tuple[Sqlite, Postgres]):
    """Nobody gets at a scope by typing its key."""
    for engine, fulltext in zip(both, (SQLITE, POSTGRES), strict=True):
        engine.do(fulltext.insert(rows_of(["one", "two"])))
    for query in ("Ks1", "ks1", "s1", "K*", "s*"):
        assert same(both, query) == set()
    assert same(both, "one OR two", ["s1"]) == {1}
