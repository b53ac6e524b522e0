"""Importing records: one after the other into the store, parents joined to children at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from anyio import to_thread

from ..access import Access
from ..encoding import Encoder
from ..engine.writer import Lane
from ..errors import InvalidRecord
from ..reports import REMEMBERED, Imported, Rejection
from ..usage.ledger import Round
from .arrival import Arrival, Arrived, arrive, link, prepare_arrival

Records = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]


async def import_records(
    access: Access, encoder: Encoder, records: Records, progress: Callable[[int], object] | None
) -> Imported:
    """See `Sessions.import_`."""
    tally = _Tally()
    orphans: list[tuple[int, str, Arrived]] = []
    done = 0
    async for record in _each(records):
        done += 1
        try:
            arrival = await to_thread.run_sync(prepare_arrival, encoder, record, access.user_id)
        except InvalidRecord as error:
            tally.reject("sessions", done, str(error))
        else:
            arrived: Arrived = await access.write_any(arrive, arrival, size=arrival.size, lane=Lane.BACKGROUND)
            tally.take(done, arrival, arrived)
            if arrived.parent_id is not None:
                orphans.append((done, arrival.new.id, arrived))
        if progress is not None:
            progress(done)
    for at, session_id, arrived in orphans:
        given = (link, session_id, arrived.parent_id, access.user_id)
        if not await access.write_any(*given, lane=Lane.BACKGROUND) and arrived.is_new:
            tally.reject("parents", at, f"session {session_id!r}: its parent {arrived.parent_id!r} is not there")
    return tally.result()


async def _each(records: Records) -> AsyncIterator[Mapping[str, Any]]:
    if isinstance(records, AsyncIterable):
        async for record in records:
            yield record
    elif isinstance(records, Mapping) or not isinstance(records, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"records must be several, not {type(records).__name__}; nothing was stored")
    else:
        for record in records:
            yield record


def _kept(rounds: list[Round]) -> set[object]:
    """Those rows of a ledger that no later row of the same round takes the place of."""
    return {at if row.round_index is None else (row.send_index, row.round_index) for at, row in enumerate(rounds)}


class _Tally:
    def __init__(self) -> None:
        self._inserted: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._rejections: list[Rejection] = []
        self._existing: list[str] = []

    def take(self, at: int, arrival: Arrival, arrived: Arrived) -> None:
        if not arrived.is_new:
            self._existing.append(arrival.new.id)
            return
        self._inserted["sessions"] += 1
        for kind, rows in (
            ("messages", arrival.rows), ("compactions", arrival.compactions), ("usage", _kept(arrival.rounds)),
        ):  # fmt: skip
            self._inserted[kind] += len(rows)
        for kind, reason in arrived.left_out:
            self.reject(kind, at, reason)

    def reject(self, kind: str, at: int, reason: str) -> None:
        self._rejected[kind] += 1
        if len(self._rejections) < REMEMBERED:
            self._rejections.append(Rejection(kind, "", at, reason))

    def result(self) -> Imported:
        return Imported(
            files=0,
            unchanged=0,
            inserted=+self._inserted,
            amended=Counter(),
            duplicate=+Counter(sessions=len(self._existing)),
            rejected=+self._rejected,
            skipped=Counter(),
            rejections=tuple(self._rejections),
            existing=tuple(self._existing),
        )
