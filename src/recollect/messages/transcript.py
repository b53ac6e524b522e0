"""Reading transcripts: a session in, its messages out, in the order of the transcript, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..encoding import decode_json, json_value, moment
from ..engine.operation import Operation, Row, all, one, tuples
from ..errors import InvalidRecord
from ..filters import numbers_of
from ..models import Message, MessageState, Page

ACTIVE = 0
STATES = (MessageState.ACTIVE, MessageState.COMPACTED, MessageState.REWOUND)
"""by their number; what has a higher one was cleared and is not there"""

COLUMNS = (
    "m.id, m.seq, m.position, m.role, m.content, m.parts, m.name, m.tool_calls, m.tool_call_id, m.round_index,"
    " m.send_index, m.state, m.compacted_by, m.reasoning, m.reasoning_details, m.provider_items, m.token_count,"
    " m.finish_reason, m.external_id, m.metadata, m.created_at"
)


def message(session_id: str, row: Sequence[Any]) -> Message:
    """A row of COLUMNS as a record."""
    (id, seq, position, role, content, parts, name, tool_calls, tool_call_id, round_index, send_index, state,
     compacted_by, reasoning, details, items, tokens, finish, external_id, metadata, created) = row  # fmt: skip
    return Message(
        id, session_id, seq, position, role, content if parts is None else decode_json(parts), content, name,
        json_value(tool_calls), tool_call_id, round_index, send_index, STATES[state], compacted_by, reasoning,
        json_value(details), json_value(items), tokens, finish, external_id,
        {} if metadata is None else decode_json(metadata), moment(created),
    )  # fmt: skip


_SESSION = "SELECT session FROM sessions WHERE id = :id"


def _arms(states: str, condition: str) -> str:
    """One SELECT per state, merged by the index that begins with it: sorting would read them all."""
    wanted = range(len(STATES)) if states == "all" else (ACTIVE,)
    return " UNION ALL ".join(
        f"SELECT {COLUMNS} FROM messages m WHERE m.session = :session AND m.state = {state}{condition}"
        for state in wanted
    )


def read_page(session_id: str, states: str, after: str | None, limit: int | None) -> Operation[Page[Message]]:
    """Messages in the order of the transcript."""
    session = yield one(_SESSION, id=session_id)
    if session is None or limit == 0:
        return Page[Message]([])
    params: dict[str, Any] = {"session": session.session}
    condition = ""
    if after is not None:
        params["position"], params["seq"] = _behind(after)
        condition = " AND (m.position, m.seq) > (:position, :seq)"
    sql = f"{_arms(states, condition)} ORDER BY 3, 2"
    if limit is not None:
        sql += " LIMIT :limit"
        params["limit"] = limit + 1
    rows = yield tuples(sql, **params)
    return _page(session_id, rows, limit)


def _page(session_id: str, rows: list[tuple[Any, ...]], limit: int | None) -> Page[Message]:
    items = [message(session_id, row) for row in rows[:limit]]
    more = limit is not None and len(rows) > limit
    return Page(items, f"{items[-1].position}.{items[-1].seq}" if more else None)


def _behind(cursor: str) -> tuple[int, int]:
    numbers = numbers_of(cursor, 2)
    if numbers is None:
        raise InvalidRecord(f"after={cursor!r} is not the `next` of a page")
    return numbers[0], numbers[1]


def _arms_since(states: str) -> str:
    """The same in the order of seq: what stands at its place by the index of places, the rest by its own.
    What each arm is ordered by is its first column, as the index has it."""
    in_place = [
        f"SELECT m.position, {COLUMNS} FROM messages m"
        f" WHERE m.session = :session AND m.state = {state} AND m.position > :after AND m.seq = m.position"
        for state in (range(len(STATES)) if states == "all" else (ACTIVE,))
    ]
    moved = f"SELECT m.seq, {COLUMNS} FROM messages m WHERE m.session = :session AND m.seq > :after"
    only = f" AND m.state < {len(STATES)}" if states == "all" else f" AND m.state = {ACTIVE}"
    return " UNION ALL ".join([*in_place, f"{moved} AND m.seq <> m.position{only}"])


def read_since(
    session_id: str, states: str, after_seq: int, after: str | None, limit: int | None
) -> Operation[Page[Message]]:
    """What was appended after a seq, in the order of appending; `after` continues a page of it."""
    if after is not None:
        after_seq = _behind_seq(after)
    session = yield one(_SESSION, id=session_id)
    if session is None or limit == 0:
        return Page[Message]([])
    params = {"session": session.session, "after": after_seq}
    sql = f"{_arms_since(states)} ORDER BY 1"
    if limit is not None:
        sql += " LIMIT :limit"
        params["limit"] = limit + 1
    rows = yield tuples(sql, **params)
    items = [message(session_id, row[1:]) for row in rows[:limit]]
    more = limit is not None and len(rows) > limit
    return Page(items, f"{_SEQ}{items[-1].seq}" if more else None)


_SEQ = "seq:"
"""how the cursor of a page in the order of appending begins"""


def _behind_seq(cursor: str) -> int:
    place = cursor.removeprefix(_SEQ) if isinstance(cursor, str) else cursor  # pyright: ignore[reportUnnecessaryIsInstance]
    numbers = numbers_of(place, 1)
    if numbers is None or place == cursor:
        raise InvalidRecord(f"after={cursor!r} is not the `next` of a page with after_seq")
    return numbers[0]


def read_tail(session_id: str, n: int) -> Operation[list[Message]]:
    """The last active messages, oldest of them first."""
    session = yield one(_SESSION, id=session_id)
    if session is None or n == 0:
        return []
    rows = yield tuples(f"{_arms('active', '')} ORDER BY 3 DESC, 2 DESC LIMIT :n", session=session.session, n=n)
    return [message(session_id, row) for row in reversed(rows)]


def read_seq(session_id: str, seq: int) -> Operation[Message | None]:
    """The message of a session with that seq, in any state."""
    session = yield one(_SESSION, id=session_id)
    if session is None:
        return None
    row = yield one(
        f"SELECT {COLUMNS} FROM messages m WHERE m.session = :session AND m.state IN (0, 1, 2)"
        " AND m.position = :seq AND m.seq = :seq"
        f" UNION ALL SELECT {COLUMNS} FROM messages m WHERE m.session = :session AND m.seq = :seq"
        f" AND m.seq <> m.position AND m.state < {len(STATES)}",
        session=session.session,
        seq=seq,
    )
    return row and message(session_id, row)


def read_id(id: int, within: str | None) -> Operation[Message | None]:
    """The message with that id, in any state."""
    row = yield one(
        f"SELECT s.user_id, s.id AS session_id, {COLUMNS} FROM messages m JOIN sessions s ON s.session = m.session"
        f" WHERE m.id = :id AND m.state < {len(STATES)} AND s.id IS NOT NULL",
        id=id,
    )
    return message(row[1], row[2:]) if row and within in (None, row.user_id) else None


def read_count(session_id: str | None, within: str | None) -> Operation[int]:
    """Messages in the transcripts of one session (0 if unknown) or of all, from the counters."""
    where = "id IS NOT NULL" if session_id is None else "id = :id"
    params = {} if session_id is None else {"id": session_id}
    if within is not None:
        where += " AND user_id = :within"
        params["within"] = within
    total = yield one(
        f"SELECT CAST(COALESCE(SUM(message_count), 0) AS BIGINT) AS n FROM sessions WHERE {where}", **params
    )
    return total.n


_PARENT = """
SELECT p.id, p.user_id, c.session
FROM sessions c LEFT JOIN sessions p ON p.session = c.parent AND c.relation = 'continuation'
WHERE c.id = :id"""


def read_conversation(
    session_id: str, ancestors: bool, limit: int | None, within: str | None
) -> Operation[list[dict[str, Any]]]:
    """The transcript as providers take it; with `ancestors` that of the sessions it continues first.

    Read from the end, so that a limit keeps the newest.
    """
    turns: list[dict[str, Any]] = []
    current: str | None = session_id
    seen: list[str] = []
    while current is not None and current not in seen and (limit is None or len(turns) < limit):
        seen.append(current)
        row = yield one(_PARENT, id=current)
        if row is None:
            break
        left = None if limit is None else limit - len(turns)
        turns[:0] = yield from _turns(row.session, left)
        current = row.id if ancestors and within in (None, row.user_id) else None
    return turns


def _turns(session: int, limit: int | None) -> Operation[list[dict[str, Any]]]:
    if limit is None:
        rows = yield all(f"{_arms('active', '')} ORDER BY 3, 2", session=session)
    else:
        rows = yield all(f"{_arms('active', '')} ORDER BY 3 DESC, 2 DESC LIMIT :n", session=session, n=limit)
        rows.reverse()
    return [_turn(row) for row in rows]


def _turn(row: Row) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": row.role, "content": row.content if row.parts is None else decode_json(row.parts)}
    for key, value in (("tool_call_id", row.tool_call_id), ("tool_name", row.name)):
        if value is not None:
            turn[key] = value
    if row.tool_calls is not None:
        turn["tool_calls"] = decode_json(row.tool_calls)
    if row.role == "assistant":
        turn.update(_reasoning(row))
    return turn


def _reasoning(row: Row) -> dict[str, Any]:
    found = {
        "reasoning": row.reasoning,
        "reasoning_details": json_value(row.reasoning_details),
        "codex_reasoning_items": json_value(row.provider_items),
    }
    return {key: value for key, value in found.items() if value is not None}
