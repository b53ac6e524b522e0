"""Driving operations on a sqlite3 connection, inside its thread: statements in, rows back.

A batch is one transaction, executed as one call: nothing of it can be cancelled half-way.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from ...errors import InvalidQuery, SearchTimeout, StoreBusy, StoreDamaged, StoreError, WriteUnknown
from ...models import Row as QueryRow
from ...models import rows_of
from ..operation import Failed, Operation, Row, Statement, Verb, coalesces, deliverable, row_type
from .faults import is_busy, is_lost_flush, is_of_driver, stops_all, translate

_IN_LIST = re.compile(r"\bIN :(\w+)")


@lru_cache(maxsize=1024)
def lists_of(sql: str) -> tuple[str, ...]:
    """The parameters of a statement that are lists."""
    return tuple(_IN_LIST.findall(sql))


@lru_cache(maxsize=1024)
def dialect(sql: str, single: tuple[str, ...] = ()) -> str:
    """The statement as SQLite takes it. A list travels as one JSON text, so that its length does not
    make another statement; one of a `single` value is that value."""

    def one_or_several(found: re.Match[str]) -> str:
        name = found[1]
        return f"= :{name}" if name in single else f"IN (SELECT value FROM json_each(:{name}))"

    return _IN_LIST.sub(one_or_several, sql)


def perform(connection: sqlite3.Connection, statement: Statement) -> Any:
    """Executes one statement and returns what its verb promises."""
    verb, sql, params = statement
    if verb is Verb.MANY:
        connection.executemany(sql, params)
        return None
    if verb is Verb.LOCK or verb is Verb.AS_USER:
        return None  # the writer is alone; a file knows no users
    if verb is Verb.IDS:
        last = connection.execute("UPDATE sequence SET last = last + ? RETURNING last", (params,)).fetchone()[0]
        return range(last - params + 1, last + 1)
    if verb is Verb.HORIZON:
        return connection.execute("SELECT last FROM sequence").fetchone()[0]  # what is numbered is committed
    if verb is Verb.TOGETHER:
        return [perform(connection, each) for each in params]
    cursor = _execute(connection, sql, params)
    if verb is Verb.EXECUTE:
        return cursor.rowcount
    if verb is Verb.TUPLES:
        return cursor.fetchall()
    return _one(cursor) if verb is Verb.ONE else _all(cursor)


def _execute(connection: sqlite3.Connection, sql: str, params: dict[str, Any]) -> sqlite3.Cursor:
    lists = lists_of(sql)
    if not lists:
        return connection.execute(sql, params)
    single = tuple([name for name in lists if len(params[name]) == 1])
    values = {name: params[name][0] if name in single else json.dumps(list(params[name])) for name in lists}
    return connection.execute(dialect(sql, single), {**params, **values})


def _all(cursor: sqlite3.Cursor) -> list[Row]:
    rows = cursor.fetchall()
    return list(map(_shape(cursor), rows)) if rows else []


def _one(cursor: sqlite3.Cursor) -> Row | None:
    row = cursor.fetchone()
    shaped = None if row is None else _shape(cursor)(row)
    cursor.close()  # a statement left half-read would hold its snapshot
    return shaped


def _shape(cursor: sqlite3.Cursor) -> Callable[[Sequence[Any]], Row]:
    return row_type(tuple([column[0] for column in cursor.description or ()]))


def drive(connection: sqlite3.Connection, operation: Operation[Any]) -> Any:
    """Runs an operation to its end. Our errors are raised in it, where it may catch them."""
    try:
        statement = next(operation)
        while True:
            try:
                reply = perform(connection, statement)
            except Exception as error:
                if not is_of_driver(error):
                    raise
                statement = operation.throw(translate(error))
            else:
                statement = operation.send(reply)
    except StopIteration as end:
        return end.value


Job = tuple[Callable[..., Operation[Any]], list[tuple[Any, ...]]]
"""an operation and the arguments of each of its writes"""


def run_batch(connection: sqlite3.Connection, jobs: list[Job]) -> list[list[Any]]:
    """Runs the jobs inside the open transaction and commits: one outcome per write."""
    try:
        outcomes = [_run_sole(connection, *jobs[0])] if len(jobs) == 1 else [_run_job(connection, *job) for job in jobs]
        _commit(connection)
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, Exception) and is_of_driver(error):
            raise translate(error) from error
        raise
    return outcomes


def _commit(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("COMMIT")
    except Exception as error:
        if is_lost_flush(error):
            raise WriteUnknown(f"the disk failed during COMMIT ({error}): stored or not cannot be known") from error
        raise


def _run_sole(
    connection: sqlite3.Connection, op: Callable[..., Operation[Any]], writes: list[tuple[Any, ...]]
) -> list[Any]:
    """The only job of a batch needs no savepoint, under which SQLite copies every page it changes:
    if it raises, the transaction is undone and begun again."""
    items = [args[0] for args in writes] if coalesces(op) else []
    try:
        result = drive(connection, op(items) if items else op(*writes[0]))
    except BaseException as error:
        if _stops_batch(connection, error):
            raise
        connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        return _one_by_one(connection, op, items) if len(items) > 1 else [Failed(deliverable(error))]
    return result if items else [result]


def _run_job(
    connection: sqlite3.Connection, op: Callable[..., Operation[Any]], writes: list[tuple[Any, ...]]
) -> list[Any]:
    if not coalesces(op):
        return [_alone(connection, op, args) for args in writes]
    items = [args[0] for args in writes]
    outcome = _alone(connection, op, (items,))
    if type(outcome) is not Failed:
        return outcome
    return _one_by_one(connection, op, items) if len(items) > 1 else [outcome]


def _one_by_one(connection: sqlite3.Connection, op: Callable[..., Operation[Any]], items: list[Any]) -> list[Any]:
    outcomes = [_alone(connection, op, ([item],)) for item in items]
    return [outcome if type(outcome) is Failed else outcome[0] for outcome in outcomes]


def _alone(connection: sqlite3.Connection, op: Callable[..., Operation[Any]], args: tuple[Any, ...]) -> Any:
    """One operation in its own savepoint: if it raises, it fails alone and leaves nothing."""
    connection.execute("SAVEPOINT op")
    try:
        result = drive(connection, op(*args))
    except BaseException as error:
        if _stops_batch(connection, error):
            raise
        connection.execute("ROLLBACK TO op")
        connection.execute("RELEASE op")
        return Failed(deliverable(error))
    connection.execute("RELEASE op")
    return result


def _stops_batch(connection: sqlite3.Connection, error: BaseException) -> bool:
    """Whether the error is not the operation's alone, or SQLite has undone the transaction itself."""
    return (isinstance(error, StoreError) and stops_all(error)) or not connection.in_transaction


class Request:
    """One read on its way: the flag by which a deadline or a cancellation reaches SQLite, how long it is
    patient with a locked database, and whether its connection is one that writes otherwise."""

    __slots__ = ("cancelled", "deadline", "patience", "writes_otherwise")

    def __init__(self, deadline_s: float | None, patience_s: float, *, writes_otherwise: bool) -> None:
        now = time.monotonic()
        self.cancelled = False
        self.deadline = None if deadline_s is None else now + deadline_s
        self.patience = now + patience_s
        self.writes_otherwise = writes_otherwise

    def stops(self) -> bool:
        """Asked by SQLite's progress handler, every so many steps."""
        return self.cancelled or (self.deadline is not None and time.monotonic() > self.deadline)

    def waits(self) -> bool:
        """Whether a locked database is worth another try."""
        return not self.stops() and time.monotonic() < self.patience


def run_read(connection: sqlite3.Connection, request: Request, op: Callable[..., Operation[Any]], *args: Any) -> Any:
    """Runs a read in one snapshot; nothing stays open behind it."""
    try:
        if request.writes_otherwise:
            connection.execute("PRAGMA query_only=ON")
        return _patiently(connection, request, op, args)
    finally:
        if request.writes_otherwise:
            connection.execute("PRAGMA query_only=OFF")


def _patiently(
    connection: sqlite3.Connection, request: Request, op: Callable[..., Operation[Any]], args: tuple[Any, ...]
) -> Any:
    while True:
        try:
            connection.set_progress_handler(request.stops, 10_000)
            connection.execute("BEGIN")
            return drive(connection, op(*args))
        except StoreBusy as error:
            if not request.waits():
                raise StoreBusy("another process held the database for too long; nothing was read") from error
        except Exception as error:
            if not is_of_driver(error):
                raise
            if not (is_busy(error) and request.waits()):
                raise translate(error) from error
        finally:
            connection.set_progress_handler(None, 0)  # or it would stop the cleaning up as well
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def run_query(connection: sqlite3.Connection, request: Request, sql: str, params: dict[str, Any]) -> list[QueryRow]:
    """Somebody's own SELECT: whatever else it may be is refused before it runs."""
    connection.execute("PRAGMA query_only=ON")
    connection.set_authorizer(_refuse_all_but_queries)
    connection.set_progress_handler(request.stops, 10_000)
    try:
        cursor = _execute(connection, sql, params)
        if cursor.description is None:
            raise InvalidQuery("the SQL gives no rows: only a SELECT is a query")
        return rows_of(tuple([column[0] for column in cursor.description]), cursor.fetchall())
    except KeyError as error:
        raise InvalidQuery(f"no value was given for :{error.args[0]}") from None
    except TypeError as error:
        raise InvalidQuery(f"not a SELECT with its parameters: {error}") from None
    except Exception as error:
        if not is_of_driver(error):
            raise
        ours = translate(error)
        if isinstance(ours, SearchTimeout | StoreBusy | StoreDamaged):
            raise ours from error
        raise InvalidQuery(f"SQLite: {error}") from error
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
        if request.writes_otherwise:
            connection.execute("PRAGMA query_only=OFF")


# Writing is refused by query_only; these are what it leaves: other files, settings, open transactions.
_REFUSED = frozenset({
    sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_SAVEPOINT,
})  # fmt: skip


def _refuse_all_but_queries(action: int, *_: Any) -> int:
    return sqlite3.SQLITE_DENY if action in _REFUSED else sqlite3.SQLITE_OK
