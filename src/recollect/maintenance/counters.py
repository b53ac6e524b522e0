"""What is kept of sessions beside their rows, against the rows: compared, and set right; a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from ..encoding import json_value
from ..engine.operation import Operation, Row, all, execute, lock, one, tuples
from ..messages.prepare import calls_in
from ..messages.shift import read_preview
from ..messages.transcript import ACTIVE
from ..reports import Problem

PAGE = 50
"""sessions checked in one snapshot"""


class Checked(NamedTuple):
    """A page: how many sessions it had, the number of the last (None: there was none), what was wrong, and by session
    what its columns must be."""

    sessions: int
    last: int | None
    problems: list[Problem]
    mends: list[tuple[int, dict[str, Any]]]


_KEPT = """
SELECT s.session, s.id, s.parent, p.id AS parent_id, s.last_active_at, s.activity, s.next_seq, s.preview,
  s.message_count, s.tool_call_count, s.input_tokens, s.output_tokens, s.cache_read_tokens, s.cache_write_tokens,
  s.reasoning_tokens, s.estimated_cost, s.actual_cost
FROM sessions s LEFT JOIN sessions p ON p.session = s.parent
WHERE s.id IS NOT NULL AND s.session > :after ORDER BY s.session LIMIT :n"""

_MESSAGES = f"""
SELECT session, CAST(SUM(CASE WHEN state = {ACTIVE} THEN 1 ELSE 0 END) AS BIGINT) AS active, MAX(seq) AS last_seq,
  MAX(CASE WHEN state = {ACTIVE} THEN created_at END) AS newest
FROM messages WHERE session IN :sessions GROUP BY session"""

_LEDGER = """
SELECT session, CAST(SUM(prompt_tokens) AS BIGINT) AS input_tokens,
  CAST(SUM(completion_tokens) AS BIGINT) AS output_tokens,
  CAST(SUM(cache_read_tokens) AS BIGINT) AS cache_read_tokens,
  CAST(SUM(cache_write_tokens) AS BIGINT) AS cache_write_tokens,
  CAST(SUM(reasoning_tokens) AS BIGINT) AS reasoning_tokens,
  CAST(SUM(estimated_cost) AS BIGINT) AS estimated_cost, CAST(SUM(actual_cost) AS BIGINT) AS actual_cost
FROM usage_rounds WHERE session IN :sessions GROUP BY session"""

_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
_COSTS = ("estimated_cost", "actual_cost")


def last_session() -> Operation[int]:
    """The number of the newest session: those that come while one looks are left out."""
    row = yield one("SELECT MAX(session) AS session FROM sessions")
    return row.session or 0


def check_page(after: int) -> Operation[Checked]:
    """The sessions behind the number `after`: counters against sums, and parents that are there."""
    rows = yield all(_KEPT, after=after, n=PAGE)
    if not rows:
        return Checked(0, None, [], [])
    numbers = [row.session for row in rows]
    messages = {row.session: row for row in (yield all(_MESSAGES, sessions=numbers))}
    ledger = {row.session: row for row in (yield all(_LEDGER, sessions=numbers))}
    page = Checked(len(rows), numbers[-1], [], [])
    for row in rows:
        found = yield from _derived(row, messages.get(row.session), ledger.get(row.session))
        wrong = {name: value for name, value in found.items() if getattr(row, name) != value}
        page.problems.extend(_differences(row, wrong))
        if "tool_call_count" not in found:
            page.problems.append(Problem("content", row.id, "the tool calls of a message are no JSON"))
        if row.parent is not None and row.parent_id is None:
            page.problems.append(Problem("parent", row.id, "its parent is not there"))
            wrong["parent"] = None
        if wrong:
            page.mends.append((row.session, wrong))
    return page


def mend_page(after: int) -> Operation[Checked]:
    """The same, and sets right what differs; a parent that is not there is forgotten."""
    ids = yield tuples(
        "SELECT id FROM sessions WHERE id IS NOT NULL AND session > :after ORDER BY session LIMIT :n",
        after=after,
        n=PAGE,
    )
    yield lock(*sorted(id for (id,) in ids))
    page = yield from check_page(after)
    for session, values in page.mends:
        columns = "".join(f"{name} = :{name}, " for name in values)
        yield execute(
            f"UPDATE sessions SET {columns}revision = revision + 1 WHERE session = :session",
            session=session,
            **values,
        )
    return page


def _derived(row: Row, messages: Row | None, ledger: Row | None) -> Operation[dict[str, Any]]:
    """What the counters must be."""
    counted = _counted((yield from _calls(row.session)))
    preview = yield from read_preview(row.session)
    active = max(row.last_active_at, (messages.newest if messages else None) or row.last_active_at)
    return {
        "message_count": messages.active if messages else 0,
        **counted,
        "preview": preview,
        "activity": active // 1000,
        "last_active_at": active,
        "next_seq": max(row.next_seq, messages.last_seq + 1 if messages else 1),
        **{name: getattr(ledger, name) if ledger else 0 for name in _TOKENS},
        **{name: getattr(ledger, name) if ledger else None for name in _COSTS},
    }


def _calls(session: int) -> Operation[list[str]]:
    rows = yield tuples(
        f"SELECT tool_calls FROM messages WHERE session = :session AND state = {ACTIVE} AND tool_calls IS NOT NULL",
        session=session,
    )
    return [text for (text,) in rows]


def _counted(texts: Sequence[str]) -> dict[str, int]:
    """How many calls these are; nothing, if that cannot be told."""
    try:
        return {"tool_call_count": sum(calls_in(json_value(text)) for text in texts)}
    except msgspec.DecodeError:
        return {}


def _differences(row: Row, wrong: dict[str, Any]) -> Iterator[Problem]:
    for name, value in wrong.items():
        yield Problem("counter", row.id, f"{name} is {getattr(row, name)!r}, its rows say {value!r}")


_ORPHANS = {
    "messages": "SELECT COUNT(*) AS n FROM messages o LEFT JOIN sessions s ON s.session = o.session"
    " WHERE s.session IS NULL",
    "usage": "SELECT COUNT(*) AS n FROM usage_rounds o LEFT JOIN sessions s ON s.session = o.session"
    " WHERE s.session IS NULL",
    "compactions": "SELECT COUNT(*) AS n FROM compactions o LEFT JOIN sessions s ON s.session = o.session"
    " WHERE s.session IS NULL",
    "texts of sessions": "SELECT COUNT(*) AS n FROM session_texts o LEFT JOIN sessions s ON s.session = o.session"
    " WHERE s.session IS NULL",
    "leases": "SELECT COUNT(*) AS n FROM leases o LEFT JOIN sessions s ON s.session = o.session"
    " WHERE s.session IS NULL",
}


def check_orphans() -> Operation[Sequence[Problem]]:
    """Rows whose session is not there."""
    problems: list[Problem] = []
    for name, sql in _ORPHANS.items():
        row = yield one(sql)
        if row.n:
            problems.append(Problem("orphans", None, f"{row.n} rows ({name}) belong to no session"))
    return problems
