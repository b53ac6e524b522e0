"""How far a command is: a bar on stderr while it works, where somebody watches."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from .screen import console


@contextmanager
def bar_of_bytes(*, shown: bool = True) -> Generator[Bar]:
    """A bar for what is read."""
    with _bar(DownloadColumn(), shown=shown) as bar:
        yield bar


@contextmanager
def bar_of_things(*, shown: bool = True) -> Generator[Bar]:
    """A bar for what can be counted."""
    with _bar(MofNCompleteColumn(), shown=shown) as bar:
        yield bar


def _bar(amount: ProgressColumn, *, shown: bool) -> Bar:
    told = console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn()
    return Bar(*columns, console=told, disable=not (shown and told.is_terminal), transient=True)
