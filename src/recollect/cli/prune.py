"""`recollect prune`: sessions that nobody came back to."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

import typer

from .asking import Yes, ask, require_terminal
from .gone import tell_gone
from .opening import reading, writing
from .options import Db, Json, Source
from .run import run
from .screen import counted

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def a_span(text: str) -> timedelta:
    """A number and a unit."""
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a span of time as 90d, 12h, 30m or 2w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def prune(
    older_than: Annotated[
        timedelta,
        typer.Option(
            "--older-than", parser=a_span, metavar="SPAN", help="Idle for longer than that: 90d, 12h, 30m, 2w."
        ),
    ],
    source: Source = None,
    include_active: Annotated[
        bool, typer.Option("--include-active", help="Also sessions that have not ended.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell which ones.")] = False,
    yes: Yes = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Delete sessions that have ended and whose last activity is long ago; archived ones never.

    Sessions below them that are active or recent stay. What is deleted is gone from every list and
    search at once, and erased from the file soon after. In a pipe, a line for each id.
    """
    filters = {"idle_for": older_than, "source": source, "include_active": include_active}
    if not (yes or dry_run):
        require_terminal()
        if not (n := len(run(_idle(filters, db)))):
            return _tell([], json, dry_run=False)
        ask(f"Delete {counted(n, 'session')}?")
    return _tell(run(_idle(filters, db) if dry_run else _prune(filters, db)), json, dry_run=dry_run)


async def _idle(filters: dict[str, Any], db: str | None) -> list[str]:
    async with reading(db) as store:
        return await store.sessions.prune(**filters, dry_run=True)


async def _prune(filters: dict[str, Any], db: str | None) -> list[str]:
    async with writing(db) as store:
        return await store.sessions.prune(**filters)


def _tell(ids: list[str], json: bool, *, dry_run: bool) -> None:
    tell_gone(ids, {"sessions": ids, "dry_run": dry_run}, json=json, dry_run=dry_run)
