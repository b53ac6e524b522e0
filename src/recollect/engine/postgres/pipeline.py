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

PREPARED = 200
"""statements a connection keeps prepared; then the one that was unused longest goes"""

AT_ONCE = 256
"""commands between two turns of the event loop"""

CANCEL_S = 1.0
"""to tell the server to stop"""

_Key = tuple[bytes, tuple[int, ...]]
_Waits = Generator[Any, Any, list[PGresult]]


class Command(NamedTuple):
    """A statement with `$n`, and its parameters as they travel."""

    sql: bytes
    values: Sequence[Any] = ()
    types: Sequence[int] = ()
    formats: Sequence[Any] = ()


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
            try:
                results += await self.wait(self._exchange(commands[first : first + AT_ONCE], keep and self.prepares))
            except asyncio.CancelledError:
                await self._abandon()
                raise
        self.is_undecided = False
        return results

    async def _abandon(self) -> None:
        """Cancelled before the server had answered: it is told to stop, and the connection is of no use any more."""
        if self.pgconn.status == ConnStatus.OK and self.pgconn.pipeline_status != PipelineStatus.OFF:
            with suppress(psycopg.Error):
                await self.cancel_safe(timeout=CANCEL_S)
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
            expected = [is_own for command in commands for is_own in self._ask(command, fresh, keep)]
            self.pgconn.pipeline_sync()
            yield from send(self.pgconn)
            results = yield from self._results(len(expected))
        finally:
            with suppress(psycopg.OperationalError):  # it was lost, or not waited for to the end: it will be closed
                self.pgconn.exit_pipeline_mode()
        self._names.update(fresh)
        return [result for result, is_own in zip(results, expected, strict=True) if is_own]

    def _ask(self, command: Command, fresh: dict[_Key, bytes], keep: bool) -> list[bool]:
        """Queues a command; of each result that will come, whether it is the command's own."""
        sql, values, types, formats = command
        if not keep:
            self.pgconn.send_query_params(sql, values, types, formats)
            return [True]
        key = (sql, tuple(types))
        name = self._names.get(key)
        expected: list[bool] = []
        if name is not None:
            self._names.move_to_end(key)
        elif (name := fresh.get(key)) is None:
            expected = [False] * (self._forget() + 1)
            self._named += 1
            name = fresh[key] = b"recollect_%d" % self._named
            self.pgconn.send_prepare(name, sql, types)
        self.pgconn.send_query_prepared(name, values, formats)
        return [*expected, True]

    def _forget(self) -> int:
        """Makes room for a name; how many commands that took."""
        if len(self._names) < PREPARED:
            return 0
        _, name = self._names.popitem(last=False)
        self.pgconn.send_query_params(b"DEALLOCATE " + name, None)
        return 1

    def _results(self, n: int) -> _Waits:
        """So many results, and the end of the pipeline. Raises the error of the first that failed, when all that was
        left out because of it has been told."""
        results: list[PGresult] = []
        failed: PGresult | None = None
        while len(results) < n and (failed is None or self.pgconn.status == ConnStatus.OK):
            results.append((yield from self._next()))
            if failed is None and results[-1].status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                failed = results[-1]
                self.is_undecided &= len(results) == n  # or it was not come to
        with suppress(psycopg.OperationalError):  # all is answered: if the connection is lost now, the next will see
            yield from self._next()
        if failed is not None:
            raise error_from_result(failed)
        return results

    def _next(self) -> Generator[Any, Any, PGresult]:
        found = yield from fetch_many(self.pgconn)
        if not found:
            raise psycopg.OperationalError("the connection was lost")
        return found[0]
