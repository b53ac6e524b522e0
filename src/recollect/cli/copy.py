"""`recollect copy`: a whole store into another place, of either kind."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..reports import Copied
from ..store import AsyncSessionStore
from .bar import bar_of_things
from .opening import NotThere, target
from .options import Json
from .run import run
from .safe import one_line
from .screen import console, write_fields, write_json

COUNTS = ("rows", "new", "changed", "removed")


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store: a file, or postgresql://…")],
    destination: Annotated[
        str,
        typer.Argument(metavar="DST", help="Where to: the same. It must be empty, or a copy of SRC not yet in use."),
    ],
    json: Json = False,
) -> None:
    """Copy a store to another place, between SQLite files and PostgreSQL; makes the database if there is none.

    SRC is only read. Everything is copied as it is, with its numbers, then compared row by row; the search index
    is made anew. Interrupted, it goes on where it was when it is run again; run again later, it brings what is new
    since, as long as DST is not in use. If SRC is written to meanwhile it says so: then stop whoever writes, and
    run it once more.
    """
    run(_copy(source, destination, json))


async def _copy(source: str, destination: str, json: bool) -> None:
    from ..copying import CopyProgress, copy_store  # no other command needs it

    there = AsyncSessionStore(_existing(source), readonly=True)
    async with there as read, AsyncSessionStore(target(destination)) as written:
        with bar_of_things(shown=not json) as bar:
            doing = bar.add_task("copying", total=None)

            def show(progress: CopyProgress) -> None:
                verb = "comparing" if progress.comparing else "copying"
                bar.update(doing, description=f"{verb} {progress.table}", completed=progress.done, total=progress.total)

            copied = await copy_store(read, written, progress=show)
            bar.update(doing, description="indexing", total=None)
            await written.flush(index=True)
    _tell(copied, json)


def _existing(source: str) -> str:
    name = target(source)
    if "://" in name or os.path.exists(name):
        return name
    raise NotThere(f"there is no database at {name}")


def _tell(copied: Copied, json: bool) -> None:
    out = console()
    if json:
        write_json(copied)
    elif out.is_terminal:
        _show(out, copied)
    else:
        for table in copied.tables:
            write_fields(out, table.table, *[getattr(table, name) for name in COUNTS], table.checksum)


def _show(out: Console, copied: Copied) -> None:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for name in COUNTS:
        table.add_column(name, justify="right")
    for each in copied.tables:
        if any(counts := [getattr(each, name) for name in COUNTS]):
            table.add_row(each.table, *[f"{n:,}" if n else "-" for n in counts])
    out.print(table)
    out.print(f"the same in {one_line(copied.target)}, row by row", style="dim", soft_wrap=True)
