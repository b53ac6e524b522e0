"""Snippets: one line of the stored text, around what was found."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.engine.fulltext import Phrase
from recollect.search.query import parse, phrases
from recollect.search.segment import segment
from recollect.search.snippet import snippet

WORDS = st.sampled_from(["a", "b", "c", "ab", "A", "é", "e\u0301", "ß", "京", "🙂", "ﬁ", "½", "c_d"])
GAPS = st.sampled_from([" ", "  ", "\n", ", ", " - ", "…", "_", "\t\n", ""])
TEXTS = st.lists(WORDS | GAPS, max_size=60).map("".join)
TOKENS = st.lists(st.sampled_from(["a", "b", "c", "ab", "e", "ss", "京"]), min_size=1, max_size=3).map(tuple)
PHRASES = st.lists(st.builds(Phrase, TOKENS, st.booleans()), max_size=3, unique=True)
ENOUGH = settings(derandomize=True, deadline=None, max_examples=200)
MARKS = ("\ue000", "\ue001")
MARKED = re.compile("\ue000([^\ue001]*)\ue001")


def cut(text: str, query: str, tokens: int = 40) -> str:
    """The snippet for what someone typed."""
    match = parse(query)
    return snippet(text, phrases(match) if match else (), tokens=tokens)


def plain(marked: str) -> str:
    """A snippet without its marks and dots."""
    return re.sub("[\ue000\ue001]", "", marked).removeprefix("...").removesuffix("...")


def holds(words: list[str], phrase: Phrase) -> bool:
    """Whether a phrase is among the words."""
    *whole, last = phrase.tokens
    ends = [at + len(whole) for at in range(len(words) - len(whole)) if words[at : at + len(whole)] == whole]
    return any(words[end].startswith(last) if phrase.prefix else words[end] == last for end in ends)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("deploy", "The quick >>>deploy<<< of file_name.py failed. See BUG-490"),
        ("fail*", "The quick deploy of file_name.py >>>failed<<<. See BUG-490"),
        ("file_name.py", "The quick deploy of >>>file_name.py<<< failed. See BUG-490"),
        ("see quick", "The >>>quick<<< deploy of file_name.py failed. >>>See<<< BUG-490"),
        ('"the quick" "quick deploy"', ">>>The quick deploy<<< of file_name.py failed. See BUG-490"),
        ("bug bug-490", "The quick deploy of file_name.py failed. See >>>BUG-490<<<"),
        ("missing", "The quick deploy of file_name.py failed. See BUG-490"),
        ("ail", "The quick deploy of file_name.py failed. See BUG-490"),
    ],
)
def test_every_match_is_marked(query: str, expected: str) -> None:
    """From a phrase's first token to its last, as written; with matches that share tokens marked as one."""
    text = "The quick  deploy of\n\tfile_name.py failed. See BUG-490\n"
    assert cut(text, query) == expected
    assert cut(text + "…", query) == expected + " …"


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("Un CAFE\u0301 noir", "café", "Un >>>CAFE\u0301<<< noir"),
        ("Die Straße, ﬁn", "strasse fin", "Die >>>Straße<<<, >>>ﬁn<<<"),
        ("昨日は東京タワーへ", "東京", "昨日は>>>東京<<<タワーへ"),
        ("done 👍🏽 thanks", "👍", "done >>>👍<<<🏽 thanks"),
    ],
)
def test_marks_stand_where_the_text_was_written(text: str, query: str, expected: str) -> None:
    """Folding finds it, the original is shown."""
    assert cut(text, query) == expected


def test_the_window_holds_the_most_distinct_phrases() -> None:
    """Two different words together are worth more than one of them again and again; the earliest on ties."""
    text = "red " * 30 + "x " * 30 + "red blue " + "x " * 30 + "blue red " + "x " * 30
    for written in (text, text + "…"):
        assert cut(written, "red blue", 8) == "...x x >>>red<<< >>>blue<<< x x x x..."
        assert cut(written, "red", 4) == ">>>red<<< >>>red<<< >>>red<<< >>>red<<<..."


@pytest.mark.parametrize("end", ["", " …"])
def test_there_is_context_on_both_sides(end: str) -> None:
    """A quarter before the match, more where the text ends soon after."""
    words = [f"w{number}" for number in range(100)]
    text = " ".join(words) + end
    assert cut(text, "w50", 8) == "...w48 w49 >>>w50<<< w51 w52 w53 w54 w55..."
    assert cut(text, "w1", 8) == "w0 >>>w1<<< w2 w3 w4 w5 w6 w7..."
    assert cut(text, "w98", 8) == "...w92 w93 w94 w95 w96 w97 >>>w98<<< w99" + end
    assert cut(text, "nowhere", 3) == "w0 w1 w2..."
    assert cut(text, "w50", 0) == cut(text, "w50", -5) == "...>>>w50<<<..."


@given(TEXTS, PHRASES, st.integers(1, 12))
@ENOUGH
def test_a_snippet_is_one_line_of_the_text(text: str, wanted: list[Phrase], tokens: int) -> None:
    """Nothing but marks and dots is added, white space is single spaces, and it is no longer than asked."""
    line = snippet(text, wanted, tokens=tokens, marks=MARKS)
    assert plain(line) in " ".join(text.split())
    assert "\n" not in line
    assert "  " not in line
    assert len(segment(plain(line)).split()) <= tokens + 1  # ½ is two tokens in one place
    assert line.startswith("...") or segment(text).startswith(segment(plain(line)))
    assert line.endswith("...") or segment(text).endswith(segment(plain(line)))


@given(TEXTS, PHRASES)
@ENOUGH
def test_what_is_found_is_marked_and_nothing_else(text: str, wanted: list[Phrase]) -> None:
    """With room for the whole text, there are marks if and only if a phrase is in it, and around one."""
    line = snippet(text, wanted, tokens=1_000, marks=MARKS)
    marked = MARKED.findall(line)
    assert bool(marked) == any(holds(segment(text).split(), phrase) for phrase in wanted)
    assert all(any(holds(segment(part).split(), phrase) for phrase in wanted) for part in marked)


@given(st.text("abc A.\n", max_size=80), PHRASES, st.integers(1, 12))
@ENOUGH
def test_ascii_text_is_cut_as_any_other(text: str, wanted: list[Phrase], tokens: int) -> None:
    """The fast path for ASCII marks what the segmenter's tokens would."""
    ends = (
        snippet(text + "\n.", wanted, tokens=tokens, marks=MARKS),
        snippet(text + "\n…", wanted, tokens=tokens, marks=MARKS),
    )
    assert ends[0] == ends[1].replace("…", ".")


@given(st.text(max_size=60), st.text(max_size=20), st.integers(-1, 5))
@ENOUGH
def test_no_text_raises(text: str, query: str, tokens: int) -> None:
    """Whatever was stored and whatever was typed."""
    assert isinstance(cut(text + query + text, query, tokens), str)


@pytest.mark.parametrize("tokens", [1, 40])
def test_matches_are_found_wherever_they_lie_in_a_long_text(tokens: int) -> None:
    """Reading a long text in pieces loses nothing at their edges."""
    for before in range(32_000, 34_000, 53):
        for start in ("é ", "e "):
            line = cut(start + "x" * before + " the needle " + "y " * 40_000, '"the needle"', max(tokens, 2))
            assert ">>>the needle<<<" in line


def test_any_number_of_tokens_may_be_asked_for() -> None:
    """More than there are is all of them."""
    assert cut("a b", "b", 10**20) == "a >>>b<<<"
    assert cut("é b", "b", 10**20) == "é >>>b<<<"


def test_a_long_token_is_not_shown_whole() -> None:
    """A base64 block is one token, and a snippet one line."""
    for block in ("QUJD" * 100_000, "éà" * 100_000):
        assert len(cut(f"see {block} end", "see")) < 3_000
        assert cut(f"see {block} end", "end").endswith(">>>end<<<")
    assert len(cut("see " + "QUJD" * 100_000, "quj*")) < 3_000


@pytest.mark.parametrize(
    "filler", ["The quick deploy of it. ", "x", "a " * 8, " ", "-", "naïve café ", "東京", "e\u0301"]
)
@pytest.mark.parametrize("query", ["needle", "the*", '"a a a b" x', "e a x"])
def test_long_texts_take_bounded_time(filler: str, query: str) -> None:
    """A megabyte costs milliseconds, wherever the match is."""
    text = filler * (1_000_000 // len(filler)) + " needle"
    began = time.thread_time()
    line = cut(text, query)
    assert time.thread_time() - began < 0.5
    assert query != "needle" or line.endswith(">>>needle<<<")
