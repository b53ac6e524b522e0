"""Events as others emit them become events that can be found: of loops and issues (a sample that their own engine
emitted, see data/loops), of an agent loop (run here), and of anybody else, whatever they are."""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import power_loop
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from power_loop.contracts import event_payloads
from power_loop.contracts.events import AgentEvent, AgentEventType
from power_loop.contracts.tools import ToolDefinition
from power_loop.core.events import AgentEventBus

from recollect import AsyncSessionStore, Event, InvalidRecord, args_hash, map_event
from recollect.encoding import Encoder
from recollect.events.given import prepare
from recollect.events.mapping import NOISE, map_agent_event, map_loop_event
from recollect.events.names import matcher

_LINES = (Path(__file__).parent / "data" / "loops" / "events.jsonl").read_text(encoding="utf-8").splitlines()
SAMPLE: list[dict[str, Any]] = [json.loads(line) for line in _LINES]


def first(name: str, **fields: Any) -> dict[str, Any]:
    """The first event of that name in the sample that has these fields."""
    return next(each for each in SAMPLE if each["event"] == name and fields.items() <= each.items())


def state_of(event: Event) -> Any:
    """What the view of loops gets as the state."""
    return prepare(Encoder(row_bytes=10**7), event).optional.get("state")


# -- loops and issues ------------------------------------------------------------------------------

# event of the sample: kind, action, name, state, issue_id, path, and words by which it is found
LOOPS: list[tuple[dict[str, Any], tuple[Any, ...], str]] = [
    (first("loop_start", loop="fix-types"), ("loop", "loop_start", "fix-types", None, None, None), "fix-types"),
    (first("state_enter", state="fix"), ("loop", "state_enter", "fix-types", "fix", None, None), "fix"),
    (first("action_start"), ("loop", "action_start", "fix-types", None, None, None), "errors"),
    (first("action_output"), ("loop", "action_output", "fix-types", None, None, None), "errors"),
    (first("action_complete", state="fix"), ("loop", "action_complete", "fix-types", "fix", None, None), "patched"),
    (first("evaluate", verdict="no"), ("loop", "evaluate", "fix-types", None, None, None), "no"),
    (first("route", to="fix"), ("loop", "route", "fix-types", "fix", None, None), "check fix"),
    (first("messages_append"), ("loop", "messages_append", "fix-types", "fix", None, None), "patched"),
    (first("loop_complete", loop="fix-types"), ("loop", "loop_complete", "fix-types", "done", None, None), "terminal"),
    (first("loop_complete", loop="slow"), ("loop", "loop_complete", "slow", "wait", None, None), "timeout"),
    (first("loop_complete", loop="broken"), ("loop", "loop_complete", "broken", "ask", None, None), "Missing nowhere"),
    (first("retry_exhausted"), ("loop", "retry_exhausted", "flaky", "try", None, None), "give_up"),
    (first("max_steps_summary"), ("loop", "max_steps_summary", "endless", "report", None, None), "report"),
    (first("cycle_detected"), ("loop", "cycle_detected", "round-and-round", "right", None, None), "left->right"),
    (first("loop_resume"), ("loop", "loop_resume", "resumed", "pong", None, None), "pong"),
    (first("issue.closed"), ("issue", "closed", None, None, "BUG-007", "BUG-007"), "already_fixed"),
    (first("issue.deferred"), ("issue", "deferred", None, None, "BUG-008", "BUG-008"), "waits release"),
    (first("issue.started"), ("issue", "started", None, None, "BUG-008", "BUG-008"), "release out"),
    (first("issue.skipped"), ("issue", "skipped", None, None, "BUG-009", "BUG-009"), "flaky"),
    (first("state.issue_completed"), ("issue", "completed", None, None, "BUG-007", None), "BUG-007"),
    (first("state.issue_failed"), ("issue", "failed", None, None, "BUG-008", None), "merge conflict"),
    (first("parallel.queue_changed"), ("parallel", "queue_changed", None, None, None, None), "queue_changed"),
    (first("parallel.worker_started"), ("parallel", "worker_started", "parallel/bug-008", None, "BUG-008", "/worker-1"),
     "worker-1"),
    (first("parallel.worker_blocked"), ("parallel", "worker_blocked", None, None, "BUG-009", None), "overlap"),
    (first("parallel.worker_unblocked"), ("parallel", "worker_unblocked", None, None, "BUG-009", None), "BUG-009"),
    (first("parallel.merge_started"), ("parallel", "merge_started", "parallel/bug-008", None, "BUG-008", None), "bug-008"),
    (first("parallel.merge_completed", outcome="failed"), ("parallel", "merge_completed", None, None, "BUG-009", None),
     "conflict"),
]  # fmt: skip


def test_the_table_has_every_event_of_the_sample():
    """What the engine emits and the table does not know, fails here."""
    assert {given["event"] for given, _, _ in LOOPS} == {each["event"] for each in SAMPLE}


@pytest.mark.parametrize(
    ("given", "columns", "words"), LOOPS, ids=[f"{given['event']}-{n}" for n, (given, _, _) in enumerate(LOOPS)]
)
async def test_an_event_of_a_loop_has_its_columns_and_is_found(
    memory: AsyncSessionStore, given: dict[str, Any], columns: tuple[Any, ...], words: str
):
    """Kind, action, name, state, issue and path; its run, its time, all of it in the payload; by its words."""
    event = map_event(given)
    kind, action, name, state, issue_id, path = columns
    assert (event.kind, event.action, event.name, event.issue_id) == (kind, action, name, issue_id)
    assert (event.path is None) == (path is None)
    assert path is None or path in event.path
    assert state_of(event) == state
    assert (event.session_id, event.run_id) == (None, given.get("run_id"))
    assert event.at == datetime.fromisoformat(given["ts"])
    assert given.items() <= event.payload.items()
    id = await memory.events.record(event)
    assert [hit.id async for hit in memory.search(" ".join(f'"{word}"' for word in words.split()))] == [id]


async def test_what_a_loop_did_is_a_query_of_the_views(memory: AsyncSessionStore):
    """The whole sample, as it was emitted: every loop has its name and its end, every retry its count."""
    await memory.events.record_many([map_event(each) for each in SAMPLE])
    (row,) = await memory.query("SELECT COUNT(*) AS n FROM loop_events WHERE loop_name IS NULL")
    assert row.n == 0
    ends = await memory.query("SELECT loop_name, state FROM loop_events WHERE transition = 'loop_complete' ORDER BY id")
    assert [tuple(row) for row in ends] == [
        ("fix-types", "done"), ("flaky", "give_up"), ("endless", "done"), ("round-and-round", "left"), ("broken", "ask"),
        ("slow", "wait"), ("resumed", "pong"), ("resumed", "pong"),
    ]  # fmt: skip
    routes = await memory.query("SELECT state FROM loop_events WHERE transition = 'route' AND loop_name = 'fix-types'")
    assert [row.state for row in routes] == ["fix", "check", "done"]
    retries = await memory.query("SELECT loop_name, retries FROM loop_events WHERE retries IS NOT NULL")
    assert [tuple(row) for row in retries] == [("flaky", 3)]
    issues = await memory.query("SELECT issue_id, transition FROM issue_events WHERE path LIKE '%BUG-008%' ORDER BY id")
    assert [tuple(row) for row in issues] == [("BUG-008", "deferred"), ("BUG-008", "started")]


FLAT: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    # what is known of other emitters: an older name of the field, none at all, no name of the event
    ({"event": "state_enter", "loop_name": "l", "state": "s"}, ("loop", "state_enter", "l", "s")),
    ({"event": "loop_complete", "loop_name": "l", "outcome": "done"}, ("loop", "loop_complete", "l", "done")),
    ({"event": "route", "from": "a", "to": "b"}, ("loop", "route", None, "b")),
    ({"event": "retry_exhausted", "state": "s", "retries": True}, ("loop", "retry_exhausted", None, "s")),
    ({"type": "deploy.began", "name": "site"}, ("deploy", "began", "site", None)),
    ({"kind": "note", "message": "hello"}, ("note", None, None, None)),
    ({"event": "issue.closed"}, ("issue", "closed", None, None)),
    ({}, ("event", None, None, None)),
    ({"event": ""}, ("event", None, None, None)),
    ({"event": "."}, ("event", None, None, None)),
    ({"event": ".x"}, ("event", "x", None, None)),
    ({"event": 7, "loop": 8}, ("loop", "7", "8", None)),
    ({"event": "store.created"}, ("store", "created", None, None)),
    ({"event": "human_response", "loop": "l", "verdict": "yes"}, ("loop", "human_response", "l", None)),
    ({"event": "workdir_vanished", "loop": "l", "state": "s", "path": "/w"}, ("loop", "workdir_vanished", "l", "s")),
    ({"type": "message", "payload": "text"}, ("message", None, None, None)),
]  # fmt: skip


@pytest.mark.parametrize(("given", "columns"), FLAT, ids=[str(n) for n in range(len(FLAT))])
def test_a_flat_event_of_anybody_is_an_event(given: dict[str, Any], columns: tuple[Any, ...]):
    """Also one without a name, or with fields of other types: nothing is invented, nothing is lost."""
    event = map_event(given)
    assert (event.kind, event.action, event.name, state_of(event)) == columns
    assert given.items() <= (event.payload or {}).items()
    assert prepare(Encoder(row_bytes=10**6), event).optional.get("retries") is None


def test_the_surroundings_are_read_under_each_of_their_names():
    """`sessionId` and `session_id`, `ts`, `timestamp` and `at`; where a loop works is its path."""
    event = map_event({"event": "x", "sessionId": "s", "run_id": 7, "timestamp": "2026-03-01T10:00:00+01:00"})
    assert (event.session_id, event.run_id, event.at) == ("s", "7", datetime(2026, 3, 1, 9, tzinfo=UTC))
    assert map_event({"event": "sub_loop_worktree_attached", "path": "/w/demo"}).path == "/w/demo"
    assert map_event({"event": "loop_start", "loop": "l", "loop_yaml_path": "l.yaml"}).path == "l.yaml"


TIMES: list[tuple[Any, datetime | None]] = [
    ("2026-03-01T09:00:00Z", datetime(2026, 3, 1, 9, tzinfo=UTC)),
    ("2026-03-01T09:00:00", datetime(2026, 3, 1, 9, tzinfo=UTC)),
    (1_772_355_600, datetime(2026, 3, 1, 9, tzinfo=UTC)),
    (1_772_355_600.5, datetime(2026, 3, 1, 9, 0, 0, 500_000, tzinfo=UTC)),
    (1_772_355_600_000, datetime(2026, 3, 1, 9, tzinfo=UTC)),
    (0, datetime(1970, 1, 1, tzinfo=UTC)),
    *[(wrong, None) for wrong in ("", "yesterday", None, True, [], -5, 1e300, float("nan"), float("inf"), 10**400,
                                  "0001-01-01T00:00:00+23:00", "1969-12-31T23:59:59Z")],
]  # fmt: skip


@pytest.mark.parametrize(("ts", "at"), TIMES, ids=[str(n) for n in range(len(TIMES))])
def test_the_time_is_read_or_left_to_the_store(ts: Any, at: datetime | None):
    """ISO text, seconds or milliseconds; what is none of it is no time, and no error."""
    assert map_event({"event": "x", "ts": ts}).at == at
    assert map_event({"event": "x", "ts": ts, "timestamp": "2026-03-01T09:00:00Z"}).at in (
        at,
        datetime(2026, 3, 1, 9, tzinfo=UTC),
    )


def test_what_comes_by_the_thousand_is_left_out_unless_one_says_otherwise():
    """Lines of output and pieces of streams; their words come again as a whole. Nothing else of the sample."""
    noise = matcher(NOISE)
    assert {each["event"] for each in SAMPLE if noise(each["event"])} == {"action_output"}
    assert all(map(noise, ("stream_delta", "stream_think_delta", "agent_token_delta", "llm.text_delta")))
    assert not any(map(noise, ("stream_started", "stream_completed", "action_complete", "tool_call_started")))


# -- an agent loop ---------------------------------------------------------------------------------


async def emitted(folder: Path) -> list[dict[str, Any]]:
    """What its bus publishes in a conversation of three rounds: a tool that answers, one that fails, an answer."""

    def call(id: str, name: str, **given: Any) -> dict[str, Any]:
        return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}

    def read_file(path: str) -> str:
        return f"{path}: max_retries = None"

    def broken() -> str:
        raise ValueError("no such table")

    answers = [
        ("Let me look.", [call("c1", "read_file", path="/w/net.py")]),
        ("", [call("c2", "broken")]),
        ("No cap.", []),
    ]

    class Scripted(power_loop.LLMService):
        async def complete(self, request: Any, *, on_chunk_delta_text: Any = None, **_: Any) -> Any:
            text, calls = answers.pop(0)
            if on_chunk_delta_text is not None and text:
                on_chunk_delta_text(text)
            usage = power_loop.LLMTokenUsage(prompt_tokens=10, completion_tokens=2, total_tokens=12)
            return power_loop.LLMResponse(raw_text=text, content_text=text, tool_calls=calls, token_usage=usage)

        def stream(self, request: Any) -> Any:
            raise NotImplementedError

        async def close(self) -> None:
            pass

    bus, tools, events = AgentEventBus(), power_loop.ToolRegistry(), []
    bus.subscribe(None, lambda event: events.append(event.to_dict()))
    tools.register(ToolDefinition(name="read_file", description="reads"), read_file)
    tools.register(ToolDefinition(name="broken", description="fails"), broken)
    agent = power_loop.StatefulAgentLoop(
        llm=Scripted(), db_path=str(folder / "agent.db"), tool_registry=tools, event_bus=bus,
        config=power_loop.AgentLoopConfig(system_prompt="You help.", model="m-1"),
    )  # fmt: skip
    await agent.send("Why does it retry?", session_id=await agent.new_session())
    await agent.aclose()
    return events


async def test_a_conversation_of_an_agent_loop_is_kept_and_found(memory: AsyncSessionStore, tmp_path: Path):
    """Its tool calls with arguments and results, its rounds and calls of the model, in order, with their session."""
    events = await emitted(tmp_path)
    await memory.events.record_many([map_event(json.loads(json.dumps(each))) for each in events])
    stored = [event async for event in memory.events.stream()]
    assert [event.payload["seq"] for event in stored] == [each["seq"] for each in events]
    (session,) = {event.session_id for event in stored}
    assert session == events[0]["session_id"]
    assert all(abs(event.at.timestamp() - each["ts"]) < 0.002 for event, each in zip(stored, events, strict=True))
    rows = await memory.query("SELECT tool_name, action, path, args_hash, result_size FROM tool_events ORDER BY id")
    net, none = args_hash({"path": "/w/net.py"}), args_hash({})
    assert [tuple(row) for row in rows] == [
        ("read_file", "started", "/w/net.py", net, None),
        ("read_file", "completed", "/w/net.py", net, len("/w/net.py: max_retries = None")),
        ("broken", "started", None, none, None),
        ("broken", "failed", None, none, len("Error: no such table")),
        ("broken", "completed", None, none, len("Error: no such table")),
    ]
    found = [hit async for hit in memory.search('"no such table"', session=session, order="oldest")]
    assert [hit.name for hit in found] == ["broken", "broken"]
    assert {event.action for event in stored if event.kind == "agent"} >= {
        "session_started", "round_started", "llm_call_started", "llm_call_completed", "status_changed", "usage_updated",
        "stream_delta", "round_tools_present", "round_completed", "session_ended",
    }  # fmt: skip


# What each of its types is about: the fields of its own payload class, then name and words of the event made of it.
AGENT: dict[str, tuple[str, dict[str, Any], str | None, str | None]] = {
    "session_started": ("SessionStarted", {"scope": "main"}, "main", None),
    "session_ended": ("SessionEnded", {"reason": "completed"}, None, "completed"),
    "round_started": ("RoundStarted", {"round_index": 1}, None, None),
    "round_completed": ("RoundCompleted", {"round_index": 1, "has_tools": True}, None, None),
    "round_tools_present": ("RoundToolsPresent", {"has_tools": True}, None, None),
    "llm_call_started": ("LlmCallStarted", {"call_id": "r0.a1", "model": "m-1"}, "m-1", None),
    "llm_call_completed": ("LlmCallCompleted", {"model": "m-1", "error_type": "Timeout"}, "m-1", "Timeout\nok"),
    "llm_retry_attempted": (
        "LlmRetryAttempted", {"error_type": "RateLimit", "error_message": "slow down"}, None, "slow down\nRateLimit",
    ),
    "llm_degraded": ("LlmDegraded", {"reason": "timeout", "error_message": "gone"}, None, "gone\ntimeout"),
    "loop_cancelled": ("LoopCancelled", {"reason": "stopped by ada"}, None, "stopped by ada"),
    "steer_interrupted": (
        "SteerInterrupted", {"where": "tool", "action": "abort", "tool_name": "Bash"}, None, "abort\ntool\nBash",
    ),
    "memory_recalled": ("MemoryRecalled", {"returned": 3, "injected": 2}, None, None),
    "memory_failed": ("MemoryFailed", {"phase": "recall", "error_message": "no such table"}, None, "no such table\nrecall"),
    "stream_started": ("StreamStarted", {"stream_id": "main"}, "main", None),
    "stream_delta": ("StreamDelta", {"text": "There is"}, "main", "There is"),
    "stream_think_delta": ("StreamDelta", {"text": "hm", "is_think": True}, "main", "hm"),
    "stream_completed": ("StreamCompleted", {"stream_id": "main"}, "main", None),
    "tool_call_started": ("ToolCallStarted", {"name": "Bash", "tool_input": {"command": "ls /w"}}, "Bash", "ls /w"),
    "tool_call_completed": (
        "ToolCallCompleted", {"name": "Edit", "output": "done", "tool_input": {"edits": [{"new": "cap = 5"}]}}, "Edit",
        "cap = 5\ndone",
    ),
    "tool_call_failed": ("ToolCallFailed", {"name": "Bash", "output": "Error: boom"}, "Bash", "Error: boom"),
    "status_changed": ("HitRoundLimitStatus", {"max_rounds": 24}, "hit_round_limit", None),
    "usage_updated": ("UsageUpdated", {"usage": {"prompt_tokens": 10}}, None, None),
    "timer_fired": ("TimerFired", {"timer_id": 7, "note": "water the plants"}, "7", "water the plants\ndelivered"),
    "todo_updated": (
        "TodoUpdated", {"items": [{"text": "cap"}], "rendered": "[ ] add a cap"}, "todo_snapshot", "[ ] add a cap",
    ),
    "user_notification": ("UserNotification", {"message": "Shall I?"}, None, "Shall I?"),
    "agent_error": (
        "AgentError", {"error": "boom", "error_type": "ValueError", "details": "in net.py"}, None,
        "boom\nValueError\nin net.py",
    ),
    "system_log": ("SystemLog", {"message": "compacting"}, None, "compacting"),
    "subagent_task_start": (
        "SubagentTaskStart", {"task": "find the cap", "sub_session_id": "sub"}, "sub", "find the cap\ncore",
    ),
    "subagent_text": ("SubagentText", {"sub_session_id": "sub", "final_text": "no cap"}, "sub", "no cap"),
    "subagent_limit": ("SubagentLimit", {"sub_session_id": "sub", "max_rounds": 9}, "sub", None),
    "subagent_completed": (
        "SubagentCompleted", {"sub_session_id": "sub", "status": "completed", "final_text": "no cap"}, "sub",
        "completed\nno cap",
    ),
}  # fmt: skip


def test_the_table_has_every_type_of_the_agent_loop():
    """All 31; what a later version adds maps at least."""
    types = {type_.value for type_ in AgentEventType}
    assert set(AGENT) <= types
    assert len(AGENT) == 31
    for type_ in types - set(AGENT):
        checked(map_event(AgentEvent(AgentEventType(type_)).to_dict()))


@pytest.mark.parametrize("type_", AGENT)
async def test_an_event_of_an_agent_loop_has_its_columns_and_is_found(memory: AsyncSessionStore, type_: str):
    """Built from its own payload class: kind, action, name, session, time; the whole of it; by its words."""
    class_name, fields, name, text = AGENT[type_]
    data = getattr(event_payloads, f"{class_name}Payload")(**fields)
    given = AgentEvent(AgentEventType(type_), data=data, session_id="talk", round_index=1, ts=1_772_355_600.0).to_dict()
    event = map_event(given)
    tool = type_.startswith("tool_call_")
    assert (event.kind, event.action) == (("tool", type_.removeprefix("tool_call_")) if tool else ("agent", type_))
    assert (event.name, event.text) == (name, text)
    assert (event.session_id, event.run_id, event.issue_id) == ("talk", None, None)
    assert event.at == datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert given.items() <= event.payload.items()
    id = await memory.events.record(event)
    (stored,) = [each async for each in memory.events.stream()]
    assert stored.payload == json.loads(json.dumps(event.payload))
    for line in filter(None, [name, *(text or "").split("\n")]):
        assert [hit.id async for hit in memory.search(f'"{line}"', kinds="event")] == [id]


def test_every_payload_class_of_the_agent_loop_maps():
    """With its defaults, and with every text in it filled: those a table forgets, too."""
    classes = [each for each in vars(event_payloads).values() if dataclasses.is_dataclass(each)]
    assert len(classes) > 30
    for each in classes:
        hints = typing.get_type_hints(each)
        filled = {field.name: "words" for field in dataclasses.fields(each) if hints[field.name] is str}
        for data in (each(), each(**filled)):
            for type_ in AGENT:
                checked(map_event({"type": type_, "ts": 1.0, "session_id": "s", "payload": data.to_dict()}))


# -- whatever it is --------------------------------------------------------------------------------

NAMES = [
    "event", "type", "kind", "ts", "timestamp", "at", "payload", "session_id", "sessionId", "run_id", "loop", "loop_name",
    "state", "outcome", "final_state", "from", "to", "issue_id", "path", "file_path", "name", "retries", "error", "text",
    "tool_input", "output", "title", "discovered_by", "args_hash", "result_size", "cache_hit", "line", "targets",
]  # fmt: skip
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["route", "loop_start", "issue.closed", "state.issue_failed", "tool_call_", "tool_call_started", ".", "store.x", "\x00",
     "\ud800", "2026-03-01T09:00:00Z", "0001-01-01", "data:x"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)


def checked(event: Event) -> None:
    """What a mapping made can be stored."""
    prepare(Encoder(row_bytes=10**7), event)


@settings(max_examples=60, deadline=None)
@given(sent=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), VALUES, max_size=8))
def test_no_event_makes_a_mapping_raise_and_what_is_json_can_be_stored(sent: dict[str, Any]):
    """Whatever is in it, in each of the mappings: what they make of it is refused only for a payload that would not
    come back as it was sent."""
    try:
        prepare(Encoder(row_bytes=10**7), Event("x", payload=sent))
        is_json = True
    except InvalidRecord:
        is_json = False
    for mapping in (map_event, map_loop_event, map_agent_event):
        event = mapping(sent)
        assert sent.items() <= (event.payload or {}).items() or sent != sent
        if is_json:
            checked(event)


def test_what_is_nested_without_end_or_very_long_maps_too():
    """Cyclic, very deep, very wide, very long, of types that are no JSON: a mapping is quick and does not raise."""
    cyclic: dict[str, Any] = {"event": "x"}
    cyclic |= {"message": cyclic, "tool_input": cyclic, "payload": cyclic, "type": "tool_call_started"}
    deep: Any = "end"
    for _ in range(sys.getrecursionlimit() * 50):
        deep = [deep]
    for strange in (cyclic, {"type": "tool_call_failed", "payload": {"tool_input": deep, "output": deep, "error": deep}},
                    {"event": "x", "message": deep, "ts": object(), 7: b"", "reason": {1, 2}}):  # fmt: skip
        for mapping in (map_event, map_loop_event, map_agent_event):
            assert mapping(strange).kind
    wide = {"event": "x" * 10**6, "message": ["word"] * 10**5, "error": "y" * 10**6, "issue_id": "z" * 10**6}
    event = map_event(wide)
    assert max(len(event.kind), len(event.issue_id or "")) <= 16_384
    assert len(event.text or "") <= 65_536
    checked(event)
