"""`recollect events` and `recollect recent`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from recollect import AsyncSessionStore, Event

from .conftest import NASTY, START, Do, Run


@pytest.fixture(autouse=True)
def happened(do: Do) -> list[int]:
    """Three events: of a tool, of a loop, of an issue."""

    async def record(store: AsyncSessionStore) -> list[int]:
        return await store.events.record_many(
            [
                Event("tool", START, "chat-1", name="Bash", action="completed", text="make\tall"),
                Event("loop", START + timedelta(hours=1), run_id="r1", name="fix", action="route"),
                Event("issue", START + timedelta(hours=2), "elsewhere", name=NASTY, action="done", issue_id="BUG-1",
                      path="a.md", text="word " * 100),
            ]
        )  # fmt: skip

    return do(record)


def test_events_come_in_the_order_of_recording(recollect: Run, happened: list[int]) -> None:
    """A line each in a pipe, what is long cut short; what happens to sessions is among them if asked for."""
    lines = recollect("events", "--kind", "tool", "--kind", "issue").lines
    assert lines[0] == [
        str(happened[0]), "2026-03-01T12:00:00Z", "tool", "Bash", "completed", "", "chat-1", "", "", "make all",
    ]  # fmt: skip
    assert (lines[1][2], lines[1][5:9]) == ("issue", ["BUG-1", "elsewhere", "", "a.md"])
    assert len(lines[1][9]) < 250
    assert len(lines) == 2
    assert "store.created" in {line[2] for line in recollect("events", "--limit", "0").lines}


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["--session", "chat-1", "--kind", "tool"], ["tool"]),
        (["--session", "elsewhere"], ["issue"]),
        (["--run", "r1"], ["loop"]),
        (["--issue", "BUG-1"], ["issue"]),
        (["--path", "a.md"], ["issue"]),
        (["--issue", "BUG-1", "--kind", "tool"], []),
        (["--kind", "loop", "--kind", "tool", "--since", "2026-03-01T13:00Z"], ["loop"]),
        (["--kind", "loop", "--kind", "tool", "--until", "2026-03-01T13:00Z"], ["tool"]),
        (["--kind", "loop", "--kind", "tool", "--limit", "1"], ["tool"]),
    ],
)
def test_every_filter_narrows(recollect: Run, options: list[str], kinds: list[str]) -> None:
    """Programs get a line of JSON for each."""
    assert [event["kind"] for event in recollect("events", "--json", *options).json] == kinds


def test_a_list_goes_on_behind_an_event(recollect: Run, happened: list[int]) -> None:
    """By its number."""
    found = recollect("events", "--json", "--after", happened[0], "--limit", "0").json
    assert [event["id"] for event in found][:2] == happened[1:]


def test_the_newest_of_a_kind_come_first(recollect: Run, do: Do) -> None:
    """As many as one wants; a kind that nothing has is an error, and which there are is said."""

    async def more(store: AsyncSessionStore) -> None:
        await store.events.record_many([Event("tool", START, name=f"t{n}") for n in range(30)])

    do(more)
    assert [line[3] for line in recollect("recent", "--kind", "tool").lines] == [f"t{n}" for n in range(29, 9, -1)]
    assert len(recollect("recent", "--kind", "tool", "--limit", "0", "--json").json) == 31
    assert recollect("recent", "--kind", "correction").lines == []
    ran = recollect("recent", "--kind", "tol")
    assert (ran.status, ran.out) == (1, "")
    assert "correction, file, issue, loop, store.created" in ran.err
    assert recollect("recent").status == 2


def test_a_terminal_shows_what_is_fit_for_it(in_terminal: Run) -> None:
    """No escape sequence of stored text, and that there is more."""
    shown = in_terminal("events", "--kind", "issue", "--kind", "loop", "--limit", "1").out
    assert "fix" in shown
    assert "there are more" in shown
    shown = in_terminal("recent", "--kind", "issue").out
    assert "BUG-1" in shown
    assert "\x1b]0;" not in shown
    assert "there are more" not in shown
    assert "no events" in in_terminal("events", "--run", "none").out


def test_there_is_no_store_to_list(recollect: Run, tmp_path) -> None:
    """Only importing makes one."""
    assert recollect("events", on=tmp_path / "new.db").status == 1
    assert not (tmp_path / "new.db").exists()
