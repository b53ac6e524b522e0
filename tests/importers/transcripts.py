"""Small transcripts as Claude Code writes them, made for the tests."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

SESSION = "5e55-0001"

_numbers = count(1)


def record(type: str, session: str | None = SESSION, second: float = 0, **fields: Any) -> dict[str, Any]:
    """A record with its envelope; `second` of the day is its time."""
    return {
        "type": type,
        "uuid": f"u{next(_numbers):05}",
        "sessionId": session,
        "timestamp": f"2026-03-01T{int(second // 3600):02}:{int(second % 3600 // 60):02}:{second % 60:06.3f}Z",
        "cwd": "/w/demo",
        "gitBranch": "main",
        "version": "2.1.0",
        "isSidechain": False,
        **fields,
    }


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return record("user", message={"role": "user", "content": content}, **fields)


def result(call: str, content: Any, **fields: Any) -> dict[str, Any]:
    is_error = fields.pop("is_error", False)
    block = {"type": "tool_result", "tool_use_id": call, "content": content, "is_error": is_error}
    return user([block], **fields)


def assistant(
    message: str | None, *blocks: Any, out: int = 1, stop: str | None = None, **fields: Any
) -> dict[str, Any]:
    usage = {
        "input_tokens": 12,
        "output_tokens": out,
        "cache_read_input_tokens": 900,
        "cache_creation_input_tokens": 30,
    }
    body = {"role": "assistant", "model": "claude-x", "content": list(blocks), "stop_reason": stop, "usage": usage}
    return record("assistant", message=body | ({"id": message} if message else {}), **fields)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def thinking(words: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": words, "signature": "c2lnbmVk"}


def call(id: str, name: str, **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": input}


def queued(operation: str, content: str | None = None, **fields: Any) -> dict[str, Any]:
    given = record("queue-operation", operation=operation, **fields)
    return {name: given[name] for name in ("type", "operation", "timestamp", "sessionId")} | (
        {} if content is None else {"content": content}
    )


def lines(*records: Any) -> bytes:
    return b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in records)


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lines(*records))
    return path


def append(path: Path, *records: Any) -> None:
    with path.open("ab") as file:
        file.write(lines(*records))
