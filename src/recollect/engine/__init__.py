"""Engines: what runs operations against a database. Nothing in here knows a room."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from ..errors import StoreError
from ..models import Row
from .fulltext import FullText
from .operation import Operation
from .writer import Lane


class Engine(Protocol):
    """The two verbs, and what rooms may know of an engine."""

    name: str
    """what was opened, without secrets"""
    not_open: StoreError
    """the error of whoever does not wait for `open`"""
    fulltext: FullText
    readonly: bool
    guards_rows: bool
    """whether the database itself keeps users apart (`as_user`); known when it is open"""
    on_commit: list[Callable[[], None]]
    """called on the loop after each batch that this engine committed"""

    def listening(self) -> AbstractAsyncContextManager[bool]:
        """While inside, `on_commit` is called also when another process has committed, if the database can tell:
        whether it does."""
        ...

    def write(
        self, op: Callable[..., Operation[Any]], *args: Any, session: str | None = None, size: int = 256,
        lane: Lane = Lane.FOREGROUND,
    ) -> Awaitable[Any]:  # fmt: skip
        """Runs `op(*args)` in the next batch; to be awaited for its result, which comes after COMMIT."""
        ...

    def gather(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> Awaitable[Any]:
        """The same for one item of a coalescing operation on one session."""
        ...

    def submit(self, op: Callable[..., Operation[Any]], item: Any, session: str, size: int) -> asyncio.Future[Any]:
        """The same, queued before it returns; QueueFull if there is no room."""
        ...

    async def read(self, op: Callable[..., Operation[Any]], *args: Any, deadline_s: float | None = None) -> Any:
        """Runs `op(*args)` on a reader, in one snapshot."""
        ...

    async def query(self, sql: str, params: dict[str, Any], *, deadline_s: float) -> list[Row]:
        """The rows of somebody's own SELECT; anything else is InvalidQuery."""
        ...

    async def integrity(self) -> list[str]:
        """What is wrong with the database's own structure; nothing: []."""
        ...

    async def tidy(self, *, vacuum: bool = False) -> bool:
        """Puts the database's own house in order; `vacuum`: writes it anew, so that nothing that was erased is left.
        Whether it could be done: somebody who reads may keep it from that."""
        ...

    async def backup(self, path: str, progress: Callable[[int, int], object] | None, *, replace: bool = True) -> None:
        """Writes a copy of one moment to a file, in place of one that is there if `replace`. `progress` gets bytes
        done, and all there are."""
        ...

    async def facts(self) -> dict[str, Any]:
        """What the engine knows of itself and its files."""
        ...

    async def open(self) -> None:
        """Makes the schema or brings it up to date, and gets ready."""
        ...

    async def aclose(self, timeout_s: float) -> None:
        """Drains, then closes."""
        ...
