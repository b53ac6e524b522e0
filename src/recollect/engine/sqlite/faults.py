"""sqlite3's exceptions → ours, by error code. What the driver says is kept as the cause."""

from __future__ import annotations

import sqlite3

from ...errors import (
    InvalidQuery,
    InvalidRecord,
    NotAStore,
    ReadOnly,
    SearchTimeout,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
)
from ..fulltext import IndexDamaged

DRIVER_ERRORS = (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError)
"""what sqlite3 raises for a statement and its parameters"""

_CORRUPT_VTAB = 267
"""damage of a virtual table (the search index), not of the database: sqlite.org/rescode.html"""


def translate(error: Exception) -> StoreError:
    """The error a caller gets for one of the driver's."""
    code = getattr(error, "sqlite_errorcode", None)
    text = str(error)
    if _of_index(code, text):
        return _caused(IndexDamaged(f"the search index is damaged: {text}"), error)
    if code is not None and (known := _BY_CODE.get(code & 0xFF)):
        kind, meaning = known
        return _caused(kind(f"{meaning} ({text})"), error)
    if isinstance(
        error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.InterfaceError | OverflowError | UnicodeError
    ):
        return _caused(InvalidRecord(f"the database refused a value: {text}; not stored"), error)
    return _caused(InvalidQuery(f"SQLite: {text}"), error)


def stops_all(error: StoreError) -> bool:
    """Whether the error concerns the batch or the store, not just the operation that met it."""
    return isinstance(error, StoreBusy | StoreFull | StoreDamaged | ReadOnly)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds the lock."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _of_index(code: int | None, text: str) -> bool:
    # "SQL logic error" alone is what FTS5 says when one of its tables is gone
    return code == _CORRUPT_VTAB or text == "SQL logic error" or any(word in text for word in _INDEX_WORDS)


_INDEX_WORDS = ("fts5", "vtable constructor failed", "search_index")


def _caused(ours: StoreError, error: Exception) -> StoreError:
    ours.__cause__ = error
    return ours


_BY_CODE: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreBusy, "another process held the database for too long; not stored"),
    sqlite3.SQLITE_LOCKED: (StoreBusy, "another connection held the database for too long; not stored"),
    sqlite3.SQLITE_FULL: (StoreFull, "the disk is full or a quota is reached; not stored"),
    sqlite3.SQLITE_READONLY: (ReadOnly, "the database cannot be written; not stored"),
    sqlite3.SQLITE_PERM: (ReadOnly, "the place of the database does not allow this; not stored"),
    sqlite3.SQLITE_CANTOPEN: (ReadOnly, "the database cannot be opened here: check the folder's permissions"),
    sqlite3.SQLITE_CORRUPT: (StoreDamaged, "the database is structurally damaged; not stored"),
    sqlite3.SQLITE_IOERR: (StoreDamaged, "reading or writing the disk failed; not stored"),
    sqlite3.SQLITE_NOTADB: (NotAStore, "the file is not a SQLite database: name another"),
    sqlite3.SQLITE_INTERRUPT: (SearchTimeout, "the read took longer than its deadline and was stopped"),
    sqlite3.SQLITE_TOOBIG: (InvalidRecord, "a value is larger than SQLite takes; not stored"),
}
