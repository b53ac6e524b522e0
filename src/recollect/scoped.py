"""A store as one user may see it: the same rooms and search, and nothing of anybody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Unpack

from .fields import SearchOptions
from .models import Hit

if TYPE_CHECKING:
    from .messages.room import Messages
    from .sessions.room import Sessions
    from .store import AsyncSessionStore
    from .usage.room import Usage


class ScopedStore:
    """What `store.scoped(user_id=…)` gives. It has no `query`, `read` or `write`, which know no users."""

    sessions: Sessions
    messages: Messages
    usage: Usage

    def __init__(self, store: AsyncSessionStore, user_id: str) -> None:
        self._store = store
        self.user_id = user_id
        self.sessions, self.messages, self.usage = store._rooms(user_id)  # pyright: ignore[reportPrivateUsage]

    def search(
        self, query: str, *, user_id: str | Sequence[str] | None = None, **options: Unpack[SearchOptions]
    ) -> AsyncIterator[Hit]:
        """Finds messages of the user, as `AsyncSessionStore.search` does, and with `session` events of his
        sessions; another `user_id` finds nothing."""
        asked = [self.user_id] if user_id is None else [user_id] if isinstance(user_id, str) else list(user_id)
        return self._store.search(query, user_id=[user for user in asked if user == self.user_id], **options)

    def __repr__(self) -> str:
        return f"{self._store!r}.scoped(user_id={self.user_id!r})"
