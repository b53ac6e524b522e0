"""A file that a command writes: there when it is complete, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .opening import NotThere, Refused


@contextmanager
def new_file(path: Path, *, force: bool) -> Generator[BinaryIO]:
    """Writes beside it, then moves it there; readable for its owner alone. Another file in its place is
    an error unless `force`."""
    place = path.expanduser().resolve()
    _look(place, force)
    number, beside = tempfile.mkstemp(prefix=".recollect-", dir=place.parent)
    try:
        with open(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _move(Path(beside), place, force)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside)


def _look(place: Path, force: bool) -> None:
    if not place.parent.is_dir():
        raise NotThere(f"there is no folder {place.parent}")
    if not place.exists():
        return
    if not place.is_file():
        raise Refused(f"{place} is not a file")
    if not force:
        raise Refused(_there(place))


def _there(place: Path) -> str:
    return f"{place} is there already; --force writes over it"


def _move(beside: Path, place: Path, force: bool) -> None:
    if force:
        beside.replace(place)
        return
    try:
        place.hardlink_to(beside)  # which never replaces anything
    except FileExistsError:
        raise Refused(_there(place)) from None
    except OSError:  # a file system without links
        _look(place, force)
        beside.rename(place)
