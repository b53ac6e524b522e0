"""`recollect tail`: what is committed, by whichever process, as it happens."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..changes import BEGINNING
from ..models import Change, Message
from ..store import AsyncSessionStore
from ..watch import Watch
from .opening import reading, session_named
from .options import Db, Json
from .run import run
from .safe import one_line
from .screen import console, local, utc, write_fields, write_json


def tail(
    session: Annotated[
        list[str] | None,
        typer.Option(
            "--session",
            metavar="SESSION",
            help="Only of that session: its id, the beginning of just one, or its title; may be repeated.",
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="Only `message`, `event`, or such events: `store.*` is what happens to sessions; may be repeated.",
        ),
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="CURSOR", help="First what was committed since there.")
    ] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="First all that there is.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="So many, then end. Default: until interrupted.")
    ] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Follow what is committed: messages, events, and what happens to sessions.

    In a pipe, a line each: time, session, kind, role or name, first line of the text, cursor. Interrupted, it
    says on stderr with which cursor to go on. What was erased meanwhile, or with its session, is not shown.
    """
    if after is not None and from_start:
        raise typer.BadParameter("--after and --from-start exclude each other")
    run(_tail(session, kind, BEGINNING if from_start else after, limit, db, json))


async def _tail(
    sessions: list[str] | None, kinds: list[str] | None, after: str | None, limit: int | None, db: str | None,
    json: bool,
) -> None:  # fmt: skip
    out = console()
    async with reading(db) as store:
        named = await _named(store, sessions)
        async with store.watch(session_id=named, kinds=kinds or None, after=after) as watch:
            try:
                await _follow(out, watch, limit, json)
            except asyncio.CancelledError:
                typer.echo(f"recollect: go on with --after {watch.cursor}", err=True)
                raise


async def _named(store: AsyncSessionStore, sessions: list[str] | None) -> list[str] | None:
    return [await session_named(store, name) for name in sessions] if sessions else None


async def _follow(out: Console, watch: Watch, limit: int | None, json: bool) -> None:
    shown = 0
    async for change in watch:
        if json:
            write_json(change)
        elif out.is_terminal:
            _show(out, change)
        else:
            _write_line(out, change)
        shown += 1
        if shown == limit:
            return


def _write_line(out: Console, change: Change) -> None:
    write_fields(out, utc(change.at), change.session_id, change.kind, _who(change), _words(change), change.cursor)


def _show(out: Console, change: Change) -> None:
    """A line of the screen, cut where it ends."""
    line = Text.assemble((f"{local(change.at)}  ", "dim"), (one_line(change.session_id or "no session"), "cyan"))
    what = change.kind if change.message is None else change.message.role
    line.append(f"  {one_line(what)}", "green" if change.message else "yellow")
    name = None if change.message else _who(change)
    line.append("".join(f"  {one_line(text)}" for text in (name, _words(change)) if text))
    out.print(line, no_wrap=True, overflow="ellipsis", crop=True)


def _who(change: Change) -> str | None:
    """The role of a message; the name of an event."""
    if change.message is not None:
        return change.message.role
    return change.event and change.event.name


def _words(change: Change) -> str:
    """The first line of the text, or what there is in place of it."""
    if change.message is not None:
        return _first_line(change.message.text) or _called(change.message)
    event = change.event
    if event is None:
        return ""
    facts = (event.action, event.issue_id, event.path, _first_line(event.text))
    return " ".join(fact for fact in facts if fact)


def _first_line(text: str | None) -> str:
    return next((line for line in (text or "").splitlines() if line.strip()), "")


def _called(message: Message) -> str:
    """The tools that a message calls, whichever provider's way of writing it was stored."""
    calls: Any = message.tool_calls if isinstance(message.tool_calls, list) else [message.tool_calls]
    functions = [call.get("function", call) for call in calls if isinstance(call, dict)]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    return " ".join(f"→ {name}" for name in names if name)
