"""`recollect import`: transcripts of other tools into the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Db, Json

app = typer.Typer(name="import", no_args_is_help=True, help="Bring in what other tools wrote.")


@app.command("claude-code")
def claude_code(
    path: Annotated[Path, typer.Argument(exists=True, help="A transcript, or a folder of them as ~/.claude/projects.")],
    db: Db = None,
    json: Json = False,
) -> None:
    """Import transcripts of Claude Code.

    Whatever is there already is left alone, so that it can be repeated as transcripts grow.
    """
