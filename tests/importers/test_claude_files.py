"""Files that grow, shrink, are replaced, torn, linked in circles, or very long."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from transcripts import SESSION, append, assistant, call, lines, result, text, thinking, user, write

from recollect import AsyncSessionStore
from recollect.importers import claude_code
from recollect.importers import lines as reading
from recollect.importers.claude_code import transcript as claude_transcript
from recollect.importers.source import Progress
from recollect.models import Message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "projects" / f"{SESSION}.jsonl"


async def contents(store: AsyncSessionStore, session: str = SESSION) -> list[object]:
    return [message.content async for message in store.messages.stream(session)]


class Opened:
    """Counts the files that importing opens, and the bytes it reads of them."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self._make = claude_transcript.LineReader

    def __call__(self, file, *args):  # type: ignore[no-untyped-def]
        self.files += 1
        read = file.read

        class Counting:
            def __getattr__(_, name: str):
                return getattr(file, name)

            def read(_, size: int) -> bytes:
                block = read(size)
                self.bytes += len(block)
                return block

        return self._make(Counting(), *args)  # type: ignore[arg-type]


@pytest.fixture
def opened() -> Iterator[Opened]:
    counter = Opened()
    with patch.object(claude_transcript, "LineReader", counter):
        yield counter


async def test_a_second_run_inserts_nothing_and_opens_nothing(
    store: AsyncSessionStore, file: Path, opened: Opened
) -> None:
    """A file that did not change costs a stat."""
    write(file, user("hi"), assistant("m1", text("ho")))
    first = await claude_code.load(store, file.parent)
    assert (first.files, first.unchanged, opened.files) == (1, 0, 1)
    second = await claude_code.load(store, file.parent)
    assert (second.files, second.unchanged, opened.files) == (1, 1, 1)
    assert not second.inserted.total()
    assert not second.duplicate.total()


async def test_a_file_that_has_grown_costs_what_was_added(store: AsyncSessionStore, file: Path, opened: Opened) -> None:
    """Reading goes on where it stopped, and so do the rounds of the session."""
    write(file, *[assistant(f"m{at}", text("word " * 50)) for at in range(50)])
    await claude_code.load(store, file)
    before = opened.bytes
    added = [assistant("m50", text("new"))]
    append(file, *added)
    imported = await claude_code.load(store, file)
    assert imported.inserted == {"messages": 1, "usage": 1}
    assert opened.bytes - before <= len(lines(*added)) + 1
    last = (await store.messages.tail(SESSION, 1))[0]
    assert (last.content, last.round_index) == ("new", 51)


async def test_a_file_only_touched_is_read_no_further(store: AsyncSessionStore, file: Path, opened: Opened) -> None:
    """Another time of change is a reason to look, not to read it all again."""
    write(file, user("hi"))
    await claude_code.load(store, file)
    before = opened.bytes
    os.utime(file, (1, 1))
    imported = await claude_code.load(store, file)
    assert (imported.unchanged, imported.inserted.total(), opened.bytes - before) == (0, 0, 1)
    assert (await claude_code.load(store, file)).unchanged == 1


async def test_a_truncated_file_is_read_from_its_start(store: AsyncSessionStore, file: Path) -> None:
    """What is there again is a duplicate, what is new is added, what was imported stays."""
    first, second = user("first"), user("second " + "x" * 100)
    write(file, first, second)
    await claude_code.load(store, file)
    file.write_bytes(lines(first))
    again = await claude_code.load(store, file)
    assert (again.inserted.total(), again.duplicate["messages"], again.duplicate["sessions"]) == (0, 1, 1)
    append(file, user("third"))
    assert (await claude_code.load(store, file)).inserted == {"messages": 1}
    assert await contents(store) == ["first", "second " + "x" * 100, "third"]


@pytest.mark.parametrize("same_inode", [True, False])
async def test_a_replaced_file_is_read_from_its_start(store: AsyncSessionStore, file: Path, same_inode: bool) -> None:
    """Also one that is as long as before, or longer, or written in place."""
    write(file, user("aaaa"), user("bbbb"))
    await claude_code.load(store, file)
    other = write(file.with_name("new"), user("cccc"), user("dddd"), user("eeee"))
    if same_inode:
        file.write_bytes(other.read_bytes())
    else:
        other.replace(file)
    imported = await claude_code.load(store, file)
    assert imported.inserted == {"messages": 3}
    assert await contents(store) == ["aaaa", "bbbb", "cccc", "dddd", "eeee"]


async def test_a_torn_last_line_waits(store: AsyncSessionStore, file: Path) -> None:
    """It is neither rejected nor lost: it comes when it is whole, and its number is right."""
    write(file, user("whole"))
    torn = lines(user("torn at first"), b"garbage")
    with file.open("ab") as raw:
        raw.write(torn[:40])
    imported = await claude_code.load(store, file)
    assert not imported.rejected
    assert await contents(store) == ["whole"]
    with file.open("ab") as raw:
        raw.write(torn[40:])
    imported = await claude_code.load(store, file)
    assert await contents(store) == ["whole", "torn at first"]
    assert [(r.kind, r.line) for r in imported.rejections] == [("lines", 3)]


async def test_a_last_line_without_an_end_is_taken_if_it_is_whole(store: AsyncSessionStore, file: Path) -> None:
    """A whole object cannot be the beginning of a longer one; its end, when it comes, is no line."""
    file.parent.mkdir(parents=True)
    file.write_bytes(lines(user("first"), user("last"))[:-1])
    await claude_code.load(store, file)
    assert await contents(store) == ["first", "last"]
    with file.open("ab") as raw:
        raw.write(b"\n" + lines(user("more"), b"garbage"))
    imported = await claude_code.load(store, file)
    assert await contents(store) == ["first", "last", "more"]
    assert [(r.kind, r.line) for r in imported.rejections] == [("lines", 4)]


async def test_repeated_lines_are_stored_once(store: AsyncSessionStore, file: Path) -> None:
    """Files with two thirds of repetitions exist."""
    line = {key: value for key, value in user("no uuid").items() if key != "uuid"}
    write(file, *[user("hi") | {"uuid": "same"}, line, assistant("m1", text("ho")) | {"uuid": "a"}] * 3)
    imported = await claude_code.load(store, file)
    assert await contents(store) == ["hi", "no uuid", "ho"]
    assert imported.inserted == {"sessions": 1, "messages": 3, "usage": 1}
    assert imported.duplicate["messages"] == 6


@pytest.mark.parametrize("size", [1, 300, 1000, 5000])
async def test_chunks_make_no_difference(
    store: AsyncSessionStore, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """However a file is cut into chunks, messages and usage come out the same."""
    records = [
        user("why?"),
        assistant("m1", thinking("hm"), out=1),
        assistant("m1", text("first"), out=2),
        assistant("m1", call("t1", "Grep", pattern="x"), out=3),
        result("t1", "found it"),
        assistant("m1", call("t2", "Read", path="y"), text("second"), stop="tool_use", out=9),
        result("t2", [text("content of y")]),
        assistant("m2", text("done"), out=4),
    ]
    write(file, *records)
    async with AsyncSessionStore(tmp_path / "whole.db") as whole:
        await claude_code.load(whole, file)
        expected = await _facts(whole)
    monkeypatch.setattr(claude_transcript, "CHUNK_BYTES", size)
    await claude_code.load(store, file)
    assert await _facts(store) == expected
    file.write_bytes(b"\n" + file.read_bytes())
    again = await claude_code.load(store, file)
    assert not again.inserted.total()
    assert not again.amended["messages"]
    assert await _facts(store) == expected


async def _facts(store: AsyncSessionStore) -> object:
    session = await store.sessions.get(SESSION)
    assert session is not None
    rounds = await store.usage.rounds(SESSION)
    return (
        [_without_id(message) async for message in store.messages.stream(SESSION)],
        sorted((r.round_index, r.prompt_tokens, r.completion_tokens) for r in rounds),
        (session.tool_call_count, session.message_count, session.input_tokens, session.output_tokens),
    )


def _without_id(message: Message) -> tuple[object, ...]:
    return tuple(getattr(message, name) for name in message.__struct_fields__ if name != "id")


async def test_the_rest_of_a_message_that_comes_later_is_found(store: AsyncSessionStore, file: Path) -> None:
    """A live file is imported in the middle of a message: what was indexed of it is replaced."""
    write(file, assistant("m1", text("the walrus"), out=1))
    await claude_code.load(store, file)
    await store.flush(index=True)
    append(file, assistant("m1", text("and the carpenter"), call("t1", "Grep", pattern="oysters"), out=9))
    imported = await claude_code.load(store, file)
    assert (imported.amended["messages"], imported.amended["usage"]) == (1, 1)
    for words in ("walrus", '"walrus and the carpenter"', "oysters"):
        hits = [hit async for hit in store.search(words)]
        assert [hit.seq for hit in hits] == [1], words
    session = await store.sessions.get(SESSION)
    assert session is not None
    assert (session.message_count, session.tool_call_count, session.output_tokens) == (1, 1, 9)


# -- folders ---------------------------------------------------------------------------------------


async def test_a_folder_is_imported_with_all_below_it(store: AsyncSessionStore, tmp_path: Path) -> None:
    """Every transcript at any depth; nothing else."""
    top = tmp_path / "projects"
    write(top / "a" / "one.jsonl", user("1", session="one"))
    write(top / "b" / "two" / "subagents" / "agent-x.jsonl", user("2", session="two"))
    write(top / "b" / "notes.txt", user("3", session="three"))
    (top / "c.jsonl").mkdir()
    imported = await claude_code.load(store, top)
    assert imported.files == 2
    assert await store.sessions.count() == 2


async def test_links_in_a_circle_end(store: AsyncSessionStore, file: Path) -> None:
    """Linked folders are followed, each is entered once."""
    write(file, user("hi"))
    (file.parent / "self").symlink_to(file.parent, target_is_directory=True)
    (file.parent / "loop").symlink_to(file.parent / "loop")
    (file.parent / "gone.jsonl").symlink_to(file.parent / "nowhere")
    elsewhere = write(file.parent.parent / "elsewhere" / "s2.jsonl", user("ho", session="s2"))
    (file.parent / "linked").symlink_to(elsewhere.parent, target_is_directory=True)
    async with asyncio.timeout(10):
        imported = await claude_code.load(store, file.parent)
    assert imported.files == 2
    assert imported.inserted["messages"] == 2


async def test_nothing_there_is_an_error(store: AsyncSessionStore, tmp_path: Path) -> None:
    """A path that does not exist is the caller's mistake; an empty folder is not."""
    with pytest.raises(FileNotFoundError):
        await claude_code.load(store, tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert (await claude_code.load(store, tmp_path / "empty")).files == 0


async def test_a_file_that_vanishes_does_not_stop_the_rest(store: AsyncSessionStore, file: Path) -> None:
    """It is reported; the others are imported."""
    write(file, user("hi"))
    gone = write(file.with_name("0.jsonl"), user("x"))

    write(file.with_name("-.jsonl"), user("y"))
    find = claude_code.find_files

    def vanishing(*args: str) -> object:
        found = find(*args)
        gone.unlink()
        return found

    with patch.object(claude_code, "find_files", vanishing):
        imported = await claude_code.load(store, file.parent)
    assert imported.rejected == {"files": 1}
    assert imported.rejections[0].file == str(gone)
    assert sorted(map(str, await contents(store))) == ["hi", "y"]


async def test_a_name_that_is_not_utf8_does_not_stop_the_rest(store: AsyncSessionStore, file: Path) -> None:
    """It is told; nor does what is no file at all."""
    write(file, user("hi"))
    write(file.with_name(os.fsdecode(b"\xff.jsonl")), user("x"))
    os.mkfifo(file.with_suffix(".meta.json"))
    imported = await claude_code.load(store, file.parent)
    assert [(each.kind, each.file[-7:], each.reason) for each in imported.rejections] == [
        ("files", "\ufffd.jsonl"[-7:], "its name is not UTF-8")
    ]
    assert await contents(store) == ["hi"]
    os.mkfifo(file.with_name("pipe"))
    assert (await claude_code.load(store, file.with_name("pipe"))).rejected == {"files": 1}


# -- progress --------------------------------------------------------------------------------------


async def test_progress_is_told_on_the_loop(
    store: AsyncSessionStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every chunk: bytes and files, done and in all, never backwards."""
    monkeypatch.setattr(claude_transcript, "CHUNK_BYTES", 500)
    write(file, *[user("x" * 100) for _ in range(20)])
    write(file.with_name("other.jsonl"), user("y"))
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        asyncio.get_running_loop()
        told.append(progress)

    await claude_code.load(store, file.parent, progress=tell)
    total = sum(path.stat().st_size for path in file.parent.iterdir())
    assert len(told) > 10
    assert [p.bytes_done for p in told] == sorted(p.bytes_done for p in told)
    assert told[-1] == (told[-1].file, total, total, 2, 2)


async def test_an_error_in_progress_ends_the_import_and_harms_nothing(
    store: AsyncSessionStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written until then stays, and the next import goes on behind it."""
    monkeypatch.setattr(claude_transcript, "CHUNK_BYTES", 500)
    write(file, *[user(f"message {at}") for at in range(20)])

    class Enough(OSError):
        pass

    def stop(progress: Progress) -> None:
        if progress.bytes_done > 2000:
            raise Enough

    with pytest.raises(Enough):
        await claude_code.load(store, file, progress=stop)
    there = len(await contents(store))
    assert 0 < there < 20
    imported = await claude_code.load(store, file)
    assert imported.inserted["messages"] == 20 - there
    assert not imported.duplicate["messages"]
    assert await contents(store) == [f"message {at}" for at in range(20)]


async def test_a_cancelled_import_goes_on_where_it_stopped(store: AsyncSessionStore, file: Path) -> None:
    """Rows and cursor are committed together, so nothing is twice and nothing is missing."""
    write(file, *[user("x" * 200 + str(at)) for at in range(3000)])
    task = asyncio.create_task(claude_code.load(store, file))
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await claude_code.load(store, file)
    assert len(await contents(store)) == 3000


async def test_two_imports_at_once_store_everything_once(store: AsyncSessionStore, file: Path) -> None:
    """They may do the work twice, never the rows."""
    write(file, *[assistant(f"m{at}", text(f"word {at}"), out=at) for at in range(200)])
    await asyncio.gather(claude_code.load(store, file), claude_code.load(store, file))
    assert await contents(store) == [f"word {at}" for at in range(200)]
    session = await store.sessions.get(SESSION)
    assert session is not None
    assert session.output_tokens == sum(range(200))


# -- size ------------------------------------------------------------------------------------------


async def test_a_line_that_is_too_long_is_passed_over(
    store: AsyncSessionStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is rejected with its place, without being held."""
    monkeypatch.setattr(claude_transcript, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(reading.LineReader.__init__, "__defaults__", (5000,))
    write(file, user("before"), user("x" * 20_000), user("y" * 3000), user("after"))
    imported = await claude_code.load(store, file)
    assert await contents(store) == ["before", "y" * 3000, "after"]
    assert [(r.kind, r.line, r.reason) for r in imported.rejections] == [("lines", 2, "the line is too long")]


async def test_memory_stays_flat(store: AsyncSessionStore, file: Path) -> None:
    """A file of forty chunks takes no more than one of ten."""
    file.parent.mkdir(parents=True)
    peaks = []
    for megabytes in (10, 40):
        with file.open("wb") as raw:
            for at in range(megabytes):
                raw.write(lines(*[user(f"{at} {'z' * 10_000}") | {"type": "progress"} for _ in range(90)]))
                raw.write(lines(*[assistant(f"m{at}.{n}", text("w" * 10_000)) for n in range(10)]))
        tracemalloc.start()
        await claude_code.load(store, file)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5 + 2**20
