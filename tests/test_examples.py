"""The examples run as they stand, each in a process of its own, any warning an error."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, cwd: Path, *arguments: object) -> str:
    """What the example prints."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    """None is left to rot."""
    here = Path(__file__).read_text()
    assert all(f'"{path.name}"' in here for path in EXAMPLES.glob("*.py"))


def test_quickstart_finds_what_it_recorded(tmp_path: Path) -> None:
    """And again in a second run, with what the first has left."""
    for times in (1, 2):
        out = run("quickstart.py", tmp_path)
        assert out.count("user: Why does the deploy to >>>staging<<< fail?") == times
        assert out.count(">>>deploy.yml<<< waits for port 8080") == times
    assert (tmp_path / "sessions.db").exists()


def test_the_quickstart_is_short() -> None:
    """About 25 lines."""
    assert len((EXAMPLES / "quickstart.py").read_text().splitlines()) <= 27


def test_the_agent_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    """The call that was pending is run by the second run, once; the third recalls the answer."""
    first, second, third = run("agent_loop.py", tmp_path).split("\n--- ")[1:]
    assert "→ calculate('12 + 30')" in first
    assert "(interrupted)" in first
    assert "tool       calculate" not in first
    assert "resuming: 1 tool call" in second
    assert second.count("tool       calculate: 42") == 1
    assert "list_files" not in second
    assert "assistant  The notes have 42 lines in all." in second
    assert re.search(r"\(9 messages, 4 tool calls, [1-9]\d* tokens in, [1-9]\d* out\)", second)
    assert "You asked before, and I found: The notes have 42 lines in all." in third


@pytest.mark.parametrize("tool", ["list_files", "count_lines", "calculate"])
def test_the_agent_can_be_interrupted_anywhere(tmp_path: Path, tool: str) -> None:
    """Whichever call is pending when it ends: the same transcript in the end, no row twice."""
    program = f"""
import asyncio, sys
from contextlib import suppress
from pathlib import Path
sys.path.insert(0, {str(EXAMPLES)!r})
from agent_loop import Agent, Interrupted, begin, new_process

async def main(folder):
    (folder / "a.txt").write_text("x\\n" * 3)
    async with new_process(folder, "first") as store:
        id = await begin(store, "How many lines?")
        with suppress(Interrupted):
            await Agent(store, id, folder, die_at={tool!r}).run()
    for _ in range(2):
        async with new_process(folder, "again") as store:
            await Agent(store, id, folder).run()
            roles = [message.role for message in (await store.messages.list(id)).items]
    print(roles)

asyncio.run(main(Path(".")))
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    said = [("assistant", "tool")] * 3 + [("assistant",)]
    assert done.stdout.splitlines()[-1] == str(["user", *[role for roles in said for role in roles]])


def test_the_gateway_answers_every_message_once(tmp_path: Path) -> None:
    """By two workers at once: idle chats begin anew, a delivery that comes twice is one row, a long chat is
    shortened, and what each finds is one's own."""
    out = run("chat_gateway.py", tmp_path)
    chats = {title: said.splitlines() for title, _, said in (part.partition("\n") for part in out.split("\n--- ")[1:])}
    assert sum("ended: idle" in title for title in chats) == 2
    group = chats["agent:main:group:7:ada (2 in the transcript)"]
    assert [line.split()[0] for line in group] == ["user", "assistant"]
    (bob,) = [said for title, said in chats.items() if "dm:bob" in title and "ended" not in title]
    assert bob[0].startswith("system     Earlier, the user said")
    assert bob[-1].startswith("assistant")
    assert "at seven." in " ".join(bob)
    assert re.fullmatch(r"scripted: [1-9]\d* tokens in, [1-9]\d* out", chats["usage"][0])
    assert chats["what ada finds of 'invoice'"] == ["user: Remind me: the >>>invoice<<< is due on Friday."]
    assert list(tmp_path.iterdir()) == []


def test_import_and_search_brings_its_own_sample(tmp_path: Path) -> None:
    """Without arguments."""
    out = run("import_and_search.py", tmp_path)
    assert "'messages': 4" in out
    assert out.count(">>>") >= 3
    assert list(tmp_path.iterdir()) == []


def test_import_and_search_takes_a_path_and_a_query(tmp_path: Path) -> None:
    """A folder of transcripts, as there is in every home."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from import_and_search import write_sample
    finally:
        sys.path.remove(str(EXAMPLES))
    (tmp_path / "project").mkdir()
    write_sample(tmp_path / "project")
    out = run("import_and_search.py", tmp_path, tmp_path, '"newest 14" -done')
    assert out.count(">>>newest 14<<<") == 1


def test_the_websocket_gateway_begins_and_ends(tmp_path: Path) -> None:
    """As it is called from a shell; what it does in between is tested in test_gateway_example.py."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / "websocket_gateway.py"), "--db", "chats.db", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert re.fullmatch(r"listening on ws://127\.0\.0\.1:[1-9]\d*\n", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "stopped\n"), err
    assert "Traceback" not in err
    assert (tmp_path / "chats.db").exists()


@pytest.mark.parametrize(
    ("path", "failed"),
    [
        ((), ["speed-up failed on BUG-009", "fix-bug failed on BUG-007"]),
        (("docs/guide.md",), ["fix-docs failed on BUG-008"]),
        (("src/other.py",), []),
    ],
    ids=["default", "docs", "nothing"],
)
def test_loops_on_a_file_are_found_in_its_sample(tmp_path: Path, path: tuple[str, ...], failed: list[str]) -> None:
    """Those that failed, on issues that name the file; the query is tested in test_loops_example.py."""
    backfilled, *lines, last = run("loops_on_file.py", tmp_path, *path).splitlines()
    assert backfilled == "backfilled: 7 files, {'issues': 3, 'files': 4, 'loops': 16}, rejected 0"
    assert [line[18:].partition("  (")[0] for line in lines] == failed
    assert re.match(rf"{len(failed)} run\(s\) failed on .*; asked in \d+\.\d ms", last)
    assert list(tmp_path.iterdir()) == []
