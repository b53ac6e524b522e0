"""A file put in place whole: written beside its place, flushed, moved there. All of it blocks: it runs in a thread.

The engine leaves this to a module that is told of new files and of the places they are for, and of no database that
this process has open.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress

from .errors import InvalidRecord, ReadOnly, StoreFull

COMPANIONS = ("-wal", "-shm", "-journal")
"""what SQLite keeps beside a database, by the ends of the names"""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def place_of(path: str) -> str:
    """The file that a path leads to, links followed. Raises InvalidRecord where there cannot be one."""
    try:
        place = os.path.realpath(os.path.expanduser(path))
    except ValueError as error:
        raise InvalidRecord(f"{path!r} is no path: {error}") from None
    try:
        found = os.stat(place)
    except FileNotFoundError:
        if os.path.isdir(os.path.dirname(place)):
            return place
        raise InvalidRecord(f"there is no folder for {path}; nothing was written") from None
    except OSError as error:
        raise refusal(error, path) from error
    if not stat.S_ISREG(found.st_mode):
        raise InvalidRecord(f"{path} is not a file; nothing was written")
    return place


def is_one_of(place: str, others: list[str]) -> bool:
    """Whether it is one of these files, by name or by a link."""
    return place in others or any(_is_same(place, other) for other in others)


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


@contextmanager
def beside(place: str) -> Generator[str]:
    """A new file beside the place, readable for its owner alone. What is left of it in the end is removed."""
    name = os.path.join(os.path.dirname(place), f".recollect-{secrets.token_hex(8)}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with _told(place):
        os.close(os.open(name, flags, 0o600))
    try:
        yield name
    finally:
        for each in (name, *[name + end for end in COMPANIONS]):
            with suppress(OSError):
                os.unlink(each)


def flush(path: str, place: str) -> None:
    """Returns when the file is on the disk; `place` is what an error names."""
    with _told(place):
        _flush(path, os.O_RDWR)


def flush_folder(place: str) -> None:
    """The same of the names in the folder where the place is."""
    with _told(place):
        _flush(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY)


def _flush(path: str, flags: int) -> None:
    number = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def companions(place: str) -> list[str]:
    """What lies beside the place and would be taken for the new file's."""
    return [place + end for end in COMPANIONS if os.path.lexists(place + end)]


def sweep(place: str) -> None:
    """Removes it, and returns when that is on the disk."""
    with _told(place):
        for each in companions(place):
            os.unlink(each)
    flush_folder(place)


def move(new: str, place: str, *, replace: bool) -> None:
    """Gives the new file its name, and returns when that is on the disk. Raises InvalidRecord if there is a file of
    that name by now and it is not to be replaced."""
    with _told(place):
        if replace:
            os.replace(new, place)
        else:
            _link(new, place)
    flush_folder(place)


def _link(new: str, place: str) -> None:
    try:
        os.link(new, place)  # which never replaces anything
    except FileExistsError:
        raise there_already(place) from None
    except OSError:  # a file system without links
        if os.path.lexists(place):
            raise there_already(place) from None
        os.rename(new, place)


def there_already(place: str) -> InvalidRecord:
    """The error where nothing is to be replaced."""
    return InvalidRecord(f"{place} is there already, and was not to be replaced; nothing was changed")


@contextmanager
def _told(place: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise refusal(error, place) from error


def refusal(error: OSError, place: str) -> ReadOnly | StoreFull:
    """Why nothing can be written there."""
    kind = StoreFull if error.errno in _NO_ROOM else ReadOnly
    return kind(f"{place} cannot be written: {error.strerror}; nothing was changed")
