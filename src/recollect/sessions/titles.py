"""Titles: cleaned in the caller, unique in the store."""

from __future__ import annotations

import re

from ..engine.operation import Operation, one
from ..errors import InvalidTitle, TitleTaken

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


def holder_of(title: str, but: str) -> Operation[str | None]:
    """The other session that has the title."""
    holder = yield one("SELECT id FROM sessions WHERE title = :title AND id <> :id", title=title, id=but)
    return holder and holder.id


def claim(title: str | None, session_id: str) -> Operation[None]:
    """Raises TitleTaken if another session has the title."""
    if title is not None and (holder := (yield from holder_of(title, but=session_id))):
        raise TitleTaken(title, by=holder)
