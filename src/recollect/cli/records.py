"""Sessions from JSON Lines, out of a file or standard input, some at a time and in a worker thread.

A line that is no JSON is kept as a rejection; the rest is for `sessions.import_` to judge, which knows
a record by its place among them: here that becomes the number of its line.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager
from io import FileIO
from typing import Any, BinaryIO, cast

import msgspec
from anyio import to_thread

from ..importers.lines import Line, LineReader
from ..reports import REMEMBERED, Imported, Rejection
from .opening import NotThere

STDIN = "-"

LONGEST = 1024**3
"""bytes of a line that is read: a session with everything that belongs to it is one"""

CHUNK_BYTES = 1024 * 1024
"""of lines read in one hop"""


class Records:
    """The records of one file, in order; to be gone through once."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self.name = name
        self.size = size
        """bytes there are; 0 if that cannot be known"""
        self._file = file
        self._lines = LineReader(file, 0, 0, _is_whole, LONGEST)
        self._numbers = array("Q")
        self._rejected = 0
        self._rejections: list[tuple[int, str]] = []

    @property
    def position(self) -> int:
        """Bytes that were read."""
        return self._lines.position

    async def __aiter__(self) -> AsyncIterator[Mapping[str, Any]]:
        while not self._lines.ended:
            for record in await to_thread.run_sync(self._take, abandon_on_cancel=True):
                yield record

    def _take(self) -> list[Mapping[str, Any]]:
        records = [record for line in self._lines.take(CHUNK_BYTES) if (record := self._decoded(line)) is not None]
        too_long, self._lines.too_long = self._lines.too_long, []
        if self._lines.ended and self._lines.position < self._file.tell():
            too_long.append(self._lines.number + 1)  # the last one, without an end
        for number in too_long:
            self._reject(number, f"longer than {LONGEST:,} bytes")
        return records

    def _decoded(self, line: Line) -> Any:
        if not line.text.strip():
            return None
        try:
            record = msgspec.json.decode(line.text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._reject(line.number, f"not JSON: {error}")
            return None
        if not isinstance(record, dict):
            self._reject(line.number, "not the record of a session: not an object")
            return None
        self._numbers.append(line.number)
        return record

    def _reject(self, number: int, reason: str) -> None:
        self._rejected += 1
        if len(self._rejections) < REMEMBERED:
            self._rejections.append((number, reason))

    def placed(self, imported: Imported) -> Imported:
        """What `import_` told, with the file's name and the numbers of the lines, and what was no record."""
        found = [Rejection("lines", self.name, number, reason) for number, reason in self._rejections]
        for rejection in imported.rejections:
            number = None if rejection.line is None else self._numbers[rejection.line - 1]
            found.append(Rejection(rejection.kind, self.name, number, rejection.reason))
        found.sort(key=lambda rejection: rejection.line or 0)
        return msgspec.structs.replace(
            imported,
            files=1,
            rejected=imported.rejected + Counter(lines=self._rejected),
            rejections=tuple(found[:REMEMBERED]),
        )


def _is_whole(last: bytes) -> bool:
    return True  # nothing is added to it later: it is a record, or it is rejected


@contextmanager
def opened(path: str) -> Generator[Records]:
    """The records of that file, of whatever kind, or of standard input."""
    is_stdin = path == STDIN
    if is_stdin and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise NotThere("there is no standard input")
    given = sys.stdin.fileno() if is_stdin else path
    with open(given, "rb", buffering=0, closefd=not is_stdin) as file:
        found = os.fstat(file.fileno())
        stream = _Stream(file)
        try:
            name = STDIN if is_stdin else os.path.abspath(path)
            yield Records(cast(BinaryIO, stream), name, found.st_size if stat.S_ISREG(found.st_mode) else 0)
        finally:
            stream.left = True


class _Stream:
    """What a LineReader needs of a file, read from where it stands: a pipe cannot go back. Whoever waits
    for it in a thread can leave, for no read begins before there is something."""

    left = False

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._position = 0

    def seek(self, position: int) -> int:
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        while not select.select([self._file], [], [], WAIT_S)[0]:
            if self.left:
                return b""
        block = self._file.read(size) or b""
        self._position += len(block)
        return block


WAIT_S = 0.1
"""between two looks whether anybody still wants it"""
