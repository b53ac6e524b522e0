"""Which compaction put away which message there, and where the notes stand.

The audit rows say from which seq to which, not what was put away. The older versions took whatever
lay between; the later ones, which write into a note where it stands (`ord`), took neighbours in the order
of the transcript, in which a note stands far before its seq. So the compactions are gone through again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

ACTIVE, PUT_AWAY = "active", "compacted_out"


class Line(NamedTuple):
    """A message, as far as compactions go."""

    seq: int
    state: str
    ord: int | None = None
    """of a note: where it stands, if it says so"""
    first: int | None = None
    """of a note: the first seq that it says it stands for"""
    stood: int = 0
    """it is known to have been active still when the message with this seq was there"""

    def may_be_in(self, fold: Fold) -> bool:
        """Whether the compaction can have put it away, as far as its audit row tells."""
        return fold.first <= self.seq <= fold.last and max(self.seq, self.stood) < fold.note_seq


class Fold(NamedTuple):
    """A compaction, as its audit row has it."""

    seq: int
    note_seq: int
    first: int
    last: int


class Folded(NamedTuple):
    """What became of the messages."""

    under: dict[int, int]
    """seq of a message → that of the compaction that put it away"""
    places: dict[int, int]
    """seq of a message → its position"""


def replay(lines: Sequence[Line], folds: Sequence[Fold]) -> Folded:
    """Goes through the compactions in the order in which they were made; those without a note are not told
    of."""
    by_seq = {line.seq: line for line in sorted(lines)}
    folds = sorted([fold for fold in folds if fold.note_seq in by_seq])
    under: dict[int, int] = {}
    waiting = list(reversed(by_seq.values()))
    standing: list[Line] = []
    for at, fold in enumerate(folds):
        while waiting and waiting[-1].seq < fold.note_seq:
            standing.append(waiting.pop())
        taken = _taken(standing, fold, by_seq, folds[at + 1 :])
        under.update(dict.fromkeys(taken, fold.seq))
        standing = [line for line in standing if line.seq not in under]
    _explain_rest(by_seq.values(), folds, under)
    return Folded(under, _places(by_seq, folds, under))


def _taken(standing: Sequence[Line], fold: Fold, by_seq: Mapping[int, Line], later: Sequence[Fold]) -> list[int]:
    """What the compaction put away of the messages that stood there then."""
    within = {line.seq for line in standing if line.state == PUT_AWAY and line.may_be_in(fold)}
    start = by_seq[fold.note_seq].ord
    if start is None:
        return sorted(within)
    if fold.last in by_seq and by_seq[fold.last].first is not None:
        # The highest seq is that of a note, and does not tell how far the neighbours reach. But the ends of
        # a later compaction still stood there then.
        within -= {seq for other in later for seq in (other.first, other.last)}
    return _neighbours(standing, start, within)


def _neighbours(standing: Sequence[Line], start: int, allowed: Collection[int]) -> list[int]:
    """From the message whose place the note took on, up to the first that is not to be among them."""
    taken: list[int] = []
    for place, line in sorted([(line.seq if line.ord is None else line.ord, line) for line in standing]):
        if place < start or line.state not in (ACTIVE, PUT_AWAY):
            continue
        if line.seq not in allowed:
            break
        taken.append(line.seq)
    return taken


def _place(note: Line, places: Mapping[int, int], taken: Collection[int]) -> int:
    """A note stands where the first of what it stands for stood; where nothing is left of that, it says
    itself where."""
    if taken:
        return min([places[seq] for seq in taken])
    if note.ord is not None and 1 <= note.ord <= note.seq:
        return note.ord
    if note.first is not None and 1 <= note.first <= note.seq:
        return places.get(note.first, note.first)
    return note.seq


def _explain_rest(lines: Collection[Line], folds: Sequence[Fold], under: dict[int, int]) -> None:
    """What was put away and is no neighbour: under the first compaction whose range it lies in."""
    for line in lines:
        if line.state == PUT_AWAY and line.seq not in under:
            for fold in folds:
                if line.may_be_in(fold):
                    under[line.seq] = fold.seq
                    break


def _places(by_seq: Mapping[int, Line], folds: Sequence[Fold], under: Mapping[int, int]) -> dict[int, int]:
    """Where each message stands; also a note that has no audit row."""
    taken: dict[int, list[int]] = {}
    for seq, fold_seq in under.items():
        taken.setdefault(fold_seq, []).append(seq)
    fold_of = {fold.note_seq: fold.seq for fold in folds}
    places = {seq: seq for seq in by_seq}
    for seq, line in by_seq.items():  # ascending: inner notes before outer ones
        if line.first is not None or seq in fold_of:
            places[seq] = _place(line, places, taken.get(fold_of.get(seq, 0), ()))
    return places
