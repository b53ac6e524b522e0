"""A store's own upkeep: looking for what is wrong, setting right what is derived, tidying, erasing for good.

All of it in short pieces on the background lane, so that nobody who appends or reads feels it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..encoding import Encoder
from ..engine import Engine
from ..engine.fulltext import IndexDamaged
from ..engine.writer import Lane
from ..errors import InvalidRecord, StoreBusy, StoreDamaged
from ..options import Timeouts
from ..reports import Erased, Problem, Report
from ..search.compare import Compared, compare_page
from ..search.erase import erase_chunk, purge_step
from ..search.index import VERSION, condemn, merge, read_lag, too_new
from ..search.keeper import Keeper
from ..sessions.room import Sessions
from .counters import Checked, check_orphans, check_page, last_session, mend_page
from .erasing import erase_events_of, is_waiting, last_gone, read_purged, sessions_of

MERGE_PAGES = 64
"""pages of the index merged in one turn: about 2 ms"""

AGAIN_S = 0.1
"""between attempts to empty the log"""

_NAMED = 20
"""rows of the index named in a problem, at most"""

Told = Callable[[int], object] | None
Run = Callable[..., Awaitable[Any]]


class Maintenance:
    """What `AsyncSessionStore` does for itself."""

    sessions: Sessions
    _engine: Engine
    _encoder: Encoder
    _timeouts: Timeouts

    _keeper: Keeper | None = None

    async def _caught_up(self) -> None:
        """Returns when all that is committed is indexed."""
        if self._keeper is not None:
            lag = await self._engine.read(read_lag)
            await self._keeper.reach(lag.last)

    # -- what is wrong -------------------------------------------------------------------------

    async def check(self, *, progress: Told = None) -> Report:
        """Looks for what is wrong and changes nothing: the structure of the file (SQLite); rows without
        their session; the counters, previews and parents of sessions against their rows; the search
        index against what it was made of: every id, and the words of some.

        In pages, each of one moment, while others write; `progress` gets the number of sessions done. What can
        be done about a problem is said by its `kind`.
        """
        structure = await self._structure()
        if structure:  # what is read of such a file proves nothing
            return Report(0, structure)
        orphans: Sequence[Problem] = await self._engine.read(check_orphans)
        sessions, wrong = await self._pages(self._engine.read, check_page, progress)
        return Report(sessions, (*orphans, *wrong, *await self._index()))

    async def repair(self, *, progress: Told = None) -> Report:
        """Sets right what is derived: counters, previews, parents that are not there, the search index, which is made
        anew. What is not derived is left as it is, and is reported: rows without a session, and a damaged
        structure, with which nothing is repaired (restore a backup). Raises ReadOnly, StoreBusy, StoreFull.
        """
        structure = await self._structure()
        if structure:
            return Report(0, structure)
        sessions, wrong = await self._pages(self._mend, mend_page, progress)
        index = await self._index()
        if index:
            await self._engine.write(condemn, lane=Lane.BACKGROUND)
            await self._caught_up()
        orphans: Sequence[Problem] = await self._engine.read(check_orphans)
        return Report(sessions, tuple(orphans), (*wrong, *index))

    async def _mend(self, op: Callable[..., Any], *args: Any) -> Any:
        """A piece of work, in the background; if the index turns out to be damaged, it is made anew, and does not
        keep from it."""
        try:
            return await self._engine.write(op, *args, lane=Lane.BACKGROUND)
        except IndexDamaged:
            await self._engine.write(condemn, lane=Lane.BACKGROUND)
            return await self._engine.write(op, *args, lane=Lane.BACKGROUND)

    async def _structure(self) -> tuple[Problem, ...]:
        try:
            found = await self._engine.integrity()
        except StoreDamaged as error:
            found = [str(error)]
        return tuple([Problem("structure", None, text) for text in found])

    async def _pages(
        self, run: Callable[..., Any], op: Callable[..., Any], progress: Told
    ) -> tuple[int, list[Problem]]:
        problems: list[Problem] = []
        sessions, last = 0, 0
        top = await self._engine.read(last_session)
        while last is not None and last < top:
            page: Checked = await run(op, last)
            sessions, last = sessions + page.sessions, page.last
            problems += page.problems
            if progress is not None:
                progress(sessions)
        return sessions, problems

    async def _index(self) -> list[Problem]:
        missing: list[int] = []
        phantom: list[int] = []
        lost: list[int] = []
        last: int | None = 0
        top = (await self._engine.read(read_lag)).watermark
        try:
            while last is not None and last < top:
                page: Compared = await self._engine.read(compare_page, self._engine.fulltext, last)
                last = page.last
                missing += page.missing
                phantom += page.phantom
                lost += page.lost
        except IndexDamaged as error:
            return [Problem("index", None, f"it cannot be read: {error}")]
        named = {"are not in it": missing, "are in it and nowhere else": phantom, "are not found by their words": lost}
        return [
            Problem("index", None, f"{len(ids)} rows {what}: {', '.join(map(str, ids[:_NAMED]))}")
            for what, ids in named.items()
            if ids
        ]

    # -- order ---------------------------------------------------------------------------------

    async def backup(
        self, path: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Writes a copy of the store to a file, while others go on writing: of one moment, with all in it that was
        acknowledged before the call; verified before it takes its name, 0600, in place of a file that is there.
        One that fails or is cancelled leaves nothing.

        `progress` gets what is done and all there is. On PostgreSQL that is `pg_dump`'s: InvalidRecord. Raises
        StoreFull, StoreDamaged, ReadOnly where the file cannot be written.
        """
        await self._engine.backup(os.fspath(path), progress)

    async def optimize(self, budget_s: float = 5.0) -> bool:
        """Merges the search index, brings statistics up to date, empties the write-ahead log: for at most about so
        many seconds, in turns that nobody feels. Whether all was done; call it again where it was not."""
        if not budget_s >= 0:
            raise InvalidRecord(f"budget_s must be at least 0, not {budget_s!r}")
        loop = asyncio.get_running_loop()
        end = loop.time() + budget_s
        while await self._mend(merge, self._engine.fulltext, MERGE_PAGES):
            if loop.time() >= end:
                return False
        return await self._engine.tidy()

    # -- for good ------------------------------------------------------------------------------

    async def erase(self, *, session_id: str | None = None, user_id: str | None = None, vacuum: bool = False) -> Erased:
        """Deletes a session, as `sessions.delete` does with what it spawned; or all of a user: his sessions and his
        events. Returns when their rows, and their words in the search index, are erased, overwritten and out of the
        write-ahead log; in chunks, while others go on. Repeat what was cut off. Raises StoreBusy if somebody reads
        what was before for longer than `Timeouts.busy_s`: it is erased then, but still in the log; SchemaTooNew.

        SQLite may leave parts of erased rows in gaps of pages that it rearranged: with `vacuum` the file is written
        anew, which holds up writing (seconds for each gigabyte). Backups, exports and other files are not reached;
        on PostgreSQL, bytes leave the server's files as it vacuums.
        """
        if (session_id is None) == (user_id is None):
            raise InvalidRecord("erase takes a session_id or a user_id")
        lag = await self._engine.read(read_lag)
        if lag.is_newer:
            raise too_new(lag.version)
        gone, events = [], 0
        if session_id is not None:
            gone = await self.sessions.delete(session_id)
        elif user_id is not None:
            gone, events = await self._erase_user(self._encoder.identifier(user_id, "user_id"))
        await self._erase_deleted()
        await self._empty_log(vacuum)
        return Erased(tuple(gone), events)

    async def _erase_user(self, user_id: str) -> tuple[list[str], int]:
        gone: list[str] = []
        while ids := await self._engine.read(sessions_of, user_id):
            for id in ids:
                gone += await self.sessions.delete(id, cascade=False)
        events = 0
        while erased := await self._mend(erase_events_of, self._engine.fulltext, user_id):
            events += erased
        return gone, events

    async def _erase_deleted(self) -> None:
        """What the keeper does now and then, at once; not what others delete meanwhile."""
        top = await self._engine.read(last_gone)
        while await self._engine.read(is_waiting, top):
            await self._mend(erase_chunk, self._engine.fulltext)
        state = await self._engine.read(read_purged)
        goal, begun = state.erased, None
        while state.purged < goal:
            begun = await self._mend(purge_step, self._engine.fulltext, MERGE_PAGES, begun)
            if begun is None and state.version != VERSION:  # the index is made anew, without what was erased
                await self._caught_up()
            state = await self._engine.read(read_purged)

    async def _empty_log(self, vacuum: bool) -> None:
        end = asyncio.get_running_loop().time() + self._timeouts.busy_s
        while not await self._engine.tidy(vacuum=vacuum):
            if asyncio.get_running_loop().time() >= end:
                raise StoreBusy(
                    "it is erased, but still in the write-ahead log, for somebody reads there: call it again"
                )
            vacuum = False
            await asyncio.sleep(AGAIN_S)
