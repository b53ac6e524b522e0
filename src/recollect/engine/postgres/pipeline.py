"""Statements that travel together: however many are sent, the server's answers are waited for once.

libpq's pipeline mode, driven by hand: a cursor of psycopg costs for each statement what a round trip does. After one
that fails the server leaves out those behind it. A statement is prepared when it first comes, and keeps its name.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.generators import fetch_many, send
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus
from psycopg.pq.abc import PGresult
from psycopg.waiting import wait_async

PREPARED = 200
"""statements a connection keeps prepared; then the one that was unused longest goes"""

AT_ONCE = 256
"""commands between two turns of the event loop"""

CANCEL_S = 1.0
"""to tell the server to stop, and for it to do so"""

WAKE_S = 0.1
"""between two looks at a socket that is silent, as psycopg does"""

_Key = tuple[bytes, tuple[int, ...]]
_Waits = Generator[Any, Any, list[PGresult]]


class Command(NamedTuple):
    """A statement with `$n`, and its parameters as they travel."""

    sql: bytes
    values: Sequence[Any] = ()
    types: Sequence[int] = ()
    formats: Sequence[Any] = ()


class _Expected(NamedTuple):
    """A result to come: of a command, or of a statement that is prepared for it or forgotten."""

    made: tuple[_Key, bytes] | None = None
    gone: tuple[_Key, bytes] | None = None

    @property
    def is_own(self) -> bool:
        return self.made is None and self.gone is None


class Connection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that sends commands together. Its cursors are not to prepare anything: psycopg forgets all that is
    prepared when something is undone."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._adapt = Transformer(self)
        self._names: OrderedDict[_Key, bytes] = OrderedDict()
        self._named = 0
        self.prepares = True
        """whether the next command comes to the same connection of the server: a pooler may see to the contrary"""
        self.guards = False
        """whether the schema guards its rows by user"""
        self.is_undecided = False
        """whether a COMMIT was sent of which it is not known what became of it"""

    def command(self, sql: bytes, params: Sequence[Any] = ()) -> Command:
        """A statement with its parameters. Raises psycopg.Error, also for values that cannot travel."""
        if not params:
            return Command(sql)
        try:
            values = self._adapt.dump_sequence(params, [PyFormat.AUTO] * len(params))
        except (UnicodeError, ValueError, OverflowError) as error:
            raise psycopg.DataError(f"a value cannot be sent: {error}") from error
        return Command(sql, values, self._adapt.types or (), self._adapt.formats or ())

    async def send(self, commands: Sequence[Command], *, keep: bool = True, decides: bool = False) -> list[PGresult]:
        """Carries out the commands in turn; the result of each. Raises the error of the first that fails.

        keep: prepare them, so that they cost less when they come again. decides: the last is COMMIT.
        """
        results: list[PGresult] = []
        for first in range(0, len(commands), AT_ONCE):
            self.is_undecided = decides and first + AT_ONCE >= len(commands)
            results += await self._carried_out(
                self._exchange(commands[first : first + AT_ONCE], keep and self.prepares)
            )
        self.is_undecided = False
        return results

    async def _carried_out(self, exchange: _Waits) -> list[PGresult]:
        # not by the connection's own `wait`, which tells the server to stop and then waits for it, up to ten seconds
        try:
            return await wait_async(exchange, self.pgconn.socket, interval=WAKE_S)
        except asyncio.CancelledError:
            await self._stop(exchange)
            raise

    async def _stop(self, exchange: _Waits) -> None:
        """Cancelled before the server had answered: it is told to stop. If it does not, the connection is given up."""
        try:
            with suppress(psycopg.Error, TimeoutError):
                async with asyncio.timeout(CANCEL_S):
                    await self.cancel_safe(timeout=CANCEL_S)
                    await wait_async(exchange, self.pgconn.socket, interval=WAKE_S)
        finally:
            if self.pgconn.status == ConnStatus.OK and self.pgconn.pipeline_status != PipelineStatus.OFF:
                self.pgconn.finish()

    def rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        """The rows of a result."""
        self._adapt.set_pgresult(result)
        try:
            return self._adapt.load_rows(0, result.ntuples, tuple)
        finally:
            self._adapt.set_pgresult(None)

    def _exchange(self, commands: Sequence[Command], keep: bool) -> _Waits:
        fresh: dict[_Key, bytes] = {}
        self.pgconn.enter_pipeline_mode()
        try:
            expected = [each for command in commands for each in self._ask(command, fresh, keep)]
            self.pgconn.pipeline_sync()
            yield from send(self.pgconn)
            return (yield from self._results(expected))
        finally:
            with suppress(psycopg.OperationalError):  # it was lost, or not waited for to the end: it will be closed
                self.pgconn.exit_pipeline_mode()

    def _ask(self, command: Command, fresh: dict[_Key, bytes], keep: bool) -> list[_Expected]:
        """Queues a command; what each result that will come is of."""
        sql, values, types, formats = command
        if not keep:
            self.pgconn.send_query_params(sql, values, types, formats)
            return [_Expected()]
        key = (sql, tuple(types))
        name = self._names.get(key)
        expected: list[_Expected] = []
        if name is not None:
            self._names.move_to_end(key)
        elif (name := fresh.get(key)) is None:
            expected = self._forget(len(fresh))
            self._named += 1
            name = fresh[key] = b"recollect_%d" % self._named
            self.pgconn.send_prepare(name, sql, types)
            expected.append(_Expected(made=(key, name)))
        self.pgconn.send_query_prepared(name, values, formats)
        return [*expected, _Expected()]

    def _forget(self, fresh: int) -> list[_Expected]:
        """Makes room for a name."""
        if not self._names or len(self._names) + fresh < PREPARED:
            return []
        key, name = self._names.popitem(last=False)
        self.pgconn.send_query_params(b"DEALLOCATE " + name, None)
        return [_Expected(gone=(key, name))]

    def _results(self, expected: Sequence[_Expected]) -> _Waits:
        """The results that are the commands' own, and the end of the pipeline. Raises the error of the first that
        failed, when all that was left out because of it has been told."""
        results: list[PGresult] = []
        failed: PGresult | None = None
        for at, each in enumerate(expected, 1):
            if failed is not None and self.pgconn.status != ConnStatus.OK:
                break
            result = yield from self._next()
            is_done = result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)
            self._note(each, is_done)
            if each.is_own:
                results.append(result)
            if failed is None and not is_done:
                failed = result
                self.is_undecided &= at == len(expected)  # or it was not come to
        with suppress(psycopg.OperationalError):  # all is answered: if the connection is lost now, the next will see
            yield from self._next()
        if failed is not None:
            raise error_from_result(failed)
        return results

    def _note(self, expected: _Expected, is_done: bool) -> None:
        """What the server has prepared: it is not undone with the transaction."""
        if expected.made is not None and is_done:
            self._names[expected.made[0]] = expected.made[1]
        elif expected.gone is not None and not is_done:
            self._names[expected.gone[0]] = expected.gone[1]

    def _next(self) -> Generator[Any, Any, PGresult]:
        found = yield from fetch_many(self.pgconn)
        if not found:
            raise psycopg.OperationalError("the connection was lost")
        return found[0]
