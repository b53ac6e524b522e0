"""Corrections: rows of the ledger that belong to no round, given as differences or as totals."""

from __future__ import annotations

from ..access import locked
from ..engine.operation import Operation, one
from .ledger import COSTS, TOKENS, Round, SessionRounds, write_rounds

_COUNTERS = (
    "session, send_index, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,"
    " estimated_cost, actual_cost"
)

_COUNTER_OF = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
"""where a counter of the session is called otherwise than in the ledger"""


def add(session_id: str, round_: Round) -> Operation[None]:
    """Inserts a row of differences."""
    row = yield from locked(session_id, _COUNTERS)
    yield from write_rounds([SessionRounds(row.session, row.send_index, None, [round_])])


def set_totals(session_id: str, totals: Round, given: frozenset[str]) -> Operation[None]:
    """Inserts the row that brings the given counters to these totals; the others keep theirs."""
    row = yield from locked(session_id, _COUNTERS)
    names: tuple[str, ...] = (*TOKENS, *COSTS)
    wanted: dict[str, int | None] = dict(zip(names, totals.amounts, strict=True))
    present = {name: getattr(row, _COUNTER_OF.get(name, name)) for name in wanted if name != "total_tokens"}
    amounts = {name: _difference(wanted[name], present[name]) if name in given else None for name in present}
    amounts = {name: 0 if amount is None and name in TOKENS else amount for name, amount in amounts.items()}
    amounts["total_tokens"] = (amounts["prompt_tokens"] or 0) + (amounts["completion_tokens"] or 0)
    if "total_tokens" in given:
        amounts["total_tokens"] = (wanted["total_tokens"] or 0) - (yield from _total(row.session))
    correction = totals._replace(amounts=tuple([amounts[name] for name in wanted]))
    yield from write_rounds([SessionRounds(row.session, row.send_index, None, [correction])])


def _difference(wanted: int | None, present: int | None) -> int | None:
    return None if wanted is None else wanted - (present or 0)


def _total(session: int) -> Operation[int]:
    """The one total that the session has no counter of."""
    row = yield one(
        "SELECT CAST(COALESCE(SUM(total_tokens), 0) AS BIGINT) AS n FROM usage_rounds WHERE session = :session",
        session=session,
    )
    return row.n
