"""Every error a caller can meet: what happened, whether the write happened, what to do.

`error.stored` answers the second question: False, nothing of the call was stored; True, it was;
None, it cannot be known (repeat with the same `external_id`, which is harmless). Driver exceptions
never escape; the cause is kept in `__cause__`.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar


class StoreError(Exception):
    """Root of all errors of a store."""

    stored: ClassVar[bool | None] = False


class StoreClosed(StoreError):
    """The store is not open, was closed, or its writer died; not stored. Open it (again)."""


class WrongLoop(StoreError):
    """The store was opened on another event loop; not stored. Open one store per loop."""


class ForkedStore(StoreError):
    """The process was forked while the store was open; not stored. Open a store in the child."""


class StoreBusy(StoreError):
    """Another process held the database past `Timeouts.busy_s`, or every reader past
    `Timeouts.reader_wait_s`; not stored. Try again."""


class StoreFull(StoreError):
    """No room on the disk (or a quota was reached); not stored. Make room: writing then resumes."""


class StoreDamaged(StoreError):
    """The file is structurally damaged, or reading or writing it failed; not stored. Writing stays
    off, reading is still tried. Restore a backup; nothing is repaired on its own."""


class StoreReplaced(StoreError):
    """The file was replaced or removed while open; not stored. Close the store and find out who."""


class ReadOnly(StoreError):
    """The store was opened with `readonly=True`, or its place does not allow writing; not stored."""


class QueueFull(StoreError):
    """No room in the write queue for a call that may not wait; not stored. Await `append`, which
    waits its turn, or `flush()` first."""


class NotAStore(StoreError):
    """The file is something else than a store of recollect. Name another file."""


class NotGuarded(StoreError):
    """`row_security=True`, and row-level security would not hold: the role passes over it, or the tables lack it. The
    text says what to do."""


class SchemaTooNew(StoreError):
    """The database was written by a newer recollect. Upgrade the package."""


class SessionNotFound(StoreError, LookupError):
    """No such session; not stored. Create it first, or use `sessions.ensure`."""


class SessionExists(StoreError):
    """A session of that id is there already; not stored. `sessions.ensure` accepts existing ones."""


class KeyTaken(SessionExists):
    """The gateway key has a live session already, named in `by` (None: another user's); not stored.
    `sessions.for_key` returns it; `reopen(…, switch=reason)` ends it."""

    def __init__(self, key: str, by: str | None) -> None:
        super().__init__(f"key {key!r} has a live session{_named(by)}; not stored: end that one first")
        self.key = key
        self.by = by


class InvalidTitle(StoreError, ValueError):
    """The title is over 100 characters after cleaning; not stored."""


class TitleTaken(StoreError):
    """Another session, named in `by` (None: another user's), has that title; not stored."""

    def __init__(self, title: str, by: str | None) -> None:
        super().__init__(f"title {title!r} is taken by another session{_named(by)}; not stored")
        self.title = title
        self.by = by


class SequenceConflict(StoreError):
    """The session moved on: its next seq is `actual`, not `expected`; not stored. Read what came in
    between, then append again."""

    def __init__(self, session_id: str, expected: int, actual: int) -> None:
        super().__init__(f"session {session_id!r}: expected seq {expected}, the next is {actual}; not stored")
        self.session_id = session_id
        self.expected = expected
        self.actual = actual


class SpawnTooDeep(StoreError):
    """The child would be deeper than `Limits.spawn_depth`; not stored."""


class TurnTaken(StoreError):
    """`holder` has the turn of that session until `expires_at` (or longer, for leases are renewed);
    nothing was stored. Try again when it is done, or then."""

    def __init__(self, session_id: str, holder: str, expires_at: datetime) -> None:
        super().__init__(f"{holder!r} has the turn of session {session_id!r} until {expires_at.isoformat()}")
        self.session_id = session_id
        self.holder = holder
        self.expires_at = expires_at


class TurnLost(StoreError):
    """The fence is not that of the present holder of the turn; not stored. Stop working on it."""


class InvalidRecord(StoreError, ValueError):
    """A value that cannot be stored as given: naive time, wrong type, not JSON, too large, out of
    range; not stored."""


class InvalidQuery(StoreError, ValueError):
    """The SQL of `store.query`, or a name given to a filter, means nothing here."""


class SearchTimeout(StoreError):
    """The read took longer than `Timeouts.search_s` and was stopped. Narrow it, or allow more."""


class WriteUnknown(StoreError):
    """The connection was lost during COMMIT: stored or not cannot be known. Repeat the call with
    the same `external_id`."""

    stored: ClassVar[bool | None] = None


def _named(session_id: str | None) -> str:
    return "" if session_id is None else f", {session_id!r}"


def again(error: StoreError) -> StoreError:
    """The same error for another caller: a shared one would gather everybody's traceback."""
    twin = error.__class__.__new__(error.__class__, *error.args)
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    twin.__cause__ = error.__cause__ or error
    return twin
