"""JSON Lines on their way into the store as events, chunk by chunk. Runs in a worker thread."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, BinaryIO, ClassVar, NoReturn

import msgspec

from ..encoding import Encoder, decode_json
from ..errors import InvalidRecord
from ..events.given import prepare
from ..events.typed import Recordable
from ..reports import Rejection
from .cursor import Cursor, Kept, identity, tail_hash
from .event_chunk import Answer, EventChunk, Piece
from .lines import Line, LineReader
from .source import SourceFile, open_file

CHUNK_BYTES = 1024 * 1024
"""of lines read at once, and written in one transaction"""


class EventLines(ABC):
    """One file. Who makes something of its lines says `take`, and which record, `Known`, has what later lines need
    to know: it travels in the cursor."""

    importer: ClassVar[str]
    version: ClassVar[int]
    Known: ClassVar[type[msgspec.Struct]]

    def __init__(self, file: SourceFile, cursor: Cursor | None, encoder: Encoder) -> None:
        self.path = file.path
        self._encoder = encoder
        self._known: Any = self.Known()
        self._file: BinaryIO = open_file(file.path)
        try:
            self.stat = os.fstat(self._file.fileno())
            goes_on = cursor is not None and cursor.continues(self._file) and self._restore(cursor.kept.own)
            position, number = (cursor.position, cursor.kept.line) if cursor and goes_on else (0, 0)
            self._lines = LineReader(self._file, position, number, _is_whole)
        except BaseException:
            self._file.close()
            raise
        self._begin()

    def _restore(self, own: msgspec.Raw) -> bool:
        """Takes up what is in a cursor; False where it cannot be understood: the file is read again."""
        try:
            self._known = msgspec.json.decode(own, type=self.Known)
        except msgspec.MsgspecError:
            return False
        return True

    @abstractmethod
    def take(self, line: Line) -> None:
        """Makes something of a line. Raises InvalidRecord."""

    def finish(self) -> None:  # noqa: B027 -- most have nothing left to do
        """The lines of a chunk were all taken."""

    @property
    def position(self) -> int:
        """Bytes of the file that have been read."""
        return self._lines.position

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def next_chunk(self) -> EventChunk | None:
        """What the next lines hold; None behind the last chunk."""
        if self._lines.ended:
            return None
        self._begin()
        for line in self._lines.take(CHUNK_BYTES):
            if line.text.strip():
                self._take(line)
        for number in self._lines.too_long:
            self.reject("lines", number, "the line is too long")
        self._lines.too_long.clear()
        self.finish()
        return EventChunk(
            importer=self.importer,
            version=self.version,
            pieces=self.pieces,
            answers=self.answers,
            cursors=[self._cursor()],
            skipped=self.skipped,
            rejected=self._rejected,
        )

    def add(self, kind: str, event: Recordable, line: int) -> None:
        """An event of that line, which has a dedupe key; counted as `kind`, also where it cannot be imported."""
        try:
            self.pieces.append(Piece(kind, prepare(self._encoder, event)))
        except InvalidRecord as error:
            self.reject(kind, line, str(error))

    def reject(self, kind: str, line: int, reason: str) -> None:
        """Counts what cannot be imported."""
        self._rejected.append(Rejection(kind, self.path, line, reason))

    def _begin(self) -> None:
        self.pieces: list[Piece] = []
        self.answers: list[Answer] = []
        self.skipped: Counter[str] = Counter()
        self._rejected: list[Rejection] = []

    def _take(self, line: Line) -> None:
        try:
            self.take(line)
        except OSError:
            raise  # it is the file that cannot be read
        except InvalidRecord as error:
            self.reject("lines", line.number, str(error))
        except Exception as error:  # whatever is in a line, the others are not to suffer
            self.reject("lines", line.number, f"{type(error).__name__}: {error}")

    def _cursor(self) -> Cursor:
        device, inode = identity(self.stat)
        own = msgspec.Raw(msgspec.json.encode(self._known))
        kept = Kept(self.stat.st_mtime_ns, self._lines.number, self._lines.ended, own)
        tail = tail_hash(self._file, self.position)
        return Cursor(self.path, device, inode, self.position, self.stat.st_size, tail, kept)


def decode_object(text: bytes) -> dict[str, Any]:
    """The JSON object a text is. Raises InvalidRecord."""
    try:
        value = decode_json(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _decode_patiently(text)
    if not isinstance(value, dict):
        raise InvalidRecord(f"not an object: {type(value).__name__}")
    return value


def _decode_patiently(text: bytes) -> Any:
    """Lone surrogates are legal in JSON; storing replaces them."""
    try:
        return json.loads(text.decode(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise InvalidRecord(f"not UTF-8: byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidRecord(f"not JSON: {error}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _is_whole(line: bytes) -> bool:
    """Whether a line without an end is an object all the same, and not torn."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def changed_at(stat: os.stat_result) -> int:
    """When a file was changed, milliseconds UTC: the time of what does not say its own."""
    return max(0, stat.st_mtime_ns // 1_000_000)
