"""Importing transcripts: a made-up project of coding-agent sessions, beside reading its JSON."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recollect import AsyncSessionStore
from recollect.importers import claude_code

from . import plain, texts
from .report import Row, paired

FILES = 10
TURNS = 400


def prepare(folder: Path) -> Path:
    """Transcripts in which a user's words, a tool call, its result and an answer follow one another."""
    project = folder / "projects" / "-made-up"
    project.mkdir(parents=True)
    made = iter(texts.messages(FILES * TURNS * 3, seed=5))
    for file in range(FILES):
        lines = [json.dumps(record) for turn in range(TURNS) for record in _turn(f"session-{file}", turn, made)]
        (project / f"session-{file}.jsonl").write_text("\n".join(lines) + "\n")
    return project


def _turn(session: str, turn: int, made: Iterator[str]) -> Iterator[dict[str, object]]:
    """The four records of a turn."""
    envelope = {"sessionId": session, "cwd": "/w", "version": "2.1.0", "timestamp": "2026-03-01T09:00:00.000Z"}
    call = f"toolu_{session}_{turn}"
    usage = {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 1}
    blocks = ({"type": "tool_use", "id": call, "name": "Bash", "input": {"command": "ls"}},
              {"type": "text", "text": next(made)})  # fmt: skip
    yield {
        **envelope,
        "type": "user",
        "uuid": f"{session}-{turn}-u",
        "message": {"role": "user", "content": next(made)},
    }
    for n, block in enumerate(blocks):
        message = {"id": f"msg_{session}_{turn}_{n}", "role": "assistant", "model": "m", "content": [block],
                   "usage": usage}  # fmt: skip
        yield {**envelope, "type": "assistant", "uuid": f"{session}-{turn}-a{n}", "message": message}
        if n == 0:
            result = {"type": "tool_result", "tool_use_id": call, "content": next(made)}
            yield {**envelope, "type": "user", "uuid": f"{session}-{turn}-r",
                   "message": {"role": "user", "content": [result]}}  # fmt: skip


async def store_time(path: Path, project: Path) -> float:
    """Seconds to import everything, the index not waited for."""
    async with AsyncSessionStore(path) as store:
        began = time.perf_counter()
        await claude_code.load(store, project)
        return time.perf_counter() - began


def plain_time(project: Path) -> float:
    """Seconds to read every line with the standard library."""
    began = time.perf_counter()
    for file in sorted(project.glob("*.jsonl")):
        with file.open("rb") as lines:
            for line in lines:
                json.loads(line)
    return time.perf_counter() - began


MESSAGE = (
    "INSERT INTO messages (id, session, seq, position, role, content, tool_calls, tool_call_id, send_index,"
    " round_index, external_id, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, 0)"
)
LEDGER = (
    "INSERT INTO usage_rounds (id, session, send_index, round_index, model, prompt_tokens, completion_tokens,"
    " total_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, created_at)"
    " VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?, 0, 0)"
)
BATCH = 1 << 20
"""bytes of lines in one transaction, as the importer takes them"""


def plain_import_time(path: Path, project: Path) -> float:
    """Seconds in which plain sqlite3 brings the same rows into the same tables, in the same batches: this
    format as it is made here, nothing checked, no cursor, nothing merged."""
    began = time.perf_counter()
    connection = plain.connect(path)
    number = 0
    for session, file in enumerate(sorted(project.glob("*.jsonl")), 1):
        connection.execute(plain.CREATE, (session, file.stem))
        with file.open("rb") as lines:
            seq = 0
            while chunk := lines.readlines(BATCH):
                records = [json.loads(line) for line in chunk]
                number = _plain_batch(connection, session, records, number, seq)
                seq += len(records)
    connection.close()
    return time.perf_counter() - began


def _plain_batch(
    connection: sqlite3.Connection, session: int, records: list[dict[str, Any]], number: int, seq: int
) -> int:
    messages, ledger = [], []
    for record in records:
        number, seq = number + 2, seq + 1
        message = record["message"]
        content = message["content"]
        block = content[0] if isinstance(content, list) else {"text": content}
        calls = json.dumps([block]) if block.get("type") == "tool_use" else None
        text = block.get("text") or block.get("content")
        key = message.get("id") or record["uuid"]
        messages.append((number, session, seq, seq, message["role"], text, calls, block.get("tool_use_id"), seq, key))
        if usage := message.get("usage"):
            prompt = usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"]
            tokens = (prompt, usage["output_tokens"], prompt + usage["output_tokens"])
            cached = (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"])
            ledger.append((number + 1, session, seq, message["model"], *tokens, *cached))
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(MESSAGE, messages)
    connection.executemany(LEDGER, ledger)
    connection.execute(
        "UPDATE sessions SET next_seq = ?, message_count = message_count + ? WHERE session = ?",
        (seq + 1, len(messages), session),
    )
    connection.execute("COMMIT")
    return number + 2


def rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """The table of importing."""
    project = prepare(folder)
    ours = [asyncio.run(store_time(folder / f"import-{n}.db", project)) for n in range(repetitions)]
    read = [plain_time(project) for _ in range(repetitions)]
    inserted = [plain_import_time(folder / f"import-plain-{n}.db", project) for n in range(repetitions)]
    name = f"import of {FILES * TURNS * 4} lines"
    yield paired(name, list(zip(ours, inserted, strict=True)), "s", "plain: json.loads and executemany")
    yield paired(name, list(zip(ours, read, strict=True)), "s", "plain: json.loads of every line, nothing stored")
