"""The options that several commands have, and how a time is read."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer


def a_time(text: str) -> datetime:
    """An ISO 8601 date or time; without an offset it is local time."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a date or time as 2026-01-31 or 2026-01-31T18:00+01:00") from None


Db = Annotated[
    str | None,
    typer.Option(
        "--db", metavar="FILE", help="The database. Default: recollect/sessions.db in the user's data directory."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Named = Annotated[str, typer.Argument(metavar="SESSION", help="Its id, the beginning of just one, or its title.")]
Source = Annotated[
    list[str] | None, typer.Option("--source", metavar="NAME", help="Only sessions from there; may be repeated.")
]
User = Annotated[
    list[str] | None, typer.Option("--user", metavar="ID", help="Only sessions of that user; may be repeated.")
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since", parser=a_time, metavar="WHEN", help="From then on: an ISO date or time, local unless it says."
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        "--until", parser=a_time, metavar="WHEN", help="Before then: an ISO date or time, local unless it says."
    ),
]
