"""The one segmenter: what is indexed is what is searched, on every engine."""

from __future__ import annotations

import sqlite3
import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.search.segment import VERSION, _version, segment, spans

LETTERS = "aZ9 _-.'’…\0\t\n\u00a0ßŒİıſﬁ½²™㎏①ÅΩς東京あがｶﾞﾊﾟー한ㅎㅏ각ไทยกำກုမြန်ខ្មែរकि़क्षक़ьйё"
SIGNS = "🙂👍🏽👩‍💻🇩🇪1️⃣♥️≠\ud800\ue000\u166d\u0301\u0338\u3099\u1161\u11a8\u09c7\u09be\u00ad\u200b\u200d\ufeff"
RARE = "\ufdfa\u1e9e\u0345\U0001d15e\U00016d67\U0001fae8\u212b\u037e\u0958\u0344\ufb1d"
CURIOUS = st.sampled_from([*LETTERS, *SIGNS, *RARE, "e\u0301"])
TEXTS = st.text(max_size=40) | st.lists(CURIOUS, max_size=25).map("".join)
ENOUGH = settings(derandomize=True, deadline=None, max_examples=150)


class Index:
    """FTS5 as the SQLite engine sets it up."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:")
        tokenize = "unicode61 remove_diacritics 0 categories 'L* N* Co M* So'"
        self.db.execute(f'CREATE VIRTUAL TABLE texts USING fts5(text, tokenize="{tokenize}")')
        self.db.execute("CREATE VIRTUAL TABLE terms USING fts5vocab(texts, instance)")

    def tokens(self, text: str) -> list[str]:
        self.db.execute("DELETE FROM texts")
        self.db.execute("INSERT INTO texts VALUES (?)", (text,))
        return [term for (term,) in self.db.execute("SELECT term FROM terms ORDER BY offset")]

    def finds(self, phrase: str) -> bool:
        found = self.db.execute("SELECT count(*) FROM texts WHERE texts MATCH ?", (f'"{phrase}"',)).fetchone()
        return found[0] == 1


INDEX = Index()


@given(TEXTS)
@ENOUGH
def test_fts5_indexes_exactly_the_tokens(text: str) -> None:
    """FTS5's tokenizer, run over a segmented text, neither folds nor separates anything further."""
    assert INDEX.tokens(segment(text)) == segment(text).split()


@given(TEXTS, st.data())
@ENOUGH
def test_every_stretch_of_tokens_is_found_as_a_phrase(text: str, data: st.DataObject) -> None:
    """A phrase of tokens finds the text that they came from."""
    tokens = INDEX.tokens(segment(text)) and segment(text).split()
    if tokens:
        first = data.draw(st.integers(0, len(tokens) - 1))
        assert INDEX.finds(" ".join(tokens[first : data.draw(st.integers(first + 1, len(tokens)))]))


def test_fts5_agrees_about_every_character() -> None:
    """Python's Unicode tables and FTS5's differ in age, but not on whether a character belongs to a word."""
    # Every 16th of the blocks that hold nothing but ideographs, Hangul syllables or private use.
    uniform = [
        range(0x3400, 0xA000),
        range(0xAC00, 0xF900),
        range(0x17000, 0x19000),
        range(0x20000, 0x10FFFF),
    ]
    codes = [c for c in range(1, sys.maxunicode) if c % 16 == 0 or not any(c in block for block in uniform)]
    tokens = {code: segment(f"a{chr(code)}a").split() for code in codes}
    tokens = {code: found for code, found in tokens.items() if found != ["a", "a"]}
    index = Index()
    rows = ((code, " ".join(found)) for code, found in tokens.items())
    index.db.executemany("INSERT INTO texts(rowid, text) VALUES (?, ?)", rows)
    indexed: dict[int, dict[int, str]] = {code: {} for code in tokens}
    for code, term, offset in index.db.execute("SELECT doc, term, offset FROM terms"):
        indexed[code][offset] = term
    assert [hex(code) for code in tokens if [indexed[code][at] for at in sorted(indexed[code])] != tokens[code]] == []


@given(TEXTS)
@ENOUGH
def test_spans_are_the_tokens_with_their_places(text: str) -> None:
    """`spans` gives the tokens of `segment`, in order, each inside the text and not empty."""
    found = list(spans(text))
    assert [token for token, _, _ in found] == segment(text).split()
    assert all(0 <= start < end <= len(text) for _, start, end in found)
    assert [start for _, start, _ in found] == sorted(start for _, start, _ in found)


@given(TEXTS)
@ENOUGH
def test_a_span_cut_out_of_its_text_is_its_token(text: str) -> None:
    """The slice of a span holds its token, so that a snippet marks the right words."""
    for token, start, end in spans(text):
        assert token in segment(text[start:end]).split()


@given(TEXTS, st.integers(0, 30))
@ENOUGH
def test_spans_from_an_offset_are_the_tokens_that_begin_there_or_later(text: str, start: int) -> None:
    """Starting in the middle of a text never yields the rest of a token."""
    assert list(spans(text, start)) == [span for span in spans(text) if span[1] >= start]


@given(TEXTS)
@ENOUGH
def test_composed_and_decomposed_text_agree(text: str) -> None:
    """How a keyboard composes letters makes no difference."""
    assert segment(unicodedata.normalize("NFD", text)) == segment(text)
    assert segment(unicodedata.normalize("NFC", text)) == segment(text)


@given(st.text(st.characters(max_codepoint=127), max_size=60))
@ENOUGH
def test_ascii_text_is_segmented_as_any_other(text: str) -> None:
    """The fast path for ASCII is only faster."""
    assert segment(text) == segment(text + "…")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Café CAFÉ cafe\u0301", "cafe cafe cafe"),
        ("Straße STRASSE", "strasse strasse"),
        ("İstanbul ΣΊΣΥΦΟΣ σίσυφος", "istanbul σισυφοσ σισυφοσ"),
        ("ﬁle ｆｕｌｌ", "file full"),
        ("file_name.py BUG-490 user@x.y don’t", "file name py bug 490 user x y don t"),
        ("東京タワー", "東 京 タ ワ ー"),
        ("ガ ｶﾞ ハ", "ガ ガ ハ"),
        ("한국어", "한 국 어"),
        ("ก็ไทย", "ก ็ ไ ท ย"),
        ("हिन्दी", "हिन्दी"),
        ("👍🏽 ♥️ 👩‍💻 🇩🇪", "👍 ♥ 👩 💻 🇩 🇪"),
        ("1️⃣", "1"),
        ("ok🙂then", "ok 🙂 then"),
        ("Apple™ 2½ x²", "apple tm 2 1 2 x2"),
        ("co\u00adoperate\ufeff می\u200cخواهم", "cooperate میخواهم"),
        ("a\0b\ud800c\x1fd_e\u200bf", "a b c d e f"),
        ("", ""),
        (" \n…", ""),
    ],
)
def test_text_becomes_tokens(text: str, tokens: str) -> None:
    """Folded by case, accents and width; separated by what is no letter, number, mark or symbol."""
    assert segment(text) == tokens


def test_places_are_those_of_the_text_as_written() -> None:
    """Foldings that change the length of a word do not move the places of others."""
    text = "Maße ﬁt, cafe\u0301!"
    assert [text[start:end] for _, start, end in spans(text)] == ["Maße", "ﬁt", "cafe\u0301"]


def test_spans_are_read_lazily() -> None:
    """The first token of a long text costs no more than that of a short one."""
    text = "straße " * 1_000_000
    began = time.perf_counter()
    assert next(spans(text)) == ("strasse", 0, 6)
    assert time.perf_counter() - began < 0.5, "all of it takes seconds"


@pytest.mark.parametrize("text", ["é" * 300_000, "e\u0301" * 300_000, "-" * 1_000_000, "東" * 300_000])
def test_long_runs_take_linear_time(text: str) -> None:
    """One endless word costs what as much text in short words does."""
    began = time.perf_counter()
    assert sum(1 for _ in spans(text)) == len(segment(text).split())
    assert time.perf_counter() - began < 20, "quadratic would be minutes"


def test_the_version_grows_with_ours_and_with_pythons_tables() -> None:
    """Newer Unicode tables fold and separate otherwise: what they were not used for is indexed again."""
    versions = [
        _version(*given) for given in ((1, "14.0.0"), (1, "15.0.0"), (1, "15.1.0"), (1, "16.0.0"), (2, "14.0.0"))
    ]
    assert versions == sorted(set(versions))
    assert _version(1, "14.0.0") == 1_140_000
    assert _version(VERSION // 1_000_000, unicodedata.unidata_version) == VERSION
    assert VERSION < 2**31
