"""The query language: what people type in, the terms an engine is asked to match out.

Words all match; `"phrase"`; `prefix*`; `AND`, `OR`, `NOT` in capitals; `-word`; parentheses. A word with
punctuation inside is the phrase of its parts. Everything else is text, so no input is an error: an
operator without an operand and a parenthesis or quote without its partner are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from recollect.engine.fulltext import AllOf, AnyOf, Match, Phrase, Without
from recollect.search.segment import segment, spans

_OPERATORS = frozenset({"AND", "OR", "NOT"})

# Engines compile a match recursively: deeper parentheses are read as punctuation.
_DEEPEST = 8

# A dash negates where a term begins, but not before another dash: `--force` is text. The lone quote before
# a word is one that is still being typed. What matches nothing here is skipped by `finditer`.
_LEXEME = re.compile(
    r"""(?P<minus>(?<![^\s(])-(?=[^\s)\-]))?
    (?: "(?P<quoted>[^"]*+)"(?P<star>\*?) | (?P<bracket>[()]) | "?(?P<word>[^\s"()]+) )""",
    re.VERBOSE,
)

_Lexeme = re.Match[str]


class _Group:
    """What stands between two parentheses: branches of `OR`, each a conjunction."""

    def __init__(self) -> None:
        self.branches: list[Match] = []
        self.wanted: list[Match] = []
        self.unwanted: list[Match] = []
        self.negated = False
        self.alternatives = False

    def add(self, match: Match) -> None:
        (self.unwanted if self.negated else self.wanted).append(match)
        self.negated = False

    def alternative(self) -> None:
        self._end_branch()
        self.alternatives = True

    def absorb(self, inner: _Group) -> None:
        """Take a closed group as one term; `(NOT a)` negates as if it had no parentheses."""
        inner_match = inner.match()
        if inner_match is not None:
            self.add(inner_match)
        elif inner.unwanted and not inner.alternatives:
            self.negated = not self.negated
            self.add(_any_of(inner.unwanted))
        self.negated = False

    def match(self) -> Match | None:
        """The group as a whole; None if it names nothing to look for."""
        branches = self.branches + self._branch()
        return _any_of(branches) if branches else None

    def _branch(self) -> list[Match]:
        if not self.wanted:
            return []
        keep = _all_of(self.wanted)
        return [Without(keep, _any_of(self.unwanted)) if self.unwanted else keep]

    def _end_branch(self) -> None:
        self.branches += self._branch()
        self.wanted, self.unwanted, self.negated = [], [], False


class _Reader:
    """Reads lexemes into nested groups until the terms are used up."""

    def __init__(self, terms: int) -> None:
        self.terms = self.left = terms
        self.operators: list[str] = []
        self.open = [_Group()]
        self.ignored = 0

    def read(self, lexemes: Iterable[_Lexeme]) -> Match | None:
        for lexeme in lexemes:
            if self.left <= 0:
                break
            self._take(lexeme)
        while len(self.open) > 1:
            self._close()
        return self.open[0].match() or self._operators_as_text()

    def _take(self, lexeme: _Lexeme) -> None:
        bracket, word = lexeme["bracket"], lexeme["word"]
        group = self.open[-1]
        if lexeme["minus"]:
            group.negated = not group.negated
        if bracket:
            self._bracket(bracket)
        elif word is None:
            self._add(lexeme["quoted"], prefix=bool(lexeme["star"]))
        elif word in _OPERATORS and not lexeme["minus"]:
            self._operate(word)
        else:
            self._add(word.rstrip("*"), prefix=_is_prefix(word))

    def _add(self, text: str, *, prefix: bool) -> None:
        tokens = [token for token, _, _ in islice(spans(text), self.left + 1)]
        whole = len(tokens) <= self.left
        tokens = tokens[: self.left]
        self.left -= len(tokens)
        if tokens:
            self.open[-1].add(Phrase(tuple(tokens), prefix and whole))
        self.open[-1].negated = False

    def _operate(self, word: str) -> None:
        self.operators.append(word)
        group = self.open[-1]
        if word == "NOT":
            group.negated = not group.negated
        elif word == "OR":
            group.alternative()

    def _bracket(self, bracket: str) -> None:
        if bracket == ")":
            self._close()
        elif len(self.open) <= _DEEPEST:
            self.open.append(_Group())
        else:
            self.ignored += 1

    def _close(self) -> None:
        if self.ignored:
            self.ignored -= 1
        elif len(self.open) > 1:
            inner = self.open.pop()
            self.open[-1].absorb(inner)

    def _operators_as_text(self) -> Match | None:
        """`not` alone, typed with the shift key down, is a word to look for."""
        words = [Phrase((segment(word),)) for word in self.operators[: max(0, self.left)]]
        return _all_of([*words]) if words and self.left == self.terms else None


def _all_of(parts: list[Match]) -> Match:
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _any_of(parts: list[Match]) -> Match:
    return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))


def _is_prefix(word: str) -> bool:
    """Whether a star stands directly after a word, not after punctuation."""
    bare = word.rstrip("*")
    # Between two letters, only what separates leaves them as they are (an accent joins them).
    return len(bare) < len(word) and segment(f"a{bare[-1:]}a") != "a a"


def parse(text: str, *, terms: int = 32) -> Match | None:
    """What to match, or None if there is nothing to look for: blank, punctuation, or only negations.

    Never raises. At most `terms` tokens are taken, negated ones included: a phrase is cut to what is
    left, and the rest of the text is not read.
    """
    return _Reader(terms).read(_LEXEME.finditer(text))


def _without_drops(match: Match) -> Iterator[Phrase]:
    if isinstance(match, Phrase):
        yield match
    elif isinstance(match, Without):
        yield from _without_drops(match.keep)
    else:
        for part in match.parts:
            yield from _without_drops(part)


def phrases(match: Match) -> tuple[Phrase, ...]:
    """The phrases a hit may contain, in the order of the query, each once; negated ones are left out."""
    return tuple(dict.fromkeys(_without_drops(match)))
