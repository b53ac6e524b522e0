"""Where a seq stands in the transcript, and which compactions stand across that place.

The transcript is the active messages by (position, seq). A note stands for messages, some of which may
be notes themselves. To end the transcript at a message that was put away, or in the midst of what a
note stands for, the compaction has to be undone first, and so has each that put away its note.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..engine.operation import Operation, Row, all, one
from ..errors import InvalidRecord
from .shift import COMPACTED, REWOUND
from .transcript import ACTIVE


class Landing(NamedTuple):
    """The place of the last message that stays, and the compactions to undo, outermost first."""

    position: int
    seq: int
    undone: Sequence[Effect]


class Effect(NamedTuple):
    """A compaction in effect: its note, where that stands, and how far what it stands for reaches."""

    seq: int
    note_seq: int
    note_state: int
    under: int | None
    """the compaction that put its note away"""
    first: int
    last: int
    """positions, of everything below it"""


BEFORE_ALL = Landing(-1, -1, ())


def land(session: int, seq: int) -> Operation[Landing]:
    """Finds the place. Raises InvalidRecord for a seq that is not in the transcript."""
    if seq == 0:
        return BEFORE_ALL
    target = yield from read_place(session, seq)
    if target is None or target.state == REWOUND or (target.state == COMPACTED and target.compacted_by is None):
        raise InvalidRecord(f"seq {seq} is not in the transcript; nothing was changed")
    effects = yield from read_effects(session)
    if target.compacted_by is not None and target.compacted_by not in effects:
        raise InvalidRecord(f"seq {seq} is not in the transcript; nothing was changed")
    undone = _across(effects, target)
    if any(effect.note_state != ACTIVE and effect.under is None for effect in undone):
        raise InvalidRecord(f"seq {seq} is under a note that is not in the transcript; nothing was changed")
    return Landing(target.position, seq, undone)


def _across(effects: dict[int, Effect], target: Row) -> list[Effect]:
    undone: dict[int, Effect] = {}
    inner = target.compacted_by
    while inner is not None:  # what put the target away, or its note
        undone[inner] = effects[inner]
        inner = effects[inner].under
    changed = True
    while changed:
        changed = False
        for effect in effects.values():
            shown = effect.note_state == ACTIVE or effect.under in undone
            across = effect.first <= target.position < effect.last and effect.note_seq != target.seq
            if shown and across and effect.seq not in undone:
                undone[effect.seq] = effect
                changed = True
    return sorted(undone.values(), key=lambda effect: -effect.note_seq)  # a note is put away under a later one


def read_place(session: int, seq: int) -> Operation[Row | None]:
    """Where the message of that seq stands, in any state."""
    return (
        yield one(
            "SELECT position, seq, state, compacted_by FROM messages"
            " WHERE session = :session AND state IN (0, 1, 2) AND position = :seq AND seq = :seq"
            " UNION ALL SELECT position, seq, state, compacted_by FROM messages"
            " WHERE session = :session AND seq = :seq AND seq <> position AND state IN (0, 1, 2)",
            session=session,
            seq=seq,
        )
    )


_EFFECTS = """
SELECT c.seq, c.note_seq, n.state AS note_state, n.compacted_by AS under, c.from_seq AS first, c.to_seq AS last
FROM compactions c JOIN messages n ON n.session = c.session AND n.seq = c.note_seq AND n.seq <> n.position
WHERE c.session = :session AND c.undone_at IS NULL ORDER BY c.note_seq"""


def read_effects(session: int) -> Operation[dict[int, Effect]]:
    """The session's compactions in effect, by seq."""
    rows = yield all(_EFFECTS, session=session)
    reach = {row.seq: [row.first, row.last] for row in rows}
    for row in rows:  # the note of an inner one is older: its reach is complete before it is added to the outer one
        if row.under in reach:
            outer, inner = reach[row.under], reach[row.seq]
            outer[:] = min(outer[0], inner[0]), max(outer[1], inner[1])
    return {row.seq: Effect(row.seq, row.note_seq, row.note_state, row.under, *reach[row.seq]) for row in rows}
