"""The search index on PostgreSQL: one tsvector per part of a row, under a GIN index.

Words come folded and separated from the segmenter, so no parser and no dictionary of the server is used. Keys
stand among the words, marked by a capital letter, which no folded word has. A tsvector counts 16,383 positions
and 256 of each word, so a longer row is stored in parts: each knows the places of its own words and, without
their places, all the others, so that words that stand in different parts are found together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..fulltext import AllOf, AnyOf, Match, Phrase
from ..operation import Operation, Statement, execute, many, one

_PLACES = 16_000
_SAME = 250
_OVERLAP = 32
"""words that two parts share: no phrase of a query is longer (`Limits.query_terms`)"""
_LONGEST = 500
"""characters of a word: a lexeme has less than 2 KiB"""
_EMPTIED_AT_ONCE = 1_000


class PostgresFullText:
    """tsvector's fragments and steps; see `recollect.engine.fulltext.FullText`."""

    table = "search_terms AS f"
    matches = "f.words @@ CAST(:match AS tsquery)"
    id = "f.id"
    score = "CAST(ts_rank(f.words, CAST(:match AS tsquery)) AS DOUBLE PRECISION)"

    def expression(self, match: Match, keys: Sequence[str]) -> str:
        """A tsquery: every token quoted, so that no input is syntax."""
        words = _query(match)
        return f"({' | '.join(_quoted('K' + key) for key in keys)}) & ({words})" if keys else words

    def lock(self) -> Statement:
        """Locks the row that says how far the index has read."""
        return one("SELECT single FROM index_state FOR UPDATE")

    def insert(self, rows: Sequence[tuple[int, str, str]]) -> Statement:
        """Adds rows."""
        parts = [(id, part, vector) for id, words, keys in rows for part, vector in enumerate(vectors(words, keys))]
        return many("INSERT INTO search_terms (id, part, words) VALUES (?, ?, CAST(? AS tsvector))", parts)

    def remove(self, rows: Sequence[tuple[int, str, str]]) -> Statement:
        """Takes rows out."""
        return many("DELETE FROM search_terms WHERE id = ?", [(id,) for id, _, _ in rows])

    def merge(self, pages: int) -> Operation[bool]:
        """There is nothing to merge: the server keeps the index tidy."""
        return False
        yield

    def reset(self) -> Operation[bool]:
        """Empties the index, some rows at a time."""
        erased = yield execute(
            "DELETE FROM search_terms WHERE id IN (SELECT id FROM search_terms LIMIT :n)", n=_EMPTIED_AT_ONCE
        )
        return erased == 0


def vectors(words: str, keys: str) -> Iterator[str]:
    """The tsvectors of a row."""
    tokens = [token[:_LONGEST] for token in words.split()]
    marks = [f"{_quoted('K' + key)}" for key in keys.split()]
    parts = list(_parts(tokens))
    whole = set(tokens) if len(parts) > 1 else set[str]()
    for part in parts:
        places: dict[str, list[int]] = {}
        for place, token in enumerate(part, 1):
            places.setdefault(token, []).append(place)
        own = [f"{_quoted(token)}:{','.join(map(str, at))}" for token, at in places.items()]
        yield " ".join([*marks, *own, *[_quoted(token) for token in whole - places.keys()]])


def _parts(tokens: list[str]) -> Iterator[list[str]]:
    first = 0
    while True:
        seen: Counter[str] = Counter()
        end = first
        while end < len(tokens) and end - first < _PLACES and seen[tokens[end]] < _SAME:
            seen[tokens[end]] += 1
            end += 1
        yield tokens[first:end]
        if end == len(tokens):
            return
        first = end - min(_OVERLAP, (end - first) // 2)


def _query(match: Match) -> str:
    if isinstance(match, Phrase):
        lexemes = [_quoted(token[:_LONGEST]) for token in match.tokens]
        return " <-> ".join(lexemes) + (":*" if match.prefix else "")
    if isinstance(match, AllOf):
        return f"({' & '.join(map(_query, match.parts))})"
    if isinstance(match, AnyOf):
        return f"({' | '.join(map(_query, match.parts))})"
    return f"({_query(match.keep)} & !({_query(match.drop)}))"


def _quoted(token: str) -> str:
    return "'" + token.replace("\\", "\\\\").replace("'", "''") + "'"


FULLTEXT = PostgresFullText()
