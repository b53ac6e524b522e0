"""A schema to try statements on."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

import psycopg
import pytest


@pytest.fixture(scope="session")
def postgres_dsn(recollect_postgres_server: str) -> str:
    """A server."""
    return recollect_postgres_server


@pytest.fixture(scope="session")
def postgres_schema(recollect_postgres_server: str) -> Iterator[psycopg.Connection]:
    """A connection to a database with the schema in it, undone afterwards."""
    script = resources.files("recollect.engine.postgres").joinpath("migrations/0001_store.sql").read_text("utf-8")
    with psycopg.connect(recollect_postgres_server, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA recollect_probe")
        connection.execute("SET search_path TO recollect_probe")
        connection.execute(script)
        yield connection
        connection.execute("DROP SCHEMA recollect_probe CASCADE")
