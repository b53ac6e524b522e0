"""The room of messages: what callers give is prepared here and handed to the engine's two verbs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack

from ..access import Access
from ..encoding import Encoder, as_id, bounded
from ..errors import InvalidRecord
from ..fields import MessageFields
from ..filters import page_size
from ..models import Compaction, Message, MessageRef, NewMessage, Page
from .append import append
from .compact import compact, prepare_compaction, read_compactions, uncompact
from .prepare import Append, as_fence, as_new_message, prepare_append, prepare_words
from .receipt import Receipt
from .rewind import restore, rewind
from .rewrite import clear, replace
from .transcript import read_conversation, read_count, read_id, read_page, read_seq, read_since, read_tail

_PAGE = 256
"""messages fetched in one hop by `stream`"""

States = Literal["active", "all"]


class Messages:
    """Appending, reading and rewriting messages; `store.messages`."""

    def __init__(self, access: Access, encoder: Encoder, failed: Callable[[Receipt, Any], None]) -> None:
        self._access = access
        self._user = access.user_id
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
            item = prepare_words(self._encoder, session_id, role, content, self._user)
        else:
            item = self._prepare(session_id, {"role": role, "content": content, **fields})
        return (await self._access.gather(append, item, session_id, item.rows[0].size))[0]

    def _prepare(self, session_id: str, given: dict[str, Any]) -> Append:
        expected_seq, fence = given.pop("expected_seq", None), given.pop("fence", None)
        return self._item(session_id, [as_new_message(given)], expected_seq, fence)

    def _item(self, session_id: str, news: Sequence[NewMessage], expected_seq: int | None, fence: int | None) -> Append:
        return prepare_append(
            self._encoder, session_id, news, expected_seq=expected_seq, fence=fence, within=self._user
        )

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
        item = self._item(session_id, _several(messages), expected_seq, fence)
        return await self._access.gather(append, item, session_id, _size(item))

    def append_nowait(
        self, session_id: str, *, role: str, content: Any = None, **fields: Unpack[MessageFields]
    ) -> Receipt:
        """Queues a message now, with the fields of `append`, and returns a receipt to await.

        Raises QueueFull where there is no room, or where others wait for room. A receipt that fails
        and is never awaited is logged and counted, and `store.flush()` raises its error.
        """
        item = self._prepare(session_id, {"role": role, "content": content, **fields})
        future = self._access.submit(append, item, session_id, item.rows[0].size)
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
            return await self._access.read_any(read_id, bounded(id, "id"), self._user)
        if session_id is None or seq is None:
            raise InvalidRecord("get takes a session_id and a seq, or an id")
        return await self._access.read(read_seq, session_id, bounded(seq, "seq"))

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
            return await self._access.read(
                read_since, session_id, state, bounded(after_seq, "after_seq"), after, page_size(limit)
            )
        return await self._access.read(read_page, session_id, state, after, page_size(limit))

    async def tail(self, session_id: str, n: int) -> Sequence[Message]:
        """The last `n` active messages, oldest of them first."""
        return await self._access.read(read_tail, session_id, page_size(n, "n"))

    async def stream(
        self, session_id: str, *, state: States = "active", after: str | None = None
    ) -> AsyncIterator[Message]:
        """Every message in the order of the transcript. Fetched page by page; between pages nothing is
        held, so a slow consumer costs nothing."""
        _check_state(state)
        while True:
            page: Page[Message] = await self._access.read(read_page, session_id, state, after, _PAGE)
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
        return await self._access.read(read_conversation, session_id, ancestors, page_size(limit), self._user)

    async def count(self, session_id: str | None = None) -> int:
        """Messages in the transcript of a session (0 if unknown), or of all."""
        id = None if session_id is None else as_id(session_id)
        return await self._access.read_any(read_count, id, self._user)

    # -- rewriting -----------------------------------------------------------------------------

    async def compact(
        self,
        session_id: str,
        *,
        note: Any,
        from_seq: int | None = None,
        to_seq: int | None = None,
        seqs: Iterable[int] | None = None,
        before_tokens: int | None = None,
        after_tokens: int | None = None,
        round_index: int | None = None,
        note_meta: Mapping[str, Any] | None = None,
        fence: int | None = None,
    ) -> Compaction:
        """Puts messages away under a note, which stands where the first of them stood.

        from_seq, to_seq: what stands in the transcript from the place of the one to that of the other,
        both included (left out: from the beginning, to the end); notes in between go too. seqs: exactly
        these. The note is a message of the role `system` named `compact_note`, with `compacted_at_round`,
        `from_seq`, `to_seq`, `original_tokens` and `summary_tokens` in its metadata. Messages put away
        are found by searches and by `list(state="all")`. Raises SessionNotFound, TurnLost for a stale
        fence, and InvalidRecord where there is nothing to put away.
        """
        new = prepare_compaction(
            self._encoder, note=note, from_seq=from_seq, to_seq=to_seq, seqs=seqs, before_tokens=before_tokens,
            after_tokens=after_tokens, round_index=round_index, note_meta=note_meta, fence=as_fence(fence),
        )  # fmt: skip
        return await self._write(compact, session_id, new, size=new.note.size)

    async def uncompact(self, session_id: str, seq: int, *, fence: int | None = None) -> Compaction:
        """Undoes a compaction: its messages stand where they stood, its note is put away. Raises
        SessionNotFound, and InvalidRecord unless it is in effect and its note in the transcript."""
        return await self._write(uncompact, session_id, bounded(seq, "seq"), as_fence(fence))

    async def compactions(self, session_id: str, *, undone: bool = False) -> Sequence[Compaction]:
        """The session's compactions in effect, in order; with `undone` those that were undone too."""
        return await self._access.read(read_compactions, session_id, undone)

    async def rewind(self, session_id: str, to_seq: int, *, fence: int | None = None) -> int:
        """Takes back everything in the transcript behind the message `to_seq` (0: all of it), and what was
        pending; how many messages that were. They are hidden from reads and searches unless asked for.

        A compaction that stands across that place is undone first. Raises SessionNotFound, and
        InvalidRecord for a seq that is not in the transcript.
        """
        return await self._write(rewind, session_id, bounded(to_seq, "to_seq"), as_fence(fence))

    async def restore(self, session_id: str, *, fence: int | None = None) -> int:
        """Puts all that rewinds took back where it stood, before what was appended since; how many
        messages that were. Raises SessionNotFound."""
        return await self._write(restore, session_id, as_fence(fence))

    async def replace(
        self, session_id: str, messages: Sequence[NewMessage | Mapping[str, Any]], *, fence: int | None = None
    ) -> Sequence[MessageRef]:
        """Writes the active transcript anew, all or nothing: what was there is put away, not lost. The new
        messages take over external ids, and begin no new send. Raises SessionNotFound, InvalidRecord."""
        item = self._item(session_id, _several(messages), None, fence)
        return await self._write(replace, session_id, item, size=_size(item))

    async def clear(self, session_id: str, *, fence: int | None = None) -> int:
        """Removes every message of the session, its compactions and what is pending; how many messages
        the transcript had. Tokens and costs stay, and seqs are not used again. Raises SessionNotFound."""
        return await self._write(clear, session_id, as_fence(fence))

    async def _write(self, op: Any, session_id: str, *args: Any, size: int = 256) -> Any:
        return await self._access.write(op, self._encoder.identifier(session_id, "session_id"), *args, size=size)


def _several(messages: Iterable[NewMessage | Mapping[str, Any]]) -> Sequence[NewMessage]:
    if not isinstance(messages, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRecord(f"messages must be several, not {type(messages).__name__}; not stored")
    return [as_new_message(message) for message in messages]


def _check_state(state: str) -> None:
    if state not in ("active", "all"):
        raise InvalidRecord(f"state must be 'active' or 'all', not {state!r}")


def _size(item: Append) -> int:
    return sum(row.size for row in item.rows)
