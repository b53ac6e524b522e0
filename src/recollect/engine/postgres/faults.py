"""psycopg's exceptions → ours, by SQLSTATE. What the driver says is kept as the cause."""

from __future__ import annotations

import psycopg
from psycopg import errors as pg

from ...errors import (
    InvalidQuery,
    InvalidRecord,
    ReadOnly,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
)
from .connect import NotConnected

_BY_CLASS: dict[str, tuple[type[StoreError], str]] = {
    "53": (StoreFull, "the server has no room, or no resources; not stored"),
    "XX": (StoreDamaged, "the server reports damage; not stored"),
    "58": (StoreDamaged, "the server's disk failed; not stored"),
    "22": (InvalidRecord, "the database refused a value; not stored"),
    "23": (InvalidRecord, "the database refused a value; not stored"),
    "28": (ReadOnly, "the server does not let this user in"),
    "57": (StoreBusy, "the server is starting or stopping; not stored"),
    "08": (StoreBusy, "the server cannot be reached; not stored"),
}
"""by the first two characters of the code: postgresql.org/docs/current/errcodes-appendix.html"""

_BY_CODE: dict[str | None, tuple[type[StoreError], str]] = {
    pg.QueryCanceled.sqlstate: (StoreBusy, "the server, or who looks after it, cancelled the statement; not stored"),
    pg.LockNotAvailable.sqlstate: (StoreBusy, "another transaction held what this needs for too long; not stored"),
    pg.ReadOnlySqlTransaction.sqlstate: (ReadOnly, "the server, or this connection, only reads; not stored"),
    pg.InsufficientPrivilege.sqlstate: (ReadOnly, "the role may not do this; not stored"),
    pg.TooManyConnections.sqlstate: (StoreBusy, "the server takes no more connections"),
    pg.ProgramLimitExceeded.sqlstate: (InvalidRecord, "a value is larger than the server takes; not stored"),
}

_AGAIN = (pg.DeadlockDetected, pg.SerializationFailure)
"""the transaction was undone for another's sake: it may be tried again"""


def translate(error: psycopg.Error) -> StoreError:
    """The error a caller gets for one of the driver's."""
    code = error.sqlstate or ""
    text = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, NotConnected):
        kind, meaning = StoreBusy, "the server cannot be reached, or does not let us in; not stored"
    elif is_lost(error):
        kind, meaning = StoreBusy, "the connection to the server was lost; not stored"
    elif is_undone(error):
        kind, meaning = StoreBusy, "others were at the same rows or tables for too long; not stored"
    elif _is_row_of_others(error):
        kind, meaning = InvalidRecord, "row-level security refuses a row that is not the user's; not stored"
    else:
        kind, meaning = _BY_CODE.get(code) or _BY_CLASS.get(code[:2]) or (InvalidQuery, "PostgreSQL")
    ours = kind(f"{meaning} ({text})")
    ours.__cause__ = error
    return ours


def _is_row_of_others(error: psycopg.Error) -> bool:
    """Whether a policy refused a row, which has the code of a missing privilege; its words may be in any language."""
    return isinstance(error, pg.InsufficientPrivilege) and error.diag.source_function == "ExecWithCheckOptions"


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone: the statement may or may not have been carried out."""
    if isinstance(error, pg.AdminShutdown | pg.CrashShutdown | pg.IdleInTransactionSessionTimeout):
        return True
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and error.sqlstate is None


def is_undone(error: BaseException) -> bool:
    """Whether the whole transaction was undone for another's sake."""
    return isinstance(error, _AGAIN)


def may_be_tried_again(error: BaseException) -> bool:
    """The same, or it never came to the server."""
    return is_undone(error) or is_lost(error)


def concerns_all(error: BaseException) -> bool:
    """Whether the error is not the operation's alone."""
    if may_be_tried_again(error):
        return True
    return isinstance(error, psycopg.Error) and isinstance(
        translate(error), StoreBusy | StoreFull | StoreDamaged | ReadOnly
    )


def is_race(error: BaseException) -> bool:
    """Whether another transaction was faster with the same name: the operation sees it if it runs again."""
    return isinstance(error, pg.UniqueViolation | pg.ForeignKeyViolation)
