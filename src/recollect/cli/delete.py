"""`recollect delete`: a session, and what it spawned."""

from __future__ import annotations

from typing import Annotated

import typer

from ..models import Lifecycle, Relation, Session
from ..store import AsyncSessionStore
from .asking import Yes, ask, require_terminal
from .gone import tell_gone
from .opening import NotThere, reading, session_named, writing
from .options import Db, Json, Named
from .run import run
from .screen import counted


def delete(
    session: Named,
    no_cascade: Annotated[bool, typer.Option("--no-cascade", help="Keep the sessions that it spawned.")] = False,
    yes: Yes = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Delete a session with its messages, usage and events, and the sessions it spawned.

    Those that were detached stay, as do its forks and what continues it. What is deleted is gone from
    every list and search at once, and erased from the file soon after. In a pipe, a line for each id.
    """
    if not yes:
        require_terminal()
    found, spawned = run(_find(session, db))
    if not yes:
        ask(_question(found, 0 if no_cascade else spawned))
    run(_delete(found.id, not no_cascade, db, json))


async def _find(name: str, db: str | None) -> tuple[Session, int]:
    """The session, and how many go with it."""
    async with reading(db) as store:
        session = await store.sessions.get(await session_named(store, name))
        if session is None:
            raise NotThere(f"session {name!r} was deleted just now")
        return session, await _spawned(store, session.id)


async def _spawned(store: AsyncSessionStore, session_id: str) -> int:
    going = [session_id]
    for id in going:
        children = await store.sessions.children(id, relation=Relation.SPAWN)
        going += [child.id for child in children if child.lifecycle is not Lifecycle.DETACHED]
    return len(going) - 1


def _question(session: Session, spawned: int) -> str:
    title = f" {session.title!r}" if session.title else ""
    others = f" and {counted(spawned, 'session')} that it spawned" if spawned else ""
    return f"Delete session {session.id}{title}, {counted(session.message_count, 'message')}{others}?"


async def _delete(session_id: str, cascade: bool, db: str | None, json: bool) -> None:
    async with writing(db) as store:
        gone = await store.sessions.delete(session_id, cascade=cascade)
    if not gone:
        raise NotThere(f"session {session_id!r} was deleted just now")
    tell_gone(gone, {"sessions": gone}, json=json)
