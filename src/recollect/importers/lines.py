"""Lines of a file of any size, some at a time, with their numbers; what they take in memory is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, NamedTuple

LONGEST = 64 * 1024 * 1024
"""bytes of a line that is read; a longer one is passed over"""


_BOM = b"\xef\xbb\xbf"
"""what some editors put before the first line"""


class Line(NamedTuple):
    """A line without its end, and its number, counted from 1."""

    number: int
    text: bytes


class LineReader:
    """Reads on from `position`, behind the line `number`.

    `position` and `number` always stand behind the last line that was given out. A last line without
    an end is given out if `is_whole` says so; else it is torn, and waits until there is more.
    """

    def __init__(
        self, file: BinaryIO, position: int, number: int, is_whole: Callable[[bytes], bool], longest: int = LONGEST
    ) -> None:
        self.position = position
        self.number = number
        self.ended = False
        self.too_long: list[int] = []
        """numbers of lines passed over, for the reader's owner to take out"""
        self._file = file
        self._is_whole = is_whole
        self._longest = longest
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._in_line = position > 0 and _byte_before(file, position) != b"\n"
        file.seek(position)

    def take(self, size: int) -> list[Line]:
        """The next lines, of about `size` bytes together; when there are none, `ended` is true."""
        lines: list[Line] = []
        read = 0
        while not self.ended and (read < size or not (lines or self.too_long)):
            block = self._file.read(size)
            read += len(block)
            if block:
                self._split(block, lines)
            else:
                self.ended = True
                self._finish(lines)
        return lines

    def _split(self, block: bytes, lines: list[Line]) -> None:
        first, *others = block.split(b"\n")
        if not others:
            self._hold(first)
            return
        self._give(first, lines)
        for text in others[:-1]:
            self._give(text, lines)
        self._hold(others[-1])

    def _hold(self, text: bytes) -> None:
        """Keeps the beginning of a line; of one that is too long nothing but its length."""
        self._held_bytes += len(text)
        if self._held_bytes > self._longest:
            self._held = []
        elif text:
            self._held.append(text)

    def _give(self, text: bytes, lines: list[Line]) -> None:
        self._hold(text)
        self._count()
        self.position += self._held_bytes + 1
        self._release(lines)

    def _count(self) -> None:
        """A line that was given out without its end before is not another one."""
        self.number += not self._in_line
        self._in_line = False

    def _release(self, lines: list[Line]) -> None:
        if self._held_bytes > self._longest:
            self.too_long.append(self.number)
        elif self._held:
            text = self._held[0] if len(self._held) == 1 else b"".join(self._held)
            lines.append(Line(self.number, text.removeprefix(_BOM) if self.number == 1 else text))
        self._held = []
        self._held_bytes = 0

    def _finish(self, lines: list[Line]) -> None:
        """What is left has no end."""
        if self._held and self._is_whole(b"".join(self._held)):
            self._count()
            self.position += self._held_bytes
            self._release(lines)


def _byte_before(file: BinaryIO, position: int) -> bytes:
    file.seek(position - 1)
    return file.read(1)
