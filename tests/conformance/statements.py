"""Records every statement that operations yield, and from which line of source each came."""

from __future__ import annotations

import ast
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import recollect
from recollect.engine.operation import Operation, Statement, Verb

SOURCE = Path(recollect.__file__).parent
VOCABULARY = {
    "one",
    "all",
    "tuples",
    "execute",
    "many",
    "lock",
    "ids",
    "horizon",
    "together",
    "as_user",
    "everybodys",
    "only",
    "record_event",
    "_audit",
}


class Recorder:
    """Wraps operations: what they yield goes on, and is remembered with its place."""

    def __init__(self) -> None:
        self.statements: dict[str, Statement] = {}
        self.places: set[tuple[str, int]] = set()

    def watch(self, operation: Operation[Any]) -> Generator[Statement, Any, Any]:
        """The same operation, seen."""
        try:
            statement = next(operation)
            while True:
                self._remember(operation, statement)
                try:
                    reply = yield statement
                except BaseException as error:
                    statement = operation.throw(error)
                else:
                    statement = operation.send(reply)
        except StopIteration as end:
            return end.value

    def _remember(self, operation: Any, statement: Statement) -> None:
        for each in statement.params if statement.verb is Verb.TOGETHER else [statement]:
            if each.sql:
                self.statements.setdefault(each.sql, each)
        while operation.gi_yieldfrom is not None:
            operation = operation.gi_yieldfrom
        self.places.add((operation.gi_code.co_filename, operation.gi_frame.f_lineno))


def yields() -> Iterator[tuple[str, int, int, str]]:
    """Every place in the rooms where an operation yields a statement: file, first line, last line, name."""
    for path in sorted(SOURCE.rglob("*.py")):
        if {"engine", "testing"} & set(path.relative_to(SOURCE).parts):
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in _own_nodes(function):
                    if isinstance(node, ast.Yield) and _is_statement(node.value):
                        yield str(path), node.lineno, node.end_lineno or node.lineno, function.name


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _own_nodes(child)  # type: ignore[arg-type]


def _is_statement(node: ast.expr | None) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    return isinstance(called, ast.Attribute) or (isinstance(called, ast.Name) and called.id in VOCABULARY)


def is_portable(statement: Statement) -> bool:
    """Whether it is to run on every engine: full text is per engine."""
    return statement.verb in (Verb.ONE, Verb.ALL, Verb.TUPLES, Verb.EXECUTE, Verb.MANY)
