"""The watch over stores that a test forgets to close."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Generator
from typing import Any

import pytest

MARKER = "recollect_leaves_open"


def _open_stores() -> dict[int, str]:
    """What is open now; a process that has not imported the store has none."""
    module = sys.modules.get("recollect.store")
    return dict(module.unclosed) if module else {}


class Forgotten:
    """Fails whoever forgets a store. It knows which may be open: those from before the test, and those of wider
    fixtures."""

    def __init__(self) -> None:
        self._before: set[int] = set()
        self._held: set[int] = set()
        """opened while a fixture was set up whose scope is wider than a test, and not checked yet"""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        """What is open now was opened before the test."""
        self._before = set(_open_stores())
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """What is open now and was not before, the test has forgotten."""
        result = yield
        left = {key: name for key, name in _open_stores().items() if key not in self._before | self._held}
        if left and item.get_closest_marker(MARKER) is None:
            _fail("this test", left)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        """What a wider fixture opens may stay open until it ends."""
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
