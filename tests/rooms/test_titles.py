"""Titles: cleaned, unique in the store, numbered, found again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recollect import AsyncSessionStore, InvalidTitle, SessionNotFound, TitleTaken, clean_title

AT = datetime(2020, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


# -- cleaning --------------------------------------------------------------------------------------


def dropped() -> set[int]:
    """The code points that no title has, as the contract lists them; and lone surrogates, which no text has."""
    spans = [
        (0x00, 0x08), (0x0B, 0x0C), (0x0E, 0x1F), (0x7F, 0x7F), (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x2069),
        (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFC), (0xD800, 0xDFFF),
    ]  # fmt: skip
    return {code for first, last in spans for code in range(first, last + 1)}


def test_each_character_is_dropped_or_becomes_a_space_or_stays():
    """Every one of the basic plane and some beyond: those of the list go, white space is one space, the rest stays."""
    gone = dropped()
    for code in [*range(0x10000), 0x1F600, 0x10FFFF]:
        sign = chr(code)
        expected = "ab" if code in gone else "a b" if sign.isspace() else f"a{sign}b"
        assert clean_title(f"a{sign}b") == expected, hex(code)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (None, None),
        ("", None),
        (" \t\r\n\u00a0\u3000", None),
        ("\x00\x07\x7f\u200b\u202e\ufeff", None),
        (" \u200b \x00 ", None),
        ("  a \t\r\n b\u2009 ", "a b"),
        ("a\u200b b", "a b"),
        ("a \u200b b", "a b"),
        ("\u202eevil\u202c", "evil"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("'; DROP TABLE sessions; --", "'; DROP TABLE sessions; --"),
        ("京都 🚀 Über", "京都 🚀 Über"),
        ("50%_done!", "50%_done!"),
        ("a #2", "a #2"),
    ],
)
def test_a_title_is_what_is_visible_of_it(text: str | None, title: str | None):
    """White space is one space, and none at the ends; nothing visible is no title; signs are themselves."""
    assert clean_title(text) == title


def test_the_length_counts_after_cleaning():
    """100 characters are a title, whatever was dropped from between; 101 are InvalidTitle, which says so."""
    assert clean_title("\u200b".join("x" * 100) + " " * 50) == "x" * 100
    assert clean_title("🚀" * 100) == "🚀" * 100
    with pytest.raises(InvalidTitle, match="100 characters, this one 101"):
        clean_title(" " + "x" * 101 + " ")
    with pytest.raises(ValueError, match="not stored"):
        clean_title("x" * 1000)


@pytest.mark.parametrize("value", [1, b"title", ["title"], True])
def test_a_title_is_text(value: object):
    """Anything else is InvalidTitle, not a title made of its repr."""
    with pytest.raises(InvalidTitle, match=type(value).__name__):
        clean_title(value)


@given(st.text(max_size=120))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_cleaning_twice_is_cleaning_once(text: str):
    """What was cleaned is clean: no invisible character, no space at an end, no two spaces, not too long."""
    try:
        title = clean_title(text)
    except InvalidTitle:
        assert len(text) > 100
        return
    assert clean_title(title) == title
    assert title is None or (title == " ".join(title.split()) and not dropped() & set(map(ord, title)))


# -- set and cleared -------------------------------------------------------------------------------


async def title_of(store: AsyncSessionStore, session_id: str) -> str | None:
    return (await store.sessions.get(session_id)).title


async def test_a_title_is_stored_as_it_was_cleaned(any_store: AsyncSessionStore):
    """set_title returns what is stored; it replaces what was there; updated_at moves."""
    before = await any_store.sessions.create("s", created_at=AT)
    assert await any_store.sessions.set_title("s", "  First\u200b \n title ") == "First title"
    session = await any_store.sessions.get("s")
    assert session.title == "First title"
    assert session.updated_at > before.updated_at
    assert await any_store.sessions.set_title("s", "Second") == "Second"
    assert await title_of(any_store, "s") == "Second"
    assert await any_store.sessions.by_title("First title") is None


@pytest.mark.parametrize("blank", [None, "", "  ", "\u200b\x00\n"])
async def test_a_blank_title_takes_it_away(any_store: AsyncSessionStore, blank: str | None):
    """None is returned and stored, the title is free for another; clearing what has none is no error."""
    await any_store.sessions.create("s", title="T")
    for _ in range(2):
        assert await any_store.sessions.set_title("s", blank) is None
        assert await title_of(any_store, "s") is None
    assert await any_store.sessions.set_title((await any_store.sessions.create()).id, "T") == "T"


async def test_any_number_of_sessions_have_no_title(any_store: AsyncSessionStore):
    """Having none is not being the same."""
    for n in range(20):
        await any_store.sessions.create(f"s{n}", title=[None, "", " \u200b "][n % 3])
        await any_store.sessions.set_title(f"s{n}", None)
    assert [s.title async for s in any_store.sessions.stream()] == [None] * 20


async def test_too_long_a_title_is_refused_wherever_it_is_given(any_store: AsyncSessionStore):
    """At 101 characters InvalidTitle: the session keeps what it has, none appears."""
    sessions = any_store.sessions
    await sessions.create("s", title="T")
    long = "x" * 101
    for call in (
        sessions.set_title("s", long), sessions.create("new", title=long), sessions.ensure("s", title=long),
        sessions.ensure("new", title=long), sessions.for_key("k", title=long), sessions.fork("s", title=long),
        sessions.next_title(long),
    ):  # fmt: skip
        with pytest.raises(InvalidTitle, match="101"):
            await call
    assert await sessions.set_title("s", long[1:]) == long[1:]
    assert await sessions.count() == 1


async def test_a_title_of_an_unknown_session_is_session_not_found(any_store: AsyncSessionStore):
    """Naming it; the title stays free."""
    with pytest.raises(SessionNotFound, match="nobody"):
        await any_store.sessions.set_title("nobody", "T")
    assert (await any_store.sessions.create("s", title="T")).title == "T"


# -- unique ----------------------------------------------------------------------------------------


async def test_a_taken_title_names_its_holder(any_store: AsyncSessionStore):
    """TitleTaken has the title and who has it, in attributes and in words; nobody's title changes."""
    sessions = any_store.sessions
    await sessions.create("holder", title="My title")
    await sessions.create("s", title="Mine")
    before = [await sessions.get(name) for name in ("holder", "s")]
    for call in (
        sessions.set_title("s", " My\u200b  title "), sessions.create("new", title="My title"),
        sessions.ensure("new", title="My title"), sessions.for_key("k", title="My title"),
        sessions.fork("s", title="My title"),
    ):  # fmt: skip
        with pytest.raises(TitleTaken, match=r"'My title' is taken by another session, 'holder'; not stored") as taken:
            await call
        assert (taken.value.title, taken.value.by, taken.value.stored) == ("My title", "holder", False)
    assert [await sessions.get(name) for name in ("holder", "s")] == before
    assert await sessions.count() == 2


async def test_titles_differ_by_case_and_by_composition(any_store: AsyncSessionStore):
    """A title is compared as it is written."""
    for n, title in enumerate(("title", "Title", "TITLE", "é", "e\u0301", "title.")):
        await any_store.sessions.create(f"s{n}", title=title)
    assert (await any_store.sessions.by_title("Title")).id == "s1"
    assert (await any_store.sessions.by_title("e\u0301")).id == "s4"


async def test_a_session_may_be_given_its_own_title_again(any_store: AsyncSessionStore):
    """It is not taken by itself; nothing happened, so that no event and no time says otherwise."""
    await any_store.sessions.create("s")
    await any_store.sessions.set_title("s", "T")
    before = await any_store.sessions.get("s")
    for again in ("T", " T ", "T\u200b"):
        assert await any_store.sessions.set_title("s", again) == "T"
    assert await any_store.sessions.get("s") == before
    rows = await any_store.query("SELECT name FROM events WHERE kind = 'store.titled'")
    assert [row.name for row in rows] == ["T"]


async def test_a_title_survives_the_end_and_stays_taken(any_store: AsyncSessionStore):
    """Ended, archived, reopened, cleared: the title is the session's until it gives it up or is deleted."""
    sessions = any_store.sessions
    await sessions.create("s", title="T")
    await sessions.create("other")
    changes = [sessions.end("s", "done"), sessions.archive("s"), any_store.messages.clear("s"), sessions.unarchive("s"),
               sessions.reopen("s")]  # fmt: skip
    for change in changes:
        await change
        assert await title_of(any_store, "s") == "T"
        assert (await sessions.by_title("T")).id == await sessions.resolve_title("T") == "s"
        with pytest.raises(TitleTaken):
            await sessions.set_title("other", "T")
    await sessions.delete("s")
    assert await sessions.by_title("T") is None
    assert await sessions.set_title("other", "T") == "T"


async def test_titles_can_change_hands(any_store: AsyncSessionStore):
    """What one gives up, the next may take at once; queued together, in the order of the calls."""
    for name in "abc":
        await any_store.sessions.create(name, title=name)
    steps = [("a", None), ("b", "a"), ("c", "b"), ("a", "c")]
    await asyncio.gather(*(any_store.sessions.set_title(name, title) for name, title in steps))
    assert {name: await title_of(any_store, name) for name in "abc"} == {"a": "c", "b": "a", "c": "b"}


async def test_of_many_who_want_a_title_one_has_it(any_store: AsyncSessionStore):
    """Fifty tasks at once: the first gets it, all others are told who did."""
    for n in range(50):
        await any_store.sessions.create(f"s{n}")
    outcomes = await asyncio.gather(
        *(any_store.sessions.set_title(f"s{n}", "T") for n in range(50)), return_exceptions=True
    )
    assert outcomes[0] == "T"
    assert {type(each) for each in outcomes[1:]} == {TitleTaken}
    assert {each.by for each in outcomes[1:]} == {"s0"}


async def test_a_title_of_which_redaction_leaves_nothing_is_none():
    """What redact makes blank is blank: no title, for as many as there are."""
    async with AsyncSessionStore(":memory:", redact=lambda text: text.replace("secret", "")) as store:
        for name in "ab":
            assert (await store.sessions.create(name, title="secret")).title is None
            assert await store.sessions.set_title(name, " secret ") is None


async def test_a_title_is_not_too_long_after_redaction_either():
    """The limit is on what is stored."""
    async with AsyncSessionStore(":memory:", redact=lambda text: text.replace("s", "[redacted]")) as store:
        await store.sessions.create("a")
        with pytest.raises(InvalidTitle):
            await store.sessions.set_title("a", "s" * 90)


# -- found -----------------------------------------------------------------------------------------


async def test_by_title_is_exact(any_store: AsyncSessionStore):
    """Not cleaned, not in another case, no pattern, no part: the session, or None."""
    session = await any_store.sessions.create("s", title="My title_1")
    assert await any_store.sessions.by_title("My title_1") == session
    for other in ("my title_1", "My title%", "My titleX1", " My title_1", "My", "", "\x00", "\ud800", "My title_1 #2"):
        assert await any_store.sessions.by_title(other) is None


async def many(store: AsyncSessionStore, *titles: str) -> None:
    """A session for each, called by its title, an hour apart."""
    for n, title in enumerate(titles):
        await store.sessions.create(title, title=title, created_at=AT + n * HOUR)


RESOLVED = [
    (("T",), "T"),
    (("T", "T #2"), "T #2"),
    (("T #3", "T #2", "T"), "T #2"),  # the latest by creation, not by number
    (("T #2", "T #10", "T #9"), "T #9"),
    (("T #2",), "T #2"),  # without the unnumbered
    (("T", "T #007"), "T #007"),
    (("T", "T #two", "T #2b", "T # 2", "T #", "T #-1", "T #1.5", "T #२", "T #²"), "T"),  # digits only
    (("T", "T#2", "T 2", "TT #2", "xT #2", "t #2", "T #2 #3"), "T"),
    (("T #x",), None),
    (("t", "T."), None),
    ((), None),
]


@pytest.mark.parametrize(("titles", "found"), RESOLVED)
async def test_resolve_title_is_the_latest_variant_else_the_exact_one(
    any_store: AsyncSessionStore, titles: tuple[str, ...], found: str | None
):
    """Variants end in ` #` and digits, and nothing else does."""
    await many(any_store, *titles)
    assert await any_store.sessions.resolve_title("T") == found


async def test_variants_of_one_moment_are_in_the_order_of_their_ids(any_store: AsyncSessionStore):
    """The latest by creation, then by id: not by title, nor by the order in which they came."""
    for name, title in (("b", "T #2"), ("c", "T #1"), ("a", "T #3")):
        await any_store.sessions.create(name, title=title, created_at=AT)
    assert await any_store.sessions.resolve_title("T") == "c"
    await any_store.sessions.delete("c")
    assert await any_store.sessions.resolve_title("T") == "b"


async def test_percent_and_underscore_are_themselves(any_store: AsyncSessionStore):
    """In titles to resolve and in bases of the next one, for they are names and no patterns."""
    await many(any_store, "a_b", "aXb #2", "100%", "100 proof #7", "%", "_ #3", "a!b", "a'b #4", "a\\b #5")
    sessions = any_store.sessions
    found = {base: await sessions.resolve_title(base) for base in ("a_b", "100%", "%", "_", "a!b", "a'b", "a\\b", "a%")}
    assert found == {
        "a_b": "a_b", "100%": "100%", "%": "%", "_": "_ #3", "a!b": "a!b", "a'b": "a'b #4", "a\\b": "a\\b #5", "a%": None,
    }  # fmt: skip
    following = {base: await sessions.next_title(base) for base in ("a_b", "100%", "%", "_", "a'b", "a%", "aXb")}
    assert following == {
        "a_b": "a_b #2", "100%": "100% #2", "%": "% #2", "_": "_ #4", "a'b": "a'b #5", "a%": "a%", "aXb": "aXb #3",
    }  # fmt: skip


async def test_what_no_title_can_be_resolves_to_none(any_store: AsyncSessionStore):
    """Blank, unstorable and endless ones are not found, and no error."""
    await many(any_store, "T", "#2", "#2 #2")
    for text in ("", " ", "\x00", "\ud800", "T\x00", "x" * 10_000, "T #", "T "):
        assert await any_store.sessions.resolve_title(text) is None
    assert await any_store.sessions.resolve_title("#2") == "#2 #2"


async def test_titles_of_the_deleted_are_not_found(any_store: AsyncSessionStore):
    """Neither as variants nor exactly, nor do they count for the next number."""
    await many(any_store, "T", "T #2", "T #3")
    await any_store.sessions.delete("T #3")
    assert await any_store.sessions.resolve_title("T") == "T #2"
    assert await any_store.sessions.next_title("T") == "T #3"
    for name in ("T", "T #2"):
        await any_store.sessions.delete(name)
    assert await any_store.sessions.resolve_title("T") is None
    assert await any_store.sessions.next_title("T") == "T"


# -- the next --------------------------------------------------------------------------------------

NEXT = [
    ((), "T", "T"),
    ((), "T #7", "T"),  # nobody has any of them
    ((), " T \u200b#7 ", "T"),
    (("T",), "T", "T #2"),  # the unnumbered counts as the first
    (("T",), "T #9", "T #2"),
    (("T", "T #2"), "T", "T #3"),
    (("T", "T #2"), "T #2", "T #3"),
    (("T #2",), "T", "T #3"),
    (("T #1",), "T", "T #2"),
    (("T #0",), "T", "T"),
    (("T", "T #5"), "T", "T #6"),  # a gap is not filled: the number after the highest
    (("T #5", "T #3"), "T #3", "T #6"),
    (("T", "T #9", "T #10"), "T", "T #11"),  # by number, not as text
    (("T", "T #007"), "T", "T #8"),
    (("T", "T #x", "T #2b", "t #9", "TT #9"), "T", "T #2"),
    (("T #2 #3",), "T #2", "T"),  # one number is stripped from T #2: its base is T
    (("T #2",), "T #2 #3", "T #2 #2"),
    (("#2",), "#2", "#2 #2"),  # a number alone is no number
    ((), "#2", "#2"),
    (("x" * 100,), "x" * 100, "x" * 97 + " #2"),
    (("x" * 100, "x" * 97 + " #2"), "x" * 100, "x" * 97 + " #3"),
    (("x" * 97 + " #9", "x" * 97), "x" * 97, "x" * 96 + " #10"),
    (("x" * 96 + " yyy",), "x" * 96 + " yyy", "x" * 96 + " #2"),  # no two spaces where it is cut
]


@pytest.mark.parametrize(("titles", "base", "expected"), NEXT)
async def test_next_title_is_the_base_or_the_number_after_the_highest(
    any_store: AsyncSessionStore, titles: tuple[str, ...], base: str, expected: str
):
    """A number at the end of the base is stripped; the base is cut where the number does not fit in 100."""
    await many(any_store, *titles)
    assert await any_store.sessions.next_title(base) == expected
    await any_store.sessions.create("new", title=expected)
    assert await title_of(any_store, "new") == expected


async def test_a_cut_base_keeps_clear_of_the_variants_of_another(any_store: AsyncSessionStore):
    """Two long bases with one beginning are cut to the same words: their numbers go on in one row."""
    long, other, short = "x" * 98 + "ab", "x" * 98 + "cd", "x" * 97
    await many(any_store, long, other, short, f"{short} #2", f"{short} #3", f"{short} #5")
    given: list[str] = []
    for base in (long, other, long, short, other, short):
        given.append(await any_store.sessions.next_title(base))
        await any_store.sessions.create(title=given[-1])
    assert given == [*(f"{short} #{n}" for n in range(6, 10)), f"{short[1:]} #10", f"{short[1:]} #11"]


async def test_next_title_is_not_reserved(any_store: AsyncSessionStore):
    """Asking twice gives the same; of two who take it one is told, and asks again."""
    await many(any_store, "T")
    assert [await any_store.sessions.next_title("T") for _ in range(2)] == ["T #2", "T #2"]
    for name in "ab":
        await any_store.sessions.create(name)

    async def name_it(session_id: str) -> str:
        while True:
            try:
                return await any_store.sessions.set_title(session_id, await any_store.sessions.next_title("T"))
            except TitleTaken:
                continue

    assert sorted(await asyncio.gather(name_it("a"), name_it("b"))) == ["T #2", "T #3"]


async def test_a_blank_base_has_no_next(any_store: AsyncSessionStore):
    """InvalidTitle: there is nothing to number."""
    for base in ("", " \u200b ", "\x00"):
        with pytest.raises(InvalidTitle):
            await any_store.sessions.next_title(base)


async def test_a_number_as_long_as_a_title_still_has_a_next(any_store: AsyncSessionStore):
    """Even where the number takes all the room, the next title is one: clean, and free."""
    await many(any_store, "x #" + "9" * 97)
    for name in "ab":
        title = await any_store.sessions.next_title("x")
        assert clean_title(title) == title
        await any_store.sessions.create(name, title=title)


@pytest.mark.parametrize("digits", [5, 18, 19, 40, 90, 97, 5000])
async def test_a_number_may_have_any_length(any_store: AsyncSessionStore, digits: int):
    """Given here, or in a record from elsewhere: titles are resolved and numbered beside it, and stay titles."""
    title = "T #" + "9" * digits
    report = await any_store.sessions.import_([{"id": "s", "title": title}])
    assert report.inserted["sessions"] == (len(title) <= 100)
    assert await any_store.sessions.resolve_title("T") in (None, "s")
    for name in "abc":
        following = await any_store.sessions.next_title("T")
        assert clean_title(following) == following
        assert (await any_store.sessions.create(name, title=following)).title == following


# -- the property ----------------------------------------------------------------------------------

WORDS = st.sampled_from(["T", "t", "T ", "x" * 97, "x" * 99, "x" * 100, "x" * 95 + " yz", "#2", "a_b", "a%", "é\u0301"])
NUMBERS = st.sampled_from(["", " #1", " #2", " #3", " #9", " #09", " #99", " #x", " #2 #2", "#2", " # 2", "\u200b #4"])
TITLES = st.one_of(st.builds(str.__add__, WORDS, NUMBERS), st.text(max_size=8))


@given(taken=st.lists(TITLES, max_size=8), bases=st.lists(TITLES, min_size=1, max_size=6))
@example(taken=["x" * 97 + " #9", "x" * 97], bases=["x" * 97, "x" * 100, "x" * 99])
@settings(derandomize=True, deadline=None, max_examples=80)
def test_the_next_title_is_always_free_and_clean(taken: list[str], bases: list[str]):
    """Whatever titles there are: it is stored as it was given, with nobody in the way, and begins with the base."""
    asyncio.run(_next_is_free_and_clean(taken, bases))


async def _next_is_free_and_clean(taken: list[str], bases: list[str]) -> None:
    async with AsyncSessionStore(":memory:") as store:
        for title in taken:
            try:
                await store.sessions.create(title=title)
            except (InvalidTitle, TitleTaken):
                continue
        for base in bases:
            try:
                title = await store.sessions.next_title(base)
            except InvalidTitle:
                assert not (clean_title(base) if len(base) <= 100 else None)
                continue
            assert clean_title(title) == title
            assert len(title) <= 100
            assert await store.sessions.by_title(title) is None
            session = await store.sessions.create(title=title)
            assert session.title == title
            stem = title.rpartition(" #")[0] or title
            assert clean_title(base).startswith(stem)
