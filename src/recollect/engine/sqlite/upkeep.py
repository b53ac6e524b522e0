"""What SQLite is asked to do for its file: to look at its structure, to tidy. Runs on a connection's thread."""

from __future__ import annotations

import sqlite3

from .faults import is_of_driver, translate
from .run import Request

_REPORTED = 100
"""faults that SQLite lists, at most"""

_ANALYZED = 1_000
"""rows of an index looked at for the planner's statistics (sqlite.org/lang_analyze.html)"""


def structural_faults(connection: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with the file. From 3.44 on it looks at the search index too, which is made anew where it
    is damaged, and counts for nothing here."""
    rows = connection.execute(f"PRAGMA integrity_check({_REPORTED})").fetchall()
    return [text for (text,) in rows if text != "ok" and "fts5" not in text.lower()]


def read_integrity(connection: sqlite3.Connection, request: Request) -> list[str]:
    """What is wrong with the structure of the file; nothing: []."""
    connection.set_progress_handler(request.stops, 10_000)
    try:
        return structural_faults(connection)
    except Exception as error:
        if not is_of_driver(error):
            raise
        raise translate(error) from error
    finally:
        connection.set_progress_handler(None, 0)


def tidy(connection: sqlite3.Connection, vacuum: bool) -> tuple[int, int, int]:
    """Statistics for the planner, and an empty log: whether others were in the way, its pages, those moved to the
    database. With `vacuum` the file is written anew first."""
    try:
        if vacuum:
            connection.execute("VACUUM")
        connection.execute(f"PRAGMA analysis_limit={_ANALYZED}").fetchall()
        connection.execute("PRAGMA optimize").fetchall()
        busy, log, moved = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except Exception as error:
        if not is_of_driver(error):
            raise
        raise translate(error) from error
    return busy, log, moved
