"""Session stores of power-loop (a SQLite file, of version 0.2.0 to 8.0.0) into a store, as often as they
have grown.

| there | here |
|---|---|
| session | the same id, source `power-loop`; prompt, model, config, metadata, status, kind, lifecycle, depth, \
times; a parent means it was spawned |
| message | the same seq, external id `power-loop:<seq>`, role, content, name, calls, round, send, metadata, time |
| content that is marked as JSON | the list or dict; what older versions wrote unmarked stays text |
| `compact_note` | a note at the place of the first message that it stands for, not at the end |
| compaction | a compaction; which messages it put away is found by going through all of them again; of one \
that put nothing away, or whose messages are deleted, only the note |
| message in another state (`dropped`) | put away under nothing, its state in the metadata |
| usage of a round | a row of the ledger; in the send 0 where the version did not keep the send |
| round, next seq, pending | the same |

Messages from before sends were numbered are in the send that the user's messages say. Tables that later
versions added (timers, notes, inbox, totals of sessions, projections, leases…) have no place here; their
rows are counted in `Imported.skipped`. A file that was opened by versions before and after 2.0 holds two
stores; both are brought.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from anyio import to_thread

from ...models import Session
from ...reports import Imported
from ...store import AsyncSessionStore
from ..database import ForeignDatabase
from ..source import Progress, SourceFile, Tally
from .convert import Record, record_of, refusal
from .growth import grow, is_ours
from .layout import Found, Layout, SessionRows, find_layouts


async def load(
    store: AsyncSessionStore,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], object] | None = None,
) -> Imported:
    """Imports the sessions of a file, which is not changed; what is there already is left alone.

    Repeated, it brings the messages, compactions and usage that came since, and where the agent is unless
    the session was continued here. What is not repeated: changes of a session's prompt, model, config,
    metadata and status, and of a message's state without a compaction. A note that comes so has the time
    of the import. A session with the same id that is not from there is left alone and reported.

    What cannot be understood is counted, with its place (a message's or compaction's seq, else the rowid),
    and does not stop the rest. `progress` is called on the event loop after every session; what it raises
    ends the import, as cancelling does, and the next one goes on where it stopped. `redact` of the store is
    called in a worker thread. Raises FileNotFoundError, NotAStore, and what the store may.
    """
    database = ForeignDatabase(path)
    async with database:
        file = SourceFile(database.path, database.stat)
        tally = Tally([file], progress)
        run = _Run(store, file, tally)
        layouts = [(layout, await layout.sessions()) for layout in await find_layouts(database, run.reject)]
        total = sum(len(found) for _, found in layouts)
        done = 0
        for layout, found in layouts:
            for session in found:
                await run.bring(layout, session)
                done += 1
                tally.reached(file, file.stat.st_size * done // (total + 1))
            await layout.tell_orphans()
            tally.skipped.update(await layout.others())
    tally.finish(file)
    return tally.result()


class _Run:
    """One import."""

    def __init__(self, store: AsyncSessionStore, file: SourceFile, tally: Tally) -> None:
        self._store = store
        self._file = file
        self._tally = tally

    def reject(self, kind: str, line: int | None, reason: str) -> None:
        """Counts what cannot be imported."""
        self._tally.reject(kind, self._file.path, line, reason)

    async def bring(self, layout: Layout, found: Found) -> None:
        """Brings a session, or what came to it."""
        here = await self._store.sessions.get(found.id) if isinstance(found.id, str) else None
        if here is None:
            rows = await layout.rows(found)
            if rows is not None:
                await self._bring_new(found, rows)
        else:
            await self._bring_grown(layout, found, here)

    # -- new ones ------------------------------------------------------------------------------

    async def _bring_new(self, found: Found, rows: SessionRows) -> None:
        record = await to_thread.run_sync(record_of, rows, self.reject)
        if "created_at" not in record:
            return  # it was told; by its time it would be known again
        result = await self._store.sessions.import_([record])
        if result.rejected["sessions"] and (bad := await to_thread.run_sync(self._refused, record)):
            record = await to_thread.run_sync(partial(record_of, rows, _unheard, left_out=bad))
            result = await self._store.sessions.import_([record])
        self._take(found, result)

    def _refused(self, record: Record) -> frozenset[int]:
        """The messages that this store cannot take: without them it may take the session."""
        encoder = self._store._encoder  # pyright: ignore[reportPrivateUsage]
        bad: set[int] = set()
        for message in record["messages"]:
            if (why := refusal(encoder, message)) is not None:
                self.reject("messages", message["seq"], f"session {record['id']!r}: {why}")
                bad.add(message["seq"])
        return frozenset(bad)

    def _take(self, found: Found, result: Imported) -> None:
        self._tally.inserted.update(result.inserted)
        self._tally.duplicate.update(result.duplicate)
        for rejection in result.rejections:
            self.reject(rejection.kind, found.rowid, rejection.reason)

    # -- grown ones ----------------------------------------------------------------------------

    async def _bring_grown(self, layout: Layout, found: Found, here: Session) -> None:
        session = await layout.session(found)
        if session is None:
            return
        if not is_ours(here, session):
            self.reject("sessions", found.rowid, f"session {found.id!r} is there already, and not from this file")
            return
        came = await grow(self._store, layout, found, session, self.reject)
        self._tally.inserted.update(came.inserted)
        self._tally.amended.update(came.amended)
        self._tally.duplicate.update(came.duplicate)


def _unheard(kind: str, line: int | None, reason: str) -> None:
    """It was told the first time."""
