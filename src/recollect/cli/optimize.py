"""`recollect optimize`: the search index merged, the log emptied."""

from __future__ import annotations

from typing import Annotated

import typer

from .opening import writing
from .options import Db, Json
from .run import run
from .screen import console, write_fields, write_json


def optimize(
    budget: Annotated[
        float, typer.Option("--budget", min=0, metavar="SECONDS", help="Stop after about so many seconds.")
    ] = 60.0,
    db: Db = None,
    json: Json = False,
) -> None:
    """Merge the search index, bring statistics up to date, empty the write-ahead log.

    Others may go on meanwhile. In a pipe, a line: whether all was done, or it is to be run again.
    """
    done = run(_optimize(budget, db))
    out = console()
    if json:
        write_json({"done": done})
    elif out.is_terminal:
        out.print("done" if done else "the time was up: run it again to go on", style="dim")
    else:
        write_fields(out, "done" if done else "more")


async def _optimize(budget: float, db: str | None) -> bool:
    async with writing(db) as store:
        await store.flush(index=True)
        return await store.optimize(budget)
