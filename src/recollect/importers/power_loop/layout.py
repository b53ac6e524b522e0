"""The tables of a session store of power-loop in a SQLite file, of whatever version, and their rows.

The columns differ with the versions, so they are looked up. Since 2.0 the names of the tables have a
prefix (`pl_`, or what was chosen); a file that an older version had before holds both sets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ...errors import NotAStore
from ..database import ForeignDatabase

T = TypeVar("T")

Reject = Callable[[str, int | None, str], None]
"""takes kind, place in the file, and reason"""

Row = dict[str, Any]

_WANTED = {
    "sessions": {
        "session_id", "created_at", "updated_at", "system_prompt", "model", "config_json", "status", "kind",
        "parent_session_id", "spawn_tool_call_id", "spawn_depth", "lifecycle", "metadata_json",
    },
    "messages": {
        "session_id", "seq", "role", "name", "content", "tool_calls_json", "tool_call_id", "round_index", "state",
        "meta_json", "send_index", "created_at",
    },
    "compactions": {
        "session_id", "compact_seq", "note_seq", "from_seq", "to_seq", "before_tokens", "after_tokens",
        "round_index", "created_at",
    },
    "usage_rounds": {
        "session_id", "send_index", "round_index", "prompt_tokens", "completion_tokens", "total_tokens",
        "cached_tokens", "model", "created_at",
    },
    "session_state": {"session_id", "next_seq", "round_index", "last_compact_seq", "pending_json"},
}  # fmt: skip
"""the tables that are read, and their columns"""

_LATER = {"messages": {"send_index"}, "usage_rounds": {"send_index", "cached_tokens"}}
"""columns that came with later versions"""

_OTHERS = (
    "session_runtime_state", "shared_state", "background_tasks", "session_stats", "timers", "notes",
    "project_messages", "hook_events", "session_leases", "follow_up_queue", "context_cache", "context_attempts",
)  # fmt: skip
"""the tables that came with later versions and have no place here"""

_KINDS = {"messages": "messages", "compactions": "compactions", "usage_rounds": "usage"}
"""tables whose rows may have lost their session, and what they would have become"""


_TRIES = 5
"""times that a session is read whose rows change meanwhile"""


class Found(NamedTuple):
    """A session that is in the file."""

    rowid: int
    id: Any
    parent: Any


class SessionRows(NamedTuple):
    """All that the file has of one session."""

    session: Row
    state: Row
    """empty where there is none"""
    messages: list[Row]
    compactions: list[Row]
    usage: list[Row]


class Layout:
    """One set of tables, and how its rows are read. What is damaged is told, and left out."""

    def __init__(
        self, database: ForeignDatabase, prefix: str, columns: Mapping[str, Sequence[str]], reject: Reject
    ) -> None:
        self._database = database
        self._prefix = prefix
        self._columns = columns
        self._reject = reject

    async def sessions(self) -> list[Found]:
        """The sessions, parents before their children, else in the order in which they were made."""
        rows = await self._read("sessions", ["session_id", "parent_session_id"], "TRUE")
        return _parents_first([Found(row["rowid"], row["session_id"], row["parent_session_id"]) for row in rows])

    async def session(self, found: Found) -> Row | None:
        """The row of a session; None if it is gone, or damaged."""
        rows = await self._read("sessions", self._columns["sessions"], "rowid = ?", found.rowid)
        return rows[0] if rows else None

    async def rows(self, found: Found) -> SessionRows | None:
        """All there is of a session, of one moment: half of a compaction would be taken for none. None if it
        is gone, or does not hold still."""
        for _ in range(_TRIES):
            before = await self._moment(found)
            session = await self.session(found)
            if session is None:
                return None
            tables = [await self.rows_in(name, found) for name in ("messages", "compactions", "usage_rounds")]
            rows = SessionRows(session, await self.state(found), *tables)
            if await self._moment(found) == before:
                return rows
        self._reject("sessions", found.rowid, f"session {found.id!r} is being written to: import it again")
        return None

    async def _moment(self, found: Found) -> list[Any]:
        """Changes with whatever is written to the session."""
        state = f"SELECT next_seq, last_compact_seq FROM {self._prefix}session_state WHERE session_id = ?"
        session = f"SELECT updated_at, NULL FROM {self._prefix}sessions WHERE session_id = ?"
        return [tuple(row) for row in await self._database.rows(f"{state} UNION ALL {session}", [found.id, found.id])]

    async def state(self, found: Found) -> Row:
        """Where the agent of a session is; empty where that is not known."""
        rows = await self.rows_in("session_state", found)
        return rows[0] if rows else {}

    async def rows_in(self, table: str, found: Found) -> list[Row]:
        """The session's rows of that table."""
        return await self._read(table, self._columns[table], "session_id = ?", found.id)

    async def count(self, table: str, found: Found) -> int:
        """How many those are."""
        sql = f"SELECT COUNT(*) FROM {self._prefix}{table} WHERE session_id = ?"
        return (await self._database.rows(sql, [found.id]))[0][0]

    async def newest(self, found: Found) -> Any:
        """The highest seq of a session; None where it has no messages."""
        sql = f"SELECT MAX(seq) FROM {self._prefix}messages WHERE session_id = ?"
        return (await self._database.rows(sql, [found.id]))[0][0]

    async def others(self) -> Counter[str]:
        """How many rows there are in the tables that have no place here."""
        counted: Counter[str] = Counter()
        for name in _OTHERS:
            if await self._database.columns(self._prefix + name):
                counted[name] = (await self._database.rows(f"SELECT COUNT(*) FROM {self._prefix}{name}"))[0][0]
        return +counted

    async def tell_orphans(self) -> None:
        """Tells of rows whose session is not there: nothing keeps such rows from being written there."""
        for table, kind in _KINDS.items():
            name = self._prefix + table
            own = f"SELECT 1 FROM {self._prefix}sessions s WHERE s.session_id = {name}.session_id"
            for key in await self._database.keys(name, where=f"NOT EXISTS ({own})"):
                self._reject(kind, key, f"a row of {name} without its session")

    async def _read(self, table: str, columns: Sequence[str], where: str, *params: Any) -> list[Row]:
        name = self._prefix + table
        keys = await self._database.keys(name, where=where, params=params)
        rows: list[Row] = []
        async for piece, lost in self._database.read(name, "rowid", columns, keys):
            rows += [dict(row) for row in piece]
            for key in lost:
                self._reject(_KINDS.get(table, "sessions"), key, f"a row of {name} is damaged")
        return rows


async def find_layouts(database: ForeignDatabase, reject: Reject) -> list[Layout]:
    """Every set of tables in the file. Raises NotAStore if there is none."""
    names = [row[0] for row in await database.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    layouts: list[Layout] = []
    for prefix in [name.removesuffix("sessions") for name in names if _NAME.fullmatch(name)]:
        columns = {table: await database.columns(prefix + table) for table in _WANTED}
        if all(_WANTED[table] - _LATER.get(table, set()) <= there for table, there in columns.items()):
            read = {table: sorted(wanted & columns[table]) for table, wanted in _WANTED.items()}
            layouts.append(Layout(database, prefix, read, reject))
    if not layouts:
        raise NotAStore(f"{database.path} has not the tables of a session store of power-loop: name another file")
    return layouts


_NAME = re.compile(r"(?:[A-Za-z_]\w*)?sessions", re.ASCII)
"""prefixes there are plain names, and stand in SQL as they are"""


def _parents_first(found: Sequence[Found]) -> list[Found]:
    """The same in another order; parents that are not there do not matter, nor does what goes in circles."""
    by_id = {session.id: session for session in found}
    ordered: dict[int, Found] = {}
    for session in found:
        line: dict[int, Found] = {}
        above: Found | None = session
        while above is not None and above.rowid not in ordered and above.rowid not in line:
            line[above.rowid] = above
            above = by_id.get(above.parent)
        ordered.update({one.rowid: one for one in reversed(line.values())})
    return list(ordered.values())
