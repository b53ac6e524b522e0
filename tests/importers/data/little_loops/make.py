"""Makes `<release>.db.gz` with little-loops itself, where it is installed: `LL_HOST_CLI=claude-code python make.py`."""

from __future__ import annotations

import gzip
import tempfile
from importlib.metadata import version
from pathlib import Path

from little_loops import session_store

ISSUE = """---
id: BUG-007
type: BUG
status: done
captured_at: '2026-03-01T09:00:00Z'
completed_at: '2026-03-02T10:30:00Z'
discovered_by: scan
---
# BUG-007: retry never stops
"""

EVENTS = [
    {"event": "state_enter", "ts": "2026-03-01T09:04:58Z", "loop": "fix-types", "state": "verify", "iteration": 4},
    {"event": "route", "ts": "2026-03-01T09:05:01Z", "loop": "fix-types", "from": "verify", "to": "done"},
    {"event": "loop_complete", "ts": "2026-03-01T09:05:02Z", "loop": "fix-types", "final_state": "done",
     "iterations": 4, "terminated_by": "terminal"},
]  # fmt: skip

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "session.db")
    transport = session_store.SQLiteTransport(path)
    for event in EVENTS:
        transport.send(event)
    transport.close()
    issues = Path(folder, "issues", "bugs")
    issues.mkdir(parents=True)
    (issues / "P2-BUG-007-retry.md").write_text(ISSUE)
    session_store.backfill(path, issues_dir=issues.parent, loops_dir=Path(folder, "none"), jsonl_files=[])
    packed = gzip.compress(path.read_bytes(), 9, mtime=0)
    Path(__file__).with_name(f"{version('little-loops')}.db.gz").write_bytes(packed)
