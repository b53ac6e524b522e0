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
    StoreReplaced,
)
from ..fulltext import IndexDamaged

_CORRUPT_VTAB = 267
"""damage of a virtual table (the search index), not of the database: sqlite.org/rescode.html"""

_NO_ROOM = frozenset({778, 4874, 5386, 4618})
"""SQLITE_IOERR_WRITE, _SHMSIZE, _SHMMAP, _SHMOPEN: what a quota, a limit on the size of files or a full disk
looks like where it is not SQLITE_FULL"""


def is_of_driver(error: BaseException) -> bool:
    """Whether the driver raised it for a statement or its parameters. By name, for another build of SQLite
    (`connect=`) brings classes of its own."""
    if isinstance(error, OverflowError | UnicodeError):
        return True
    return any(kind.__name__ in ("Error", "Warning") and kind.__module__ != "builtins" for kind in type(error).__mro__)


def translate(error: Exception) -> StoreError:
    """The error a caller gets for one of the driver's."""
    code = _code(error)
    text = str(error)
    if _of_index(code, text):
        return _caused(IndexDamaged(f"the search index is damaged: {text}"), error)
    if code in _NO_ROOM:
        return _caused(StoreFull(f"there is no room to write, or no leave; not stored ({text})"), error)
    if known := _BY_CODE.get(code & 0xFF):
        kind, meaning = known
        return _caused(kind(f"{meaning} ({text})"), error)
    if isinstance(error, OverflowError | UnicodeError) or _is_about_values(error):
        return _caused(InvalidRecord(f"the database refused a value: {text}; not stored"), error)
    return _caused(InvalidQuery(f"SQLite: {text}"), error)


def _is_about_values(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"IntegrityError", "DataError", "InterfaceError"})


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", None) or 0


def stops_all(error: StoreError) -> bool:
    """Whether the error concerns the batch or the store, not just the operation that met it."""
    return isinstance(error, StoreBusy | StoreFull | StoreDamaged | ReadOnly)


def is_sticky(error: StoreError) -> bool:
    """Whether nothing may be written after it: the file is damaged in its structure, or another one."""
    if isinstance(error, StoreReplaced):
        return True
    cause = error.__cause__
    return cause is not None and _code(cause) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_busy(error: BaseException) -> bool:
    """Whether another connection holds the lock."""
    return _code(error) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_lost_flush(error: BaseException) -> bool:
    """Whether a COMMIT failed in such a way that what it wrote may or may not be there."""
    return _code(error) & 0xFF == sqlite3.SQLITE_IOERR and _code(error) not in _NO_ROOM


def _of_index(code: int, text: str) -> bool:
    if any(word in text for word in _QUERY_WORDS):
        return False  # the question was too much for it, not the index damaged
    # "SQL logic error" alone is what FTS5 says when one of its tables is gone
    return code == _CORRUPT_VTAB or text == "SQL logic error" or any(word in text for word in _INDEX_WORDS)


_QUERY_WORDS = ("parser stack overflow", "expression tree is too large", "fts5: syntax error", "unknown special query")
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
