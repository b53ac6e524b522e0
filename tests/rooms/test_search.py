"""Search: the language in any script, filters, orders, cursors, context and snippets."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from recollect import AsyncSessionStore, Hit, InvalidRecord, Limits, Timeouts
from recollect.engine.fulltext import FullText, Phrase
from recollect.engine.operation import execute, one
from recollect.search import find
from recollect.search.erase import erase_chunk
from recollect.search.index import condemn, index_chunk, reset_step

from .outside import indexed, is_server

T0 = datetime(2031, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def hits(store: AsyncSessionStore, query: str, **options: Any) -> list[Hit]:
    return [hit async for hit in store.search(query, **options)]


async def found(store: AsyncSessionStore, query: str, **options: Any) -> list[int | None]:
    """The seqs found, in their order of appending unless an order is asked for."""
    seqs = [hit.seq for hit in await hits(store, query, **options)]
    return seqs if "order" in options else sorted(seqs)


TEXTS = [
    "deploy the gateway to production", "the deployment FAILED with exit code 137",
    "edit file_name.py and bump BUG-490 for user@x.y", "Café in Zürich, naïve résumé", "我们在北京部署网关",
    "การทดสอบระบบค้นหา", "배포가 실패했습니다", "ship it 🚀🎉 now", "ハロー・ワールド パス", "don't panic: it's 50% done (a=b)",
    "not working", "Straße STRASSE ﬁle", "Ошибка развёртывания",
]  # fmt: skip

LANGUAGE = [
    ("deploy", [1]), ("deploy*", [1, 2]), ("DEPLOYMENT failed", [2]), ("failed deployment", [2]), ("deploy failed", []),
    ('"exit code"', [2]), ('"code exit"', []), ('"exit cod"*', [2]), ("gateway OR failed", [1, 2]),
    ("the AND failed", [2]), ("the NOT failed", [1]), ("the -failed", [1]), ("(gateway OR exit) the", [1, 2]),
    ("-deploy", []), ("NOT deploy", []), ("", []), ("   ", []), ("***", []), ('"', []), ("()", []),
    ("file_name.py", [3]), ("file_name", [3]), ("name.py", [3]), ("py name", [3]), ("BUG-490", [3]), ("bug 490", [3]),
    ("user@x.y", [3]), ("cafe zurich", [4]), ("CAFÉ", [4]), ("naïve", [4]), ("resume", [4]), ("北京", [5]),
    ("京部", [5]), ("京北", []), ("网", [5]), ("ทดสอบ", [6]), ("ระบบ", [6]), ("실패", [7]), ("배포", [7]), ("🚀", [8]),
    ("🚀🎉", [8]), ("🎉🚀", []), ("ワールド", [9]), ("パス", [9]), ("ハス", []), ("ﾊﾟｽ", [9]), ("don't", [10]), ("50%", [10]),
    ("a=b", [10]), ("it's done", [10]), ("not", [11]), ("not working", [11]), ("strasse", [12]), ("file", [3, 12]),
    ("ошибка", [13]), ("развертывания", [13]), ("TODO: fix", []), ("foo/bar", []), ("[x]", [3]), ("working AND AND not", [11]),
]  # fmt: skip


async def test_the_language_finds_what_people_mean(any_store: AsyncSessionStore):
    """Words, phrases, prefixes, operators, negation, punctuation, folding, and any script's substrings."""
    await any_store.sessions.create("s")
    await any_store.messages.append_many("s", [{"role": "user", "content": text} for text in TEXTS])
    answers = {query: await found(any_store, query) for query, _ in LANGUAGE}
    assert answers == dict(LANGUAGE)


# -- filters ---------------------------------------------------------------------------------------


@pytest.fixture
async def corpus(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """Four sessions that each say `word` to and from, an hour apart: seq 1 user, seq 2 assistant."""
    for n, (name, source, user) in enumerate(
        (("a", "cli", "u1"), ("b", "web", "u1"), ("c", "web", "u2"), ("d", "cron", None))
    ):
        await any_store.sessions.create(name, source=source, user_id=user, model=f"m-{name}", created_at=T0)
        for m, role in enumerate(("user", "assistant")):
            await any_store.messages.append(
                name, role=role, content=f"word {name}{role[0]}", created_at=T0 + (2 * n + m) * HOUR
            )
    return any_store


FILTERS = [
    ({}, "au aa bu ba cu ca du da"), ({"session": "a"}, "au aa"), ({"session": ["a", "d"]}, "au aa du da"),
    ({"session": []}, ""), ({"session": "nobody"}, ""), ({"user_id": "u1"}, "au aa bu ba"),
    ({"user_id": ["u1", "u2"]}, "au aa bu ba cu ca"), ({"user_id": []}, ""), ({"user_id": "nobody"}, ""),
    ({"source": "web"}, "bu ba cu ca"), ({"source": ["cli", "cron"]}, "au aa du da"), ({"source": []}, ""),
    ({"exclude_source": "web"}, "au aa du da"), ({"exclude_source": []}, "au aa bu ba cu ca du da"),
    ({"exclude_source": ["web", "cron"]}, "au aa"), ({"role": "user"}, "au bu cu du"), ({"role": []}, ""),
    ({"role": ["user", "assistant"]}, "au aa bu ba cu ca du da"), ({"role": "tool"}, ""),
    ({"since": T0 + 5 * HOUR}, "ca du da"), ({"until": T0 + HOUR}, "au"),
    ({"since": T0 + HOUR, "until": T0 + 3 * HOUR}, "aa bu"), ({"kinds": "message"}, "au aa bu ba cu ca du da"),
    ({"kinds": ["message", "event"]}, "au aa bu ba cu ca du da"), ({"kinds": "event"}, ""), ({"kinds": []}, ""),
    ({"session": ["a", "c"], "user_id": "u1"}, "au aa"), ({"session": "c", "user_id": "u1"}, ""),
    ({"user_id": "u1", "source": "web", "role": "user"}, "bu"), ({"session": ["a", "b"], "exclude_source": "cli"}, "bu ba"),
    ({"limit": 0}, ""),
]  # fmt: skip


@pytest.mark.parametrize("order", ["oldest", "newest", "relevance"])
@pytest.mark.parametrize(("filters", "expected"), FILTERS)
async def test_filters_mean_what_they_say(
    corpus: AsyncSessionStore, filters: dict[str, Any], expected: str, order: str
):
    """Alone and together, in each order; an empty include matches nothing, an empty exclude excludes nothing."""
    words = [hit.snippet.split()[-1] for hit in await hits(corpus, "word", order=order, **filters)]
    wanted = expected.split()
    if order == "relevance":
        assert sorted(words) == sorted(wanted)
    else:
        assert words == (wanted if order == "oldest" else wanted[::-1])


async def test_a_hit_says_where_it_is_from(corpus: AsyncSessionStore):
    """Session, seq, id, role, time, source, model, start; the text only if asked for."""
    [hit] = await hits(corpus, "ba", session="b")
    message = await corpus.messages.get("b", 2)
    assert (hit.kind, hit.id, hit.session_id, hit.seq, hit.role) == ("message", message.id, "b", 2, "assistant")
    assert (hit.at, hit.source, hit.model, hit.session_started) == (message.created_at, "web", "m-b", T0)
    assert (hit.text, hit.ref, hit.anchor, hit.name) == (None, None, None, None)
    assert hit.snippet == "word >>>ba<<<"
    [hit] = await hits(corpus, "ba", with_text=True, marks=("<b>", "</b>"))
    assert (hit.text, hit.snippet) == ("word ba", "word <b>ba</b>")


async def test_snippets_are_as_long_as_asked(store: AsyncSessionStore):
    """About so many tokens around the match, on one line, with dots where the text was cut."""
    await store.sessions.create("s")
    words = [f"w{n}" for n in range(500)]
    words[250] = "needle\n"
    await store.messages.append("s", role="user", content=" ".join(words))
    for tokens in (1, 5, 40):
        [hit] = await hits(store, "needle", snippet_tokens=tokens)
        assert ">>>needle<<<" in hit.snippet
        assert hit.snippet.startswith("...")
        assert hit.snippet.endswith("...")
        assert "\n" not in hit.snippet
        assert len(hit.snippet.split()) <= tokens + 2


async def test_tool_calls_are_found(store: AsyncSessionStore):
    """The words in an assistant's calls are words of the message, in snippet and text too."""
    await store.sessions.create("s")
    calls = [{"id": "call_99", "function": {"name": "bash", "arguments": '{"command": "pytest tests"}'}}]
    await store.messages.append("s", role="assistant", content="running", tool_calls=calls)
    for query in ("pytest", "bash", "running"):
        [hit] = await hits(store, query, with_text=True)
        assert f">>>{query}<<<" in hit.snippet
        assert "pytest tests" in hit.text
    assert await hits(store, "call_99") == []


# -- order, limit, cursor --------------------------------------------------------------------------


@pytest.fixture
async def many(store: AsyncSessionStore) -> AsyncSessionStore:
    """150 messages in three sessions, with 1 to 5 times the word."""
    for name in "abc":
        await store.sessions.create(name)
    for n in range(150):
        text = "word " * (1 + n % 5) + "other " * (n % 7)
        await store.messages.append("abc"[n % 3], role="user", content=text)
    return store


@pytest.mark.parametrize("order", ["newest", "oldest", "relevance"])
async def test_an_order_is_kept(many: AsyncSessionStore, order: str):
    """Newest and oldest by commit, relevance by score, higher first; no limit is all of them."""
    every = await hits(many, "word", order=order, limit=None)
    ids = [hit.id for hit in every]
    assert len(set(ids)) == 150
    if order == "relevance":
        assert [hit.score for hit in every] == sorted((hit.score for hit in every), reverse=True)
        assert every[0].score > every[-1].score
    else:
        assert ids == sorted(ids, reverse=order == "newest")
        assert {hit.score for hit in every} == {0.0}


@pytest.mark.parametrize("order", ["newest", "oldest", "relevance"])
@pytest.mark.parametrize("size", [1, 7, 20, 64, 149, 150, 151])
async def test_a_cursor_continues_without_repeating_or_skipping(many: AsyncSessionStore, order: str, size: int):
    """Part by part gives the same sequence as one search without a limit; also within a filter."""
    for filters in ({}, {"session": "a"}, {"source": "unknown", "role": "user"}):
        whole = [hit.id for hit in await hits(many, "word", order=order, limit=None, **filters)]
        parts: list[int] = []
        after = None
        while part := await hits(many, "word", order=order, limit=size, after=after, **filters):
            assert len(part) <= size
            parts += [hit.id for hit in part]
            after = part[-1].cursor
            if size < 7 and len(parts) > 30:
                whole = whole[: len(parts)]
                break
        assert parts == whole


async def test_limits_mean_what_they_say(many: AsyncSessionStore):
    """20 by default, 0 is none, None is all, a negative one is InvalidRecord."""
    for order in ("newest", "oldest", "relevance"):
        counts = [
            len(await hits(many, "word", order=order, **o)) for o in ({}, {"limit": 0}, {"limit": 3}, {"limit": None})
        ]
        assert counts == [20, 0, 3, 150]
        with pytest.raises(InvalidRecord):
            await hits(many, "word", order=order, limit=-1)


async def test_a_cursor_survives_deletions_and_appends(many: AsyncSessionStore):
    """What was deleted in between is left out, what was appended does not move the rest."""
    first = await hits(many, "word", order="newest", limit=10)
    await many.messages.append("c", role="user", content="word, newer")
    await many.sessions.delete("b")
    rest = await hits(many, "word", order="newest", limit=None, after=first[-1].cursor)
    ids = [hit.id for hit in rest]
    assert max(ids) < first[-1].id
    assert {hit.session_id for hit in rest} == {"a", "c"}
    assert len(ids) == 100 - sum(hit.session_id != "b" for hit in first)


async def test_relevance_ranks_the_newest_matches():
    """Only limits.ranked of them are ranked; the rest is not found by relevance, but is by time."""
    async with AsyncSessionStore(":memory:", limits=Limits(ranked=30)) as store:
        await store.sessions.create("s")
        await store.messages.append_many("s", [{"role": "user", "content": "word"} for _ in range(100)])
        assert sorted(hit.seq for hit in await hits(store, "word", limit=None)) == list(range(71, 101))
        assert len(await hits(store, "word", order="oldest", limit=None)) == 100


# -- context ---------------------------------------------------------------------------------------


async def test_context_is_of_the_same_session_by_position(any_store: AsyncSessionStore):
    """Neighbours in the transcript, however sessions interleave: role and the first 200 characters."""
    for name in "ab":
        await any_store.sessions.create(name)
    for n in range(5):
        for name in "ab":
            text = f"needle {name}" if n == 2 else f"{name}{n} " + "x" * 300
            await any_store.messages.append(name, role="user" if n % 2 else "assistant", content=text)
    [hit] = await hits(any_store, "needle", session="a")
    assert [(line.role, line.content[:4]) for line in hit.context] == [
        ("user", "a1 x"), ("assistant", "need"), ("user", "a3 x"),
    ]  # fmt: skip
    assert len(hit.context[0].content) == 200
    [hit] = await hits(any_store, "needle", session="b", context=2)
    assert [line.content[:2] for line in hit.context] == ["b0", "b1", "ne", "b3", "b4"]
    [hit] = await hits(any_store, "needle", session="b", context=9)
    assert len(hit.context) == 5
    [hit] = await hits(any_store, "needle", session="b", context=0)
    assert hit.context == []
    for query in ("a0", "a4"):
        [hit] = await hits(any_store, query)
        assert len(hit.context) == 2


# -- freshness -------------------------------------------------------------------------------------


async def test_what_was_just_appended_is_found(any_store: AsyncSessionStore):
    """Read your own writes: every search after an append sees it, without a flush."""
    await any_store.sessions.create("s")
    for n in range(30):
        ref = await any_store.messages.append("s", role="user", content=f"unique{n} common")
        assert [hit.id for hit in await hits(any_store, f"unique{n}")] == [ref.id]
        assert len(await hits(any_store, "common", limit=None)) == n + 1


async def test_tasks_find_their_own_words_while_others_write(store: AsyncSessionStore):
    """Sixteen tasks append and search at once: each finds what it wrote."""
    await store.sessions.create("s")

    async def work(task: int) -> None:
        for n in range(5):
            ref = await store.messages.append("s", role="user", content=f"t{task}n{n}")
            assert [hit.id for hit in await hits(store, f"t{task}n{n}")] == [ref.id]

    await asyncio.gather(*(work(task) for task in range(16)))
    assert (await store.query("SELECT COUNT(*) AS n FROM messages"))[0].n == 80


async def test_a_search_does_not_wait_for_ever_for_its_index(store: AsyncSessionStore, path, hold):
    """After search_catch_up_s it answers from what is indexed, and counts that it did."""
    await store.sessions.create("s")
    await store.messages.append("s", role="user", content="early word")
    await store.flush(index=True)
    async with AsyncSessionStore(path, timeouts=Timeouts(search_catch_up_s=0.05)) as hasty:
        await hasty.messages.append("s", role="user", content="late word")
        async with hold(store):
            assert await found(hasty, "word") in ([1], [1, 2])
        assert (await hasty.messages.list("s")).items[1].content == "late word"


async def test_a_user_filled_in_late_is_found_by(any_store: AsyncSessionStore):
    """Messages indexed before the user was known, and those after: both are in the user's scope."""
    await any_store.sessions.create("s")
    await any_store.sessions.create("other", user_id="u2")
    await any_store.messages.append("s", role="user", content="word one")
    await any_store.flush(index=True)
    assert await found(any_store, "word", user_id="u1") == []
    await any_store.sessions.ensure("s", user_id="u1")
    await any_store.messages.append("s", role="user", content="word two")
    await any_store.messages.append("other", role="user", content="word other")
    assert await found(any_store, "word", user_id="u1") == [1, 2]
    assert [hit.session_id for hit in await hits(any_store, "word", user_id="u2")] == ["other"]
    await any_store.sessions.delete("s")
    assert await found(any_store, "word", user_id="u1") == []


# -- the words of what is gone ---------------------------------------------------------------------


async def test_the_words_of_a_deleted_session_leave_the_index(any_store: AsyncSessionStore, eventually):
    """Invisible at once; soon no entry of it is left, and nobody else's is touched."""
    for name in "ab":
        await any_store.sessions.create(name, user_id="u")
        await any_store.messages.append_many(
            name, [{"role": "user", "content": f"zebra {name}{n}"} for n in range(150)]
        )
    await any_store.flush(index=True)
    await any_store.sessions.delete("a")
    assert {hit.session_id for hit in await hits(any_store, "zebra", limit=None)} == {"b"}

    async def erased() -> bool:
        matches = await any_store.read(entries, any_store._engine.fulltext, "zebra")
        return matches == len(await indexed(any_store)) == 150

    await eventually(erased)
    assert len(await hits(any_store, "zebra", limit=None)) == 150
    assert await hits(any_store, "a7") == []
    assert len(await hits(any_store, "b7")) == 1


def entries(index: FullText, word: str):
    """How many rows the index has the word of, whether they are there or not."""
    matching = f"SELECT COUNT(*) AS n FROM {index.table} WHERE {index.matches}"
    return (yield one(matching, match=index.expression(Phrase((word,)), ()))).n


@pytest.mark.parametrize(
    "options",
    [
        {"order": "best"}, {"kinds": "thing"}, {"limit": 1.5}, {"context": -1}, {"after": "x"}, {"after": "1.2.3"},
        {"after": "7"}, {"order": "newest", "after": "1.2"}, {"since": datetime(2030, 1, 1)}, {"snippet_tokens": "9"},
    ],
)  # fmt: skip
async def test_options_that_mean_nothing_are_refused(corpus: AsyncSessionStore, options: dict[str, Any]):
    """InvalidRecord for an unknown order or kind, a foreign cursor, a naive time."""
    with pytest.raises(InvalidRecord):
        await hits(corpus, "word", **options)


async def test_text_beyond_the_limit_is_counted_not_silent():
    """The beginning is found, the rest is in stats().unindexed_bytes, and all of it is stored."""
    async with AsyncSessionStore(":memory:", limits=Limits(indexed_bytes=1000)) as store:
        await store.sessions.create("s")
        text = "begin " + "x " * 1000 + "end"
        await store.messages.append("s", role="user", content=text)
        await store.flush(index=True)
        assert len(await hits(store, "begin")) == 1
        assert (await store.messages.get("s", 1)).content == text
        assert (await store.stats()).unindexed_bytes == len(text) - 1000


# -- what a stream aims at -------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["newest", "oldest", "relevance"])
async def test_a_stream_aims_at_what_was_committed_at_its_call(many: AsyncSessionStore, order: str):
    """What is appended while it is read is not in it, so it ends; and only its first page waits."""
    await many.flush(index=True)
    keeper, asked = many._keeper, []
    reach = keeper.reach
    keeper.reach = lambda last: asked.append(last) or reach(last)
    await many.messages.append("a", role="user", content="word, the last")
    seen = []
    async for hit in many.search("word", order=order, limit=None):
        seen.append(hit.id)
        assert len(seen) <= 151
        await many.messages.append("a", role="user", content="word word word")
    assert len(set(seen)) == 151
    assert asked in ([max(seen)], []), "once, or not at all if the keeper was faster"


async def test_a_stream_aims_at_its_call_also_after_waiting(store: AsyncSessionStore, hold):
    """What is committed while the first page waits for the index is not waited for, nor in it."""
    await store.sessions.create("s")
    await store.messages.append("s", role="user", content="word 1")
    keeper = store._keeper
    reach = keeper.reach

    async def append_first(last: int) -> None:
        later = await store.messages.append("s", role="user", content="word 2")
        await reach(later.id)
        await reach(last)

    for order in ("newest", "oldest", "relevance"):
        await store.messages.append("s", role="user", content="other")
        before = (await store.sessions.get("s")).message_count
        keeper.reach = append_first
        async with hold(store):  # the keeper cannot be faster than the search
            search = asyncio.create_task(found(store, "word", order=order))
            await asyncio.sleep(0)
        assert all(seq <= before for seq in await search)
        keeper.reach = reach


@pytest.mark.parametrize("order", ["newest", "oldest", "relevance"])
async def test_no_more_hits_are_made_than_are_asked_for(many: AsyncSessionStore, order: str, monkeypatch):
    """A page is as long as what is left of the limit: one hit costs one."""
    made = []
    real = find._message_hit
    monkeypatch.setattr(find, "_message_hit", lambda *args: made.append(1) or real(*args))
    for limit, most in ((1, 1), (7, 7), (30, 30)):
        made.clear()
        assert len(await hits(many, "word", order=order, limit=limit)) == limit
        assert len(made) <= (most if order != "relevance" or limit <= 20 else 100)


async def test_a_run_of_deleted_rows_does_not_end_a_stream(many: AsyncSessionStore, hold):
    """Not yet erased, they are passed over, however small the page."""
    await many.flush(index=True)
    keep = await many.messages.append("a", role="user", content="word word")
    await many.flush(index=True)
    await many.messages.append_many("b", [{"role": "user", "content": "word"}] * 250)
    await many.flush(index=True)
    many._keeper._task.cancel()  # nothing is erased
    await many.sessions.delete("b")
    [hit] = await hits(many, "word", order="newest", limit=1)
    assert hit.id == keep.id


# -- what of a row is indexed ----------------------------------------------------------------------


@pytest.mark.parametrize("calls", [False, True])
@pytest.mark.parametrize("size", [50, 999, 1000, 1001, 5000])
async def test_erasing_takes_out_what_indexing_put_in(path, size: int, calls: bool):
    """Cut at the limit, in the text or in the tool calls, in the middle of a character or an escape:
    nothing of a row is left behind, and what was left out is counted."""
    async with AsyncSessionStore(path, limits=Limits(indexed_bytes=1000)) as store:
        await store.sessions.create("s")
        for shift in range(12):
            text = "x" * shift + ('né \n"東京" 🎉' * size)[:size] + " end"
            row = {"content": "begin", "tool_calls": [{"name": "Bash", "input": {"command": text}}]}
            await store.messages.append("s", role="assistant", **(row if calls else {"content": "begin " + text}))
        await store.flush(index=True)
        assert len(await hits(store, "begin")) == 12
        assert len(await hits(store, "end")) == (12 if size == 50 else 0)
        assert ((await store.stats()).unindexed_bytes > 0) == (size > 50)
        await store.sessions.delete("s")
        while await store.write(erase_chunk, store._engine.fulltext):
            pass
        assert await indexed(store) == set()
    if not is_server(path):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, search_index, row)")
            assert connection.execute("SELECT * FROM temp.terms WHERE doc > 0").fetchall() == []


async def test_a_chunk_of_the_index_is_bounded_in_bytes(store: AsyncSessionStore):
    """It ends with the row by which it has its bytes, not with the rows fetched together."""
    await store.sessions.create("s")
    store._keeper._task.cancel()
    while not await store.write(reset_step, store._engine.fulltext, 256 * 1024):
        pass
    rows = [await store.messages.append("s", role="user", content="word " * 10_000) for _ in range(8)]
    chunk = await store.write(index_chunk, store._engine.fulltext, 64, 64 * 1024)
    assert (chunk.rows, chunk.bytes) == (2, 100_000)
    assert chunk.lag.watermark == rows[1].id
    chunk = await store.write(index_chunk, store._engine.fulltext, 3, 10**9)
    assert (chunk.rows, chunk.lag.watermark) == (3, rows[4].id)
    chunk = await store.write(index_chunk, store._engine.fulltext, 64, 10**9)
    assert (chunk.rows, chunk.lag.watermark, chunk.lag.is_behind) == (3, chunk.lag.last, False)


async def test_calls_nested_without_end_are_found_and_stop_nothing(store: AsyncSessionStore):
    """However deep what stands in the column is, its words are found, shown and erased."""
    await store.sessions.create("s")
    for n in range(2):
        await store.messages.append("s", role="assistant", content=f"top {n}", tool_calls=[{"input": "bottom"}])
    await store.write(_deepen)
    await store.write(condemn)
    async with asyncio.timeout(10):
        await store.flush(index=True)
    assert sorted([hit.snippet async for hit in store.search("bottom")]) == ["top 0 >>>bottom<<<", "top 1 >>>bottom<<<"]
    await store.sessions.delete("s")
    while await store.write(erase_chunk, store._engine.fulltext):
        pass
    assert await indexed(store) == set()


def _deepen():
    yield execute("UPDATE messages SET tool_calls = :calls", calls='[{"input":' * 5000 + '"bottom"' + "}]" * 5000)


async def test_what_was_deleted_does_not_crowd_out_what_is_ranked(path):
    """More deleted matches than are ranked, not erased yet: the others are found all the same."""
    async with AsyncSessionStore(path, limits=Limits(ranked=10)) as store:
        for name in ("old", "gone"):
            await store.sessions.create(name)
        await store.messages.append("old", role="user", content="needle")
        await store.messages.append_many("gone", [{"role": "user", "content": "needle"} for _ in range(50)])
        await store.flush(index=True)
        await store._keeper.aclose()  # nobody erases
        await store.sessions.delete("gone")
        assert [hit.session_id async for hit in store.search("needle")] == ["old"]
