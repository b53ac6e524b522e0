"""`recollect sessions`: which there are, newest first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..models import Kind, Session, Status
from ..store import AsyncSessionStore
from .opening import reading, session_named
from .options import Db, Json, Since, Source, Until, User
from .run import run
from .safe import one_line
from .screen import console, local, utc, write_fields, write_json

PAGE = 100


def sessions(
    source: Source = None,
    not_source: Annotated[
        list[str] | None, typer.Option("--not-source", metavar="NAME", help="None from there; may be repeated.")
    ] = None,
    user: User = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEY", help="Only those of that gateway key; may be repeated.")
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="Only those of sub-agents, or the others.", case_sensitive=False)
    ] = None,
    parent: Annotated[
        list[str] | None, typer.Option("--parent", metavar="SESSION", help="Only those below it; may be repeated.")
    ] = None,
    status: Annotated[
        list[Status] | None, typer.Option("--status", help="Only these; may be repeated.", case_sensitive=False)
    ] = None,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="Only with that in the title.")] = None,
    since: Since = None,
    until: Until = None,
    order: Annotated[
        Literal["activity", "created"], typer.Option("--order", help="Which time counts, also for --since.")
    ] = "activity",
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Sessions at most; 0 for all.")] = 20,
    db: Db = None,
    json: Json = False,
) -> None:
    """List sessions, the newest first.

    In a pipe, a line each: id, source, status, last activity, messages, user, title or first words.
    """
    filters = {
        "source": source, "exclude_source": not_source, "user_id": user, "key": key, "kind": kind, "status": status,
        "title_contains": title, "since": since, "until": until, "order": order,
    }  # fmt: skip
    run(_sessions(filters, parent, limit or None, db, json))


async def _sessions(
    filters: dict[str, Any], parent: list[str] | None, limit: int | None, db: str | None, json: bool
) -> None:
    async with reading(db) as store:
        if parent:
            filters["parent_id"] = [await session_named(store, text) for text in parent]
        found = _first(store, filters, limit)
        out = console()
        if json:
            async for session in found:
                write_json(session)
        elif out.is_terminal:
            listed = [session async for session in found]
            _show_table(out, listed, await store.sessions.count(**filters))
        else:
            async for session in found:
                _write_line(out, session)


async def _first(store: AsyncSessionStore, filters: dict[str, Any], limit: int | None) -> AsyncIterator[Session]:
    after: str | None = None
    while limit is None or limit > 0:
        size = PAGE if limit is None else min(limit, PAGE)
        page = await store.sessions.list(**filters, limit=size, after=after)
        for session in page:
            yield session
        if page.next is None:
            return
        after, limit = page.next, None if limit is None else limit - len(page)


def _write_line(out: Console, session: Session) -> None:
    write_fields(
        out, session.id, session.source, session.status.value, utc(session.last_active_at), session.message_count,
        session.user_id, session.title or session.preview,
    )  # fmt: skip


def _show_table(out: Console, listed: Sequence[Session], total: int) -> None:
    if not listed:
        return out.print("no sessions", style="dim")
    sources = [_cut(Text(one_line(session.source)), 16) for session in listed]
    room = out.width - max(source.cell_len for source in sources) - _REST
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("session", "source", "messages", "last active"):
        table.add_column(name, overflow="fold", justify="right" if name == "messages" else "left")
    for source, session in zip(sources, listed, strict=True):
        about = Text("\n").join([_cut(_about(session), max(room, 20)), Text(one_line(session.id), "cyan")])
        table.add_row(about, source, f"{session.message_count:,}", local(session.last_active_at))
    out.print(table)
    if total > len(listed):
        out.print(f"{len(listed)} of {total:,}; --limit shows more", style="dim")
    return None


_REST = len("messages") + len("2026-01-31 18:00") + 3 * len("  ")


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text


def _about(session: Session) -> Text:
    about = Text(one_line(session.title or session.preview or "no words yet"), "bold" if session.title else "")
    if session.status is Status.ACTIVE:
        return about
    return Text.assemble((f"{session.status} ", "yellow"), about)
