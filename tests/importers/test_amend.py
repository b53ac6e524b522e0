"""Messages of which more comes later: the row, the counters and the index stay one."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from recollect import AsyncSessionStore, InvalidRecord
from recollect.encoding import Encoder
from recollect.engine.operation import Operation, execute
from recollect.errors import SchemaTooNew
from recollect.messages.amend import PARTS, amend, joined
from recollect.messages.prepare import NewRow, prepare
from recollect.models import NewMessage
from recollect.search.erase import erase_chunk

ENCODER = Encoder(row_bytes=2**20)


def part(id: str | None = None, role: str = "assistant", **fields: Any) -> NewRow:
    metadata = {PARTS: [id]} if id else None
    return prepare(ENCODER, NewMessage(role=role, external_id="m1", metadata=metadata, **fields))


async def stored(store: AsyncSessionStore, row: dict[str, Any]) -> None:
    await store.sessions.create("s")
    await store.messages.append("s", role="assistant", external_id="m1", **row)


async def add(store: AsyncSessionStore, *parts: NewRow, row_bytes: int = 2**20) -> int:
    return await store.write(amend, store._engine.fulltext, row_bytes, "s", "m1", parts)


async def test_a_part_is_added_once(store: AsyncSessionStore) -> None:
    """Parts are known by their ids; a part without an id cannot be told from one that is there."""
    await stored(store, {"content": "one", "metadata": {PARTS: ["a"], "kept": 1}})
    assert await add(store, part("b", content="two"), part("a", content="one"), part(content="none")) == 1
    assert await add(store, part("b", content="two"), part("b", content="two")) == 0
    message = await store.messages.get("s", 1)
    assert message is not None
    assert message.content == "one\n\ntwo"
    assert message.metadata == {PARTS: ["a", "b"], "kept": 1}


async def test_every_field_is_completed(store: AsyncSessionStore) -> None:
    """Texts below one another, lists behind one another, the last reason, what was missing."""
    await stored(store, {"reasoning": "hm", "tool_calls": [{"id": 1}], "metadata": {PARTS: ["a"]}})
    more = part("b", content="so", reasoning="ah", tool_calls=[{"id": 2}, {"id": 3}], finish_reason="end", name="n")
    await add(store, more)
    message = await store.messages.get("s", 1)
    assert message is not None
    assert (message.content, message.reasoning) == ("so", "hm\n\nah")
    assert message.tool_calls == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert (message.finish_reason, message.name) == ("end", "n")
    session = await store.sessions.get("s")
    assert session is not None
    assert (session.message_count, session.tool_call_count) == (1, 3)


async def test_structured_content_stays_structured(store: AsyncSessionStore) -> None:
    """A text joins the list as a block of text, before it and behind it."""
    image = {"type": "image", "source": {"data": "aGk="}}
    await stored(store, {"content": "look", "metadata": {PARTS: ["a"]}})
    await add(store, part("b", content=[image]), part("c", content="there"))
    message = await store.messages.get("s", 1)
    assert message is not None
    assert message.content == [{"type": "text", "text": "look"}, image, {"type": "text", "text": "there"}]
    assert message.text == "look\nthere"


async def test_an_unknown_message_is_left_alone(store: AsyncSessionStore) -> None:
    """There is nothing to complete."""
    await store.sessions.create("s")
    assert await add(store, part("b", content="two")) == 0
    assert await store.messages.count("s") == 0


async def test_a_message_that_would_be_too_large_stays_as_it_is(store: AsyncSessionStore) -> None:
    """The limit holds for the whole."""
    await stored(store, {"content": "x" * 900, "metadata": {PARTS: ["a"]}})
    with pytest.raises(InvalidRecord):
        await add(store, part("b", content="y" * 900), row_bytes=1500)
    message = await store.messages.get("s", 1)
    assert message is not None
    assert message.content == "x" * 900


async def test_the_first_words_of_a_user_become_the_preview(store: AsyncSessionStore) -> None:
    """Counters and preview are those of the whole message."""
    await store.sessions.create("s")
    await store.messages.append("s", role="user", external_id="m1", metadata={PARTS: ["a"]})
    await add(store, part("b", role="user", content="do it"))
    session = await store.sessions.get("s")
    assert session is not None
    assert session.preview == "do it"


@pytest.mark.parametrize("indexed", [True, False])
async def test_the_index_has_the_words_of_the_whole_and_no_others(
    store: AsyncSessionStore, path: Path, indexed: bool
) -> None:
    """Amended before or after it was indexed, a message is found by old and new words, once; erased, it
    leaves no term behind."""
    await stored(store, {"content": "walrus", "metadata": {PARTS: ["a"]}})
    if indexed:
        await store.flush(index=True)
    await add(store, part("b", content="carpenter", tool_calls=[{"name": "Grep", "input": {"q": "oyster"}}]))
    for words in ("walrus", '"walrus carpenter"', "oyster"):
        assert [hit.seq async for hit in store.search(words)] == [1]
    await store.flush(index=True)
    await store.sessions.delete("s")
    while await store.write(erase_chunk, store._engine.fulltext):
        pass
    await store.aclose()
    assert _terms(path) == []


async def test_a_damaged_index_does_not_stop_it(store: AsyncSessionStore) -> None:
    """The message is completed, and the index made anew with its words."""
    await stored(store, {"content": "walrus", "metadata": {PARTS: ["a"]}})
    await store.flush(index=True)
    await store.write(_damage)
    assert await add(store, part("b", content="carpenter")) == 1
    await store.flush(index=True)
    assert [hit.seq async for hit in store.search('"walrus carpenter"')] == [1]


def _damage() -> Operation[None]:
    yield execute("DELETE FROM search_index_data")
    yield execute("DELETE FROM search_index_docsize")


def _terms(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    connection.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, search_index, row)")
    terms = [term for (term,) in connection.execute("SELECT term FROM temp.terms WHERE doc > 0")]
    connection.close()
    return terms


def test_joining_is_the_same_in_steps() -> None:
    """Three parts at once are what two and then a third are."""
    parts = [part("a", content="one"), part("b", content=[{"type": "x"}]), part("c", content="two", reasoning="r")]
    assert joined([joined(parts[:2]), parts[2]]) == joined(parts)


async def test_what_a_newer_recollect_has_indexed_is_not_reworded(store: AsyncSessionStore) -> None:
    """Its entry could not be changed with it: refused, with nothing changed; what it has not come to is."""
    await stored(store, {"content": "walrus", "metadata": {PARTS: ["a"]}})
    await store.flush(index=True)
    await store.write(_newer)
    with pytest.raises(SchemaTooNew, match="Upgrade"):
        await add(store, part("b", content="carpenter"))
    assert [m.content async for m in store.messages.stream("s")] == ["walrus"]
    assert [hit.seq async for hit in store.search("walrus")] == [1]
    await store.write(_unread)
    assert await add(store, part("b", content="carpenter")) == 1


def _newer() -> Operation[None]:
    yield execute("UPDATE index_state SET version = version + 100")


def _unread() -> Operation[None]:
    yield execute("UPDATE index_state SET watermark = 0")
