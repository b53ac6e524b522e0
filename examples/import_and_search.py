"""Import transcripts of Claude Code and search them, hits as they are found.

    python examples/import_and_search.py [FOLDER_OR_FILE [QUERY]]

Without arguments it writes a small transcript of its own. The store is in memory: name a file instead of
":memory:" and a second run imports only what has been added since.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from recollect import AsyncSessionStore
from recollect.importers import claude_code

SAID = [
    ("user", "The nightly backup fails, can you find out why?"),
    ("assistant", [{"type": "text", "text": "The disk is full: /var/backups holds 90 old archives."}]),
    ("user", "Keep the newest 14 and delete the others."),
    ("assistant", [{"type": "text", "text": "Done. Archives beyond the newest 14 are gone; the backup runs again."}]),
]


def write_sample(folder: Path) -> Path:
    """A transcript as Claude Code writes them: a line of JSON per record."""
    records = [
        {
            "type": role,
            "uuid": f"record-{at}",
            "parentUuid": f"record-{at - 1}" if at else None,
            "sessionId": "0b8a1c52-0000-4000-8000-5a5a5a5a5a5a",
            "timestamp": f"2026-03-01T09:0{at}:00Z",
            "message": {"role": role, "content": content},
        }
        for at, (role, content) in enumerate(SAID)
    ]
    path = folder / "0b8a1c52-0000-4000-8000-5a5a5a5a5a5a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


async def main(path: Path, query: str) -> None:
    async with AsyncSessionStore(":memory:") as store:
        imported = await claude_code.load(store, path)
        print(f"{imported.files} file(s): {dict(imported.inserted)}, rejected {imported.rejected.total()}")
        async for hit in store.search(query, limit=10):
            print(f"\n{hit.at:%Y-%m-%d %H:%M} {hit.role} in {hit.session_id}\n  {hit.snippet}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else write_sample(Path(scratch))
        asyncio.run(main(path, sys.argv[2] if len(sys.argv) > 2 else "backup OR archives"))
