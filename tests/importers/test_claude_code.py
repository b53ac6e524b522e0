"""What the records of a transcript become."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from transcripts import (
    SESSION,
    append,
    assistant,
    call,
    lines,
    queued,
    record,
    result,
    text,
    thinking,
    user,
    write,
)  # fmt: skip

from recollect import AsyncSessionStore
from recollect.importers import claude_code
from recollect.models import Message, Relation


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "projects" / "-w-demo" / f"{SESSION}.jsonl"


async def messages(store: AsyncSessionStore, session: str = SESSION) -> list[Message]:
    return [message async for message in store.messages.stream(session)]


async def found(store: AsyncSessionStore, query: str) -> list[int]:
    return sorted([hit.id async for hit in store.search(query, limit=None)])


async def test_session_is_told_by_its_records(store: AsyncSessionStore, file: Path) -> None:
    """Model, working directory, branch and version are the session's, and its first and last times."""
    write(file, user("why?", second=60), assistant("m1", text("so"), second=62))
    imported = await claude_code.load(store, file)
    session = await store.sessions.get(SESSION)
    assert session is not None
    assert imported.inserted == {"sessions": 1, "messages": 2, "usage": 1}
    assert (session.source, session.model, session.title) == ("claude-code", "claude-x", None)
    assert session.metadata == {"cwd": "/w/demo", "git_branch": "main", "version": "2.1.0"}
    assert session.created_at == datetime(2026, 3, 1, 0, 1, tzinfo=UTC)
    assert session.last_active_at == datetime(2026, 3, 1, 0, 1, 2, tzinfo=UTC)
    assert session.preview == "why?"


async def test_lines_of_one_message_are_one_message(store: AsyncSessionStore, file: Path) -> None:
    """Text, thinking and tool calls of lines that share a message id are put together, also where tool
    results stand between them."""
    write(
        file,
        user("why does it loop?"),
        assistant("m1", thinking("let me see")),
        assistant("m1", text("Checking the cap.")),
        assistant("m1", call("t1", "Grep", pattern="max")),
        result("t1", "net.py:41"),
        assistant("m1", text("And the other."), call("t2", "Read", path="a.py"), stop="tool_use", out=48),
        result("t2", [text("def f"), text("pass")], is_error=True),
    )
    await claude_code.load(store, file)
    _, said, first, second = await messages(store)
    assert said.content == "Checking the cap.\n\nAnd the other."
    assert said.reasoning == "let me see"
    assert said.tool_calls == [call("t1", "Grep", pattern="max"), call("t2", "Read", path="a.py")]
    assert (said.external_id, said.finish_reason, said.round_index) == ("m1", "tool_use", 1)
    assert (first.role, first.tool_call_id, first.name, first.content) == ("tool", "t1", "Grep", "net.py:41")
    assert (second.tool_call_id, second.content) == ("t2", [text("def f"), text("pass")])
    assert (first.metadata, second.metadata) == ({}, {"is_error": True})
    session = await store.sessions.get(SESSION)
    assert session is not None
    assert session.tool_call_count == 2


async def test_usage_is_counted_once_per_message_and_the_last_line_wins(store: AsyncSessionStore, file: Path) -> None:
    """Input is repeated on every line and output grows: neither is summed over lines."""
    write(
        file,
        assistant("m1", text("a"), out=1),
        assistant("m1", text("b"), out=7),
        assistant("m2", text("c"), out=5),
        assistant(None, text("d"), out=2),
    )
    imported = await claude_code.load(store, file)
    session = await store.sessions.get(SESSION)
    assert session is not None
    assert (session.input_tokens, session.output_tokens) == (3 * 942, 14)
    assert (session.cache_read_tokens, session.cache_write_tokens) == (2700, 90)
    assert imported.inserted["usage"] == 3
    assert [round.round_index for round in await store.usage.rounds(SESSION)] == [1, 2, 3]


async def test_usage_of_a_forked_session_is_counted_where_it_was_first(store: AsyncSessionStore, file: Path) -> None:
    """A resumed session may begin with copies of another's messages: they are its words, not its tokens."""
    original = [user("go"), assistant("m1", text("a"), out=3), assistant("m1", text("b"), out=4)]
    write(file, *original)
    copy = [each | {"sessionId": "5e55-0002"} for each in original]
    write(file.with_name("fork.jsonl"), *copy, assistant("m2", text("c"), out=5, session="5e55-0002"))
    imported = await claude_code.load(store, file.parent)
    totals = await store.usage.totals(by="source")
    assert [(total.prompt_tokens, total.completion_tokens) for total in totals] == [(2 * 942, 9)]
    assert imported.duplicate["usage"] == 1
    assert [m.content for m in await messages(store, "5e55-0002")] == ["go", "a\n\nb", "c"]
    assert [m.content for m in await messages(store)] == ["go", "a\n\nb"]


async def test_blocks_that_are_no_text_are_kept_as_given(store: AsyncSessionStore, file: Path) -> None:
    """Images, server tools and blocks of the future make the content the list that they came in."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    search = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "cap"}}
    write(
        file,
        user([text("look at this"), image]),
        assistant("m1", text("searching"), search),
        assistant("m1", text("done")),
        assistant("m2", "not a block"),
    )
    await claude_code.load(store, file)
    assert [message.content for message in await messages(store)] == [
        [text("look at this"), image],
        [text("searching"), search, text("done")],
        ["not a block"],
    ]


async def test_what_the_user_did_not_say_is_the_systems(store: AsyncSessionStore, file: Path) -> None:
    """Injected texts, compaction summaries and notices are kept and found, but not as the user's."""
    write(
        file,
        user("injected skill", isMeta=True),
        user("the story so far", isCompactSummary=True),
        record("system", subtype="local_command", content="<stdout>ok</stdout>"),
        record("system", subtype="turn_duration", durationMs=5),
        user("mine"),
    )
    imported = await claude_code.load(store, file)
    assert [(m.role, m.name, m.content) for m in await messages(store)] == [
        ("system", "meta", "injected skill"),
        ("system", "compact_summary", "the story so far"),
        ("system", "local_command", "<stdout>ok</stdout>"),
        ("user", None, "mine"),
    ]
    assert imported.skipped == {"system": 1}
    assert len(await found(store, '"story so far"')) == 1


async def test_a_record_of_several_messages_keeps_their_order(store: AsyncSessionStore, file: Path) -> None:
    """Tool results become messages one by one, with the words between them."""
    blocks = [
        {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
        {"type": "tool_result", "tool_use_id": "t2", "content": ""},
        text("stop"), text("now"),
    ]  # fmt: skip
    write(file, user(blocks))
    await claude_code.load(store, file)
    there = await messages(store)
    assert [(m.role, m.tool_call_id, m.content) for m in there] == [
        ("tool", "t1", "one"), ("tool", "t2", ""), ("user", None, "stop\n\nnow"),
    ]  # fmt: skip
    assert [m.external_id for m in there] == [
        there[0].external_id,
        f"{there[0].external_id}#1",
        f"{there[0].external_id}#2",
    ]


# -- queued prompts --------------------------------------------------------------------------------


async def test_a_queued_prompt_that_comes_again_is_one_message(store: AsyncSessionStore, file: Path) -> None:
    """It stands where the agent came to it."""
    write(file, user("go"), queued("enqueue", "also the docs"), assistant("m1", text("ok")), user("also the docs"))
    await claude_code.load(store, file)
    assert [m.content for m in await messages(store)] == ["go", "ok", "also the docs"]


async def test_a_queued_prompt_that_never_comes_again_is_not_lost(store: AsyncSessionStore, file: Path) -> None:
    """Older versions say of a prompt that was slipped into a turn only that it left the queue."""
    write(
        file,
        queued("enqueue", "<task-notification>done</task-notification>"),
        queued("enqueue", "check again", second=5),
        queued("remove", second=9),
        assistant("m1", text("checking")),
        queued("enqueue", "still waiting"),
        user("<task-notification>done</task-notification>"),
    )
    await claude_code.load(store, file)
    assert [m.content for m in await messages(store)] == [
        "check again", "checking", "<task-notification>done</task-notification>", "still waiting",
    ]  # fmt: skip
    assert [m.role for m in await messages(store)] == ["user", "assistant", "user", "user"]


async def test_a_prompt_slipped_into_a_turn_is_one_message(store: AsyncSessionStore, file: Path) -> None:
    """Newer versions tell of it three times; the same words said later are another message."""
    slipped = {"type": "queued_command", "prompt": "doc sweep too", "commandMode": "prompt"}
    write(
        file,
        queued("enqueue", "doc sweep too"),
        queued("remove", "doc sweep too"),
        record("attachment", attachment=slipped),
        record("attachment", attachment={"type": "queued_command", "prompt": [text("and the tests")]}),
        record("attachment", attachment={"type": "todo_reminder"}),
        user("doc sweep too"),
    )
    imported = await claude_code.load(store, file)
    assert [m.content for m in await messages(store)] == ["doc sweep too", "and the tests", "doc sweep too"]
    assert imported.skipped == {"attachment": 1}


@pytest.mark.parametrize("cut", range(1, 6))
async def test_a_queued_prompt_is_one_message_wherever_the_file_was_cut(
    store: AsyncSessionStore, file: Path, cut: int
) -> None:
    """Imports of a live file end anywhere, and reading it all again adds nothing."""
    records = [
        user("go"),
        queued("enqueue", "also the docs"),
        queued("dequeue"),
        assistant("m1", text("ok")),
        user("also the docs"),
        assistant("m2", text("done")),
    ]
    write(file, *records[:cut])
    await claude_code.load(store, file)
    append(file, *records[cut:])
    await claude_code.load(store, file)
    contents = sorted(str(m.content) for m in await messages(store))
    assert contents == ["also the docs", "done", "go", "ok"]
    file.rename(file.with_suffix(".old"))
    write(file, *records)
    again = await claude_code.load(store, file)
    assert not again.inserted.total()


# -- titles ----------------------------------------------------------------------------------------


async def test_the_users_title_goes_before_the_agents_and_that_before_a_summary(
    store: AsyncSessionStore, file: Path
) -> None:
    """The latest of the best kind is the title, cleaned and short enough."""
    write(
        file,
        record("custom-title", customTitle="  Retry \u200b cap "),
        user("hi"),
        record("ai-title", aiTitle="generated"),
        record("summary", session=None, summary="summed up", leafUuid="x"),
    )
    await claude_code.load(store, file)
    session = await store.sessions.get(SESSION)
    assert session is not None
    assert session.title == "Retry cap"
    append(file, record("custom-title", customTitle="Better " + "x" * 200))
    await claude_code.load(store, file)
    session = await store.sessions.get(SESSION)
    assert session is not None
    assert session.title is not None
    assert session.title.startswith("Better xxx")
    assert len(session.title) == 100


async def test_titles_that_are_taken_get_the_next_number(store: AsyncSessionStore, file: Path) -> None:
    """A title never fails an import, and reading it again gives no other number."""
    await store.sessions.create("other", title="Fix retry")
    for at in (2, 3):
        write(
            file.with_name(f"s{at}.jsonl"),
            user("hi", session=f"s{at}"),
            record("summary", session=None, summary="Fix retry"),
        )
    await claude_code.load(store, file.parent)
    file.with_name("s2.jsonl").write_bytes(file.with_name("s2.jsonl").read_bytes() + lines(user("yes", session="s2")))
    await claude_code.load(store, file.parent)
    titles = [(await store.sessions.get(f"s{at}")) for at in (2, 3)]
    assert [session and session.title for session in titles] == ["Fix retry #2", "Fix retry #3"]


async def test_a_title_given_here_stays(store: AsyncSessionStore, file: Path) -> None:
    """Only what the transcript itself has given is replaced by a later title of the transcript."""
    write(file, user("hi"), record("ai-title", aiTitle="first"))
    await claude_code.load(store, file)
    append(file, record("ai-title", aiTitle="second"))
    await claude_code.load(store, file)
    session = await store.sessions.get(SESSION)
    assert session is not None
    assert session.title == "second"

    def rename(title: str):
        from recollect.engine.operation import execute

        yield execute("UPDATE sessions SET title = :title", title=title)

    await store.write(rename, "mine")
    append(file, record("ai-title", aiTitle="third"))
    await claude_code.load(store, file)
    session = await store.sessions.get(SESSION)
    assert session is not None
    assert session.title == "mine"


async def test_a_summary_of_another_session_is_no_title(store: AsyncSessionStore, file: Path) -> None:
    """Summaries at the top of a file are for the record they name, which often is another file's."""
    asked = user("hi")
    write(file, record("summary", session=None, summary="of another", leafUuid="elsewhere"), asked)
    mine = user("hello", session="s2")
    other = write(
        file.with_name("s2.jsonl"),
        record("summary", session=None, summary="of mine", leafUuid=mine["uuid"]),
        record("summary", session=None, summary="of another", leafUuid="elsewhere"),
        mine,
    )
    await claude_code.load(store, file)
    await claude_code.load(store, other)
    first, second = await store.sessions.get(SESSION), await store.sessions.get("s2")
    assert first is not None
    assert second is not None
    assert (first.title, second.title) == (None, "of mine")


# -- sub-agents ------------------------------------------------------------------------------------


def _agent(records: list[dict[str, Any]], agent: str) -> list[dict[str, Any]]:
    return [each | {"isSidechain": True, "agentId": agent} for each in records]


async def test_sub_agents_are_children_of_their_session(store: AsyncSessionStore, file: Path) -> None:
    """Their files name the parent's session; which call spawned them is in the parent's."""
    folder = file.with_suffix("") / "subagents"
    write(folder / "agent-a1.jsonl", *_agent([user("find it"), assistant("m9", text("found"), out=6)], "a1"))
    (folder / "agent-a1.meta.json").write_text(json.dumps({"agentType": "Explore", "spawnDepth": 1}))
    write(
        file,
        assistant("m1", call("t1", "Task", prompt="find it")),
        result("t1", "found", toolUseResult={"agentId": "a1", "status": "completed"}),
    )
    imported = await claude_code.load(store, file.parent)
    child = await store.sessions.get(f"{SESSION}:agent-a1")
    assert child is not None
    assert (child.parent_id, child.relation, child.spawn_tool_call_id) == (SESSION, Relation.SPAWN, "t1")
    assert child.metadata["agent_type"] == "Explore"
    assert child.metadata["agent_id"] == "a1"
    assert [m.content for m in await messages(store, child.id)] == ["find it", "found"]
    assert imported.inserted["sessions"] == 2


async def test_a_sub_agents_file_may_come_before_its_parents(store: AsyncSessionStore, file: Path) -> None:
    """The parent is made then, and filled in when its file comes."""
    agent = write(
        file.with_name("agent-a1.jsonl"), *_agent([user("find it", second=50), assistant("m9", text("found"))], "a1")
    )
    await claude_code.load(store, agent)
    write(
        file,
        user("go", second=10),
        assistant("m1", call("t1", "Task")),
        record("progress", data={"type": "agent_progress", "agentId": "a1"}, parentToolUseID="t1"),
    )
    await claude_code.load(store, file)
    parent, child = await store.sessions.get(SESSION), await store.sessions.get(f"{SESSION}:agent-a1")
    assert parent is not None
    assert child is not None
    assert parent.created_at == datetime(2026, 3, 1, tzinfo=UTC)
    assert (parent.message_count, parent.model) == (2, "claude-x")
    assert child.spawn_tool_call_id == "t1"


async def test_a_sub_agent_alone_is_linked_to_the_call_its_parents_file_has_told(
    store: AsyncSessionStore, file: Path
) -> None:
    """One file at a time comes to the same as the whole folder."""
    write(file, assistant("m1", call("t1", "Task")), result("t1", "ok", toolUseResult={"agentId": "a1"}))
    await claude_code.load(store, file)
    agent = write(file.with_suffix("") / "subagents" / "agent-a1.jsonl", *_agent([user("find it")], "a1"))
    await claude_code.load(store, agent)
    child = await store.sessions.get(f"{SESSION}:agent-a1")
    assert child is not None
    assert child.spawn_tool_call_id == "t1"


async def test_side_chains_in_the_file_are_a_child(store: AsyncSessionStore, file: Path) -> None:
    """Versions without agent ids write sub-agents between the lines of the session."""
    write(file, user("go"), user("sub task", isSidechain=True), assistant("m1", text("ok")))
    await claude_code.load(store, file)
    assert [m.content for m in await messages(store)] == ["go", "ok"]
    assert [m.content for m in await messages(store, f"{SESSION}:sidechain")] == ["sub task"]


async def test_records_go_to_the_session_they_name(store: AsyncSessionStore, file: Path) -> None:
    """Also several in one file; one that names none belongs with the record before it."""
    write(file, user("a"), user("b", session="s2"), user("c", session=None), user("d"))
    imported = await claude_code.load(store, file)
    assert [m.content for m in await messages(store)] == ["a", "d"]
    assert [m.content for m in await messages(store, "s2")] == ["b", "c"]
    assert imported.inserted["sessions"] == 2


# -- what cannot be understood ---------------------------------------------------------------------

BAD = {
    "not JSON": (b'{"type":"user",', "lines"),
    "two records run together": (b'{"type":"user"}{"type":"user"}', "lines"),
    "a list": (b"[1, 2]", "lines"),
    "a number": (b"7", "lines"),
    "not UTF-8": (b'{"type":"user","message":{"content":"\xff\xfe"}}', "lines"),
    "NaN": (b'{"type":"user","message":{"content":NaN}}', "lines"),
    "too deep": (b'{"message":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "lines"),
    "no message": ({"type": "user", "sessionId": "s", "uuid": "x"}, "messages"),
    "message null": (user("x") | {"message": None}, "messages"),
    "message a text": (assistant("m", text("x")) | {"message": "hi"}, "messages"),
    "content null": (user(None), "messages"),
    "content a number": (user(7), "messages"),
    "session a number": (user("x", session=5), "messages"),  # type: ignore[arg-type]
    "session empty": (user("x", session=""), "messages"),
    "time a number": (user("x") | {"timestamp": 5}, "messages"),
    "time no time": (user("x") | {"timestamp": "yesterday"}, "messages"),
    "time without a zone": (user("x") | {"timestamp": "2026-03-01T09:00:00"}, "messages"),
    "tool id a number": (result(5, "x"), "messages"),  # type: ignore[arg-type]
    "title a list": (record("ai-title", aiTitle=["x"]), "titles"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_line_is_reported_with_its_place_and_stops_nothing(
    store: AsyncSessionStore, file: Path, name: str
) -> None:
    """What stands before and behind it is stored."""
    bad, kind = BAD[name]
    write(file, user("before"), bad, user("after"))
    imported = await claude_code.load(store, file)
    assert [m.content for m in await messages(store)] == ["before", "after"]
    assert imported.rejected == {kind: 1}
    (rejection,) = imported.rejections
    assert (rejection.kind, rejection.file, rejection.line) == (kind, str(file), 2)
    assert rejection.reason


@pytest.mark.parametrize("usage", [7, {"input_tokens": "12"}, {"output_tokens": -1}, {"output_tokens": True}, [1]])
async def test_bad_usage_does_not_cost_the_words(store: AsyncSessionStore, file: Path, usage: Any) -> None:
    """The message is stored, its usage is reported."""
    line = assistant("m1", text("so"))
    line["message"]["usage"] = usage
    write(file, line)
    imported = await claude_code.load(store, file)
    assert imported.rejected == {"usage": 1}
    assert [m.content for m in await messages(store)] == ["so"]


async def test_a_message_over_the_stores_limit_is_rejected_alone(tmp_path: Path, file: Path) -> None:
    """`Limits.row_bytes` holds for imports too, for a message of several lines as a whole."""
    from recollect import Limits

    async with AsyncSessionStore(tmp_path / "s.db", limits=Limits(row_bytes=3000)) as store:
        write(
            file,
            user("x" * 4000),
            assistant("m1", text("y" * 2000)),
            assistant("m1", text("z" * 2000)),
            user("short"),
        )
        imported = await claude_code.load(store, file)
        assert [(r.kind, r.line) for r in imported.rejections] == [("messages", 1), ("messages", 3), ("usage", 3)]
        assert "short" in [m.content for m in await messages(store)]


async def test_rejections_are_counted_without_end_and_listed_to_an_end(store: AsyncSessionStore, file: Path) -> None:
    """A file of nothing but garbage does not fill the memory."""
    write(file, *[b"garbage"] * 1500)
    imported = await claude_code.load(store, file)
    assert imported.rejected == {"lines": 1500}
    assert len(imported.rejections) == 1000


async def test_records_without_words_are_counted_by_type(store: AsyncSessionStore, file: Path) -> None:
    """What the format has and nobody looks for is skipped, not rejected; it makes no session either."""
    write(file, record("file-history-snapshot"), record("mode"), record("mode"), {"type": ["odd"]}, b"", b"  ")
    imported = await claude_code.load(store, file)
    assert imported.skipped == {"file-history-snapshot": 1, "mode": 2, "['odd']": 1}
    assert not imported.rejected
    assert await store.sessions.count() == 0


async def test_characters_that_cannot_be_stored_are_replaced(store: AsyncSessionStore, file: Path) -> None:
    """Lone surrogates are legal in JSON: the words around them are not lost, nor what is whole."""
    write(file, b'{"type":"user","sessionId":"s1","uuid":"x","message":{"content":"a\\ud800b \\ud83d\\ude00"}}')
    imported = await claude_code.load(store, file)
    assert not imported.rejected
    assert [m.content for m in await messages(store, "s1")] == ["a\ufffdb 😀"]


async def test_texts_are_redacted(tmp_path: Path, file: Path) -> None:
    """The store's redaction applies, once, to words and titles, and to what waits in the cursor."""

    def redact(text: str) -> str:
        return text.replace("hunter2", "[hunter2 was here]".replace("hunter2", "***"))

    async with AsyncSessionStore(tmp_path / "s.db", redact=redact) as store:
        write(
            file,
            queued("enqueue", "it is hunter2"),
            record("summary", session=None, summary="hunter2", leafUuid="none"),
            user("say hunter2"),
            user("it is hunter2"),
            record("ai-title", aiTitle="hunter2"),
        )
        await claude_code.load(store, file)
        assert [m.content for m in await messages(store)] == ["say [*** was here]", "it is [*** was here]"]
        assert not [row for row in await store.query("SELECT state FROM import_cursors") if "hunter2" in row.state]
        session = await store.sessions.get(SESSION)
        assert session is not None
        assert session.title == "[*** was here]"


@pytest.mark.parametrize("error", [RecursionError("too deep"), ZeroDivisionError("a bug")], ids=repr)
async def test_a_line_that_cannot_be_taken_is_rejected_with_its_place(
    store: AsyncSessionStore, file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever goes wrong with it, the others come in."""
    from recollect.importers.claude_code import transcript

    real = transcript.plain

    def plain(blocks: list[Any]) -> Any:
        if "poison" in json.dumps(blocks):
            raise error
        return real(blocks)

    monkeypatch.setattr(transcript, "plain", plain)
    write(file, user("first"), user([text("poison")]), user([text("last")]))
    imported = await claude_code.load(store, file)
    assert [m.content for m in await messages(store)] == ["first", "last"]
    assert [(r.kind, r.line, r.reason) for r in imported.rejections] == [
        ("lines", 2, f"{type(error).__name__}: {error}")
    ]


async def test_structures_of_any_depth_come_in_or_are_rejected(store: AsyncSessionStore, file: Path) -> None:
    """None ends the import, whether it is too deep to be decoded, encoded or segmented, and the rest is found."""
    depths = [50, 100, 150, 300, 400, *range(700, 1100, 7)]
    deep = [b"[" * depth + b'"bottom"' + b"]" * depth for depth in depths]
    made = [
        lines(assistant(f"m{at}", call("t", "Bash", x="DEEP")))[:-1].replace(b'"DEEP"', d) for at, d in enumerate(deep)
    ]
    write(file, *made, user("the end"))
    imported = await claude_code.load(store, file)
    assert imported.inserted["messages"] + imported.rejected["messages"] + imported.rejected["lines"] == len(depths) + 1
    await store.flush(index=True)
    assert len(await found(store, "bottom")) == imported.inserted["messages"] - 1 >= 3
    assert len(await found(store, "the end")) == 1
