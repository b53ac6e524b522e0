"""`recollect check`, `repair`, `optimize`, `erase`."""

from __future__ import annotations

from pathlib import Path

import pytest

from recollect import AsyncSessionStore
from recollect.engine.operation import execute

from .conftest import Do, Run


def spoil(do: Do) -> None:
    """A counter of a session is wrong."""

    async def change(store: AsyncSessionStore) -> None:
        await store.write(_spoil)

    do(change)


def _spoil():
    yield execute("UPDATE sessions SET message_count = 77 WHERE id = 'chat-1'")


def test_a_sound_store_is_said_to_be_so(recollect: Run) -> None:
    """Nothing in a pipe, an object for programs, status 0."""
    assert (recollect("check").status, recollect("check").out) == (0, "")
    (report,) = recollect("check", "--json").json
    assert report == {"sessions": 3, "problems": [], "repaired": []}


def test_what_is_wrong_is_told_and_mended(recollect: Run, do: Do) -> None:
    """Status 1 while there is something."""
    spoil(do)
    ran = recollect("check")
    assert (ran.status, ran.lines) == (1, [["wrong", "counter", "chat-1", "message_count is 77, its rows say 3"]])
    ran = recollect("repair")
    assert (ran.status, ran.lines) == (0, [["repaired", "counter", "chat-1", "message_count is 77, its rows say 3"]])
    assert recollect("repair").out == ""
    assert recollect("check").status == 0


def test_a_terminal_is_told_what_to_do(in_terminal: Run, do: Do) -> None:
    """Of each kind of problem."""
    spoil(do)
    shown = in_terminal("check").out
    assert "chat-1: message_count is 77" in shown
    assert "`recollect repair` counts anew" in shown
    assert "3 sessions looked at; 1 problem" in shown
    assert "nothing is wrong" in in_terminal("repair").out


def test_tidying_says_whether_it_is_done(recollect: Run) -> None:
    """And may be told how long."""
    assert recollect("optimize").lines == [["done"]]
    assert recollect("optimize", "--json").json == [{"done": True}]
    assert recollect("optimize", "--budget", "-1").status == 2


def test_a_session_is_erased(recollect: Run, db: Path) -> None:
    """Its bytes too."""
    assert b"thanks" in db.read_bytes()
    ran = recollect("erase", "chat-1", "--yes")
    assert (ran.status, ran.lines) == (0, [["chat-1"]])
    assert b"thanks" not in db.read_bytes()
    assert recollect("erase", "chat-1", "--yes").status == 1


def test_a_user_is_erased(recollect: Run) -> None:
    """All of his sessions."""
    (erased,) = recollect("erase", "--user", "ben", "--vacuum", "--yes", "--json").json
    assert erased["sessions"] == ["chat-1"]
    assert recollect("sessions", "--user", "ben").lines == []


@pytest.mark.parametrize("given", [[], ["chat-1", "--user", "ben"]])
def test_one_of_the_two_is_named(recollect: Run, given: list[str]) -> None:
    """Wrong usage otherwise."""
    assert recollect("erase", *given, "--yes").status == 2


def test_nothing_is_erased_unasked(recollect: Run) -> None:
    """Where there is no terminal, --yes must be said."""
    assert recollect("erase", "chat-1").status == 2
    assert "chat-1" in {session["id"] for session in recollect("sessions", "--json").json}
