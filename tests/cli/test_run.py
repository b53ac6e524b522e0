"""What every command keeps to: exit statuses, quiet ends, no database made by reading, no heavy import."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recollect import AsyncSessionStore, __version__

from .conftest import COMMAND, Run

READING = [["search", "x"], ["sessions"], ["show", "x"], ["stats"], ["export", "--all"]]
WRITING = [["rename", "x", "y"], ["delete", "x", "--yes"], ["prune", "--older-than", "1d", "--yes"], ["resume", "x"]]


@pytest.mark.parametrize("command", READING + WRITING, ids=lambda command: command[0])
def test_only_an_import_makes_a_database(recollect: Run, tmp_path: Path, command: list[str]) -> None:
    """It says that there is none, and where, and leaves nothing behind."""
    missing = tmp_path / "none" / "missing.db"
    ran = recollect(*command, on=missing)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"recollect: there is no database at {missing}")
    assert not missing.parent.exists()


@pytest.mark.parametrize("command", READING + WRITING, ids=lambda command: command[0])
def test_another_programs_file_is_refused(recollect: Run, tmp_path: Path, command: list[str]) -> None:
    """A line on stderr, no traceback, status 1; the file is as it was."""
    other = tmp_path / "other.db"
    other.write_bytes(b"something else entirely, of no kind that SQLite knows" * 100)
    before = other.read_bytes()
    ran = recollect(*command, on=other)
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("recollect: ")
    assert other.read_bytes() == before


def test_without_an_argument_there_is_help(recollect: Run) -> None:
    """And it is no error; the exit statuses are in it."""
    ran = recollect(on=None)
    assert (ran.status, ran.err) == (0, "")
    for text in (
        "Usage: recollect",
        "import",
        "search",
        "sessions",
        "show",
        "stats",
        "resume",
        "rename",
        "delete",
        "prune",
        "export",
        "Exit status",
    ):
        assert text in ran.out


def test_it_knows_its_version(recollect: Run) -> None:
    """As the library does."""
    assert recollect("--version", on=None) == (0, f"recollect {__version__}\n", "")


WRONG = [
    ["nonsense"],
    ["search"],
    ["search", "x", "--since", "yesterdayish"],
    ["sessions", "--limit", "-1"],
    ["import", "claude-code", "/nowhere"],
    ["import", "jsonl", "/nowhere"],
    ["import", "jsonl", "/"],
    ["import", "hermes", "/nowhere"],
    ["import", "power-loop", "/nowhere"],
    ["import", "power-loop", "/"],
    ["export"],
    ["export", "x", "--all"],
    ["export", "x", "--source", "y"],
    ["prune"],
    ["prune", "--yes", "--older-than", "90"],
    ["prune", "--yes", "--older-than", "-1d"],
    ["prune", "--yes", "--older-than", "1y"],
    ["prune", "--yes", "--older-than", "9999999d"],
    ["prune", "--older-than", "1d"],
    ["delete", "x"],
]


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_usage_is_status_2(recollect: Run, arguments: list[str]) -> None:
    """Said on stderr, nothing on stdout."""
    ran = recollect(*arguments, on=None)
    assert (ran.status, ran.out) == (2, "")
    assert "Usage" in ran.err


def test_the_default_database_is_the_users(tmp_path: Path) -> None:
    """recollect/sessions.db under the user's data directory."""
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([*COMMAND, "stats"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{Path('recollect', 'sessions.db')}" in done.stderr
    assert str(tmp_path) in done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["lines", "json"])
def test_a_reader_that_goes_away_is_no_error_to_see(db: Path, options: list[str]) -> None:
    """`recollect search x | head -1` prints a line and no noise."""

    async def talk() -> None:
        async with AsyncSessionStore(db) as store:
            texts = [{"role": "user", "content": f"pineapple {'and more ' * 50} {n}"} for n in range(2_000)]
            await store.messages.append_many("chat-1", texts)

    asyncio.run(talk())
    command = [*COMMAND, "search", "pineapple", "--limit", "0", "--db", str(db), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert b"pineapple" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_an_interruption_is_quiet() -> None:
    """Ctrl-C ends a command with status 130, without a traceback."""
    program = """
import asyncio, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from recollect.cli.run import run
import typer
async def endless():
    print("ready", flush=True)
    await asyncio.sleep(600)
app = typer.Typer()
app.command()(lambda: run(endless()))
app()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
    assert process.returncode == 130


@pytest.mark.parametrize("missing", ["typer", "rich", "platformdirs"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    """One line, status 1."""
    program = f"import sys; sys.modules[{missing!r}] = None; from recollect.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "the command line of recollect is an extra: pip install 'recollect[cli]'\n"


def test_the_library_does_not_load_the_command_line() -> None:
    """`import recollect` and the pytest plugin bring in neither typer nor rich."""
    program = (
        "import sys, recollect, recollect.testing, recollect.cli;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'typer', 'rich', 'platformdirs'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
