"""One turn at a time: a lease on a session, with a fence that grows, so that a holder who was
superseded can be told apart and refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, NamedTuple

from ..access import Access, missing
from ..encoding import moment, now
from ..engine.operation import Operation, execute, ids, lock, one
from ..errors import StoreClosed, StoreError, TurnLost, TurnTaken

log = logging.getLogger("recollect")

RENEWALS = 3
"""a lease is renewed so many times in its life: two may fail"""

_LEASE = """
SELECT s.session, l.holder, l.expires_at, l.fence
FROM sessions s LEFT JOIN leases l ON l.session = s.session WHERE s.id = :id"""

_TAKE = """
INSERT INTO leases (session, holder, acquired_at, expires_at, fence)
VALUES (:session, :holder, :now, :expires, :fence)
ON CONFLICT (session) DO UPDATE SET holder = excluded.holder, acquired_at = excluded.acquired_at,
  expires_at = excluded.expires_at, fence = excluded.fence"""


def acquire(session_id: str, holder: str, ttl_ms: int) -> Operation[int]:
    """Takes the turn if nobody has it or its lease has expired; the fence."""
    yield lock(session_id)
    row = yield one(_LEASE, id=session_id)
    if row is None:
        raise missing(session_id)
    at = now()
    if row.fence is not None and row.expires_at > at:
        raise TurnTaken(session_id, row.holder, moment(row.expires_at))
    (fence,) = yield ids(1)  # of the store's sequence: no fence comes twice, not even to an id that does
    yield execute(_TAKE, session=row.session, holder=holder, now=at, expires=at + ttl_ms, fence=fence)
    return fence


def renew(session_id: str, fence: int, ttl_ms: int) -> Operation[bool]:
    """Lengthens the lease; False if another holder has the turn."""
    yield lock(session_id)
    renewed = yield execute(
        "UPDATE leases SET expires_at = :expires"
        " WHERE fence = :fence AND session IN (SELECT session FROM sessions WHERE id = :id)",
        expires=now() + ttl_ms,
        fence=fence,
        id=session_id,
    )
    return renewed == 1


def release(session_id: str, fence: int) -> Operation[None]:
    """Gives the turn back; what comes late with its fence is refused."""
    yield lock(session_id)
    yield execute(
        "DELETE FROM leases WHERE fence = :fence AND session IN (SELECT session FROM sessions WHERE id = :id)",
        fence=fence,
        id=session_id,
    )


def check_fence(session: int, fence: int | None, session_id: str) -> Operation[None]:
    """Raises TurnLost unless the fence, where one is given, is that of the turn's holder."""
    if fence is None:
        return
    row = yield one("SELECT fence FROM leases WHERE session = :session", session=session)
    if row is None or row.fence != fence:
        raise TurnLost(f"fence {fence} does not hold the turn of {session_id!r}; not stored")


class Turn(NamedTuple):
    """The turn of a session, as long as its `async with` lasts: give `fence` to what is written in it."""

    session_id: str
    holder: str
    fence: int


class Lease:
    """Takes the turn on entering, renews it, gives it back on leaving."""

    def __init__(self, access: Access, held: set[Lease], session_id: str, holder: str, ttl_ms: int) -> None:
        self._access = access
        self._held = held
        self._session_id = session_id
        self._holder = holder
        self._ttl_ms = ttl_ms
        self._fence = 0
        self._taking: asyncio.Future[int] | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Turn:
        self._held.add(self)  # from now on, for the store may close while it is being taken
        self._taking = asyncio.ensure_future(self._write(acquire, self._holder, self._ttl_ms))
        try:
            self._fence = await asyncio.shield(self._taking)
        except BaseException:
            self.give_back()  # who is cancelled may have it already, or get it
            raise
        self._renewal = asyncio.create_task(self._renew(), name="recollect-turn")
        return Turn(self._session_id, self._holder, self._fence)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.shield(self.give_back())  # whoever is cancelled leaves; it is given back even so

    def give_back(self) -> asyncio.Future[None]:
        """Ends the turn, if that was not done; also called when the store closes before it is over."""
        if self._renewal is not None:
            self._renewal.cancel()
        if self in self._held:
            self._held.discard(self)
            return _kept(self._when_taken())
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def _when_taken(self) -> None:
        assert self._taking is not None
        await asyncio.wait([self._taking])
        if not self._taking.cancelled() and self._taking.exception() is None:
            await self._release(self._taking.result())

    async def _write(self, op: Any, *args: Any) -> Any:
        return await self._access.write(op, self._session_id, *args)

    async def _release(self, fence: int) -> None:
        try:
            await self._write(release, fence)
        except StoreError as error:
            log.warning("the turn of %r could not be given back, it expires: %s", self._session_id, error)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_ms / 1000 / RENEWALS)
            try:
                if not await self._write(renew, self._fence, self._ttl_ms):
                    log.warning("%r has lost the turn of %r", self._holder, self._session_id)
                    return
            except StoreClosed:
                return
            except StoreError as error:
                log.warning("the turn of %r could not be renewed now: %s", self._session_id, error)


_remembered: set[asyncio.Task[None]] = set()
"""releases under way, whose callers may be gone"""


def _kept(release: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(release)
    _remembered.add(task)
    task.add_done_callback(_remembered.discard)
    return task
