"""Rewinding: the end of the transcript taken back, and restored."""

from __future__ import annotations

from ..engine.operation import Operation, execute
from ..journal import happened
from .compact import undo
from .landing import land
from .shift import REWOUND, Moved, count, less, move, opened
from .transcript import ACTIVE


def rewind(session_id: str, to_seq: int, fence: int | None) -> Operation[int]:
    """Takes back what stands behind that message; how many messages that were."""
    session = yield from opened(session_id, fence)
    landing = yield from land(session.session, to_seq)
    changes: list[Moved] = []
    for effect in landing.undone:
        changes += yield from undo(session.session, effect)
    taken = yield from move(
        session.session,
        f"state = {ACTIVE} AND (position, seq) > (:position, :seq)",
        REWOUND,
        position=landing.position,
        seq=landing.seq,
    )
    if not changes and not taken.messages:
        return 0
    yield from count(session.session, *changes, less(taken))
    yield execute("UPDATE sessions SET pending = NULL WHERE session = :session", session=session.session)
    yield from happened("store.rewound", session_id, str(to_seq))
    return taken.messages


def restore(session_id: str, fence: int | None) -> Operation[int]:
    """Puts everything that was taken back where it stood; how many messages that were."""
    session = yield from opened(session_id, fence)
    back = yield from move(session.session, f"state = {REWOUND}", ACTIVE)
    if back.messages:
        yield from count(session.session, back)
        yield from happened("store.restored", session_id)
    return back.messages
