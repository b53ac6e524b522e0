"""What the tests of the bus and the transport share: publishing, and what a transport and its store say
became of events, put side by side."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from recollect import (
    AsyncSessionStore,
    Event,
    EventBus,
    EventTransport,
    Subscription,
    TransportStatistics,
    Unwritten,
)
from recollect.testing.engines import Target

from .outside import rows

GAP = "transport.gap"
PATIENCE_S = 10


async def numbers(events: Subscription) -> list[Any]:
    """What comes until the end."""
    async with asyncio.timeout(PATIENCE_S):
        return [event["n"] async for event in events]


def publish_some(bus: EventBus, name: str, n: int, start: int = 0) -> None:
    for k in range(start, start + n):
        bus.publish({"event": name, "n": k})


def check_sums(statistics: TransportStatistics) -> None:
    """Every event is counted in exactly one place."""
    s = statistics
    assert s.published == s.filtered + s.late + s.accepted, s
    assert s.accepted == s.written + s.skipped + s.dropped + s.rejected + s.unwritten + s.waiting, s


async def lost_in(store: AsyncSessionStore) -> int:
    """How many losses the gap records tell of."""
    return sum([event.payload["lost"] async for event in store.events.stream(kind=GAP)])


async def check_books(store: AsyncSessionStore, transport: EventTransport, unwritten: Unwritten | None = None) -> None:
    """The sums are exact, the gap records tell of each loss once, and what is called written is in the store."""
    s = transport.statistics()
    check_sums(s)
    untold = unwritten.untold if unwritten else 0
    assert await lost_in(store) + untold == s.dropped + s.rejected, s
    kinds = await store.query("SELECT kind, COUNT(*) FROM events WHERE kind NOT LIKE 'store.%' GROUP BY kind")
    counted = dict(map(tuple, kinds))
    assert counted.pop(GAP, 0) == s.gaps
    assert sum(counted.values()) == s.written, s
    if unwritten is not None:
        assert (s.waiting, s.unwritten) == (0, unwritten.events), s


def outside(path: Target) -> list[dict]:
    """The payloads of all that was published, in the order of recording, as another process finds them."""
    sql = f"SELECT payload FROM events WHERE kind <> '{GAP}' AND kind NOT LIKE 'store.%' ORDER BY id"
    return [msgspec.json.decode(payload) for (payload,) in rows(path, sql)]


async def stored(store: AsyncSessionStore) -> list[Event]:
    return [event async for event in store.events.stream()]


async def publish_one(store: AsyncSessionStore, event: Any, **options: Any) -> Event:
    """The event as it is found again."""
    async with store.transport(**options) as transport:
        transport.publish(event)
        await transport.flush()
        await check_books(store, transport)
    (found,) = await stored(store)
    return found
