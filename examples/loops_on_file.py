"""Which loops failed on issues that touched this file?

    python examples/loops_on_file.py [PATH_IN_PROJECT] [--issues DIR] [--loops DIR] [--transcripts DIR]
        [--project DIR] [--db PATH]

Backfills issue files, the logs of loops and the transcripts of a coding agent (`pip install
'recollect[backfill]'`), which costs only what is new, and asks in SQL. Without folders it writes a small
project of its own.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from recollect import AsyncSessionStore

# explained in docs/schema.md, "Questions across rooms", where it stands as well
QUERY = """
WITH wanted (path) AS (VALUES (:path), (:full)),
touched AS (
  SELECT DISTINCT f.issue_id, f.session_id FROM wanted w CROSS JOIN file_events f WHERE f.path = w.path
),
issues AS (
  SELECT issue_id FROM touched WHERE issue_id IS NOT NULL
  UNION
  SELECT i.issue_id FROM touched t CROSS JOIN issue_events i WHERE i.session_id = t.session_id
),
runs AS (
  SELECT l.run_id, i.issue_id FROM issues i CROSS JOIN loop_events l WHERE l.issue_id = i.issue_id
  UNION
  SELECT e.run_id, i.issue_id FROM issues i CROSS JOIN issue_events e WHERE e.issue_id = i.issue_id
)
SELECT l.loop_name, r.run_id, r.issue_id, MAX(l.at) AS at
FROM runs r CROSS JOIN loop_events l
WHERE l.run_id = r.run_id AND (
  l.transition IN ('failed', 'timed_out') OR (l.transition = 'loop_complete' AND l.state IN ('failed', 'error'))
)
GROUP BY l.loop_name, r.run_id, r.issue_id
ORDER BY 4 DESC"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def issue(id: str, title: str, body: str) -> str:
    return f"---\nid: {id}\nstatus: open\ncaptured_at: '2026-03-01T09:00:00Z'\n---\n# {id}: {title}\n{body}\n"


def run(loop: str, start: str, issue_id: str, final_state: str) -> str:
    """The log of a loop that worked on an issue."""
    about = {"run_id": f"{start}-{loop}", "loop": loop, "ts": f"{start[:13]}:{start[13:15]}:{start[15:]}Z"}
    told = [
        {"event": "loop_start"},
        {"event": "issue.started", "issue_id": issue_id, "file_path": f"bugs/{issue_id}.md"},
        {"event": "state_enter", "state": "verify", "iteration": 1},
        {"event": "loop_complete", "final_state": final_state, "iterations": 4, "terminated_by": "terminal"},
    ]
    return "".join(json.dumps({**about, **event}) + "\n" for event in told)


def write_sample(folder: Path) -> None:
    """Three issues, two of which have to do with src/net.py, and a run of a loop on each and one more."""
    bugs, history = folder / ".issues" / "bugs", folder / ".loops" / ".history"
    write(bugs / "P2-BUG-007-retry.md", issue("BUG-007", "retry never stops", "No cap in `src/net.py:41`."))
    write(bugs / "P3-BUG-008-typo.md", issue("BUG-008", "a typo", "In `docs/guide.md`."))
    write(bugs / "P3-BUG-009-slow.md", issue("BUG-009", "slow start", "See src/net.py, and src/start.py:3."))
    for loop, start, id, state in [
        ("fix-bug", "2026-03-02T090000", "BUG-007", "failed"),
        ("fix-bug", "2026-03-02T100000", "BUG-007", "done"),
        ("fix-docs", "2026-03-02T110000", "BUG-008", "failed"),
        ("speed-up", "2026-03-02T120000", "BUG-009", "failed"),
    ]:
        write(history / f"{start}-{loop}" / "events.jsonl", run(loop, start, id, state))


async def main(given: argparse.Namespace) -> None:
    async with AsyncSessionStore(given.db) as store:
        done = await store.backfill(issues_dir=given.issues, loops_dir=given.loops, transcripts=given.transcripts)
        print(f"backfilled: {done.files} files, {dict(done.inserted)}, rejected {done.rejected.total()}")
        began = time.perf_counter()
        rows = await store.query(QUERY, path=given.path, full=os.path.join(given.project, given.path))
        took = (time.perf_counter() - began) * 1000
        for row in rows:
            at = datetime.fromtimestamp(row.at / 1000, UTC)
            print(f"{at:%Y-%m-%d %H:%M}  {row.loop_name} failed on {row.issue_id}  ({row.run_id})")
        print(f"{len(rows)} run(s) failed on issues that touched {given.path}; asked in {took:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="which loops failed on issues that touched a file")
    parser.add_argument("path", nargs="?", default="src/net.py")
    for source in ("issues", "loops", "transcripts"):
        parser.add_argument(f"--{source}", type=Path, metavar="DIR")
    parser.add_argument("--project", default=os.getcwd(), metavar="DIR", help="before the path, in transcripts")
    parser.add_argument("--db", default=":memory:", metavar="PATH")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if not (given.issues or given.loops or given.transcripts):
            write_sample(Path(scratch))
            given.issues, given.loops = Path(scratch, ".issues"), Path(scratch, ".loops")
        asyncio.run(main(given))
