"""Receipts: appends on their way that nobody needs to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from ..models import MessageRef


class Receipt:
    """An append on its way: `await` it for the MessageRef, or leave it to `store.flush()`.

    Cancelling whoever awaits it does not cancel the append.
    """

    __slots__ = ("_future", "_heard", "_waiting")

    def __init__(self, future: asyncio.Future[list[MessageRef]]) -> None:
        self._future = future
        self._waiting = 0
        self._heard = False

    def __await__(self) -> Generator[Any, None, MessageRef]:
        self._waiting += 1
        try:
            refs = yield from asyncio.shield(self._future).__await__()
            return refs[0]
        finally:
            self._waiting -= 1
            self._heard = self._heard or self._future.done()

    @property
    def is_heard(self) -> bool:
        """Whether somebody has learnt, or is waiting to learn, what became of it."""
        return self._heard or self._waiting > 0

    def done(self) -> bool:
        """Whether it is decided: stored, or failed."""
        return self._future.done()
