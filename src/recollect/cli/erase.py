"""`recollect erase`: a session, or all of a user, out of the file for good."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..reports import Erased
from .asking import Yes, ask, require_terminal
from .opening import reading, session_named, writing
from .options import Db, Json
from .run import run
from .safe import one_line
from .screen import console, counted, write_fields, write_json


def erase(
    session: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="Its id, the beginning of just one, or its title.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="ID", help="All sessions and events of that user.")
    ] = None,
    vacuum: Annotated[
        bool,
        typer.Option("--vacuum", help="Also write the file anew, for what SQLite may leave in gaps; others wait."),
    ] = False,
    yes: Yes = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Erase a session with what it spawned, or all of a user: when it ends, no byte of it is in the file.

    Backups and exports are not reached. In a pipe, a line for each id.
    """
    if (session is None) == (user is None):
        raise typer.BadParameter("name a session, or say --user ID")
    if not yes:
        require_terminal()
        ask(run(_question(session, user, db)))
    _tell(run(_erase(session, user, vacuum, db)), json)


async def _question(session: str | None, user: str | None, db: str | None) -> str:
    async with reading(db) as store:
        if session is not None:
            return f"Erase session {await session_named(store, session)} and what it spawned, for good?"
        n = await store.sessions.count(user_id=user)
        return f"Erase {counted(n, 'session')} and all events of user {one_line(user or '')}, for good?"


async def _erase(session: str | None, user: str | None, vacuum: bool, db: str | None) -> Erased:
    async with writing(db) as store:
        given: dict[str, Any] = {"user_id": user}
        if session is not None:
            given = {"session_id": await session_named(store, session)}
        return await store.erase(**given, vacuum=vacuum)


def _tell(erased: Erased, json: bool) -> None:
    out = console()
    if json:
        write_json(erased)
    elif out.is_terminal:
        events = f", {counted(erased.events, 'event')}" if erased.events else ""
        out.print(f"{counted(len(erased.sessions), 'session')}{events} erased", style="dim")
    else:
        for id in erased.sessions:
            write_fields(out, id)
