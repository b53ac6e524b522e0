"""The one segmenter: text as people write it in, folded and separated tokens out.

Every engine indexes `segment(text)` and every query is made of the same tokens, so what was written
is found however its case, accents, width or normal form differ. FTS5's own tokenizer (unicode61,
`remove_diacritics 0`, `categories 'L* N* Co M* So'`) runs over the result and changes nothing in it.

Letters, numbers, marks and private use characters make words. Scripts written without spaces and
symbols (emoji) become tokens of one character, to be searched as phrases. The rest separates.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

_OWN_VERSION: Final[int] = 1
"""raise it with any change of behaviour, also of what a row's words are"""


def _version(own: int, unicode: str) -> int:
    """Ours and that of Python's Unicode tables in one number, which grows with either: 1, "14.0.0" → 1140000."""
    major, minor, patch = map(int, unicode.split("."))
    return 1_000_000 * own + 10_000 * major + 100 * minor + patch


VERSION: Final[int] = _version(_OWN_VERSION, unicodedata.unidata_version)
"""Stored beside the index: by a higher one it is rebuilt, by a lower one it is only read."""

_category = unicodedata.category


def _blocks(spec: str) -> tuple[range, ...]:
    """Ranges written as in the code charts: "0300-036F 00AD". Patterns of them would cost 10 ms at import."""
    bounds = [(block + "-" + block).split("-")[:2] for block in spec.split()]
    return tuple(range(int(first, 16), int(last, 16) + 1) for first, last in bounds)


def _within(char: str, blocks: tuple[range, ...]) -> bool:
    return any(ord(char) in block for block in blocks)


# Diacritics of every alphabet (keycaps and enclosing rings among them), and what is not seen: joiners,
# directions, variation selectors, tags. Removed, so that they neither split a word nor hide an emoji.
_REMOVED = _blocks(
    "0300-036F 1AB0-1AFF 1DC0-1DFF 20D0-20FF FE20-FE2F 302A-302D 00AD 061C 180B-180F 200C-200F 202A-202E"
    " 2060-206F FE00-FE0F FEFF E0000-E0FFF"
)

# Kana keep their sound marks (ハ and パ are different letters); one that composed with nothing says nothing.
_LONE_SOUND_MARKS = "\u3099\u309a"

# CJK, kana, Hangul, Bopomofo, Thai, Lao, Khmer, Myanmar: no spaces between words.
_UNSPACED = _blocks(
    "0E00-0EFF 1000-109F 1100-11FF 1780-17FF 19E0-19FF 2E80-2FDF 3005-3007 3021-3029 3031-303C 3041-31BF"
    " 31F0-31FF 3400-4DBF 4E00-9FFF A960-A97F A9E0-A9FF AA60-AA7F AC00-D7FF F900-FAFF 116D0-116FF"
    " 1AFF0-1B16F 20000-3FFFF"
)

# A symbol in Python's tables and a full stop in FTS5's: the only character that the two see differently.
_PUNCTUATION_IN_FTS5 = "\u166d"

# Starters that may compose with the character before them: Hangul vowels and finals, Kirat Rai vowels,
# the halfwidth sound marks. All others that may are marks.
_COMPOSING = _blocks("1160-11FF D7B0-D7FF FF9E-FF9F 16D60-16D6F")

_HALFWIDTH_KANA = re.compile("[\uff66-\uff9d][\uff9e\uff9f]")

# ASCII separates or is a word by itself; of other characters the table knows.
_RUN = re.compile("[^\x00-/:-@\\[-`{-\x7f]+")
_NOT_RUN = re.compile("[\x00-/:-@\\[-`{-\x7f]")
_LONGEST_LOOK_BACK = 256


def _decompose(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not _within(char, _REMOVED))


def _classify(char: str) -> str:
    """One folded character as it goes into the index: part of a word, a token of its own, or a space."""
    if char in _LONE_SOUND_MARKS:
        return ""
    category = _category(char)
    if char == _PUNCTUATION_IN_FTS5 or not (category[0] in "LNM" or category in ("Co", "So")):
        return " "
    return f" {char} " if category == "So" or _within(char, _UNSPACED) else char


def _fold(char: str) -> str:
    """What a character becomes. With a space in it, it also begins and ends with one."""
    folded = unicodedata.normalize("NFC", _decompose(_decompose(char).casefold()))
    tokens = "".join(map(_classify, folded))
    # "Apple™" is to be found as "apple", and "2½" is not 21 halves: signs stand apart from words.
    apart = " " in tokens or (tokens != "" and _category(char) == "So")
    return f" {tokens} " if apart else tokens


class _Table(dict[int, str]):
    """A translation table that learns a character when it first meets it."""

    def __missing__(self, code: int) -> str:
        folded = self[code] = _fold(chr(code))
        return folded


_TABLE = _Table()
_ASCII_TABLE = {code: chr(code) if chr(code).isalnum() else " " for code in range(128)}


# Sorting a run of marks costs its square, in one call that lets nobody else run. What people write has a few
# on a letter; Unicode's own stream-safe format (UAX #15) allows thirty.
_LONG_RUN = re.compile(r"[^\w\s\x00-\x7f]{31,}")
_MOST_MARKS = 30


def _shorten(run: re.Match[str]) -> str:
    kept: list[str] = []
    marks = 0
    for char in run[0]:
        marks = marks + 1 if unicodedata.combining(char) else 0
        if marks <= _MOST_MARKS:
            kept.append(char)
    return "".join(kept)


def _compose(text: str) -> str:
    """One normal form for composed and decomposed text, halfwidth kana included."""
    text = _LONG_RUN.sub(_shorten, text)
    if "\uff9e" in text or "\uff9f" in text:
        text = _HALFWIDTH_KANA.sub(lambda kana: unicodedata.normalize("NFKC", kana[0]), text)
    return unicodedata.normalize("NFC", text)


def segment(text: str) -> str:
    """The tokens of the text, folded, joined by single spaces."""
    if text.isascii():
        return " ".join(text.lower().translate(_ASCII_TABLE).split())
    return " ".join(_compose(text).translate(_TABLE).split())


def _composes(char: str) -> bool:
    return _category(char)[0] == "M" or _within(char, _COMPOSING)


def _clusters(run: str) -> Iterator[tuple[int, int]]:
    """The smallest slices that compose independently of one another."""
    start = 0
    for end in range(1, len(run)):
        if not _composes(run[end]):
            yield start, end
            start = end
    yield start, len(run)


def _folds(run: str) -> Iterator[tuple[str, int, int]]:
    """Each character's folding with the slice of the run it stands for."""
    if _compose(run) == run:
        for at, char in enumerate(run):
            yield _TABLE[ord(char)], at, at + 1
        return
    for start, end in _clusters(run):
        for char in _compose(run[start:end]):
            yield _TABLE[ord(char)], start, end


def _run_spans(run: str, offset: int) -> Iterator[tuple[str, int, int]]:
    word: list[str] = []
    start = end = 0
    for folded, first, last in _folds(run):
        if " " in folded:
            if word:
                yield "".join(word), offset + start, offset + end
                word = []
            for token in folded.split():
                yield token, offset + first, offset + last
        elif folded:
            start, end = start if word else first, last
            word.append(folded)
    if word:
        yield "".join(word), offset + start, offset + end


def _run_start(text: str, at: int) -> int:
    """Where the run of word characters around `at` begins, as far back as a token may reasonably reach."""
    at = min(at, len(text))
    floor = max(0, at - _LONGEST_LOOK_BACK)
    before = text[floor:at][::-1]
    separator = _NOT_RUN.search(before)
    return at - separator.start() if separator else floor


def spans(text: str, start: int = 0) -> Iterator[tuple[str, int, int]]:
    """The tokens one by one, each with its start and end in the text; none that begins before `start`.

    A character that becomes several tokens gives each of them its own place.
    """
    for found in _RUN.finditer(text, _run_start(text, start) if start > 0 else 0):
        run, begin = found[0], found.start()
        if run.isascii():
            if begin >= start:
                yield run.lower(), begin, found.end()
            continue
        yield from (span for span in _run_spans(run, begin) if span[1] >= start)
