"""Sessions that are gone, or would be, on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from .safe import one_line
from .screen import console, counted, write_fields, write_json


def tell_gone(ids: Sequence[str], told: Mapping[str, Any], *, json: bool, dry_run: bool = False) -> None:
    """The ids: a line each, or in the object that programs are told."""
    out = console()
    if json:
        return write_json(told)
    for id in ids:
        if out.is_terminal:
            out.print(Text(one_line(id), "cyan"), soft_wrap=True)
        else:
            write_fields(out, id)
    if out.is_terminal:
        would = "would be deleted" if dry_run else "deleted; what was in them is erased from the file soon"
        out.print(f"{counted(len(ids), 'session')} {would}" if ids else "nothing to delete", style="dim")
    return None
