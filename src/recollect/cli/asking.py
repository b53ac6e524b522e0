"""Asking before something is destroyed: on a terminal; elsewhere whoever calls has to say --yes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .run import INTERRUPTED, REFUSED
from .safe import one_line

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal to ask on.")]


def require_terminal() -> None:
    """Refuses to go on where nobody can be asked."""
    if not all(stream and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        raise typer.BadParameter("there is no terminal to ask on: say --yes if you mean it")


def ask(question: str) -> None:
    """Leaves, with nothing done, unless the answer is yes."""
    try:
        agreed = typer.confirm(one_line(question), err=True)
    except typer.Abort:
        typer.echo(err=True)
        raise typer.Exit(INTERRUPTED) from None
    if not agreed:
        typer.echo("nothing was done", err=True)
        raise typer.Exit(REFUSED)
