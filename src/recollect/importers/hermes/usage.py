"""Tokens and costs: what the file counts for a session, against what the ledger has from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ...encoding import Encoder, millionths
from ...errors import InvalidRecord
from ...models import UsageRound
from .rows import Fields, text_of

SOURCE = "hermes"
"""`source` of the rows in the ledger; of auxiliary calls it is this, a colon and their task"""

MODEL_COLUMNS = frozenset(
    {
        "model", "task", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens",
        "reasoning_tokens", "estimated_cost_usd", "actual_cost_usd",
    }
)  # fmt: skip
"""of the table `session_model_usage` in later releases"""


class Share(NamedTuple):
    """Whose tokens they are."""

    model: str | None
    source: str


class Amounts(NamedTuple):
    """Tokens, prompts with what was cached in them; costs in millionths, None where they are unknown."""

    prompt: int = 0
    completion: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    estimated: int | None = None
    actual: int | None = None

    def plus(self, other: Amounts, sign: int = 1) -> Amounts:
        """The sum; what is unknown on one side counts nothing."""
        tokens = [mine + sign * its for mine, its in zip(self[:5], other[:5], strict=True)]
        costs = [
            None if mine is None and its is None else (mine or 0) + sign * (its or 0)
            for mine, its in zip(self[5:], other[5:], strict=True)
        ]
        return Amounts(*tokens, *costs)

    @property
    def is_nothing(self) -> bool:
        """Whether there is no figure in it."""
        return not any(self)


def counted(session: Fields, by_model: Iterable[Fields], encoder: Encoder) -> dict[Share, Amounts]:
    """What the file counts for a session: the totals in its row, told apart by model where the file does,
    and the auxiliary calls, which the totals do not contain."""
    total = _amounts(session)
    shares: dict[Share, Amounts] = {}
    rest = total
    for row in by_model:
        amounts = _known_costs(_amounts(row), total)
        task = text_of(row.get("task"))
        share = Share(_model(row, encoder), f"{SOURCE}:{task}" if task else SOURCE)
        shares[share] = shares.get(share, Amounts()).plus(amounts)
        if not task:
            rest = rest.plus(amounts, -1)
    own = Share(_model(session, encoder), SOURCE)
    shares[own] = shares.get(own, Amounts()).plus(rest)
    # a cost of 0 is known to be nothing, and is kept
    return {share: amounts for share, amounts in shares.items() if any(amounts[:5]) or amounts[5:] != (None, None)}


def _model(row: Fields, encoder: Encoder) -> str | None:
    """As it is in the ledger, which it is compared with."""
    name = text_of(row.get("model"))
    return None if name in ("", "unknown") else encoder.text(name, "model")


def _known_costs(amounts: Amounts, total: Amounts) -> Amounts:
    """That table says 0 where a cost is unknown; the session's row says which."""
    return amounts._replace(
        estimated=amounts.estimated or (None if total.estimated is None else 0),
        actual=amounts.actual or (None if total.actual is None else 0),
    )


def _amounts(row: Fields) -> Amounts:
    """Providers count cached tokens among those of the prompt, these columns do not."""
    read, write = _tokens(row, "cache_read_tokens"), _tokens(row, "cache_write_tokens")
    return Amounts(
        _tokens(row, "input_tokens") + read + write,
        _tokens(row, "output_tokens"),
        read,
        write,
        _tokens(row, "reasoning_tokens"),
        _cost(row, "estimated_cost_usd"),
        _cost(row, "actual_cost_usd"),
    )


_MOST = 2**50


def _tokens(row: Fields, name: str) -> int:
    value = row.get(name)
    return int(value) if isinstance(value, int | float) and abs(value) < _MOST else 0


def _cost(row: Fields, name: str) -> int | None:
    value = row.get(name)
    try:
        return millionths(value, name) if isinstance(value, int | float) else None
    except InvalidRecord:
        return None


def recorded(rounds: Iterable[UsageRound]) -> dict[Share, Amounts]:
    """What the ledger has from earlier imports."""
    shares: dict[Share, Amounts] = {}
    for row in rounds:
        if row.source == SOURCE or (row.source or "").startswith(f"{SOURCE}:"):
            share = Share(row.model, row.source or "")
            shares[share] = shares.get(share, Amounts()).plus(_of_ledger(row))
    return shares


def _of_ledger(row: UsageRound) -> Amounts:
    return Amounts(
        row.prompt_tokens,
        row.completion_tokens,
        row.cache_read_tokens,
        row.cache_write_tokens,
        row.reasoning_tokens,
        millionths(row.estimated_cost_usd, "estimated_cost_usd"),
        millionths(row.actual_cost_usd, "actual_cost_usd"),
    )


def differences(wanted: Mapping[Share, Amounts], present: Mapping[Share, Amounts]) -> dict[Share, Amounts]:
    """What must be added to the ledger."""
    shares = [*wanted, *[share for share in present if share not in wanted]]
    return {share: found for share in shares if (found := _difference(wanted.get(share), present.get(share)))}


def _difference(wanted: Amounts | None, present: Amounts | None) -> Amounts | None:
    if present is None:
        return wanted
    missing = (wanted or Amounts()).plus(present, -1)
    return None if missing.is_nothing else missing


def as_usage(share: Share, amounts: Amounts, at: datetime | None) -> dict[str, Any]:
    """The fields of a correction."""
    return {
        "model": share.model,
        "source": share.source,
        "prompt_tokens": amounts.prompt,
        "completion_tokens": amounts.completion,
        "cache_read_tokens": amounts.cache_read,
        "cache_write_tokens": amounts.cache_write,
        "reasoning_tokens": amounts.reasoning,
        "estimated_cost_usd": None if amounts.estimated is None else amounts.estimated / 1_000_000,
        "actual_cost_usd": None if amounts.actual is None else amounts.actual / 1_000_000,
        "created_at": at,
    }
