"""Files as the chat gateway's releases made them, schema by schema, made for the tests."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

T0 = 1_750_000_000.0
"""when it all began"""

_SESSIONS = """
CREATE TABLE sessions (
  id TEXT PRIMARY KEY, source TEXT NOT NULL, user_id TEXT, model TEXT, model_config TEXT, system_prompt TEXT,
  parent_session_id TEXT, started_at REAL NOT NULL, ended_at REAL, end_reason TEXT, message_count INTEGER DEFAULT 0,
  tool_call_count INTEGER DEFAULT 0, input_tokens INTEGER DEFAULT 0, output_tokens INTEGER DEFAULT 0,
  FOREIGN KEY (parent_session_id) REFERENCES sessions(id))"""

_MESSAGES = """
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL REFERENCES sessions(id), role TEXT NOT NULL,
  content TEXT, tool_call_id TEXT, tool_calls TEXT, tool_name TEXT, timestamp REAL NOT NULL, token_count INTEGER)"""

_V1 = [
    "CREATE TABLE schema_version (version INTEGER NOT NULL)",
    _SESSIONS,
    _MESSAGES,
    "CREATE INDEX idx_sessions_source ON sessions(source)",
    "CREATE INDEX idx_sessions_parent ON sessions(parent_session_id)",
    "CREATE INDEX idx_sessions_started ON sessions(started_at DESC)",
    "CREATE INDEX idx_messages_session ON messages(session_id, timestamp)",
    "CREATE VIRTUAL TABLE messages_fts USING fts5(content, content=messages, content_rowid=id)",
]

_COLUMNS = {
    2: {"messages": ["finish_reason TEXT"]},
    3: {"sessions": ["title TEXT"]},
    5: {
        "sessions": [
            "cache_read_tokens INTEGER DEFAULT 0", "cache_write_tokens INTEGER DEFAULT 0",
            "reasoning_tokens INTEGER DEFAULT 0", "billing_provider TEXT", "billing_base_url TEXT",
            "billing_mode TEXT", "estimated_cost_usd REAL", "actual_cost_usd REAL", "cost_status TEXT",
            "cost_source TEXT", "pricing_version TEXT",
        ]
    },
    6: {"messages": ["reasoning TEXT", "reasoning_details TEXT", "codex_reasoning_items TEXT"]},
}  # fmt: skip
"""what each version added"""

VERSIONS = range(1, 7)


def create(path: Path, version: int = 6, *, wal: bool = True) -> sqlite3.Connection:
    """An empty file of that version, open for writing."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
    for statement in _V1:
        connection.execute(statement)
    connection.execute("INSERT INTO schema_version VALUES (?)", (version,))
    for added in range(2, version + 1):
        for table, columns in _COLUMNS.get(added, {}).items():
            for column in columns:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        if added == 4:
            connection.execute("CREATE UNIQUE INDEX idx_title ON sessions(title) WHERE title IS NOT NULL")
    return connection


def later(connection: sqlite3.Connection) -> None:
    """Adds what later releases read by this importer have, and something nobody knows."""
    for column in ("session_key TEXT", "chat_id TEXT", "archived INTEGER NOT NULL DEFAULT 0", "tomorrow BLOB"):
        connection.execute(f"ALTER TABLE sessions ADD COLUMN {column}")
    for column in ("active INTEGER DEFAULT 1", "compacted INTEGER DEFAULT 0", "someday TEXT DEFAULT 'x'"):
        connection.execute(f"ALTER TABLE messages ADD COLUMN {column}")
    connection.execute("CREATE TABLE things_to_come (what TEXT)")


def session(connection: sqlite3.Connection, id: Any, **columns: Any) -> None:
    """Inserts a session."""
    insert(connection, "sessions", **{"id": id, "source": "cli", "started_at": T0, **columns})


def message(
    connection: sqlite3.Connection, session_id: Any, role: Any = "user", content: Any = "hello", **columns: Any
) -> int:
    """Inserts a message; its id."""
    return insert(
        connection,
        "messages",
        **{"session_id": session_id, "role": role, "content": content, "timestamp": T0 + 1, **columns},
    )


def insert(connection: sqlite3.Connection, table: str, **columns: Any) -> int:
    """A row; its number."""
    marks = ", ".join("?" * len(columns))
    row = connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", list(columns.values()))
    assert row.lastrowid is not None
    return row.lastrowid


CALLS = [{"id": "call_1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}]


def small(path: Path, version: int = 6, **options: Any) -> Path:
    """A file with a talk and what continues it, every column of the version filled."""
    with closing(create(path, version, **options)) as connection:
        columns: dict[str, Any] = {
            "user_id": "u",
            "model": "m-1",
            "system_prompt": "Be kind.",
            "input_tokens": 100,
            "output_tokens": 10,
        }
        columns["model_config"] = json.dumps({"max_tokens": 9})
        if version >= 3:
            columns["title"] = "Files"
        if version >= 5:
            columns |= {
                "cache_read_tokens": 40,
                "cache_write_tokens": 2,
                "reasoning_tokens": 3,
                "estimated_cost_usd": 0.25,
                "actual_cost_usd": 0.125,
            }
            columns |= {
                "cost_status": "estimated",
                "cost_source": "table",
                "pricing_version": "7",
                "billing_provider": "p",
                "billing_base_url": "http://p",
                "billing_mode": "api",
            }
        session(connection, "talk", ended_at=T0 + 60, end_reason="compression", **columns)
        message(connection, "talk", "user", "list the files", timestamp=T0 + 1)
        more: dict[str, Any] = {"finish_reason": "tool_calls"} if version >= 2 else {}
        if version >= 6:
            more |= {
                "reasoning": "they want a list",
                "reasoning_details": '[{"type": "text"}]',
                "codex_reasoning_items": '[{"id": "rs_1"}]',
            }
        message(
            connection, "talk", "assistant", "", tool_calls=json.dumps(CALLS), token_count=12, timestamp=T0 + 3, **more
        )
        # the clock stepped back
        message(connection, "talk", "tool", "a.txt", tool_name="ls", tool_call_id="call_1", timestamp=T0 + 2)
        session(connection, "talk2", parent_session_id="talk", started_at=T0 + 60.5)
        message(connection, "talk2", "user", "and now?", timestamp=T0 + 61)
    return path


def unpacked(release: str, folder: Path) -> Path:
    """The sample that a release made."""
    path = folder / "state.db"
    sample = Path(__file__).parent / "data" / "hermes" / f"hermes-{release}.db.gz"
    path.write_bytes(gzip.decompress(sample.read_bytes()))
    return path
