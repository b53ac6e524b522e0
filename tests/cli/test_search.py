"""`recollect search`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recollect import AsyncSessionStore, ReadOnly

from .conftest import Run

STAGING = "258c7280-ae70-4798-800f-63464d01a85d"


def test_hits_are_lines_of_json_for_programs(recollect: Run) -> None:
    """A line per hit, with every field of a Hit and times in UTC."""
    ran = recollect("search", "deploy", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert {(hit["session_id"], hit["seq"]) for hit in ran.json} == {
        (STAGING, 1), (STAGING, 2), ("chat-1", 1), ("chat-1", 2),
    }  # fmt: skip
    hit = next(hit for hit in ran.json if hit["session_id"] == STAGING and hit["seq"] == 1)
    assert hit["snippet"] == "Please >>>deploy<<< the staging service"
    assert hit["at"] == "2026-03-01T12:00:00Z"
    assert hit["source"] == "claude-code"


def test_a_pipe_gets_a_line_per_hit(recollect: Run) -> None:
    """Time, session, seq, role and snippet between tabs, without marks or colours."""
    ran = recollect("search", "staging service")
    assert ran.lines == [["2026-03-01T12:00:00Z", STAGING, "1", "user", "Please deploy the staging service"]]


def test_several_words_need_no_quotes(recollect: Run) -> None:
    """Words given separately are one query: all must match."""
    assert [line[1] for line in recollect("search", "deploy", "channel").lines] == ["chat-1"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--session", "258c"], {(STAGING, 1), (STAGING, 2)}),
        (["--session", "258c", "--session", "chat-1", "--role", "user"], {(STAGING, 1), ("chat-1", 1)}),
        (["--user", "ben"], {("chat-1", 1), ("chat-1", 2)}),
        (["--source", "claude-code", "--role", "assistant"], {(STAGING, 2)}),
        (["--since", "2026-03-02T13:00Z"], {("chat-1", 2)}),
        (["--until", "2026-03-02T00:00+00:00"], {(STAGING, 1), (STAGING, 2)}),
        (["--order", "oldest", "--limit", "1"], {(STAGING, 1)}),
        (["--order", "newest", "--limit", "1"], {("chat-1", 2)}),
        (["--kind", "event"], set()),
    ],
)
def test_every_filter_narrows(recollect: Run, options: list[str], found: set[tuple[str, int]]) -> None:
    """Sessions by the beginning of their id; users, sources, roles, kinds, times."""
    hits = recollect("search", "deploy", "--json", *options).json
    assert {(hit["session_id"], hit["seq"]) for hit in hits} == found


def test_a_time_without_offset_is_local(recollect: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person types is the clock on the wall."""
    local = datetime(2026, 3, 2, 13, tzinfo=UTC).astimezone().replace(tzinfo=None)
    hits = recollect("search", "deploy", "--json", "--since", local.isoformat()).json
    assert [(hit["session_id"], hit["seq"]) for hit in hits] == [("chat-1", 2)]


def test_context_brings_the_neighbours(recollect: Run) -> None:
    """So many messages before and after."""
    [hit] = recollect("search", "channel", "--json", "--context", 1).json
    assert [line["role"] for line in hit["context"]] == ["user", "assistant", "user"]


def test_a_terminal_shows_hits_under_their_session(in_terminal: Run) -> None:
    """A heading per session, the match in a colour, the neighbours around it."""
    shown = in_terminal("search", "channel", "--context", 1).out
    assert "\x1b[1;33mdeploy" not in shown
    assert "\x1b[1;33mchannel\x1b[0m" in shown
    order = [
        shown.index(text) for text in ("chat-1", "#2 assistant", "user: How do I deploy a bot?", "Ask the", "thanks")
    ]
    assert order == sorted(order)


def test_stored_text_cannot_steer_the_terminal(in_terminal: Run, recollect: Run) -> None:
    """Escape sequences, C1 controls and direction marks of a transcript are taken out; what looks like
    markup stays as it was written. JSON carries all of it, escaped."""
    shown = in_terminal("search", "markup").out
    assert "\x1b]0;" not in shown
    assert not set(shown) & set("\x9b\u202e\x07")
    assert "[bold]" in shown
    assert ":smile:" in shown
    encoded = recollect("search", "markup", "--json")
    assert not set(encoded.out) & set("\x1b\x9b\u202e\x07")
    assert "\x9b2J \u202eevil" in encoded.json[0]["snippet"]


def test_nothing_found_is_no_error(recollect: Run) -> None:
    """It is said on stderr; programs get no line."""
    assert recollect("search", "nowhere") == (0, "", "nothing found\n")
    assert recollect("search", "nowhere", "--json") == (0, "", "")


def test_an_unknown_session_is_an_error(recollect: Run) -> None:
    """A filter that names none, or several, is not an empty answer."""
    for text in ("nope", "chat"):
        ran = recollect("search", "deploy", "--session", text)
        assert (ran.status, ran.out) == (1, "")
        assert f"no session '{text}'" in ran.err


def test_what_was_stored_just_before_is_found(recollect: Run, db: Path) -> None:
    """Even if whoever stored it went away before it was indexed."""

    async def store_and_leave() -> None:
        async with AsyncSessionStore(db) as store:
            for n in range(500):
                store.messages.append_nowait("chat-1", role="user", content=f"pineapple {n}")

    asyncio.run(store_and_leave())
    assert len(recollect("search", "pineapple", "--limit", 0).lines) == 500


def test_a_store_that_cannot_be_written_is_searched(recollect: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then without bringing its index up to date."""
    opened = AsyncSessionStore.open

    async def refuse(store: AsyncSessionStore) -> AsyncSessionStore:
        if not store._engine.readonly:
            raise ReadOnly("the disk is read-only; not stored")
        return await opened(store)

    monkeypatch.setattr(AsyncSessionStore, "open", refuse)
    ran = recollect("search", "channel")
    assert (ran.status, ran.err) == (0, "")
    assert [line[1] for line in ran.lines] == ["chat-1"]
