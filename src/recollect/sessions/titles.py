"""Titles: cleaned in the caller, unique in the store; numbered variants end in ` #` and digits."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..access import everybodys, locked, only
from ..encoding import Encoder
from ..engine.operation import Operation, all, one
from ..errors import InvalidTitle, TitleTaken
from ..filters import end_of_range
from ..journal import happened
from ..models import Session
from .change import change
from .record import read_session

LONGEST = 100

# C0 controls (but tab, line feed, return), DEL; zero-width, directional and invisible characters.
_DROPPED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffc\ud800-\udfff]"
)


def clean_title(text: str | None) -> str | None:
    """A title as it is stored: controls and invisible characters dropped, white space collapsed.

    None if nothing is left; InvalidTitle if more than 100 characters are.
    """
    if text is not None and not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidTitle(f"a title is text, not {type(text).__name__}; not stored")
    title = " ".join(_DROPPED.sub("", text or "").split())
    if len(title) > LONGEST:
        raise InvalidTitle(f"a title has at most {LONGEST} characters, this one {len(title)}; not stored")
    return title or None


def as_title(encoder: Encoder, text: str | None) -> str | None:
    """A title as given, cleaned, and cleaned again after it was redacted."""
    return clean_title(encoder.text(clean_title(text), "title"))


def holder_of(title: str, but: str, within: str | None = None) -> Operation[tuple[bool, str | None]]:
    """Whether another session has the title, and which; not named if it is not of the user `within`."""
    row = yield one("SELECT id, user_id FROM sessions WHERE title = :title AND id <> :id", title=title, id=but)
    if row is None:
        return False, None
    return True, row.id if within is None or row.user_id == within else None


def claim(title: str | None, session_id: str, within: str | None = None) -> Operation[None]:
    """Raises TitleTaken if another session has the title."""
    if title is None:
        return
    taken, by = yield from holder_of(title, session_id, within)
    if taken:
        raise TitleTaken(title, by)


def set_title(session_id: str, title: str | None, within: str | None) -> Operation[str | None]:
    """Gives a session its title; None takes it away."""
    row = yield from locked(session_id, "session, title")
    yield everybodys()  # who has it may be another
    yield from claim(title, session_id, within)
    yield only(within)
    if title != row.title:
        yield from change(row.session, {"title": title})
        yield from happened("store.titled", session_id, title)
    return title


def find_title(title: str, within: str | None) -> Operation[str | None]:
    """The session of exactly that title."""
    row = yield one("SELECT id, user_id FROM sessions WHERE title = :title AND id IS NOT NULL", title=title)
    return row.id if row and within in (None, row.user_id) else None


def read_titled(title: str, within: str | None) -> Operation[Session | None]:
    """The session of exactly that title."""
    id = yield from find_title(title, within)
    return None if id is None else (yield from read_session(id, within))


def resolve_title(title: str, within: str | None) -> Operation[str | None]:
    """The latest of the title's numbered variants, by creation, then id; else that of exactly the title."""
    variants = yield from _variants(title)
    own = [(created_at, id) for _, created_at, id, user in variants if within in (None, user)]
    if own:
        return max(own)[1]
    return (yield from find_title(title, within))


_VARIANTS = """
SELECT title, created_at, id, user_id FROM sessions
WHERE title >= :first AND title < :end AND id IS NOT NULL"""

Variant = tuple[int, int, str, str | None]
"""number, time of creation, id and user"""


def _variants(base: str) -> Operation[list[Variant]]:
    """The numbered titles of a base, also those it had to be cut for."""
    found = yield from _numbered(base, range(1, _DIGITS + 1))
    digits = 1
    while (cut := base[: LONGEST - len(" #") - digits].rstrip()) != base and digits <= _DIGITS_OF_CUT:
        found += yield from _numbered(cut, [digits])
        digits += 1
    return found


def _numbered(base: str, digits: Sequence[int]) -> Operation[list[Variant]]:
    """The titles that are the base with a number of so many digits."""
    first = f"{base} #"
    rows = yield all(_VARIANTS, first=first, end=end_of_range(first))
    numbers = [(row.title.removeprefix(first), row) for row in rows]
    return [(int(n), row.created_at, row.id, row.user_id) for n, row in numbers if _is_number(n) and len(n) in digits]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS


_DIGITS, _DIGITS_OF_CUT = 18, 6
"""of a variant's number: more would leave no room for the title; and of one that was cut for its number"""


def next_title(base: str) -> Operation[str]:
    """The base, if nobody has it; else the number after the highest. The unnumbered one counts as the
    first; the base is cut where the number would not fit."""
    base = stem(base)
    number = 1
    if (yield from _is_taken(base)):
        number = 2
    for taken, *_ in (yield from _variants(base)):
        number = max(number, taken + 1)
    while number > 1 and (yield from _is_taken(variant(base, number))):
        number += 1  # cut to fit, it may be the variant of another base
    return variant(base, number)


def _is_taken(title: str) -> Operation[bool]:
    return (yield one("SELECT 1 AS n FROM sessions WHERE title = :title AND id IS NOT NULL", title=title)) is not None


def stem(title: str) -> str:
    """The title without the number at its end."""
    base, mark, number = title.rpartition(" #")
    return base if mark and base and _is_number(number) else title


def variant(base: str, number: int) -> str:
    """The base with its number, in 100 characters; the unnumbered title counts as the first."""
    suffix = "" if number == 1 else f" #{number}"
    return base[: LONGEST - len(suffix)].rstrip() + suffix
