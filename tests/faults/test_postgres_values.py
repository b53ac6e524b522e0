"""Values that are hard to store: on PostgreSQL each call comes to what it comes to on SQLite."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from recollect import AsyncSessionStore, Event, InvalidRecord, StoreError

TEXTS = [
    "a\x00b", "\x00", "\ud800", "a\udfffb", "\ufffd", "%", "%s", "%(name)s", "100 %", "%%", ":name", "a :name b", "::text", "$1",
    "$1 $2", "a$1b", "?", "? ?", "IN :list", "E'\\x00'", "\\", "\\x41", "\\u0041", "'", "''", '"', "a'; DROP TABLE messages; --",
    "{}", "{NULL}", "NULL", "(1,2)", "\t", "\r\n", " ", "", "\u2028", "\x7f", "\x01\x02", "é", "e\u0301", "京都", "🚀🚀", "a\u200db",
    "İ", "ß", "ﬁ", "\U0010ffff", "K1 K2", "'a' & 'b'", "a:1A", "a | b", "!a", "a <-> b",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**64, 10**30, True, 1.5, float("inf"), "1", None]


async def outcome(call: Callable[[], Awaitable[Any]]) -> Any:
    """What a call returns, or the kind of its documented error."""
    try:
        return await call()
    except StoreError as error:
        return type(error).__name__


async def alike(dsn: str, ask: Callable[[AsyncSessionStore], Awaitable[list[Any]]]) -> list[Any]:
    """The answers of both engines, which are the same; whoever answers goes on to work afterwards."""
    answers = []
    for target in (":memory:", dsn):
        async with AsyncSessionStore(target) as store:
            await store.sessions.create("s")
            answers.append(await ask(store))
            assert (await store.messages.append("s", role="user", content="good word")).seq >= 1
            assert [hit.text async for hit in store.search('"good word"', with_text=True)] == ["good word"]
            assert (await store.check()).is_sound
    expected, found = answers
    for place, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert other == one, place
    return found


async def test_hard_texts_are_stored_found_and_refused_alike(recollect_postgres_dsn: str):
    """NUL, lone surrogates, what is syntax to somebody: in every place where a text can stand."""

    async def ask(store: AsyncSessionStore) -> list[Any]:
        answers = await asyncio.gather(*[_in_every_place(store, n, text) for n, text in enumerate(TEXTS)])
        await store.flush(index=True)
        return [each for some in answers for each in some] + [await _find(store, text) for text in TEXTS]

    answers = await alike(recollect_postgres_dsn, ask)
    assert sum(isinstance(each, str) for each in answers) < len(answers) / 4, "most were stored"


async def _in_every_place(store: AsyncSessionStore, n: int, text: str) -> list[Any]:
    fields = {"name": text, "reasoning": text, "metadata": {text: [text]}, "external_id": text or None}
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: _append(store, f"m{n}", text, fields),
        lambda: _append(store, f"m{n}", [{"type": "text", "text": text}], {}),
        lambda: _session(store, n, text),
        lambda: _event(store, n, text),
    ]
    await store.sessions.create(f"m{n}")
    return [await outcome(call) for call in calls]


async def _append(store: AsyncSessionStore, session: str, content: Any, fields: dict[str, Any]) -> Any:
    ref = await store.messages.append(session, role="user", content=content, **fields)
    again = await store.messages.append(session, role="user", content=content, **fields)
    message = await store.messages.get(session, ref.seq)
    assert message is not None
    return ref.seq, again.seq, message.content, message.name, message.reasoning, message.metadata, message.external_id


async def _session(store: AsyncSessionStore, n: int, text: str) -> Any:
    id = title = f"{text}{n}"
    session = await store.sessions.create(id, title=title, key=id, model=text, source=f"from {n}", metadata={"k": text})
    page = await store.sessions.list(title_contains=text, source=f"from {n}", limit=None)
    named = [await store.sessions.resolve(id), await store.sessions.by_title(title), await store.sessions.get(id)]
    ended = await store.sessions.end(id, "done")
    return (
        session.id, session.title, session.key, session.model, session.metadata, [each.id for each in page.items],
        [getattr(each, "id", each) for each in named], ended.status,
    )  # fmt: skip


async def _event(store: AsyncSessionStore, n: int, text: str) -> Any:
    given = {
        "kind": "hard",
        "name": text,
        "text": text,
        "path": text,
        "payload": {"k": text},
        "dedupe_key": f"{n}{text}",
    }
    first, second = [await store.events.record(Event(**given)) for _ in range(2)]
    assert first == second
    (event,) = [each async for each in store.events.stream(kind="hard", path=text) if each.id == first]
    return event.name, event.text, event.path, event.payload, event.dedupe_key


async def _find(store: AsyncSessionStore, text: str) -> Any:
    found = [
        (hit.kind, hit.text, hit.snippet, order)
        for order in ("oldest", "relevance")
        async for hit in store.search(text, order=order, limit=None, with_text=True)
    ]
    return sorted(found, key=repr)  # in the order of ids, which is no promise here


async def test_numbers_beyond_64_bits_are_refused_alike(recollect_postgres_dsn: str):
    """And those that fit are stored as they are."""

    async def ask(store: AsyncSessionStore) -> list[Any]:
        answers: list[Any] = []
        for n, number in enumerate(NUMBERS):
            fields = ("token_count", "round_index", "send_index", "expected_seq")
            for field in fields:
                call = {"role": "user", "content": "x", field: number}
                answers.append(await outcome(lambda c=call: _seq(store, c)))
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda v=number: store.usage.add("s", prompt_tokens=v),
                lambda v=number, n=n: store.usage.record_round("s", round_index=n, completion_tokens=v),
                lambda v=number: store.messages.get("s", v),
                lambda v=number: store.messages.list("s", after_seq=v, limit=2),
                lambda v=number: store.sessions.set_round("s", v),
                lambda v=number: store.messages.rewind("s", v),
                lambda v=number: _payload(store, v),
            ]
            answers += [_plain(await outcome(call)) for call in calls]
        return answers

    await alike(recollect_postgres_dsn, ask)


async def _seq(store: AsyncSessionStore, call: dict[str, Any]) -> Any:
    ref = await store.messages.append("s", **call)
    message = await store.messages.get("s", ref.seq)
    assert message is not None
    return ref.seq, message.token_count, message.round_index, message.send_index


async def _payload(store: AsyncSessionStore, value: Any) -> Any:
    id = await store.events.record(Event(kind="number", payload={"n": value}))
    (event,) = [each async for each in store.events.stream(kind="number") if each.id == id]
    return event.payload


def _plain(answer: Any) -> Any:
    if hasattr(answer, "items") and not isinstance(answer, dict):
        return [each.seq for each in answer.items]
    return answer.seq if hasattr(answer, "seq") else answer


QUERIES: list[tuple[str, dict[str, Any]]] = [
    ("SELECT id AS v FROM sessions WHERE id = :v", {"v": "\ud800"}),
    ("SELECT id AS v FROM sessions WHERE id = '%'", {}),
    ("SELECT id AS v FROM sessions WHERE id LIKE 's%'", {}),
    ("SELECT ':name' AS v", {}),
    ("SELECT '$1 %s' AS v", {}),
    ("SELECT :v AS v", {"v": "$1 :v %s ?"}),
    ("SELECT id AS v FROM sessions WHERE id IN :v", {"v": []}),
    ("SELECT id AS v FROM sessions WHERE id IN :v", {"v": ["s", "%", ":v", "$1"]}),
    ("SELECT id AS v FROM sessions WHERE session = :v", {"v": 2**63 - 1}),
    ("SELECT id AS v FROM sessions WHERE id = :missing", {}),
    ("SELECT id AS v FROM sessions WHERE id = :v", {"v": object()}),
    ("SELECT id AS v FROM", {}),
    ("", {}),
    ("-- nothing", {}),
    ("SELECT 1 AS v; SELECT 2 AS v", {}),
    ("SELECT 1 AS v; DELETE FROM messages", {}),
    ("DELETE FROM messages", {}),
    ("UPDATE sessions SET model = 'x' RETURNING id AS v", {}),
    ("COMMIT", {}),
    ("DROP TABLE messages", {}),
    ("CREATE TABLE t (a TEXT)", {}),
    ("SELECT 1/0 AS v FROM nowhere", {}),
    ("SELECT 'a\x00b' AS v", {}),
    ("SELECT '\ud800' AS v", {}),
]


@pytest.mark.parametrize("number", range(len(QUERIES)))
async def test_queries_of_ones_own_come_to_the_same(recollect_postgres_dsn: str, number: int):
    """Rows, or InvalidQuery; nothing is written by one; the readers work afterwards."""
    sql, params = QUERIES[number]
    answer, *_ = await alike(recollect_postgres_dsn, lambda store: _query(store, sql, params))
    assert isinstance(answer, list) or answer == "InvalidQuery"


async def _query(store: AsyncSessionStore, sql: str, params: dict[str, Any]) -> list[Any]:
    await store.messages.append("s", role="user", content="kept")
    answer = await outcome(lambda: store.query(sql, **params))
    rest = [await store.messages.count(), [row.n for row in await store.query("SELECT 7 AS n")]]
    return [answer if isinstance(answer, str) else [tuple(row) for row in answer], *rest]


@pytest.mark.parametrize("value", ["a\x00b", 2**63, 2**64, 10**30, -(2**63) - 1], ids=lambda value: f"{value!a}"[:8])
async def test_a_value_of_a_query_that_only_one_engine_has_is_an_answer_or_invalid(
    recollect_postgres_dsn: str, value: Any
):
    """PostgreSQL has no NUL, SQLite no larger numbers: nothing but InvalidQuery comes of it, or no rows."""
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        await store.sessions.create("s")
        column = "id" if isinstance(value, str) else "session"
        answer = await _query(store, f"SELECT id AS v FROM sessions WHERE {column} = :v", {"v": value})
        assert answer in (["InvalidQuery", 1, [7]], [[], 1, [7]])


QUOTED = {
    "a comment": "SELECT 7 AS v -- it's not :name, nor ?",
    "a long comment": "SELECT /* :name ? 'quoted */ 7 AS v",
    "a name": 'SELECT ":name" AS v FROM (SELECT 7 AS ":name") AS q',
    "a slice": "SELECT (ARRAY[6, 7, 8])[2:2] AS v",
    "a cast": "SELECT '7'::text AS v",
    "a list in quotes": "SELECT 'IN :names' AS v",
    "a quote in quotes": "SELECT 'it''s not :name' AS v",
}


@pytest.mark.parametrize("name", QUOTED)
async def test_what_looks_like_a_parameter_and_is_none_is_left_alone(recollect_postgres_dsn: str, name: str):
    """In comments, in quoted names and texts, in PostgreSQL's own syntax."""
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        assert len(await store.query(QUOTED[name])) == 1


LONG = {
    "one word of 1 MB": "a" * 1_000_000,
    "one word of 1 MB beyond ASCII": "京" * 120_000,
    "many different words": " ".join(f"w{n}" for n in range(60_000)),
    "many words": "alpha beta " * 90_000,
    "many words of 3 KB": " ".join(f"{n}" + "x" * 3_000 for n in range(50)),
    "marks only": "%$:?" * 250_000,
    "a line per word": "line\n" * 200_000,
    "surrogates": "\ud800a\x00" * 100_000,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if n > 2 else ()) for n, name in enumerate(LONG)]
)
async def test_very_long_texts_are_stored_and_found_alike(recollect_postgres_dsn: str, name: str):
    """As content, in parts, in an event, as metadata; each is found once."""
    text = LONG[name]
    words = ["alpha", "w0", "w12345", "w59999", "line", "0xxx*", "a*", "京*", '"alpha beta"']

    async def ask(store: AsyncSessionStore) -> list[Any]:
        answers = [await outcome(lambda: _append(store, "s", text, {"metadata": {"k": text}}))]
        answers.append(await outcome(lambda: _append(store, "s", [{"type": "text", "text": text}], {})))
        await store.events.record(Event(kind="long", text=text, payload={"k": text}))
        await store.flush(index=True)
        for word in words:
            for order in ("oldest", "relevance"):
                hits = [(hit.kind, hit.seq or 0) async for hit in store.search(word, order=order, limit=None)]
                answers.append(sorted(hits))
        return answers

    await alike(recollect_postgres_dsn, ask)


PAGES = {
    "English": ("alpha_file.py", "the line of it\n" * 3_000, "beta_file.py"),
    "Chinese": ("北京", "的一是不了人我在有他这中大来个国到说们" * 600, "上海"),
    "a phrase": ('"quick fox"', "word " * 20_000, '"lazy dog"'),
}


@pytest.mark.parametrize("name", PAGES)
async def test_what_stands_far_apart_in_one_text_is_found_together_alike(recollect_postgres_dsn: str, name: str):
    """At its beginning and at its end; a negation means all of the text."""
    first, middle, last = PAGES[name]

    async def ask(store: AsyncSessionStore) -> list[Any]:
        for text in (f"{first} {middle} {last}", f"{first} {middle}", f"{middle} {last}"):
            await store.messages.append("s", role="user", content=text.replace('"', ""))
        await store.flush(index=True)
        word = middle.split()[0][:4]
        queries = [
            first,
            last,
            f"{first} {last}",
            f"{first} OR {last}",
            f"{first} NOT {last}",
            f"{word} NOT {first}",
            word,
        ]
        return [
            sorted([hit.seq async for hit in store.search(query, order=order, limit=None)])
            for query in queries
            for order in ("newest", "relevance")
        ]

    answers = await alike(recollect_postgres_dsn, ask)
    assert answers[4] == [1]


async def test_names_longer_than_an_index_takes_fail_alone(recollect_postgres_dsn: str):
    """Of a session, a message, an event: stored, or InvalidRecord; who was in the same batch is stored."""
    chance = random.Random(2)
    long = "".join(chance.choices(string.ascii_letters, k=20_000))
    async with AsyncSessionStore(recollect_postgres_dsn) as store:
        await store.sessions.create("s")
        calls = [
            store.sessions.create(long), store.sessions.create("k", key=long), store.sessions.create("u", user_id=long),
            store.messages.append("s", role="user", content="x", external_id=long),
            store.events.record(Event(kind="long", path=long)), store.events.record(Event(kind=long)),
            store.events.record(Event(kind="long", dedupe_key=long)), store.events.record(Event(kind="long", session_id=long)),
        ]  # fmt: skip
        good = [store.messages.append("s", role="user", content=f"{n}") for n in range(10)]
        good_events = [store.events.record(Event(kind="good", text=f"{n}")) for n in range(10)]
        outcomes = await asyncio.gather(*calls, *good, *good_events, return_exceptions=True)
        for each in outcomes[: len(calls)]:
            assert isinstance(each, InvalidRecord) or not isinstance(each, BaseException), each
        assert not [each for each in outcomes[len(calls) :] if isinstance(each, BaseException)]
        stored = not isinstance(outcomes[3], BaseException)
        assert await store.messages.count("s") == 10 + stored
        assert (await store.check()).is_sound


async def test_random_texts_come_back_and_are_found_alike(recollect_postgres_dsn: str):
    """200 strings of every kind, as content and as queries."""
    chance = random.Random(5)
    alphabets = [
        string.punctuation,
        string.printable,
        "aé京ก한🚀\u200d\u0301\ufeff\u202e",
        '"()*-+:^ANDORNOT ',
        "%$:?ab ",
    ]
    texts = ["".join(chance.choices(chance.choice(alphabets), k=chance.randint(0, 30))) for _ in range(200)]

    async def ask(store: AsyncSessionStore) -> list[Any]:
        await asyncio.gather(*[store.messages.append("s", role="user", content=text) for text in texts])
        await store.flush(index=True)
        answers: list[Any] = [message.content async for message in store.messages.stream("s")]
        for text in texts:
            answers.append([hit.seq async for hit in store.search(text, order="oldest", limit=5)])
        return answers

    await alike(recollect_postgres_dsn, ask)
