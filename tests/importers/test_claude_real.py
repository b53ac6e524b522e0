"""Whole transcripts, real ones and a sample of ours: everything said in them is in the store, is found,
and is counted once. `make_sample.py` made the sample; the real ones are not part of the package."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from recollect import AsyncSessionStore
from recollect.importers import claude_code


class Corpus(NamedTuple):
    """Transcripts, and how much of what is in them."""

    path: Path
    sessions: int
    texts: int
    blank: int
    prompts: int
    growing: str
    spawned_by: set[str | None]
    parent: str


REAL = Corpus(
    Path(__file__).parents[2].parent / "shared" / "data" / "claude_code", 6, 347, 12 + 7, 5,  # blank lines, empty results
    "projects/-home-dev-spotter/subagent.jsonl", {"toolu_01VmaERAwhb19LGUwu9GenaK", None},
    "258c7280-ae70-4798-800f-63464d01a85d",
)  # fmt: skip

SAMPLE = Corpus(
    Path(__file__).parent / "data", 4, 29, 2, 2, "projects/-w-demo/5e55-0002.jsonl", {"toolu_spawn", None}, "5e55-0001"
)

absent = pytest.mark.skipif(not REAL.path.is_dir(), reason=f"the real transcripts are not at {REAL.path}")


@pytest.fixture(params=[pytest.param(SAMPLE, id="sample"), pytest.param(REAL, id="real", marks=absent)])
def corpus(request: pytest.FixtureRequest) -> Corpus:
    return request.param


PHRASE = 6
"""words of each text that are searched for"""


def records(corpus: Corpus) -> Iterator[dict[str, Any]]:
    for file in sorted(corpus.path.rglob("*.jsonl")):
        for line in file.read_text().splitlines():
            yield json.loads(line)


def blocks(record: dict[str, Any]) -> list[dict[str, Any]]:
    content = record["message"]["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def session_of(record: dict[str, Any]) -> str:
    return record["sessionId"] + (f":agent-{record['agentId']}" if record.get("isSidechain") else "")


def said(corpus: Corpus) -> Iterator[tuple[str, str, str]]:
    """Session, role and text of everything that users, assistants and tools have said."""
    for record in records(corpus):
        if record["type"] not in ("user", "assistant"):
            continue
        for block in blocks(record):
            if block["type"] == "text":
                role = "system" if record.get("isMeta") or record.get("isCompactSummary") else record["type"]
                yield session_of(record), role, block["text"]
            elif block["type"] == "tool_result":
                for part in [block["content"]] if isinstance(block["content"], str) else block["content"]:
                    yield session_of(record), "tool", part if isinstance(part, str) else part["text"]


def phrase(text: str) -> str | None:
    """Some words from the middle of a text, as somebody would copy them; None if there is no word in it."""
    words = [word for word in text.replace('"', " ").split() if any(map(str.isalnum, word))]
    if not words:
        return None
    middle = max(0, len(words) // 2 - PHRASE // 2)
    found = re.search(r"\s.*?".join(map(re.escape, words[middle : middle + PHRASE])), text.replace('"', " "), re.DOTALL)
    assert found
    return f'"{found[0]}"'


async def test_everything_comes_in_once_and_is_found(store: AsyncSessionStore, corpus: Corpus) -> None:
    """Imported, then imported again with nothing inserted; every text of users and assistants and every
    tool result is there, and a search for a phrase from it finds it; tokens are the sums over message ids."""
    first = await claude_code.load(store, corpus.path)
    assert not first.rejected
    assert first.inserted["sessions"] == corpus.sessions
    again = await claude_code.load(store, corpus.path)
    assert (again.inserted.total(), again.amended.total(), again.unchanged) == (0, 0, again.files)

    stored: dict[tuple[str, str], set[str]] = {}
    async for session in store.sessions.stream():
        async for message in store.messages.stream(session.id):
            stored.setdefault((session.id, message.role), set()).add(message.text or "")
    everything = list(said(corpus))
    assert len(everything) == corpus.texts
    for session, role, text in everything:
        assert any(text in whole for whole in stored[session, role]), text

    await store.flush(index=True)
    found: dict[tuple[str, str, str], list[str]] = {}
    searched = 0
    for session, role, text in everything:
        words = phrase(text if text.isascii() else max(re.findall("[\x00-\x7f]+", text), key=len))
        if words is None:
            continue
        key = (session, role, words)
        if key not in found:
            hits = store.search(words, session=session, role=role, limit=None, with_text=True, context=0)
            found[key] = [hit.text or "" async for hit in hits]
        assert any(text in whole for whole in found[key]), words
        searched += 1
    assert searched == corpus.texts - corpus.blank

    usage = {}
    for record in records(corpus):
        if record["type"] == "assistant":
            usage[record["message"]["id"]] = record["message"]["usage"]
    totals = await store.usage.totals(by="source")
    assert sum(total.prompt_tokens for total in totals) == sum(
        each["input_tokens"] + each["cache_read_input_tokens"] + each["cache_creation_input_tokens"]
        for each in usage.values()
    )
    assert sum(total.completion_tokens for total in totals) == sum(each["output_tokens"] for each in usage.values())
    assert first.inserted["usage"] == len(usage)


@pytest.mark.parametrize("seed", range(3))
async def test_imports_of_a_growing_file_come_to_the_same_as_one(
    store: AsyncSessionStore, corpus: Corpus, tmp_path: Path, seed: int
) -> None:
    """Wherever it is cut, in the middle of a line too: the same messages, words, rounds and counters."""
    whole = (corpus.path / corpus.growing).read_bytes()
    cuts = sorted(random.Random(seed).sample(range(len(whole)), 25))
    growing = tmp_path / "subagent.jsonl"
    async with AsyncSessionStore(tmp_path / "pieces.db") as pieces:
        with growing.open("wb") as file:
            for start, end in pairwise([0, *cuts, len(whole)]):
                file.write(whole[start:end])
                file.flush()
                assert not (await claude_code.load(pieces, growing)).rejected
        await claude_code.load(store, growing)
        assert await facts(pieces) == await facts(store)


async def facts(store: AsyncSessionStore) -> list[Any]:
    session = (await store.sessions.list()).items[0]
    rounds = [(r.round_index, r.prompt_tokens, r.completion_tokens) for r in await store.usage.rounds(session.id)]
    messages = [
        (m.seq, m.role, m.content, m.tool_calls, m.reasoning, m.round_index, m.send_index, m.external_id, m.metadata)
        async for m in store.messages.stream(session.id)
    ]
    return [messages, sorted(rounds), session.input_tokens, session.output_tokens, session.tool_call_count]


async def test_every_tool_result_is_linked_to_its_call(store: AsyncSessionStore, corpus: Corpus) -> None:
    """By the id of the call, which the session's assistant has made, and by the tool's name."""
    await claude_code.load(store, corpus.path)
    async for session in store.sessions.stream():
        calls: dict[str, str] = {}
        async for message in store.messages.stream(session.id):
            calls.update({call["id"]: call["name"] for call in message.tool_calls or ()})
            if message.role == "tool":
                assert calls[message.tool_call_id or ""] == message.name


async def test_queued_prompts_are_there_once(store: AsyncSessionStore, corpus: Corpus) -> None:
    """Those that came again as records, and those that did not."""
    await claude_code.load(store, corpus.path)
    prompts = [record["content"] for record in records(corpus) if record.get("operation") == "enqueue"]
    assert len(prompts) == corpus.prompts
    texts = [
        message.content
        async for session in store.sessions.stream()
        async for message in store.messages.stream(session.id)
        if message.role == "user"
    ]
    assert [texts.count(prompt) for prompt in prompts] == [1] * corpus.prompts


async def test_sub_agents_hang_below_their_session(store: AsyncSessionStore, corpus: Corpus) -> None:
    """One spawned by a call that the parent's transcript tells of, one by the agent itself."""
    await claude_code.load(store, corpus.path)
    children = {s.spawn_tool_call_id: s async for s in store.sessions.stream(kind="subagent")}
    assert set(children) == corpus.spawned_by
    assert {child.parent_id for child in children.values()} == {corpus.parent}
