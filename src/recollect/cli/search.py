"""`recollect search`: hits as they are found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import typer

from ..models import Hit
from ..store import AsyncSessionStore
from .hits import MARKS, show_hit, show_session_of, write_hit
from .opening import searching, session_named
from .options import Db, Json, Since, Source, Until, User
from .run import run
from .screen import console, write_json


def search(
    query: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY",
            help='Words, all of which must match; "a phrase", prefix*, OR, -not. Quote it for the shell.',
        ),
    ],
    session: Annotated[
        list[str] | None, typer.Option("--session", metavar="ID", help="Only there: an id, its beginning, or a title.")
    ] = None,
    user: User = None,
    source: Source = None,
    role: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE", help="Only messages of user, assistant, tool…")
    ] = None,
    kind: Annotated[
        Literal["message", "event"] | None, typer.Option("--kind", help="Only messages, or events.")
    ] = None,
    order: Annotated[Literal["relevance", "newest", "oldest"], typer.Option("--order")] = "relevance",
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Hits at most; 0 for all.")] = 20,
    since: Since = None,
    until: Until = None,
    context: Annotated[
        int, typer.Option("--context", "-C", min=0, max=20, help="Messages shown before and after.")
    ] = 0,
    db: Db = None,
    json: Json = False,
) -> None:
    """Find messages and events.

    What was just imported is found: the index is brought up to date first. Finding nothing is no error.
    """
    filters = {
        "user_id": user, "source": source, "role": role, "kinds": kind or ("message", "event"), "order": order,
        "limit": limit or None, "since": since, "until": until, "context": context,
    }  # fmt: skip
    run(_search(" ".join(query), session, filters, db, json))


async def _search(query: str, session: list[str] | None, filters: dict[str, Any], db: str | None, json: bool) -> None:
    async with searching(db) as store:
        if session:
            filters["session"] = [await session_named(store, text) for text in session]
        if json:
            async for hit in store.search(query, **filters):
                write_json(hit)
        else:
            await _show(store.search(query, marks=MARKS, with_text=True, **filters))
        await _warn_if_behind(store)


async def _show(hits: AsyncIterator[Hit]) -> None:
    out = console()
    found, shown_under = 0, None
    async for hit in hits:
        found += 1
        if out.is_terminal:
            if found == 1 or hit.session_id != shown_under:
                show_session_of(out, hit, first=found == 1)
            show_hit(out, hit)
            shown_under = hit.session_id
        else:
            write_hit(out, hit)
    if not found:
        console(stderr=True).print("nothing found")


async def _warn_if_behind(store: AsyncSessionStore) -> None:
    stats = await store.stats()
    if stats.search_behind:
        console(stderr=True).print(f"the index is {stats.index_lag} rows behind: not everything was looked through")
