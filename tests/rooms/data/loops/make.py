"""Makes `events.jsonl` beside it: what the event bus of little-loops emits while its own engine runs the loops below.

    python make.py    # with little-loops installed; the sample is of 1.167.0

Nothing in an event is changed but for the folder it ran in, the process and the durations, which become neutral.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from little_loops.config import BRConfig
from little_loops.events import EventBus
from little_loops.fsm.persistence import PersistentExecutor
from little_loops.fsm.schema import FSMLoop
from little_loops.issue_lifecycle import close_issue, defer_issue, skip_issue, undefer_issue
from little_loops.issue_parser import IssueParser
from little_loops.logger import Logger
from little_loops.parallel.merge_coordinator import MergeCoordinator
from little_loops.parallel.orchestrator import ParallelOrchestrator
from little_loops.parallel.priority_queue import IssuePriorityQueue
from little_loops.parallel.worker_pool import WorkerPool
from little_loops.state import StateManager

OUT = Path(__file__).with_name("events.jsonl")


def shell(action: str, **to: Any) -> dict[str, Any]:
    """A state that runs a command."""
    return {"action": action, "action_type": "shell", **to}


END = {"terminal": True}
LOOPS: list[dict[str, Any]] = [
    {
        "name": "fix-types",
        "initial": "check",
        "states": {
            "check": shell("echo 'two errors in net.py'; test -f fixed", on_yes="done", on_no="fix"),
            "fix": shell(
                "touch fixed; echo 'patched net.py' >&2", next="check", append_to_messages="net.py was patched"
            ),
            "done": END,
        },
    },
    {
        "name": "flaky",
        "initial": "try",
        "states": {
            "try": shell("false", on_yes="done", on_no="try", max_retries=2, on_retry_exhausted="give_up"),
            "give_up": {"terminal": True, "verdict": "failure"},
            "done": END,
        },
    },
    {
        "name": "endless",
        "initial": "ping",
        "max_steps": 3,
        "on_max_steps": "report",
        "states": {
            "ping": shell("true", next="pong"),
            "pong": shell("true", next="ping"),
            "report": shell("echo summary", next="done"),
            "done": END,
        },
    },
    {
        "name": "round-and-round",
        "initial": "left",
        "max_edge_revisits": 2,
        "states": {"left": shell("true", next="right"), "right": shell("true", next="left"), "done": END},
    },
    {
        "name": "broken",
        "initial": "ask",
        "states": {"ask": {"action": "x", "action_type": "shell", "next": "${context.nowhere}"}, "done": END},
    },
    {
        "name": "slow",
        "initial": "wait",
        "timeout": 1,
        "states": {"wait": shell("sleep 0.6", next="wait"), "done": END},
    },
]

ISSUE = """---
id: BUG-{n}
type: BUG
priority: P2
status: open
captured_at: '2026-03-01T09:00:00Z'
---
# BUG-{n}: retry never stops
## Summary
No cap on attempts.
"""


def run_loops(events: list[dict[str, Any]]) -> None:
    """Each to its end; the last kind of end is an interruption, and a loop that is resumed."""
    for definition in LOOPS:
        executor = PersistentExecutor(FSMLoop.from_dict(definition), loops_dir=Path(".loops"))
        executor.event_bus.register(lambda event: events.append(dict(event)))
        executor.run(clear_previous=True)
    fsm = FSMLoop.from_dict(LOOPS[2] | {"name": "resumed", "on_max_steps": None})
    first = PersistentExecutor(fsm, loops_dir=Path(".loops"))
    first.event_bus.register(lambda event: events.append(dict(event)))
    first.event_bus.register(lambda event: first.request_shutdown(), filter="action_complete")
    first.run(clear_previous=True)
    again = PersistentExecutor(fsm, loops_dir=Path(".loops"))
    again.event_bus.register(lambda event: events.append(dict(event)))
    again.resume()


def work_on_issues(events: list[dict[str, Any]]) -> None:
    """Closed, deferred and taken up again, skipped; the queue of parallel workers; what failed."""
    bugs = Path(".issues/bugs")
    bugs.mkdir(parents=True)
    for n in (7, 8, 9):
        (bugs / f"P2-BUG-00{n}-retry-never-stops.md").write_text(ISSUE.format(n=f"00{n}"))
    for role in ("AUTHOR", "COMMITTER"):
        os.environ |= {f"GIT_{role}_NAME": "n", f"GIT_{role}_EMAIL": "e@example.org"}
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "begin"]):
        subprocess.run(["git", *command], check=True)
    config, logger = BRConfig(Path.cwd()), Logger(verbose=False)
    bus = EventBus()
    bus.register(lambda event: events.append(dict(event)))
    issues = [IssueParser(config).parse_file(path) for path in sorted(bugs.iterdir())]
    close_issue(issues[0], config, logger, "already_fixed", "Closed - Already Fixed", event_bus=bus)
    defer_issue(issues[1], config, logger, "waits for the release", event_bus=bus)
    undefer_issue(config, issues[1].path, logger, "the release is out", event_bus=bus)
    skip_issue(
        issues[2].path, issues[2].path.with_name("P3-BUG-009-retry-never-stops.md"), event_bus=bus, reason="flaky"
    )
    queue = IssuePriorityQueue(event_bus=bus, run_id="2026-03-01T090000-parallel")
    queue.add_many(issues[:2])
    queue.get(block=False)
    queue.mark_completed("BUG-007")
    queue.mark_failed("BUG-008")
    work_in_parallel(bus)
    state = StateManager(Path("state.json"), logger, event_bus=bus)
    state.mark_completed("BUG-007")
    state.mark_failed("BUG-008", "merge conflict in net.py")


def work_in_parallel(bus: EventBus) -> None:
    """What workers, their orchestrator and the merging tell; without the work, which wants an agent."""

    def of(kind: type) -> Any:
        made = object.__new__(kind)
        made._event_bus, made.run_id = bus, "2026-03-01T090000-parallel"
        return made

    of(WorkerPool)._emit_worker_started("BUG-008", Path.cwd() / ".worktrees/worker-1", "parallel/bug-008")
    of(ParallelOrchestrator)._emit_worker_blocked("BUG-009", "overlap")
    of(ParallelOrchestrator)._emit_worker_unblocked("BUG-009")
    of(MergeCoordinator)._emit_merge_started("BUG-008", "parallel/bug-008")
    of(MergeCoordinator)._emit_merge_completed("BUG-008", "merged")
    of(MergeCoordinator)._emit_merge_completed("BUG-009", "failed", error="conflict in net.py")


NEUTRAL = [(r"/[^\s\"]*/ran", "/w/demo"), (r"/tmp/ll-action-\w+", "/tmp/action")]


def neutral(event: dict[str, Any]) -> str:
    """One line, without what tells of the machine."""
    changed = {**event, **{name: 5 for name in ("duration_ms", "pid", "wall_clock_ms") if name in event}}
    line = json.dumps(changed)
    for pattern, by in NEUTRAL:
        line = re.sub(pattern, by, line)
    return line


def main() -> None:
    """Runs all of it in a folder of its own."""
    logging.disable()
    events: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "ran").mkdir()
        os.chdir(Path(folder, "ran"))
        os.environ["HOME"] = folder
        work_on_issues(events)
        run_loops(events)
        os.chdir(OUT.parent)
    OUT.write_text("".join(neutral(event) + "\n" for event in events))


main()
