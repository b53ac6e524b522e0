"""What events are called, and the globs that tell which of them are meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Any

from ..errors import InvalidRecord
from .typed import Event, TypedEvent

LONGEST = 256
"""characters of a name; what is longer is cut, so that names can be remembered"""


def name_of(event: Any) -> str:
    """What an event is called: its `event` or `type`, or the kind of an `Event`; "" if it has no name, or one that
    cannot be had. Never raises."""
    try:
        name = _given(event)
        name = name if isinstance(name, str) else getattr(name, "value", None)
        return str.__str__(name)[:LONGEST] if isinstance(name, str) else ""  # of a subclass, only the text
    except Exception:
        return ""


def _given(event: Any) -> Any:
    if isinstance(event, Mapping):
        return event.get("event") or event.get("type") or event.get("kind")
    if isinstance(event, TypedEvent):
        event = event.event()
    return event.kind if isinstance(event, Event) else getattr(event, "type", None)


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name matches one of the globs; case matters."""
    if not all(isinstance(pattern, str) for pattern in patterns):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"patterns must be texts, not {patterns!r}")
    if not patterns:
        return lambda name: False
    match = re.compile("|".join(map(translate, patterns))).match
    return lru_cache(maxsize=1024)(lambda name: match(name) is not None)
