"""The pytest plugin, in pytest sessions of its own: one for each plugin that may run an async test."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

pytest_plugins = ["pytester"]

USES_OF_THE_FIXTURES = """
import pytest
{imports}
from recollect import AsyncSessionStore

@{fixture}
async def session(recollect_store):
    return await recollect_store.sessions.create(source="fixture")

{mark}
async def test_a_store_in_memory(recollect_store, session):
    await recollect_store.messages.append(session.id, role="user", content="remember me")
    hits = [hit async for hit in recollect_store.search("remember")]
    assert [hit.session_id for hit in hits] == [session.id]

{mark}
async def test_each_test_has_its_own(recollect_store, recollect_disk_store):
    assert await recollect_store.sessions.count() == 0
    assert recollect_store is not recollect_disk_store

{mark}
async def test_a_store_on_disk(recollect_disk_store, tmp_path):
    await recollect_disk_store.sessions.create("here")
    async with AsyncSessionStore(tmp_path / "sessions.db", readonly=True) as other:
        assert await other.sessions.get("here")

class TestInAClass:
    {mark}
    async def test_in_a_class(self, recollect_store):
        assert await recollect_store.sessions.count() == 0
"""

ANYIO = USES_OF_THE_FIXTURES.format(imports="", fixture="pytest.fixture", mark="@pytest.mark.anyio")
WIDER = ("class", "module", "package", "session")
ON_ASYNCIO = "\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"


WITHOUT = [f"-pno:{plugin}" for plugin in ("hypothesispytest", "xdist", "xdist.looponfail", "cacheprovider")]
"""what has no part in it, and takes longer to load than all the rest"""


def run(pytester: pytest.Pytester, source: str, *arguments: str, mode: str = "strict") -> pytest.RunResult:
    """A session that takes any warning for an error."""
    settings = ["filterwarnings = error"]
    if "no:asyncio" not in arguments:
        settings += [f"asyncio_mode = {mode}", "asyncio_default_fixture_loop_scope = function"]
    pytester.makeini("\n".join(["[pytest]", *settings]))
    pytester.makepyfile(source)
    return pytester.runpytest_subprocess("-rA", *WITHOUT, *arguments)


class TestTheFixturesWork:
    """`async def test_x(recollect_store)` works whichever plugin runs the test."""

    def test_with_pytest_asyncio_in_strict_mode(self, pytester: pytest.Pytester) -> None:
        """Where every async test and fixture is marked as pytest-asyncio's."""
        source = USES_OF_THE_FIXTURES.format(
            imports="import pytest_asyncio", fixture="pytest_asyncio.fixture", mark="@pytest.mark.asyncio"
        )
        run(pytester, source).assert_outcomes(passed=4)

    def test_with_pytest_asyncio_in_auto_mode(self, pytester: pytest.Pytester) -> None:
        """Where nothing is marked."""
        source = USES_OF_THE_FIXTURES.format(imports="", fixture="pytest.fixture", mark="")
        run(pytester, source, mode="auto").assert_outcomes(passed=4)

    def test_with_anyio(self, pytester: pytest.Pytester) -> None:
        """Where anyio's plugin runs the tests and pytest-asyncio is not active."""
        run(pytester, ANYIO + ON_ASYNCIO, "-p", "no:asyncio").assert_outcomes(passed=4)

    def test_with_anyio_beside_pytest_asyncio(self, pytester: pytest.Pytester) -> None:
        """Where both are active, as in a suite that is being moved from one to the other."""
        source = ANYIO + ON_ASYNCIO + "@pytest.mark.asyncio\nasync def test_other(recollect_store):\n    pass\n"
        run(pytester, source).assert_outcomes(passed=5)

    def test_on_loops_that_tests_share(self, pytester: pytest.Pytester) -> None:
        """A test whose loop has a wider scope gets a store that was opened on that loop."""
        tests = """
@pytest.mark.asyncio(loop_scope="SCOPE")
class TestOnSCOPE:
    async def test_first(self, recollect_store, recollect_disk_store):
        await recollect_store.sessions.create("a")
        await recollect_disk_store.sessions.create("a")
    async def test_second(self, recollect_store):
        assert await recollect_store.sessions.count() == 0
"""
        source = "import pytest\n" + "".join(tests.replace("SCOPE", scope) for scope in WIDER)
        run(pytester, source).assert_outcomes(passed=8)

    def test_on_a_loop_that_the_configuration_shares(self, pytester: pytest.Pytester) -> None:
        """The same where the scope of loops is configured and no test says it."""
        source = "async def test_it(recollect_store):\n    await recollect_store.sessions.create('a')\n"
        override = "asyncio_default_test_loop_scope=session"
        run(pytester, source, "-o", override, mode="auto").assert_outcomes(passed=1)

    def test_on_trio_they_skip(self, pytester: pytest.Pytester) -> None:
        """anyio runs a test on every backend there is: on asyncio it passes, on trio it is skipped."""
        pytest.importorskip("trio")
        run(pytester, ANYIO, "-p", "no:asyncio").assert_outcomes(passed=4, skipped=4)

    def test_a_test_that_is_not_async_is_told(self, pytester: pytest.Pytester) -> None:
        """A fixture that nobody can open says what is needed."""
        result = run(pytester, "def test_it(recollect_store):\n    pass\n")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["recollect_store needs an async test that pytest-asyncio or anyio runs*"])


LEAK = """
    import pytest
    from recollect import AsyncSessionStore

    kept = []

    async def opened():
        kept.append(await AsyncSessionStore(":memory:").open())
        return kept[-1]
    """


class TestAForgottenStore:
    """A test that leaves a store open fails, and only that test."""

    def test_fails_the_test_and_names_the_store(self, pytester: pytest.Pytester) -> None:
        """The message says which store it is and what to do; the tests around it pass."""
        source = """
            import asyncio
            from recollect import AsyncSessionStore
            def test_before(): pass
            async def forget(path): await AsyncSessionStore(path).open()
            def test_forgets(tmp_path): asyncio.run(forget(tmp_path / "left.db"))
            def test_after(): pass
            """
        result = run(pytester, source)
        result.assert_outcomes(passed=3, errors=1)
        result.stdout.fnmatch_lines(
            [
                "*ERROR at teardown of test_forgets*",
                "this test left 1 store of recollect open: AsyncSessionStore(*left.db*)",
                "Close what it opens: `async with AsyncSessionStore(...) as store:`*",
            ]
        )

    def test_left_by_a_fixture_of_the_test(self, pytester: pytest.Pytester) -> None:
        """A fixture for one test is part of it."""
        source = (
            LEAK + "@pytest.fixture\n    async def store(): return await opened()\n    async def test_it(store): pass"
        )
        run(pytester, source, mode="auto").assert_outcomes(passed=1, errors=1)

    def test_closed_by_a_fixture_is_not_forgotten(self, pytester: pytest.Pytester) -> None:
        """What a fixture closes after the test was closed in time."""
        source = (
            LEAK
            + """
    @pytest.fixture
    async def store():
        yield await opened()
        await kept[-1].aclose()
    async def test_it(store):
        pass
    """
        )
        run(pytester, source, mode="auto").assert_outcomes(passed=1)

    def test_of_a_wider_fixture_is_not_the_tests(self, pytester: pytest.Pytester) -> None:
        """A store of a fixture with a wider scope may stay open between tests, also where a test sets the
        fixture up on its way."""
        tests = """
@pytest.fixture(scope="SCOPE")
def of_SCOPE():
    with asyncio.Runner() as runner:
        store = runner.run(opened())
        yield store
        runner.run(store.aclose())

late_of_SCOPE = pytest.fixture(scope="SCOPE")(of_SCOPE.__wrapped__)

class TestWithSCOPE:
    def test_one(self, of_SCOPE): pass
    def test_two(self, of_SCOPE, request): request.getfixturevalue("late_of_SCOPE")
    def test_three(self): pass
"""
        source = dedent(LEAK) + "import asyncio\n" + "".join(tests.replace("SCOPE", scope) for scope in WIDER)
        run(pytester, source).assert_outcomes(passed=12)

    def test_of_a_wider_fixture_is_missed_at_its_end(self, pytester: pytest.Pytester) -> None:
        """A fixture that leaves its store open when it is torn down is named; one within it that closes
        its own is not."""
        source = (
            LEAK
            + """
    import asyncio

    @pytest.fixture(scope="session")
    def closes():
        with asyncio.Runner() as runner:
            yield runner.run(opened())
            runner.run(kept[0].aclose())

    @pytest.fixture(scope="module")
    def forgets(request):
        request.getfixturevalue("closes")
        asyncio.run(opened())

    def test_one(forgets): pass
    def test_two(forgets): pass
    """
        )
        result = run(pytester, source)
        result.assert_outcomes(passed=2, errors=1)
        result.stdout.fnmatch_lines(["fixture 'forgets' left 1 store of recollect open: *"])

    def test_may_be_allowed(self, pytester: pytest.Pytester) -> None:
        """A marked test may leave stores open, and the next is not blamed for them."""
        source = (
            LEAK
            + """
    @pytest.mark.recollect_leaves_open
    async def test_leaves(): await opened()
    async def test_next(): pass
    async def test_closes(): await kept[0].aclose()
    """
        )
        shared = ["-o", "asyncio_default_test_loop_scope=session"]
        run(pytester, source, "--strict-markers", *shared, mode="auto").assert_outcomes(passed=3)


def test_the_plugin_asks_for_no_async_plugin(pytester: pytest.Pytester) -> None:
    """Where neither pytest-asyncio nor anyio's plugin is installed, pytest runs as if it were not there."""
    pytester.makepyfile("def test_it(): pass")
    program = (
        "import sys; sys.modules.update({'pytest_asyncio': None, 'anyio.pytest_plugin': None}); import pytest;"
        "sys.exit(pytest.main(['-p', 'recollect.testing']))"
    )
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "1 passed" in done.stdout, done.stderr
