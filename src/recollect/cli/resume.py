"""`recollect resume`: a session found and made ready to go on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from ..errors import KeyTaken
from ..models import Message, Session, State, Status
from ..store import AsyncSessionStore
from .opening import NotThere, writing
from .options import Db, Json
from .run import run
from .safe import printable
from .screen import console, counted, write_fields, write_json, write_text
from .transcript import show_message, show_session

SWITCH = "session_switch"
"""the reason with which another live session of the key is ended"""

TAIL = 20
"""messages that are shown"""


def resume(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            help="A gateway's key, else a session's id or the beginning of just one, else a title, "
            "of which the latest numbered variant is taken.",
        ),
    ],
    db: Db = None,
    json: Json = False,
) -> None:
    """Find a session, go to where its line continues, and make it active again.

    Of a key, the live session is taken, else the last active one. If it has ended it is reopened, and
    taken out of the archive; another live session of its key is ended. In a pipe, its id; with --json
    one object, of "session", "state" and "messages", the last 20.
    """
    run(_resume(key, db, json))


async def _resume(key: str, db: str | None, json: bool) -> None:
    async with writing(db) as store:
        session = await _woken(store, await _tip(store, await _named(store, key)))
        state = await store.sessions.state(session.id)
        messages = await store.messages.tail(session.id, TAIL)
    out = console()
    if json:
        write_json({"session": session, "state": state, "messages": messages})
    elif out.is_terminal:
        _show(out, session, state, messages)
    else:
        write_fields(out, session.id)


# -- finding ---------------------------------------------------------------------------------------


async def _named(store: AsyncSessionStore, key: str) -> str:
    for status in (Status.ACTIVE, None):
        for session in await store.sessions.list(key=key, status=status, limit=1):
            return session.id
    id = await store.sessions.resolve(key) or await store.sessions.resolve_title(key)
    if id is None:
        raise NotThere(
            f"nothing to resume by {key!r}: it must be a gateway's key, an id or the beginning of just one,"
            " or a title (`recollect sessions`)"
        )
    return id


async def _tip(store: AsyncSessionStore, session_id: str) -> Session:
    session = await store.sessions.tip(session_id)
    if session is None:
        raise NotThere(f"session {session_id!r} was deleted just now")
    return session


# -- waking ----------------------------------------------------------------------------------------


async def _woken(store: AsyncSessionStore, session: Session) -> Session:
    """The session active again, whatever it was."""
    if session.status is Status.ARCHIVED:
        session = await _unarchived(store, session.id)
    if session.ended_at is not None:
        session = await store.sessions.reopen(session.id, switch=SWITCH)
    return session


async def _unarchived(store: AsyncSessionStore, session_id: str) -> Session:
    try:
        return await store.sessions.unarchive(session_id)
    except KeyTaken as taken:
        if taken.by is None:
            raise
        await store.sessions.end(taken.by, SWITCH)
        return await store.sessions.unarchive(session_id)


# -- showing ---------------------------------------------------------------------------------------


def _show(out: Console, session: Session, state: State | None, messages: Sequence[Message]) -> None:
    show_session(out, session)
    if state is not None:
        out.print(f"round {state.round_index:,} · send {state.send_index:,}", style="dim")
        if state.pending is not None:
            _show_pending(out, state.pending)
    left_out = session.message_count - len(messages)
    if left_out > 0:
        out.print(f"\n{counted(left_out, 'earlier message')}; `recollect show --all` shows every one", style="dim")
    for message in messages:
        show_message(out, message, in_full=False)


def _show_pending(out: Console, pending: Any) -> None:
    out.print(Text("\npending", "bold yellow"))
    write_text(out, printable(msgspec.json.format(msgspec.json.encode(pending)).decode()))
