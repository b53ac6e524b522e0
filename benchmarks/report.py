"""A measurement as a row: ours, the baseline's, and their ratio; the median of paired repetitions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table."""

    what: str
    ours: float
    plain: float | None
    unit: str
    ratio: float | None
    """ours to the baseline's: of a rate higher is better, of a time lower is"""
    spread: str
    note: str = ""


def paired(what: str, pairs: Sequence[tuple[float, float]], unit: str, note: str = "") -> Row:
    """The medians over repetitions in each of which both were measured."""
    ratios = sorted(ours / plain for ours, plain in pairs)
    return Row(
        what,
        statistics.median(ours for ours, _ in pairs),
        statistics.median(plain for _, plain in pairs),
        unit,
        statistics.median(ratios),
        f"{ratios[0]:.2f}–{ratios[-1]:.2f}",
        note,
    )


def alone(what: str, values: Sequence[float], unit: str, note: str = "") -> Row:
    """A figure without a baseline."""
    ordered = sorted(values)
    return Row(what, statistics.median(ordered), None, unit, None, f"{ordered[0]:.4g}–{ordered[-1]:.4g}", note)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def repeat(times: int, measure: Callable[[], tuple[float, float]]) -> list[tuple[float, float]]:
    """Pairs, one after the other."""
    return [measure() for _ in range(times)]
