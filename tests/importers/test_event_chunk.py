"""A chunk of events on its way into the store: what takes the place of what."""

from __future__ import annotations

from collections import Counter

import pytest

from recollect import AsyncSessionStore, Event
from recollect.encoding import Encoder
from recollect.engine.operation import Operation
from recollect.events.given import prepare
from recollect.importers.event_chunk import EventChunk, Landed, Mode, Piece, load_events
from recollect.sessions.retention import delete


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.name)
async def test_an_event_about_to_be_erased_is_none(store: AsyncSessionStore, mode: Mode) -> None:
    """Of a session that was deleted, before its rows are gone: what is read again is recorded, and stays."""
    event = Event("tool", session_id="s", name="Bash", dedupe_key="k")
    chunk = EventChunk(
        importer="x", version=1, pieces=[Piece("tools", prepare(Encoder(row_bytes=1_000), event), mode)], cursors=[],
        skipped=Counter(), rejected=[],
    )  # fmt: skip

    def read_again() -> Operation[Landed]:
        yield from delete("s", True, None)  # in one transaction, so that nothing is erased in between
        return (yield from load_events(chunk, store._engine.fulltext))

    await store.sessions.create("s")
    first = await store.events.record(event)
    assert (await store.write(read_again)).inserted == {"tools": 1}
    await store.flush(index=True)
    (recorded,) = await store.events.recent("tool")
    assert recorded.id > first
