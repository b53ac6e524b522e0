"""`recollect show`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from recollect import AsyncSessionStore

from .conftest import Run

STAGING = "258c7280-ae70-4798-800f-63464d01a85d"


def test_a_session_by_the_beginning_of_its_id(recollect: Run) -> None:
    """What is known of it, then what was said, and which tools were called."""
    ran = recollect("show", "258c")
    assert ran.status == 0
    for text in (STAGING, "Staging", "claude-code · m-1 · user ada · active", "4 messages · 1 tool call", "$0.0100"):
        assert text in ran.out
    for text in (
        "#1 user",
        "Please deploy the staging service",
        '→ read_file {"path": "deploy.yml"}',
        "#3 tool read_file",
    ):
        assert text in ran.out


def test_a_session_by_its_title(recollect: Run) -> None:
    """Exactly as it is."""
    assert recollect("show", "Staging").out == recollect("show", STAGING).out
    assert recollect("show", "staging").status == 1


def test_a_pipe_gets_the_words_as_they_are(recollect: Run) -> None:
    """Whole, with their tabs, and not wrapped."""
    out = recollect("show", STAGING).out
    assert all(f"row {n}:\tvalue\n" in out for n in range(1, 41))


def test_programs_get_one_object(recollect: Run) -> None:
    """The session and its messages, as the library gives them."""
    [shown] = recollect("show", STAGING, "--json").json
    assert shown["session"]["id"] == STAGING
    assert [message["seq"] for message in shown["messages"]] == [1, 2, 3, 4]
    assert shown["messages"][1]["tool_calls"][0]["id"] == "c1"


@pytest.mark.parametrize(
    ("options", "seqs", "said"),
    [
        ([], range(11, 31), "10 earlier messages; --all shows every one"),
        (["--tail", "3"], range(28, 31), "27 earlier messages"),
        (["--limit", "3"], range(1, 4), "27 later messages"),
        (["--all"], range(1, 31), None),
    ],
)
def test_as_many_as_asked_for(recollect: Run, db: Path, options: list[str], seqs: range, said: str | None) -> None:
    """The last 20 unless told otherwise; what is left out is said."""

    async def talk() -> None:
        async with AsyncSessionStore(db) as store:
            await store.sessions.create("long")
            await store.messages.append_many("long", [{"role": "user", "content": str(n)} for n in range(30)])

    asyncio.run(talk())
    assert [message["seq"] for message in recollect("show", "long", "--json", *options).json[0]["messages"]] == [*seqs]
    out = recollect("show", "long", *options).out
    assert said in out if said else "messages;" not in out


def test_ways_to_choose_exclude_each_other(recollect: Run) -> None:
    """Two of --limit, --tail and --all are wrong usage."""
    ran = recollect("show", STAGING, "--limit", 1, "--all")
    assert (ran.status, ran.out) == (2, "")


def test_an_unknown_session_is_an_error(recollect: Run) -> None:
    """None of that name, or several that begin so: a line on stderr, and status 1."""
    for text in ("nope", "chat", ""):
        ran = recollect("show", text)
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.startswith(f"recollect: no session '{text}'")


def test_a_terminal_is_spared_long_tool_results(in_terminal: Run) -> None:
    """Their beginning is shown, and all of them when asked for."""
    shown = in_terminal("show", STAGING).out
    assert "row 12:" in shown
    assert "row 13:" not in shown
    assert "… 28 more lines; --all shows them" in shown
    assert "row 40:" in in_terminal("show", STAGING, "--all").out


def test_stored_text_cannot_steer_the_terminal(in_terminal: Run, recollect: Run) -> None:
    """Escape sequences of a transcript are taken out, in a pipe too: it may end in a terminal."""
    for shown in (in_terminal("show", "chat-2").out, recollect("show", "chat-2").out):
        assert not set(shown) & set("\x9b\u202e\x07")
        assert "\x1b]0;" not in shown
        assert "\x1b[31mred" not in shown
        assert "[bold]markup[/bold] :smile:" in shown
