"""`recollect rename`: a session's title."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from .opening import session_named, writing
from .options import Db, Json, Named
from .run import run
from .safe import one_line
from .screen import console, write_fields, write_json


def rename(
    session: Named,
    title: Annotated[str, typer.Argument(metavar="TITLE", help="What it is to be called; '' takes its title away.")],
    db: Db = None,
    json: Json = False,
) -> None:
    """Give a session a title, which no other may have.

    What cannot be seen is taken out of it. In a pipe, a line: id and title as it is now.
    """
    run(_rename(session, title, db, json))


async def _rename(name: str, title: str, db: str | None, json: bool) -> None:
    async with writing(db) as store:
        id = await session_named(store, name)
        now = await store.sessions.set_title(id, title)
    out = console()
    if json:
        write_json({"id": id, "title": now})
    elif out.is_terminal:
        called = Text.assemble("is called ", (one_line(now), "bold")) if now else Text("has no title")
        out.print(Text.assemble((one_line(id), "cyan"), " now ", called), soft_wrap=True)
    else:
        write_fields(out, id, now)
