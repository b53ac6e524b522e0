"""`python -m benchmarks`: runs the measurements and prints a table."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import appending, finding, gateway, importing, reading, transport
from .report import Row


def _postgres(folder: Path, repetitions: int) -> Iterator[Row]:
    from . import postgres  # needs the extra of that name

    return postgres.rows(folder, repetitions)


PARTS: dict[str, Callable[[Path, int], Iterator[Row]]] = {
    "append": appending.rows,
    "read": reading.rows,
    "gateway": gateway.rows,
    "search": finding.rows,
    "import": importing.rows,
    "transport": transport.rows,
    "postgres": _postgres,
    "million": finding.million_rows,
}
"""what can be measured"""

UNASKED = tuple(PARTS)[:-2]
"""what is measured if nothing is named: `postgres` needs a server, `million` takes minutes"""

TITLE = (
    "Durability.COMMIT (synchronous=FULL), search enabled,"
    f" SQLite {sqlite3.sqlite_version}, Python {sys.version.split()[0]}"
)


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all but the last two if none is named")
    parser.add_argument("--json", action="store_true", help="for machines: one object a row")
    parser.add_argument("--repetitions", type=int, default=5, help="paired runs, of which the median is shown")
    parser.add_argument("--folder", type=Path, help="where the databases are made (default: a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = [row for part in given.parts or UNASKED for row in PARTS[part](Path(folder), given.repetitions)]
    if given.json:
        for row in rows:
            print(json.dumps(row._asdict()))
    else:
        Console().print(_table(rows))


def _table(rows: list[Row]) -> Table:
    table = Table(title=TITLE)
    for name in ("what", "ours", "plain", "unit", "ratio", "spread", "note"):
        table.add_column(name, justify="left" if name in ("what", "unit", "note") else "right")
    for row in rows:
        plain = "" if row.plain is None else f"{row.plain:,.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.what, f"{row.ours:,.4g}", plain, row.unit, ratio, row.spread, row.note)
    return table


if __name__ == "__main__":
    main()
