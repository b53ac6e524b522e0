"""The vocabulary between rooms and engines.

An operation is a plain generator function: it yields statements, receives rows, and returns its
result. It does no I/O and never awaits, so the same function runs inside a SQLite connection's
thread and, with awaits in between, on PostgreSQL. Engines take the function and its arguments, not
a started generator, because a retry needs a fresh one.

The SQL is the portable subset: `:name` parameters, `IN :names` for a list, `?` in `many`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Verb(IntEnum):
    """What an engine does with a statement, and what the operation receives back."""

    ONE = 0
    ALL = 1
    EXECUTE = 2
    MANY = 3
    LOCK = 4
    IDS = 5


class Statement(NamedTuple):
    """One step of an operation."""

    verb: Verb
    sql: str
    params: Any


Operation = Generator[Statement, Any, T]


class Row(tuple[Any, ...]):
    """A row of a result: by position, by name as attribute or key, and `dict(row)`."""

    __slots__ = ()
    columns: tuple[str, ...] = ()

    def keys(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return self.columns

    def __getitem__(self, key: Any) -> Any:
        return tuple.__getitem__(self, self.columns.index(key) if isinstance(key, str) else key)

    def __getattr__(self, name: str) -> Any:
        try:
            return tuple.__getitem__(self, self.columns.index(name))
        except ValueError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={value!r}' for name, value in zip(self.columns, self, strict=True))})"


@lru_cache(maxsize=1024)
def row_type(columns: tuple[str, ...]) -> Callable[[Iterable[Any]], Row]:
    """The Row for these columns; unique legal names become fast attributes."""
    fields = {
        name: property(lambda row, at=at: tuple.__getitem__(row, at))
        for at, name in enumerate(columns)
        if name.isidentifier() and not hasattr(Row, name)
    }
    return type("Row", (Row,), {"__slots__": (), "columns": columns, **fields})


def one(sql: str, **params: Any) -> Statement:
    """The first row, or None."""
    return Statement(Verb.ONE, sql, params)


def all(sql: str, **params: Any) -> Statement:
    """Every row, as a list."""
    return Statement(Verb.ALL, sql, params)


def execute(sql: str, **params: Any) -> Statement:
    """The number of rows changed."""
    return Statement(Verb.EXECUTE, sql, params)


def many(sql: str, rows: Sequence[Sequence[Any]]) -> Statement:
    """Runs `sql` (with `?` parameters) once per row; nothing comes back."""
    return Statement(Verb.MANY, sql, rows)


def lock(*session_ids: str) -> Statement:
    """Locks these sessions against other writers until the end of the transaction, in key order."""
    return Statement(Verb.LOCK, "", session_ids)


def ids(n: int) -> Statement:
    """The next `n` numbers (n ≥ 1) of the store's one sequence, ascending, never given out again."""
    return Statement(Verb.IDS, "", n)


class Failed(NamedTuple):
    """The outcome of one item of a coalesced operation that could not be done."""

    error: BaseException


_coalescing: set[Callable[..., Any]] = set()


def coalescing(operation: Callable[[list[Any]], Operation[list[Any]]]) -> Callable[[list[Any]], Operation[list[Any]]]:
    """Marks an operation that does many writes at once.

    It takes the list of the items queued for it and returns one outcome for each, in order: a value
    or `Failed`. If it raises as a whole, it is run again item by item.
    """
    _coalescing.add(operation)
    return operation


def coalesces(operation: Callable[..., Any]) -> bool:
    """Whether writes of this operation may be gathered into one run."""
    return operation in _coalescing
