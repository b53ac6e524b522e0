"""What an import brought on the screen: a table for people, lines for pipes, an object for programs."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..reports import Imported, Rejection
from .safe import one_line
from .screen import console, counted, write_fields, write_json

PLACES = 20
"""rejections listed in a terminal"""

COUNTS = {"inserted": "new", "amended": "grown", "duplicate": "there already", "rejected": "rejected"}
"""what is counted per kind, and how a person is told"""


def tell(result: Imported, *, json: bool) -> None:
    """Says what became of everything that was read."""
    out = console()
    if json:
        write_json(result)
    elif out.is_terminal:
        _show(out, result)
    else:
        _write(out, result)


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
