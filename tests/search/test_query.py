"""The query language: what people type always means something, or nothing, and is never an error."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.engine.fulltext import AllOf, AnyOf, Match, Phrase, Without
from recollect.search.query import parse, phrases
from recollect.search.segment import segment

SIGNS = 'ab "()*-+:^é京\0\ud800'
PIECES = st.sampled_from([*SIGNS, "AND", " AND ", " OR ", " NOT ", " -", '" "', "a*", "f_n.py", "''", "--"])
QUERIES = st.text(max_size=30) | st.lists(PIECES, max_size=30).map("".join)
ENOUGH = settings(derandomize=True, deadline=None, max_examples=200)


def shown(match: Match | None) -> str:
    """A match as text: `&` all of, `|` any of, `!` without, `'…'` phrase, `*` prefix."""
    if match is None:
        return "nothing"
    if isinstance(match, Phrase):
        words = " ".join(match.tokens)
        return (f"'{words}'" if len(match.tokens) > 1 else words) + ("*" if match.prefix else "")
    if isinstance(match, Without):
        return f"({shown(match.keep)} ! {shown(match.drop)})"
    return f"({(' & ' if isinstance(match, AllOf) else ' | ').join(map(shown, match.parts))})"


def everything(match: Match) -> list[Match]:
    """A match and all that is in it."""
    inner: tuple[Match, ...] = ()
    if isinstance(match, Without):
        inner = (match.keep, match.drop)
    elif isinstance(match, AllOf | AnyOf):
        inner = match.parts
    return [match, *(part for one in inner for part in everything(one))]


@pytest.mark.parametrize(
    ("query", "meaning"),
    [
        ("deploy failed", "(deploy & failed)"),
        ("Café", "cafe"),
        ('"exit code" two', "('exit code' & two)"),
        ("deploy*", "deploy*"),
        ('"exit co"*', "'exit co'*"),
        ("cafe\u0301*", "cafe*"),
        ("a b OR c AND d", "((a & b) | (c & d))"),
        ("(a OR b) c", "((a | b) & c)"),
        ("a NOT b c", "((a & c) ! b)"),
        ("NOT a b", "(b ! a)"),
        ("a -b -c", "(a ! (b | c))"),
        ('a -"b c"', "(a ! 'b c')"),
        ("a -(b OR c)", "(a ! (b | c))"),
        ("a (-b)", "(a ! b)"),
        ("a NOT NOT b", "(a & b)"),
        ("a OR b -c", "(a | (b ! c))"),
        ("not working and or", "(not & working & and & or)"),
        ('"NOT a" b', "('not a' & b)"),
        ("NOT(a)b", "(b ! a)"),
    ],
)
def test_the_language_means_what_it_says(query: str, meaning: str) -> None:
    """Words all match; AND binds tighter than OR; negations apply to the conjunction they stand in."""
    assert shown(parse(query)) == meaning


@pytest.mark.parametrize(
    ("query", "meaning"),
    [
        ("file_name.py", "'file name py'"),
        ("BUG-490", "'bug 490'"),
        ("user@x.y", "'user x y'"),
        ("don't", "'don t'"),
        ("foo/bar", "'foo bar'"),
        ("P2.2", "'p2 2'"),
        ("a,b", "'a b'"),
        ("a=b", "'a b'"),
        ("a*b", "'a b'"),
        ("a\0b", "'a b'"),
        ("file_name.p*", "'file name p'*"),
        ("東京 tower", "('東 京' & tower)"),
        ("東京*", "'東 京'*"),
        ("TODO: fix", "(todo & fix)"),
        ("#123", "123"),
        ("50%", "50"),
        ("[x]", "x"),
        ("foo.*", "foo"),
        ("foo**", "foo*"),
        ("+a ^b", "(a & b)"),
        ("AND*", "and*"),
        ("a -AND", "(a ! and)"),
    ],
)
def test_a_word_with_punctuation_inside_is_the_phrase_of_its_parts(query: str, meaning: str) -> None:
    """Names of files, people and issues are searched as they are written; other punctuation is nothing."""
    assert shown(parse(query)) == meaning


@pytest.mark.parametrize(
    ("query", "meaning"),
    [
        ("docker -compose", "(docker ! compose)"),
        ("run --rm it", "(run & rm & it)"),
        ("a - b", "(a & b)"),
        ("well-known", "'well known'"),
        ('"a"-b', "(a & b)"),
        ("(-a b)", "(b ! a)"),
        ("-", "nothing"),
        ("a -", "a"),
    ],
)
def test_a_dash_negates_only_where_a_term_begins(query: str, meaning: str) -> None:
    """After white space, a parenthesis or nothing; a dash within a word, alone or doubled is text."""
    assert shown(parse(query)) == meaning


@pytest.mark.parametrize(
    ("query", "meaning"),
    [
        ("a AND AND b", "(a & b)"),
        ("OR a", "a"),
        ("a OR", "a"),
        ("a OR OR b", "(a | b)"),
        ("a NOT", "a"),
        ("(a NOT) b", "(a & b)"),
        ("a OR -b", "a"),
        ("a OR NOT b OR c", "(a | c)"),
        ("() a", "a"),
        ("NOT () a", "a"),
        ('"" a', "a"),
        ("((a", "a"),
        ("a)) b", "(a & b)"),
        ('say "hello wor', "(say & hello & wor)"),
        ('docker -"com', "(docker ! com)"),
        ("AND", "and"),
        ("OR NOT", "(or & not)"),
    ],
)
def test_what_lacks_its_partner_is_left_out(query: str, meaning: str) -> None:
    """Half-typed queries mean what stands there so far; operators alone are words."""
    assert shown(parse(query)) == meaning


@pytest.mark.parametrize(
    "query",
    [
        "",
        "  \n",
        "***",
        "* ^ : +",
        '"',
        '""',
        '" "',
        "()",
        ")(",
        "\0",
        "\ud800",
        "-x",
        "NOT x",
        "-x OR -y",
        "…",
    ],
)
def test_there_may_be_nothing_to_look_for(query: str) -> None:
    """Blank, punctuation, or only negations."""
    assert parse(query) is None


@given(QUERIES)
@ENOUGH
def test_no_input_raises_and_every_match_is_well_formed(query: str) -> None:
    """Phrases and parts are never empty, single parts are not wrapped, and tokens are the segmenter's."""
    match = parse(query)
    for part in everything(match) if match else []:
        if isinstance(part, AllOf | AnyOf):
            assert len(part.parts) > 1
        if isinstance(part, Phrase):
            assert part.tokens
            assert segment(" ".join(part.tokens)).split() == list(part.tokens)


@given(QUERIES, st.integers(-1, 6))
@ENOUGH
def test_no_more_tokens_than_terms_are_taken(query: str, terms: int) -> None:
    """The limit counts every token, negated ones too."""
    match = parse(query, terms=terms)
    taken = [part for part in everything(match) if isinstance(part, Phrase)] if match else []
    assert sum(len(phrase.tokens) for phrase in taken) <= max(0, terms)


def test_a_phrase_is_cut_to_the_terms_left() -> None:
    """What is cut is no longer a prefix, and the rest is not read."""
    assert shown(parse('a b "c d e"* f', terms=4)) == "(a & b & 'c d')"
    assert shown(parse("a b*", terms=2)) == "(a & b*)"
    assert parse("a", terms=0) is None


@given(st.text(max_size=30))
@ENOUGH
def test_plain_words_are_all_looked_for(text: str) -> None:
    """Text without any of the language's signs gives its own tokens, in order."""
    words = segment(text).split()
    match = parse(" ".join(words), terms=100)
    assert [token for phrase in (everything(match) if match else []) if isinstance(phrase, Phrase)
            for token in phrase.tokens] == words  # fmt: skip


def test_phrases_are_those_a_hit_may_contain() -> None:
    """In the order of the query, each once, without what must not match."""
    match = parse('b* "a c" OR (a -d) OR "a c" -(e f)')
    assert match is not None
    assert phrases(match) == (Phrase(("b",), prefix=True), Phrase(("a", "c")), Phrase(("a",)))


@pytest.mark.parametrize(
    "query",
    ["(" * 10_000 + "a", "(a OR " * 10_000, "-(" * 10_000 + "a", "(a -(b OR " * 10_000, ")" * 10_000 + "a"],
)
def test_deep_nesting_is_bounded(query: str) -> None:
    """Engines may walk a match recursively: it is never deep enough to exhaust the stack."""
    match = parse(query, terms=10_000)
    assert match is None or len(shown(match)) > 0
    assert match is None or all(hash(part) for part in phrases(match))


def test_deeper_parentheses_are_read_as_punctuation() -> None:
    """Beyond the bound only the grouping is lost, and the groups around it close where they should."""
    assert shown(parse("(" * 40 + "a OR b" + ")" * 40 + " c")) == "((a | b) & c)"


@pytest.mark.parametrize(
    "piece", ["(", '"', '-" ', ". ", "-a ", "NOT ", "OR ", "x", "é", "e\u0301", "東", " ", '"a', "-(", "*"]
)
def test_long_queries_take_linear_time(piece: str) -> None:
    """300 kB of anything are read well within a second."""
    query = piece * (300_000 // len(piece))
    began = time.perf_counter()
    parse(query)
    assert time.perf_counter() - began < 1


def test_random_noise_is_a_query() -> None:
    """Ten kilobytes of any characters at all, surrogates and NUL among them."""
    noise = random.Random(490)
    for ceiling in (0x7F, 0x2FFF, 0xFFFF, 0x10FFFF):
        match = parse("".join(chr(noise.randint(0, ceiling)) for _ in range(10_000)), terms=10_000)
        assert match is not None
