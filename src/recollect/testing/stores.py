"""Stores as fixtures, opened by whichever plugin runs the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from .engines import Target, in_memory, on_disk

if TYPE_CHECKING:
    from ..store import AsyncSessionStore


@pytest.fixture
def recollect_store(request: pytest.FixtureRequest) -> AsyncSessionStore:
    """An empty store in memory, open on the test's event loop: quick, for what one process does."""
    return _twin(request, "memory")


@pytest.fixture
def recollect_disk_store(request: pytest.FixtureRequest) -> AsyncSessionStore:
    """An empty store in the file `tmp_path / "sessions.db"`, open on the test's event loop: for what
    happens to files, as restarts and other processes."""
    return _twin(request, "disk")


@pytest.fixture
def recollect_any_store(request: pytest.FixtureRequest, recollect_target: Target) -> AsyncSessionStore:
    """An empty store, open on the test's event loop: the test runs once on each of `ENGINES`, or on those that
    `@pytest.mark.recollect_engines("memory", …)` names."""
    return _twin(request, "any")


def _twin(request: pytest.FixtureRequest, place: str) -> AsyncSessionStore:
    """The store as opened by the plugin that runs the test."""
    if (scope := _asyncio_loop_scope(request)) is not None:
        return request.getfixturevalue(f"_recollect_{place}_asyncio_{scope}")
    if "anyio_backend" not in request.fixturenames:
        pytest.fail(
            f"{request.fixturename} needs an async test that pytest-asyncio or anyio runs: "
            "mark it with pytest.mark.asyncio or pytest.mark.anyio",
            pytrace=False,
        )
    backend = request.getfixturevalue("anyio_backend")
    if (backend if isinstance(backend, str) else backend[0]) != "asyncio":
        pytest.skip("recollect runs on asyncio")
    return request.getfixturevalue(f"_recollect_{place}_anyio")


def _asyncio_loop_scope(request: pytest.FixtureRequest) -> str | None:
    """The scope of the loop on which pytest-asyncio runs the test; None where it does not."""
    if not request.config.pluginmanager.has_plugin(FIXTURES):
        return None
    import pytest_asyncio

    if not pytest_asyncio.is_async_test(request.node):
        return None
    marker = request.node.get_closest_marker("asyncio")
    given = marker.kwargs if marker else {}
    default = request.config.getini("asyncio_default_test_loop_scope")
    return given.get("loop_scope") or given.get("scope") or default or "function"


def _given(request: pytest.FixtureRequest) -> Target:
    return request.getfixturevalue("recollect_target")


_PLACES = {"memory": in_memory, "disk": on_disk, "any": _given}


def _opened(target: Callable[[pytest.FixtureRequest], Target]) -> Callable[..., AsyncIterator[AsyncSessionStore]]:
    async def opened(request: pytest.FixtureRequest) -> AsyncIterator[AsyncSessionStore]:
        from ..store import AsyncSessionStore

        async with AsyncSessionStore(target(request)) as store:
            yield store

    return opened


def asyncio_twins() -> ModuleType:
    """The twins that pytest-asyncio handles, one for each scope that the loop of a test can have."""
    import pytest_asyncio

    twins = ModuleType(FIXTURES)
    for place, target in _PLACES.items():
        for scope in ("function", "class", "module", "package", "session"):
            twin = pytest_asyncio.fixture(_opened(target), loop_scope=scope)
            setattr(twins, f"_recollect_{place}_asyncio_{scope}", twin)
    return twins


def anyio_twins() -> ModuleType:
    """The twins that anyio's plugin handles."""
    twins = ModuleType("recollect-anyio")
    for place, target in _PLACES.items():
        setattr(twins, f"_recollect_{place}_anyio", pytest.fixture(_opened(target)))
    return twins


FIXTURES = "recollect-asyncio"
