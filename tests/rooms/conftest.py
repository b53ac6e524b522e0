"""The behaviour of the rooms is tested on every engine: what `store`, `memory` and `path` are, changes from one to the
next. What concerns SQLite alone says so, see `engines.py`.

By default all cases of a test run on its home engine, which its fixtures name; the first case of one that is at home
everywhere (`any_store`) on disk too; and of what has most SQL of its own (`BY_DEFAULT`), the first on PostgreSQL. The
rest runs with `-m matrix`.
"""

from __future__ import annotations

import pytest

from recollect import AsyncSessionStore
from recollect.sessions import room
from recollect.testing.engines import ENGINES, Target

HOMES = {"path": ["disk"], "store": ["disk"], "memory": ["memory"], "any_store": ["memory"]}
"""by the fixture that a test asks for, itself or through others; the first of them counts"""

BY_DEFAULT = {
    "test_keys", "test_listing", "test_messages", "test_retention", "test_search", "test_sessions", "test_usage",
    "test_watch",
}  # fmt: skip
"""whose tests' first cases run on PostgreSQL without being asked for"""


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Who asks for a place opens more than one store there, which no store in memory can share."""
    if "path" in metafunc.fixturenames:
        metafunc.definition.add_marker(pytest.mark.recollect_engines("disk", "postgres"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is left out by default, before it is left out."""
    seen: set[tuple[str, str]] = set()
    for item in items:
        engine = item.callspec.params.get("recollect_target") if hasattr(item, "callspec") else None
        if not isinstance(item, pytest.Function) or engine is None or engine in homes(item):
            continue
        function = item.nodeid.partition("[")[0]
        if (function, engine) not in seen and _is_wanted(item, engine):
            seen.add((function, engine))
        else:
            item.add_marker(pytest.mark.matrix)


def _is_wanted(item: pytest.Function, engine: str) -> bool:
    if engine == "postgres":
        return item.path.stem in BY_DEFAULT
    return homes(item) == HOMES["any_store"] and "any_store" in item.fixturenames


def homes(item: pytest.Function) -> list[str]:
    """The engines on which all cases of a test run; where its fixture's are not allowed, the first of SQLite's that
    is."""
    wanted = next((engines for name, engines in HOMES.items() if name in item.fixturenames), list(ENGINES))
    allowed = [name for name in ENGINES if all(name in mark.args for mark in item.iter_markers("recollect_engines"))]
    return [name for name in wanted if name in allowed] or [name for name in allowed[:1] if name != "postgres"]


@pytest.fixture
def path(recollect_target: Target) -> Target:
    """Where `store` is."""
    return recollect_target


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are listed, exported and pruned by tens, so that few are more than a page."""
    monkeypatch.setattr(room, "_PAGE", 10)


@pytest.fixture
def store(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """An open store."""
    return any_store


@pytest.fixture
def memory(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """An open store."""
    return any_store
