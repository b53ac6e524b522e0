"""A transcript of Claude Code, read chunk by chunk: lines in, messages and usage out, with the
sessions they belong to. Runs in a worker thread."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple

import msgspec

from ...encoding import Encoder, instant, moment, now
from ...errors import InvalidRecord
from ...messages.amend import PARTS
from ...messages.prepare import prepare
from ...models import NewMessage, NewUsage
from ...usage.ledger import prepare_round
from ..chunk import Chunk, Counted, Piece
from ..cursor import Cursor, Kept, identity, tail_hash
from ..lines import Line, LineReader
from ..source import open_file
from .queue import Prompt
from .record import Record, Unreadable, agent_of, decode, is_whole, plain, reply, runs
from .sessions import RANK, SOURCE, Origin, Origins
from .state import State, read_state, remember

IMPORTER = "claude_code"
VERSION = 1

CHUNK_BYTES = 1024 * 1024
"""of lines read at once, and written in one transaction"""


class Place(NamedTuple):
    """Where a record belongs."""

    session: Origin
    uuid: str
    """what makes the record known again"""
    at: int
    line: int


class Transcript:
    """One file on its way into the store."""

    def __init__(self, path: str, cursor: Cursor | None, agents: dict[str, str], encoder: Encoder) -> None:
        self._path = path
        self._encoder = encoder
        self._as_stored = Encoder(row_bytes=encoder.row_bytes)  # for texts that were redacted before
        self._file: BinaryIO = open_file(path)
        self._stat = os.fstat(self._file.fileno())
        state = read_state(cursor.kept) if cursor and cursor.continues(self._file) else None
        position, number = (cursor.position, cursor.kept.line) if cursor and state else (0, 0)
        self._state = state or State()
        self._lines = LineReader(self._file, position, number, is_whole)
        self._origins = Origins(path, self._state, agents, encoder)
        self._take_by_type: dict[str, Callable[[Record, Line], None]] = {
            "user": self._take_user,
            "assistant": self._take_assistant,
            "system": self._take_system,
            "attachment": self._take_attachment,
            "queue-operation": self._take_queue,
            "progress": self._take_progress,
            **dict.fromkeys(RANK, self._take_title),
        }
        self._begin()

    @property
    def position(self) -> int:
        """Bytes of the file that have been read."""
        return self._lines.position

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    # -- chunks --------------------------------------------------------------------------------

    def next_chunk(self) -> Chunk | None:
        """What the next lines hold; None behind the last chunk."""
        if self._lines.ended:
            return None
        self._begin()
        for line in self._lines.take(CHUNK_BYTES):
            self._take(line)
        for number in self._lines.too_long:
            self._reject("lines", number, "the line is too long")
        self._lines.too_long.clear()
        if self._lines.ended:
            self._store_left()
        return self._chunk()

    def _begin(self) -> None:
        self._origins.begin()
        self._messages: dict[str, list[Piece]] = {}
        self._usage: list[Counted] = []
        self._skipped: Counter[str] = Counter()
        self._rejected: list[tuple[str, int, str]] = []

    def _chunk(self) -> Chunk:
        return Chunk(
            importer=IMPORTER,
            version=VERSION,
            source=SOURCE,
            sessions=self._origins.new_sessions(),
            messages=self._messages,
            usage=self._usage,
            titles=list(self._origins.titles.values()),
            spawned=self._origins.spawned,
            cursor=self._cursor(),
            skipped=self._skipped,
            rejected=self._rejected,
        )

    def _cursor(self) -> Cursor:
        device, inode = identity(self._stat)
        own = msgspec.Raw(msgspec.json.encode(self._state))
        return Cursor(
            source=self._path,
            device=device,
            inode=inode,
            position=self.position,
            size=self._stat.st_size,
            tail_hash=tail_hash(self._file, self.position),
            kept=Kept(self._stat.st_mtime_ns, self._lines.number, self._lines.ended, own),
        )

    # -- lines ---------------------------------------------------------------------------------

    def _take(self, line: Line) -> None:
        if not line.text.strip():
            return
        try:
            self._take_record(line)
        except OSError:
            raise  # it is the file that cannot be read
        except Exception as error:  # whatever is in a line, the others are not to suffer
            self._reject("lines", line.number, f"{type(error).__name__}: {error}")

    def _take_record(self, line: Line) -> None:
        try:
            record = decode(line.text, self._encoder)
        except Unreadable as error:
            self._reject("lines", line.number, str(error))
            return
        take = self._take_by_type.get(record.type) if isinstance(record.type, str) else None
        if take is None:
            self._skip(record)
            return
        try:
            take(record, line)
        except InvalidRecord as error:
            self._reject("titles" if record.type in RANK else "messages", line.number, str(error))

    def _reject(self, kind: str, line: int, reason: str) -> None:
        self._rejected.append((kind, line, reason))

    def _skip(self, record: Record) -> None:
        self._skipped[str(record.type)[:64]] += 1

    def _place(self, record: Record, line: Line) -> Place:
        at = self._at(record)
        uuid = record.uuid
        if not isinstance(uuid, str) or not uuid:
            uuid = f"line:{hashlib.blake2b(line.text, digest_size=16).hexdigest()}"
        return Place(self._origins.place(record, at), uuid, at, line.number)

    def _at(self, record: Record) -> int:
        """When it was written; where it does not say, when the record before it was."""
        if record.timestamp is None:
            return now() if self._state.at is None else self._state.at
        try:
            at = instant(datetime.fromisoformat(record.timestamp), "timestamp")
        except (TypeError, ValueError) as error:
            raise InvalidRecord(f"timestamp: {error}") from None
        self._state.at = at
        return at or 0

    def _add(self, place: Place, encoder: Encoder | None = None, **fields: Any) -> None:
        try:
            row = prepare(encoder or self._encoder, NewMessage(created_at=moment(place.at), **fields))
        except InvalidRecord as error:
            self._reject("messages", place.line, str(error))
            return
        self._messages.setdefault(place.session.id, []).append(Piece(row, place.line))

    # -- the user's ----------------------------------------------------------------------------

    def _take_user(self, record: Record, line: Line) -> None:
        content = _message(record).get("content")
        if content is None:
            raise InvalidRecord("the message has no content")
        place = self._place(record, line)
        for at, run in enumerate(runs(content)):
            part = place._replace(uuid=f"{place.uuid}#{at}") if at else place
            if isinstance(run, dict):
                self._take_result(record, part, run)
            else:
                self._take_words(record, part, run)

    def _take_words(self, record: Record, place: Place, words: Any) -> None:
        content = plain(words) if isinstance(words, list) else words
        if content is None:
            self._skip(record)  # blocks of text, all empty
        elif record.is_compact_summary is True:
            self._add(place, role="system", name="compact_summary", content=content, external_id=place.uuid)
        elif record.is_meta is True:
            self._add(place, role="system", name="meta", content=content, external_id=place.uuid)
        else:
            self._say(place, content, attached=False)

    def _take_result(self, record: Record, place: Place, block: dict[str, Any]) -> None:
        call_id = block.get("tool_use_id")
        self._add(
            place,
            role="tool",
            name=self._state.tools.pop(call_id, None) if isinstance(call_id, str) else None,
            tool_call_id=call_id,
            content=block.get("content"),
            external_id=place.uuid,
            metadata={"is_error": True} if block.get("is_error") is True else None,
        )
        self._origins.link(place.session.id, agent_of(record.tool_use_result), call_id)

    def _say(self, place: Place, content: Any, attached: bool) -> None:
        """A prompt of the user's, which may have stood in the queue before."""
        prompt = None
        if self._state.prompts.entries and isinstance(content, str):
            text = self._encoder.text(content, "content") or ""
            prompt = self._state.prompts.match(place.session.id, text, place.uuid, attached)
        if prompt is None:
            self._add(place, role="user", content=content, external_id=place.uuid)
            return
        prompt.text = None
        self._add(place, role="user", content=content, external_id=prompt.key, metadata={"uuid": place.uuid})

    def _take_attachment(self, record: Record, line: Line) -> None:
        match record.attachment:
            case {"type": "queued_command", "prompt": str(words)}:
                self._say(self._place(record, line), words, attached=True)
            case {"type": "queued_command", "prompt": list(blocks)} if blocks:
                self._say(self._place(record, line), plain(blocks), attached=True)
            case _:
                self._skip(record)

    def _take_queue(self, record: Record, line: Line) -> None:
        place = self._place(record, line)
        prompts = self._state.prompts
        text = record.content if isinstance(record.content, str) and record.content.strip() else None
        prompt = None
        if record.operation == "enqueue" and text:
            prompt = prompts.enqueue(place.session.id, self._encoder.text(text, "content") or "", place.at)
        elif record.operation == "remove":
            prompt = prompts.remove(place.session.id, text)
        if prompt:
            self._store(prompt, line.number)

    def _store(self, prompt: Prompt, line: int) -> None:
        text, prompt.text = prompt.text, None
        place = Place(self._origins.open(prompt.session_id, prompt.at), prompt.key, prompt.at, line)
        self._add(place, self._as_stored, role="user", content=text, external_id=prompt.key)

    def _store_left(self) -> None:
        """What still stands in the queue at the end of the file was said too."""
        for prompt in self._state.prompts.waiting():
            self._store(prompt, self._lines.number)

    # -- the agent's ---------------------------------------------------------------------------

    def _take_assistant(self, record: Record, line: Line) -> None:
        message = _message(record)
        place = self._place(record, line)
        said = reply(message.get("content"))
        id, model = message.get("id"), message.get("model")
        external_id = self._encoder.identifier(id, "message.id") if isinstance(id, str) and id else place.uuid
        model = model if isinstance(model, str) and not model.startswith("<") else None  # <synthetic>: no model's
        place.session.model = place.session.model or model
        for call in said.tool_calls or ():
            if isinstance(call.get("id"), str) and isinstance(call.get("name"), str):
                remember(self._state.tools, call["id"], call["name"])
        self._add(
            place,
            role="assistant",
            content=said.content,
            reasoning=said.reasoning,
            tool_calls=said.tool_calls,
            finish_reason=message.get("stop_reason"),
            external_id=external_id,
            metadata={PARTS: [place.uuid]},
        )
        self._count(place, external_id, model, message.get("usage"))

    def _count(self, place: Place, external_id: str, model: str | None, usage: Any) -> None:
        if usage is None:
            return
        try:
            round_ = prepare_round(self._encoder, _new_usage(usage, model, place.at))
        except InvalidRecord as error:
            self._reject("usage", place.line, str(error))
        else:
            self._usage.append(Counted(place.session.id, external_id, round_, place.line))

    # -- the rest ------------------------------------------------------------------------------

    def _take_system(self, record: Record, line: Line) -> None:
        if record.content is None:
            self._skip(record)
            return
        place = self._place(record, line)
        self._add(place, role="system", name=record.subtype, content=record.content, external_id=place.uuid)

    def _take_progress(self, record: Record, _: Line) -> None:
        """Nothing of it is kept: what it shows comes again as a result, or in a sub-agent's file."""
        self._skip(record)
        self._origins.link(record.session_id, agent_of(record.data), record.parent_tool_use_id)

    def _take_title(self, record: Record, _: Line) -> None:
        self._origins.entitle(record)


def _message(record: Record) -> dict[str, Any]:
    if not isinstance(record.message, dict):
        raise InvalidRecord(f"message must be an object, not {type(record.message).__name__}")
    return record.message


def _new_usage(usage: Any, model: str | None, at: int) -> NewUsage:
    """Input is reported without what came from and went into the cache; prompts here include both."""
    if not isinstance(usage, dict):
        raise InvalidRecord(f"usage must be an object, not {type(usage).__name__}")
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    tokens = [0 if usage.get(name) is None else usage[name] for name in names]
    if any(type(number) is not int for number in tokens):
        raise InvalidRecord(f"tokens must be whole numbers, not {tokens}")
    fresh, read, written, output = tokens
    return NewUsage(
        prompt_tokens=fresh + read + written,
        completion_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
        model=model,
        source=SOURCE,
        created_at=moment(at),
    )
