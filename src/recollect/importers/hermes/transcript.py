"""The messages of one session, of which some are here already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from ...encoding import EPOCH, Encoder
from ...errors import InvalidRecord
from ...messages.prepare import NewRow, prepare
from ...messages.transcript import ACTIVE, STATES
from ...models import MessageState, NewMessage
from ..database import Piece
from .rows import EXTERNAL, Listed, message_of, state_of, time_of

REWOUND = STATES.index(MessageState.REWOUND)


class Transcript:
    """What there is and what is here, by the ids there."""

    def __init__(self, session: Listed, there: Sequence[int], here: Mapping[int, int]) -> None:
        self.fresh = [number for number in there if number not in here]
        """what is not here, ascending"""
        self.duplicate = len(there) - len(self.fresh)
        self.active = {number for number, state in here.items() if state == ACTIVE}
        self.newest = session.started_at
        """the time of the last message that was read"""
        self.grew = False
        self._there = there

    def rewritten(self) -> set[int]:
        """Messages that are active here and were taken out there, others being written in their place.

        Where nothing was, they were only deleted, and stay: that is what a store is for.
        """
        gone = self.active.difference(self._there)
        return gone if gone and self.fresh and self.fresh[-1] > max(gone) else set()


class Batch(NamedTuple):
    """Messages ready to be written."""

    rows: list[NewRow]
    away: dict[int, list[str]]
    """external ids of those that are not active, by their state"""
    rejected: list[tuple[int, str]]
    newest: datetime | None


def prepared(encoder: Encoder, piece: Piece, newest: datetime | None) -> Batch:
    """Checks and encodes what was read; called in a worker thread."""
    batch = Batch([], {}, [(number, "the file is damaged there") for number in piece.lost], newest)
    for row in piece.rows:
        fields, number = dict(row), int(row[0])
        newest = time_of(fields.get("timestamp")) or newest
        try:
            batch.rows.append(prepare(encoder, NewMessage(**message_of(number, fields, newest or EPOCH))))
        except InvalidRecord as error:
            batch.rejected.append((number, str(error)))
            continue
        state = STATES.index(state_of(fields))
        if state != ACTIVE:
            batch.away.setdefault(state, []).append(f"{EXTERNAL}{number}")
    return batch._replace(newest=newest)
