"""What callers get wrong: each its own typed error, nothing of it stored, and nothing else lost."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from recollect import (
    AsyncSessionStore,
    InvalidRecord,
    MessageRef,
    SessionExists,
    SessionNotFound,
    StoreError,
)

UNSTORABLE = "a\x00b\ud800c\udfff"
SHOWN = "a\ufffdb\ufffdc\ufffd"


@pytest.fixture
async def chat(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """A store with the session `s` and one message."""
    await any_store.sessions.create("s")
    await any_store.messages.append("s", role="user", content="word")
    return any_store


async def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or its documented error; any other exception goes through."""
    try:
        answer = call()
        if hasattr(answer, "__aiter__"):
            return [each async for each in answer]
        return await answer
    except StoreError as error:
        assert str(error)
        return error


# -- one bad among many ----------------------------------------------------------------------------

BAD_APPENDS = [
    (SessionNotFound, "nobody", {}), (InvalidRecord, "s", {"content": object()}), (InvalidRecord, "s", {"content": b"bytes"}),
    (InvalidRecord, "s", {"content": [{1, 2}]}), (InvalidRecord, "s", {"content": ["x", float("nan")]}),
    (InvalidRecord, "s", {"content": {1: "key"}}), (InvalidRecord, "s", {"content": ("tuple",)}),
    (InvalidRecord, "s", {"created_at": datetime(2030, 1, 1)}), (InvalidRecord, "s", {"content": "x" * (8 << 20)}),
    (InvalidRecord, "s", {"token_count": 2**63}), (InvalidRecord, "s", {"metadata": [1]}), (InvalidRecord, "", {}),
    (InvalidRecord, "s", {"tool_calls": [object()]}), (InvalidRecord, "s", {"pending": {"x": object()}}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_APPENDS)))
async def test_a_bad_append_fails_alone_with_its_own_error(chat: AsyncSessionStore, number: int):
    """Twenty good ones at the same time are all stored; the bad one says what is wrong and that it is not."""
    kind, session, fields = BAD_APPENDS[number]
    good = [chat.messages.append("s", role="user", content=str(n)) for n in range(20)]
    good.insert(10, chat.messages.append(session, role="user", **fields))
    outcomes = await asyncio.gather(*good, return_exceptions=True)
    bad = outcomes.pop(10)
    assert type(bad) is kind
    assert len(str(bad)) > 15
    assert bad.stored is False
    assert [type(each) for each in outcomes] == [MessageRef] * 20
    assert await chat.messages.count("s") == 21


async def test_a_duplicate_id_among_many_fails_alone(chat: AsyncSessionStore):
    """Creates at the same time: only the one whose id is there is refused."""
    names = ["a", "b", "s", "c"]
    outcomes = await asyncio.gather(*(chat.sessions.create(name) for name in names), return_exceptions=True)
    assert [type(each).__name__ for each in outcomes] == ["Session", "Session", "SessionExists", "Session"]
    assert isinstance(outcomes[2], SessionExists)


# -- characters that cannot be stored --------------------------------------------------------------


async def test_what_cannot_be_stored_becomes_a_replacement_character_and_is_counted(any_store: AsyncSessionStore):
    """NUL and lone surrogates, in every text field and inside structures: U+FFFD each."""
    fields = {
        "content": UNSTORABLE, "name": UNSTORABLE, "reasoning": UNSTORABLE, "finish_reason": UNSTORABLE,
        "metadata": {UNSTORABLE: [UNSTORABLE]}, "tool_calls": [UNSTORABLE], "tool_call_id": UNSTORABLE,
    }  # fmt: skip
    await any_store.sessions.create("s", system_prompt=UNSTORABLE, user_id=UNSTORABLE, metadata={"k": UNSTORABLE})
    replaced = (await any_store.stats()).replaced
    assert replaced == 9
    await any_store.messages.append("s", role="user", **fields)
    message = await any_store.messages.get("s", 1)
    assert {name: getattr(message, name) for name in fields} == {
        name: {SHOWN: [SHOWN]} if name == "metadata" else [SHOWN] if name == "tool_calls" else SHOWN for name in fields
    }
    assert (await any_store.stats()).replaced == replaced + 3 * 8
    await any_store.messages.append("s", role="user", content=[{"text": UNSTORABLE}])
    assert (await any_store.messages.get("s", 2)).content == [{"text": SHOWN}]
    session = await any_store.sessions.get("s")
    assert (session.system_prompt, session.user_id, session.metadata) == (SHOWN, SHOWN, {"k": SHOWN})


BAD_IDS = ["\ud800", "a\x00b", "", " ", "x" * 100_000, 5, 5.5, None, b"s", [], ["s"], {}, object(), True, ("s",)]


@pytest.mark.parametrize("bad", BAD_IDS, ids=lambda bad: f"{type(bad).__name__}-{str(bad)[:3]!a}")
async def test_a_bad_id_is_none_or_a_documented_error_everywhere(chat: AsyncSessionStore, bad: Any):
    """Reads of it find nothing or raise a StoreError; writes raise one; the store goes on."""
    reads = [
        lambda: chat.sessions.get(bad), lambda: chat.sessions.resolve(bad), lambda: chat.messages.list(bad),
        lambda: chat.messages.tail(bad, 3), lambda: chat.messages.stream(bad), lambda: chat.messages.get(bad, 1),
        lambda: chat.messages.conversation(bad), lambda: chat.messages.count(bad) if bad is not None else chat.flush(),
        lambda: chat.usage.rounds(bad), lambda: chat.messages.list(bad, after_seq=0),
    ]  # fmt: skip
    for read in reads:
        answer = await outcome(read)
        assert isinstance(answer, StoreError) or not answer or len(answer) == 0
    scopes = (
        {"session": bad},
        {"user_id": bad},
        {"source": bad},
        {"role": bad},
        {"kinds": bad},
        {"exclude_source": bad},
    )
    for scope in scopes if bad is not None else ():
        for order in ("newest", "relevance"):
            answer = await outcome(lambda scope=scope, order=order: chat.search("word", order=order, **scope))
            found = ["word"] if scope in ({"session": ["s"]}, {"session": ("s",)}) else []
            if "exclude_source" not in scope:
                assert isinstance(answer, StoreError) or [hit.snippet.strip("<>") for hit in answer] == found
    for name in (
        "source",
        "exclude_source",
        "user_id",
        "key",
        "status",
        "kind",
        "parent_id",
        "title_contains",
        "after",
    ):
        if bad is not None:
            await outcome(lambda name=name: chat.sessions.list(**{name: bad}))
            if name != "after":
                await outcome(lambda name=name: chat.sessions.count(**{name: bad}))
    writes = [
        lambda: chat.sessions.update(bad, model="m"), lambda: chat.sessions.end(bad, "r"), lambda: chat.sessions.reopen(bad),
        lambda: chat.messages.append(bad, role="user"), lambda: chat.messages.append_many(bad, [{"role": "user"}]),
        lambda: chat.usage.record_round(bad, round_index=0),
    ]  # fmt: skip
    for write in writes:
        assert isinstance(await outcome(write), StoreError)
    answer = await outcome(lambda: chat.sessions.delete(bad))
    assert isinstance(answer, StoreError) or answer == []
    assert (await chat.messages.append("s", role="user")).seq == 2, "the store goes on"


# -- wrong types -----------------------------------------------------------------------------------

WRONG = [
    5,
    5.5,
    True,
    b"bytes",
    [],
    {},
    [5],
    {"k": object()},
    object(),
    "text",
    "",
    datetime(2030, 1, 1),
    float("nan"),
    2**70,
]

ARGUMENTS = {
    "create": ["session_id", "source", "user_id", "key", "model", "config", "system_prompt", "title", "metadata",
               "parent_id", "relation", "lifecycle", "spawn_tool_call_id", "created_at"],
    "ensure": ["source", "user_id", "config", "metadata", "parent_id", "relation", "lifecycle", "created_at", "title"],
    "update": ["system_prompt", "model", "config", "metadata"],
    "append": ["role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_details",
               "provider_items", "token_count", "finish_reason", "round_index", "send_index", "external_id", "metadata",
               "created_at", "expected_seq", "fence", "pending", "usage"],
    "append_many": ["messages", "expected_seq", "fence"],
    "list": ["state", "after", "after_seq", "limit"],
    "sessions": ["source", "user_id", "status", "kind", "parent_id", "title_contains", "since", "until", "order", "limit",
                 "after", "key", "exclude_source"],
    "search": ["query", "kinds", "session", "user_id", "source", "exclude_source", "role", "since", "until", "order",
               "limit", "after", "context", "snippet_tokens", "marks"],
    "record_round": ["round_index", "send_index", "prompt_tokens", "total_tokens", "estimated_cost_usd", "model",
                     "source", "cost_status", "billing_mode", "created_at"],
    "totals": ["by", "session_id", "source", "user_id", "model", "since", "until"],
    "query": ["sql", "ids"],
    "get": ["seq", "id"],
}  # fmt: skip


def _call(store: AsyncSessionStore, method: str, arguments: dict[str, Any]) -> Any:
    if method == "search":
        return store.search(**{"query": "word", **arguments})
    if method == "query":
        return store.query(
            arguments.get("sql", "SELECT id FROM sessions WHERE id IN :ids"), ids=arguments.get("ids", [])
        )
    if method == "create":
        return store.sessions.create(**arguments)
    if method in ("ensure", "update"):
        return getattr(store.sessions, method)("s", **arguments)
    if method == "sessions":
        return store.sessions.list(**arguments)
    if method == "append":
        return store.messages.append("s", **{"role": "assistant", **arguments})
    if method == "append_many":
        return store.messages.append_many("s", **{"messages": [], **arguments})
    if method == "record_round":
        return store.usage.record_round("s", **{"round_index": 0, **arguments})
    if method == "totals":
        return store.usage.totals(**arguments)
    if method == "get":
        return store.messages.get("s", **arguments)
    return store.messages.list("s", **arguments)


@pytest.mark.parametrize(
    ("method", "argument"), [(method, name) for method, names in ARGUMENTS.items() for name in names]
)
async def test_a_wrong_type_is_a_store_error_or_is_taken(memory: AsyncSessionStore, method: str, argument: str):
    """Any value for any argument: accepted, or a StoreError that says what it should be; never another exception."""
    await memory.sessions.create("s")
    await memory.messages.append("s", role="user", content="word")
    for wrong in WRONG:
        await outcome(lambda wrong=wrong: _call(memory, method, {argument: wrong}))
    await memory.messages.append("s", role="user", content="good")
    assert [hit.seq async for hit in memory.search("good")]
    assert len([each async for each in memory.messages.stream("s")]) == await memory.messages.count("s")


DEEP: Any = "x"
for _ in range(3_000):
    DEEP = [DEEP]

CURSORS = [
    "9" * 5_000,
    "1." + "9" * 5_000,
    "9" * 30 + ".1",
    "-1",
    "1.-1",
    "\ud800",
    "١.٢",
    "1.1",
    "1",
    ".",
    "..",
    "1.1.1",
]


@pytest.mark.parametrize("field", ["content", "tool_calls", "metadata", "reasoning_details", "pending"])
async def test_nesting_without_end_is_refused_or_kept(memory: AsyncSessionStore, field: str):
    """A structure thousands deep, or one that contains itself: InvalidRecord, or stored, found and read."""
    await memory.sessions.create("s")
    itself: list[Any] = []
    itself.append(itself)
    for value in (DEEP, itself):
        value = {"k": value} if field == "metadata" else value
        answer = await outcome(lambda value=value: memory.messages.append("s", role="assistant", **{field: value}))
        assert isinstance(answer, InvalidRecord | MessageRef)
    await memory.messages.append("s", role="user", content="good")
    async with asyncio.timeout(10):
        await memory.flush(index=True)
    assert len([hit async for hit in memory.search("good")]) == 1
    assert len(await memory.messages.list("s")) == await memory.messages.count("s")


@pytest.mark.parametrize("cursor", CURSORS, ids=range(len(CURSORS)))
async def test_a_cursor_that_was_made_up_is_refused_or_means_something(chat: AsyncSessionStore, cursor: str):
    """InvalidRecord or an answer, for every reader of cursors."""
    for order in ("newest", "oldest", "relevance"):
        await outcome(lambda order=order: chat.search("word", order=order, after=cursor))
    await outcome(lambda: chat.messages.list("s", after=cursor))
    await outcome(lambda: chat.messages.stream("s", after=cursor))
    for order in ("activity", "created"):
        await outcome(lambda order=order: chat.sessions.list(order=order, after=cursor))
        await outcome(lambda order=order: chat.sessions.list(order=order, after=f"{order}.{cursor}"))


FAR = [
    datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-23))), datetime.max.replace(tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))), datetime.min.replace(tzinfo=UTC), datetime(1969, 7, 20, tzinfo=UTC),
]  # fmt: skip


@pytest.mark.parametrize("when", FAR, ids=range(len(FAR)))
async def test_a_time_that_is_accepted_can_be_read(chat: AsyncSessionStore, when: datetime):
    """Far away, or beyond what a datetime in UTC can say: refused at the call, or it comes back."""
    for call in (
        lambda: chat.messages.append("s", role="user", created_at=when), lambda: chat.sessions.create("t", created_at=when),
        lambda: chat.usage.record_round("s", round_index=0, prompt_tokens=1, created_at=when),
    ):  # fmt: skip
        assert not isinstance(await outcome(call), StoreError) or when in (FAR[0], FAR[2])
    assert await chat.sessions.get("s") is not None
    assert len(await chat.messages.list("s")) >= 1
    assert len(await chat.sessions.list()) >= 1
    await chat.usage.rounds("s")
    await chat.usage.totals(by="day")
    assert len([hit async for hit in chat.search("word")]) == 1


# -- random text -----------------------------------------------------------------------------------

ALPHABETS = [
    string.punctuation, string.printable, "aé京ก한🚀\u200d\u0301\ufeff\u202e", "\x00\ud800\udfff ab", '"()*-+:^ANDORNOT ',
]  # fmt: skip


def strange_texts(count: int) -> list[str]:
    """Random strings of every kind, some long, always the same ones."""
    chance = random.Random(11)
    texts = ["".join(chance.choices(chance.choice(ALPHABETS), k=chance.randint(0, 40))) for _ in range(count)]
    texts += [mark * n for mark in string.punctuation for n in (1, 2, 7)]
    texts += ["".join(chance.choices(alphabet, k=10_000)) for alphabet in ALPHABETS]
    return texts + [
        "NEAR(a b)",
        "a NEAR/2 b",
        "content:x",
        "{a b}:c",
        "^a",
        "a" * 10_000,
        "(" * 10_000,
        '"' * 9_999,
        "OR " * 3_000,
    ]


async def test_no_query_is_an_error(memory: AsyncSessionStore):
    """1,000 random strings, all ASCII punctuation, lone surrogates, NUL, 10 kB: hits or none, never an exception."""
    await memory.sessions.create("s")
    await memory.messages.append_many("s", [{"role": "user", "content": text} for text in strange_texts(200)])
    await memory.flush(index=True)
    for n, text in enumerate(strange_texts(1_000)):
        order = "newest" if n % 2 else "relevance"
        hits = [hit async for hit in memory.search(text, order=order, limit=3)]
        assert len(hits) <= 3


async def test_any_text_is_stored_and_comes_back(memory: AsyncSessionStore):
    """The same strings as content: as given, but for what cannot be stored; counters and index survive them."""
    await memory.sessions.create("s")
    texts = strange_texts(1_000)
    await asyncio.gather(*(memory.messages.append("s", role="user", content=text) for text in texts))
    stored = [message.content async for message in memory.messages.stream("s")]
    expected = ["".join("\ufffd" if c == "\x00" or "\ud800" <= c <= "\udfff" else c for c in text) for text in texts]
    assert stored == expected
    count = sum(c == "\x00" or "\ud800" <= c <= "\udfff" for text in texts for c in text)
    assert (await memory.stats()).replaced == count
    await memory.flush(index=True)
    assert (await memory.stats()).index_state == "ready"
