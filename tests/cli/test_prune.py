"""`recollect prune`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recollect import AsyncSessionStore
from recollect.cli.prune import a_span

from .conftest import Do, Run

STAGING = "258c7280-ae70-4798-800f-63464d01a85d"


@pytest.fixture(autouse=True)
def recent(do: Do) -> None:
    """Sessions that ended an hour and two days ago; those that the store has otherwise are older."""

    async def grow(store: AsyncSessionStore) -> None:
        for hours in (1, 48):
            at = datetime.now(UTC) - timedelta(hours=hours)
            await store.sessions.create(f"ended-{hours}", source="cron", created_at=at)
            await store.sessions.end(f"ended-{hours}", "done")

    do(grow)


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--older-than", "30m"], ["chat-2", "ended-48", "ended-1"]),
        (["--older-than", "1d"], ["chat-2", "ended-48"]),
        (["--older-than", "72h"], ["chat-2"]),
        (["--older-than", "1w"], ["chat-2"]),
        (["--older-than", "1d", "--source", "cron"], ["ended-48"]),
        (["--older-than", "99999w"], []),
    ],
)
def test_the_longest_idle_go_first(recollect: Run, options: list[str], ids: list[str]) -> None:
    """The same with --dry-run and without, but that then they are gone."""
    before = recollect("sessions").out
    assert [line[0] for line in recollect("prune", "--dry-run", *options).lines] == ids
    assert recollect("prune", "--dry-run", "--json", *options).json == [{"sessions": ids, "dry_run": True}]
    assert recollect("sessions").out == before
    ran = recollect("prune", "--yes", *options)
    assert (ran.status, [line[0] for line in ran.lines], ran.err) == (0, ids, "")
    assert not {line[0] for line in recollect("sessions").lines} & set(ids)


def test_active_ones_only_if_told(recollect: Run) -> None:
    """Then all that were idle."""
    [pruned] = recollect("prune", "--older-than", "3d", "--include-active", "--yes", "--json").json
    assert pruned["dry_run"] is False
    assert sorted(pruned["sessions"]) == [STAGING, "chat-1", "chat-2"]


def test_nothing_goes_unasked(recollect: Run) -> None:
    """Where there is no terminal, --yes must be said."""
    ran = recollect("prune", "--older-than", "1d")
    assert (ran.status, ran.out) == (2, "")
    assert "--yes" in ran.err
    assert recollect("show", "chat-2").status == 0


def test_a_terminal_is_asked(in_terminal: Run, recollect: Run) -> None:
    """How many; anything but yes deletes nothing."""
    ran = in_terminal("prune", "--older-than", "1d", answer="n\n")
    assert ran.status == 1
    assert "Delete 2 sessions? [y/N]:" in ran.out
    assert "2 sessions would be deleted" in in_terminal("prune", "--older-than", "1d", "--dry-run").out
    ran = in_terminal("prune", "--older-than", "1d", answer="y\n")
    assert ran.status == 0
    assert "2 sessions deleted" in ran.out
    assert recollect("show", "chat-2").status == 1


def test_nothing_to_prune_is_no_question(in_terminal: Run) -> None:
    """And no error."""
    ran = in_terminal("prune", "--older-than", "999w", answer="")
    assert (ran.status, "nothing to delete" in ran.out) == (0, True)
    assert "?" not in ran.out


def test_spans() -> None:
    """A number and a unit."""
    assert [a_span(text) for text in ("30m", "12h", "90d", "2w", "0d")] == [
        timedelta(minutes=30), timedelta(hours=12), timedelta(days=90), timedelta(weeks=2), timedelta(0),
    ]  # fmt: skip
