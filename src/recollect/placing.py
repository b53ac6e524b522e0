"""A file put in place whole: written beside its place, flushed, moved there. All of it blocks: it runs in a thread.

The engine leaves this to a module that is told of new files and of the places they are for, and of no database that
this process has open.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

from .errors import InvalidRecord, ReadOnly, StoreFull

COMPANIONS = ("-wal", "-shm", "-journal")
"""what SQLite keeps beside a database, by the ends of the names"""

PREFIX = ".recollect-backup-"

STALE_S = 6 * 3600
"""age at which a file that never took its place was left by a crash: it is written to until it is verified"""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def place_of(path: str) -> str:
    """The file that a path leads to, links followed. Raises InvalidRecord where there cannot be one, ReadOnly where it
    may not be written."""
    try:
        place = os.path.realpath(os.path.expanduser(path))
    except ValueError as error:
        raise InvalidRecord(f"{path!r} is no path: {error}") from None
    try:
        found = os.stat(place)
    except FileNotFoundError:
        return _new(place)
    except OSError as error:
        raise refusal(error, path) from error
    if not stat.S_ISREG(found.st_mode):
        raise InvalidRecord(f"{path} is not a file; nothing was written")
    _may_write(place, place)
    return _new(place)


def _new(place: str) -> str:
    folder = os.path.dirname(place)
    if not os.path.isdir(folder):
        raise InvalidRecord(f"there is no folder {folder}; nothing was written")
    _may_write(folder, place)
    return place


def _may_write(path: str, place: str) -> None:
    if not os.access(path, os.W_OK):
        raise ReadOnly(f"{place} cannot be written: there is no leave to write {path}; nothing was changed")


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
    folder = os.path.dirname(place)
    _remove_left(folder)
    name = os.path.join(folder, PREFIX + secrets.token_hex(8))
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with _told(place):
        os.close(os.open(name, flags, 0o600))
    try:
        yield name
    finally:
        for each in (name, *[name + end for end in COMPANIONS]):
            with suppress(OSError):
                os.unlink(each)


def _remove_left(folder: str) -> None:
    """Removes what a crash left: nobody has written to it for long."""
    with suppress(OSError), os.scandir(folder) as found:
        for each in found:
            if each.name.startswith(PREFIX) and each.stat(follow_symlinks=False).st_mtime < time.time() - STALE_S:
                os.unlink(each.path)


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
