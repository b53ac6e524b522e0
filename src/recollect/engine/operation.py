"""The vocabulary between rooms and engines.

An operation is a plain generator function: it yields statements, receives rows, and returns its
result. It does no I/O and never awaits, so the same function runs inside a SQLite connection's
thread and, with awaits in between, on PostgreSQL. Engines take the function and its arguments, not
a started generator, because a retry needs a fresh one.

The SQL is the portable subset: `:name` parameters, `IN :names` for a list, `?` in `many`.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Generator, Iterable, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Verb(IntEnum):
    """What an engine does with a statement, and what the operation receives back."""

    ONE = 0
    ALL = 1
    EXECUTE = 2
    MANY = 3
    LOCK = 4
    IDS = 5
    TUPLES = 6
    HORIZON = 7
    AS_USER = 8
    TOGETHER = 9


class Statement(NamedTuple):
    """One step of an operation."""

    verb: Verb
    sql: str
    params: Any


Operation = Generator[Statement, Any, T]


Row = Any
"""A row of a result: a named tuple, by position or by the name of the column."""


@lru_cache(maxsize=1024)
def row_type(columns: tuple[str, ...]) -> Callable[[Iterable[Any]], Row]:
    """What makes rows of these columns. Names that cannot be attributes become `_0`, `_1`…"""
    return namedtuple("Row", columns, rename=True)._make  # pyright: ignore[reportUntypedNamedTuple]


def one(sql: str, **params: Any) -> Statement:
    """The first row, or None."""
    return Statement(Verb.ONE, sql, params)


def all(sql: str, **params: Any) -> Statement:
    """Every row, as a list."""
    return Statement(Verb.ALL, sql, params)


def tuples(sql: str, **params: Any) -> Statement:
    """Every row, as a list of plain tuples: for many rows, where names would cost more than they tell."""
    return Statement(Verb.TUPLES, sql, params)


def execute(sql: str, **params: Any) -> Statement:
    """The number of rows changed."""
    return Statement(Verb.EXECUTE, sql, params)


def many(sql: str, rows: Sequence[Sequence[Any]]) -> Statement:
    """Runs `sql` (with `?` parameters) once per row; nothing comes back. An error may come with a later statement, or
    when the operation has ended."""
    return Statement(Verb.MANY, sql, rows)


def lock(*session_ids: str) -> Statement:
    """Locks these sessions against other writers until the end of the transaction, in key order. Nothing comes back,
    as with `many`."""
    return Statement(Verb.LOCK, "", session_ids)


def ids(n: int) -> Statement:
    """The next `n` numbers (n ≥ 1) of the store's one sequence, ascending, never given out again."""
    return Statement(Verb.IDS, "", n)


def horizon() -> Statement:
    """The number of the store's one sequence up to which all are decided: their rows are committed, or will never
    be. In a read it must come first: what it tells is true of the snapshot taken after it."""
    return Statement(Verb.HORIZON, "", None)


def together(*statements: Statement) -> Statement:
    """The replies to several statements, none of which needs that of another: a server is waited for once."""
    return Statement(Verb.TOGETHER, "", statements)


class Whose(NamedTuple):
    """Whose rows an operation has. Nothing of it said: nobody's."""

    user: str | None = None
    pseudonym: str | None = None
    """what stands for him in what is left when all that was his is gone"""
    users: tuple[str, ...] = ()
    """several: everything of theirs"""
    claims: tuple[tuple[str, str], ...] = ()
    """sessions, each if it is that user's"""


def as_user(whose: Whose | None) -> Statement:
    """From here to its end, or to the next such statement, the operation has these rows and no others; None:
    everybody's, as at its beginning. Engines that do not guard rows pass over it. In a read it may come before the
    horizon."""
    return Statement(Verb.AS_USER, "", whose)


def nothing() -> Operation[None]:
    """Writes nothing; what was queued before it is committed when it is."""
    return
    yield


class Failed(NamedTuple):
    """The outcome of one item of a coalesced operation that could not be done."""

    error: BaseException


def deliverable(error: BaseException) -> BaseException:
    """The error as a future takes it: not StopIteration, which would end who awaits it."""
    if not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError("the operation raised StopIteration")
    wrapped.__cause__ = error
    return wrapped


_coalescing: set[Callable[..., Any]] = set()


def coalescing(operation: Callable[[list[Any]], Operation[list[Any]]]) -> Callable[[list[Any]], Operation[list[Any]]]:
    """Marks an operation that does many writes at once.

    It takes the list of the items queued for it and returns one outcome for each, in order: a value
    or `Failed`. If it raises as a whole, it is run again item by item.
    """
    _coalescing.add(operation)
    return operation


class Claimed(Protocol):
    """An item of a coalescing operation that knows for whom it is."""

    @property
    def claim(self) -> tuple[str | None, str]:
        """The session that it names, or None, and the user it is for."""
        ...


class AsUsers(NamedTuple):
    """A coalescing operation for items of users, of any number of them: it has the sessions that they name, each if it
    is that user's, and where they name none all that is theirs."""

    operation: Callable[[list[Any]], Operation[list[Any]]]

    def __call__(self, items: list[Claimed]) -> Operation[list[Any]]:
        """One run, or several where two users name one session."""
        outcomes: list[Any] = [None] * len(items)
        left = list(range(len(items)))
        while left:
            claims: dict[str, str] = {}
            users: dict[str, None] = {}
            taken: list[int] = []
            for at in left:
                session, user = items[at].claim
                if session is None:
                    users[user] = None
                elif claims.setdefault(session, user) != user:
                    continue
                taken.append(at)
            yield as_user(Whose(users=tuple(users), claims=tuple(claims.items())))
            found = yield from self.operation([items[at] for at in taken])
            for at, outcome in zip(taken, found, strict=True):
                outcomes[at] = outcome
            left = sorted({*left}.difference(taken))
        return outcomes


def coalesces(operation: Callable[..., Any]) -> bool:
    """Whether writes of this operation may be gathered into one run."""
    return type(operation) is AsUsers or operation in _coalescing
