"""`recollect backup`: a copy of the database in a file, while it is in use."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from .bar import bar_of_bytes
from .opening import Refused, reading, target
from .options import Db, Json
from .run import run
from .safe import one_line
from .screen import console, write_fields, write_json

Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]


def backup(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The file to write, for its owner alone to read.")],
    force: Force = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Copy the database into a file, while others go on writing to it.

    The copy is of one moment, verified before it takes its name, and a store by itself: any command reads it with
    --db, and `recollect restore` puts it back. PostgreSQL is backed up by its own tools.
    """
    run(_backup(os.path.expanduser(path), force, db, json))


async def _backup(place: str, force: bool, db: str | None, json: bool) -> None:
    _look(place, force)
    async with reading(db) as store:
        with bar_of_bytes(shown=not json) as bar:
            doing = bar.add_task("backing up", total=None)
            await store.backup(place, progress=lambda done, total: bar.update(doing, completed=done, total=total))
    tell_copied(target(db), place, "backed up", json=json)


def _look(place: str, force: bool) -> None:
    if os.path.lexists(place) and not force:
        raise Refused(f"{place} is there already; --force writes over it")


def tell_copied(source: str, place: str, done: str, *, json: bool) -> None:
    """What was copied where, and how large it is."""
    size = os.stat(place).st_size
    out = console()
    if json:
        write_json({"source": source, "target": place, "bytes": size})
    elif out.is_terminal:
        out.print(f"{done}: {size:,} bytes, verified, in {one_line(place)}", soft_wrap=True)
    else:
        write_fields(out, place, size)
