"""Issue files: several dialects and defects, edited and moved, and the real ones."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from recollect import AsyncSessionStore, Imported, Limits, RecordedEvent
from recollect.importers import front_matter, issues
from recollect.importers.front_matter import parse

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "issues"
absent = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real issues are not at {REAL}")

ISSUE = """---
id: BUG-007
type: BUG
priority: P3
status: {status}
captured_at: '2026-03-01T09:00:00Z'
{more}discovered_by: scan
labels: [networking, cli]
---
# BUG-007: retry never stops

## Summary
{body}
"""

NAME = "bugs/P2-BUG-007-retry-never-stops.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where issues are."""
    (tmp_path / ".issues").mkdir()
    return tmp_path / ".issues"


def write(folder: Path, text: str | bytes, name: str = NAME) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def issue(status: str = "open", more: str = "", body: str = "No cap on attempts.") -> str:
    return ISSUE.format(status=status, more=more, body=body)


def done(at: str) -> str:
    return issue("done", f"completed_at: {at}\n")


async def recorded(store: AsyncSessionStore) -> list[RecordedEvent]:
    return [event async for event in store.events.stream(kind="issue")]


async def only(store: AsyncSessionStore, folder: Path) -> RecordedEvent:
    """The event of the only issue there is."""
    imported = await issues.load(store, folder)
    assert not imported.rejected, imported.rejections
    (event,) = await recorded(store)
    return event


async def found(store: AsyncSessionStore, query: str) -> list[str | None]:
    return [hit.ref async for hit in store.search(query, limit=None, context=0)]


# -- what becomes of a file ------------------------------------------------------------------------


async def test_an_issue_becomes_an_event_of_its_transition(store: AsyncSessionStore, folder: Path) -> None:
    """With everything the file tells, where it is looked for; the file's name knows the priority best."""
    path = write(folder, done("2026-03-02T10:30:00Z"))
    event = await only(store, folder)
    assert (event.kind, event.issue_id, event.action, event.name) == ("issue", "BUG-007", "done", "retry never stops")
    assert (event.path, event.anchor) == (NAME, str(path))
    assert event.at == datetime(2026, 3, 2, 10, 30, tzinfo=UTC)
    assert event.payload
    assert (event.payload["priority"], event.payload["status"], event.payload["discovered_by"]) == (
        "P2",
        "done",
        "scan",
    )
    assert (event.text or "").startswith("bug P2 networking cli\n\n# BUG-007: retry never stops")
    rows = await store.query("SELECT discovered_by, transition FROM issue_events")
    assert [(row.discovered_by, row.transition) for row in rows] == [("scan", "done")]


@pytest.mark.parametrize(
    "query", ["BUG-007", "bug-007", "retry stops", "cap attempts", '"no cap on"', "networking", "bug", "done", "P2"]
)
async def test_an_issue_is_found_by_all_it_says(store: AsyncSessionStore, folder: Path, query: str) -> None:
    """By its id, its title, its body, its labels, its type, its status, its priority."""
    write(folder, done("2026-03-02T10:30:00Z"))
    await issues.load(store, folder)
    assert await found(store, query) == ["BUG-007"]


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("# words\n", "P2-BUG-490-the-slug.md", ("BUG-490", "open", "words")),
        ("---\nid: 490\n---\n", "P2-BUG-490-the-slug.md", ("BUG-490", "open", "the slug")),
        ("---\nid: 490\ntype: enhancement\n---\n", "the-slug.md", ("ENH-490", "open", "the slug")),
        ("---\nid: feat-3\ntitle: T\n---\n# FEAT-3: H\n", "x.md", ("FEAT-3", "open", "T")),
        ("---\nid: TASK-12\n---\n# TASK-12: Words\n", "x.md", ("TASK-12", "open", "Words")),
        ("# EPIC-5 - Much work ##\n", "x.md", ("EPIC-5", "open", "Much work")),
        ("# P2-ENH-6: Less\n", "ENH-6-less.md", ("ENH-6", "open", "Less")),
        ("```\n# no heading\n```\n# UTF-8: yes\n", "enh-7.md", ("ENH-7", "open", "UTF-8: yes")),
        ("---\nstatus: Completed\n---\n", "BUG-1-a-b.md", ("BUG-1", "done", "a b")),
        ("---\nstatus: In Progress\n---\n", "BUG-1-a.md", ("BUG-1", "in_progress", "a")),
        ("---\nstatus: won't fix\n---\n", "BUG-1-a.md", ("BUG-1", "cancelled", "a")),
        ("---\nstatus: simmering\n---\n", "BUG-1-a.md", ("BUG-1", "simmering", "a")),
        ("---\nstatus: 'on-hold'\n---\n", "BUG-1-a.md", ("BUG-1", "blocked", "a")),
        ("# words\n", "completed/BUG-1-a.md", ("BUG-1", "done", "words")),
        ("---\nstatus: open\n---\n\n---\nstatus: done\n---\n# words\n", "BUG-1-a.md", ("BUG-1", "done", "words")),
        ("---\na: b\n---\n# words\n\n---\nstatus: done\n---\n", "BUG-1-a.md", ("BUG-1", "done", "words")),
        ("---\na: b\n---\n```\n---\nstatus: done\n---\n```\n# words\n", "BUG-1-a.md", ("BUG-1", "open", "words")),
        ("---\na: b\n---\n# words\n---\nSome prose. Note: this\n---\n", "BUG-1-a.md", ("BUG-1", "open", "words")),
        ("---\ntitle: a: b: [c\nstatus: done\n---\n", "BUG-1-x.md", ("BUG-1", "done", "a: b: [c")),
        ("---\nstatus: done\n# words\n", "BUG-1-x.md", ("BUG-1", "done", "words")),
        ("\ufeff---\r\nstatus: done\r\n---\r\n# words\r\n", "BUG-1-x.md", ("BUG-1", "done", "words")),
        ("---\ntitle: &a [x]\nb: *a\nstatus: done\n---\n# words\n", "BUG-1-x.md", ("BUG-1", "done", "&a [x]")),
        ("---\n- a\n- b\n---\n# words\n", "BUG-1-x.md", ("BUG-1", "open", "words")),
    ],
)  # fmt: skip
async def test_every_dialect_is_understood(
    store: AsyncSessionStore, folder: Path, text: str, name: str, expected: tuple[str, str, str]
) -> None:
    """Ids, statuses and titles from wherever the file tells them."""
    write(folder, text, name)
    event = await only(store, folder)
    assert (event.issue_id, event.action, event.name) == expected


@pytest.mark.parametrize(
    ("front", "at"),
    [
        ("completed_at: 2026-07-02 10:00:00+02:00\ncaptured_at: 2026-07-01", "2026-07-02T08:00:00+00:00"),
        ("completed_at: yesterday\ncaptured_at: 2026-07-01", "2026-07-01T00:00:00+00:00"),
        ("captured_at: '2026-08-16T01:56:52'", "2026-08-16T01:56:52+00:00"),
        ("discovered_date: '2026-08-15'", "2026-08-15T00:00:00+00:00"),
        ("completed_at: 1900-01-01", "2026-01-01T00:00:00+00:00"),
        ("", "2026-01-01T00:00:00+00:00"),
    ],
)
async def test_the_time_is_the_first_date_there_is(store: AsyncSessionStore, folder: Path, front: str, at: str) -> None:
    """Naive is UTC; without one, it is when the file was changed."""
    path = write(folder, f"---\nid: BUG-1\n{front}\n---\n")
    stamp = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    os.utime(path, (stamp, stamp))
    assert (await only(store, folder)).at.isoformat() == at


def test_values_are_texts():
    """Whatever YAML takes for numbers, dates and booleans; lists and mappings keep their shape."""
    document = parse("---\nid: 034\nok: no\nat: 2026-01-01\nl: [1, 2]\nm:\n  k: 1.0\n---\nwords\n")
    assert document.front == {"id": "034", "ok": "no", "at": "2026-01-01", "l": ["1", "2"], "m": {"k": "1.0"}}
    assert document.body == "words\n"


def test_a_block_that_is_no_yaml_is_read_by_its_lines():
    """Quotes go, lists below a key stay lists; so does a block that is too long for a parser."""
    document = parse("---\nid: 'BUG-1'\nbad: [\nl:\n- a\n- 'b'\n---\n")
    assert document.front == {"id": "BUG-1", "bad": "[", "l": ["a", "b"]}
    assert parse(f"---\nid: 'BUG-1'\nx: {'y' * front_matter.YAML_BYTES}\n---\n").front["id"] == "BUG-1"


def test_the_parser_gets_so_much_of_a_file_and_no_more():
    """Many blocks are no way around its bound; those behind it are read by their lines, and still hold."""
    block = f"---\nid: 'BUG-1'\nx: [{'y' * (front_matter.YAML_BYTES // 3)}]\n---\n"
    with patch("yaml.load", wraps=yaml.load) as load:
        document = parse(block * 9 + "---\nid: 'BUG-2'\nx: [z]\n---\n")
    assert (document.front["id"], document.front["x"]) == ("BUG-2", ["z"])
    assert 2 * len(block) < sum(len(call.args[0]) for call in load.call_args_list) + 100 < 3 * len(block)


# -- again -----------------------------------------------------------------------------------------


def counts(imported: Imported) -> tuple[int, int, int]:
    return imported.inserted["issues"], imported.amended["issues"], imported.duplicate["issues"]


async def test_a_second_run_opens_nothing(store: AsyncSessionStore, folder: Path) -> None:
    """And a file that was only touched brings nothing."""
    path = write(folder, issue())
    assert counts(await issues.load(store, folder)) == (1, 0, 0)
    with patch.object(issues._Reader, "read", side_effect=AssertionError):
        again = await issues.load(store, folder)
    assert (again.unchanged, counts(again)) == (1, (0, 0, 0))
    os.utime(path, (1, 1))
    assert counts(await issues.load(store, folder)) == (0, 0, 1)


async def test_another_body_changes_the_event_in_place(store: AsyncSessionStore, folder: Path) -> None:
    """Its id stays; what it says now is found, what it said is not, whether it was indexed or not."""
    write(folder, issue())
    before = await only(store, folder)
    for indexed, body, gone in ((True, "It was an overflow.", "attempts"), (False, "A leap second.", "overflow")):
        if indexed:
            await store.flush(index=True)
        write(folder, issue(body=body))
        assert counts(await issues.load(store, folder)) == (0, 1, 0)
        (event,) = await recorded(store)
        assert (event.id, event.dedupe_key) == (before.id, before.dedupe_key)
        assert body in (event.text or "")
        assert await found(store, body) == ["BUG-007"]
        assert await found(store, gone) == []


async def test_a_damaged_index_does_not_stop_a_change(store: AsyncSessionStore, path: Path, folder: Path) -> None:
    """It is made anew, with what the issue says now."""
    write(folder, issue())
    await issues.load(store, folder)
    await store.flush(index=True)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("DROP TABLE search_index_data")
    write(folder, issue(body="It was an overflow."))
    assert counts(await issues.load(store, folder)) == (0, 1, 0)
    await store.flush(index=True)
    assert await found(store, "overflow") == ["BUG-007"]
    assert await found(store, "attempts") == []


async def test_every_transition_is_an_event(store: AsyncSessionStore, folder: Path) -> None:
    """Closed, reopened, closed again: none is lost, and a copy of the file elsewhere adds none."""
    for text in (issue(), done("2026-03-02"), issue(), done("2026-03-05"), issue("in progress")):
        write(folder, text)
        assert counts(await issues.load(store, folder)) == (1, 0, 0)
    events = await recorded(store)
    assert [event.action for event in events] == ["open", "done", "open", "done", "in_progress"]
    assert [event.at.day for event in events if event.action == "done"] == [2, 5]
    assert len({event.dedupe_key for event in events}) == 5
    other = folder.parent / "copy"
    other.mkdir()
    write(other, done("2026-03-05"))
    assert counts(await issues.load(store, other))[0] == 0


async def test_a_renamed_priority_is_the_same_issue(store: AsyncSessionStore, folder: Path) -> None:
    """Known by id, slug, status and time; where it lies now is told."""
    path = write(folder, issue())
    await issues.load(store, folder)
    path.rename(path.with_name("P0-BUG-007-retry-never-stops.md"))
    assert counts(await issues.load(store, folder)) == (0, 1, 0)
    (event,) = await recorded(store)
    assert event.path == "bugs/P0-BUG-007-retry-never-stops.md"
    assert await found(store, "P0") == ["BUG-007"]


async def test_two_issues_of_one_number_are_two(store: AsyncSessionStore, folder: Path) -> None:
    """Numbers are given twice in large projects: neither hides the other."""
    write(folder, issue(body="first"))
    write(folder, issue(body="second"), "bugs/P2-BUG-007-another.md")
    assert counts(await issues.load(store, folder)) == (2, 0, 0)


# -- what is broken --------------------------------------------------------------------------------


async def test_what_is_broken_stops_nothing(store: AsyncSessionStore, folder: Path) -> None:
    """Counted with its place, once; invalid UTF-8 becomes U+FFFD; what is deep, or repeats itself, is harmless."""
    write(folder, "just words\n", "README.md")
    write(folder, b"\xff\xfe\x00", "BUG-1-bytes.md")
    write(folder, f"---\na: {'[' * 5000}\nstatus: done\n---\n", "BUG-2-deep.md")
    bomb = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    write(folder, f"---\n{bomb}status: done\n---\n", "BUG-3-bomb.md")
    write(folder, "", "BUG-4-empty.md")
    write(folder, issue())
    (folder / "folder.md").mkdir()
    imported = await issues.load(store, folder)
    assert counts(imported) == (5, 0, 0)
    assert [(each.kind, Path(each.file).name) for each in imported.rejections] == [("issues", "README.md")]
    again = await issues.load(store, folder)
    assert (again.unchanged, again.rejected.total()) == (6, 0)


async def test_a_name_that_is_not_utf8_is_told(store: AsyncSessionStore, folder: Path) -> None:
    """It cannot be remembered as read; the others are imported."""
    write(folder, "# words", os.fsdecode(b"BUG-1-\xff.md"))
    write(folder, issue())
    imported = await issues.load(store, folder)
    assert counts(imported) == (1, 0, 0)
    assert [each.reason for each in imported.rejections] == ["its name is not UTF-8"]


async def test_what_is_no_file_holds_nobody_up(store: AsyncSessionStore, folder: Path) -> None:
    """A pipe that nobody writes to is told, and not waited for."""
    os.mkfifo(folder / "BUG-1-pipe.md")
    imported = await issues.load(store, folder / "BUG-1-pipe.md")
    assert [each.reason.partition(":")[0] for each in imported.rejections] == ["[Errno 22] Not a file"]


async def test_a_file_caught_half_written_forgets_nothing(store: AsyncSessionStore, folder: Path) -> None:
    """What it told before is known when it can be understood again: coming back to a status is an event."""
    for text in (issue("open"), issue("done"), "", issue("open"), "", issue("done")):
        write(folder, text, "words.md")
        await issues.load(store, folder)
    assert [event.action async for event in store.events.stream(kind="issue")] == ["open", "done", "open", "done"]


async def test_a_huge_file_is_rejected_unread(path: Path, folder: Path) -> None:
    """By the bound of a row."""
    with write(folder, issue()).open("ab") as file:
        file.truncate(1 << 40)
    write(folder, issue(), "bugs/P2-BUG-008-small.md")
    async with AsyncSessionStore(path, limits=Limits(row_bytes=100_000)) as store:
        imported = await issues.load(store, folder)
    assert counts(imported) == (1, 0, 0)
    assert f"it has {1 << 40} bytes, limits.row_bytes allows 100000" in imported.rejections[0].reason


async def test_a_file_that_cannot_be_read_is_tried_again(store: AsyncSessionStore, folder: Path) -> None:
    """It has no cursor until it was read."""
    write(folder, issue())
    with patch("recollect.importers.source.open", side_effect=OSError("no"), create=True):
        imported = await issues.load(store, folder)
    assert imported.rejected == {"issues": 1}
    assert counts(await issues.load(store, folder)) == (1, 0, 0)


async def test_a_single_file_is_an_import_too(store: AsyncSessionStore, folder: Path) -> None:
    """Its path is told from its folder."""
    path = write(folder, issue())
    assert (await only(store, path)).path == path.name


async def test_a_missing_yaml_library_is_named(store: AsyncSessionStore, folder: Path) -> None:
    """With the extra that brings it."""
    with patch.dict("sys.modules", {"yaml": None}), pytest.raises(ImportError, match=r"recollect\[backfill\]"):
        await issues.load(store, folder)


async def test_what_is_to_be_hidden_is_hidden(path: Path, folder: Path) -> None:
    """`redact` of the store sees every text."""
    write(folder, issue(body="the key is sk-123"))
    async with AsyncSessionStore(path, redact=lambda text: text.replace("sk-123", "***")) as store:
        event = await only(store, folder)
        assert "***" in (event.text or "")
        assert await found(store, "123") == []


# -- the real ones ---------------------------------------------------------------------------------


def words_of(text: str, n: int) -> str:
    """Some words of a text, as somebody would remember them."""
    words = [word for word in re.findall(r"[A-Za-z]{4,}", text) if word.upper() not in ("AND", "NOT")]
    middle = len(words) // 2
    return " ".join(words[middle : middle + n] or words[-n:])


@absent
async def test_the_real_issues_come_in_once_and_are_found(store: AsyncSessionStore) -> None:
    """A fourth of them is looked for: by its id, by words of its title, and by words of its body. A second run changes
    no row."""
    files = sorted(REAL.rglob("*.md"))
    first = await issues.load(store, REAL)
    assert (counts(first), first.rejected.total()) == ((len(files), 0, 0), 0)
    before = await recorded(store)
    again = await issues.load(store, REAL)
    assert (again.unchanged, counts(again)) == (len(files), (0, 0, 0))
    assert await recorded(store) == before
    by_path = {event.path: event for event in before}
    statuses = {"open", "in_progress", "blocked", "deferred", "done", "cancelled"}
    for file in files:
        event = by_path[file.relative_to(REAL).as_posix()]
        assert (event.issue_id, event.action in statuses) == (re.findall(r"[A-Z]+-\d+", file.name)[0], True)
        assert event.name
    for event in before[::4]:
        for query in (event.issue_id, words_of(event.name or "", 6), words_of(event.text or "", 9)):
            assert query
            assert event.issue_id in await found(store, query), query
