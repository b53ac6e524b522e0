"""Driving operations on a PostgreSQL connection: statements in, rows back, with an await for those that give some.

A batch is one transaction at READ COMMITTED, each operation in a savepoint of its own, but for the only one of a
batch. A name that another transaction took meanwhile makes an operation run again, which then sees the winner and
raises its own error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from ...errors import InvalidQuery, SearchTimeout, StoreBusy, StoreDamaged, WriteUnknown
from ...models import Row as QueryRow
from ...models import rows_of
from ..operation import Failed, Operation, Statement, Verb, coalesces, deliverable, row_type
from .dialect import dialect, rows_at_once
from .faults import concerns_all, is_lost, is_race, translate
from .horizon import CLAIMED, LAST, MORE, TAKE, horizon_of
from .pipeline import Command, Connection
from .scope import STORE, narrowing

RACES = 8
"""times that an operation runs again because others were faster"""

# In the order of keys, so that no two transactions wait for each other.
_LOCK = b"SELECT session FROM sessions WHERE id = ANY($1) ORDER BY id FOR UPDATE"


def _texts(statement: Statement) -> Iterator[tuple[bytes, Sequence[Any]]]:
    """What a statement is on PostgreSQL: texts and their parameters."""
    verb, sql, params = statement
    if verb is Verb.TOGETHER:
        for each in params:
            yield from _texts(each)
    elif verb is Verb.IDS:
        yield MORE, (params,)
    elif verb is Verb.HORIZON:
        yield LAST, ()
        yield CLAIMED, ()
    elif verb is Verb.LOCK:
        yield _LOCK, (sorted(params),)
    elif verb is Verb.AS_USER:
        yield narrowing(params)
    elif verb is Verb.MANY:
        yield from rows_at_once(sql, params)
    else:
        text, names = dialect(sql)
        yield text.encode(), [_value(params[name]) for name in names]


def _value(value: Any) -> Any:
    """What is compared, as the server takes it: a text with NUL is none that is stored, which it is to find out."""
    if isinstance(value, str):
        return value.replace("\0", _NO_TEXT) if "\0" in value else value
    return list(map(_value, value)) if isinstance(value, list | tuple | set | frozenset | dict) else value


_NO_TEXT = "\uffff"
"""a code point that is no character"""


def _reply(connection: Connection, statement: Statement, results: Iterator[PGresult]) -> Any:
    """What the verb promises, of as many results as the statement had commands."""
    verb, _, params = statement
    if verb is Verb.TOGETHER:
        return [_reply(connection, each, results) for each in params]
    result = next(results)
    if verb is Verb.EXECUTE:
        return result.command_tuples or 0
    rows = connection.rows(result)
    if verb is Verb.HORIZON:
        return horizon_of(rows, connection.rows(next(results)))
    if verb is Verb.IDS:
        return [id for (id,) in rows]
    if verb is Verb.TUPLES:
        return rows
    shape = row_type(columns_of(result))
    return list(map(shape, rows)) if verb is Verb.ALL else next(map(shape, rows), None)


def columns_of(result: PGresult) -> tuple[str, ...]:
    """The names of a result's columns."""
    return tuple([(result.fname(n) or b"").decode() for n in range(result.nfields)])


class Flow:
    """The statements of a transaction. What gives nothing back waits for the next that does, and travels with it."""

    def __init__(self, connection: Connection, *begin: Command, then: Sequence[Command] = ()) -> None:
        self._connection = connection
        self._scope = [connection.command(*narrowing(None))] if connection.guards else []
        # told in any case: the rows may be guarded since the store was opened
        self._begin = [*begin, *(self._scope or [_EVERYBODYS]), *then]
        self._frame = [*self._begin]
        """what is to come before anything else"""
        self._opening: list[Command] = []
        """what begins an operation, as long as it has sent nothing"""
        self._waiting: list[Command] = []
        self._claimed = False
        """whether the transaction has numbers, and what keeps the horizon below them"""
        self._claimed_by_operation = False
        self.has_begun = False

    async def perform(self, statement: Statement) -> Any:
        """Executes a statement and returns what its verb promises; of one that promises nothing, an error may come
        with a later one."""
        if statement.verb is Verb.AS_USER and not self._connection.guards:
            return None
        commands = [self._connection.command(self._claiming(text), values) for text, values in _texts(statement)]
        if statement.verb in _SILENT:
            self._waiting += commands
            return None
        if statement.verb is Verb.HORIZON and not self.has_begun:
            results = await self._connection.send(commands)  # the snapshot is to be younger
        else:
            results = await self._send(*commands)
        return _reply(self._connection, statement, iter(results))

    def _claiming(self, text: bytes) -> bytes:
        """The first numbers come with a claim; it is lost with the operation that made it, if that is undone."""
        if text is not MORE or self._claimed:
            return text
        self._claimed = self._claimed_by_operation = True
        return TAKE

    async def _send(self, *commands: Command) -> list[PGresult]:
        before = [*self._frame, *self._opening, *self._waiting]
        self._forget()
        self.has_begun = True
        return (await self._connection.send([*before, *commands], decides=commands[-1] is _COMMIT))[len(before) :]

    def _forget(self) -> None:
        self._frame, self._opening, self._waiting = [], [], []

    def save(self) -> None:
        """Begins an operation."""
        self._claimed_by_operation = False
        self._opening = [_SAVE, *self._scope]

    async def keep(self) -> None:
        """Ends it. Raises the error of its last statements."""
        self._refuse_failed()
        if self._waiting:
            await self._send(_KEEP)
        elif not self._opening:
            self._frame.append(_KEEP)
        self._opening = []

    def drop(self) -> None:
        """Undoes it."""
        self._waiting = []
        self._claimed &= not self._claimed_by_operation
        if not self._opening:
            self._frame += [_DROP, _KEEP]
        self._opening = []

    async def commit(self) -> None:
        """Commits, if anything was done. Raises the error of the last statements."""
        self._refuse_failed()
        if self.has_begun or self._waiting:
            await self._send(_COMMIT)

    def _refuse_failed(self) -> None:
        """Nobody would object to going on after an error: COMMIT undoes such a transaction, and calls it done."""
        if _DROP not in self._frame and self._connection.pgconn.transaction_status == TransactionStatus.INERROR:
            raise InFailedSqlTransaction("a statement failed before; nothing was stored")

    async def undo(self) -> None:
        """Undoes the transaction; what comes then is another."""
        self._forget()
        self._frame = [*self._begin]
        self._claimed = False
        self.has_begun = False
        await _undo(self._connection)


_SAVE, _KEEP, _DROP = Command(b"SAVEPOINT op"), Command(b"RELEASE op"), Command(b"ROLLBACK TO op")
_COMMIT, _EVERYBODYS = Command(b"COMMIT"), Command(STORE)
_SILENT = (Verb.LOCK, Verb.MANY, Verb.AS_USER)
"""they give nothing back"""


async def _undo(connection: Connection) -> None:
    if not connection.closed:
        try:
            await connection.rollback()
        except psycopg.Error:
            await connection.close()


async def drive(flow: Flow, operation: Operation[Any]) -> Any:
    """Runs an operation to its end.

    Our errors are raised in it, where it may catch them. A driver's that concern more than the statement, or that
    another try mends, end it.
    """
    try:
        statement = next(operation)
        while True:
            try:
                reply = await flow.perform(statement)
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


async def run_batch(
    connection: Connection, jobs: list[Job], begin: Sequence[Command], sessions: Sequence[str]
) -> list[list[Any]]:
    """Runs the jobs, which are on these sessions, in one transaction and commits: one outcome per write. Whatever is
    raised, nothing of it is stored, but for WriteUnknown; or, cancelled, as `Connection.is_undecided` says."""
    # Locked all at once: each for its operation, it would be in any order.
    locks = [connection.command(_LOCK, (sorted(sessions),))] if len(jobs) > 1 else []
    flow = Flow(connection, *begin, then=locks)
    try:
        if len(jobs) == 1:
            return [await _run_sole(flow, connection, *jobs[0])]
        outcomes = [await _run_job(flow, *job) for job in jobs]
        await _commit(flow, connection)
    except BaseException:
        await flow.undo()
        raise
    return outcomes


async def _commit(flow: Flow, connection: Connection) -> None:
    try:
        await flow.commit()
    except psycopg.Error as error:
        if is_lost(error) and connection.is_undecided:
            what = f"the connection was lost during COMMIT ({error})"
            raise WriteUnknown(f"{what}: stored or not cannot be known") from error
        raise


async def _run_sole(
    flow: Flow, connection: Connection, op: Callable[..., Operation[Any]], writes: list[tuple[Any, ...]]
) -> list[Any]:
    """The only job of a batch needs no savepoint, and COMMIT travels with its last statements. If it raises, the
    transaction is undone and begun again."""
    items = [args[0] for args in writes] if coalesces(op) else []
    try:
        result = await drive(flow, op(items) if items else op(*writes[0]))
        await _commit(flow, connection)
    except WriteUnknown:
        raise
    except Exception as error:
        if concerns_all(error):
            raise
        await flow.undo()
        if len(items) < 2 and not is_race(error):
            return [Failed(translate(error) if isinstance(error, psycopg.Error) else deliverable(error))]
    else:
        return result if items else [result]
    outcomes = await _run_job(flow, op, writes)
    await _commit(flow, connection)
    return outcomes


async def _run_job(flow: Flow, op: Callable[..., Operation[Any]], writes: list[tuple[Any, ...]]) -> list[Any]:
    if not coalesces(op):
        return [await _alone(flow, op, args) for args in writes]
    items = [args[0] for args in writes]
    outcome = await _alone(flow, op, (items,))
    if type(outcome) is not Failed:
        return outcome
    if len(items) == 1:
        return [outcome]
    outcomes = [await _alone(flow, op, ([item],)) for item in items]
    return [each if type(each) is Failed else each[0] for each in outcomes]


async def _alone(flow: Flow, op: Callable[..., Operation[Any]], args: tuple[Any, ...]) -> Any:
    """One operation in its own savepoint: if it raises, it fails alone and leaves nothing."""
    outcome = None
    for _ in range(RACES):
        flow.save()
        try:
            result = await drive(flow, op(*args))
            await flow.keep()
        except psycopg.Error as error:
            if concerns_all(error):
                raise
            flow.drop()
            outcome = Failed(translate(error))
            if not is_race(error):
                break
        except Exception as error:
            flow.drop()
            return Failed(deliverable(error))
        else:
            return result
    return outcome


_READ, _QUERY = Command(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"), Command(b"BEGIN READ ONLY")


async def run_read(connection: Connection, op: Callable[..., Operation[Any]], *args: Any) -> Any:
    """Runs a read in one snapshot; nothing stays open behind it."""
    try:
        return await drive(Flow(connection, _READ), op(*args))
    finally:
        await _undo(connection)


_CURSOR = "DECLARE recollect_query NO SCROLL CURSOR FOR "
_FETCH = Command(b"FETCH ALL FROM recollect_query")


async def run_query(connection: Connection, sql: str, params: dict[str, Any]) -> list[QueryRow]:
    """Somebody's own SELECT, in a transaction that only reads. As it travels it can only be one statement, and only a
    query can have a cursor: others are refused before they do anything."""
    try:
        if "\0" in sql:
            raise InvalidQuery("the SQL has a NUL in it")
        text, names = dialect(sql)
        query = connection.command((_CURSOR + text).encode(), [_value(params[name]) for name in names])
        scope = connection.command(*narrowing(None)) if connection.guards else _EVERYBODYS
        *_, result = await connection.send([_QUERY, scope, query, _FETCH], keep=False)
        return rows_of(columns_of(result), connection.rows(result))
    except KeyError as error:
        raise InvalidQuery(f"no value was given for :{error.args[0]}") from None
    except UnicodeEncodeError as error:
        raise InvalidQuery(f"the SQL cannot be sent: {error}") from None
    except psycopg.Error as error:
        ours = translate(error)
        if is_lost(error):
            raise  # it is done again
        if isinstance(ours, SearchTimeout | StoreBusy | StoreDamaged):
            raise ours from error
        raise InvalidQuery(f"PostgreSQL: {error}") from error
    finally:
        await _undo(connection)
