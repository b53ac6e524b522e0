"""Importing transcripts: a made-up project of coding-agent sessions, beside reading its JSON."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

from recollect import AsyncSessionStore
from recollect.importers import claude_code

from . import texts
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


def rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """The table of importing."""
    project = prepare(folder)
    pairs = [
        (asyncio.run(store_time(folder / f"import-{n}.db", project)), plain_time(project)) for n in range(repetitions)
    ]
    yield paired(f"import of {FILES * TURNS * 4} lines", pairs, "s", "plain: json.loads of every line")
