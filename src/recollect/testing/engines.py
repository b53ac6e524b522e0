"""The engines that tests can be run on, each by what gives a test an empty place for a store."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

Target = str | os.PathLike[str]


def in_memory(_: pytest.FixtureRequest) -> Target:
    """A store in memory."""
    return ":memory:"


def on_disk(request: pytest.FixtureRequest) -> Target:
    """The file `tmp_path / "sessions.db"`."""
    return request.getfixturevalue("tmp_path") / "sessions.db"


def on_postgres(request: pytest.FixtureRequest) -> Target:
    """A schema on a PostgreSQL server."""
    return request.getfixturevalue("recollect_postgres_dsn")


ENGINES: dict[str, Callable[[pytest.FixtureRequest], Target]] = {
    "memory": in_memory,
    "disk": on_disk,
    "postgres": on_postgres,
}
"""By name. Whoever adds one runs all on it that asks for `recollect_target` or `recollect_any_store`."""

ONLY = "recollect_engines"
"""the marker that leaves a test on some engines"""


@pytest.fixture
def recollect_target(request: pytest.FixtureRequest) -> Target:
    """What `AsyncSessionStore` takes for an empty store: the test runs once on each engine."""
    return ENGINES[request.param](request)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `recollect_target` runs on each engine, or on those that its marker names."""
    if "recollect_target" in metafunc.fixturenames:
        only = [marker.args for marker in metafunc.definition.iter_markers(ONLY)]
        names = [name for name in ENGINES if all(name in listed for listed in only)]
        metafunc.parametrize("recollect_target", names, indirect=True)
