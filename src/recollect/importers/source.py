"""What an importer tells: how far it is, what it brought, what it had to leave out and where."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from ..reports import REMEMBERED, Imported, Rejection
from .chunk import Chunk, Landed


class Progress(NamedTuple):
    """How far a run is; the files that did not change count as done."""

    file: str
    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int


class SourceFile(NamedTuple):
    """A file as it was found."""

    path: str
    stat: os.stat_result


class Tally:
    """Counts while a run goes on, and reports its progress."""

    def __init__(self, files: list[SourceFile], report: Callable[[Progress], object] | None) -> None:
        self.unchanged = 0
        self.inserted: Counter[str] = Counter()
        self.amended: Counter[str] = Counter()
        self.duplicate: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self._rejections: list[Rejection] = []
        self._sessions: set[str] = set()
        self._report = report
        self._files = len(files)
        self._files_done = 0
        self._bytes = sum(file.stat.st_size for file in files)
        self._bytes_done = 0

    def take(self, file: SourceFile, chunk: Chunk, landed: Landed) -> None:
        """Counts what a chunk held, and what became of it."""
        for session_id, is_new in landed.sessions.items():
            if session_id not in self._sessions:
                self._sessions.add(session_id)
                (self.inserted if is_new else self.duplicate)["sessions"] += 1
        self.inserted.update(landed.inserted)
        self.amended.update(landed.amended)
        self.duplicate.update(landed.duplicate)
        self.skipped.update(chunk.skipped)
        for kind, line, reason in (*chunk.rejected, *landed.rejected):
            self.reject(kind, file.path, line, reason)

    def reject(self, kind: str, file: str, line: int | None, reason: str) -> None:
        """Counts something that cannot be imported; its place is kept as long as there is room."""
        self.rejected[kind] += 1
        if len(self._rejections) < REMEMBERED:
            self._rejections.append(Rejection(kind, file, line, reason))

    def reached(self, file: SourceFile, position: int) -> None:
        """So much of the file is done."""
        if self._report:
            done = self._bytes_done + min(position, file.stat.st_size)
            self._report(Progress(file.path, done, self._bytes, self._files_done, self._files))

    def finish(self, file: SourceFile) -> None:
        """All of the file is done, as far as it can be."""
        self._files_done += 1
        self._bytes_done += file.stat.st_size
        self.reached(file, 0)

    def result(self) -> Imported:
        """What was counted; kinds that came to 0 are left out."""
        return Imported(
            files=self._files,
            unchanged=self.unchanged,
            inserted=+self.inserted,
            amended=+self.amended,
            duplicate=+self.duplicate,
            rejected=+self.rejected,
            skipped=+self.skipped,
            rejections=tuple(self._rejections),
        )


def open_file(path: str) -> BinaryIO:
    """The file, to be read. Raises OSError, also for a pipe or a device: they have no end, and may let one wait."""
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 -- whoever asked closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "Not a file", path)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def find_files(path: str, suffix: str) -> tuple[list[SourceFile], list[Rejection]]:
    """The file, or every file below the folder with that suffix, by path; and what cannot be read, nor be named in
    a database.

    Links to folders are followed, each folder is entered once. Raises FileNotFoundError.
    """
    path = os.path.abspath(os.path.expanduser(path))
    found: list[SourceFile] = []
    unreadable: list[Rejection] = []
    if not os.path.isdir(path):
        found.append(SourceFile(path, os.stat(path)))
    for folder in _folders(path, unreadable) if not found else ():
        for entry in folder:
            if entry.name.endswith(suffix) and os.path.isfile(entry.path):
                with suppress(OSError):  # gone since
                    found.append(SourceFile(entry.path, os.stat(entry.path)))
    named = [file for file in found if as_text(file.path) == file.path]
    if len(named) < len(found):
        others = sorted({file.path for file in found} - {file.path for file in named})
        unreadable += [Rejection("files", as_text(each), None, "its name is not UTF-8") for each in others]
    return sorted(named), unreadable


def as_text(path: str) -> str:
    """The path, as far as it is UTF-8: what is not becomes U+FFFD."""
    return os.fsencode(path).decode(errors="replace")


def _folders(top: str, unreadable: list[Rejection]) -> Iterator[list[os.DirEntry[str]]]:
    """The entries of each folder below `top`, itself included."""
    waiting = [top]
    entered: set[tuple[int, int]] = set()
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                listed = list(entries)
        except OSError as error:
            unreadable.append(Rejection("files", as_text(folder), None, str(error)))
            continue
        waiting += [entry.path for entry in listed if os.path.isdir(entry.path)]
        yield listed
