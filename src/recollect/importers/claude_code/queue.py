"""Prompts that were typed while the agent worked: each becomes one message, however often it is told of.

A prompt is enqueued, and then appears again as a user record (the agent came to it), as an attachment
(it was slipped into the running turn), or never (older versions slip it in and say no more than that
something was removed from the queue). It is stored under the id of its enqueueing, whichever comes
first, so that it does not depend on where a file was cut into imports.
"""

from __future__ import annotations

import hashlib

import msgspec

REMEMBERED = 256
"""prompts remembered of a file, the newest"""


class Prompt(msgspec.Struct):
    """A prompt that was enqueued."""

    session_id: str
    key: str
    """the external id of its message"""
    digest: str
    at: int
    text: str | None
    """None as soon as its message is on its way"""
    removed: bool = False
    uuid: str | None = None
    """the record that brought it again"""


class Prompts(msgspec.Struct):
    """The queue of a file's sessions, as it goes into the cursor."""

    entries: list[Prompt] = []

    def enqueue(self, session_id: str, text: str, at: int) -> Prompt | None:
        """A prompt was typed. Returns one that has waited for too long, to make room."""
        digest = _digest(text)
        key = f"queue:{at}:{digest}"
        if any(entry.key == key and entry.session_id == session_id for entry in self.entries):
            return None
        self.entries.append(Prompt(session_id, key, digest, at, text))
        if len(self.entries) <= REMEMBERED:
            return None
        oldest = next((entry for entry in self.entries if entry.text is None), self.entries[0])
        self.entries.remove(oldest)
        return oldest if oldest.text is not None else None

    def remove(self, session_id: str, text: str | None) -> Prompt | None:
        """One was taken out of the queue and given to the agent: this one, or the first of the user's."""
        waiting = [entry for entry in self.waiting() if entry.session_id == session_id]
        if text is not None:
            digest = _digest(text)
            waiting = [entry for entry in waiting if entry.digest == digest]
        typed = [entry for entry in waiting if not (entry.text or "").startswith("<")]  # not a notification
        for entry in (typed or waiting)[:1]:
            entry.removed = True
            return entry
        return None

    def match(self, session_id: str, text: str, uuid: str, attached: bool) -> Prompt | None:
        """The prompt that a record brings again. What was slipped into a turn does not come again as a
        user record: then the user has said the same once more."""
        digest = _digest(text)
        for entry in self.entries:
            if entry.session_id == session_id and entry.uuid == uuid:
                return entry
        for entry in self.entries:
            if entry.session_id != session_id or entry.digest != digest or entry.uuid is not None:
                continue
            if attached or not entry.removed:
                entry.uuid = uuid
                return entry
        return None

    def waiting(self) -> list[Prompt]:
        """Those that nothing has been heard of yet."""
        return [entry for entry in self.entries if entry.text is not None]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.strip().encode(errors="replace"), digest_size=8).hexdigest()
