"""Copying a whole store into another one, between engines or not: a file that is outgrown into PostgreSQL.

    async with AsyncSessionStore("sessions.db", readonly=True) as source, AsyncSessionStore(dsn) as target:
        copied = await copy_store(source, target)

Every row is copied as it is, with its number, so that cursors of watches and searches, fences, external ids and
what importers remember hold in the copy. Not copied: leases (a fence is a number of the store's one sequence, and
the copy's goes on behind the source's, so none comes twice), what waits to be erased, and the search index, which
the keeper of the copy makes.

How it is done, and why:

- *The place is in the rows.* Each table is copied in the order of its key, so where an interrupted copy has to go on
  is behind the last row of each: nothing has to be remembered, and a kill at any moment leaves nothing to repair.
  A page is one transaction, bounded in rows and bytes.
- *Messages and events go together*, in the order of their numbers, and each page moves the copy's sequence as far.
  Everybody who reads by number, the keeper above all, so finds what a source would have shown him at that point. Had
  one table come after the other, the index would have passed numbers whose rows were still to come.
- *Then everything is compared*, row by row, and what differs is mended: rows that changed or are gone. That makes a
  copy that is run again an incremental one, without trusting any counter to tell of every change. It reads both
  sides once, which a verification would have to do anyway.
- *The end is a comparison that found nothing.* What it saw of the source then is what the copy had already: read
  before it began. So the copy is the source as it was at the moment when that comparison began, also where somebody
  was writing; a page that was read before another was written to cannot slip through. A source that does not keep
  still is CopyIncomplete after three rounds: what there is stays, and a run after the writers have stopped is short.
- *A copy is a copy as long as nobody uses it.* What has a number that was not copied was written by somebody else.
  Such a target is refused, like one that was never a copy, or of another source: a run would take out what the
  source does not have. See `standing.py` for how a source is known again.

Comparing twice what was just written costs about as much again as copying. A store of a few million rows takes
minutes; stop the writers only for the last run.
"""

from __future__ import annotations

from collections.abc import Callable

from ..reports import Copied, CopiedTable
from ..store import AsyncSessionStore
from .run import CopyIncomplete, CopyProgress, Run
from .standing import CopyRefused

__all__ = ["Copied", "CopiedTable", "CopyIncomplete", "CopyProgress", "CopyRefused", "copy_store"]


async def copy_store(
    source: AsyncSessionStore, target: AsyncSessionStore, *, progress: Callable[[CopyProgress], object] | None = None
) -> Copied:
    """Makes the target a copy of the source; both are open, the source may be read-only. The target is empty, or a
    copy of the same source that is not in use yet: then what is new, changed or gone since is brought.

    Stopped at any moment, by a cancellation, an error or a kill, it goes on where it was when it is called again.
    Nobody may write to the target before it is done. `progress` gets how far it is with a table.

    Raises CopyRefused before anything is written, CopyIncomplete where the source did not keep still, InvalidRecord
    where the target refuses a row, and what reading and writing may raise.
    """
    return await Run(source, target, progress).copy()
