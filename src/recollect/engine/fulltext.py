"""What an engine is asked to match: the query as terms, and the index as statements.

The search room parses what people type into a `Match`; each engine compiles it into its own
full-text expression (FTS5 MATCH, tsquery). Tokens are already folded and separated by the one
segmenter, so an engine never folds, splits or quotes by rules of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..errors import StoreError
from .operation import Operation, Statement


class Phrase(msgspec.Struct, frozen=True):
    """Tokens that follow one another; with `prefix` the last one may go on. Never empty."""

    tokens: tuple[str, ...]
    prefix: bool = False


class AllOf(msgspec.Struct, frozen=True):
    """Every part matches. At least one part."""

    parts: tuple[Match, ...]


class AnyOf(msgspec.Struct, frozen=True):
    """At least one part matches. At least one part."""

    parts: tuple[Match, ...]


class Without(msgspec.Struct, frozen=True):
    """`keep` matches and `drop` does not."""

    keep: Match
    drop: Match


Match = Phrase | AllOf | AnyOf | Without


class IndexDamaged(StoreError):
    """The search index cannot be read or written. Nothing of the data is concerned: it is rebuilt."""


class FullText(Protocol):
    """The full-text index of an engine: fragments that searches compose, operations the keeper runs.

    The index maps a row's id to two columns: its words, and the keys of the scopes it belongs to.
    Both are strings of tokens separated by spaces, as the segmenter left them.
    """

    table: str
    """FROM item, aliased `f`"""
    id: str
    """the row's id"""
    score: str
    """relevance, higher is better; with the parameter `:match`, which every condition brings"""

    def condition(self, match: Match, keys: Sequence[str]) -> tuple[str, dict[str, str]]:
        """The condition of rows that match, and its parameters: within rows that carry one of `keys` (none: all)."""
        ...

    def lock(self) -> Statement:
        """Keeps others from changing the index, or how far it has read, until the end of the transaction."""
        ...

    def insert(self, rows: Sequence[tuple[int, str, str]]) -> Statement:
        """Adds (id, words, keys); an id must not be there yet."""
        ...

    def remove(self, rows: Sequence[tuple[int, str, str]]) -> Statement:
        """Takes rows out again: with exactly the words and keys they were added with."""
        ...

    def ids(self, after: int, top: int, n: int) -> Statement:
        """The ids that are in it, behind `after` and up to `top`: the first `n`, in order; as tuples."""
        ...

    def merge(self, pages: int) -> Operation[bool]:
        """One bounded step of tidying; True while there is more to do."""
        ...

    def reset(self) -> Operation[bool]:
        """One bounded step towards an empty, sound index, whatever its state; True when it is."""
        ...
