"""The ledger: rows of tokens and costs; the counters of a session are their sums, kept as it grows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..access import locked
from ..encoding import Encoder, bounded, count, dollars, instant, millionths, moment, now
from ..engine.operation import Operation, Row, all, ids, many
from ..errors import InvalidRecord
from ..filters import Filter
from ..models import NewUsage, UsageRound, UsageTotal

TOKENS = (
    "prompt_tokens", "completion_tokens", "total_tokens", "cache_read_tokens", "cache_write_tokens",
    "reasoning_tokens",
)  # fmt: skip
COSTS = ("estimated_cost", "actual_cost")
_COUNTED = (*TOKENS, *COSTS)

_BILLING = ("model", "billing_provider", "billing_base_url", "billing_mode")
"""the first value given stays"""
_STATUS = ("cost_status", "cost_source", "pricing_version")
"""the last value given stays"""


class Round(NamedTuple):
    """A row for the ledger, checked and encoded."""

    round_index: int | None
    send_index: int | None
    amounts: tuple[int | None, ...]
    """in the order of TOKENS and COSTS"""
    model: str | None
    source: str | None
    created_at: int
    billing: tuple[str | None, ...]
    """in the order of _BILLING and _STATUS"""


class SessionRounds(NamedTuple):
    """Rows of one session, with what stands in for an index that was not given. A row that has no
    round_index even so belongs to no round: it replaces none, and none replaces it."""

    session: int
    send_index: int
    round_index: int | None
    rounds: Sequence[Round]


def prepare_round(encoder: Encoder, usage: NewUsage, *, signed: bool = False) -> Round:
    """Checks and encodes one row; only that of a correction may be `signed`."""
    tokens = {name: _tokens(usage, name, signed) for name in TOKENS if name != "total_tokens"}
    total = usage.total_tokens
    tokens["total_tokens"] = (
        tokens["prompt_tokens"] + tokens["completion_tokens"]
        if total is None
        else _tokens(usage, "total_tokens", signed)
    )
    costs = [millionths(getattr(usage, f"{name}_usd"), f"{name}_usd") for name in COSTS]
    created = instant(usage.created_at, "created_at")
    return Round(
        None if usage.round_index is None else bounded(usage.round_index, "round_index"),
        count(usage.send_index, "send_index"),
        (*[tokens[name] for name in TOKENS], *costs),
        encoder.text(usage.model, "model"),
        encoder.text(usage.source, "source"),
        now() if created is None else created,
        tuple([encoder.text(getattr(usage, name), name) for name in (*_BILLING, *_STATUS)]),
    )


def _tokens(usage: NewUsage, name: str, signed: bool) -> int:
    value = getattr(usage, name)
    if value is None:
        raise InvalidRecord(f"{name} must be a whole number, not None")
    if signed and bounded(value, name) < 0:
        return -(count(-value, name) or 0)
    return count(value, name) or 0


# -- operations ------------------------------------------------------------------------------------

_LEDGER_COLUMNS = (
    "id", "session", "send_index", "round_index", "model", "source", *_COUNTED, "created_at",
)  # fmt: skip

_INSERT = f"INSERT INTO usage_rounds ({', '.join(_LEDGER_COLUMNS)}) VALUES ({', '.join('?' * len(_LEDGER_COLUMNS))})"

_OWN_ROWS = f"""
SELECT id, session, send_index, round_index, {", ".join(_COUNTED)}
FROM usage_rounds WHERE session IN :sessions AND send_index IN :sends AND round_index IN :rounds"""

_PROBED_AT_ONCE = 8
"""sends in one such statement: the index is probed for each of the rounds in each of the sends of each session"""

_APPLY = """
UPDATE sessions SET input_tokens = input_tokens + ?, output_tokens = output_tokens + ?,
  cache_read_tokens = cache_read_tokens + ?, cache_write_tokens = cache_write_tokens + ?,
  reasoning_tokens = reasoning_tokens + ?,
  estimated_cost = COALESCE(estimated_cost + ?, estimated_cost, ?),
  actual_cost = COALESCE(actual_cost + ?, actual_cost, ?),
  model = COALESCE(model, ?), billing_provider = COALESCE(billing_provider, ?),
  billing_base_url = COALESCE(billing_base_url, ?), billing_mode = COALESCE(billing_mode, ?),
  cost_status = COALESCE(?, cost_status), cost_source = COALESCE(?, cost_source),
  pricing_version = COALESCE(?, pricing_version), revision = revision + 1
WHERE session = ?"""

_SUM_COSTS = """
UPDATE sessions SET
  estimated_cost = (SELECT CAST(SUM(u.estimated_cost) AS BIGINT)
    FROM usage_rounds u WHERE u.session = sessions.session),
  actual_cost = (SELECT CAST(SUM(u.actual_cost) AS BIGINT) FROM usage_rounds u WHERE u.session = sessions.session)
WHERE session = ?"""
"""a figure that is taken back is unknown again, not zero"""


def record_round(session_id: str, round_: Round) -> Operation[None]:
    """Writes the row of a round, in place of one that is there for the same send and round."""
    session = yield from locked(session_id, "session, send_index, round_index")
    yield from write_rounds([SessionRounds(session.session, session.send_index, session.round_index, [round_])])


def write_rounds(sessions: Sequence[SessionRounds]) -> Operation[None]:
    """Writes rows of locked sessions and applies what they change to the counters, as if one after the
    other: a row takes the place of the one of the same session, send and round."""
    rows = [_resolved(session, round_) for session in sessions for round_ in session.rounds]
    stored = yield from _stored([row.key for row in rows if row.round_index is not None])
    amounts: dict[Key, Sequence[int | None]] = {key: row[-len(_COUNTED) :] for key, row in stored.items()}
    remaining: dict[Key | int, _Resolved] = {}
    updates: list[tuple[Any, ...]] = []
    cleared: set[int] = set()
    for at, row in enumerate(rows):
        if row.round_index is None:
            updates.append(_as_update(row, None))
            remaining[at] = row
        else:
            updates.append(_as_update(row, amounts.get(row.key)))
            if _takes_back(amounts.get(row.key), row.round.amounts):
                cleared.add(row.session)
            amounts[row.key] = row.round.amounts
            remaining.pop(row.key, None)  # the later one comes later in the ledger
            remaining[row.key] = row
    if stored:
        yield many("DELETE FROM usage_rounds WHERE id = ?", [(row.id,) for row in stored.values()])
    numbers = yield ids(len(remaining))
    yield many(_INSERT, [_as_row(number, row) for number, row in zip(numbers, remaining.values(), strict=True)])
    yield many(_APPLY, updates)
    if cleared:
        yield many(_SUM_COSTS, [(session,) for session in sorted(cleared)])


def _takes_back(before: Sequence[int | None] | None, after: Sequence[int | None]) -> bool:
    """Whether a cost that was known is not any more."""
    costs = zip((before or after)[-len(COSTS) :], after[-len(COSTS) :], strict=True)
    return any(was is not None and now_is is None for was, now_is in costs)


Key = tuple[int, int, int | None]
"""session, send and round"""


def _stored(keys: Sequence[Key]) -> Operation[dict[Key, Row]]:
    """The rows of these keys that are in the ledger."""
    by_send: dict[tuple[int, int], set[int | None]] = {}
    for session, send, index in sorted(keys):
        by_send.setdefault((session, send), set()).add(index)
    sends = list(by_send)
    found: dict[Key, Row] = {}
    for first in range(0, len(sends), _PROBED_AT_ONCE):
        some = sends[first : first + _PROBED_AT_ONCE]
        rows = yield all(
            _OWN_ROWS,
            sessions=sorted({session for session, _ in some}),
            sends=sorted({send for _, send in some}),
            rounds=list({index for send in some for index in by_send[send]}),
        )
        found.update({(row.session, row.send_index, row.round_index): row for row in rows})
    wanted = set(keys)
    return {key: row for key, row in found.items() if key in wanted}


class _Resolved(NamedTuple):
    session: int
    send_index: int
    round_index: int | None
    round: Round

    @property
    def key(self) -> Key:
        return self.session, self.send_index, self.round_index


def _resolved(session: SessionRounds, round_: Round) -> _Resolved:
    send = session.send_index if round_.send_index is None else round_.send_index
    index = session.round_index if round_.round_index is None else round_.round_index
    return _Resolved(session.session, send, index, round_)


def _as_row(number: int, row: _Resolved) -> tuple[Any, ...]:
    r = row.round
    return (number, row.session, row.send_index, row.round_index, r.model, r.source, *r.amounts, r.created_at)


def _as_update(row: _Resolved, before: Sequence[int | None] | None) -> tuple[Any, ...]:
    """The difference that a row makes to its session, where the amounts before it were these."""
    before = before or (None,) * len(_COUNTED)
    prompt, completion, _, read, write, reasoning, estimated, actual = map(_difference, row.round.amounts, before)
    return (
        prompt, completion, read, write, reasoning, estimated, estimated, actual, actual,
        row.round.model, *row.round.billing[1:], row.session,
    )  # fmt: skip


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None and before is None else (after or 0) - (before or 0)


def read_rounds(session_id: str) -> Operation[list[UsageRound]]:
    """A session's ledger, in the order of its rows."""
    rows = yield all(
        f"SELECT {', '.join(f'u.{name}' for name in _LEDGER_COLUMNS)}"
        " FROM usage_rounds u JOIN sessions s ON s.session = u.session WHERE s.id = :id ORDER BY u.id",
        id=session_id,
    )
    return [_round(session_id, row) for row in rows]


def _round(session_id: str, row: Row) -> UsageRound:
    return UsageRound(
        row.id, session_id, row.send_index, row.round_index, row.model, row.source, row.prompt_tokens,
        row.completion_tokens, row.total_tokens, row.cache_read_tokens, row.cache_write_tokens,
        row.reasoning_tokens, dollars(row.estimated_cost), dollars(row.actual_cost), moment(row.created_at),
    )  # fmt: skip


DAY_MS = 86_400_000

_DAY = f"(u.created_at - CASE WHEN u.created_at < 0 THEN {DAY_MS - 1} ELSE 0 END) / {DAY_MS}"
"""division cuts towards zero: before 1970 that is the wrong day"""

GROUPS = {"session": "s.id", "model": "u.model", "source": "s.source", "day": _DAY}


def read_totals(by: str, where: Filter) -> Operation[list[UsageTotal]]:
    """Sums of the ledger by group, largest first; of equals, what has no group comes first."""
    group = GROUPS[by]
    sums = ", ".join(f"CAST(COALESCE(SUM(u.{name}), 0) AS BIGINT) AS {name}" for name in _COUNTED)
    rows = yield all(
        f"SELECT {group} AS grouped, COUNT(*) AS rounds, {sums}"
        f" FROM usage_rounds u JOIN sessions s ON s.session = u.session WHERE s.id IS NOT NULL{where.sql}"
        f" GROUP BY {group} ORDER BY 5 DESC, CASE WHEN {group} IS NULL THEN 0 ELSE 1 END, 1",
        **where.params,
    )
    return [_total(by, row) for row in rows]


def _total(by: str, row: Row) -> UsageTotal:
    group = row.grouped
    if by == "day":
        group = datetime.fromtimestamp(group * DAY_MS / 1000, UTC).date().isoformat()
    return UsageTotal(
        group, row.rounds, row.prompt_tokens, row.completion_tokens, row.total_tokens, row.cache_read_tokens,
        row.cache_write_tokens, row.reasoning_tokens, row.estimated_cost / 1_000_000, row.actual_cost / 1_000_000,
    )  # fmt: skip
