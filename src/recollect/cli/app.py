"""The application: which commands there are, and what `recollect` alone does."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import (
    backfill,
    backup,
    check,
    copy,
    delete,
    erase,
    events,
    export,
    learning,
    load,
    optimize,
    prune,
    rename,
    restore,
    resume,
    search,
    sessions,
    show,
    stats,
    tail,
)

app = typer.Typer(
    name="recollect",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # in which the lines of a paragraph are one
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0, done (also a search that finds nothing); 1, the store refused, you did, or there is no "
    "such database or session; 2, wrong usage; 130, interrupted; 141, whoever read the output went away.",
)
app.add_typer(load.app)
app.command("backfill")(backfill.backfill)
app.add_typer(learning.app)
app.command("search")(search.search)
app.command("sessions")(sessions.sessions)
app.command("events")(events.events)
app.command("recent")(events.recent)
app.command("tail")(tail.tail)
app.command("show")(show.show)
app.command("resume")(resume.resume)
app.command("rename")(rename.rename)
app.command("delete")(delete.delete)
app.command("prune")(prune.prune)
app.command("export")(export.export)
app.command("copy")(copy.copy)
app.command("backup")(backup.backup)
app.command("restore")(restore.restore)
app.command("stats")(stats.stats)
app.command("check")(check.check)
app.command("repair")(check.repair)
app.command("optimize")(optimize.optimize)
app.command("erase")(erase.erase)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"recollect {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Remembers what agents and their people said and did, and finds it again.

    A terminal gets tables and colours, a pipe lines with fields separated by tabs, and a program
    that asks with --json a line of JSON for each of many, or one object. Times in pipes and JSON
    are ISO 8601 in UTC.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)
