"""Receipts of appends that nobody waits for: each is stored, or its failure is not lost."""

from __future__ import annotations

import asyncio
import logging

import pytest

from recollect import AsyncSessionStore, InvalidRecord, MessageRef, SessionNotFound
from recollect.messages import append


async def test_cancelling_who_awaits_a_receipt_does_not_cancel_the_append(store: AsyncSessionStore, hold):
    """The receipt is shielded: it is stored, and can be awaited again."""
    await store.sessions.create("s")
    async with hold(store):
        receipt = store.messages.append_nowait("s", role="user", content="kept")

        async def wait() -> MessageRef:
            return await receipt

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not receipt.done()
    assert (await receipt).seq == 1
    assert await receipt == await receipt
    assert [message.content async for message in store.messages.stream("s")] == ["kept"]


async def test_a_receipt_that_fails_unawaited_is_logged_counted_and_raised_by_flush(
    any_store: AsyncSessionStore, caplog: pytest.LogCaptureFixture
):
    """Once, with the others in its notes; the next flush is clean."""
    with caplog.at_level(logging.WARNING, "recollect"):
        any_store.messages.append_nowait("nobody", role="user", content="secret words")
        any_store.messages.append_nowait("none", role="user")
        with pytest.raises(SessionNotFound, match="nobody") as failed:
            await any_store.flush()
    assert any("'none'" in note for note in failed.value.__notes__)
    assert len(caplog.records) == 2
    assert "secret" not in caplog.text
    assert (await any_store.stats()).dropped == 2
    await any_store.flush()


async def test_an_error_of_another_kind_is_no_less_a_loss(
    any_store: AsyncSessionStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """What is not an error of the store's is counted, logged and raised by flush as well."""

    def falls_over(*_: object):
        raise MemoryError("no more")

    await any_store.sessions.create("s")
    monkeypatch.setattr(append, "write_rounds", falls_over)
    with caplog.at_level(logging.WARNING, "recollect"):
        any_store.messages.append_nowait("s", role="assistant", usage={"prompt_tokens": 1})
        with pytest.raises(MemoryError, match="no more"):
            await any_store.flush()
    assert (await any_store.stats()).dropped == 1
    assert len(caplog.records) == 1
    await any_store.flush()


async def test_a_receipt_whose_error_was_retrieved_is_no_loss(any_store: AsyncSessionStore):
    """Awaited, it raises there; flush has nothing to say."""
    receipt = any_store.messages.append_nowait("nobody", role="user")
    with pytest.raises(SessionNotFound):
        await receipt
    await any_store.flush()
    assert (await any_store.stats()).dropped == 0


async def test_an_error_nobody_retrieved_is_raised_also_if_somebody_had_begun_to_wait(store: AsyncSessionStore, hold):
    """Who awaited it was cancelled before it failed: flush raises it."""
    async with hold(store):
        receipt = store.messages.append_nowait("nobody", role="user")

        async def wait() -> None:
            await receipt

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    with pytest.raises(SessionNotFound):
        await store.flush()


async def test_append_nowait_checks_what_it_is_given_at_once(any_store: AsyncSessionStore):
    """A bad record is refused at the call, not by the receipt."""
    for bad in (
        {"role": ""},
        {"role": "user", "content": 5},
        {"role": "user", "nonsense": 1},
        {"role": "user", "fence": "x"},
    ):
        with pytest.raises(InvalidRecord):
            any_store.messages.append_nowait("s", **bad)
