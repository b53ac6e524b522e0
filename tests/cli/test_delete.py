"""`recollect delete`."""

from __future__ import annotations

import pytest

from recollect import AsyncSessionStore

from .conftest import Do, Run


@pytest.fixture(autouse=True)
def children(do: Do) -> None:
    """Sessions below chat-1."""

    async def grow(store: AsyncSessionStore) -> None:
        await store.sessions.create("worker", parent_id="chat-1")
        await store.sessions.create("helper", parent_id="worker", lifecycle="linked")
        await store.sessions.create("free", parent_id="worker", lifecycle="detached")
        await store.sessions.fork("chat-1", session_id="fork")

    do(grow)


def left(recollect: Run) -> set[str]:
    """The sessions that are there, but for the two that have nothing to do with it."""
    return {session["id"] for session in recollect("sessions", "--json").json} & {
        "chat-1", "worker", "helper", "free", "fork",
    }  # fmt: skip


def test_a_session_goes_with_what_it_spawned(recollect: Run) -> None:
    """A line for each; the detached and the fork stay, and nothing of it is found."""
    ran = recollect("delete", "chat-1", "--yes")
    assert (ran.status, ran.err) == (0, "")
    assert sorted(ran.lines) == [["chat-1"], ["helper"], ["worker"]]
    assert left(recollect) == {"free", "fork"}
    assert recollect("search", "thanks", "--session", "fork").lines != []
    assert {line[1] for line in recollect("search", "thanks").lines} == {"fork"}


def test_or_alone(recollect: Run) -> None:
    """All its children stay then; programs get an object."""
    assert recollect("delete", "chat-1", "--no-cascade", "-y", "--json").json == [{"sessions": ["chat-1"]}]
    assert left(recollect) == {"worker", "helper", "free", "fork"}


def test_nothing_goes_unasked(recollect: Run) -> None:
    """Where there is no terminal, --yes must be said; it is wrong usage not to."""
    ran = recollect("delete", "chat-1")
    assert (ran.status, ran.out) == (2, "")
    assert "--yes" in ran.err
    assert "chat-1" in left(recollect)


def test_an_unknown_session_is_an_error(recollect: Run) -> None:
    """None of that name, or several that begin so."""
    for name in ("nope", "chat"):
        ran = recollect("delete", name, "--yes")
        assert (ran.status, ran.out) == (1, "")
        assert f"no session '{name}'" in ran.err


def test_a_terminal_is_asked(in_terminal: Run, recollect: Run) -> None:
    """What it is and how much goes with it; anything but yes deletes nothing, and is told by the status."""
    for answer in ("n\n", "\n"):
        ran = in_terminal("delete", "chat-1", answer=answer)
        assert ran.status == 1
        assert "Delete session chat-1, 3 messages and 2 sessions that it spawned? [y/N]:" in ran.out
        assert "nothing was done" in ran.out
    assert "chat-1" in left(recollect)
    ran = in_terminal("delete", "chat-1", answer="y\n")
    assert ran.status == 0
    assert "3 sessions deleted; what was in them is erased from the file soon" in ran.out
    assert left(recollect) == {"free", "fork"}


def test_the_question_is_of_what_would_go(in_terminal: Run, recollect: Run) -> None:
    """The title is named; with --no-cascade, no others."""
    assert (
        "Delete session chat-1, 3 messages? [y/N]:" in in_terminal("delete", "chat-1", "--no-cascade", answer="n\n").out
    )
    assert "'Staging', 4 messages?" in in_terminal("delete", "258c", answer="n\n").out
    assert recollect("show", "258c").status == 0


def test_a_terminal_without_anybody_is_not_asked(in_terminal: Run) -> None:
    """As in a script: stdin is no terminal."""
    assert in_terminal("delete", "chat-1").status == 2
