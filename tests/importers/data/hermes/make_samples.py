"""Makes `hermes-<release>.db.gz` with the release of Hermes Agent that is importable.

    pip install --no-deps hermes-agent==0.19.0
    python tests/importers/data/hermes/make_samples.py

Its state module needs nothing else. The full-text tables, which are most of such a file and which the
importer does not read, are left out.
"""

from __future__ import annotations

import gzip
import inspect
import os
import sqlite3
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HERMES_HOME", tempfile.mkdtemp())

PICTURE = [
    {"type": "text", "text": "what is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "terminal", "arguments": '{"command": "ls"}'}}


def fill(db: Any) -> None:
    """Everything that this release can store, through its own methods."""
    talk(db)
    relatives(db)
    if hasattr(db, "archive_and_compact"):
        rewritten(db)


def talk(db: Any) -> None:
    """A talk with tools, reasoning, a picture, and its costs."""
    extra = {"session_key": "agent:main:telegram:dm:7", "chat_id": "7", "chat_type": "dm"}
    db.create_session(
        "talk",
        "telegram",
        model="m-1",
        model_config={"max_tokens": 9},
        user_id="u1",
        **_known(db._insert_session_row, extra),
    )
    db.update_system_prompt("talk", "Be kind.")
    db.append_message(
        "talk", "user", "list the files, naïvely", **_known(db.append_message, {"platform_message_id": "tg-1"})
    )
    db.append_message(
        "talk", "assistant", "", tool_calls=[CALL], finish_reason="tool_calls", reasoning="they want a list",
        reasoning_details=[{"type": "reasoning.text", "text": "hm"}], codex_reasoning_items=[{"id": "rs_1", "encrypted_content": "x"}],
        token_count=12,
    )  # fmt: skip
    db.append_message("talk", "tool", "a.txt", tool_name="terminal", tool_call_id="call_1")
    db.append_message("talk", "assistant", "There is a.txt.", finish_reason="stop")
    db.append_message("talk", "user", PICTURE)
    first = {
        "input_tokens": 100,
        "output_tokens": 10,
        "cache_read_tokens": 40,
        "reasoning_tokens": 3,
        "estimated_cost_usd": 0.25,
    }
    db.update_token_counts("talk", model="m-1", billing_provider="p", cost_status="estimated", **first)
    db.update_token_counts(
        "talk",
        model="m-2",
        input_tokens=50,
        output_tokens=5,
        cache_write_tokens=8,
        estimated_cost_usd=0.5,
        actual_cost_usd=0.125,
    )
    if hasattr(db, "record_auxiliary_usage"):
        db.record_auxiliary_usage(
            "talk", "title_generation", model="m-3", input_tokens=7, output_tokens=2, estimated_cost_usd=0.0625
        )
    db.set_session_title("talk", "Files")


def relatives(db: Any) -> None:
    """What a child can be there."""
    marks = hasattr(db, "archive_and_compact")
    db.create_session(
        "helper", "cli", parent_session_id="talk", model_config={"_delegate_from": "talk"} if marks else None
    )
    db.append_message("helper", "user", "look there")
    db.end_session("helper", "completed")
    db.end_session("talk", "compression")
    db.create_session("talk2", "telegram", parent_session_id="talk", user_id="u1")
    db.append_message("talk2", "user", "[summary]")
    db.set_session_title("talk2", "Files #2")
    db.create_session("origin", "cli")
    db.append_message("origin", "user", "one way")
    db.end_session("origin", "branched")
    time.sleep(0.01)
    db.create_session(
        "branch", "cli", parent_session_id="origin", model_config={"_branched_from": "origin"} if marks else None
    )
    db.append_message("branch", "user", "another way")


def rewritten(db: Any) -> None:
    """A transcript that was compacted in place, and one of which a turn was taken back."""
    db.create_session("compacted", "cli")
    for at in range(3):
        db.append_message("compacted", "user", f"turn {at}")
    db.archive_and_compact("compacted", [{"role": "user", "content": "[three turns]"}])
    db.append_message("compacted", "assistant", "go on")
    db.set_session_archived("compacted", True)
    db.create_session("rewound", "cli")
    db.append_message("rewound", "user", "first")
    db.append_message("rewound", "assistant", "yes")
    taken = db.append_message("rewound", "user", "no, wait")
    db.append_message("rewound", "assistant", "waiting")
    db.rewind_to_message("rewound", taken)


def _known(method: Any, extra: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in extra.items() if name in inspect.signature(method).parameters}


def make(path: Path) -> None:
    """A file with all of it, closed and in one piece."""
    from hermes_state import SessionDB

    db = SessionDB(path)
    fill(db)
    db.close()


def shrink(path: Path) -> None:
    """Leaves the tables out that are only there for searching."""
    connection = sqlite3.connect(path, isolation_level=None)
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE%'"
    ).fetchall():
        connection.execute(f"DROP TABLE {name}")
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def main() -> None:
    """Writes the sample beside this script."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        make(path)
        shrink(path)
        sample = Path(__file__).parent / f"hermes-{version('hermes-agent')}.db.gz"
        sample.write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        print(sample.name, sample.stat().st_size)


if __name__ == "__main__":
    main()
