"""`recollect export`: whole sessions out, as JSON Lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..store import AsyncSessionStore
from .bar import bar_of_things
from .newfile import new_file
from .opening import NotThere, Refused, reading, session_named, target
from .options import Db, Json, Source, User
from .run import run
from .safe import one_line
from .screen import console, counted, json_line, write_fields, write_json

STDOUT = Path("-")


def export(
    session: Annotated[
        str | None,
        typer.Argument(metavar="[SESSION]", help="Its id, the beginning of just one, or its title."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every session.")] = False,
    source: Source = None,
    user: User = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead of to stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Write sessions with everything that belongs to them, each as a line of JSON.

    `recollect import jsonl` takes them back. Each session is of one moment. A file appears when it is
    complete, readable for you alone; then what is printed is its name and how many sessions are in it.
    """
    if (session is None) != bool(everything or source or user):
        raise typer.BadParameter("name one session, or say --all, or which ones with --source or --user")
    filters = {"source": source, "user_id": user}
    run(_export(session, filters, None if output == STDOUT else output, force, db, json))


async def _export(
    session: str | None, filters: dict[str, Any], output: Path | None, force: bool, db: str | None, json: bool
) -> None:
    async with reading(db) as store:
        id = None if session is None else await session_named(store, session)
        records = store.sessions.export_all(**filters) if id is None else _one(store, id)
        if output is None:
            async for record in records:
                write_json(record)
        else:
            _spare_database(output, db)
            total = await store.sessions.count(**filters) if id is None else 1
            _tell(output, await _write(records, output, force, total, shown=not json), json)


async def _one(store: AsyncSessionStore, session_id: str) -> AsyncIterator[dict[str, Any]]:
    record = await store.sessions.export(session_id)
    if record is None:
        raise NotThere(f"session {session_id!r} was deleted just now")
    yield record


def _spare_database(output: Path, db: str | None) -> None:
    place = output.expanduser().resolve()
    if place in [Path(target(db) + end).resolve() for end in ("", "-wal", "-shm", "-journal", ".lock")]:
        raise Refused(f"{place} is the database itself")


async def _write(records: AsyncIterator[dict[str, Any]], output: Path, force: bool, total: int, *, shown: bool) -> int:
    written = 0
    with new_file(output, force=force) as file, bar_of_things(shown=shown) as bar:
        writing = bar.add_task("writing", total=total)
        async for record in records:
            file.write(json_line(record))
            written += 1
            bar.update(writing, completed=written)
    return written


def _tell(output: Path, written: int, json: bool) -> None:
    out = console()
    if json:
        write_json({"file": str(output), "sessions": written})
    elif out.is_terminal:
        out.print(f"{counted(written, 'session')} in {one_line(str(output))}", soft_wrap=True)
    else:
        write_fields(out, output, written)
