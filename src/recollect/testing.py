"""The pytest plugin: stores for async tests, and a watch over those that a test forgets to close.

Loaded by pytest wherever recollect is installed. The fixtures serve whichever plugin runs the test:
pytest-asyncio in either mode and with any loop scope, or anyio's. A store belongs to one event loop,
so it is opened and closed by that plugin, on the loop of the test: each fixture below asks for a
hidden twin that the driver in question handles.

    async def test_it_remembers(recollect_store):
        session = await recollect_store.sessions.create()
        ...

A test that leaves a store open fails. Stores of fixtures with a wider scope may stay open as long as
their fixture does; `@pytest.mark.recollect_leaves_open` lets one test off.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .store import AsyncSessionStore

# -- the stores ------------------------------------------------------------------------------------


@pytest.fixture
def recollect_store(request: pytest.FixtureRequest) -> AsyncSessionStore:
    """An empty store in memory, open on the test's event loop: quick, for what one process does."""
    return _twin(request, "memory")


@pytest.fixture
def recollect_disk_store(request: pytest.FixtureRequest) -> AsyncSessionStore:
    """An empty store in the file `tmp_path / "sessions.db"`, open on the test's event loop: for what
    happens to files, as restarts and other processes."""
    return _twin(request, "disk")


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
    if not request.config.pluginmanager.has_plugin(_FIXTURES):
        return None
    import pytest_asyncio

    if not pytest_asyncio.is_async_test(request.node):
        return None
    marker = request.node.get_closest_marker("asyncio")
    given = marker.kwargs if marker else {}
    default = request.config.getini("asyncio_default_test_loop_scope")
    return given.get("loop_scope") or given.get("scope") or default or "function"


Target = Callable[[pytest.FixtureRequest], "str | os.PathLike[str]"]


def _in_memory(_: pytest.FixtureRequest) -> str:
    return ":memory:"


def _on_disk(request: pytest.FixtureRequest) -> os.PathLike[str]:
    return request.getfixturevalue("tmp_path") / "sessions.db"


def _opened(target: Target) -> Callable[..., AsyncIterator[AsyncSessionStore]]:
    async def opened(request: pytest.FixtureRequest) -> AsyncIterator[AsyncSessionStore]:
        from .store import AsyncSessionStore

        async with AsyncSessionStore(target(request)) as store:
            yield store

    return opened


_recollect_memory_anyio = pytest.fixture(_opened(_in_memory))
_recollect_disk_anyio = pytest.fixture(_opened(_on_disk))


def _asyncio_twins() -> ModuleType:
    """The twins that pytest-asyncio handles, one for each scope that the loop of a test can have."""
    import pytest_asyncio

    twins = ModuleType(_FIXTURES)
    for place, target in {"memory": _in_memory, "disk": _on_disk}.items():
        for scope in ("function", "class", "module", "package", "session"):
            twin = pytest_asyncio.fixture(_opened(target), loop_scope=scope)
            setattr(twins, f"_recollect_{place}_asyncio_{scope}", twin)
    return twins


_FIXTURES = "recollect-asyncio"


def pytest_configure(config: pytest.Config) -> None:
    """Registers the watch, and the twins for pytest-asyncio where that plugin is active."""
    config.addinivalue_line("markers", f"{_MARKER}: the test may leave stores of recollect open.")
    config.pluginmanager.register(_Watch(), "recollect-watch")
    if config.pluginmanager.has_plugin("asyncio"):
        # without the package there is something else of that name
        with suppress(ImportError):
            config.pluginmanager.register(_asyncio_twins(), _FIXTURES)


# -- the watch -------------------------------------------------------------------------------------

_MARKER = "recollect_leaves_open"


def _open_stores() -> dict[int, str]:
    """What is open now; a process that has not imported the store has none."""
    module = sys.modules.get("recollect.store")
    return dict(module.unclosed) if module else {}


class _Watch:
    """Knows which stores may be open: those from before the test, and those of wider fixtures."""

    def __init__(self) -> None:
        self._before: set[int] = set()
        self._held: set[int] = set()
        """opened while a fixture was set up whose scope is wider than a test, and not checked yet"""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        self._before = set(_open_stores())
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        result = yield
        left = {key: name for key, name in _open_stores().items() if key not in self._before | self._held}
        if left and item.get_closest_marker(_MARKER) is None:
            _fail("this test", left)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        if request.scope == "function":
            return (yield)
        before, opened = set(_open_stores()), set[int]()
        # before the fixture has finalizers of its own, for the first that was added runs last
        fixturedef.addfinalizer(lambda: self._check(fixturedef.argname, opened))
        try:
            return (yield)
        finally:
            # a store of a fixture that was set up within this one is that fixture's
            opened |= set(_open_stores()) - before - self._held
            self._held |= opened

    def _check(self, fixture: str, opened: set[int]) -> None:
        self._held -= opened
        left = {key: name for key, name in _open_stores().items() if key in opened}
        if left:
            _fail(f"fixture {fixture!r}", left)


def _fail(culprit: str, left: dict[int, str]) -> None:
    with warnings.catch_warnings():
        # said here, so it need not be said again in whichever test is running when they are collected
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    stores = ", ".join(left.values())
    pytest.fail(
        f"{culprit} left {len(left)} store{'s' if len(left) > 1 else ''} of recollect open: {stores}\n"
        "Close what it opens: `async with AsyncSessionStore(...) as store:`, or `await store.aclose()` at its end"
        " (in a fixture: after the yield).",
        pytrace=False,
    )
