"""What a room may do through the engine: everything, or what belongs to one user.

Every call on one session goes through here with the session's id first. For a user, whose it is is
looked up in the same transaction or snapshot; another's session is treated like one that does not
exist, so that no room can forget to ask and no error tells of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .encoding import as_id
from .engine import Engine
from .engine.operation import Operation, Row, lock, one
from .engine.writer import Lane
from .errors import SessionNotFound
from .filters import Filter

NOBODY = ""
"""an id that no session has"""


def missing(session_id: str) -> SessionNotFound:
    """The error of a write on a session that is not there."""
    return SessionNotFound(f"no session {session_id!r}; not stored: create it first, or use sessions.ensure")


def locked(session_id: str, columns: str) -> Operation[Row]:
    """These columns of the session, which is locked. Raises SessionNotFound."""
    yield lock(session_id)
    row = yield one(f"SELECT {columns} FROM sessions WHERE id = :id", id=session_id)
    if row is None:
        raise missing(session_id)
    return row


class Access:
    """The engine's two verbs for one user, or for everybody (`user_id` None)."""

    def __init__(self, engine: Engine, user_id: str | None = None) -> None:
        self.engine = engine
        self.user_id = user_id

    async def read(self, op: Callable[..., Operation[Any]], session_id: str, *args: Any) -> Any:
        """Runs `op(session_id, *args)` on a reader."""
        if self.user_id is None:
            return await self.engine.read(op, as_id(session_id), *args)
        return await self.engine.read(_as_user, self.user_id, op, as_id(session_id), *args)

    async def write(
        self,
        op: Callable[..., Operation[Any]],
        session_id: str,
        *args: Any,
        alone: bool = True,
        size: int = 256,
        lane: Lane = Lane.FOREGROUND,
    ) -> Any:
        """Runs `op(session_id, *args)` in the next batch; `alone`: it touches no other session."""
        session = session_id if alone else None
        if self.user_id is None:
            return await self.engine.write(op, session_id, *args, session=session, size=size, lane=lane)
        given = (self.user_id, op, session_id, *args)
        return await self.engine.write(_write_as_user, *given, session=session, size=size, lane=lane)

    def narrow(self, where: Filter, column: str) -> Filter:
        """The filter, with the column held to the user."""
        if self.user_id is not None:
            where.add(f"{column} = :owner", owner=self.user_id)
        return where


_OWN = "SELECT 1 AS n FROM sessions WHERE id = :id AND user_id = :user_id"


def _as_user(user_id: str, op: Callable[..., Operation[Any]], session_id: str, *args: Any) -> Operation[Any]:
    own = yield one(_OWN, id=session_id, user_id=user_id)
    return (yield from op(session_id if own else NOBODY, *args))


def _write_as_user(user_id: str, op: Callable[..., Operation[Any]], session_id: str, *args: Any) -> Operation[Any]:
    yield lock(session_id)
    try:
        return (yield from _as_user(user_id, op, session_id, *args))
    except SessionNotFound:
        raise missing(session_id) from None  # by the name it was called
