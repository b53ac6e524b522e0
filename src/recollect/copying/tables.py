"""What is copied: every table but the leases and the search index, and how its rows are read, put and dropped.

A row is a tuple of its columns, the key first. Every statement is portable; in those that read, the table is
called `e`, as the condition of visible events has it. What waits to be erased is left out, on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..journal import VISIBLE

Key = tuple[Any, ...]
"""a row's key; keys are ordered as both databases do it, numbers by size and texts by code point"""

TableRow = tuple[Any, ...]

IMPORTER = "recollect.copy"
"""whose row in `import_cursors` says what a store is a copy of; that row is not copied itself"""

_LEAST = -(2**63)


class Clash(NamedTuple):
    """A statement that takes what is unique from whoever else has it in the copy, and the columns of the row that
    its parameters are; where one of them is NULL there is nothing to take."""

    sql: str
    columns: tuple[str, ...]


class Table:
    """One table.

    numbers, texts, floats: its columns beside the key. beginning: a key before all others. where: which rows
    count. value: what stands for a column where a row is put. drops: statements that take a row out, given its
    key. indexed: the search index has entries of its rows. referred: rows of other tables refer to its rows.
    """

    def __init__(
        self, name: str, key: str, *, numbers: str = "", texts: str = "", floats: str = "",
        beginning: Key = (_LEAST,), where: str = "TRUE", value: dict[str, str] | None = None,
        drops: Sequence[str] = (), clashes: Sequence[Clash] = (), indexed: bool = False, referred: bool = False,
    ) -> None:  # fmt: skip
        keys = key.split()
        self.name = name
        self.width = len(keys)
        self.columns = (*keys, *numbers.split(), *texts.split(), *floats.split())
        self.beginning = beginning
        self.indexed = indexed
        self.referred = referred
        self.clashes = clashes
        self.drops = drops or (f"DELETE FROM {name} WHERE {' AND '.join(f'{each} = ?' for each in keys)}",)
        self.put = _put(name, keys, self.columns, value or {})
        # Where the key begins with a number of the store's one sequence, no row beyond the last that is decided.
        known = f"{where} AND e.{keys[0]} <= :last" if type(beginning[0]) is int else where
        order = ", ".join(f"e.{each}" for each in keys)
        read = ", ".join(_read(each, floats.split()) for each in self.columns)
        size = " + ".join(f"COALESCE(LENGTH(e.{each}), 0)" for each in texts.split()) or "0"
        behind = f"{known} AND {_bound(keys, '>', 'after')}"
        self.sizes = f"SELECT {order}, {size} FROM {name} e WHERE {behind} ORDER BY {order} LIMIT :n"
        # One bound alone: of two, SQLite would go along its index up to the farther one.
        page = f"{where} AND {_bound(keys, '>', 'after')} AND {_bound(keys, '<=', 'upto')}"
        self.rows = f"SELECT {read} FROM {name} e WHERE {page} ORDER BY {order}"
        self.count = f"SELECT COUNT(*) AS n FROM {name} e WHERE {known}"
        descending = ", ".join(f"e.{each} DESC" for each in keys)
        self.newest = f"SELECT {order} FROM {name} e WHERE {known} ORDER BY {descending} LIMIT 1"

    def key_of(self, row: TableRow) -> Key:
        """The key of a row."""
        return row[: self.width]

    def claims(self, clash: Clash, rows: Sequence[TableRow]) -> list[TableRow]:
        """What these rows take from whoever else has it."""
        places = [self.columns.index(name) for name in clash.columns]
        taken = [tuple([row[place] for place in places]) for row in rows]
        return [values for values in taken if None not in values]


def _bound(keys: Sequence[str], operator: str, name: str) -> str:
    columns = ", ".join(f"e.{each}" for each in keys)
    values = ", ".join(f":{name}{at}" for at in range(len(keys)))
    return f"({columns}) {operator} ({values})" if len(keys) > 1 else f"{columns} {operator} {values}"


def _read(column: str, floats: Sequence[str]) -> str:
    # A sum with 0.0 is never -0.0, which PostgreSQL keeps and SQLite does not.
    return f"e.{column} + 0.0" if column in floats else f"e.{column}"


def _put(name: str, keys: Sequence[str], columns: Sequence[str], value: dict[str, str]) -> str:
    values = ", ".join(value.get(column, "?") for column in columns)
    updates = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in keys)
    return (
        f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({values})"
        f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {updates}"
    )


# -- the tables, in the order in which they are filled -----------------------------------------------

_WITHDRAW = (
    "UPDATE sessions SET id = NULL, title = NULL, key = NULL, parent = NULL, preview = NULL, pending = NULL"
    " WHERE session = ?"
)
"""as deleting does: the keeper erases it, with its rows and their entries in the index"""

_OF_SESSIONS = "e.session NOT IN (SELECT g.session FROM sessions g WHERE g.id IS NULL)"

SESSIONS = Table(
    "sessions",
    "session",
    numbers="user_late parent spawn_depth created_at updated_at last_active_at activity ended_at message_count"
    " tool_call_count input_tokens output_tokens cache_read_tokens cache_write_tokens reasoning_tokens"
    " estimated_cost actual_cost next_seq round_index send_index last_compaction_seq revision",
    texts="id kind source user_id key model title status end_reason relation lifecycle spawn_tool_call_id preview"
    " cost_status cost_source pricing_version billing_provider billing_base_url billing_mode pending",
    where="e.id IS NOT NULL",
    # A parent that is to come yet is filled in when it is there.
    value={"parent": "(SELECT p.session FROM sessions p WHERE p.session = ?)"},
    drops=("UPDATE sessions SET parent = NULL WHERE parent = ?", _WITHDRAW),
    clashes=(
        Clash(
            "UPDATE sessions SET parent = NULL"
            " WHERE parent IN (SELECT s.session FROM sessions s WHERE s.id = ? AND s.session <> ?)",
            ("id", "session"),
        ),
        Clash(_WITHDRAW.replace("WHERE session = ?", "WHERE id = ? AND session <> ?"), ("id", "session")),
        Clash("UPDATE sessions SET title = NULL WHERE title = ? AND session <> ?", ("title", "session")),
        Clash(
            "UPDATE sessions SET key = NULL"
            " WHERE key = ? AND status = 'active' AND session <> ? AND CAST(? AS TEXT) = 'active'",
            ("key", "session", "status"),
        ),
    ),
    referred=True,
)  # fmt: skip

SESSION_TEXTS = Table("session_texts", "session", texts="system_prompt config metadata", where=_OF_SESSIONS)

MESSAGES = Table(
    "messages",
    "id",
    numbers="session state seq position calls round_index send_index compacted_by token_count created_at",
    texts="role content parts name tool_calls tool_call_id reasoning reasoning_details provider_items finish_reason"
    " external_id metadata",
    where=f"e.state < 3 AND {_OF_SESSIONS}",
    clashes=(
        Clash(
            "UPDATE messages SET external_id = NULL WHERE session = ? AND external_id = ? AND id <> ?",
            ("session", "external_id", "id"),
        ),
    ),
    indexed=True,
)

EVENTS = Table(
    "events",
    "id",
    numbers="at user_late result_size bytes_in bytes_out cache_hit retries",
    texts="kind session_id run_id name action issue_id path anchor text payload dedupe_key user_id scope args_hash"
    " git_sha discovered_by state source",
    where=VISIBLE,
    clashes=(
        Clash(
            "UPDATE events SET dedupe_key = NULL WHERE dedupe_key = ? AND scope = ? AND id <> ?",
            ("dedupe_key", "scope", "id"),
        ),
    ),
    indexed=True,
)

COMPACTIONS = Table(
    "compactions",
    "session seq",
    numbers="note_seq from_seq to_seq count before_tokens after_tokens round_index created_at undone_at",
    beginning=(_LEAST, _LEAST),
    where=_OF_SESSIONS,
)

USAGE_ROUNDS = Table(
    "usage_rounds",
    "id",
    numbers="session send_index round_index prompt_tokens completion_tokens total_tokens cache_read_tokens"
    " cache_write_tokens reasoning_tokens estimated_cost actual_cost created_at",
    texts="model source",
    where=_OF_SESSIONS,
    clashes=(
        Clash(
            "DELETE FROM usage_rounds WHERE session = ? AND send_index = ? AND round_index = ? AND id <> ?",
            ("session", "send_index", "round_index", "id"),
        ),
    ),
)

LEARNING_SESSIONS = Table(
    "learning_sessions",
    "id",
    numbers="started_instant",
    texts="parent_session_id trigger_kind trigger_metadata status autonomy_mode started_at ended_at diagnosis_path"
    " plan_path benchmark_before benchmark_after git_checkpoint_pre git_checkpoint_post error",
    floats="teacher_cost_usd",
    beginning=("",),
    drops=("DELETE FROM edit_outcomes WHERE session_id = ?", "DELETE FROM learning_sessions WHERE id = ?"),
    referred=True,
)

EDIT_OUTCOMES = Table(
    "edit_outcomes",
    "id",
    texts="session_id edit_id pillar op target risk_tier status cluster_deltas rationale error applied_at",
    floats="benchmark_delta",
    clashes=(
        Clash(
            "DELETE FROM edit_outcomes WHERE session_id = ? AND edit_id = ? AND id <> ?",
            ("session_id", "edit_id", "id"),
        ),
    ),
)

IMPORT_CURSORS = Table(
    "import_cursors",
    "importer version source",
    numbers="device inode position size",
    texts="tail_hash state",
    beginning=("", _LEAST, ""),
    where=f"e.importer <> '{IMPORTER}'",
)

TABLES = (
    SESSIONS, SESSION_TEXTS, MESSAGES, EVENTS, COMPACTIONS, USAGE_ROUNDS, LEARNING_SESSIONS, EDIT_OUTCOMES,
    IMPORT_CURSORS,
)  # fmt: skip
