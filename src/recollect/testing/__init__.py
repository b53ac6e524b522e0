"""The pytest plugin: stores for async tests, on any engine, and a watch over those that a test forgets to close.

Loaded by pytest wherever recollect is installed. The fixtures serve whichever plugin runs the test:
pytest-asyncio in either mode and with any loop scope, or anyio's. A store belongs to one event loop,
so it is opened and closed by that plugin, on the loop of the test: each fixture of a store asks for a
hidden twin that the driver in question handles.

    async def test_it_remembers(recollect_store):
        session = await recollect_store.sessions.create()
        ...

    async def test_it_remembers_anywhere(recollect_any_store):  # in memory, on disk, and on PostgreSQL
        ...

A test that leaves a store open fails. Stores of fixtures with a wider scope may stay open as long as
their fixture does; `@pytest.mark.recollect_leaves_open` lets one test off.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from .engines import ENGINES, ONLY, pytest_generate_tests, recollect_target
from .forgotten import MARKER, Forgotten
from .postgres import (
    _recollect_postgres_schema,  # pyright: ignore[reportPrivateUsage] -- pytest finds it here
    recollect_postgres_dsn,
    recollect_postgres_server,
)
from .stores import FIXTURES, anyio_twins, asyncio_twins, recollect_any_store, recollect_disk_store, recollect_store

__all__ = [
    "ENGINES",
    "_recollect_postgres_schema",
    "pytest_configure",
    "pytest_generate_tests",
    "recollect_any_store",
    "recollect_disk_store",
    "recollect_postgres_dsn",
    "recollect_postgres_server",
    "recollect_store",
    "recollect_target",
]


def pytest_configure(config: pytest.Config) -> None:
    """Registers the watch, and the twins of the fixtures."""
    config.addinivalue_line("markers", f"{MARKER}: the test may leave stores of recollect open.")
    config.addinivalue_line("markers", f"{ONLY}(*names): the engines that the test runs on; by default on all.")
    config.pluginmanager.register(Forgotten(), "recollect-watch")
    config.pluginmanager.register(anyio_twins())
    if config.pluginmanager.has_plugin("asyncio"):
        # without the package there is something else of that name
        with suppress(ImportError):
            config.pluginmanager.register(asyncio_twins(), FIXTURES)
