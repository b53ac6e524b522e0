"""An agent loop that can be interrupted anywhere and goes on where it was, and that recalls earlier sessions.

The model is a stand-in: a script that answers the way a language model would, so that this runs anywhere
and always the same. Everything else is real: the tools run, and the store is a file that is closed and
opened again, as by a new process.
"""

import ast
import asyncio
import operator
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from recollect import AsyncSessionStore

# -- the model: scripted, in place of a call to a provider -----------------------------------------


def scripted_model(conversation: list[dict]) -> dict:
    """The next answer, from the conversation alone, as a language model has nothing else either."""
    asked = max(at for at, message in enumerate(conversation) if message["role"] == "user")
    results = [message["content"] for message in conversation[asked:] if message["role"] == "tool"]
    if "earlier" in conversation[asked]["content"]:
        return answer(f"You asked before, and I found: {results[0]}") if results else ask(recall="lines notes")
    match results:
        case []:
            return ask(list_files="*.txt")
        case [names]:
            return ask(*[("count_lines", name) for name in names.split()])
        case [_, *counts] if len(counts) == len(results[0].split()):
            return ask(calculate=" + ".join(counts))
        case [*_, total]:
            return answer(f"The notes have {total} lines in all.")


def answer(content: str) -> dict:
    return {"content": content, "tool_calls": []}


def ask(*calls: tuple[str, str], **more: str) -> dict:
    return {"content": None, "tool_calls": [{"name": n, "argument": a} for n, a in (*calls, *more.items())]}


# -- the tools: real -------------------------------------------------------------------------------

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculate(expression: str) -> str:
    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
        raise ValueError(f"not arithmetic: {ast.unparse(node)}")

    return str(value(ast.parse(expression, mode="eval").body))


class Tools:
    def __init__(self, folder: Path, store: AsyncSessionStore, session_id: str) -> None:
        self.folder, self.store, self.session_id = folder, store, session_id

    async def run(self, name: str, argument: str) -> str:
        match name:
            case "list_files":
                return " ".join(sorted(path.name for path in self.folder.glob(argument)))
            case "count_lines":
                return str(len((self.folder / Path(argument).name).read_text().splitlines()))
            case "calculate":
                return calculate(argument)
            case "recall":
                return await self.recall(argument)
        return f"there is no tool {name!r}"

    async def recall(self, query: str) -> str:
        """What was said in other sessions, best match first."""
        async for hit in self.store.search(query, role="assistant", marks=("", "")):
            if hit.session_id != self.session_id:
                return hit.snippet
        return "nothing"


# -- the agent -------------------------------------------------------------------------------------


class Interrupted(Exception):
    """The process is gone, for what the store can know."""


class Agent:
    def __init__(self, store: AsyncSessionStore, session_id: str, folder: Path, die_at: str | None = None) -> None:
        self.store, self.session_id, self.die_at = store, session_id, die_at
        self.tools = Tools(folder, store, session_id)

    async def run(self) -> None:
        """Works until the model asks for nothing more. Begins with what an earlier run left undone."""
        todo = await self.pending()
        if todo:
            print(f"           (resuming: {len(todo)} tool call(s) were asked for and not answered)")
        while todo or (todo := await self.think()):
            while todo:
                call, *todo = todo
                await self.act(call, todo)

    async def pending(self) -> list[dict]:
        state = await self.store.sessions.state(self.session_id)
        return (state and state.pending) or []

    async def think(self) -> list[dict]:
        """Asks the model and records what it says; its calls are pending from the same commit on."""
        conversation = await self.store.messages.conversation(self.session_id)
        if conversation[-1]["role"] == "assistant":
            return []  # an earlier run had finished
        said = scripted_model(list(conversation))
        position = len(conversation)
        calls = [{"id": f"call-{position}-{n}", **call} for n, call in enumerate(said["tool_calls"])]
        await self.store.messages.append(
            self.session_id,
            role="assistant",
            content=said["content"],
            tool_calls=calls or None,
            external_id=f"assistant-{position}",
            round_index=position,
            pending=calls,
            usage={"prompt_tokens": len(str(conversation)) // 4, "completion_tokens": len(str(said)) // 4},
        )
        for call in calls:
            print(f"assistant  → {call['name']}({call['argument']!r})")
        if said["content"]:
            print(f"assistant  {said['content']}")
        return calls

    async def act(self, call: dict, rest: list[dict]) -> None:
        """Runs a tool and records the result: the row and what is left to do are one commit.

        Interrupted between the two, the tool runs again; recorded again, the call's id makes it the
        same row.
        """
        if call["name"] == self.die_at:
            raise Interrupted
        result = await self.tools.run(call["name"], call["argument"])
        await self.store.messages.append(
            self.session_id,
            role="tool",
            name=call["name"],
            content=result,
            tool_call_id=call["id"],
            external_id=call["id"],
            pending=rest,
        )
        print(f"tool       {call['name']}: {result}")


# -- three runs of it ------------------------------------------------------------------------------


@asynccontextmanager
async def new_process(folder: Path, title: str) -> AsyncIterator[AsyncSessionStore]:
    print(f"\n--- {title}")
    async with AsyncSessionStore(folder / "agent.db") as store:
        yield store


async def begin(store: AsyncSessionStore, question: str) -> str:
    session = await store.sessions.create(source="agent-loop", user_id="ada", model="scripted")
    await store.messages.append(session.id, role="user", content=question)
    print(f"user       {question}")
    return session.id


async def main(folder: Path) -> None:
    for name, lines in {"monday.txt": 12, "tuesday.txt": 30}.items():
        (folder / name).write_text("a note\n" * lines)

    async with new_process(folder, "a first run, interrupted before a tool call") as store:
        session_id = await begin(store, "How many lines do my notes have?")
        try:
            await Agent(store, session_id, folder, die_at="calculate").run()
        except Interrupted:
            print("           (interrupted)")

    async with new_process(folder, "a second run goes on with the same session") as store:
        await Agent(store, session_id, folder).run()
        session = await store.sessions.get(session_id)
        assert session is not None
        print(f"           ({session.message_count} messages, {session.tool_call_count} tool calls,", end=" ")
        print(f"{session.input_tokens} tokens in, {session.output_tokens} out)")

    async with new_process(folder, "a third run, in a new session, recalls the first") as store:
        await Agent(store, await begin(store, "What did you tell me earlier about my notes?"), folder).run()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(Path(scratch)))
