"""One run of a copy: it appends what is new, compares everything, mends what differs, until nothing does."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from anyio import to_thread

from ..engine.operation import Operation
from ..engine.writer import Lane
from ..errors import InvalidRecord, StoreError
from ..reports import Copied, CopiedTable
from ..store import AsyncSessionStore
from .pages import (
    CHARACTERS,
    Change,
    Differences,
    Page,
    Step,
    differences,
    encoded,
    read_counts,
    read_last,
    read_newest,
    read_page,
    read_reached,
    write_page,
)
from .standing import CopyRefused, Place, claim, finish, place_of, read_newest_number, read_unfinished
from .tables import EVENTS, MESSAGES, SESSIONS, TABLES, Key, Table

ROUNDS = 3
"""of appending, comparing and mending, before a source that is written to is given up"""


class CopyIncomplete(StoreError):
    """The copy still differs from its source, which was written to meanwhile. What was copied stays: stop whoever
    writes to either, and run it again, which brings the rest."""

    stored = True


class CopyProgress(NamedTuple):
    """How far a run is with a table: rows that are done, and rows in all."""

    table: str
    done: int
    total: int
    comparing: bool
    """whether they are compared, or copied"""


class Run:
    """One run, between two open stores."""

    def __init__(
        self, source: AsyncSessionStore, target: AsyncSessionStore, progress: Callable[[CopyProgress], object] | None
    ) -> None:
        self._source = source
        self._target = target
        self._engine = target._engine  # pyright: ignore[reportPrivateUsage]
        self._report = progress
        self._last = 0
        self._wary = False
        self._totals: dict[str, int] = {}
        self._there: dict[str, int] = {}
        self._new: Counter[str] = Counter()
        self._changed: Counter[str] = Counter()
        self._removed: Counter[str] = Counter()

    async def copy(self) -> Copied:
        """Copies; see `recollect.copying.copy_store`."""
        source, target = await place_of(self._source), await place_of(self._target)
        if source.is_of((target.name, target.inode)):
            raise CopyRefused(f"source and target are the same store, {source.name}; nothing was written")
        if await self._source.read(read_unfinished):
            raise CopyRefused(f"{source.name} is an unfinished copy of another; nothing was written: finish it first")
        differing: list[str] = []
        for _ in range(ROUNDS):
            await self._begin(source)
            await self._append()
            compared = [await self._compare(table, comparing=True) for table in TABLES]
            differing = [table.table for table, differs in compared if differs]
            if not differing and await self._source.read(read_newest_number) <= self._last:
                await self._write(finish)
                return Copied(source=source.name, target=target.name, tables=tuple([table for table, _ in compared]))
        what = f": {', '.join(differing)} differed to the end" if differing else ""
        raise CopyIncomplete(
            f"the copy is not complete{what}. Something writes to the source, or to the copy: stop it, and run this"
            " again, which brings the rest"
        )

    async def _begin(self, source: Place) -> None:
        self._last = await self._source.read(read_last)
        self._wary = await self._write(claim, self._engine.fulltext, source, self._last)
        self._totals = await self._source.read(read_counts, self._last)
        self._there = await self._target.read(read_counts, self._last)

    # -- what is new ---------------------------------------------------------------------------

    async def _append(self) -> None:
        """Brings what lies behind the last row of each table. What others refer to is compared instead, for there a
        new row may stand before an old one; twice if the first time may have lacked a parent to refer to."""
        for table in TABLES:
            if table.referred:
                _, differs = await self._compare(table, comparing=False)
                if differs and table is SESSIONS:
                    await self._compare(table, comparing=False, counted=False)
            elif table is MESSAGES:
                await self._append_numbered()
            elif table is not EVENTS:
                await self._append_to(table)

    async def _append_to(self, table: Table) -> None:
        after: Key | None = await self._target.read(read_newest, table, self._last)
        while after is not None:
            page: Page = await self._source.read(read_page, [table], after, self._last)
            await self._append_page([table], page, None)
            after = page.end

    async def _append_numbered(self) -> None:
        """Messages and events together, in the order of their numbers, up to which the copy's own sequence is moved
        with each page."""
        tables = [MESSAGES, EVENTS]
        after: Key | None = (await self._target.read(read_reached, self._last),)
        taken: int = await self._target.read(read_last)
        while after is not None:
            page: Page = await self._source.read(read_page, tables, after, self._last)
            reached = self._last if page.end is None else page.end[0]
            await self._append_page(tables, page, Step(reached, reached - taken))
            taken = max(taken, reached)
            after = page.end

    async def _append_page(self, tables: Sequence[Table], page: Page, step: Step | None) -> None:
        changes = [Change(table, rows) for table, rows in zip(tables, page.rows, strict=True) if rows]
        if changes or step is not None:
            await self._put(changes, step, self._wary)
        for change in changes:
            name = change.table.name
            self._new[name] += len(change.put)
            self._there[name] += len(change.put)
            self._tell(name, self._there[name], comparing=False)

    # -- what differs --------------------------------------------------------------------------

    async def _compare(self, table: Table, *, comparing: bool, counted: bool = True) -> tuple[CopiedTable, bool]:
        """Compares a table, page by page, and mends the copy; what the source has, and whether anything differed."""
        checksum = hashlib.blake2b(digest_size=16)
        done, differs = 0, False
        after: Key | None = table.beginning
        while after is not None:
            source: Page = await self._source.read(read_page, [table], after, self._last)
            copy: Page = await self._target.read(read_page, [table], after, self._last)
            found = await to_thread.run_sync(_compared, table, source, copy, checksum)
            if found.lacking or found.other or found.surplus:
                differs = True
                await self._put([Change(table, sorted(found.lacking + found.other), found.surplus)], None, True)
                if counted:
                    self._count(table.name, found)
            done += len(found.rows)
            self._tell(table.name, done, comparing=comparing)
            after = found.end
        counts = (self._new[table.name], self._changed[table.name], self._removed[table.name])
        return CopiedTable(table.name, done, *counts, checksum.hexdigest()), differs

    def _count(self, name: str, found: Differences) -> None:
        self._new[name] += len(found.lacking)
        self._changed[name] += len(found.other)
        self._removed[name] += len(found.surplus)

    # -- writing, and telling --------------------------------------------------------------------

    async def _put(self, changes: Sequence[Change], step: Step | None, wary: bool) -> None:
        """Writes a page; if it is refused, once more and warily: what is unique may have changed hands meanwhile."""
        try:
            await self._write(write_page, self._engine.fulltext, changes, wary, step)
        except InvalidRecord as error:
            if wary:
                raise InvalidRecord(f"{' and '.join(map(_range, changes))}: {error}") from error
            await self._put(changes, step, True)

    async def _write(self, op: Callable[..., Operation[Any]], *args: Any) -> Any:
        return await self._engine.write(op, *args, size=CHARACTERS, lane=Lane.BACKGROUND)

    def _tell(self, name: str, done: int, *, comparing: bool) -> None:
        if self._report is not None:
            self._report(CopyProgress(name, done, max(done, self._totals[name]), comparing))


def _compared(table: Table, source: Page, copy: Page, checksum: hashlib.blake2b) -> Differences:
    found = differences(table, source, copy)
    checksum.update(encoded(found.rows))
    return found


def _range(change: Change) -> str:
    """Which rows of a page these are, for whoever has to look for one that the target refuses."""
    keys = [change.table.key_of(row) for row in (*change.put[:1], *change.put[-1:])] or change.drop
    return f"{change.table.name}, from {keys[0]} to {keys[-1]}"
