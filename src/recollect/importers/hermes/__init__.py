"""The chat gateway's `state.db` (Hermes Agent, any release) into a store, as often as it has grown.

The file is read while the gateway may be writing to it, and never changed; what a release added is read
where it is there, and what is not known here is passed over. What becomes of it:

- A session keeps its id, source, user, model, prompt, title and times; `ended_at` makes it ended,
  `archived` archived. `model_config` is its config; what is no JSON object there is kept as its `text`.
  Chat, thread, folder, branch and profile are in its metadata. Its `session_key` is its key; where
  several live sessions have one, the newest has, the others keep it in their metadata.
- A child is a `fork` or a `spawn` where the release has marked it so (`_branched_from`,
  `_delegate_from` in `model_config`). Else it is a `fork` of a parent that ended as branched before it
  began, a `continuation` of one that ended by compression no later than a minute after that; any
  other is a sub-agent's: spawned, and `linked` to its parent, as deleting goes there.
- Messages are in the order of their ids, for clocks step back. `tool_name` is the name,
  `codex_reasoning_items` the provider's items; JSON is decoded, and kept as text where it is none.
  Content that was encoded, being a list, is a list again. `reasoning_content` stands in where there is no
  `reasoning`; where it is another, it is in the metadata, as are the platform's id, `api_content`
  and `codex_message_items`. A message that was put away under a summary there is compacted here,
  one that was taken back rewound.
- Token counters and costs become corrections in the ledger, of source `hermes`: one for each model where
  the release tells them apart, else one. Auxiliary calls, which its session totals leave out, are of
  source `hermes:<task>`. Input tokens exclude what was cached there, so that is added to the prompt's.

Repeated, it brings what is new: messages, the end, the difference in tokens and costs. Messages put away
or rewritten there since are put away here; what was done to a session here stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ...reports import Imported
from ...store import AsyncSessionStore
from ..database import ForeignDatabase
from ..source import Progress
from .run import Run


async def load(
    store: AsyncSessionStore,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], object] | None = None,
) -> Imported:
    """Imports a `state.db`, or the one in a folder; what is there already is left alone.

    What cannot be understood, or is damaged, is counted with its place (`line` is the number of the row)
    and does not stop the rest. `progress` is called on the event loop after every session and every few
    hundred messages; what it raises ends the import, as cancelling does, and the next one goes on where
    it stopped. `redact` of the store is called in a worker thread.

    Raises FileNotFoundError, NotAStore for what is no such file, StoreBusy if another process keeps it
    locked, StoreDamaged, and what the store may.
    """
    async with ForeignDatabase(path, needs=("sessions", "messages"), within="state.db") as database:
        return await Run(store, database, progress).load()
