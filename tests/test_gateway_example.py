"""The WebSocket gateway among the examples, with real clients over loopback, stopped and killed."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from recollect import AsyncSessionStore

EXAMPLES = Path(__file__).parent.parent / "examples"

PATIENCE_S = 10
"""how long what must come may take"""

NEVER = 3600.0
"""a pause during which the gateway is killed"""

SERVER = f"""
import asyncio, sys
sys.path.insert(0, {str(EXAMPLES)!r})
import websocket_gateway as gateway
gateway.TOKEN_S, gateway.TOOL_S, gateway.LEASE_S = float(sys.argv[2]), float(sys.argv[3]), 0.5
asyncio.run(gateway.main(sys.argv[1], 0))
"""


class Server:
    """A gateway in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process, self.url = process, url

    def chat(self, chat: str, user: str, **options: Any) -> AbstractAsyncContextManager[ClientConnection]:
        query = urlencode({"chat": chat, "user": user})
        return connect(f"{self.url}/chat?{query}", proxy=None, max_size=None, **options)

    def feed(self, **query: str) -> AbstractAsyncContextManager[ClientConnection]:
        return connect(f"{self.url}/feed?{urlencode(query)}", proxy=None, max_size=None)

    async def stop(self) -> None:
        """As a service manager does; nothing but its two lines may have been printed."""
        self.process.send_signal(signal.SIGTERM)
        out, err = await self.process.communicate()
        assert (self.process.returncode, out.decode().splitlines()[-1:], err.decode()) == (0, ["stopped"], "")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.communicate()


Start = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start(path: Path) -> AsyncIterator[Start]:
    """Starts a gateway on `path`; what still runs after the test is killed."""
    servers: list[Server] = []

    async def _start(*, token_s: float = 0.001, tool_s: float = 0.0) -> Server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", SERVER, path, str(token_s), str(tool_s),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout
        line = (await process.stdout.readline()).decode()
        servers.append(Server(process, line.removeprefix("listening on ").strip()))
        assert servers[-1].url, line
        return servers[-1]

    yield _start
    for server in servers:
        if server.process.returncode is None:
            await server.kill()


async def receive(ws: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        return json.loads(await ws.recv())


async def until(ws: ClientConnection, type: str) -> list[dict[str, Any]]:
    """What comes, up to the first of this type."""
    events = [await receive(ws)]
    while events[-1]["type"] != type:
        events.append(await receive(ws))
    return events


async def say(ws: ClientConnection, id: str, text: str) -> list[dict[str, Any]]:
    """Sends a message; what comes until it is answered."""
    await ws.send(json.dumps({"id": id, "text": text}))
    return await until(ws, "answer")


async def follow(ws: ClientConnection, is_last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Changes of a feed, up to one."""
    changes = [await receive(ws)]
    while not is_last(changes[-1]):
        changes.append(await receive(ws))
    return changes


def answers(count: int) -> Callable[[dict[str, Any]], bool]:
    """The event that tells of the last of so many answers."""
    left = iter(range(count - 1, -1, -1))
    return lambda change: change["kind"] == "agent" and change["event"]["action"] == "answer" and next(left) == 0


async def ids(path: Path) -> list[int]:
    """Of everything there is, in the order of commits."""
    async with AsyncSessionStore(path, readonly=True) as store:
        return [row.id for row in await store.query("SELECT id FROM messages UNION SELECT id FROM events ORDER BY id")]


async def transcript(path: Path, session_id: str) -> list[tuple[str, Any]]:
    async with AsyncSessionStore(path, readonly=True) as store:
        return [(message.role, message.content) for message in await store.messages.list(session_id)]


async def test_several_chats_are_answered_at_once(start: Start, path: Path) -> None:
    """Tokens come before the answer is done and make it up; the feed tells of every commit, in order; the
    loop's events but for the tokens, and what it cost, are in the store; a search finds the answers."""
    server = await start(token_s=0.01)

    async def talk(n: int) -> None:
        async with server.chat(f"chat-{n}", "ada") as ws:
            assert (await until(ws, "history"))[-1]["messages"] == []
            for at in range(3):
                accepted, *deltas, answer = await say(ws, f"m{at}", f"the word{n}x{at} of chat {n}")
                assert (accepted["type"], accepted["payload"]["id"]) == ("accepted", f"m{at}")
                assert {event["type"] for event in deltas} == {"stream_delta"}
                words = "".join(event["payload"]["text"] for event in deltas).strip()
                assert words == answer["payload"]["said"] == f"You said: the word{n}x{at} of chat {n}"
                assert answer["ts"] - deltas[0]["ts"] >= 0.05  # seconds between the first token and the whole

    async with server.feed(after="0") as feed:
        assert await receive(feed) == {"cursor": "0"}
        following = asyncio.create_task(follow(feed, answers(18)))
        await asyncio.gather(*map(talk, range(6)))
        changes = await following
    await server.stop()

    seen = [change["id"] for change in changes]
    assert seen == [id for id in await ids(path) if id <= seen[-1]]
    kinds = [change["kind"] for change in changes]
    assert (kinds.count("store.created"), kinds.count("message")) == (6, 36)
    async with AsyncSessionStore(path) as store:
        events = [event async for event in store.events.stream(kind="agent")]
        assert [event.action for event in events].count("answer") == 18
        assert {event.action for event in events} == {"accepted", "answer"}
        hits = [hit async for hit in store.search("word4x2", kinds="message", role="assistant")]
        assert [hit.snippet for hit in hits] == ["You said: the >>>word4x2<<< of chat 4"]
        (total,) = await store.usage.totals(by="model")
        assert (total.group, total.rounds) == ("echo-1", 18)
        assert total.completion_tokens > 18 * 5
        assert not (await store.check()).problems


async def test_messages_of_a_chat_never_interleave(start: Start, path: Path) -> None:
    """Sent at once from two devices, with a tool call among them: each is answered before the next is
    taken in; both devices see all of it."""
    server = await start(tool_s=0.02)
    async with server.chat("c", "ada") as one, server.chat("c", "ada") as two:
        session = (await until(one, "history"))[-1]["session_id"]
        assert (await until(two, "history"))[-1]["session_id"] == session
        for ws, id, text in ((one, "1", "the first"), (two, "2", "recall first"), (one, "3", "the third")):
            await ws.send(json.dumps({"id": id, "text": text}))
        for ws in (one, two):
            told = [event for _ in range(3) for event in await until(ws, "answer")]
            assert sum(event["type"] == "tool_call_completed" for event in told) == 1
    await server.stop()

    rounds: list[list[str]] = []
    said = await transcript(path, session)
    for role, content in said:
        rounds += [[content]] if role == "user" else []
        rounds[-1].append(role)
    assert [round_ for round_ in rounds if round_[0] != "recall first"] == [
        [text, "user", "assistant"] for text in ("the first", "the third")
    ]
    assert ["recall first", "user", "assistant", "tool", "assistant"] in rounds


@pytest.mark.parametrize("place", ["answer", "tool"])
async def test_killed_in_mid_answer_it_goes_on(start: Start, path: Path, place: str) -> None:
    """The client sends again what it does not know to be taken in; nothing is lost or doubled, a pending
    tool call is made, and the feed goes on behind its cursor without a gap or a repetition."""
    text = "recall moons" if place == "tool" else "how many moons are there"
    dying = await start(token_s=NEVER, tool_s=NEVER) if place == "answer" else await start(tool_s=NEVER)
    async with dying.feed(after="0") as feed, dying.chat("c", "ada") as ws:
        begun = await until(ws, "history")
        session = begun[-1]["session_id"]
        await receive(feed)
        if place == "tool":
            await say(ws, "m0", "the moons are two")
        await ws.send(json.dumps({"id": "m1", "text": text}))
        await until(ws, "tool_call_started" if place == "tool" else "stream_delta")
        last = "assistant" if place == "tool" else "user"
        calls = bool(place == "tool")
        seen = await follow(feed, lambda change: (message := change["message"]) is not None and message["role"] == last
                            and bool(message["tool_calls"]) == calls)  # fmt: skip
        await dying.kill()
        with pytest.raises(ConnectionClosed):
            await until(ws, "answer")
    assert (await transcript(path, session))[-1] == ("assistant", None) if calls else ("user", text)

    server = await start()
    async with server.feed(after=seen[-1]["cursor"]) as feed, server.chat("c", "ada") as ws:
        history = (await until(ws, "history"))[-1]["messages"]
        if history[-1]["role"] != "assistant" or history[-1]["content"] is None:
            await until(ws, "answer")  # nobody asked again
        await ws.send(json.dumps({"id": "m1", "text": text}))
        (accepted,) = await until(ws, "accepted")
        assert accepted["payload"]["id"] == "m1"
        await say(ws, "m2", "thank you")
        assert await receive(feed) == {"cursor": seen[-1]["cursor"]}
        seen += await follow(feed, lambda change: "thank you" in json.dumps(change) and answers(1)(change))
    await server.stop()

    expected = {
        "answer": [("user", text), ("assistant", f"You said: {text}")],
        "tool": [
            ("user", "the moons are two"), ("assistant", "You said: the moons are two"), ("user", text),
            ("assistant", None), ("tool", "the >>>moons<<< are two"),
            ("assistant", "You once said: the >>>moons<<< are two"),
        ],
    }  # fmt: skip
    thanks = [("user", "thank you"), ("assistant", "You said: thank you")]
    assert await transcript(path, session) == [*expected[place], *thanks]
    cursors = [change["id"] for change in seen]
    assert cursors == [id for id in await ids(path) if id <= cursors[-1]]
    async with AsyncSessionStore(path) as store:
        hits = [hit async for hit in store.search("moons", role="assistant", order="newest", limit=1)]
        assert [hit.seq for hit in hits] == [len(expected[place])]
        state = await store.sessions.state(session)
        assert state is not None
        assert not state.pending
        assert not (await store.check()).problems


async def test_what_was_left_is_done_without_anybody_asking(start: Start, path: Path) -> None:
    """After a restart, also in chats whose clients do not come back."""
    dying = await start(token_s=NEVER)
    async with dying.chat("c", "ada") as ws:
        session = (await until(ws, "history"))[-1]["session_id"]
        await ws.send(json.dumps({"id": "m1", "text": "hello"}))
        await until(ws, "stream_delta")
        await dying.kill()
    server = await start()
    async with server.feed(after="0") as feed:
        await receive(feed)
        await follow(feed, answers(1))
    await server.stop()
    assert await transcript(path, session) == [("user", "hello"), ("assistant", "You said: hello")]


async def test_stopped_it_finishes_the_answers_at_hand(start: Start, path: Path) -> None:
    """The client's connection is closed at once; answer and events are stored before the process ends."""
    server = await start(token_s=0.02)
    async with server.chat("c", "ada") as ws:
        session = (await until(ws, "history"))[-1]["session_id"]
        await ws.send(json.dumps({"id": "m1", "text": "a word or two"}))
        await until(ws, "stream_delta")
        await server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            await until(ws, "answer")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    assert (await transcript(path, session))[-1] == ("assistant", "You said: a word or two")
    async with AsyncSessionStore(path) as store:
        assert [event.action for event in await store.events.recent("agent")] == ["answer", "accepted"]


async def test_nonsense_is_answered_and_harms_nobody(start: Start) -> None:
    """What is no message gets an error, and the connection goes on; wrong addresses and cursors, and a chat
    of somebody else's, are refused with a reason."""
    server = await start()
    async with server.chat("c", "ada") as ws:
        await until(ws, "history")
        for nonsense in (
            "{",
            "[]",
            '{"id": 7, "text": "x"}',
            '{"id": "m"}',
            b"\xff\xfe",
            '{"id": "a\\u0000", "text": ""}',
        ):
            await ws.send(nonsense)
            (error,) = await until(ws, "error")
            assert error["payload"]["message"]
        assert (await say(ws, "m1", "still here"))[-1]["payload"]["said"] == "You said: still here"

        for refused in (
            server.chat("c", "bob"), server.feed(after="yesterday"), connect(f"{server.url}/elsewhere", proxy=None)
        ):  # fmt: skip
            async with refused as other:
                with pytest.raises(ConnectionClosed) as closed:
                    await other.recv()
                assert closed.value.rcvd is not None
                assert (closed.value.rcvd.code, bool(closed.value.rcvd.reason)) == (1008, True)
        async with server.feed(user="bob", after="0") as feed:
            await receive(feed)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await feed.recv()  # nothing of Ada's
    server.process.send_signal(signal.SIGTERM)
    _, err = await server.process.communicate()
    assert server.process.returncode == 0
    assert err.decode().count("no answer in") == 1  # the id with a NUL, which the store refuses


async def test_a_slow_feed_holds_up_nobody(start: Start, path: Path) -> None:
    """A client that reads nothing, while much more is said than buffers hold: chats are answered all the same,
    and when it reads, it has missed nothing."""
    server = await start()
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    host, port = server.url.removeprefix("ws://").split(":")
    slow.connect((host, int(port)))
    slow.setblocking(False)
    async with connect(
        f"{server.url}/feed?after=0", sock=slow, proxy=None, compression=None, max_size=None, max_queue=1
    ) as feed:
        async with server.chat("c", "ada") as ws:
            await until(ws, "history")
            for n in range(8):
                await say(ws, f"m{n}", f"{n}" * 400_000)
        await receive(feed)
        seen = [change["id"] for change in await follow(feed, answers(8))]
    await server.stop()
    assert seen == [id for id in await ids(path) if id <= seen[-1]]
