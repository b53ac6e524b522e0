"""A small store, and the command line run in this process, in one of its own, and in a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from recollect import AsyncSessionStore
from recollect.cli.app import app

COMMAND = [sys.executable, "-m", "recollect.cli"]
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NASTY = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \u202eevil [bold]markup[/bold] :smile:"


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> None:
    """A command is alone on its loop: it may look at files and write to its screen."""


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A store of three sessions."""
    path = tmp_path / "sessions.db"
    asyncio.run(_fill(path))
    return path


async def _fill(path: Path) -> None:
    async with AsyncSessionStore(path) as store:
        await _deploy(store)
        await store.sessions.create("chat-1", source="telegram", user_id="ben", created_at=START)
        words = ["How do I deploy a bot?", "Ask the deploy channel.", "thanks"]
        for at, text in enumerate(words):
            role = "assistant" if at == 1 else "user"
            await _say(store, "chat-1", role, text, hours=24 + at)
        await store.sessions.create("chat-2", source="telegram", created_at=START - timedelta(days=30))
        await _say(store, "chat-2", "user", f"look: {NASTY}", hours=-24 * 30)
        await store.sessions.end("chat-2", "done")
        await store.flush(index=True)


async def _deploy(store: AsyncSessionStore) -> None:
    id = "258c7280-ae70-4798-800f-63464d01a85d"
    await store.sessions.create(id, source="claude-code", user_id="ada", model="m-1", title="Staging", created_at=START)
    await _say(store, id, "user", "Please deploy the staging service")
    call = {"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "deploy.yml"}'}}
    usage = {"prompt_tokens": 1200, "completion_tokens": 55, "actual_cost_usd": 0.01}
    await _say(store, id, "assistant", "I will look.", tool_calls=[call], usage=usage)
    lines = "\n".join(f"row {n}:\tvalue" for n in range(1, 41))
    await _say(store, id, "tool", lines, name="read_file", tool_call_id="c1")
    await _say(store, id, "assistant", "It is deployed.")


async def _say(store: AsyncSessionStore, session: str, role: str, text: str, hours: int = 0, **fields: Any) -> None:
    at = START + timedelta(hours=hours)
    await store.messages.append(session, role=role, content=text, created_at=at, **fields)


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        """The fields of each line."""
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def json(self) -> list[Any]:
        """The value of each line."""
        return [json.loads(line) for line in self.out.split("\n") if line]


Run = Callable[..., Ran]


@pytest.fixture
def recollect(db: Path) -> Run:
    """Runs a command on the store, in this process, as in a pipe."""

    def run(*arguments: object, on: Path | None = db) -> Ran:
        given = [str(argument) for argument in arguments]
        result = CliRunner().invoke(app, given if on is None else [*given, "--db", str(on)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def in_terminal(db: Path) -> Run:
    """Runs a command on the store in a process whose stdout and stderr are one terminal, and stdin too
    where somebody answers."""

    def run(*arguments: object, columns: int = 100, answer: str | None = None) -> Ran:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
        command = [*COMMAND, *map(str, arguments), "--db", str(db)]
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
        if answer is not None:
            streams = {"preexec_fn": lambda: _log_in(theirs), "pass_fds": [theirs]}
        with subprocess.Popen(command, env=environment, **streams) as process:
            os.close(theirs)
            try:
                shown = _read_all(ours, answer)
            except BaseException:
                process.kill()
                raise
        os.close(ours)
        return Ran(process.returncode, shown.decode().replace("\r\n", "\n"), "")

    return run


Do = Callable[[Callable[[AsyncSessionStore], Awaitable[Any]]], Any]


@pytest.fixture
def do(db: Path) -> Do:
    """Does something with the store, opened for it alone; gives back what that gave."""

    async def opened(what: Callable[[AsyncSessionStore], Awaitable[Any]]) -> Any:
        async with AsyncSessionStore(db) as store:
            return await what(store)

    return lambda what: asyncio.run(opened(what))


def _log_in(terminal: int) -> None:
    """Makes it the terminal of the process, where Ctrl-C is a signal, also for one that was begun without."""
    os.login_tty(terminal)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


PATIENCE_S = 60.0


def _read_all(fd: int, answer: str | None) -> bytes:
    shown = b""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if not select.select([fd], [], [], 1.0)[0]:
            if answer and shown.endswith(b"[y/N]: "):
                # what is typed while the terminal changes its mode to be read from is lost: so it is typed again
                os.write(fd, answer.encode())
            continue
        try:
            block = os.read(fd, 65536)
        except OSError:  # how Linux says that the other side is closed
            return shown
        if not block:
            return shown
        shown += block
        if answer and shown.endswith(b"[y/N]: "):
            os.write(fd, answer.encode())
    raise AssertionError(f"the command did not end; it showed {shown!r}")
