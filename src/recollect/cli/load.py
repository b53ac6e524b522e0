"""`recollect import`: transcripts of other tools into the store, and what became of them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from ..importers.source import Progress
from ..reports import Imported, Rejection
from ..store import AsyncSessionStore
from .opening import NotThere, target
from .options import Db, Json
from .run import run
from .safe import one_line
from .screen import console, counted, write_fields, write_json

app = typer.Typer(name="import", no_args_is_help=True, help="Bring in what other tools wrote.")

PLACES = 20
"""rejections listed in a terminal"""

COUNTS = {"inserted": "new", "amended": "grown", "duplicate": "there already", "rejected": "rejected"}
"""what is counted per kind, and how a person is told"""


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
    run(_import(path, db, json))


async def _import(path: Path, db: str | None, json: bool) -> None:
    from ..importers import claude_code  # it takes a while to load, and no other command needs it

    told = console(stderr=True)
    async with AsyncSessionStore(target(db)) as store:
        with _bar(told, shown=told.is_terminal and not json) as bar:
            reading = bar.add_task("reading", total=None)

            def show(progress: Progress) -> None:
                bar.update(reading, completed=progress.bytes_done, total=progress.bytes_total)

            result = await claude_code.load(store, path, progress=show)
            bar.update(reading, description="indexing")
            await store.flush(index=True)
    out = console()
    if json:
        write_json(result)
    elif out.is_terminal:
        _show(out, result)
    else:
        _write(out, result)
    if not result.files:
        raise NotThere(f"no transcripts (*.jsonl) in {path}")


@contextmanager
def _bar(told: Console, *, shown: bool) -> Generator[Bar]:
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Bar(*columns, console=told, disable=not shown, transient=True) as bar:
        yield bar


def _kinds(result: Imported) -> dict[str, list[int]]:
    """Per kind, as many as COUNTS has names."""
    counts = [getattr(result, name) for name in COUNTS]
    kinds = dict.fromkeys(kind for count in counts for kind in count)
    return {kind: [count[kind] for count in counts] for kind in kinds}


def _show(out: Console, result: Imported) -> None:
    if kinds := _kinds(result):
        _show_counts(out, kinds)
    unchanged = f", {result.unchanged:,} unchanged since the last import" if result.unchanged else ""
    out.print(f"{counted(result.files, 'file')}{unchanged}", style="dim")
    if result.skipped:
        listed = ", ".join(f"{n:,} {one_line(kind)}" for kind, n in result.skipped.most_common())
        out.print(f"nothing to keep in: {listed}", style="dim")
    if result.rejections:
        _show_rejections(out, result)


def _show_counts(out: Console, kinds: dict[str, list[int]]) -> None:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for name in COUNTS.values():
        table.add_column(name, justify="right")
    for kind, counts in kinds.items():
        table.add_row(Text(one_line(kind)), *[f"{n:,}" if n else Text("-", "dim") for n in counts])
    out.print(table)


def _show_rejections(out: Console, result: Imported) -> None:
    out.print("\nrejected", style="bold yellow")
    for rejection in result.rejections[:PLACES]:
        out.print(Text.assemble((_place(rejection), "cyan"), f"  {one_line(rejection.reason)}"), soft_wrap=True)
    if (more := result.rejected.total() - PLACES) > 0:
        out.print(f"and {more:,} more; --json lists up to 1,000", style="dim")


def _write(out: Console, result: Imported) -> None:
    """A line per kind: its name and the four counts; then one per rejection: `rejected`, place, reason."""
    for kind, counts in _kinds(result).items():
        write_fields(out, kind, *counts)
    for rejection in result.rejections:
        write_fields(out, "rejected", _place(rejection), rejection.reason)


def _place(rejection: Rejection) -> str:
    file = one_line(rejection.file)
    return file if rejection.line is None else f"{file}:{rejection.line}"
