"""Running a command: its coroutine in, the exit status out. Errors become a line on stderr."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from io import TextIOWrapper
from typing import Any, NoReturn, TypeVar

import typer

from ..errors import StoreError
from .opening import NotThere, Refused
from .safe import printable

REFUSED = 1
INTERRUPTED = 130
READER_GONE = 141
"""as of a program that SIGPIPE ended"""

T = TypeVar("T")


def run(command: Coroutine[Any, Any, T]) -> T:
    """Runs the command, or a part of it, to its end; if that fails, leaves with the status that says how."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without a character is no reason to stop
    try:
        return asyncio.run(command)
    except BrokenPipeError:
        _leave_quietly()
    except (StoreError, NotThere, Refused, OSError) as error:
        typer.echo(f"recollect: {printable(str(error))}", err=True)
        raise typer.Exit(REFUSED) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _leave_quietly() -> NoReturn:
    # What Python still holds for stdout goes nowhere, instead of failing when the process ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(READER_GONE) from None
