"""`recollect tail`: what is committed, as it happens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore

from .conftest import COMMAND, Do, Run

STAGING = "258c7280-ae70-4798-800f-63464d01a85d"

ALL = 12
"""changes there are to begin with"""


def heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def following(db: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`recollect tail` in a process of its own, which heeds Ctrl-C."""
    command = [*COMMAND, "tail", *arguments, "--db", str(db)]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # a suite that runs in the background ignores the signal, and so would its children
    with subprocess.Popen(command, text=True, preexec_fn=heed_interrupts, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it still writes when Ctrl-C ends it, on stdout and on stderr."""
    process.send_signal(signal.SIGINT)
    assert process.stdout
    assert process.stderr
    # not `communicate`, which loses what was read ahead of the lines that were taken
    written = process.stdout.read(), process.stderr.read()
    assert process.wait(20) == 130
    return written


def say(db: Path, session: str, *texts: str) -> None:
    async def said() -> None:
        async with AsyncSessionStore(db) as store:
            for text in texts:
                await store.messages.append(session, role="user", content=text)

    asyncio.run(said())


def test_all_there_is_from_the_start(recollect: Run) -> None:
    """A line each: time, session, kind, role or name, first line of the text, cursor."""
    ran = recollect("tail", "--from-start", "--limit", "5")
    assert (ran.status, ran.err) == (0, "")
    [created, asked, looked, rows, done] = ran.lines
    assert created[1:5] == [STAGING, "store.created", "", ""]
    assert asked[:5] == ["2026-03-01T12:00:00Z", STAGING, "message", "user", "Please deploy the staging service"]
    assert looked[3:5] == ["assistant", "I will look."]
    assert rows[3:5] == ["tool", "row 1: value"]
    cursors = [int(line[5]) for line in ran.lines]
    assert cursors == sorted(set(cursors))
    rest = recollect("tail", "--after", done[5], "--limit", "1")
    assert rest.lines[0][1:3] == ["chat-1", "store.created"]


def test_json_has_everything(recollect: Run, do: Do) -> None:
    """One object a line, with the cursor and the message or the event; nothing in it steers a terminal."""
    ran = recollect("tail", "--from-start", "--session", "chat-2", "--limit", "3", "--json")
    assert [(line["kind"], line["session_id"]) for line in ran.json] == [
        ("store.created", "chat-2"), ("message", "chat-2"), ("store.ended", "chat-2"),
    ]  # fmt: skip
    [message] = do(lambda store: store.messages.tail("chat-2", 1))
    assert ran.json[1]["message"]["content"] == message.content
    assert (ran.json[1]["cursor"], ran.json[1]["event"]) == (str(message.id), None)
    assert ran.json[2]["event"]["name"] == "done"
    assert not set(ran.out) & set("\x1b\x9b\u202e\x07")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--session", "Staging", "--kind", "message", "-n", "4"], {(STAGING, "message")}),
        (["--session", "258c", "--kind", "store.*", "-n", "1"], {(STAGING, "store.created")}),
        (["--session", "chat-1", "--session", "chat-2", "-n", "7"],
         {("chat-1", "message"), ("chat-1", "store.created"), ("chat-2", "store.created"), ("chat-2", "message"),
          ("chat-2", "store.ended")}),
        (["--kind", "store.ended", "-n", "1"], {("chat-2", "store.ended")}),
        (["--kind", "store.ended", "--kind", "message", "-n", "9"],
         {(STAGING, "message"), ("chat-1", "message"), ("chat-2", "message"), ("chat-2", "store.ended")}),
    ],
    ids=["title", "beginning", "several", "kind", "kinds"],
)  # fmt: skip
def test_what_is_wanted(recollect: Run, arguments: list[str], expected: set[tuple[str, str]]) -> None:
    """Sessions by id, beginning or title; kinds by name or glob."""
    ran = recollect("tail", "--from-start", *arguments)
    assert (ran.status, ran.err) == (0, "")
    assert {(line[1], line[2]) for line in ran.lines} == expected


def test_what_it_says_of_each(recollect: Run, do: Do) -> None:
    """Of a message without words, what it calls; of an event, what it has."""

    async def happen(store: AsyncSessionStore) -> None:
        call = {"function": {"name": "read_file", "arguments": "{}"}}
        await store.messages.append("chat-1", role="assistant", tool_calls=[call, {"name": "ls"}])
        await store.messages.append("chat-1", role="assistant", content="\n  \nfirst\nsecond")
        await store.messages.append("chat-1", role="assistant", tool_calls="odd")
        await store.events.record(
            {"kind": "issue", "name": "It", "action": "closed", "issue_id": "B-1", "path": "b.md"}
        )
        await store.events.record({"kind": "note", "text": "one\ntwo"})
        await store.sessions.set_title("chat-1", "Bots")

    last = recollect("tail", "--from-start", "--limit", str(ALL)).lines[-1][5]
    do(happen)
    ran = recollect("tail", "--after", last, "--limit", "6")
    assert [line[1:5] for line in ran.lines] == [
        ["chat-1", "message", "assistant", "→ read_file → ls"],
        ["chat-1", "message", "assistant", "first"],
        ["chat-1", "message", "assistant", ""],
        ["", "issue", "It", "closed B-1 b.md"],
        ["", "note", "", "one"],
        ["chat-1", "store.titled", "Bots", ""],
    ]


def test_a_line_appears_while_another_process_appends(db: Path, recollect: Run) -> None:
    """At once, not when it ends; Ctrl-C ends it quietly and says where to go on."""
    last = recollect("tail", "--from-start", "--limit", str(ALL)).lines[-1][5]
    with following(db, "--after", last, "--kind", "message") as process:
        assert process.stdout
        for text in ("one", "two"):
            say(db, "chat-1", text)
            line = process.stdout.readline().rstrip("\n").split("\t")
            assert line[1:5] == ["chat-1", "message", "user", text]
        out, err = interrupted(process)
        assert out == ""
    cursor = re.fullmatch(r"recollect: go on with --after (\d+)\n", err)
    assert cursor
    assert int(cursor[1]) >= int(line[5])
    say(db, "chat-1", "three")
    assert recollect("tail", "--after", cursor[1], "--limit", "1").lines[0][4] == "three"


def test_an_interrupted_replay_goes_on_where_it_stopped(db: Path) -> None:
    """Nothing is shown twice and nothing is left out."""
    say(db, "chat-1", *[f"line {n}" for n in range(300)])
    seen: list[str] = []
    after: tuple[str, ...] = ("--from-start",)
    while len(seen) < ALL + 300:
        with following(db, *after, "--json") as process:
            assert process.stdout
            seen.append(json.loads(process.stdout.readline())["cursor"])
            out, err = interrupted(process)
        seen += [json.loads(line)["cursor"] for line in out.splitlines()]
        after = ("--after", err.split()[-1])
    assert len(seen) == ALL + 300
    assert sorted(set(seen), key=int) == seen


def test_a_reader_that_goes_away_ends_it(db: Path) -> None:
    """Quietly, with the status of a broken pipe."""
    say(db, "chat-1", *[f"line {n} {'and more ' * 50}" for n in range(500)])
    with following(db, "--from-start") as process:
        assert process.stdout
        assert process.stderr
        assert "store.created" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 141


def test_a_terminal_sees_one_line_each(in_terminal: Run) -> None:
    """Time, session, role or kind, words, cut at the edge, and nothing that steers it."""
    ran = in_terminal("tail", "--from-start", "--limit", str(ALL), columns=90)
    assert ran.status == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", ran.out).splitlines()
    assert len(lines) == ALL
    assert all(len(line) <= 90 for line in lines)
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d  {STAGING}  user  Please deploy the .*…", lines[1])
    assert lines[-1].endswith("chat-2  store.ended  done")
    assert not set("".join(lines)) & set("\x1b\x9b\u202e\x07")
    assert "[bold]markup[/bold] :smile:" in "".join(lines)


def test_the_store_stays_as_it_is(db: Path, recollect: Run) -> None:
    """It is opened to be read."""
    before = db.read_bytes()
    recollect("tail", "--from-start", "--limit", str(ALL))
    assert db.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--after", "1", "--from-start"], 2, "exclude each other"),
        (["--limit", "0"], 2, "Invalid value"),
        (["--after", "yesterday"], 1, "after='yesterday' is not the cursor of a change"),
        (["--session", "nobody"], 1, "no session 'nobody'"),
    ],
    ids=["both", "limit", "cursor", "session"],
)
def test_what_means_nothing_is_refused(recollect: Run, arguments: list[str], status: int, said: str) -> None:
    """With a line that says what."""
    ran = recollect("tail", *arguments)
    assert (ran.status, ran.out) == (status, "")
    assert said in re.sub(r"[\s│]+", " ", ran.err)


def test_a_database_that_is_not_there(recollect: Run, tmp_path: Path) -> None:
    """Is not made."""
    ran = recollect("tail", on=tmp_path / "none.db")
    assert (ran.status, ran.out) == (1, "")
    assert "there is no database" in ran.err
    assert os.listdir(tmp_path) == ["sessions.db"] or not (tmp_path / "none.db").exists()
