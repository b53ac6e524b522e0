"""The search index on PostgreSQL: tsvectors under a GIN index.

Words come folded and separated from the segmenter, so no parser and no dictionary of the server is used. Keys
stand among the words, marked by a capital letter, which no folded word has. A tsvector counts 16,383 positions
and 256 of each word, so a longer row is stored in parts, for the sake of phrases: the first has all the words, with
the places of those that come first, every further one the places of some. A query is put to the first parts; a phrase
of a row that has several is looked for in each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..fulltext import AllOf, AnyOf, Match, Phrase, Without
from ..operation import Operation, Statement, execute, many, one, tuples

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
    matches = "f.part = 0 AND f.words @@ CAST(:match AS tsquery)"
    id = "f.id"
    score = "CAST(ts_rank(f.words, CAST(:match AS tsquery)) AS DOUBLE PRECISION)"

    def expression(self, match: Match, keys: Sequence[str]) -> str:
        """A tsquery: every token quoted, so that no input is syntax."""
        return _within(keys, _query(match))

    def condition(self, match: Match, keys: Sequence[str]) -> tuple[str, dict[str, str]]:
        """Without phrases, one tsquery. With some, first all their words, then each phrase by itself where a row has
        several parts."""
        params = {"match": self.expression(match, keys)}
        leaves = list(_leaves(match))
        if all(len(leaf.tokens) == 1 for leaf in leaves):
            return self.matches, params
        params["loose"] = _within(keys, _loose(match))
        params |= {f"leaf{at}": _query(leaf) for at, leaf in enumerate(leaves)}
        exact = self._exact(match, iter(range(len(leaves))))
        return (
            "f.part = 0 AND f.words @@ CAST(:loose AS tsquery)"
            f" AND CASE f.parts WHEN 1 THEN f.words @@ CAST(:match AS tsquery) ELSE {exact} END"
        ), params

    def _exact(self, match: Match, at: Iterator[int]) -> str:
        if isinstance(match, Phrase):
            matches = f"words @@ CAST(:leaf{next(at)} AS tsquery)"
            if len(match.tokens) == 1:
                return f"f.{matches}"
            return f"EXISTS (SELECT 1 FROM {self.table.split()[0]} p WHERE p.id = f.id AND p.{matches})"
        if isinstance(match, Without):
            return f"({self._exact(match.keep, at)} AND NOT {self._exact(match.drop, at)})"
        word = " AND " if isinstance(match, AllOf) else " OR "
        return f"({word.join([self._exact(part, at) for part in match.parts])})"

    def lock(self) -> Statement:
        """Locks the row that says how far the index has read."""
        return one("SELECT single FROM index_state FOR UPDATE")

    def insert(self, rows: Sequence[tuple[int, str, str]]) -> Statement:
        """Adds rows."""
        stored = [
            (id, part, len(parts), vector)
            for id, words, keys in rows
            for parts in [vectors(words, keys)]
            for part, vector in enumerate(parts)
        ]
        return many("INSERT INTO search_terms (id, part, parts, words) VALUES (?, ?, ?, CAST(? AS tsvector))", stored)

    def remove(self, rows: Sequence[tuple[int, str, str]]) -> Statement:
        """Takes rows out."""
        return many("DELETE FROM search_terms WHERE id = ?", [(id,) for id, _, _ in rows])

    def ids(self, after: int, top: int, n: int) -> Statement:
        """The rows' first parts."""
        return tuples(
            "SELECT id FROM search_terms WHERE part = 0 AND id > :after AND id <= :top ORDER BY id LIMIT :n",
            after=after,
            top=top,
            n=n,
        )

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


def vectors(words: str, keys: str) -> list[str]:
    """The tsvectors of a row, that with all its words first."""
    tokens = [token[:_LONGEST] for token in words.split()]
    first, *others = [_places(part) for part in _parts(tokens)]
    unplaced = [_quoted("K" + key) for key in keys.split()]
    unplaced += [_quoted(token) for token in set(tokens) - first.keys()]
    return [" ".join([*unplaced, *_placed(first)]), *[" ".join(_placed(places)) for places in others]]


def _places(part: list[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, token in enumerate(part, 1):
        places.setdefault(token, []).append(place)
    return places


def _placed(places: dict[str, list[int]]) -> list[str]:
    return [f"{_quoted(token)}:{','.join(map(str, at))}" for token, at in places.items()]


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


def _within(keys: Sequence[str], words: str) -> str:
    return f"({' | '.join(_quoted('K' + key) for key in keys)}) & ({words})" if keys else words


def _leaves(match: Match) -> Iterator[Phrase]:
    if isinstance(match, Phrase):
        yield match
    else:
        for part in (match.keep, match.drop) if isinstance(match, Without) else match.parts:
            yield from _leaves(part)


def _loose(match: Match) -> str:
    """What every row has that matches: the words, wherever they stand."""
    if isinstance(match, Phrase):
        last = len(match.tokens) - 1
        words = [Phrase((token,), match.prefix and at == last) for at, token in enumerate(match.tokens)]
        return f"({' & '.join(map(_query, words))})"
    if isinstance(match, Without):
        return _loose(match.keep)
    return f"({(' & ' if isinstance(match, AllOf) else ' | ').join(map(_loose, match.parts))})"


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


class GuardedFullText(PostgresFullText):
    """The same where rows are guarded: read through a view, for under a policy the index could not be used
    (`row_security.py`)."""

    table = "search_words AS f"


FULLTEXT, GUARDED = PostgresFullText(), GuardedFullText()
