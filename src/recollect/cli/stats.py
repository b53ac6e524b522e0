"""`recollect stats`: how much there is, and in which state."""

from __future__ import annotations

from ..reports import Stats
from .opening import reading, target
from .options import Db, Json
from .run import run
from .screen import console, facts_table, write_fields, write_json


def stats(db: Db = None, json: Json = False) -> None:
    """Show how much the store holds, and in which state it is."""
    run(_stats(db, json))


async def _stats(db: str | None, json: bool) -> None:
    async with reading(db) as store:
        stats = await store.stats()
    if json:
        return write_json(stats)
    facts = [("database", target(db)), *_facts(stats)]
    out = console()
    if out.is_terminal:
        return out.print(facts_table(facts), soft_wrap=True)
    for name, value in facts:
        write_fields(out, name, value)
    return None


def _facts(stats: Stats) -> list[tuple[str, str]]:
    lag = f", {stats.index_lag:,} rows to go" if stats.index_lag else ""
    facts = [
        ("sessions", f"{stats.sessions:,}"),
        ("messages", f"{stats.messages:,}"),
        ("events", f"{stats.events:,}"),
        ("size", f"{size(stats.database_bytes)}, write-ahead log {size(stats.wal_bytes)}"),
        ("search index", f"{stats.index_state}{lag}"),
        ("schema", f"version {stats.schema_version}, SQLite {stats.sqlite_version}"),
    ]
    if stats.unindexed_bytes:
        facts.append(("not indexed", f"{size(stats.unindexed_bytes)} of very long messages"))
    return facts


def size(n: int) -> str:
    """Bytes as people read them."""
    amount, unit = float(n), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:,.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:,.1f} {unit}"
