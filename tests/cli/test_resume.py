"""`recollect resume`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from recollect import AsyncSessionStore

from .conftest import START, Do, Run

STAGING = "258c7280-ae70-4798-800f-63464d01a85d"


def resumed(recollect: Run, key: str) -> str:
    """The id that is printed, alone."""
    ran = recollect("resume", key)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.count("\n") == 1
    return ran.out.strip()


@pytest.fixture(autouse=True)
def keyed(do: Do) -> None:
    """Two sessions of a key that ended, the older the last active; and titles with numbers."""

    async def grow(store: AsyncSessionStore) -> None:
        for at, id in enumerate(("tg-1", "tg-2")):
            await store.sessions.create(id, key="telegram:7", created_at=START + timedelta(hours=at))
            await store.sessions.end(id, "idle")
        await store.messages.append("tg-1", role="user", content="still there?", created_at=START + timedelta(days=1))
        for at, id in enumerate(("plan-1", "plan-2")):
            title = f"Plan #{at + 1}" if at else "Plan"
            await store.sessions.create(id, title=title, created_at=START + timedelta(hours=at))

    do(grow)


@pytest.mark.parametrize(
    ("key", "id"),
    [
        ("telegram:7", "tg-1"),
        (STAGING, STAGING),
        ("258c", STAGING),
        ("Staging", STAGING),
        ("Plan", "plan-2"),
        ("Plan #2", "plan-2"),
        ("chat-2", "chat-2"),
    ],
)
def test_each_kind_of_key(recollect: Run, key: str, id: str) -> None:
    """A gateway's key, an id, its beginning, a title or the latest of its numbered variants; in a pipe the
    id alone. It is active then."""
    assert resumed(recollect, key) == id
    assert recollect("show", id, "--json").json[0]["session"]["status"] == "active"


def test_a_key_means_its_live_session(recollect: Run, do: Do) -> None:
    """Whatever was active since; it is left as it is."""
    do(lambda store: store.sessions.create("tg-3", key="telegram:7", created_at=START))
    assert resumed(recollect, "telegram:7") == "tg-3"
    assert [line[2] for line in recollect("sessions", "--key", "telegram:7").lines] == ["ended", "ended", "active"]


def test_what_has_several_meanings(recollect: Run, do: Do) -> None:
    """Exactly a key goes before an id, and an id before a title."""

    async def grow(store: AsyncSessionStore) -> None:
        await store.sessions.create("x-key", key="tg-2", created_at=START)
        await store.sessions.create("x-title", title="chat-1")

    do(grow)
    assert resumed(recollect, "tg-2") == "x-key"
    assert resumed(recollect, "chat-1") == "chat-1"


def test_another_live_session_of_the_key_is_ended(recollect: Run, do: Do) -> None:
    """Of a key one is live."""
    do(lambda store: store.sessions.create("tg-3", key="telegram:7"))
    assert resumed(recollect, "tg-2") == "tg-2"
    ended = recollect("show", "tg-3", "--json").json[0]["session"]
    assert (ended["status"], ended["end_reason"]) == ("ended", "session_switch")


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("other", [False, True])
def test_an_archived_session_is_taken_back(recollect: Run, do: Do, ended: bool, other: bool) -> None:
    """Whether it had ended or not, and whether its key has another live session by now or not."""

    async def put_away(store: AsyncSessionStore) -> None:
        await store.sessions.create("tg-4", key="telegram:8")
        if ended:
            await store.sessions.end("tg-4", "done")
        await store.sessions.archive("tg-4")
        if other:
            await store.sessions.create("tg-5", key="telegram:8")

    do(put_away)
    assert resumed(recollect, "tg-4") == "tg-4"
    session = recollect("show", "tg-4", "--json").json[0]["session"]
    assert (session["status"], session["ended_at"], session["end_reason"]) == ("active", None, None)
    if other:
        assert recollect("show", "tg-5", "--json").json[0]["session"]["end_reason"] == "session_switch"


def test_it_goes_on_where_the_line_goes_on(recollect: Run, do: Do) -> None:
    """At the latest continuation, and what continues that; the one it was found by stays ended."""

    async def go_on(store: AsyncSessionStore) -> None:
        await store.sessions.create("chat-2b", parent_id="chat-2", relation="continuation")
        await store.sessions.create("chat-2c", parent_id="chat-2b", relation="continuation")
        await store.sessions.end("chat-2c", "done")

    do(go_on)
    assert resumed(recollect, "chat-2") == "chat-2c"
    assert recollect("show", "chat-2", "--json").json[0]["session"]["status"] == "ended"
    assert recollect("show", "chat-2c", "--json").json[0]["session"]["status"] == "active"


def test_programs_get_what_it_takes_to_go_on(recollect: Run, do: Do) -> None:
    """One object: the session, where the agent is, and the last messages."""

    async def work(store: AsyncSessionStore) -> None:
        await store.sessions.set_pending("chat-1", {"call": "c1"})
        await store.messages.append_many("chat-1", [{"role": "user", "content": str(n)} for n in range(30)])

    do(work)
    [got] = recollect("resume", "chat-1", "--json").json
    assert (got["session"]["id"], got["session"]["status"]) == ("chat-1", "active")
    assert (got["state"]["pending"], got["state"]["next_seq"]) == ({"call": "c1"}, 34)
    assert [message["text"] for message in got["messages"]] == [str(n) for n in range(10, 30)]


def test_a_terminal_gets_the_same_in_words(in_terminal: Run, do: Do) -> None:
    """The session, what is pending, the last messages; nothing in them steers it."""

    async def work(store: AsyncSessionStore) -> None:
        await store.sessions.set_pending("chat-2", {"call": "\x9b2J", "left": ["a", "b"]})
        await store.messages.append_many("chat-2", [{"role": "user", "content": f"word {n}"} for n in range(30)])

    do(work)
    shown = in_terminal("resume", "chat-2").out
    for text in ("chat-2", "telegram", "active", "pending", '"left": [', "11 earlier messages", "word 29"):
        assert text in shown
    assert "word 9\n" not in shown
    assert not set(shown) & set("\x9b\u202e\x07")
    assert "pending" not in in_terminal("resume", "chat-1").out


def test_nothing_of_that_name_is_an_error(recollect: Run) -> None:
    """None, or several ids that begin so; what there is stays as it was."""
    before = recollect("sessions").out
    for key in ("nope", "chat", ""):
        ran = recollect("resume", key)
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.startswith(f"recollect: nothing to resume by '{key}'")
    assert recollect("sessions").out == before
