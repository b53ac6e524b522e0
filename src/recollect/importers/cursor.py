"""Cursors: where an importer stands in a file, committed together with what it read up to there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import BinaryIO

import msgspec

from ..engine.operation import Operation, Row, Statement, all, execute

TAIL = 4096
"""bytes before the position whose hash tells whether it is still the same file"""


class Kept(msgspec.Struct, frozen=True):
    """The part of a cursor that only its importer reads."""

    mtime_ns: int
    line: int
    is_through: bool
    """the file was read to its end, whether that was whole or torn"""
    own: msgspec.Raw = msgspec.Raw(b"null")


class Cursor(msgspec.Struct, frozen=True):
    """How far a file was read, and how to know it again."""

    source: str
    """its absolute path"""
    device: int
    inode: int
    position: int
    size: int
    """of the whole file, when it was read"""
    tail_hash: str
    kept: Kept

    def is_current(self, stat: os.stat_result) -> bool:
        """Whether nothing was done to the file since, as far as a stat can tell."""
        same = self._is_of(stat) and stat.st_size == self.size and stat.st_mtime_ns == self.kept.mtime_ns
        return same and self.kept.is_through

    def continues(self, file: BinaryIO) -> bool:
        """Whether the file goes on from here: the same file, with the same bytes before the position."""
        stat = os.fstat(file.fileno())
        if not self._is_of(stat) or stat.st_size < self.position:
            return False
        return tail_hash(file, self.position) == self.tail_hash

    def _is_of(self, stat: os.stat_result) -> bool:
        return identity(stat) == (self.device, self.inode)


def identity(stat: os.stat_result) -> tuple[int, int]:
    """Device and inode, as far as the database can hold them: some file systems use all 64 bits."""
    return stat.st_dev & _SIGNED, stat.st_ino & _SIGNED


_SIGNED = 2**63 - 1


def tail_hash(file: BinaryIO, position: int) -> str:
    """The hash of what stands before the position."""
    start = max(0, position - TAIL)
    return hashlib.blake2b(os.pread(file.fileno(), position - start, start), digest_size=16).hexdigest()


_READ = """
SELECT source, device, inode, position, size, tail_hash, state
FROM import_cursors WHERE importer = :importer AND version = :version AND source IN :sources"""

_WRITE = """
INSERT INTO import_cursors (importer, version, source, device, inode, position, size, tail_hash, state)
VALUES (:importer, :version, :source, :device, :inode, :position, :size, :tail_hash, :state)
ON CONFLICT (importer, version, source) DO UPDATE SET device = excluded.device, inode = excluded.inode,
  position = excluded.position, size = excluded.size, tail_hash = excluded.tail_hash, state = excluded.state"""


def read_cursors(importer: str, version: int, sources: Sequence[str]) -> Operation[dict[str, Cursor]]:
    """The cursors of these files; those that cannot be understood are left out: the file is read again."""
    rows = yield all(_READ, importer=importer, version=version, sources=sources)
    cursors: dict[str, Cursor] = {}
    for row in rows:
        if kept := _kept(row):
            cursors[row.source] = Cursor(row.source, row.device, row.inode, row.position, row.size, row.tail_hash, kept)
    return cursors


def _kept(row: Row) -> Kept | None:
    try:
        return msgspec.json.decode(row.state or "", type=Kept)
    except msgspec.MsgspecError:
        return None


def write_cursor(importer: str, version: int, cursor: Cursor) -> Statement:
    """Puts the cursor in place of the one before."""
    values = msgspec.structs.asdict(cursor)
    kept = values.pop("kept")
    return execute(_WRITE, importer=importer, version=version, state=msgspec.json.encode(kept).decode(), **values)
