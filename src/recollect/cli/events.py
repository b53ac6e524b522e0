"""`recollect events` and `recollect recent`: what happened, in the order of recording or the newest first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..events.typed import RecordedEvent
from ..store import AsyncSessionStore
from .opening import reading
from .options import Db, Json, Since, Until
from .run import run
from .safe import one_line
from .screen import console, local, utc, write_fields, write_json

WORDS = 200
"""characters of an event's text in a line"""


def events(
    kind: Annotated[list[str] | None, typer.Option("--kind", metavar="KIND", help="tool, file, issue, loop…")] = None,
    session: Annotated[
        list[str] | None, typer.Option("--session", metavar="ID", help="Only of that session; may be repeated.")
    ] = None,
    of_run: Annotated[list[str] | None, typer.Option("--run", metavar="ID", help="Only of that run.")] = None,
    issue: Annotated[list[str] | None, typer.Option("--issue", metavar="ID", help="Only of that issue.")] = None,
    path: Annotated[list[str] | None, typer.Option("--path", metavar="PATH", help="Only about that file.")] = None,
    since: Since = None,
    until: Until = None,
    after: Annotated[int | None, typer.Option("--after", metavar="N", help="Only behind the event N.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Events at most; 0 for all.")] = 20,
    db: Db = None,
    json: Json = False,
) -> None:
    """List events in the order in which they were recorded.

    In a pipe, a line each: number, time, kind, name, action, issue, session, run, path, words.
    """
    filters = {
        "kind": kind, "session_id": session, "run_id": of_run, "issue_id": issue, "path": path, "since": since,
        "until": until, "after": after,
    }  # fmt: skip
    run(_events(filters, limit or None, db, json))


def recent(
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="tool, file, issue, loop…")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Events at most; 0 for all.")] = 20,
    db: Db = None,
    json: Json = False,
) -> None:
    """List the last events of a kind, the newest recorded first.

    In a pipe, a line each, as of `recollect events`. A kind that nothing has is an error, which names those there are.
    """
    run(_recent(kind, limit or None, db, json))


async def _events(filters: dict[str, Any], limit: int | None, db: str | None, json: bool) -> None:
    async with reading(db) as store:
        if filters["session_id"]:
            filters["session_id"] = [await store.sessions.resolve(text) or text for text in filters["session_id"]]
        more = await _show(_first(store, filters, limit), limit, json)
        if more and not json and console().is_terminal:
            console().print(f"there are more; --limit shows them, or --after {more}", style="dim")


async def _recent(kind: str, limit: int | None, db: str | None, json: bool) -> None:
    async with reading(db) as store:
        found = await store.events.recent(kind, limit=limit)
        await _show(_each(found), None, json)


async def _each(found: list[RecordedEvent]) -> AsyncIterator[RecordedEvent]:
    for event in found:
        yield event


async def _first(store: AsyncSessionStore, filters: dict[str, Any], limit: int | None) -> AsyncIterator[RecordedEvent]:
    """One more than are to be shown, which tells that there are more."""
    left = limit
    async for event in store.events.stream(**filters):
        yield event
        left = None if left is None else left - 1
        if left == -1:
            return


async def _show(found: AsyncIterator[RecordedEvent], limit: int | None, json: bool) -> int:
    """Shows each as it comes; the number of the last, if there are more, else 0."""
    out = console()
    shown, last = 0, 0
    async for event in found:
        if shown == limit:
            return last
        if json:
            write_json(event)
        elif out.is_terminal:
            _show_event(out, event)
        else:
            _write_line(out, event)
        shown, last = shown + 1, event.id
    if not shown and not json:
        console(stderr=True).print("no events")
    return 0


def _show_event(out: Console, event: RecordedEvent) -> None:
    """A line: when, what kind, what; below it what it is about."""
    line = Text.assemble((local(event.at), "dim"), "  ", (one_line(event.kind), "green"))
    for fact, style in ((event.issue_id, "bold"), (event.name, ""), (event.action, "yellow")):
        if fact:
            line.append(f"  {one_line(fact[:WORDS])}", style)
    about = "  ".join(one_line(fact) for fact in (event.path, event.run_id, event.session_id) if fact)
    out.print(line, soft_wrap=True)
    if about:
        out.print(Text(f"  {about}", "dim"), soft_wrap=True)


def _write_line(out: Console, event: RecordedEvent) -> None:
    write_fields(
        out, event.id, utc(event.at), event.kind, event.name, event.action, event.issue_id, event.session_id,
        event.run_id, event.path, event.text and event.text[:WORDS],
    )  # fmt: skip
