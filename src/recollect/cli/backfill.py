"""`recollect backfill`: what happened before, out of the files that tell of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .load import bring
from .options import Db, Json
from .run import run


def backfill(
    issues: Annotated[
        Path | None, typer.Option("--issues", metavar="DIR", exists=True, help="Issue files (*.md): .issues")
    ] = None,
    loops: Annotated[Path | None, typer.Option("--loops", metavar="DIR", exists=True, help="Runs: .loops")] = None,
    transcripts: Annotated[
        list[Path] | None,
        typer.Option(
            "--transcripts",
            metavar="PATH",
            exists=True,
            help="Transcripts of Claude Code, for what tools did: ~/.claude/projects; may be repeated.",
        ),
    ] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Record as events what happened before: to issues, in loops, by tools; makes the database if there is none.

    Repeat it as files change: what is there already is left alone. Records that cannot be understood are listed
    with their places, and do not change the exit status. What was said in transcripts comes with
    `recollect import claude-code`.
    """
    if issues is None and loops is None and not transcripts:
        raise typer.BadParameter("name something to read: --issues, --loops or --transcripts")
    none = "none of the files there is an issue (*.md), a loop's (.running, .history) or a transcript (*.jsonl)"
    run(
        bring(
            lambda store, show: store.backfill(
                issues_dir=issues, loops_dir=loops, transcripts=transcripts, progress=show
            ),
            db, json, none=none,
        )
    )  # fmt: skip
