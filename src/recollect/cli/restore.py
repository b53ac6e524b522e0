"""`recollect restore`: a backup put in place of a database."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from .asking import Yes, ask, require_terminal
from .backup import tell_copied
from .bar import bar_of_bytes
from .opening import NotThere, target
from .options import Db, Json
from .run import run


def restore(
    backup: Annotated[str, typer.Argument(metavar="BACKUP", help="The backup: a store in a file.")],
    yes: Yes = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Put a backup in place of the database; everything that is in the database now is lost.

    The backup is verified first, and stays as it is. Nobody may have the database open. Interrupted at any moment,
    what is there is the old one or the new one, whole.
    """
    place, name = target(db), os.path.expanduser(backup)
    replace = os.path.lexists(place)
    if replace and not yes:
        require_terminal()
        ask(f"Replace {place}, with all that is in it, by {name}?")
    run(_restore(name, place, replace, json))


async def _restore(backup: str, place: str, replace: bool, json: bool) -> None:
    from ..restoring import restore_store  # no other command needs it

    _look(backup)
    with bar_of_bytes(shown=not json) as bar:
        doing = bar.add_task("restoring", total=None)

        def show(done: int, total: int) -> None:
            bar.update(doing, completed=done, total=total)

        await restore_store(backup, place, replace=replace, progress=show)
    tell_copied(backup, place, "restored", json=json)


def _look(backup: str) -> None:
    if not os.path.exists(backup):
        raise NotThere(f"there is no backup at {backup}")
