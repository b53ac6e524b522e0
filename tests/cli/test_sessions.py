"""`recollect sessions`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from recollect import AsyncSessionStore

from .conftest import Do, Run

STAGING = "258c7280-ae70-4798-800f-63464d01a85d"


def test_the_newest_come_first(recollect: Run) -> None:
    """A line each in a pipe: id, source, status, last activity, messages, user, what it is about."""
    assert recollect("sessions").lines[:2] == [
        ["chat-1", "telegram", "active", "2026-03-02T14:00:00Z", "3", "ben", "How do I deploy a bot?"],
        [STAGING, "claude-code", "active", "2026-03-01T12:00:00Z", "4", "ada", "Staging"],
    ]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--source", "telegram"], ["chat-1", "chat-2"]),
        (["--source", "telegram", "--source", "claude-code", "--limit", "2"], ["chat-1", STAGING]),
        (["--not-source", "telegram"], [STAGING]),
        (["--user", "ada"], [STAGING]),
        (["--kind", "root", "--limit", "1"], ["chat-1"]),
        (["--kind", "subagent"], []),
        (["--key", "nobody's"], []),
        (["--parent", "chat-1"], []),
        (["--status", "ended"], ["chat-2"]),
        (["--title", "stag"], [STAGING]),
        (["--since", "2026-03-02T00:00Z"], ["chat-1"]),
        (["--until", "2026-03-01T00:00Z"], ["chat-2"]),
        (["--order", "created"], [STAGING, "chat-1", "chat-2"]),
        (["--limit", "0"], ["chat-1", STAGING, "chat-2"]),
    ],
)
def test_every_filter_narrows(recollect: Run, options: list[str], found: list[str]) -> None:
    """Sources, users, status, title, times of the chosen order."""
    ids = [session["id"] for session in recollect("sessions", "--json", *options).json]
    assert sorted(ids) == sorted(found)
    if "--order" not in options:
        assert ids == found


def test_lineage_and_keys_narrow(recollect: Run, do: Do) -> None:
    """Sub-agents' sessions, those below one, those of a gateway's chat."""

    async def grow(store: AsyncSessionStore) -> None:
        await store.sessions.create("worker", parent_id="chat-1")
        await store.sessions.create("tg-9", key="telegram:9")

    do(grow)
    for options in (["--kind", "subagent"], ["--parent", "chat-1"], ["--parent", "worker", "--parent", "chat-1"]):
        assert [line[0] for line in recollect("sessions", *options).lines] == ["worker"]
    assert [line[0] for line in recollect("sessions", "--key", "telegram:9").lines] == ["tg-9"]
    ran = recollect("sessions", "--parent", "nope")
    assert (ran.status, ran.out) == (1, "")
    assert "no session 'nope'" in ran.err


def test_programs_get_every_field(recollect: Run) -> None:
    """A line of JSON per session, times in UTC."""
    session = recollect("sessions", "--json", "--user", "ada").json[0]
    assert session["created_at"] == "2026-03-01T12:00:00Z"
    assert (session["input_tokens"], session["actual_cost_usd"]) == (1200, 0.01)


def test_a_limit_goes_over_pages(recollect: Run, db: Path) -> None:
    """As many as asked for, however many a page holds."""

    async def many() -> None:
        async with AsyncSessionStore(db) as store:
            await asyncio.gather(*[store.sessions.create(source="bulk") for _ in range(250)])

    asyncio.run(many())
    for limit, listed in ((0, 250), (120, 120), (100, 100)):
        ids = [line[0] for line in recollect("sessions", "--source", "bulk", "--limit", limit).lines]
        assert len(set(ids)) == len(ids) == listed


def test_a_terminal_gets_a_table(in_terminal: Run) -> None:
    """What a session is about, and its whole id; titles are cut to the room there is."""
    shown = in_terminal("sessions", "--limit", 2, columns=80).out
    assert "last active" in shown.splitlines()[0]
    assert STAGING in shown
    assert "2 of 3; --limit shows more" in shown
    assert "ended" in in_terminal("sessions", "--status", "ended").out
