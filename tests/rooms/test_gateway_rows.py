"""What a chat gateway asks of its store, call by call: each comment names the call it knew before, and each
test what the answer is here, where the one before was silent, wrong or stuck."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from recollect import (
    AsyncSessionStore,
    Durability,
    Hit,
    InvalidRecord,
    InvalidTitle,
    Limits,
    MessageRef,
    QueueFull,
    ReadOnly,
    Session,
    SessionExists,
    SessionNotFound,
    Status,
    StoreBusy,
    StoreClosed,
    StoreError,
    Timeouts,
    TitleTaken,
    clean_title,
)
from recollect.operations import execute, ids, one

from .engines import ON_FILES, ON_SQLITE
from .failing import failing
from .outside import last_number, long_read, occupied, rows

T0 = datetime(2021, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
async def chat(any_store: AsyncSessionStore) -> AsyncSessionStore:
    """A store with the session `s`."""
    await any_store.sessions.create("s", source="telegram", created_at=T0)
    return any_store


async def session_of(store: AsyncSessionStore, session_id: str = "s") -> Session:
    found = await store.sessions.get(session_id)
    assert found is not None
    return found


async def hits(store: AsyncSessionStore, query: str, **options: Any) -> list[Hit]:
    return [hit async for hit in store.search(query, **options)]


# -- sessions: create_session, ensure_session, end_session, reopen_session -------------------------


async def test_creating_says_what_it_could_not_do(any_store: AsyncSessionStore):
    """A duplicate id, an unknown parent and a missing source are errors of ours and store nothing."""
    first = await any_store.sessions.create(
        "s", source="telegram", model="m", config={"a": 1}, system_prompt="p", user_id="u"
    )
    with pytest.raises(SessionExists, match="'s'"):
        await any_store.sessions.create("s", source="cli", model="other")
    with pytest.raises(SessionNotFound, match="'nobody'"):
        await any_store.sessions.create("child", source="cli", parent_id="nobody")
    with pytest.raises(InvalidRecord, match="source"):
        await any_store.sessions.create("t", source=None)
    assert [session async for session in any_store.sessions.stream()] == [first]
    assert (first.source, first.model, first.config, first.system_prompt, first.user_id) == (
        "telegram", "m", {"a": 1}, "p", "u",
    )  # fmt: skip


async def test_ensuring_heals_what_was_created_with_less(any_store: AsyncSessionStore):
    """What is known later fills what is empty; what is there is not overwritten; a session is returned."""
    assert (await any_store.sessions.ensure("s")).source == "unknown"
    healed = await any_store.sessions.ensure("s", source="telegram", model="m", config={"a": 1}, system_prompt="p")
    assert (healed.source, healed.model, healed.config, healed.system_prompt) == ("telegram", "m", {"a": 1}, "p")
    assert await any_store.sessions.ensure("s", source="cli", model="n", config={"b": 2}, system_prompt="q") == healed
    assert await any_store.sessions.count() == 1


async def test_the_first_end_reason_wins_and_a_reset_promotes_its_own(chat: AsyncSessionStore):
    """A late `agent_close` does not hide a compression; a reset may say `replace=True`; nobody is unknown."""
    first = await chat.sessions.end("s", "compression")
    assert await chat.sessions.end("s", "agent_close") == first
    promoted = await chat.sessions.end("s", "session_reset", replace=True)
    assert (promoted.end_reason, promoted.ended_at) == ("session_reset", first.ended_at)
    with pytest.raises(SessionNotFound):
        await chat.sessions.end("nobody", "agent_close")


async def test_a_reopened_session_has_no_end(chat: AsyncSessionStore):
    """Time and reason are cleared; one that was not ended stays as it is; nobody is unknown."""
    await chat.sessions.end("s", "done")
    session = await chat.sessions.reopen("s")
    assert (session.status, session.ended_at, session.end_reason) == (Status.ACTIVE, None, None)
    assert await chat.sessions.reopen("s") == session
    with pytest.raises(SessionNotFound):
        await chat.sessions.reopen("nobody")


# update_system_prompt
async def test_a_prompt_is_overwritten_or_cleared(chat: AsyncSessionStore):
    """The snapshot of the last call is what a later process reads; an unknown session is an error."""
    for prompt in ("Be brief.", "Be brief and kind.", None):
        assert (await chat.sessions.update("s", system_prompt=prompt)).system_prompt == prompt
        assert (await session_of(chat)).system_prompt == prompt
    with pytest.raises(SessionNotFound):
        await chat.sessions.update("nobody", system_prompt="p")


# -- usage: update_token_counts, set_token_counts --------------------------------------------------

COUNTERS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


def counters(session: Session) -> tuple[int, ...]:
    return tuple(getattr(session, name) for name in COUNTERS)


async def test_token_counts_add_up(chat: AsyncSessionStore):
    """Differences are added, costs too; a cost that nobody gave is unknown, not zero, and one that is left
    out later is kept."""
    given = {"prompt_tokens": 10, "completion_tokens": 5, "cache_read_tokens": 4, "cache_write_tokens": 3}
    await chat.usage.add("s", **given, reasoning_tokens=2)
    assert (await session_of(chat)).actual_cost_usd is None
    await chat.usage.add("s", **given, reasoning_tokens=2, estimated_cost_usd=0.1, actual_cost_usd=0.2)
    await chat.usage.add("s", prompt_tokens=1, estimated_cost_usd=0.2)
    session = await session_of(chat)
    assert counters(session) == (21, 10, 8, 6, 4)
    assert (session.estimated_cost_usd, session.actual_cost_usd) == (0.3, 0.2)


async def test_usage_of_an_unknown_session_is_an_error(chat: AsyncSessionStore):
    """Neither silence nor a session that nobody created."""
    for write in (chat.usage.add, chat.usage.set):
        with pytest.raises(SessionNotFound):
            await write("nobody", prompt_tokens=1)
    assert await chat.sessions.count() == 1


async def test_the_first_model_and_billing_stay_the_last_status_counts(chat: AsyncSessionStore):
    """Whichever way figures come; None changes neither."""
    first = {"model": "m1", "billing_provider": "p1", "billing_base_url": "u1", "billing_mode": "b1"}
    status = {"cost_status": "estimated", "cost_source": "table", "pricing_version": "v1"}
    await chat.usage.add("s", **first, **status)
    await chat.usage.set("s", **dict.fromkeys(first, "other"), **dict.fromkeys(status, "newer"))
    await chat.usage.add("s", **dict.fromkeys([*first, *status]), prompt_tokens=1)
    session = await session_of(chat)
    assert {name: getattr(session, name) for name in first} == first
    assert {name: getattr(session, name) for name in status} == dict.fromkeys(status, "newer")


async def test_setting_counts_assigns_what_is_given_and_keeps_the_rest(chat: AsyncSessionStore):
    """Totals, not differences, also smaller ones; what is left out, or None, keeps its own: costs as well."""
    await chat.usage.add("s", prompt_tokens=100, completion_tokens=50, estimated_cost_usd=0.5, actual_cost_usd=0.25)
    await chat.usage.set("s", prompt_tokens=70, cache_read_tokens=30)
    session = await session_of(chat)
    assert counters(session) == (70, 50, 30, 0, 0)
    assert (session.estimated_cost_usd, session.actual_cost_usd) == (0.5, 0.25)
    await chat.usage.set("s", estimated_cost_usd=None, actual_cost_usd=0.125, completion_tokens=0)
    session = await session_of(chat)
    assert counters(session) == (70, 0, 30, 0, 0)
    assert (session.estimated_cost_usd, session.actual_cost_usd) == (0.5, 0.125)
    [total] = await chat.usage.totals()
    assert (total.prompt_tokens, total.completion_tokens, total.total_tokens) == (70, 0, 70)


# -- finding a session: get_session, resolve_session_id --------------------------------------------


async def test_a_session_is_read_decoded_and_unknown_is_none(chat: AsyncSessionStore):
    """Config and metadata are what was given, not JSON text."""
    await chat.sessions.create("t", config={"temperature": 0.5}, metadata={"deep": [{"a": None}]})
    session = await session_of(chat, "t")
    assert (session.config, session.metadata) == ({"temperature": 0.5}, {"deep": [{"a": None}]})
    assert await chat.sessions.get("nobody") is None


async def test_a_prefix_finds_the_only_session_that_begins_so(any_store: AsyncSessionStore):
    """Exact first, then unique; ambiguous and blank are None; `%` and `_` are themselves; case counts."""
    await any_store.sessions.create("20300102_100000_aabb")
    assert await any_store.sessions.resolve("20300102_1") == "20300102_100000_aabb"
    assert await any_store.sessions.resolve("") is None
    for name in ("20300102_110000_ccdd", "20300102_100000", "20300102x1", "Abc"):
        await any_store.sessions.create(name)
    expected = {
        "20300102_100000": "20300102_100000", "20300102_100000_": "20300102_100000_aabb", "20300102_11": "20300102_110000_ccdd",
        "20300102_1": None, "20300102": None, "2030010_": None, "%": None, "abc": None, "Ab": "Abc", " ": None, "nobody": None,
    }  # fmt: skip
    assert {prefix: await any_store.sessions.resolve(prefix) for prefix in expected} == expected


# -- titles ----------------------------------------------------------------------------------------

CLEAN = [
    (None, None), ("", None), ("  \t\n ", None), ("\u200b\u200f\ufeff", None), (" a \t b\r\nc ", "a b c"),
    ("bell\x07 del\x7f nul\x00", "bell del nul"), ("zero\u200bwidth\u200d", "zerowidth"), ("\u202egnp\u202c.exe", "gnp.exe"),
    ("\u2066iso\u2069", "iso"), ("\ufeffbom", "bom"), ("an\ufff9no\ufffatation\ufffc", "annotation"), ("line\u2028sep\u2029", "linesep"),
    ("half\ud83d", "half"), ("It's 50% \"done\" (v2) #1 — 東京 🎉 _x_ <b>", "It's 50% \"done\" (v2) #1 — 東京 🎉 _x_ <b>"),
    ("x" * 100, "x" * 100), ("\u200b" * 50 + "x" * 100, "x" * 100),
]  # fmt: skip


# sanitize_title
@pytest.mark.parametrize(("given", "title"), CLEAN)
async def test_a_title_is_cleaned(chat: AsyncSessionStore, given: str | None, title: str | None):
    """Controls, zero-width, directional and other invisible characters go, what people type stays."""
    assert clean_title(given) == title
    assert await chat.sessions.set_title("s", given) == title
    assert (await session_of(chat)).title == title


async def test_a_title_of_over_a_hundred_characters_is_refused(chat: AsyncSessionStore):
    """Counted after cleaning; the title that was there stays."""
    await chat.sessions.set_title("s", "before")
    with pytest.raises(InvalidTitle, match="101"):
        clean_title("x" * 101)
    with pytest.raises(ValueError, match="101"):
        await chat.sessions.set_title("s", "x" * 101)
    assert (await session_of(chat)).title == "before"


# set_session_title
async def test_a_title_has_one_holder_and_the_error_names_it(chat: AsyncSessionStore):
    """Taken is TitleTaken with the id; its own again is fine; an empty one frees it; many have none."""
    for name in ("t", "u", "v"):
        await chat.sessions.create(name)
    assert await chat.sessions.set_title("s", "Deploy") == "Deploy"
    with pytest.raises(TitleTaken, match="'s'") as taken:
        await chat.sessions.set_title("t", " Deploy ")
    assert (taken.value.by, taken.value.title, taken.value.stored) == ("s", "Deploy", False)
    assert await chat.sessions.set_title("s", "Deploy") == "Deploy"
    for name in ("s", "t", "u"):
        assert await chat.sessions.set_title(name, "") is None
    assert await chat.sessions.set_title("t", "Deploy") == "Deploy"
    with pytest.raises(SessionNotFound):
        await chat.sessions.set_title("nobody", "Other")


async def test_of_those_who_want_one_title_at_once_one_has_it(path: Path):
    """From two stores on one file: the others are told by whom, never with an error of the database."""
    async with AsyncSessionStore(path) as first, AsyncSessionStore(path) as second:
        for n in range(16):
            await first.sessions.create(f"s{n}")
        outcomes = await asyncio.gather(
            *((first, second)[n % 2].sessions.set_title(f"s{n}", "Deploy") for n in range(16)), return_exceptions=True
        )
        assert outcomes.count("Deploy") == 1
        holder = f"s{outcomes.index('Deploy')}"
        assert {each.by for each in outcomes if isinstance(each, TitleTaken)} == {holder}
        assert sum(isinstance(each, TitleTaken) for each in outcomes) == 15


# get_session_title
async def test_no_title_and_no_session_are_told_apart(chat: AsyncSessionStore):
    """A session without a title is a session."""
    assert (await session_of(chat)).title is None
    assert await chat.sessions.get("nobody") is None


# get_session_by_title
async def test_a_title_finds_exactly_its_session(chat: AsyncSessionStore):
    """Case counts; None where nobody has it; a title survives the end of its session."""
    await chat.sessions.set_title("s", "Deploy")
    await chat.sessions.end("s", "done")
    found = await chat.sessions.by_title("Deploy")
    assert found == await session_of(chat)
    for other in ("deploy", "Depl", "Deploy #2", "", "%"):
        assert await chat.sessions.by_title(other) is None


# resolve_session_by_title
async def test_a_title_resolves_to_its_latest_numbered_variant(any_store: AsyncSessionStore):
    """By start, not by number; only digits make a variant; `%`, `_` and case are themselves; else the exact one."""
    for n, (id, title) in enumerate(
        (("a", "Deploy"), ("b", "Deploy #3"), ("c", "Deploy #2"), ("d", "Deploy #next"), ("e", "deploy #9"),
         ("f", "100%"), ("g", "1000 #2"), ("h", "my_title"), ("i", "myxtitle #2"), ("j", "alone"))
    ):  # fmt: skip
        await any_store.sessions.create(id, title=title, created_at=T0 + n * HOUR)
    expected = {"Deploy": "c", "deploy": "e", "100%": "f", "my_title": "h", "alone": "j", "Deploy #3": "b", "no": None}
    assert {title: await any_store.sessions.resolve_title(title) for title in expected} == expected


# get_next_title_in_lineage
async def test_the_next_title_of_a_line_is_free(any_store: AsyncSessionStore):
    """The base if nobody has it; a number at the end is dropped; the unnumbered one is the first; it fits."""
    next_title = any_store.sessions.next_title
    assert await next_title("Deploy") == "Deploy"
    assert await next_title("Deploy #7") == "Deploy"
    for id, title in (("a", "Deploy"), ("b", "Deploy #4"), ("c", "my_title"), ("d", "x" * 100), ("e", "Deploy #x")):
        await any_store.sessions.create(id, title=title)
    expected = {
        "Deploy": "Deploy #5", "Deploy #2": "Deploy #5", "my_title": "my_title #2", "myxtitle": "myxtitle",
        "x" * 100: "x" * 97 + " #2", "%": "%", "deploy": "deploy",
    }  # fmt: skip
    assert {base: await next_title(base) for base in expected} == expected


# -- listing: list_sessions_rich, search_sessions, session_count, message_count --------------------


async def test_a_listing_has_previews_and_last_activity(any_store: AsyncSessionStore):
    """Newest start first; 63 characters where a text was cut; line ends are spaces; no user text, no preview;
    without messages the last activity is the start."""
    for n, (name, source) in enumerate((("a", "cli"), ("b", "telegram"), ("c", "cli"), ("d", "tool"))):
        await any_store.sessions.create(name, source=source, created_at=T0 + n * HOUR)
    await any_store.messages.append("a", role="system", content="rules", created_at=T0)
    await any_store.messages.append("a", role="user", created_at=T0 + HOUR)
    await any_store.messages.append("a", role="user", content="one\ntwo " + "x" * 90, created_at=T0 + 9 * HOUR)
    await any_store.messages.append("b", role="assistant", content="hello", created_at=T0 + 8 * HOUR)
    page = await any_store.sessions.list(order="created", exclude_source=["tool"])
    assert [(session.id, session.preview, session.last_active_at - T0) for session in page] == [
        ("c", None, 2 * HOUR), ("b", None, 8 * HOUR), ("a", "one two " + "x" * 52 + "...", 9 * HOUR),
    ]  # fmt: skip
    assert len(page[2].preview or "") == 63
    assert [session.id for session in await any_store.sessions.list(source="cli")] == ["a", "c"]


async def test_children_are_listed_unless_filtered_and_pages_do_not_shift(any_store: AsyncSessionStore):
    """`kind` leaves sub-agents out; an empty exclude excludes nothing; a negative limit is an error; a page
    goes on where the one before ended, whatever began meanwhile."""
    for n in range(6):
        await any_store.sessions.create(f"s{n}", created_at=T0 + n * HOUR, parent_id="s0" if n == 3 else None)
    roots = await any_store.sessions.list(order="created", kind="root", exclude_source=[])
    assert [session.id for session in roots] == ["s5", "s4", "s2", "s1", "s0"]
    first = await any_store.sessions.list(order="created", limit=3)
    await any_store.sessions.create("late", created_at=T0 + 99 * HOUR)
    rest = await any_store.sessions.list(order="created", limit=3, after=first.next)
    assert [session.id for session in (*first, *rest)] == ["s5", "s4", "s3", "s2", "s1", "s0"]
    with pytest.raises(InvalidRecord):
        await any_store.sessions.list(limit=-1)


# search_sessions
async def test_sessions_are_found_by_title_source_and_time(any_store: AsyncSessionStore):
    """What is called searching searches."""
    for n, title in enumerate(("Deploy the site", "Fix the tests", "deploy again")):
        await any_store.sessions.create(f"s{n}", title=title, source="cli", created_at=T0 + n * HOUR)
    found = await any_store.sessions.list(title_contains="DEPLOY", source="cli", order="created")
    assert [session.id for session in found] == ["s2", "s0"]
    found = await any_store.sessions.list(since=T0 + HOUR, until=T0 + 2 * HOUR)
    assert [session.id for session in found] == ["s1"]


# session_count, message_count
async def test_counts_count_what_is_asked_for(chat: AsyncSessionStore):
    """An empty source or id is one that nobody has, not all of them."""
    await chat.sessions.create("t", source="cli")
    await chat.messages.append_many("s", [{"role": "user"}, {"role": "assistant"}])
    await chat.messages.append("t", role="user")
    assert [await chat.sessions.count(**f) for f in ({}, {"source": "cli"}, {"source": ""})] == [2, 1, 0]
    assert [await chat.messages.count(id) for id in (None, "s", "nobody", "")] == [3, 2, 0, 0]


# -- messages: append_message, get_messages, get_messages_as_conversation --------------------------


async def test_appending_counts_calls_and_not_their_results(chat: AsyncSessionStore):
    """N parallel calls are N; a row of the role tool is none; `{}` and `[]` are none and stored as none."""
    calls = [{"id": str(n), "function": {"name": "f", "arguments": "{}"}} for n in range(3)]
    await chat.messages.append("s", role="assistant", tool_calls=calls)
    for n in range(3):
        await chat.messages.append("s", role="tool", name="f", tool_call_id=str(n), content="ok")
    await chat.messages.append("s", role="assistant", tool_calls={"id": "single"})
    for nothing in ({}, [], None):
        ref = await chat.messages.append("s", role="assistant", tool_calls=nothing)
        assert (await chat.messages.get(id=ref.id)).tool_calls is None
    session = await session_of(chat)
    assert (session.message_count, session.tool_call_count) == (8, 4)


async def test_content_of_several_parts_is_kept_as_given(chat: AsyncSessionStore):
    """A list of blocks is neither refused nor turned into a text."""
    blocks = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": "https://x.y/z"}}]
    await chat.messages.append("s", role="user", content=blocks)
    assert await chat.messages.conversation("s") == [{"role": "user", "content": blocks}]
    assert (await session_of(chat)).preview == "what is this https://x.y/z"


async def test_a_message_has_the_time_of_its_call(store: AsyncSessionStore, hold):
    """Not that of the batch it waited for."""
    await store.sessions.create("s")
    async with hold(store):
        receipt = store.messages.append_nowait("s", role="user", content="x")
        called = datetime.now(UTC)
        assert not receipt.done()
    ref = await receipt
    message = await store.messages.get(id=ref.id)
    assert message.created_at <= called


async def test_appending_to_nobody_is_an_error_of_ours(chat: AsyncSessionStore):
    """SessionNotFound, not the database's; nothing is stored."""
    with pytest.raises(SessionNotFound, match="'nobody'"):
        await chat.messages.append("nobody", role="user", content="lost")
    assert await chat.messages.count() == 0


# get_messages
async def test_messages_are_in_the_order_of_appending(chat: AsyncSessionStore):
    """A clock that steps back does not part a call from its result; every structured column is decoded."""
    structured = {"tool_calls": [{"id": "c"}], "reasoning_details": [{"t": 1}], "provider_items": [{"id": "rs"}]}
    await chat.messages.append("s", role="assistant", created_at=T0 + HOUR, reasoning="why", **structured)
    await chat.messages.append("s", role="tool", tool_call_id="c", content="ok", created_at=T0)
    await chat.messages.append("s", role="assistant", content="done", created_at=T0 - HOUR, finish_reason="stop")
    messages = (await chat.messages.list("s")).items
    assert [message.role for message in messages] == ["assistant", "tool", "assistant"]
    assert {name: getattr(messages[0], name) for name in structured} == structured
    assert (messages[0].reasoning, messages[2].finish_reason, messages[2].created_at) == ("why", "stop", T0 - HOUR)


# get_messages_as_conversation
async def test_a_conversation_has_exactly_the_keys_that_are_set(chat: AsyncSessionStore):
    """Plain rows equal `{role, content}`; reasoning on assistant rows alone; the name of a tool is `tool_name`."""
    extra = {"reasoning": "why", "reasoning_details": [1], "provider_items": [{"id": 2}]}
    await chat.messages.append("s", role="user", content="hi", token_count=3, metadata={"m": 1}, **extra)
    await chat.messages.append("s", role="assistant", tool_calls=[{"id": "c"}], finish_reason="tool_calls", **extra)
    await chat.messages.append("s", role="tool", content="ok", tool_call_id="c", name="f", round_index=1, **extra)
    await chat.messages.append("s", role="assistant", content="done")
    assert await chat.messages.conversation("s") == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}], "reasoning": "why",
         "reasoning_details": [1], "codex_reasoning_items": [{"id": 2}]},
        {"role": "tool", "content": "ok", "tool_call_id": "c", "tool_name": "f"},
        {"role": "assistant", "content": "done"},
    ]  # fmt: skip


# -- search: _sanitize_fts5_query, search_messages -------------------------------------------------

# what people type, and a text that it must find
TYPED = [
    ("TODO: fix", "TODO: fix the build"), ("don't", "I don't know"), ("foo/bar", "see foo/bar"), ("P2.2", "part P2.2"),
    ("a,b", "a,b"), ("user@x.y", "mail user@x.y"), ("#123", "issue #123"), ("50%", "50% done"), ("[x]", "- [x] task"),
    ("a=b", "set a=b"), ("file_name.py", "edit file_name.py"), ("chat-send", "the chat-send call"), ("C++", "C++ code"),
    ("not working", "not working"), ("a AND AND b", "b then a"), ("AND", "this AND that"), ("or", "this or that"),
    ('"unbalanced', "unbalanced"), ("(open", "open"), ("close)", "close"), ("{brace}", "brace"), ("up^2", "up 2"),
    ("deploy*", "deployment"), ("*deploy", "deploy"), ("de**", "deploy"), ("hello AND", "hello"), ("OR hello", "hello"),
    ("NOT", "NOT"), ('say "exit code"', "say the exit code"), ("c:\\temp", "c:\\temp"), ("x + y", "x + y"),
]  # fmt: skip


async def test_what_people_type_is_found(any_store: AsyncSessionStore):
    """Nothing is a syntax error, and nothing that is there is missed for its punctuation."""
    missed = []
    for n, (typed, text) in enumerate(TYPED):
        await any_store.sessions.create(f"s{n}")
        await any_store.messages.append(f"s{n}", role="user", content=text)
        if [hit.seq for hit in await hits(any_store, typed, session=f"s{n}")] != [1]:
            missed.append(typed)
    assert missed == []


async def test_a_dash_before_a_word_leaves_it_out(chat: AsyncSessionStore):
    """`docker -compose` finds docker without compose; a negation alone finds nothing."""
    await chat.messages.append("s", role="user", content="docker alone")
    await chat.messages.append("s", role="user", content="docker compose")
    assert [hit.seq for hit in await hits(chat, "docker -compose")] == [1]
    assert await hits(chat, "-x") == []


@pytest.mark.parametrize("blank", ["", "  ", "***", '"', "()", "+", "^", "{}", "*", "-", "\u200b", "\n"])
async def test_a_query_of_nothing_finds_nothing(chat: AsyncSessionStore, blank: str):
    """And is no error."""
    await chat.messages.append("s", role="user", content='word * + ( " ^ -')
    assert await hits(chat, blank) == []


async def test_a_hit_has_what_a_gateway_shows(chat: AsyncSessionStore):
    """Best first; id, session, role, marked snippet, time, tool, source, model, start and context; no text."""
    await chat.sessions.update("s", model="m-1")
    await chat.messages.append("s", role="user", content="deploy " + "padding " * 50, created_at=T0)
    ref = await chat.messages.append("s", role="tool", name="bash", content="deploy deploy", created_at=T0 + HOUR)
    best, other = await hits(chat, "deploy")
    assert best.score >= other.score
    assert (best.id, best.session_id, best.seq, best.role, best.name) == (ref.id, "s", 2, "tool", "bash")
    assert (best.at, best.source, best.model, best.session_started) == (T0 + HOUR, "telegram", "m-1", T0)
    assert (best.snippet, best.text) == (">>>deploy<<< >>>deploy<<<", None)
    assert [(line.role, line.content[:6]) for line in best.context] == [("user", "deploy"), ("tool", "deploy")]
    assert len(best.context[0].content) == 200


async def test_the_context_is_of_the_hits_session_however_sessions_interleave(any_store: AsyncSessionStore):
    """Its neighbours in the transcript, not in the table; the first and last have one."""
    for name in "ab":
        await any_store.sessions.create(name)
    for n in range(3):
        for name in "ab":
            await any_store.messages.append(name, role="user", content=f"{name}{n}")
    context = {
        hit.seq: [line.content for line in hit.context] for n in range(3) for hit in await hits(any_store, f"a{n}")
    }
    assert context == {1: ["a0", "a1"], 2: ["a0", "a1", "a2"], 3: ["a1", "a2"]}


async def test_filters_of_a_search_follow_one_rule(any_store: AsyncSessionStore):
    """An empty include matches nothing, also of roles; an empty exclude excludes nothing."""
    for name in ("cli", "telegram"):
        await any_store.sessions.create(name, source=name)
        for role in ("user", "assistant"):
            await any_store.messages.append(name, role=role, content="word")
    found = {
        label: len(await hits(any_store, "word", **filters))
        for label, filters in {
            "all": {}, "source": {"source": "cli"}, "sources": {"source": ["cli", "telegram"]}, "no source": {"source": []},
            "but": {"exclude_source": ["cli"]}, "but none": {"exclude_source": []}, "role": {"role": ["user"]},
            "no role": {"role": []}, "limit": {"limit": 3}, "none": {"limit": 0},
        }.items()
    }  # fmt: skip
    assert found == {
        "all": 4, "source": 2, "sources": 4, "no source": 0, "but": 2, "but none": 4, "role": 2, "no role": 0,
        "limit": 3, "none": 0,
    }  # fmt: skip


async def test_a_search_that_cannot_be_done_is_an_error(store: AsyncSessionStore):
    """Not an answer of nothing: "found nothing" is said only by an index that was asked."""
    await store.sessions.create("s")
    await store.messages.append("s", role="user", content="word")
    await store.flush(index=True)
    search = store.search("word")
    await store.aclose()
    with pytest.raises(StoreClosed):
        [hit async for hit in search]


# -- moving: export_session, export_all ------------------------------------------------------------


async def test_an_export_is_the_whole_session_or_none(chat: AsyncSessionStore):
    """With its title and messages; unknown is None."""
    await chat.sessions.set_title("s", "Deploy")
    await chat.messages.append_many("s", [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ["x"]}])
    record = await chat.sessions.export("s")
    assert (record["id"], record["title"], record["source"]) == ("s", "Deploy", "telegram")
    assert [(message["role"], message["content"]) for message in record["messages"]] == [
        ("user", "hi"),
        ("assistant", ["x"]),
    ]
    assert await chat.sessions.export("nobody") is None


async def test_an_export_is_of_one_moment(store: AsyncSessionStore):
    """Its counters are those of its messages, whatever is appended while it is read."""
    await store.sessions.create("s")
    done = asyncio.Event()

    async def chatter() -> None:
        while not done.is_set():
            await store.messages.append_many("s", [{"role": "user"}, {"role": "assistant", "tool_calls": [{}]}])

    writing = asyncio.create_task(chatter())
    try:
        for _ in range(40):
            record = await store.sessions.export("s")
            assert record["message_count"] == len(record["messages"]) == 2 * record["tool_call_count"]
            assert record["next_seq"] == len(record["messages"]) + 1
    finally:
        done.set()
        await writing


@pytest.mark.usefixtures("small_pages")
async def test_every_session_is_exported_one_by_one(any_store: AsyncSessionStore):
    """A stream without a cap; by source if asked; what is deleted on the way is left out."""
    for n in range(25):
        await any_store.sessions.create(f"s{n:03}", source="cli" if n % 2 else "web")
    found = []
    async for record in any_store.sessions.export_all():
        found.append(record["id"])
        if len(found) == 1:
            await any_store.sessions.delete("s024")
    assert found == [f"s{n:03}" for n in range(24)]
    assert len([record async for record in any_store.sessions.export_all(source="cli")]) == 12


async def test_a_session_that_is_cleared_meanwhile_is_exported_once(any_store: AsyncSessionStore):
    """As it was, or as it is, not as both."""
    for n in range(3):
        await any_store.sessions.create(f"s{n}")
    found = []
    async for record in any_store.sessions.export_all():
        found.append(record["id"])
        if len(found) == 1:
            await any_store.messages.clear("s0")
    assert found == ["s0", "s1", "s2"]


async def test_a_session_that_is_cleared_meanwhile_is_not_left_out_of_a_listing(any_store: AsyncSessionStore):
    """Of sessions created at one instant, page by page."""
    for n in range(4):
        await any_store.sessions.create(f"s{n}", created_at=T0)
    first = await any_store.sessions.list(order="created", limit=2)
    await any_store.messages.clear("s0")
    rest = await any_store.sessions.list(order="created", limit=2, after=first.next)
    assert {session.id for session in (*first, *rest)} == {"s0", "s1", "s2", "s3"}


# -- what goes: clear_messages, delete_session, prune_sessions -------------------------------------


async def test_clearing_zeroes_the_counters_and_keeps_tokens(chat: AsyncSessionStore):
    """Messages, preview and both counters are gone, figures stay; unknown is an error; seqs go on."""
    await chat.messages.append("s", role="user", content="secret word")
    await chat.messages.append(
        "s", role="assistant", tool_calls=[{}, {}], usage={"prompt_tokens": 9, "actual_cost_usd": 0.5}
    )
    assert await chat.messages.clear("s") == 2
    session = await session_of(chat)
    assert (session.message_count, session.tool_call_count, session.preview) == (0, 0, None)
    assert (session.input_tokens, session.actual_cost_usd, session.last_active_at) == (9, 0.5, T0)
    assert len(await chat.messages.list("s", state="all")) == 0
    assert await hits(chat, "secret") == []
    assert (await chat.messages.append("s", role="user")).seq == 3
    with pytest.raises(SessionNotFound):
        await chat.messages.clear("nobody")
    assert (await chat.check()).is_sound


async def test_deleting_a_parent_leaves_no_half(chat: AsyncSessionStore):
    """What was spawned goes with it or stays without a parent; an unknown id is an empty list."""
    await chat.messages.append("s", role="user", content="x")
    await chat.sessions.create("child", parent_id="s")
    await chat.sessions.create("next", parent_id="s", relation="continuation")
    await chat.messages.append("next", role="user", content="stays")
    assert sorted(await chat.sessions.delete("s")) == ["child", "s"]
    assert (await session_of(chat, "next")).parent_id is None
    assert await chat.messages.count() == 1
    assert await chat.sessions.delete("s") == []
    assert (await chat.check()).is_sound


async def idle_ones(store: AsyncSessionStore) -> None:
    """Sessions begun long ago, of which some were active since."""
    now = datetime.now(UTC)
    for name, source, started, active, ended in (
        ("old", "cli", 200, 200, True), ("older", "web", 300, 300, True), ("revived", "cli", 300, 1, True),
        ("open", "cli", 300, 300, False), ("fresh", "cli", 1, 1, True),
    ):  # fmt: skip
        await store.sessions.create(name, source=source, created_at=now - started * DAY)
        await store.messages.append(name, role="user", content="x", created_at=now - active * DAY)
        if ended:
            await store.sessions.end(name, "done")


async def test_pruning_goes_by_last_activity(any_store: AsyncSessionStore):
    """What was active lately stays, whenever it began; so does what never ended, unless told."""
    await idle_ones(any_store)
    assert await any_store.sessions.prune(idle_for=90 * DAY, dry_run=True) == ["older", "old"]
    assert await any_store.sessions.prune(idle_for=90 * DAY) == ["older", "old"]
    assert await any_store.sessions.prune(idle_for=90 * DAY) == []
    assert await any_store.sessions.prune(idle_for=90 * DAY, include_active=True) == ["open"]
    assert {session.id async for session in any_store.sessions.stream()} == {"revived", "fresh"}
    assert (await any_store.check()).is_sound


async def test_pruning_honours_the_source_and_keeps_children(any_store: AsyncSessionStore):
    """A child that is active or recent loses its parent, nothing else."""
    await idle_ones(any_store)
    await any_store.sessions.create("child", parent_id="old", lifecycle="linked")
    assert await any_store.sessions.prune(idle_for=90 * DAY, source="cli") == ["old"]
    child = await session_of(any_store, "child")
    assert (child.parent_id, child.kind, child.spawn_depth) == (None, "subagent", 1)
    assert await any_store.sessions.get("older") is not None


# -- the store: get_stats, close, flush, shutdown, the pool ----------------------------------------


@ON_FILES
async def test_stats_have_no_side_effects(store: AsyncSessionStore, path: Path):
    """No checkpoint, no write: the files are the same before and after; the figures are of this store."""
    await store.sessions.create("s")
    await store.messages.append_many("s", [{"role": "user"}] * 3)
    await store.flush(index=True)
    await store.stats()

    def files() -> dict[str, tuple[int, int]]:
        return {each.name: (each.stat().st_size, each.stat().st_mtime_ns) for each in path.parent.iterdir()}

    before = files()
    stats = [await store.stats() for _ in range(5)][-1]
    assert files() == before
    assert (stats.sessions, stats.messages, stats.queue_depth) == (1, 3, 0)
    assert stats.writes >= stats.batches >= 2
    assert stats.wal_bytes > 0


async def test_closing_writes_what_is_queued(path: Path):
    """Everything that was queued is there after it; what comes later is told, and closing again is nothing."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s")
        receipts = [store.messages.append_nowait("s", role="user", content=str(n)) for n in range(1000)]
        waiting = [asyncio.create_task(store.messages.append("s", role="user")) for _ in range(20)]
        await asyncio.sleep(0)
        await store.aclose()
        assert [receipt.done() for receipt in receipts] == [True] * 1000
        assert [ref.seq for ref in await asyncio.gather(*waiting)] == list(range(1001, 1021))
        with pytest.raises(StoreClosed) as closed:
            await store.messages.append("s", role="user")
        assert closed.value.stored is False
        await store.aclose()
    async with AsyncSessionStore(path) as store:
        assert await store.messages.count("s") == 1020


async def test_closing_has_an_end(store: AsyncSessionStore, hold):
    """What a busy writer does not get to in time fails as not stored: nobody waits for ever."""
    await store.sessions.create("s")
    async with hold(store):
        waiting = [asyncio.create_task(store.messages.append("s", role="user")) for _ in range(5)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.aclose(timeout_s=0.01))
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {(type(each), each.stored) for each in outcomes} == {(StoreClosed, False)}
    await closing
    async with store:
        assert await store.messages.count("s") == 0


@ON_FILES
async def test_a_close_that_takes_long_does_not_speak_of_others(path: Path):
    """What was committed is; the database is closed when the disk is done with it."""
    release = threading.Event()

    class Slow(sqlite3.Connection):
        def close(self) -> None:
            release.wait(10)
            super().close()

    def connect(database: str, **options: Any) -> sqlite3.Connection:
        return sqlite3.connect(database, factory=Slow, **options)

    store = AsyncSessionStore(path, connect=connect)
    await store.open()
    try:
        await store.sessions.create("s")
        await store.aclose(timeout_s=0.01)
    finally:
        release.set()


@ON_FILES
def test_closing_while_a_reader_is_being_opened_leaves_nothing_to_complain(path: Path, monkeypatch):
    """A read was cancelled, the store closed and the loop ended before the reader failed to open: in silence."""
    complaints: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    entered, release = threading.Event(), threading.Event()

    def connect(database: str, **options: Any) -> sqlite3.Connection:
        if "mode=ro" in database:
            entered.set()
            release.wait(10)
            raise sqlite3.OperationalError("unable to open database file")
        return sqlite3.connect(database, **options)

    async def main() -> None:
        async with AsyncSessionStore(path, connect=connect) as store:
            reading = asyncio.create_task(store.sessions.get("s"))
            await asyncio.to_thread(entered.wait, 10)
            reading.cancel()

    before = threading.enumerate()
    asyncio.run(main())
    release.set()
    for thread in set(threading.enumerate()).difference(before):
        thread.join(10)
    assert complaints == []


# flush
async def test_flushed_means_committed(store: AsyncSessionStore, path: Path):
    """Another connection sees it, not only an empty queue."""
    await store.sessions.create("s")
    for n in range(100):
        store.messages.append_nowait("s", role="user", content=str(n))
    await store.flush()
    assert rows(path, "SELECT COUNT(*) FROM messages") == [(100,)]


# get_read_connection
async def test_a_reader_that_is_not_free_in_time_is_an_error_of_the_store(path: Path):
    """StoreBusy, and as soon as it is free the store reads on; writing was never held up."""
    async with AsyncSessionStore(path, limits=Limits(readers=1), timeouts=Timeouts(reader_wait_s=0.05)) as store:
        await store.sessions.create("s")
        async with long_read(store):
            with pytest.raises(StoreBusy):
                await store.sessions.get("s")
            await store.messages.append("s", role="user")
        assert (await session_of(store)).message_count == 1


async def test_every_bound_can_be_chosen_and_zero_is_refused():
    """No value falls back to another silently."""
    for name in Limits.__struct_fields__:
        assert getattr(Limits(**{name: 7}), name) == 7
        with pytest.raises(InvalidRecord, match=name):
            Limits(**{name: 0})
    for name in Timeouts.__struct_fields__:
        assert getattr(Timeouts(**{name: 0}), name) == 0


# -- how a gateway uses it -------------------------------------------------------------------------


async def test_a_key_leads_to_its_live_session(any_store: AsyncSessionStore):
    """The same one while it lives, however many ask at once; the next after idling, ending or a reset."""
    key = "agent:main:telegram:dm:42"
    found = await asyncio.gather(*(any_store.sessions.for_key(key, source="telegram") for _ in range(16)))
    first = found[0]
    assert {session.id for session in found} == {first.id}
    reset = await any_store.sessions.for_key(key, reset="new_chat")
    assert reset.id != first.id
    assert (await session_of(any_store, first.id)).end_reason == "new_chat"
    await any_store.messages.append(reset.id, role="user", created_at=datetime.now(UTC) - DAY)
    await any_store.sessions.create("idle", key="k", created_at=T0)
    fresh = await any_store.sessions.for_key("k", idle_s=3600)
    assert (await session_of(any_store, "idle")).end_reason == "idle"
    await any_store.sessions.end(fresh.id, "done")
    assert (await any_store.sessions.for_key("k")).id not in ("idle", fresh.id)
    assert [session.status async for session in any_store.sessions.stream(key=key)].count(Status.ACTIVE) == 1


async def test_the_next_session_of_a_key_needs_an_id_that_is_free(any_store: AsyncSessionStore):
    """As for create: SessionExists, and the live session stays."""
    await any_store.sessions.for_key("k", session_id="s")
    with pytest.raises(SessionExists, match="'s'"):
        await any_store.sessions.for_key("k", session_id="s", reset="new_chat")
    assert (await session_of(any_store)).status is Status.ACTIVE


async def test_routing_a_message_costs_no_more_with_many_chats(store: AsyncSessionStore):
    """An inbound message of a known chat writes nothing to be routed."""
    for n in range(60):
        await store.sessions.for_key(f"chat-{n}")
    await store.flush(index=True)
    before = await last_number(store)
    for n in range(60):
        await store.sessions.for_key(f"chat-{n}", idle_s=3600)
    assert await last_number(store) == before
    assert await store.sessions.count() == 60


async def test_a_platforms_message_that_comes_twice_is_one_row(chat: AsyncSessionStore):
    """Its id is the external id: a repetition answers as the first did."""
    first = await chat.messages.append("s", role="user", content="hi", external_id="tg:7")
    assert await chat.messages.append("s", role="user", content="hi", external_id="tg:7") == first
    assert await chat.messages.count("s") == 1


async def test_a_turn_of_a_tool_is_few_writes(chat: AsyncSessionStore):
    """A row brings its usage and what is pending: one call each, and none of them is lost."""
    await chat.messages.append("s", role="user", content="list files")
    await chat.messages.append(
        "s",
        role="assistant",
        tool_calls=[{"id": "c"}],
        round_index=1,
        usage={"prompt_tokens": 10},
        pending={"left": ["c"]},
    )
    await chat.messages.append("s", role="tool", tool_call_id="c", content="a b", pending=None)
    await chat.messages.append("s", role="assistant", content="a, b", round_index=2, usage={"prompt_tokens": 20})
    session, state = await session_of(chat), await chat.sessions.state("s")
    assert (session.message_count, session.tool_call_count, session.input_tokens) == (4, 1, 30)
    assert (state.next_seq, state.send_index, state.pending) == (5, 1, None)


# -- what tests of it relied on --------------------------------------------------------------------


@ON_FILES
async def test_the_file_is_in_wal_mode_with_foreign_keys_and_its_version(store: AsyncSessionStore):
    """And every connection of a store is opened so."""
    assert await store.write(_pragmas) == ("wal", 1)
    assert (await store.stats()).schema_version >= 1


def _pragmas():
    journal = yield one("PRAGMA journal_mode")
    keys = yield one("PRAGMA foreign_keys")
    return journal[0], keys[0]


async def test_opening_again_changes_no_row(path: Path):
    """Schema and rows are as they were, however often."""
    async with AsyncSessionStore(path) as store:
        await store.sessions.create("s", title="T")
        await store.messages.append("s", role="user", content="kept")
        before = await store.sessions.export("s")
    for _ in range(3):
        async with AsyncSessionStore(path) as store:
            assert await store.sessions.export("s") == before


# -- writing at once -------------------------------------------------------------------------------


def _orphan_found_at_commit():
    """A row that only COMMIT refuses."""
    yield execute("PRAGMA defer_foreign_keys = ON")
    (number,) = yield ids(1)
    yield execute(
        "INSERT INTO messages (id, session, seq, position, role, send_index, created_at)"
        " VALUES (:id, 999999, 1, 1, 'user', 0, 0)",
        id=number,
    )


@ON_SQLITE
async def test_a_commit_that_fails_is_told_to_all_whose_writes_were_in_it(any_store: AsyncSessionStore, hold):
    """Nobody is told "stored" before it is: none of the batch is there, and the store writes on."""
    await any_store.sessions.create("s")
    async with hold(any_store):
        tasks = [
            asyncio.create_task(each)
            for each in (
                any_store.messages.append("s", role="user", content="a"), any_store.write(_orphan_found_at_commit),
                any_store.messages.append("s", role="user", content="b"),
            )
        ]  # fmt: skip
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, StoreError) for each in outcomes), outcomes
    assert {each.stored for each in outcomes} == {False}
    assert await any_store.messages.count("s") == 0
    assert (await any_store.messages.append("s", role="user")).seq == 1


async def test_a_write_that_fails_leaves_nothing_and_its_batch_mates_commit(any_store: AsyncSessionStore, hold):
    """Its earlier statements are undone with it alone."""
    await any_store.sessions.create("s")
    await any_store.sessions.create("holder", title="Taken")

    def half(content: str):
        (number,) = yield ids(1)
        yield execute("UPDATE sessions SET source = :content WHERE id = 's'", content=content)
        raise ZeroDivisionError(number)

    async with hold(any_store):
        tasks = [
            asyncio.create_task(each)
            for each in (
                any_store.messages.append("s", role="user", content="a"), any_store.write(half, "half"),
                any_store.sessions.create("t", title="Taken"), any_store.messages.append("nobody", role="user"),
                any_store.messages.append("s", role="user", content="b"), any_store.sessions.create("u"),
            )
        ]  # fmt: skip
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes] == [
        MessageRef, ZeroDivisionError, TitleTaken, SessionNotFound, MessageRef, Session,
    ]  # fmt: skip
    assert (await session_of(any_store)).source == "unknown"
    assert await any_store.messages.count("s") == 2
    assert await any_store.sessions.get("t") is None


@pytest.mark.parametrize("event", ["UPDATE OF id ON sessions", "DELETE ON session_texts", "INSERT ON events"])
async def test_a_delete_that_fails_leaves_everything(store: AsyncSessionStore, event: str):
    """Wherever it fails: session, children and messages are as they were, and it can be repeated."""
    await store.sessions.create("s", system_prompt="p", title="T", key="k")
    await store.sessions.create("child", parent_id="s")
    await store.messages.append("s", role="user", content="x")
    before = [await store.sessions.export(id) for id in ("s", "child")]
    async with failing(store, event):
        with pytest.raises(StoreError) as failed:
            await store.sessions.delete("s")
        assert failed.value.stored is False
        assert [await store.sessions.export(id) for id in ("s", "child")] == before
        with pytest.raises(StoreError):
            await store.sessions.prune(idle_for=timedelta(0), include_active=True)
        assert [await store.sessions.export(id) for id in ("s", "child")] == before
    assert sorted(await store.sessions.delete("s")) == ["child", "s"]


async def test_a_lock_that_is_given_back_in_time_is_waited_for(path: Path):
    """By the writer, once for the batch: its callers neither retry nor fail; past the deadline all are told."""
    async with AsyncSessionStore(path) as store, AsyncSessionStore(path, timeouts=Timeouts(busy_s=0.05)) as hasty:
        await store.sessions.create("s")
        async with occupied(path):
            patient = [asyncio.create_task(store.messages.append("s", role="user")) for _ in range(8)]
            told = await asyncio.gather(
                *(hasty.messages.append("s", role="user") for _ in range(4)), return_exceptions=True
            )
            assert {(type(each), each.stored) for each in told} == {(StoreBusy, False)}
            assert not any(task.done() for task in patient)
        assert [ref.seq for ref in await asyncio.gather(*patient)] == list(range(1, 9))


async def test_one_caller_is_not_held_up_by_a_timer(memory: AsyncSessionStore):
    """A batch is what queued up meanwhile: 300 writes one after the other take nowhere near 300 waits."""
    await memory.sessions.create("s")
    async with asyncio.timeout(15):  # waiting 100 ms for each it would take 30 s
        for _ in range(300):
            await memory.messages.append("s", role="user", content="x")


async def test_writing_amid_a_stream_or_search_does_not_deadlock(any_store: AsyncSessionStore):
    """Nothing is held between two rows."""
    await any_store.sessions.create("s")
    await any_store.messages.append_many("s", [{"role": "user", "content": f"word {n}"} for n in range(300)])
    async with asyncio.timeout(60):
        async for message in any_store.messages.stream("s"):
            if message.seq <= 300:
                await any_store.sessions.set_round("s", message.seq)
        async for hit in any_store.search("word", limit=None):
            await any_store.sessions.set_pending("s", {"at": hit.seq})
    assert (await any_store.sessions.state("s")).pending is not None


async def test_the_queue_has_a_bound(path: Path, hold):
    """What may not wait is told, what may wait gets its turn."""
    async with AsyncSessionStore(path, limits=Limits(queue_operations=4)) as store:
        await store.sessions.create("s")
        async with hold(store):
            for _ in range(4):
                store.messages.append_nowait("s", role="user")
            with pytest.raises(QueueFull):
                store.messages.append_nowait("s", role="user")
            waiting = asyncio.create_task(store.messages.append("s", role="user"))
            await asyncio.sleep(0)
            assert not waiting.done()
        assert (await waiting).seq == 5


async def test_rows_that_were_never_indexed_can_be_deleted(store: AsyncSessionStore, eventually):
    """The index lacks them, the rest is found, and nothing is damaged."""
    for name in "ab":
        await store.sessions.create(name)
    await store.messages.append("b", role="user", content="word b")
    await store.flush(index=True)
    await asyncio.gather(
        store.messages.append_many("a", [{"role": "user", "content": "word a"}] * 50), store.sessions.delete("a")
    )
    assert [hit.session_id for hit in await hits(store, "word")] == ["b"]

    async def erased() -> bool:
        return (await store.query("SELECT COUNT(*) AS n FROM messages"))[0].n == 1

    await eventually(erased)
    assert (await store.stats()).index_state == "ready"
    assert (await store.check()).is_sound


async def test_a_store_can_be_opened_for_reading_beside_a_gateway(path: Path):
    """What it lacked: a context manager, reading only, a choice of durability."""
    async with AsyncSessionStore(path, durability=Durability.PROCESS) as store:
        await store.sessions.create("s")
        async with AsyncSessionStore(path, readonly=True) as reader:
            await store.messages.append("s", role="user", content="word")
            assert await reader.messages.conversation("s") == [{"role": "user", "content": "word"}]
            with pytest.raises(ReadOnly):
                await reader.sessions.end("s", "done")
