"""Recording: many callers' events in, one INSERT for each set of columns, ids out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from ..engine.operation import Operation, coalescing, ids, many, tuples
from ..journal import VISIBLE
from .given import EventRow, Recording

Keys = dict[tuple[str, str], int]
"""events by their scope and dedupe key: a user's keys are his own, as if he were alone"""

Inserts = dict[tuple[str, ...], list[tuple[Any, ...]]]
"""rows to insert, by the optional columns that are set"""


@coalescing
def record(items: list[Recording]) -> Operation[list[list[int]]]:
    """Records each item's events; per item their ids, that of the first for a key that is there already."""
    known = yield from _known(items)
    owners = yield from _owners(items)
    fresh = sum([_key(item, row) not in known for item in items for row in item.rows])
    numbers = iter((yield ids(fresh))) if fresh else iter(())
    inserts: Inserts = {}
    outcomes = [_place(item, known, owners, numbers, inserts) for item in items]
    for columns, values in inserts.items():
        yield many(insert_of(columns), values)
    return outcomes


def _key(item: Recording, row: EventRow) -> tuple[str, str] | None:
    return None if row.dedupe_key is None else (item.user_id or "", row.dedupe_key)


def _known(items: Sequence[Recording]) -> Operation[Keys]:
    """Events that have the keys of these already. Those that are about to be erased lose them."""
    keys = sorted({row.dedupe_key for item in items for row in item.rows if row.dedupe_key is not None})
    if not keys:
        return {}
    found = yield tuples(
        f"SELECT e.scope, e.dedupe_key, e.id, CASE WHEN {VISIBLE} THEN 1 ELSE 0 END"
        " FROM events e WHERE e.dedupe_key IN :keys",
        keys=keys,
    )
    going = [(id,) for _, _, id, stays in found if not stays]
    if going:
        yield many("UPDATE events SET dedupe_key = NULL WHERE id = ?", going)
    return {(scope, key): id for scope, key, id, stays in found if stays}


def _owners(items: Sequence[Recording]) -> Operation[dict[str, str]]:
    """The users of the sessions that events are recorded of on nobody's behalf."""
    named = {row.session_id for item in items if item.user_id is None for row in item.rows}
    sessions = sorted(named - {None})  # pyright: ignore[reportArgumentType]
    if not sessions:
        return {}
    found = yield tuples("SELECT id, user_id FROM sessions WHERE id IN :ids AND user_id IS NOT NULL", ids=sessions)
    return dict(found)


def _place(item: Recording, known: Keys, owners: dict[str, str], numbers: Iterator[int], inserts: Inserts) -> list[int]:
    """Gives the item's events their ids and adds them to the inserts."""
    given: list[int] = []
    for row in item.rows:
        key = _key(item, row)
        if key is not None and key in known:
            given.append(known[key])
            continue
        id = next(numbers)
        user = item.user_id or owners.get(row.session_id or "")
        optional = {"session_id": row.session_id, "dedupe_key": row.dedupe_key, "user_id": user, "scope": item.user_id}
        columns = {**{name: value for name, value in optional.items() if value is not None}, **row.optional}
        inserts.setdefault(tuple(columns), []).append((id, row.at, row.kind, *columns.values()))
        if key is not None:
            known[key] = id
        given.append(id)
    return given


@lru_cache(maxsize=512)
def insert_of(optional: tuple[str, ...]) -> str:
    """INSERT of the columns that are set."""
    columns = ("id", "at", "kind", *optional)
    return f"INSERT INTO events ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
