"""The seam between rooms and engines: every statement of every operation is good on both dialects."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from recollect import AsyncSessionStore
from recollect.engine.operation import Verb
from recollect.engine.postgres.dialect import dialect as postgres
from recollect.engine.postgres.fulltext import FULLTEXT as POSTGRES
from recollect.engine.sqlite import run
from recollect.engine.sqlite.fulltext import FULLTEXT
from recollect.engine.sqlite.migrate import migrations, statements

from .exercise import exercise
from .statements import Recorder, is_portable, yields


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What the operations yielded while all of them were run on a real store."""
    recorder = Recorder()
    patch = pytest.MonkeyPatch()
    drive = run.drive
    patch.setattr(run, "drive", lambda connection, operation: drive(connection, recorder.watch(operation)))
    path = tmp_path_factory.mktemp("statements") / "store.db"

    async def run_all():
        async with AsyncSessionStore(path) as store:
            await exercise(store)

    asyncio.run(run_all())
    patch.undo()
    return recorder


def test_every_yield_of_every_operation_is_exercised(recorded):
    """No statement escapes the two tests below: each `yield` in the rooms was reached."""
    missed = [
        f"{path}:{first} {name}"
        for path, first, last, name in yields()
        if not any((path, line) in recorded.places for line in range(first, last + 1))
    ]
    assert missed == [], "\n".join(missed)


def test_every_statement_is_prepared_by_sqlite(recorded, tmp_path):
    """SQLite compiles each of them against the schema."""
    connection = sqlite3.connect(tmp_path / "schema.db")
    for _, script in migrations():
        for statement in statements(script):
            connection.execute(statement)
    operation = FULLTEXT.reset()
    reply = None
    try:
        while True:
            reply = run.perform(connection, operation.send(reply))
    except StopIteration:
        pass
    for sql, statement in recorded.statements.items():
        if is_portable(statement) and "search_blank" not in sql:
            connection.execute("EXPLAIN " + run.dialect(sql), _parameters(statement))
    connection.close()


def _parameters(statement):
    if statement.verb is Verb.MANY:
        return (None,) * len(statement.params[0])
    return {name: "[]" if isinstance(value, list | tuple) else None for name, value in statement.params.items()}


FRAGMENTS = {getattr(FULLTEXT, name): getattr(POSTGRES, name) for name in ("table", "matches", "score", "id")}


def of_sqlite_alone(sql: str) -> bool:
    """The full-text engine's own statements."""
    return "search_index" in sql or "search_blank" in sql or "total_changes" in sql or sql.startswith("UPDATE sequence")


def test_every_statement_is_prepared_by_postgresql(recorded, postgres_schema):
    """PostgreSQL parses and plans each of them against its schema; full text is put in its own words."""
    refused = []
    for sql, statement in recorded.statements.items():
        portable = sql
        for ours, theirs in FRAGMENTS.items():
            portable = portable.replace(ours, theirs)
        if not is_portable(statement) or of_sqlite_alone(portable):
            continue
        text, _ = postgres(portable)
        try:
            if postgres_schema.info.server_version >= 160_000:
                postgres_schema.execute(f"EXPLAIN (GENERIC_PLAN) {text}")
            else:
                postgres_schema.execute(f"PREPARE probe AS {text}")
                postgres_schema.execute("DEALLOCATE probe")
        except Exception as error:
            refused.append(f"{error}\n{text}")
    assert refused == []
