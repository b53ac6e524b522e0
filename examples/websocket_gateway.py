"""A chat gateway on WebSockets: several chats at once, streamed answers, tool calls, a live feed, and a
restart, even after `kill -9`, that loses and doubles nothing.

    pip install 'recollect[examples]'
    python examples/websocket_gateway.py [--db PATH] [--port N]

`/chat?chat=KEY&user=NAME` is a chat. It begins with `{"type": "history", …}`. A client sends
`{"id": "m1", "text": "…"}`, and again after a reconnect if it has not seen `accepted` with that id: twice
is once. It gets the events of the answer as they happen: `accepted`, `stream_delta`, `tool_call_started`,
`tool_call_completed`, `answer`; or `error`.

`/feed?user=NAME&after=CURSOR` tells a sidebar what is committed: sessions, messages, events; without a user,
everybody's. Every line has a cursor, to go on behind it next time.

The model is a stand-in that answers at once and always the same. Who a user is, is believed: put your
login into `connect`.
"""

import argparse
import asyncio
import logging
import os
import signal
import time
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from recollect import AsyncSessionStore, EventBus, EventTransport, Session, State, StoreError, Subscription, TurnTaken

log = logging.getLogger("gateway")

SOURCE = "websocket"
HISTORY = 200
"""messages that a client gets when it connects"""
LEASE_S = 5.0
"""after a crash, so long nobody else can have the turn"""
GRACE_S = 5.0
"""for the answers at hand when the gateway is stopped; the rest is done after the next start"""

# -- the model and its tool: your own go here -----------------------------------------------------

TOKEN_S = 0.005
TOOL_S = 0.01


async def model(conversation: list[dict]) -> AsyncIterator[str | dict]:
    """Tokens as they come, and the tools it wants to be called."""
    role, content = conversation[-1]["role"], conversation[-1]["content"]
    if role == "user" and content.startswith("recall "):
        yield {"name": "recall", "input": {"query": content.removeprefix("recall ")}}
        return
    for word in f"You {'once ' if role == 'tool' else ''}said: {content}".split():
        yield f"{word} "
        await asyncio.sleep(TOKEN_S)


async def recall(store: AsyncSessionStore, user: str, query: str) -> str:
    """The first time this user said something like it, in whichever chat."""
    await asyncio.sleep(TOOL_S)
    hits = store.scoped(user_id=user).search(query, kinds="message", role="user", order="oldest", limit=1)
    return " ".join([hit.snippet async for hit in hits]) or "nothing"


# -- the agent -------------------------------------------------------------------------------------


class Inbound(msgspec.Struct):
    """What a client sends."""

    id: str
    text: str


class Chat:
    """A session as far as this process works on it: its bus tells whoever is connected."""

    def __init__(self, session: Session) -> None:
        self.id, self.user = session.id, session.user_id or ""
        self.bus = EventBus()
        self.lock = asyncio.Lock()


class Agent:
    """Answers, one message of a chat after another; begins again wherever an earlier process was stopped."""

    def __init__(self, store: AsyncSessionStore, transport: EventTransport) -> None:
        self.store, self.transport = store, transport
        self.name = f"gateway-{os.getpid()}"

    def emit(self, chat: Chat, type: str, **payload: Any) -> None:
        """Tells the clients, and the store: the transport leaves tokens out."""
        event = {"type": type, "ts": time.time(), "session_id": chat.id, "payload": payload}
        chat.bus.publish(event)
        self.transport.publish(event)

    async def answer(self, chat: Chat, inbound: Inbound | None = None) -> None:
        """Takes a message in and answers it, after what was left unanswered before."""
        try:
            async with self.turn(chat) as fence:
                await self.finish(chat, fence)
                if inbound is not None:
                    new = {"role": "user", "content": inbound.text, "external_id": f"in:{inbound.id}"}
                    ref = await self.store.messages.append(chat.id, **new, fence=fence)
                    self.emit(chat, "accepted", id=inbound.id, seq=ref.seq, said=inbound.text)
                    await self.finish(chat, fence)
        except Exception as error:  # a model or a tool may fail in any way: the chat goes on
            log.exception("no answer in %s", chat.id)
            self.emit(chat, "error", id=inbound and inbound.id, message=f"not answered: {error}")

    @asynccontextmanager
    async def turn(self, chat: Chat) -> AsyncIterator[int]:
        """The turn of the chat, first come, first served in this process; the fence for what is written in it."""
        async with chat.lock, AsyncExitStack() as stack:
            while True:
                lease = self.store.sessions.turn(chat.id, holder=self.name, ttl_s=LEASE_S)
                with suppress(TurnTaken):  # another process is at it, or was until it died
                    turn = await stack.enter_async_context(lease)
                    break
                await asyncio.sleep(0.1)
            yield turn.fence

    async def unfinished(self, chat: Chat) -> State | None:
        """Where the agent is, if there is something left to do."""
        state, last = await self.store.sessions.state(chat.id), await self.store.messages.tail(chat.id, 1)
        is_done = state is None or not last or (last[0].role == "assistant" and not state.pending)
        return None if is_done else state

    async def finish(self, chat: Chat, fence: int) -> None:
        """Calls tools and the model until nothing is left to do."""
        while state := await self.unfinished(chat):
            if state.pending:
                call, *rest = state.pending
                await self.act(chat, fence, call, rest)
            else:
                await self.think(chat, fence, state.next_seq)

    async def think(self, chat: Chat, fence: int, number: int) -> None:
        """A round of the model: what it said, what it wants done and what it cost are one commit."""
        conversation = list(await self.store.messages.conversation(chat.id))
        said, calls = "", []
        async for part in model(conversation):
            if isinstance(part, str):
                said += part
                self.emit(chat, "stream_delta", text=part)
            else:
                calls.append({"id": f"call-{number}-{len(calls)}", **part})
        usage = {"prompt_tokens": len(str(conversation)) // 4, "completion_tokens": 1 + len(said) // 4}
        new = {"role": "assistant", "content": said.strip() or None, "tool_calls": calls or None, "pending": calls}
        ref = await self.store.messages.append(
            chat.id, **new, usage={**usage, "model": "echo-1"}, round_index=number, fence=fence
        )
        if not calls:
            self.emit(chat, "answer", seq=ref.seq, said=said.strip(), usage=usage)

    async def act(self, chat: Chat, fence: int, call: dict, rest: list[dict]) -> None:
        """Runs a tool. Its result and what is left to do are one commit; stopped before that, it runs again."""
        about = {"name": call["name"], "tool_use_id": call["id"], "tool_input": call["input"]}
        self.emit(chat, "tool_call_started", **about)
        output = await recall(self.store, chat.user, **call["input"])
        new = {"role": "tool", "name": call["name"], "content": output, "tool_call_id": call["id"]}
        await self.store.messages.append(chat.id, **new, external_id=call["id"], pending=rest, fence=fence)
        self.emit(chat, "tool_call_completed", **about, output=output)


# -- the gateway -----------------------------------------------------------------------------------


class Gateway:
    """Connections in front of the agent. Answers are the gateway's: they go on when a client has left."""

    def __init__(self, store: AsyncSessionStore, transport: EventTransport) -> None:
        self.store, self.agent = store, Agent(store, transport)
        self.chats: weakref.WeakValueDictionary[str, Chat] = weakref.WeakValueDictionary()
        self.work: set[asyncio.Task[None]] = set()

    def chat_of(self, session: Session) -> Chat:
        chat = self.chats.get(session.id) or Chat(session)
        return self.chats.setdefault(session.id, chat)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.work.add(task)
        task.add_done_callback(self.work.discard)
        return task

    async def resume(self) -> None:
        """Answers what an earlier process left unanswered."""
        since = datetime.now(UTC) - timedelta(days=1)
        async for session in self.store.sessions.stream(source=SOURCE, status="active", since=since):
            chat = self.chat_of(session)
            if await self.agent.unfinished(chat):
                self.start(self.agent.answer(chat))

    async def aclose(self) -> None:
        """Waits a while for the answers at hand, then stops them."""
        if self.work:
            _, late = await asyncio.wait(self.work, timeout=GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def connect(self, ws: ServerConnection) -> None:
        """A connection, from its beginning to its end."""
        assert ws.request is not None
        url = urlsplit(ws.request.path)
        query = dict(parse_qsl(url.query))
        try:
            match url.path, query:
                case "/chat", {"chat": key, "user": user}:
                    await self.converse(ws, key, user)
                case "/feed", _:
                    await self.feed(ws, query.get("user"), query.get("after"))
                case _:
                    await ws.close(1008, "connect to /chat?chat=…&user=…, or to /feed")
        except* ConnectionClosed:
            pass
        except* StoreError as errors:  # another's chat, an invalid cursor, a store that fails
            await ws.close(1008, str(errors.exceptions[0]).encode()[:120].decode(errors="ignore"))

    async def converse(self, ws: ServerConnection, key: str, user: str) -> None:
        session = await self.store.scoped(user_id=user).sessions.for_key(f"{SOURCE}:{key}", source=SOURCE)
        chat = self.chat_of(session)
        async with chat.bus.subscribe() as events:  # first, so that nothing is missed after the history
            latest = await self.store.messages.tail(chat.id, HISTORY)
            messages = [{"seq": each.seq, "role": each.role, "content": each.content} for each in latest]
            await send(ws, {"type": "history", "session_id": chat.id, "messages": messages})
            if await self.agent.unfinished(chat):
                self.start(self.agent.answer(chat))
            await until_closed(ws, self.listen(ws, chat), self.tell(ws, events))

    async def listen(self, ws: ServerConnection, chat: Chat) -> None:
        """One message after another: those not taken in yet wait in the connection."""
        async for raw in ws:
            try:
                inbound = msgspec.json.decode(raw, type=Inbound)
            except msgspec.MsgspecError as error:
                await send(ws, {"type": "error", "payload": {"message": f"not a message: {error}"}})
            else:
                await asyncio.wait([self.start(self.agent.answer(chat, inbound))])

    async def tell(self, ws: ServerConnection, events: Subscription) -> None:
        async for event in events:
            if events.dropped:
                await ws.close(1013, "too slow: connect again, and read the history")
            await send(ws, event)

    async def feed(self, ws: ServerConnection, user: str | None, after: str | None) -> None:
        view = self.store.scoped(user_id=user) if user else self.store
        async with view.watch(after=after) as changes:
            await send(ws, {"cursor": changes.cursor})
            await until_closed(ws, self.follow(ws, changes))

    async def follow(self, ws: ServerConnection, changes: AsyncIterable[Any]) -> None:
        async for change in changes:  # who is slow waits here, alone; the store has what he missed
            await send(ws, change)


async def send(ws: ServerConnection, message: Any) -> None:
    await ws.send(msgspec.json.encode(message), text=True)


async def until_closed(ws: ServerConnection, *work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        await ws.wait_closed()
        for task in tasks:
            task.cancel()


async def main(db: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncSessionStore(db) as store, store.transport() as transport:
        gateway = Gateway(store, transport)
        # browsers say where their page comes from: list your own beside None, which is everybody else
        async with serve(gateway.connect, "127.0.0.1", port, origins=[None]) as server:
            print(f"listening on ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
            await gateway.resume()
            await stop.wait()
        await gateway.aclose()
    print("stopped", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a chat gateway")
    parser.add_argument("--db", default="gateway.db", metavar="PATH")
    parser.add_argument("--port", default=8765, type=int, metavar="N", help="0: any that is free")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(given.db, given.port))
