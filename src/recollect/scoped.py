"""A store as one user may see it: the same rooms and search, and nothing of anybody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Unpack

from .access import Access
from .fields import SearchOptions, TransportFields
from .models import Hit

if TYPE_CHECKING:
    from .events.room import Events
    from .messages.room import Messages
    from .sessions.room import Sessions
    from .store import AsyncSessionStore
    from .transport import EventTransport
    from .usage.room import Usage
    from .watch import Watch


class ScopedStore:
    """What `store.scoped(user_id=…)` gives. It has no `query`, `read` or `write`, which know no users."""

    sessions: Sessions
    messages: Messages
    usage: Usage
    events: Events

    def __init__(self, store: AsyncSessionStore, user_id: str) -> None:
        self._store = store
        self.user_id = user_id
        self._access = Access(store._engine, user_id)  # pyright: ignore[reportPrivateUsage]
        self.sessions, self.messages, self.usage, self.events = store._rooms(self._access)  # pyright: ignore[reportPrivateUsage]

    def search(
        self, query: str, *, user_id: str | Sequence[str] | None = None, **options: Unpack[SearchOptions]
    ) -> AsyncIterator[Hit]:
        """Finds messages and events of the user, as `AsyncSessionStore.search` does; another `user_id` finds
        nothing."""
        asked = [self.user_id] if user_id is None else [user_id] if isinstance(user_id, str) else list(user_id)
        own = [user for user in asked if user == self.user_id]
        return self._store._find(self._access, query, own, options)  # pyright: ignore[reportPrivateUsage]

    def watch(
        self, *, session_id: str | Sequence[str] | None = None, kinds: str | Sequence[str] | None = None,
        after: str | None = None,
    ) -> Watch:  # fmt: skip
        """What is committed of the user's, as `AsyncSessionStore.watch` tells it."""
        return self._store._watch(self._access, session_id, kinds, after)  # pyright: ignore[reportPrivateUsage]

    def transport(self, **options: Unpack[TransportFields]) -> EventTransport:
        """Stores an event stream as the user's, as `AsyncSessionStore.transport` does."""
        return self._store._transport(self._access, options)  # pyright: ignore[reportPrivateUsage]

    def __repr__(self) -> str:
        return f"{self._store!r}.scoped(user_id={self.user_id!r})"
