"""Driving operations on a PostgreSQL connection: statements in, rows back, with an await for each.

A batch is one transaction at READ COMMITTED, each operation in a savepoint of its own. A name that another
transaction took meanwhile makes an operation run again, which then sees the winner and raises its own error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import AsyncRawCursor

from ...errors import InvalidQuery, SearchTimeout, StoreBusy, StoreDamaged, WriteUnknown
from ...models import Row as QueryRow
from ...models import rows_of
from ..operation import Failed, Operation, Row, Statement, Verb, coalesces, deliverable, row_type
from .dialect import dialect
from .faults import concerns_all, is_lost, is_race, translate
from .horizon import Connection, read_horizon, take_ids

RACES = 8
"""times that an operation runs again because others were faster"""

# In the order of keys, so that no two transactions wait for each other.
_LOCK = "SELECT session FROM sessions WHERE id = ANY($1) ORDER BY id FOR UPDATE"


async def perform(connection: Connection, statement: Statement) -> Any:
    """Executes one statement and returns what its verb promises."""
    verb, sql, params = statement
    if verb is Verb.IDS:
        return await take_ids(connection, params)
    if verb is Verb.HORIZON:
        return await read_horizon(connection)
    cursor = AsyncRawCursor(connection)
    if verb is Verb.LOCK:
        await cursor.execute(_LOCK, (sorted(params),))
        return None
    text, names = dialect(sql)
    if verb is Verb.MANY:
        await cursor.executemany(text.encode(), params)
        return None
    await cursor.execute(text.encode(), [_value(params[name]) for name in names])
    if verb is Verb.EXECUTE:
        return cursor.rowcount
    rows = await cursor.fetchall()
    if verb is Verb.TUPLES:
        return rows
    return _shaped(cursor, rows) if verb is Verb.ALL else next(iter(_shaped(cursor, rows[:1])), None)


def _value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | set | frozenset | dict) else value


def _shaped(cursor: AsyncRawCursor[Any], rows: list[tuple[Any, ...]]) -> list[Row]:
    return list(map(row_type(tuple([column.name for column in cursor.description or ()])), rows))


async def drive(connection: Connection, operation: Operation[Any], begin: bytes | None = None) -> Any:
    """Runs an operation to its end; `begin` comes before its first statement but for the horizon.

    Our errors are raised in it, where it may catch them. A driver's that concern more than the statement, or that
    another try mends, end it.
    """
    try:
        statement = next(operation)
        while True:
            try:
                if begin is not None and statement.verb is not Verb.HORIZON:
                    await connection.execute(begin)
                    begin = None
                reply = await perform(connection, statement)
            except psycopg.Error as error:
                if is_race(error) or concerns_all(error):
                    raise
                statement = operation.throw(translate(error))
            else:
                statement = operation.send(reply)
    except StopIteration as end:
        return end.value
    finally:
        operation.close()


Job = tuple[Callable[..., Operation[Any]], list[tuple[Any, ...]]]
"""an operation and the arguments of each of its writes"""


async def run_batch(connection: Connection, jobs: list[Job]) -> list[list[Any]]:
    """Runs the jobs in one transaction and commits: one outcome per write. Whatever is raised, nothing of it
    is stored, but for WriteUnknown."""
    try:
        await connection.execute("BEGIN")
        outcomes = [await _run_job(connection, *job) for job in jobs]
    except BaseException:
        await _undo(connection)
        raise
    await _commit(connection)
    return outcomes


async def _undo(connection: Connection) -> None:
    if not connection.closed:
        try:
            await connection.rollback()
        except psycopg.Error:
            await connection.close()


async def _commit(connection: Connection) -> None:
    try:
        await connection.execute("COMMIT")
    except psycopg.Error as error:
        if is_lost(error):
            what = f"the connection was lost during COMMIT ({error})"
            raise WriteUnknown(f"{what}: stored or not cannot be known") from error
        await _undo(connection)
        raise


async def _run_job(
    connection: Connection, op: Callable[..., Operation[Any]], writes: list[tuple[Any, ...]]
) -> list[Any]:
    if not coalesces(op):
        return [await _alone(connection, op, args) for args in writes]
    items = [args[0] for args in writes]
    outcome = await _alone(connection, op, (items,))
    if type(outcome) is not Failed:
        return outcome
    if len(items) == 1:
        return [outcome]
    outcomes = [await _alone(connection, op, ([item],)) for item in items]
    return [each if type(each) is Failed else each[0] for each in outcomes]


async def _alone(connection: Connection, op: Callable[..., Operation[Any]], args: tuple[Any, ...]) -> Any:
    """One operation in its own savepoint: if it raises, it fails alone and leaves nothing."""
    outcome = None
    for _ in range(RACES):
        await connection.execute("SAVEPOINT op")
        try:
            result = await drive(connection, op(*args))
        except psycopg.Error as error:
            if concerns_all(error):
                raise
            await connection.execute("ROLLBACK TO op")
            outcome = Failed(translate(error))
        except Exception as error:
            await connection.execute("ROLLBACK TO op")
            return Failed(deliverable(error))
        else:
            await connection.execute("RELEASE op")
            return result
    return outcome


async def run_read(connection: Connection, op: Callable[..., Operation[Any]], *args: Any) -> Any:
    """Runs a read in one snapshot; nothing stays open behind it."""
    try:
        return await drive(connection, op(*args), b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    finally:
        await _undo(connection)


async def run_query(connection: Connection, sql: str, params: dict[str, Any]) -> list[QueryRow]:
    """Somebody's own SELECT. Prepared, it can only be one statement; in a transaction that only reads."""
    try:
        text, names = dialect(sql)
        await connection.execute("BEGIN READ ONLY")
        cursor = AsyncRawCursor(connection)
        await cursor.execute(text.encode(), [_value(params[name]) for name in names], prepare=True)
        if cursor.description is None:
            raise InvalidQuery("the SQL gives no rows: only a SELECT is a query")
        return rows_of(tuple([column.name for column in cursor.description]), await cursor.fetchall())
    except KeyError as error:
        raise InvalidQuery(f"no value was given for :{error.args[0]}") from None
    except psycopg.Error as error:
        ours = translate(error)
        if isinstance(ours, SearchTimeout | StoreBusy | StoreDamaged):
            raise ours from error
        raise InvalidQuery(f"PostgreSQL: {error}") from error
    finally:
        await _undo(connection)
