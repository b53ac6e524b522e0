"""`recollect export`, and `recollect import jsonl` that takes it back."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from recollect import AsyncSessionStore

from .conftest import COMMAND, Do, Run

STAGING = "258c7280-ae70-4798-800f-63464d01a85d"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Where there is no database yet."""
    return tmp_path / "new.db"


@pytest.fixture
def file(recollect: Run, tmp_path: Path) -> Path:
    """All three sessions, a line each."""
    path = tmp_path / "all.jsonl"
    path.write_text(recollect("export", "--all").out, encoding="utf-8")
    return path


# -- out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["--all"], [STAGING, "chat-1", "chat-2"]),
        ([STAGING], [STAGING]),
        (["258c"], [STAGING]),
        (["Staging"], [STAGING]),
        (["--source", "telegram"], ["chat-1", "chat-2"]),
        (["--all", "--source", "telegram", "--user", "ben", "--user", "ada"], ["chat-1"]),
        (["--source", "nowhere"], []),
        (["--all", "--json"], [STAGING, "chat-1", "chat-2"]),
        (["--all", "-o", "-"], [STAGING, "chat-1", "chat-2"]),
    ],
)
def test_a_session_is_a_line(recollect: Run, arguments: list[str], ids: list[str]) -> None:
    """One by its id, its beginning or its title; all; or those of sources and users."""
    ran = recollect("export", *arguments)
    assert (ran.status, ran.err) == (0, "")
    assert sorted(record["id"] for record in ran.json) == ids


def test_a_line_is_what_the_library_exports(recollect: Run, do: Do) -> None:
    """Nothing is left out, and nothing in it steers a terminal."""
    ran = recollect("export", "chat-2")
    assert ran.json == [do(lambda store: store.sessions.export("chat-2"))]
    assert not set(ran.out) & set("\x1b\x9b\u202e\x07")


def test_an_unknown_session_is_an_error(recollect: Run, tmp_path: Path) -> None:
    """And there is no file then."""
    for name in ("nope", "chat", ""):
        ran = recollect("export", name, "-o", tmp_path / "out.jsonl")
        assert (ran.status, ran.out) == (1, "")
        assert f"no session '{name}'" in ran.err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_holds_the_same(recollect: Run, tmp_path: Path) -> None:
    """Readable for its owner alone; the name and how many there are is printed; nothing else is left there."""
    out = tmp_path / "out" / "all.jsonl"
    out.parent.mkdir()
    assert recollect("export", "--all", "-o", out) == (0, f"{out}\t3\n", "")
    assert out.read_bytes().decode() == recollect("export", "--all").out
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert recollect("export", "--all", "-o", out, "--force", "--json").json == [{"file": str(out), "sessions": 3}]
    assert os.listdir(out.parent) == ["all.jsonl"]


def test_nothing_is_written_over(recollect: Run, tmp_path: Path) -> None:
    """Unless it is meant; a link stays one."""
    out, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    out.write_text("precious")
    link.symlink_to(out)
    for path in (out, link):
        ran = recollect("export", "chat-1", "-o", path)
        assert (ran.status, ran.out) == (1, "")
        assert ran.err == f"recollect: {out} is there already; --force writes over it\n"
        assert out.read_text() == "precious"
    assert recollect("export", "chat-1", "-o", link, "--force").status == 0
    assert link.is_symlink()
    assert json.loads(out.read_text())["id"] == "chat-1"


def test_what_came_meanwhile_is_not_written_over(db: Path, tmp_path: Path) -> None:
    """Another program's file of that name, made while sessions were written."""
    out = tmp_path / "out.jsonl"
    program = f"""
from pathlib import Path
from recollect.cli.newfile import new_file
from recollect.cli.opening import Refused
try:
    with new_file(Path({str(out)!r}), force=False) as file:
        file.write(b"ours")
        Path({str(out)!r}).write_text("theirs")
except Refused as error:
    print(error)
"""
    done = subprocess.run([COMMAND[0], "-c", program], capture_output=True, text=True, check=True)
    assert "is there already" in done.stdout
    assert out.read_text() == "theirs"
    assert not list(tmp_path.glob(".recollect-*"))


def test_the_database_is_spared(recollect: Run, db: Path) -> None:
    """Even with --force, and its log too."""
    for path in (db, db.with_name(db.name + "-wal")):
        ran = recollect("export", "--all", "-o", path, "--force")
        assert (ran.status, ran.err) == (1, f"recollect: {path} is the database itself\n")
    assert len(recollect("sessions").lines) == 3


def test_places_that_cannot_be(recollect: Run, tmp_path: Path) -> None:
    """A folder, or in one that is not there."""
    for path, why in ((tmp_path, "is not a file"), (tmp_path / "none" / "x", "there is no folder")):
        ran = recollect("export", "--all", "-o", path, "--force")
        assert (ran.status, ran.out) == (1, "")
        assert why in ran.err


def test_a_terminal_sees_how_far_it_is(in_terminal: Run, tmp_path: Path) -> None:
    """A bar while it goes on, then how many there are; without -o, the lines and no bar."""
    shown = in_terminal("export", "--all", "-o", tmp_path / "out.jsonl", columns=200).out
    assert "writing" in shown
    assert f"3 sessions in {tmp_path / 'out.jsonl'}" in shown
    assert json.loads(in_terminal("export", "chat-1").out)["id"] == "chat-1"


# -- and in ----------------------------------------------------------------------------------------


def test_what_was_exported_comes_back(recollect: Run, do: Do, new: Path, tmp_path: Path) -> None:
    """Into another store, byte for byte: also what was compacted, and whoever was spawned."""

    async def grow(store: AsyncSessionStore) -> None:
        await store.sessions.create("worker", parent_id="chat-1", metadata={"deep": [1, {"x": None}]})
        await store.messages.append("worker", role="user", content=[{"type": "text", "text": "tidy \u2028 up\x85"}])
        await store.sessions.set_pending("worker", {"tool": "c1"})
        await store.messages.compact("chat-1", note="they talked", to_seq=2)
        await store.sessions.archive("chat-2")

    do(grow)
    out = tmp_path / "all.jsonl"
    recollect("export", "--all", "-o", out)
    ran = recollect("import", "jsonl", out, on=new)
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines[:2] == [["sessions", "4", "0", "0", "0"], ["messages", "10", "0", "0", "0"]]
    assert recollect("export", "--all", on=new).out.encode() == out.read_bytes()
    assert [line[1] for line in recollect("search", "tidy", on=new).lines] == ["worker"]


def test_what_is_there_is_left_alone(recollect: Run, file: Path, new: Path) -> None:
    """A second time nothing comes in, and it is said which ones were there."""
    recollect("import", "jsonl", file, on=new)
    [again] = recollect("import", "jsonl", file, "--json", on=new).json
    assert (again["inserted"], again["duplicate"]) == ({}, {"sessions": 3})
    assert sorted(again["existing"]) == [STAGING, "chat-1", "chat-2"]


def test_a_bad_line_does_not_stop_the_rest(recollect: Run, file: Path, new: Path) -> None:
    """It is told with its number in the file, blank lines counted; the exit status stays."""
    first, *others = file.read_bytes().splitlines(keepends=True)
    bad = [b"{no json\n", b"\n", b"[1]\n", b'"\xff"\n', b"[" * 100_000 + b"\n", b'{"id": 7}\n', b"  \n"]
    last = b'{"id": "torn'
    file.write_bytes(first + b"".join(bad) + b"".join(others) + last)
    ran = recollect("import", "jsonl", file, on=new)
    assert (ran.status, ran.err) == (0, "")
    rejected = [line[1:] for line in ran.lines if line[0] == "rejected"]
    assert [place for place, _ in rejected] == [f"{file}:{number}" for number in (2, 4, 5, 6, 7, 11)]
    assert "not JSON" in rejected[0][1]
    assert "not an object" in rejected[1][1]
    assert "Expected `str`, got `int`" in rejected[4][1]
    assert ["lines", "0", "0", "0", "5"] in ran.lines
    assert ["sessions", "3", "0", "0", "1"] in ran.lines
    assert len(recollect("sessions", on=new).lines) == 3


def test_a_last_line_needs_no_end(recollect: Run, file: Path, new: Path) -> None:
    """As when an editor has left it out."""
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    recollect("import", "jsonl", file, on=new)
    assert len(recollect("sessions", on=new).lines) == 3


def test_a_line_that_is_too_long_is_told(
    recollect: Run, file: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle, and at the end without an end; what is read at once is bounded."""
    from recollect.cli import records

    monkeypatch.setattr(records, "LONGEST", 10_000)
    monkeypatch.setattr(records, "CHUNK_BYTES", 100)
    long = b'{"id": "' + b"x" * 20_000 + b'"}'
    first, *others = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + long + b"\n" + b"".join(others) + long)
    [result] = recollect("import", "jsonl", file, "--json", on=new).json
    assert [(one["line"], one["reason"]) for one in result["rejections"]] == [
        (2, "longer than 10,000 bytes"),
        (5, "longer than 10,000 bytes"),
    ]
    assert result["inserted"]["sessions"] == 3


def test_what_a_session_loses_is_told_with_its_line(recollect: Run, file: Path) -> None:
    """A title that is taken here."""
    record = recollect("export", STAGING).json[0] | {"id": "other"}
    file.write_text("\n" + json.dumps(record) + "\n")
    [result] = recollect("import", "jsonl", file, "--json").json
    assert [(one["kind"], one["file"], one["line"]) for one in result["rejections"]] == [("titles", str(file), 2)]
    assert result["files"] == 1


def test_one_store_flows_into_another(db: Path, new: Path) -> None:
    """`export | import jsonl -`; also from a file on standard input, and from none at all."""
    export = [*COMMAND, "export", "--all", "--db", str(db)]
    with subprocess.Popen(export, stdout=subprocess.PIPE) as process:
        command = [*COMMAND, "import", "jsonl", "-", "--db", str(new)]
        done = subprocess.run(command, stdin=process.stdout, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "sessions\t3\t0\t0\t0"
    written = subprocess.run([*export[:-1], str(new)], capture_output=True, check=True).stdout
    assert written == subprocess.run(export, capture_output=True, check=True).stdout
    with open(db.parent / "in.jsonl", "w+b") as file:
        file.write(b"{bad\n" + written)
        file.seek(0)
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "sessions\t0\t0\t3\t0"
    assert "rejected\t-:1\tnot JSON" in done.stdout
    closed = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (1, "recollect: there is no standard input\n")


def heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_waiting_for_input_can_be_interrupted(new: Path) -> None:
    """Ctrl-C ends it at once and quietly, though nothing comes."""
    command = [*COMMAND, "import", "jsonl", "-", "--db", str(new)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # a suite that runs in the background ignores the signal, and so would its children
    with subprocess.Popen(command, preexec_fn=heed_interrupts, **pipes) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(b"{bad\n")
        process.stdin.flush()
        while not new.exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)  # by then it is waiting
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
        assert process.wait(10) == 130


def test_a_terminal_sees_what_came(in_terminal: Run, file: Path) -> None:
    """A bar, the counts and the rejections."""
    file.write_bytes(b"{bad\n" + file.read_bytes())
    shown = in_terminal("import", "jsonl", file, columns=200).out
    for text in ("reading", "indexing", "there already", "sessions", "1 file", "rejected", f"{file}:1"):
        assert text in shown
