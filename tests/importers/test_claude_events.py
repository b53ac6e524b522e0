"""What tools did, out of transcripts: calls with their results, and files that were touched."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_claude_real import REAL, SAMPLE, Corpus, absent, blocks, records, session_of
from transcripts import SESSION, append, assistant, call, lines, record, result, text, user, write

from recollect import AsyncSessionStore, RecordedEvent, args_hash
from recollect.importers import claude_code
from recollect.importers.claude_code import events


@pytest.fixture(params=[pytest.param(SAMPLE, id="sample"), pytest.param(REAL, id="real", marks=absent)])
def corpus(request: pytest.FixtureRequest) -> Corpus:
    return request.param


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "projects" / f"{SESSION}.jsonl"


async def recorded(store: AsyncSessionStore, kind: str) -> list[RecordedEvent]:
    return [event async for event in store.events.stream(kind=kind)]


async def test_a_call_and_its_result_are_one_event(store: AsyncSessionStore, file: Path) -> None:
    """With what it was called with, its hash, and what came of it."""
    write(
        file, assistant("m", call("c", "Grep", pattern="forever", path="src"), second=60), result("c", "näh", second=61)
    )
    imported = await events.load(store, file)
    assert imported.inserted == {"tools": 1}
    (event,) = await recorded(store, "tool")
    assert (event.name, event.action, event.session_id, event.path) == ("Grep", "completed", SESSION, "src")
    assert (event.at, event.anchor) == (datetime(2026, 3, 1, 0, 1, tzinfo=UTC), f"{file}:1")
    given = {"pattern": "forever", "path": "src"}
    assert event.payload == {
        "args_hash": args_hash(given), "id": "c", "name": "Grep", "input": given, "result_size": 4, "is_error": False,
    }  # fmt: skip
    (row,) = await store.query("SELECT args_hash, result_size FROM tool_events")
    assert tuple(row) == (args_hash(given), 4)
    assert [hit.ref async for hit in store.search("forever", kinds="event")] == ["src"]


@pytest.mark.parametrize(
    ("tool", "field", "op"),
    [
        ("Read", "file_path", "read"), ("Write", "file_path", "write"), ("Edit", "file_path", "edit"),
        ("MultiEdit", "file_path", "edit"), ("NotebookEdit", "notebook_path", "edit"),
    ],
)  # fmt: skip
async def test_a_file_that_was_touched_is_an_event(
    store: AsyncSessionStore, file: Path, tool: str, field: str, op: str
) -> None:
    """When it was done; not where it failed, was not answered, or by a shell."""
    write(
        file,
        assistant("m", call("c", tool, **{field: "/w/a.py", "content": "pineapple"})),
        assistant("m", call("d", tool, **{field: "/w/b.py"}), call("e", "Bash", command="rm /w/c.py")),
        result("c", "ok", second=5), result("d", "no such file", is_error=True), result("e", "ok"),
        assistant("n", call("f", tool, **{field: "/w/d.py"})),
    )  # fmt: skip
    imported = await events.load(store, file)
    assert imported.inserted == {"tools": 4, "files": 1}
    (event,) = await recorded(store, "file")
    assert (event.path, event.action, event.name, event.session_id) == ("/w/a.py", op, tool, SESSION)
    assert (event.at.second, event.anchor) == (5, f"{file}:1")
    assert [e.action for e in await recorded(store, "tool")] == ["completed", "failed", "completed", "called"]
    assert [hit.ref async for hit in store.search("pineapple")] == []  # contents are found in messages


async def test_a_result_that_comes_later_completes_its_call(store: AsyncSessionStore, file: Path) -> None:
    """In a later run, and found by what is known then; the file it touched is told as well."""
    write(file, assistant("m", call("c", "Read", file_path="/w/a.py")))
    assert (await events.load(store, file)).inserted == {"tools": 1}
    await store.flush(index=True)
    append(file, result("c", [{"type": "text", "text": "four"}, {"type": "image"}]))
    imported = await events.load(store, file)
    assert (imported.inserted, imported.amended) == ({"files": 1}, {"tools": 1})
    (event,) = await recorded(store, "tool")
    assert event.action == "completed"
    assert event.payload
    assert (event.payload["result_size"], event.payload["input"]) == (4, {"file_path": "/w/a.py"})
    assert [hit.name async for hit in store.search("completed")] == ["Read"]
    assert [hit.name async for hit in store.search("called")] == []


async def test_sub_agents_have_sessions_of_their_own(store: AsyncSessionStore, file: Path) -> None:
    """The ids that the importer of messages gives them, so that events join them."""
    agent = file.parent / SESSION / "subagents" / "agent-a1.jsonl"
    write(file, assistant("m", call("c", "Task", prompt="look")))
    write(agent, assistant("m", call("d", "Bash", command="ls"), isSidechain=True, agentId="a1"))
    await events.load(store, file.parent)
    await claude_code.load(store, file.parent)
    rows = await store.query("SELECT e.session_id FROM tool_events e JOIN sessions s ON s.id = e.session_id ORDER BY 1")
    assert [row.session_id for row in rows] == [SESSION, f"{SESSION}:agent-a1"]


async def test_a_copy_in_a_fork_is_an_event_of_its_own(store: AsyncSessionStore, file: Path) -> None:
    """And repeated lines are not."""
    called = assistant("m", call("c", "Bash", command="ls"))
    write(file, called, called)
    write(file.with_name("fork.jsonl"), {**called, "sessionId": "fork"})
    assert (await events.load(store, file.parent)).inserted == {"tools": 2}


async def test_a_second_run_inserts_nothing(store: AsyncSessionStore, file: Path) -> None:
    """Also where the file was replaced, or another version reads it all again."""
    write(file, assistant("m", call("c", "Read", file_path="a")), result("c", "ok"))
    await events.load(store, file)
    assert (await events.load(store, file)).unchanged == 1
    file.write_bytes(lines(user("before")) + file.read_bytes())
    imported = await events.load(store, file)
    assert (imported.inserted.total(), imported.amended.total()) == (0, 0)
    assert imported.duplicate == {"tools": 1, "files": 1}


async def test_what_is_broken_stops_nothing(store: AsyncSessionStore, file: Path) -> None:
    """Counted with its place."""
    write(
        file, b"{not json", b"[1]", b"\xff", record("user", message=None), record("assistant", message={"content": None}),
        record("assistant", message={"content": [None, 5, {"type": "tool_use"}, {"type": "tool_use", "name": "\ud800"}]}),
        assistant("m", {"type": "tool_use", "id": "x", "name": "Bash", "input": ["odd"]}, call("y", "T", path=5)),
        record("user", session=5, message={"content": []}),
        assistant("m", call("big", "Write", content="x" * 9_000_000)),
        result("nobody", "ok"), assistant("m", text("words")), {"type": 7}, b'{"type": "user"',
    )  # fmt: skip
    with file.open("ab") as raw:
        raw.write(b'{"torn')
    imported = await events.load(store, file)
    assert imported.inserted == {"tools": 3}
    assert imported.rejected == {"lines": 6, "tools": 2}
    assert sorted(each.line or 0 for each in imported.rejections) == [1, 2, 3, 4, 6, 8, 9, 13]


async def test_a_line_that_never_ends_is_passed_over(
    store: AsyncSessionStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without holding it."""
    monkeypatch.setattr("recollect.importers.lines.LineReader.__init__.__defaults__", (10_000,))
    write(file, b'{"x": "' + b"y" * 20_000 + b'"}', assistant("m", call("c", "Bash", command="ls")))
    imported = await events.load(store, file)
    assert (imported.inserted, [each.line for each in imported.rejections]) == ({"tools": 1}, [1])


# -- whole transcripts -----------------------------------------------------------------------------


def calls(corpus: Corpus) -> Iterator[tuple[str, dict[str, Any]]]:
    """Session and block of everything that was called."""
    for each in records(corpus):
        if each["type"] == "assistant":
            yield from [(session_of(each), block) for block in blocks(each) if block["type"] == "tool_use"]


async def test_every_call_is_there_once(store: AsyncSessionStore, corpus: Corpus) -> None:
    """With its session and arguments; a second run changes nothing."""
    first = await events.load(store, corpus.path)
    assert not first.rejected
    expected = Counter((session, block["name"], args_hash(block["input"])) for session, block in calls(corpus))
    found = await recorded(store, "tool")
    assert Counter((e.session_id, e.name, (e.payload or {})["args_hash"]) for e in found) == expected
    assert {e.session_id for e in found} <= {session_of(each) for each in records(corpus) if "message" in each}
    touched = [e for e in found if e.name in events._OPERATIONS and e.action == "completed"]
    assert len(await recorded(store, "file")) == len(touched)
    again = await events.load(store, corpus.path)
    assert (again.unchanged, again.inserted.total()) == (again.files, 0)


@pytest.mark.parametrize("seed", range(3))
async def test_a_growing_file_comes_to_the_same_as_a_whole(
    store: AsyncSessionStore, memory: AsyncSessionStore, corpus: Corpus, tmp_path: Path, seed: int
) -> None:
    """Wherever it is cut, in the middle of a line too."""
    whole = (corpus.path / corpus.growing).read_bytes()
    cuts = sorted(random.Random(seed).sample(range(len(whole)), 20))
    growing = tmp_path / Path(corpus.growing).name
    with growing.open("wb") as raw:
        for start, end in pairwise([0, *cuts, len(whole)]):
            raw.write(whole[start:end])
            raw.flush()
            assert not (await events.load(memory, growing)).rejected
    await events.load(store, growing)
    assert await facts(memory) == await facts(store)


async def facts(store: AsyncSessionStore) -> list[Any]:
    found = [*await recorded(store, "tool"), *await recorded(store, "file")]
    return sorted(
        (e.kind, e.at, e.session_id, e.name, e.action, e.path, e.anchor, e.text or "", str(e.payload), e.dedupe_key)
        for e in found
    )
