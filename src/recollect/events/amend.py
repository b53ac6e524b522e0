"""Amending events that are recorded already: other columns, and the entry in the search index with them.

The id and the dedupe key stay, so whoever remembers one finds the event as it is now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..engine.fulltext import FullText
from ..engine.operation import Operation, Row, all, many
from ..journal import VISIBLE
from ..search.index import EVENT_ENTRIES, event_entry, reworded

COLUMNS = (
    "run_id", "name", "action", "issue_id", "path", "anchor", "text", "payload", "args_hash", "result_size", "bytes_in",
    "bytes_out", "cache_hit", "git_sha", "discovered_by", "state", "retries", "source",
)  # fmt: skip
"""what can be another; whose event it is cannot"""

_KEYED = f"""
SELECT e.id, e.dedupe_key, e.at, {", ".join(f"e.{name}" for name in COLUMNS)}
FROM events e WHERE e.dedupe_key IN :keys AND e.scope = '' AND {VISIBLE}"""
_UPDATE = f"UPDATE events SET at = ?, {', '.join(f'{name} = ?' for name in COLUMNS)} WHERE id = ?"


class Amendment(NamedTuple):
    """What an event is to be from now on; columns that are not named are empty."""

    id: int
    at: int
    columns: dict[str, Any]


def read_keyed(keys: Sequence[str]) -> Operation[dict[str, Row]]:
    """The events with these keys, whole, by their keys."""
    if not keys:
        return {}
    return {row.dedupe_key: row for row in (yield all(_KEYED, keys=keys))}


def columns_of(row: Row) -> dict[str, Any]:
    """The columns of a row of `read_keyed` that are set."""
    return {name: value for name in COLUMNS if (value := getattr(row, name)) is not None}


def amend(fulltext: FullText, amendments: Sequence[Amendment]) -> Operation[None]:
    """Gives events other columns. Raises SchemaTooNew where the index is kept by a newer recollect."""
    if amendments:
        ids = [amendment.id for amendment in amendments]
        yield from reworded(fulltext, ids, _write(amendments), EVENT_ENTRIES, event_entry)


def _write(amendments: Sequence[Amendment]) -> Operation[None]:
    rows = [(each.at, *[each.columns.get(name) for name in COLUMNS], each.id) for each in amendments]
    yield many(_UPDATE, rows)
