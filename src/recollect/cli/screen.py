"""Where a command writes: a terminal gets tables and colours, a pipe plain lines, a program JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .safe import one_line, printable_json


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError  # `run` knows how to leave


def console(*, stderr: bool = False) -> Console:
    """A console that takes stored text as it is: no markup, no emoji codes, no guessed colours."""
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def json_line(value: Any) -> bytes:
    """One value as a line of JSON; UTF-8 whatever the locale says."""
    return (printable_json(msgspec.json.encode(value).decode()) + "\n").encode()


def write_json(value: Any) -> None:
    """A line of JSON on stdout, at once, for whoever reads along."""
    sys.stdout.buffer.write(json_line(value))
    sys.stdout.buffer.flush()


def write_text(out: Console, text: str) -> None:
    """Printable text and a line end, as they are: the console would turn tabs into spaces."""
    out.file.write(text + "\n")
    out.file.flush()


def write_fields(out: Console, *fields: object) -> None:
    """One line for a pipe: fields separated by tabs."""
    line = "\t".join(one_line("" if field is None else str(field)) for field in fields)
    write_text(out, line)


def facts_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and what they stand for, in two columns."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def counted(n: int, noun: str) -> str:
    """So many of them."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def local(at: datetime) -> str:
    """A time as people read it, to the minute, in their time zone; at the ends of time in UTC."""
    with suppress(OverflowError):
        at = at.astimezone()
    return f"{at:%Y-%m-%d %H:%M}"


def utc(at: datetime) -> str:
    """A time as programs read it."""
    return at.isoformat().replace("+00:00", "Z")
