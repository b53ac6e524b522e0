"""What work reports when it is done: facts about the store, what was imported, what was found wrong."""

from __future__ import annotations

from collections import Counter

import msgspec

REMEMBERED = 1_000
"""rejections that are listed; all are counted"""


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a store. Taking them changes nothing."""

    sessions: int
    messages: int
    events: int
    writes: int
    """operations committed by this store since it was opened"""
    batches: int
    largest_batch: int
    queue_depth: int
    queue_high_water: int
    retries: int
    """batches that did not get the database before their deadline"""
    commit_ms: float
    """mean time of a batch, milliseconds"""
    readers: int
    readers_busy: int
    index_lag: int
    """ids committed and not yet looked at by the search index"""
    index_state: str
    """`ready`, `building` (behind) or `damaged` (about to be rebuilt)"""
    search_behind: int
    """searches answered before the index had caught up"""
    unindexed_bytes: int
    """text beyond `Limits.indexed_bytes` of a row"""
    wal_bytes: int
    checkpoint: tuple[int, int, int] | None
    """SQLite: of the last checkpoint that `optimize` or `erase` asked for: whether others were in the way, pages of
    the log, pages moved to the database"""
    database_bytes: int
    dropped: int
    """`append_nowait` receipts that failed and were never awaited"""
    replaced: int
    """NUL characters and lone surrogates stored as U+FFFD"""
    schema_version: int
    sqlite_version: str
    """empty on PostgreSQL"""
    postgres_version: str
    """empty on SQLite"""
    horizon_stalled_s: float
    """PostgreSQL: age of the oldest transaction that has taken numbers and not ended, beyond which watches and the
    search index do not go; seconds"""
    durability: str


class Rejection(msgspec.Struct, frozen=True):
    """Something that was not imported, and why."""

    kind: str
    """`files`, `lines` (not a record at all), or what it would have become"""
    file: str
    """where it was read; empty for records that were given"""
    line: int | None
    """counted from 1; None where it is the file"""
    reason: str


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What one run brought, per kind of record (`sessions`, `messages`, `usage`…); a kind that is not
    there counts 0."""

    files: int
    unchanged: int
    """files that nothing was done to since the last run: they were not even opened"""
    inserted: Counter[str]
    amended: Counter[str]
    """records there already of which more has come"""
    duplicate: Counter[str]
    """records there already"""
    rejected: Counter[str]
    skipped: Counter[str]
    """records of the format that hold nothing to keep, by their type"""
    rejections: tuple[Rejection, ...]
    """the first 1,000 of them, with their places"""
    existing: tuple[str, ...] = ()
    """ids of sessions that were left out because they are there, where records were given"""


class Backfilled(Imported, frozen=True, kw_only=True):
    """What a backfill brought, from all of its sources together: events counted as `issues`, `loops`, `tools` and
    `files`. Files that could not be read are rejected `issues`, `loops` or `transcripts`."""


class CopiedTable(msgspec.Struct, frozen=True):
    """What a copy has of a table, each row compared with the source's, and what the run did to it."""

    table: str
    rows: int
    new: int
    changed: int
    removed: int
    checksum: str
    """BLAKE2b (128 bits, in hexadecimal) of the rows in the order of their keys, each as a MessagePack array"""


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """A store that was copied: both sides are equal in all of these tables."""

    source: str
    """where it is, without secrets"""
    target: str
    tables: tuple[CopiedTable, ...]


class Problem(msgspec.Struct, frozen=True):
    """Something that a check found wrong."""

    kind: str
    """`structure`: the file itself, restore a backup; `orphans`: rows whose session is not there;
    `content`: a row that cannot be read as what it is; `parent`, `counter`,
    `index`: what is kept beside the rows, which `repair` sets right"""
    session_id: str | None
    what: str


class Report(msgspec.Struct, frozen=True):
    """What a check looked at, what it found, and what a repair set right of it."""

    sessions: int
    problems: tuple[Problem, ...]
    repaired: tuple[Problem, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class Erased(msgspec.Struct, frozen=True):
    """What was erased."""

    sessions: tuple[str, ...]
    events: int
    """of the user, beside those of his sessions"""
