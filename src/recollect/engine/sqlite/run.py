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

from ...errors import StoreError
from ..operation import Failed, Operation, Row, Statement, Verb, coalesces, row_type
from .faults import DRIVER_ERRORS, stops_all, translate

_IN_LIST = re.compile(r"\bIN :(\w+)")


@lru_cache(maxsize=1024)
def dialect(sql: str) -> tuple[str, tuple[str, ...]]:
    """The statement as SQLite takes it, and the parameters that are lists.

    A list travels as one JSON text, so that its length does not make another statement.
    """
    return _IN_LIST.sub(r"IN (SELECT value FROM json_each(:\1))", sql), tuple(_IN_LIST.findall(sql))


def perform(connection: sqlite3.Connection, statement: Statement) -> Any:
    """Executes one statement and returns what its verb promises."""
    verb, sql, params = statement
    if verb is Verb.MANY:
        connection.executemany(sql, params)
        return None
    if verb is Verb.LOCK:
        return None  # the writer is alone
    if verb is Verb.IDS:
        last = connection.execute("UPDATE sequence SET last = last + ? RETURNING last", (params,)).fetchone()[0]
        return range(last - params + 1, last + 1)
    cursor = _execute(connection, sql, params)
    if verb is Verb.EXECUTE:
        return cursor.rowcount
    return _one(cursor) if verb is Verb.ONE else _all(cursor)


def _execute(connection: sqlite3.Connection, sql: str, params: dict[str, Any]) -> sqlite3.Cursor:
    sql, lists = dialect(sql)
    for name in lists:
        params[name] = json.dumps(list(params[name]))
    return connection.execute(sql, params)


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
            except DRIVER_ERRORS as error:
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
        outcomes = [_run_job(connection, op, writes) for op, writes in jobs]
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise translate(error) from error if isinstance(error, sqlite3.Error) else error
    return outcomes


def _run_job(
    connection: sqlite3.Connection, op: Callable[..., Operation[Any]], writes: list[tuple[Any, ...]]
) -> list[Any]:
    if not coalesces(op):
        return [_alone(connection, op, args) for args in writes]
    items = [args[0] for args in writes]
    outcome = _alone(connection, op, (items,))
    if type(outcome) is not Failed:
        return outcome
    if len(items) == 1:
        return [outcome]
    return [_first(_alone(connection, op, ([item],))) for item in items]


def _first(outcome: Any) -> Any:
    return outcome if type(outcome) is Failed else outcome[0]


def _alone(connection: sqlite3.Connection, op: Callable[..., Operation[Any]], args: tuple[Any, ...]) -> Any:
    """One operation in its own savepoint: if it raises, it fails alone and leaves nothing."""
    connection.execute("SAVEPOINT op")
    try:
        result = drive(connection, op(*args))
    except BaseException as error:
        if (isinstance(error, StoreError) and stops_all(error)) or not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO op")
        connection.execute("RELEASE op")
        return Failed(error)
    connection.execute("RELEASE op")
    return result


class Request:
    """One read on its way: the flag by which a deadline or a cancellation reaches SQLite."""

    __slots__ = ("cancelled", "deadline")

    def __init__(self, deadline_s: float | None) -> None:
        self.cancelled = False
        self.deadline = None if deadline_s is None else time.monotonic() + deadline_s

    def stops(self) -> bool:
        """Asked by SQLite's progress handler, every so many steps."""
        return self.cancelled or (self.deadline is not None and time.monotonic() > self.deadline)


def run_read(connection: sqlite3.Connection, request: Request, op: Callable[..., Operation[Any]], *args: Any) -> Any:
    """Runs a read in one snapshot; nothing stays open behind it."""
    connection.set_progress_handler(request.stops, 10_000)
    try:
        connection.execute("BEGIN")
        return drive(connection, op(*args))
    except DRIVER_ERRORS as error:
        raise translate(error) from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.set_progress_handler(None, 0)


def run_memory_read(connection: sqlite3.Connection, *args: Any) -> Any:
    """The same on a connection that writes otherwise."""
    connection.execute("PRAGMA query_only=ON")
    try:
        return run_read(connection, *args)
    finally:
        connection.execute("PRAGMA query_only=OFF")


def run_query(connection: sqlite3.Connection, request: Request, sql: str, params: dict[str, Any]) -> list[Row]:
    """Somebody's own SELECT: whatever else it may be is refused before it runs."""
    connection.set_authorizer(_only_reading)
    try:
        return run_read(connection, request, _query, sql, params)
    finally:
        connection.set_authorizer(None)


def _query(sql: str, params: dict[str, Any]) -> Operation[list[Row]]:
    return (yield Statement(Verb.ALL, sql, dict(params)))


_READING = frozenset({
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
    sqlite3.SQLITE_TRANSACTION,
})  # fmt: skip


def _only_reading(action: int, *_: Any) -> int:
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY
