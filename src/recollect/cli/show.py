"""`recollect show`: a session and its transcript."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ..models import Message
from ..store import AsyncSessionStore
from .opening import NotThere, reading, session_named
from .options import Db, Json, Named
from .run import run
from .screen import console, counted, write_json
from .transcript import show_message, show_session

TAIL = 20


def show(
    session: Named,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="The first so many messages.")] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", min=1, help="The last so many messages.", show_default=str(TAIL))
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Every message and in full, with those that were compacted or rewound."),
    ] = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Show a session and its messages: the last 20, unless told otherwise.

    With --json it is one object, of "session" and "messages".
    """
    if sum((limit is not None, tail is not None, everything)) > 1:
        raise typer.BadParameter("--limit, --tail and --all exclude each other")
    run(_show(session, limit, tail or TAIL, everything, db, json))


async def _show(name: str, limit: int | None, tail: int, everything: bool, db: str | None, json: bool) -> None:
    async with reading(db) as store:
        session = await store.sessions.get(await session_named(store, name))
        if session is None:
            raise NotThere(f"session {name!r} was deleted just now")
        messages = await _messages(store, session.id, limit, tail, everything)
        if json:
            return write_json({"session": session, "messages": messages})
        out = console()
        show_session(out, session)
        left_out = session.message_count - len(messages)
        if left_out > 0 and limit is None:
            out.print(f"\n{counted(left_out, 'earlier message')}; --all shows every one", style="dim")
        for message in messages:
            show_message(out, message, in_full=everything or not out.is_terminal)
        if left_out > 0 and limit is not None:
            out.print(f"\n{counted(left_out, 'later message')}", style="dim")
        return None


async def _messages(
    store: AsyncSessionStore, session_id: str, limit: int | None, tail: int, everything: bool
) -> Sequence[Message]:
    if everything:
        return (await store.messages.list(session_id, state="all")).items
    if limit is not None:
        return (await store.messages.list(session_id, limit=limit)).items
    return await store.messages.tail(session_id, tail)
