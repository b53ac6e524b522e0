"""`recollect rename`."""

from __future__ import annotations

import pytest

from .conftest import Run

STAGING = "258c7280-ae70-4798-800f-63464d01a85d"


@pytest.mark.parametrize("name", ["chat-1", "chat-1"[:-1] + "1"])
def test_a_session_gets_a_title(recollect: Run, name: str) -> None:
    """What cannot be seen is taken out; it is printed as it is now, and found by it."""
    assert recollect("rename", name, "  A\tbot\u200b ") == (0, "chat-1\tA bot\n", "")
    assert recollect("show", "A bot", "--json").json[0]["session"]["id"] == "chat-1"
    assert recollect("rename", "A bot", "Bot", "--json").json == [{"id": "chat-1", "title": "Bot"}]


def test_a_blank_title_takes_it_away(recollect: Run) -> None:
    """The session has none then."""
    assert recollect("rename", "258c", " ") == (0, f"{STAGING}\t\n", "")
    assert recollect("rename", "258c", "", "--json").json == [{"id": STAGING, "title": None}]
    assert recollect("show", "258c", "--json").json[0]["session"]["title"] is None


def test_a_title_that_is_taken_is_an_error(recollect: Run) -> None:
    """Whoever has it is named."""
    ran = recollect("rename", "chat-1", "Staging")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == f"recollect: title 'Staging' is taken by another session, '{STAGING}'; not stored\n"


def test_titles_and_sessions_that_cannot_be(recollect: Run) -> None:
    """Over 100 characters; nobody of that name."""
    assert "at most 100 characters" in recollect("rename", "chat-1", "x" * 101).err
    ran = recollect("rename", "nope", "x")
    assert (ran.status, ran.out) == (1, "")
    assert "no session 'nope'" in ran.err


def test_a_terminal_is_told(in_terminal: Run) -> None:
    """In words, and nothing that steers it."""
    shown = in_terminal("rename", "chat-1", "Bot \x9b").out
    assert "now is called" in shown
    assert "Bot \ufffd" in shown
    assert "has no title" in in_terminal("rename", "chat-1", "").out
