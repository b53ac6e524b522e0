"""Record a session, then find what was said in it. Leaves `sessions.db` in the current folder."""

import asyncio

from recollect import AsyncSessionStore


async def main() -> None:
    async with AsyncSessionStore("sessions.db") as store:
        session = await store.sessions.create(source="quickstart", user_id="ada")
        await store.messages.append(session.id, role="user", content="Why does the deploy to staging fail?")
        await store.messages.append(
            session.id,
            role="assistant",
            content="The health check in deploy.yml waits for port 8080, and the service listens on 8000.",
            usage={"prompt_tokens": 1_250, "completion_tokens": 31, "model": "m-1"},
        )
        async for hit in store.search("deploy.yml OR staging", user_id="ada", limit=5):
            print(f"{hit.role}: {hit.snippet}")


asyncio.run(main())
