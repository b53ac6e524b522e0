"""`recollect import`: what others wrote, or `recollect export` did, into the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from ..importers.source import Progress
from ..reports import Imported
from ..store import AsyncSessionStore
from .bar import bar_of_bytes
from .imported import tell
from .opening import NotThere, target
from .options import Db, Json
from .records import STDIN, opened
from .run import run

app = typer.Typer(
    name="import", no_args_is_help=True, help="Bring in what other tools wrote, or `recollect export` did."
)

Load = Callable[[AsyncSessionStore, Callable[[Progress], object]], Awaitable[Imported]]
"""an importer, given where to import from"""


@app.command("claude-code")
def import_claude_code(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", exists=True, help="A transcript, or a folder of them: ~/.claude/projects")
    ],
    db: Db = None,
    json: Json = False,
) -> None:
    """Import transcripts of Claude Code; makes the database if there is none.

    What is there already is left alone: repeat it as transcripts grow, or after an interruption.
    Records that cannot be imported are listed with their places, and do not change the exit status.
    """
    from ..importers import claude_code  # it takes a while to load, and no other command needs it

    none = f"no transcripts (*.jsonl) in {path}"
    run(bring(lambda store, show: claude_code.load(store, path, progress=show), db, json, none=none))


@app.command("hermes")
def import_hermes(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, help="The gateway's state.db, or the folder it is in.")
    ],
    db: Db = None,
    json: Json = False,
) -> None:
    """Import the sessions of a Hermes gateway; makes the database if there is none.

    The gateway may be running: its file is read and never changed. Repeated, it brings what is new.
    What cannot be imported is listed with its place (the number of the row), and does not change the
    exit status.
    """
    from ..importers import hermes

    run(bring(lambda store, show: hermes.load(store, path, progress=show), db, json))


@app.command("power-loop")
def import_power_loop(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The SQLite file of its session store.")
    ],
    db: Db = None,
    json: Json = False,
) -> None:
    """Import the sessions of a power-loop store; makes the database if there is none.

    The file is read and never changed. Repeated, it brings what is new. What cannot be imported is
    listed with its place (the number of the row), and does not change the exit status.
    """
    from ..importers import power_loop

    run(bring(lambda store, show: power_loop.load(store, path, progress=show), db, json))


@app.command("openjarvis")
def import_openjarvis(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The SQLite file of learning sessions.")
    ],
    db: Db = None,
    json: Json = False,
) -> None:
    """Import the learning sessions of OpenJarvis; makes the database if there is none.

    The file is read and never changed. Repeated, it brings what is new. What cannot be imported is
    listed with its place (the number of the row), and does not change the exit status. What only the
    files of the sessions tell comes with `recollect learning rebuild`.
    """
    from ..importers import openjarvis

    run(bring(lambda store, show: openjarvis.load(store, path, progress=show), db, json))


@app.command("little-loops")
def import_little_loops(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Its index: .ll/session.db")
    ],
    db: Db = None,
    json: Json = False,
) -> None:
    """Import the events of a little-loops index; makes the database if there is none.

    The file is read and never changed. Repeated, it brings what is new. What cannot be imported is
    listed with its place (the number of the row), and does not change the exit status. Issues and loops
    tell more than their index does: see `recollect backfill`.
    """
    from ..importers import little_loops

    run(bring(lambda store, show: little_loops.load(store, path, progress=show), db, json))


def _readable(path: str) -> str:
    if path != STDIN and not Path(path).exists():
        raise typer.BadParameter(f"file {path!r} does not exist")
    if Path(path).is_dir():
        raise typer.BadParameter(f"{path!r} is a folder")
    return path


@app.command("jsonl")
def import_jsonl(
    path: Annotated[
        str, typer.Argument(metavar="FILE", callback=_readable, help="What was exported; - is standard input.")
    ],
    db: Db = None,
    json: Json = False,
) -> None:
    """Import sessions from JSON Lines, as `recollect export` writes them; makes the database if there is none.

    Sessions that are there already are left alone. A line that cannot be imported is listed with its
    number, does not stop the rest, and does not change the exit status.
    """
    run(bring(lambda store, show: _load_records(store, path, show), db, json))


async def _load_records(store: AsyncSessionStore, path: str, show: Callable[[Progress], object]) -> Imported:
    with opened(path) as records:

        def reached(done: int) -> None:
            show(Progress(records.name, records.position, records.size, 0, 1))

        return records.placed(await store.sessions.import_(records, progress=reached))


async def bring(load: Load, db: str | None, json: bool, *, none: str = "nothing to import") -> None:
    """Runs an importer on the store, which is made if there is none, and says what came of it. Raises NotThere
    where there was no file."""
    async with AsyncSessionStore(target(db)) as store:
        with bar_of_bytes(shown=not json) as bar:
            reading = bar.add_task("reading", total=None)

            def show(progress: Progress) -> None:
                bar.update(reading, completed=progress.bytes_done, total=progress.bytes_total or None)

            result = await load(store, show)
            bar.update(reading, description="indexing")
            await store.flush(index=True)
    tell(result, json=json)
    if not result.files:
        raise NotThere(none)
