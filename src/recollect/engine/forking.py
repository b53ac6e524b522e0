"""What becomes of engines in a forked child: they are the parent's, and refuse."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from ..errors import ForkedStore


class Forkable(Protocol):
    """An engine that is open."""

    def forked(self, error: ForkedStore) -> None:
        """Called in the child: from now on every call raises the error; nothing of the parent's is touched."""
        ...


_open: weakref.WeakSet[Forkable] = weakref.WeakSet()


def opened(engine: Forkable) -> None:
    """It is told in each child that is forked from now on."""
    _open.add(engine)


def closed(engine: Forkable) -> None:
    """It has nothing any more that a child could touch."""
    _open.discard(engine)


def _tell() -> None:
    for engine in _open:
        engine.forked(ForkedStore("the process was forked while this store was open: open a new one in the child"))


os.register_at_fork(after_in_child=_tell)
