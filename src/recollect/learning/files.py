"""The files of learning sessions: `<directory>/<id>/session.json`. Everything here blocks: it runs in a thread.

An id becomes the name of a folder only if it is one plain name, and folders are entered without following
links, so that nothing is written or read outside of the directory. A file is replaced as a whole: whoever
reads it sees the old one or the new one, also after power was lost. A crash may leave a new one beside it that never
took its place, `.session.json.<16 digits>`: the next save of that session removes it, once it is a minute old.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from ..errors import InvalidRecord, StoreFull
from .given import Given
from .models import RecordedOutcome

SESSION = "session.json"
PLAN = "plan.json"
LOCK = ".recollect.lock"

STALE_S = 60
"""age at which a file that never took its place was left by a crash"""

_LONGEST_NAME = 255
"""bytes that file systems allow"""
_FORBIDDEN = frozenset("/\\\x00")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
_IS_A_LINK = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_MAY_NOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)


class Unreadable(Exception):
    """A file that cannot be taken for what it should be; says why."""


def folder_name(session_id: str) -> str:
    """The id, if it may be the name of a folder. Raises InvalidRecord."""
    is_plain = session_id and not session_id.startswith(".") and not _FORBIDDEN & set(session_id)
    if is_plain and len(session_id.encode()) <= _LONGEST_NAME:
        return session_id
    raise InvalidRecord(f"id {session_id!r} cannot be the name of a folder; not stored: choose a plain one")


def directory_of(directory: str | os.PathLike[str]) -> str:
    """A directory as given; `~` is the home. Raises InvalidRecord."""
    if not isinstance(directory, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"directory must be a path, not {type(directory).__name__}; not stored")
    path = os.fspath(directory)
    if not isinstance(path, str) or not path or "\x00" in path:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"directory {path!r} is no path; not stored")
    return path


def encoded(given: Given) -> bytes:
    """The content of a session's file: its fields, and in its outcomes what is known of their edits."""
    fields = {name: _plain(value) for name, value in structs.asdict(given.session).items()}
    fields["edit_outcomes"] = [_as_json(outcome) for outcome in given.outcomes]
    return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"


def _as_json(outcome: RecordedOutcome) -> dict[str, Any]:
    fields = {name: _plain(value) for name, value in structs.asdict(outcome).items()}
    del fields["session_id"]
    return fields


def _plain(value: Any) -> Any:
    # Times are not left to the encoder, which takes the seconds from an offset that has some.
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value


# -- writing ---------------------------------------------------------------------------------------


def write(directory: str, session_id: str, content: bytes) -> str:
    """Puts the file of a session in its place and returns its path; it survives power loss. The lock is held.

    A folder that is not there is made with mode 0700, the file with 0600. Raises InvalidRecord for a
    folder that is a link, StoreFull, OSError.
    """
    directory = _absolute(directory)
    with _told(directory, session_id), _opened(directory, _FOLDER) as top:
        with suppress(FileExistsError):
            os.mkdir(session_id, 0o700, dir_fd=top)
            os.fsync(top)
        with _inside(top, session_id) as folder:
            _remove_stale(folder, SESSION)
            _replace(folder, SESSION, content)
    return os.path.join(directory, session_id, SESSION)


def open_lock(directory: str, *, is_made: bool) -> int | None:
    """The file whose lock is that of the directory, opened; made if it is not there, with mode 0600.

    is_made: the directory is made as well, with mode 0700. Else a file that cannot be made is None, when the
    directory may only be read: nobody has the lock. Raises InvalidRecord for a link, StoreFull, OSError.
    """
    directory = _absolute(directory)
    with _told(directory, LOCK):
        if is_made:
            _make(directory)
        with _opened(directory, _FOLDER) as top:
            try:
                return _open_lock(top, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                if is_made or error.errno not in _MAY_NOT_WRITE:
                    raise
            with suppress(FileNotFoundError):
                return _open_lock(top, os.O_RDONLY)
    return None


def _open_lock(top: int, flags: int) -> int:
    try:
        return os.open(LOCK, flags | os.O_NONBLOCK | _NO_LINK, 0o600, dir_fd=top)
    except OSError as error:
        if error.errno in _IS_A_LINK:
            raise Unreadable("is a link, which is not followed") from None
        raise


def _absolute(directory: str) -> str:
    return os.path.abspath(os.path.expanduser(directory))


@contextmanager
def _told(directory: str, name: str) -> Generator[None]:
    """Turns what is wrong with a name in the directory into errors of a store."""
    try:
        yield
    except Unreadable as error:
        raise InvalidRecord(f"{os.path.join(directory, name)} {error}; not stored") from None
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFull(f"no room for the files of {directory}; not stored") from error
        raise


def _make(directory: str) -> None:
    lacking: list[str] = []
    while not os.path.isdir(directory) and directory not in lacking:
        lacking.append(directory)
        directory = os.path.dirname(directory)
    for path in reversed(lacking):
        with suppress(FileExistsError):  # made meanwhile; if it is no folder, opening it tells
            os.mkdir(path, 0o700)
            with _opened(os.path.dirname(path), _FOLDER) as above:
                os.fsync(above)


def _remove_stale(folder: int, name: str) -> None:
    left = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}")
    for each in filter(left.fullmatch, os.listdir(folder)):
        with suppress(OSError):
            if time.time() - os.stat(each, dir_fd=folder, follow_symlinks=False).st_mtime > STALE_S:
                os.unlink(each, dir_fd=folder)


def _replace(folder: int, name: str, content: bytes) -> None:
    new = f".{name}.{secrets.token_hex(8)}"
    try:
        with _opened(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, folder) as file:
            left = memoryview(content)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        os.replace(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise
    os.fsync(folder)


# -- reading ---------------------------------------------------------------------------------------


def names_in(directory: str) -> list[str]:
    """The names of the folders in a directory, and of links, in order; hidden ones are left out.
    Raises FileNotFoundError, NotADirectoryError."""
    with os.scandir(os.path.expanduser(directory)) as entries:
        found = [each.name for each in entries if each.is_symlink() or each.is_dir(follow_symlinks=False)]
    return sorted(name for name in found if not name.startswith("."))


def read(directory: str, name: str, file: str, most: int) -> bytes | None:
    """A file in a folder of the directory, of at most so many bytes; None if there is none.
    Raises Unreadable."""
    try:
        with _opened(os.path.expanduser(directory), _FOLDER) as top, _inside(top, name) as folder:
            return _read(folder, file, most)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error


def _read(folder: int, file: str, most: int) -> bytes:
    try:
        # Without waiting: what is there may be a pipe, and nobody at its other end.
        with _opened(file, os.O_RDONLY | os.O_NONBLOCK | _NO_LINK, folder) as opened:
            found = os.fstat(opened)
            if not stat.S_ISREG(found.st_mode):
                raise Unreadable("is not a file")
            if found.st_size > most:
                raise Unreadable(f"has {found.st_size} bytes, {most} are allowed")
            return _read_all(opened, most)
    except OSError as error:
        if error.errno in _IS_A_LINK:
            raise Unreadable("is a link, which is not followed") from None
        raise


def _read_all(opened: int, most: int) -> bytes:
    content = bytearray()
    while block := os.read(opened, 1024 * 1024):
        content += block
        if len(content) > most:
            raise Unreadable(f"has more than {most} bytes, and is being written to")
    return bytes(content)


@contextmanager
def _opened(path: str, flags: int, folder: int | None = None) -> Generator[int]:
    descriptor = os.open(path, flags, 0o600, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _inside(top: int, name: str) -> Generator[int]:
    try:
        descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=top)
    except OSError as error:
        if error.errno in _IS_A_LINK:
            raise Unreadable("is no folder, or a link, which is not followed") from None
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)
