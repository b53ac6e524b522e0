"""Snippets: a stored text and the phrases that found it in, the one line to show out.

Cut from the text as it was written, with the tokens of the one segmenter, so it is the same on every
engine. It runs on a connection's thread, once per hit of a page; its work is bounded for any text.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from operator import methodcaller
from typing import Final, NamedTuple

from recollect.engine.fulltext import Phrase
from recollect.search.segment import segment, spans

ELLIPSIS: Final[str] = "..."

# Where the best window is looked for, counted from the first match.
_REACH = 64_000

# Text that is not ASCII is first looked through in pieces; a phrase may lie across the edge of two.
_PIECE = 16_384
_OVERLAP = 1_024

# The patterns that step over tokens are limited in how far they count.
_LONGEST = 100_000

# On average over a window; a base64 block is one token, and not to be shown whole.
_CHARS_PER_TOKEN = 64

# As far back as context before a match is looked for.
_CONTEXT_CHARS_PER_TOKEN = 12

_ASCII_TOKEN = re.compile("[0-9A-Za-z]+")
_span = methodcaller("span")

# A run of white space that is not already a single space.
_BLANKS = re.compile(r"[^\S ]\s*+| \s++")


class _Found(NamedTuple):
    """A phrase in the text, from its first token's start to its last token's end."""

    start: int
    end: int
    phrase: Phrase


def _place(found: _Found) -> tuple[int, int]:
    return found.start, found.end


@lru_cache(maxsize=512)
def _pattern(phrase: Phrase) -> re.Pattern[str]:
    """The phrase in lowered ASCII text. It begins with a literal, which `re` looks for at C speed."""
    first, *others = map(re.escape, phrase.tokens)
    begin = f"{first}(?<![0-9a-z]{first})"
    end = "[0-9a-z]*+" if phrase.prefix else "(?![0-9a-z])"
    return re.compile("[^0-9a-z]++".join([begin, *others]) + end)


def _occurrences(lowered: str, phrase: Phrase, start: int, stop: int) -> Iterator[_Found]:
    pattern, step = _pattern(phrase), len(phrase.tokens[0])
    found = pattern.search(lowered, start, stop)
    while found:
        # A token that the end of the stretch has cut is not known to match.
        if found.end() < stop or stop == len(lowered):
            yield _Found(found.start(), found.end(), phrase)
        found = pattern.search(lowered, found.start() + step, stop)


def _ascii_matches(text: str, phrases: Sequence[Phrase], width: int) -> list[_Found]:
    lowered = text.lower()
    # Most phrases that are not there are ruled out by the fastest search there is.
    present = [phrase for phrase in phrases if all(token in lowered for token in phrase.tokens)]
    firsts = [found for phrase in present for found in islice(_occurrences(lowered, phrase, 0, len(lowered)), 1)]
    if not firsts:
        return []
    # The first window of a single phrase is its best.
    reach = _REACH if len(firsts) > 1 else width
    first = min(firsts, key=_place)
    stop = min(len(lowered), max(first.start + reach, first.end + 1))
    found = [match for at, _, phrase in firsts if at < stop for match in _occurrences(lowered, phrase, at, stop)]
    return sorted(found, key=_place)


def _first_piece(text: str, phrases: Sequence[Phrase]) -> int | None:
    """Where the first piece of the text that has any of the phrases begins."""
    wanted = [f" {' '.join(phrase.tokens)}{'' if phrase.prefix else ' '}" for phrase in phrases]
    for at in range(0, len(text), _PIECE):
        start = max(0, at - _OVERLAP)
        tokens = f" {segment(text[start : at + _PIECE])} "
        if any(phrase in tokens for phrase in wanted):
            return start
    return None


def _matching(tokens: Sequence[str], at: int, phrase: Phrase) -> bool:
    *whole, last = phrase.tokens
    end = at + len(whole)
    if end >= len(tokens) or tokens[at:end] != whole:
        return False
    return tokens[end].startswith(last) if phrase.prefix else tokens[end] == last


def _segmented_matches(text: str, phrases: Sequence[Phrase], width: int) -> list[_Found]:
    piece = _first_piece(text, phrases)
    if piece is None:
        return []
    stop = piece + (_REACH if len(phrases) > 1 else _OVERLAP + _PIECE + width)
    stretch = list(spans(text[:stop], piece))
    if stop < len(text) and len(stretch) > 1:
        stretch.pop()  # its last token may be cut
    tokens = [token for token, _, _ in stretch]
    open_ended = [phrase for phrase in phrases if phrase.prefix and len(phrase.tokens) == 1]
    by_first: dict[str, list[Phrase]] = {}
    for phrase in phrases:
        if phrase not in open_ended:
            by_first.setdefault(phrase.tokens[0], []).append(phrase)
    return [
        _Found(stretch[at][1], stretch[at + len(phrase.tokens) - 1][2], phrase)
        for at, token in enumerate(tokens)
        for phrase in (*by_first.get(token, ()), *open_ended)
        if _matching(tokens, at, phrase)
    ]


def _tokens(text: str, start: int, stop: int) -> Iterable[tuple[int, int]]:
    """Where the tokens of a slice begin and end in the text."""
    if text.isascii():
        return map(_span, _ASCII_TOKEN.finditer(text, start, stop))
    return ((start + first, start + end) for _, first, end in spans(text[start:stop]))


def _counted(text: str, found: Sequence[_Found]) -> Iterator[tuple[int, int]]:
    """Each match as numbers of tokens, its first and the one after its last; read only as far as needed."""
    starts = enumerate(start for start, _ in _tokens(text, found[0].start, found[-1].end))
    number, start = next(starts)
    for match in found:
        while start < match.start:
            number, start = next(starts)
        yield number, number + len(match.phrase.tokens)


def _best(text: str, found: Sequence[_Found], tokens: int) -> tuple[_Found, int]:
    """The match to begin at, for the most distinct phrases in so many tokens; and the tokens they take."""
    distinct = len({match.phrase for match in found})
    if distinct == 1:
        return found[0], len(found[0].phrase.tokens)
    best, most, needed = found[0], 0, 0
    window: deque[tuple[int, _Found]] = deque()
    inside: Counter[Phrase] = Counter()
    for match, (begin, end) in zip(found, _counted(text, found), strict=True):
        window.append((begin, match))
        inside[match.phrase] += 1
        while end - window[0][0] > tokens and len(window) > 1:
            inside[window.popleft()[1].phrase] -= 1
        if (phrases := len(+inside)) > most:
            best, most, needed = window[0][1], phrases, end - window[0][0]
            if most == distinct:
                break
    return best, needed


@lru_cache(maxsize=128)
def _ascii_tokens(count: int) -> re.Pattern[str]:
    """Up to so many tokens in one step; it reads the same backwards."""
    return re.compile(f"(?:[^0-9A-Za-z]*+[0-9A-Za-z]++){{0,{count}}}")


def _advance(text: str, at: int, stop: int, tokens: int) -> int:
    """The end of the last of so many tokens from `at` on."""
    if text.isascii() and (found := _ascii_tokens(tokens).match(text, at, stop)):
        return found.end()
    return max((end for _, end in islice(_tokens(text, at, stop), tokens)), default=at)


def _retreat(text: str, at: int, tokens: int) -> int:
    """The start of the first of so many tokens before `at`, or of as many as are near."""
    begin = max(0, at - tokens * _CONTEXT_CHARS_PER_TOKEN)
    if text.isascii() and (found := _ascii_tokens(tokens).match(text[begin:at][::-1])):
        start = at - found.end()
        if start > begin:
            return start
    starts = [start for start, _ in _tokens(text, begin, at)]
    if begin:
        del starts[:1]  # it may be cut
    return min(starts[-tokens:], default=at) if tokens else at


def _count(text: str) -> int:
    return len(segment(text).split())


def _window(text: str, at: int, needed: int, tokens: int) -> tuple[int, int]:
    """From some context before `at` to as many tokens after it as there is room for."""
    stop = min(len(text), at + tokens * _CHARS_PER_TOKEN)
    lead = max(0, min(tokens // 4, tokens - needed))
    end = _advance(text, at, stop, tokens - lead)
    if all_read := next(iter(_tokens(text, end, stop)), None) is None:
        lead = tokens - _count(text[at:end])
    start = _retreat(text, at, lead)
    if not all_read:
        end = _advance(text, at, stop, tokens - _count(text[start:at]))
        all_read = next(iter(_tokens(text, end, stop)), None) is None
    if start <= _CHARS_PER_TOKEN and not segment(text[:start]):
        start = 0
    return start, stop if all_read else end


def _one_line(text: str) -> str:
    single = text.isprintable() and "  " not in text
    return text if single else _BLANKS.sub(" ", text)


def _render(text: str, window: tuple[int, int], found: Sequence[_Found], marks: tuple[str, str]) -> str:
    at, end = window
    pieces: list[str] = []
    for first, last in _merged(found):
        pieces += (_one_line(text[at:first]), marks[0], _one_line(text[first:last]), marks[1])
        at = last
    pieces.append(_one_line(text[at:end]))
    pieces[0] = pieces[0].lstrip()
    pieces[-1] = pieces[-1].rstrip()
    before, after = ELLIPSIS if window[0] else "", ELLIPSIS if end < len(text) else ""
    return f"{before}{''.join(pieces)}{after}"


def _merged(found: Sequence[_Found]) -> list[tuple[int, int]]:
    """Phrases that share tokens are marked as one."""
    merged: list[tuple[int, int]] = []
    for start, end, _ in found:
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def snippet(text: str, phrases: Sequence[Phrase], *, tokens: int = 40, marks: tuple[str, str] = (">>>", "<<<")) -> str:
    """At most `tokens` tokens of the text (at least one) on one line, where most of the phrases are.

    Every match of a phrase in it stands between the marks, and "..." where the text was cut. White space
    becomes single spaces; the rest is as it was written. Without a match, the text's beginning.
    """
    tokens = min(max(1, tokens), _LONGEST)
    match_in = _ascii_matches if text.isascii() else _segmented_matches
    found = match_in(text, phrases, tokens * _CHARS_PER_TOKEN)
    if not found:
        return _render(text, _window(text, 0, tokens, tokens), (), marks)
    anchor, needed = _best(text, found, tokens)
    start, end = window = _window(text, anchor.start, needed, tokens)
    whole = [match for match in found if start <= match.start and match.end <= end]
    # A match longer than the window is cut with it.
    cut = anchor._replace(end=start + len(text[start:end].rstrip()))
    return _render(text, window, whole or [cut], marks)
