"""A chat gateway: several chats at once, served by two workers, each with a store of its own on one file.

The model is a stand-in and the platform a list of messages, so that this runs anywhere and always the
same. Everything else is real: whoever gets a message finds the live session of its chat, takes the turn,
or waits for the worker that has it.
"""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from recollect import AsyncSessionStore, SequenceConflict, Session, Turn, TurnTaken

# -- the platform and the model: scripted ----------------------------------------------------------


class Inbound(NamedTuple):
    id: str
    chat: str
    user: str
    text: str


YESTERDAY = [
    Inbound("m1", "dm:ada", "ada", "Remind me: the invoice is due on Friday."),
    Inbound("m2", "dm:bob", "bob", "My invoice number is 1722."),
]
TODAY = [
    [
        Inbound("m3", "dm:ada", "ada", "Good morning!"),
        Inbound("m4", "group:7:ada", "ada", "Who brings the cake?"),
        Inbound("m4", "group:7:ada", "ada", "Who brings the cake?"),  # platforms deliver twice at times
        Inbound("m5", "dm:bob", "bob", "Is it raining?"),
    ],
    [Inbound("m6", "dm:bob", "bob", "And tomorrow?")],
    [Inbound("m7", "dm:bob", "bob", "Call me at six."), Inbound("m8", "dm:bob", "bob", "No, at seven.")],
]


async def model(conversation: list[dict]) -> tuple[str, dict]:
    """An answer to all that was not answered yet, and what it cost."""
    await asyncio.sleep(0.01)
    answered = max([at for at, turn in enumerate(conversation) if turn["role"] == "assistant"], default=-1)
    asked = [turn["content"] for turn in conversation[answered + 1 :] if turn["role"] == "user"]
    usage = {"prompt_tokens": len(str(conversation)) // 4, "completion_tokens": 12, "model": "scripted"}
    return f"You said: {' '.join(asked)}", usage


def summary(conversation: list[dict]) -> str:
    return f"Earlier, the user said {sum(turn['role'] == 'user' for turn in conversation)} things."


# -- the gateway -----------------------------------------------------------------------------------

IDLE_S = 12 * 3600
LONG, KEPT = 6, 3


class Worker:
    def __init__(self, name: str, store: AsyncSessionStore) -> None:
        self.name, self.store = name, store

    async def receive(self, inbound: Inbound) -> None:
        """Records a message in the live session of its chat, which is a new one where that was idle for
        long; then sees to it that it is answered, once, by this worker or another."""
        session = await self.store.sessions.for_key(
            f"agent:main:{inbound.chat}", idle_s=IDLE_S, source="telegram", user_id=inbound.user
        )
        await self.store.messages.append(session.id, role="user", content=inbound.text, external_id=inbound.id)
        while True:
            try:
                async with self.store.sessions.turn(session.id, holder=self.name) as turn:
                    return await self.answer(session.id, turn)
            except TurnTaken:  # somebody is at it, and may have seen this message or not
                await asyncio.sleep(0.01)

    async def answer(self, session_id: str, turn: Turn) -> None:
        """Answers what is not answered yet. Whatever is written has the fence of the turn: a worker that
        has lost it writes nothing more."""
        messages = self.store.messages
        while True:
            state = await self.store.sessions.state(session_id)
            conversation = list(await messages.conversation(session_id))
            if state is None or conversation[-1]["role"] == "assistant":
                break
            said, usage = await model(conversation)
            try:
                await messages.append(
                    session_id,
                    role="assistant",
                    content=said,
                    usage=usage,
                    fence=turn.fence,
                    expected_seq=state.next_seq,
                )
            except SequenceConflict:  # more was said meanwhile: think again
                await self.store.usage.add(session_id, **usage)  # this was paid for all the same
        await self.shorten(session_id, turn)

    async def shorten(self, session_id: str, turn: Turn) -> None:
        """Puts the older part of a long conversation away under a note."""
        transcript = list(await self.store.messages.list(session_id))
        if len(transcript) > LONG:
            note = summary(list(await self.store.messages.conversation(session_id))[:-KEPT])
            older = [message.seq for message in transcript[:-KEPT]]
            await self.store.messages.compact(session_id, note=note, seqs=older, fence=turn.fence)


# -- two days of it -----------------------------------------------------------------------------------


async def remember(store: AsyncSessionStore, inbox: list[Inbound]) -> None:
    """What was said a day ago, and answered then."""
    at = datetime.now(UTC) - timedelta(days=1)
    for id, chat, user, text in inbox:
        session = await store.sessions.for_key(f"agent:main:{chat}", source="telegram", user_id=user, created_at=at)
        said = [{"role": "user", "content": text, "external_id": id}, {"role": "assistant", "content": "I will."}]
        await store.messages.append_many(session.id, [{**each, "created_at": at} for each in said])


async def deliver(workers: list[Worker], inbox: list[Inbound]) -> None:
    """All at once, the workers in turn."""
    await asyncio.gather(*[workers[n % len(workers)].receive(inbound) for n, inbound in enumerate(inbox)])


async def show(store: AsyncSessionStore, session: Session) -> None:
    ended = f", ended: {session.end_reason}" if session.end_reason else ""
    print(f"\n--- {session.key} ({session.message_count} in the transcript{ended})")
    for turn in await store.messages.conversation(session.id):
        print(f"{turn['role']:10} {turn['content']}")


async def main(folder: Path) -> None:
    async with AsyncSessionStore(folder / "chats.db") as first, AsyncSessionStore(folder / "chats.db") as second:
        workers = [Worker("worker-1", first), Worker("worker-2", second)]
        await remember(first, YESTERDAY)
        for wave in TODAY:
            await deliver(workers, wave)

        for key in ("agent:main:dm:ada", "agent:main:dm:bob", "agent:main:group:7:ada"):
            for session in reversed((await first.sessions.list(key=key, order="created")).items):
                await show(first, session)

        print("\n--- usage")
        for total in await first.usage.totals(by="model"):
            print(f"{total.group}: {total.prompt_tokens} tokens in, {total.completion_tokens} out")

        print("\n--- what ada finds of 'invoice'")
        async for hit in first.scoped(user_id="ada").search("invoice", role="user"):
            print(f"{hit.role}: {hit.snippet}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(Path(scratch)))
