"""The room of messages: what callers give is prepared here and handed to the engine's two verbs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack

from ..encoding import Encoder, as_id, bounded
from ..engine import Engine
from ..errors import InvalidRecord
from ..filters import page_size
from ..models import Message, MessageFields, MessageRef, NewMessage, Page
from .append import append
from .prepare import Append, as_new_message, prepare_append, prepare_words
from .transcript import read_conversation, read_count, read_id, read_page, read_seq, read_since, read_tail

log = logging.getLogger("recollect")

_PAGE = 256
"""messages fetched in one hop by `stream`"""

States = Literal["active", "all"]


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


class Messages:
    """Appending and reading messages; `store.messages`."""

    def __init__(self, engine: Engine, encoder: Encoder, failed: Callable[[Receipt, Any], None]) -> None:
        self._engine = engine
        self._encoder = encoder
        self._failed = failed

    async def append(
        self, session_id: str, *, role: str, content: Any = None, **fields: Unpack[MessageFields]
    ) -> MessageRef:
        """Appends a message; returns its id and seq once it is committed.

        content: text, or a list or dict kept exactly as given, whose texts are searchable.
        name, tool_call_id: of a tool's result. tool_calls: a list counts as one call per entry.
        reasoning, reasoning_details, provider_items, token_count, finish_reason, metadata: kept.
        round_index, send_index: where it belongs in the agent's loop; send_index is the session's
        current send, which a user message advances.
        external_id: an idempotency key within the session; a repeated one returns the first reference.
        created_at: aware, else the time of the call. expected_seq: refuse (SequenceConflict) unless the
        message would get this seq. fence: refuse (TurnLost) unless it is that of the turn's holder.
        pending (None clears) and usage commit together with the message; usage of a round replaces what
        was recorded for it before, and without a round_index, here or in the message, is a row of its own.

        Cancelled before its batch was taken, nothing is stored; after that it is, and repeating it with
        the same external_id is harmless. Raises SessionNotFound, InvalidRecord and what the store may.
        """
        if type(content) is str and not fields:
            item = prepare_words(self._encoder, session_id, role, content)
        else:
            item = self._prepare(session_id, {"role": role, "content": content, **fields})
        return (await self._engine.gather(append, item, session_id, item.rows[0].size))[0]

    def _prepare(self, session_id: str, given: dict[str, Any]) -> Append:
        expected_seq, fence = given.pop("expected_seq", None), given.pop("fence", None)
        message = as_new_message(given)
        return prepare_append(self._encoder, session_id, [message], expected_seq=expected_seq, fence=fence)

    async def append_many(
        self,
        session_id: str,
        messages: Sequence[NewMessage | Mapping[str, Any]],
        *,
        expected_seq: int | None = None,
        fence: int | None = None,
    ) -> list[MessageRef]:
        """Appends several messages, all or none, with consecutive seqs. Mappings have the fields of
        `append`."""
        if not isinstance(messages, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRecord(f"messages must be several, not {type(messages).__name__}; not stored")
        news = [as_new_message(message) for message in messages]
        item = prepare_append(self._encoder, session_id, news, expected_seq=expected_seq, fence=fence)
        return await self._engine.gather(append, item, session_id, _size(item))

    def append_nowait(
        self, session_id: str, *, role: str, content: Any = None, **fields: Unpack[MessageFields]
    ) -> Receipt:
        """Queues a message now, with the fields of `append`, and returns a receipt to await.

        Raises QueueFull where there is no room, or where others wait for room. A receipt that fails
        and is never awaited is logged and counted, and `store.flush()` raises its error.
        """
        item = self._prepare(session_id, {"role": role, "content": content, **fields})
        future = self._engine.submit(append, item, session_id, item.rows[0].size)
        receipt = Receipt(future)
        future.add_done_callback(lambda done: self._settled(receipt, done))
        return receipt

    def _settled(self, receipt: Receipt, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            return
        error = future.exception()  # retrieves it: nothing is raised at random
        if error is not None and not receipt.is_heard:
            self._failed(receipt, error)

    async def get(
        self, session_id: str | None = None, seq: int | None = None, *, id: int | None = None
    ) -> Message | None:
        """The message by session and seq, or by id; None if there is none."""
        if id is not None:
            return await self._engine.read(read_id, bounded(id, "id"))
        if session_id is None or seq is None:
            raise InvalidRecord("get takes a session_id and a seq, or an id")
        return await self._engine.read(read_seq, as_id(session_id), bounded(seq, "seq"))

    async def list(
        self,
        session_id: str,
        *,
        state: States = "active",
        after: str | None = None,
        after_seq: int | None = None,
        limit: int | None = None,
    ) -> Page[Message]:
        """Messages in the order of the transcript, `limit` of them (None: all); `page.next` goes into
        `after`. With `after_seq`, what was appended after that seq, in the order of appending; its
        `page.next` goes into `after` beside it. A session that does not exist has none."""
        _check_state(state)
        if after_seq is not None:
            return await self._engine.read(
                read_since, as_id(session_id), state, bounded(after_seq, "after_seq"), after, page_size(limit)
            )
        return await self._engine.read(read_page, as_id(session_id), state, after, page_size(limit))

    async def tail(self, session_id: str, n: int) -> Sequence[Message]:
        """The last `n` active messages, oldest of them first."""
        return await self._engine.read(read_tail, as_id(session_id), page_size(n, "n"))

    async def stream(
        self, session_id: str, *, state: States = "active", after: str | None = None
    ) -> AsyncIterator[Message]:
        """Every message in the order of the transcript. Fetched page by page; between pages nothing is
        held, so a slow consumer costs nothing."""
        _check_state(state)
        while True:
            page: Page[Message] = await self._engine.read(read_page, as_id(session_id), state, after, _PAGE)
            for message in page.items:
                yield message
            if page.next is None:
                return
            after = page.next

    async def conversation(
        self, session_id: str, *, ancestors: bool = False, limit: int | None = None
    ) -> Sequence[dict[str, Any]]:
        """The active transcript as model providers take it: `{role, content}`, with tool_call_id,
        tool_name and tool_calls where set, and on assistant rows reasoning, reasoning_details and
        codex_reasoning_items. `ancestors`: those of the sessions it continues come first. `limit`: the
        newest so many."""
        return await self._engine.read(read_conversation, as_id(session_id), ancestors, page_size(limit))

    async def count(self, session_id: str | None = None) -> int:
        """Messages of a session (0 if unknown), or of all."""
        return await self._engine.read(read_count, None if session_id is None else as_id(session_id))


def _check_state(state: str) -> None:
    if state not in ("active", "all"):
        raise InvalidRecord(f"state must be 'active' or 'all', not {state!r}")


def _size(item: Append) -> int:
    return sum(row.size for row in item.rows)
