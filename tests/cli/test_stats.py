"""`recollect stats`."""

from __future__ import annotations

from pathlib import Path

import pytest

from recollect.cli.stats import size

from .conftest import Run


def test_how_much_there_is(recollect: Run, db: Path) -> None:
    """Names and values between tabs in a pipe."""
    facts = dict(recollect("stats").lines)
    assert facts["database"] == str(db)
    assert (facts["sessions"], facts["messages"], facts["search index"]) == ("3", "8", "ready")


def test_programs_get_one_object(recollect: Run) -> None:
    """Every field of the store's statistics."""
    [stats] = recollect("stats", "--json").json
    assert (stats["sessions"], stats["messages"], stats["index_lag"]) == (3, 8, 0)


def test_a_terminal_gets_the_same(in_terminal: Run) -> None:
    """In two columns."""
    assert "search index" in in_terminal("stats").out


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (300 * 1024**2, "300 MiB"), (2**50, "1,024 TiB")]
)
def test_sizes_are_for_people(n: int, text: str) -> None:
    """Three digits or so, in powers of 1,024."""
    assert size(n) == text
