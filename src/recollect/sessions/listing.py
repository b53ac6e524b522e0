"""Finding and listing sessions: filters in, pages of sessions out, by keyset; nothing is aggregated."""

from __future__ import annotations

from typing import Any

from ..encoding import second
from ..engine.operation import Operation, all, one
from ..errors import InvalidRecord
from ..filters import Filter, end_of_range, numbers_of
from ..models import Page, Session
from .record import COLUMNS, TABLES, session

ORDERS = {"activity": "last_active_at", "created": "created_at"}
_KEYS = {"activity": ("s.activity", "s.last_active_at", "s.session"), "created": ("s.created_at", "s.session")}
"""what a page is ordered by: an index up to its first column, so that only one second's sessions are sorted"""


def read_page(
    where: Filter, order: str, limit: int | None, after: str | None, within: str | None
) -> Operation[Page[Session]]:
    """The newest first, by the chosen time."""
    if limit == 0:
        return Page[Session]([])
    column = ORDERS[order]
    condition, params = where.sql, dict(where.params)
    if after is not None:
        time, params["after_session"] = _behind(after, order)
        params |= {"after_activity": second(time), "after_time": time} if order == "activity" else {"after_time": time}
        places = ":after_activity, :after_time" if order == "activity" else ":after_time"
        condition += f" AND ({', '.join(_KEYS[order])}) < ({places}, :after_session)"
    keys = ", ".join(f"{key} DESC" for key in _KEYS[order])
    sql = f"SELECT {COLUMNS}, s.session AS number FROM {TABLES} WHERE s.id IS NOT NULL{condition} ORDER BY {keys}"
    if limit is not None:
        sql += " LIMIT :limit"
        params["limit"] = limit + 1
    rows = yield all(sql, **params)
    cursor = None
    if limit is not None and len(rows) > limit:
        last = rows[limit - 1]
        cursor = f"{order}:{getattr(last, column)}.{last.number}"
    return Page([session(row, within) for row in rows[:limit]], cursor)


def _behind(cursor: str, order: str) -> tuple[int, int]:
    name, _, place = cursor.partition(":") if isinstance(cursor, str) else ("", "", "")  # pyright: ignore[reportUnnecessaryIsInstance]
    numbers = numbers_of(place.removeprefix("-"), 2)
    if name == order and numbers:
        return (-numbers[0] if place.startswith("-") else numbers[0]), numbers[1]
    raise InvalidRecord(f"after={cursor!r} is not the `next` of a page in the order {order!r}")


def read_count(where: Filter) -> Operation[int]:
    """How many sessions match."""
    row = yield one(f"SELECT COUNT(*) AS n FROM sessions s WHERE s.id IS NOT NULL{where.sql}", **where.params)
    return row.n


def resolve(id_or_prefix: str, own: Filter) -> Operation[str | None]:
    """The session of exactly that id, else the only one whose id begins so."""
    exact = yield one(f"SELECT id FROM sessions WHERE id = :id{own.sql}", id=id_or_prefix, **own.params)
    if exact:
        return exact.id
    params: dict[str, Any] = {"first": id_or_prefix, **own.params}
    condition = f"id >= :first{own.sql}"
    if (end := end_of_range(id_or_prefix)) is not None:
        condition += " AND id < :end"
        params["end"] = end
    found = yield all(f"SELECT id FROM sessions WHERE {condition} ORDER BY id LIMIT 2", **params)
    return found[0].id if len(found) == 1 else None
