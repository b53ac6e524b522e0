"""What a room may do through the engine: everything, or what belongs to one user.

Every call on one session goes through here with the session's id first. For a user, whose it is is
looked up in the same transaction or snapshot; another's session is treated like one that does not
exist, so that no room can forget to ask and no error tells of it. Every other call goes through here as
well, so that a database that guards its rows is told whose they are: it has then no others to give, whatever
a room forgets. Operations that must look at all of them say so (`everybodys`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from .encoding import as_id
from .engine import Engine
from .engine.operation import AsUsers, Operation, Row, Statement, Whose, as_user, coalesces, lock, one
from .engine.writer import Lane
from .errors import SessionNotFound
from .filters import Filter
from .journal import pseudonym

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


def everybodys() -> Statement:
    """From here on the operation has everybody's rows, for a reason that stands beside it: names are unique in
    the whole store, the search index is one, what hangs on a session may be others'."""
    return as_user(None)


def only(within: str | None) -> Statement:
    """From here on it has the rows of that user and no others; None: everybody's."""
    return as_user(None if within is None else Whose(within, pseudonym(within)))


_as_users = cache(AsUsers)
"""one object for each operation, so that writes of one kind are known by it"""


class Access:
    """The engine's two verbs for one user, or for everybody (`user_id` None)."""

    def __init__(self, engine: Engine, user_id: str | None = None) -> None:
        self.engine = engine
        self.user_id = user_id

    async def read(self, op: Callable[..., Operation[Any]], session_id: str, *args: Any) -> Any:
        """Runs `op(session_id, *args)` on a reader."""
        if self.user_id is None:
            return await self.engine.read(op, as_id(session_id), *args)
        return await self.engine.read(_read_as_user, self.user_id, op, as_id(session_id), *args)

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

    async def read_any(self, op: Callable[..., Operation[Any]], *args: Any, deadline_s: float | None = None) -> Any:
        """Runs `op(*args)`, which is about no session in particular, on a reader."""
        if self.user_id is None:
            return await self.engine.read(op, *args, deadline_s=deadline_s)
        return await self.engine.read(_only_of, self.user_id, op, *args, deadline_s=deadline_s)

    def write_any(
        self, op: Callable[..., Operation[Any]], *args: Any, session: str | None = None, size: int = 256,
        lane: Lane = Lane.FOREGROUND,
    ) -> Awaitable[Any]:  # fmt: skip
        """Runs it in the next batch; to be awaited for its result."""
        if coalesces(op):
            op = self._gathered(op)
        elif self.user_id is not None:
            op, args = _only_of, (self.user_id, op, *args)
        return self.engine.write(op, *args, session=session, size=size, lane=lane)

    def gather(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> Awaitable[Any]:
        """The same for one item of a coalescing operation on one session."""
        return self.engine.gather(self._gathered(op), item, session, size)

    def submit(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> asyncio.Future[Any]:
        """The same, queued before it returns; QueueFull if there is no room."""
        return self.engine.submit(self._gathered(op), item, session, size)

    def _gathered(self, op: Callable[..., Operation[Any]]) -> Callable[..., Operation[Any]]:
        """For users, where the database tells them apart: apart from those of the store."""
        return op if self.user_id is None or not self.engine.guards_rows else _as_users(op)

    def narrow(self, where: Filter, column: str) -> Filter:
        """The filter, with the column held to the user."""
        if self.user_id is not None:
            where.add(f"{column} = :owner", owner=self.user_id)
        return where


def _only_of(user_id: str, op: Callable[..., Operation[Any]], *args: Any) -> Operation[Any]:
    yield only(user_id)
    return (yield from op(*args))


_OWN = "SELECT 1 AS n FROM sessions WHERE id = :id AND user_id = :user_id"


def _read_as_user(user_id: str, op: Callable[..., Operation[Any]], session_id: str, *args: Any) -> Operation[Any]:
    yield only(user_id)
    return (yield from _as_user(user_id, op, session_id, *args))


def _as_user(user_id: str, op: Callable[..., Operation[Any]], session_id: str, *args: Any) -> Operation[Any]:
    own = yield one(_OWN, id=session_id, user_id=user_id)
    return (yield from op(session_id if own else NOBODY, *args))


def _write_as_user(user_id: str, op: Callable[..., Operation[Any]], session_id: str, *args: Any) -> Operation[Any]:
    yield only(user_id)
    yield lock(session_id)
    try:
        return (yield from _as_user(user_id, op, session_id, *args))
    except SessionNotFound:
        raise missing(session_id) from None  # by the name it was called
