"""What can be set, with its default and its unit in the name. Nothing is read from the environment."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from .errors import InvalidRecord


class Durability(StrEnum):
    """What an acknowledged write survives. SQLite: `synchronous=FULL` or `NORMAL` in WAL mode."""

    COMMIT = "commit"
    """Power loss: each batch is flushed to the disk before its callers are answered."""
    PROCESS = "process"
    """A crash of the process; a power failure may lose the last moments, never corrupt."""


class Overflow(StrEnum):
    """What becomes of events for which a buffer has no room."""

    DROP_OLDEST = "drop_oldest"
    """those that have waited longest go"""
    DROP_NEWEST = "drop_newest"
    """the one that comes is not taken"""
    BLOCK = "block"
    """who can wait, waits; who cannot, has it as `drop_newest`"""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of everything that could grow. Every value is a whole number of at least 1."""

    readers: int = 4
    """connections for reading (SQLite: each with its own thread, opened when first needed)"""
    queue_operations: int = 8_192
    """writes waiting for the writer; then `await` waits in order and `append_nowait` raises QueueFull"""
    queue_bytes: int = 64 * 1024 * 1024
    """the same in bytes; one write larger than this is admitted alone"""
    batch_operations: int = 512
    """writes in one transaction (1 = no batching)"""
    batch_bytes: int = 8 * 1024 * 1024
    """the same in bytes; a batch has at least one write"""
    row_bytes: int = 8 * 1024 * 1024
    """one message with all its fields, encoded; more is InvalidRecord"""
    indexed_bytes: int = 256 * 1024
    """text of one message that is indexed; the rest is stored, counted in `Stats.unindexed_bytes`"""
    index_backlog: int = 32_768
    """rows the search index may lag behind before appends and indexing alternate"""
    ranked: int = 50_000
    """newest matches that a search by relevance ranks"""
    query_terms: int = 32
    """tokens of a query that are used; the rest is ignored"""
    watch_buffer: int = 1_024
    """changes held for a slow watcher before it falls back to replay"""
    spawn_depth: int = 3
    """generations of spawned sessions below a root"""
    writers: int = 4
    """writer connections (PostgreSQL; SQLite has one)"""
    wal_checkpoint_pages: int = 1_000
    """pages in the write-ahead log at which the writer copies them into the database (SQLite)"""

    def __post_init__(self) -> None:
        for name, value in msgspec.structs.asdict(self).items():
            if type(value) is not int or value < 1:
                raise InvalidRecord(f"Limits.{name} must be a whole number of at least 1, not {value!r}")


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long things may take, in seconds; at least 0."""

    busy_s: float = 30.0
    """patience with another process that holds the database; then StoreBusy"""
    reader_wait_s: float = 30.0
    """wait for a free reader; then StoreBusy"""
    search_s: float = 5.0
    """one page of a search, or one `store.query`; then SearchTimeout"""
    search_catch_up_s: float = 2.0
    """wait of a search for the index to reach what was committed before it"""
    close_s: float = 10.0
    """draining of the queue in `aclose()`; what is left fails as not stored"""
    lease_s: float = 60.0
    """life of a turn's lease without renewal"""

    def __post_init__(self) -> None:
        for name, value in msgspec.structs.asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise InvalidRecord(f"Timeouts.{name} must be a number of seconds, not {value!r}")
