"""Schema: numbered .sql files in, the database's version up to date, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import cache
from importlib import resources

from ...errors import NotAStore, SchemaTooNew

APPLICATION_ID = 0x7265636C
"""'recl', in the header of every store"""


@cache
def migrations() -> list[tuple[int, str]]:
    """(version, SQL) of every migration, ascending."""
    folder = resources.files("recollect.engine.sqlite").joinpath("migrations")
    files = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".sql"))
    return [(int(name.split("_")[0]), file.read_text(encoding="utf-8")) for name, file in files]


def newest() -> int:
    """The version this code knows."""
    return migrations()[-1][0]


def check_version(connection: sqlite3.Connection) -> int:
    """The database's version; SchemaTooNew where this code does not know it."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > (known := newest()):
        raise SchemaTooNew(f"the database has schema {version}, this recollect knows up to {known}: upgrade it")
    return version


def migrate(connection: sqlite3.Connection) -> None:
    """Applies what is missing. Two first opens at once: one does it, the other waits and finds it done."""
    if _is_ours(connection) and check_version(connection) == newest():
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        refuse_foreign(connection)
        version = check_version(connection)
        for number, script in migrations():
            if number > version:
                for statement in statements(script):
                    connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID:d}")
        connection.execute(f"PRAGMA user_version={newest():d}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def refuse_foreign(connection: sqlite3.Connection) -> None:
    """Raises NotAStore for another application's database, and SchemaTooNew; nothing is changed before."""
    if not _is_ours(connection) and not _is_blank(connection):
        raise NotAStore("this is another application's database: name another file")
    if _is_ours(connection):
        check_version(connection)


def statements(script: str) -> Iterator[str]:
    """The statements of a script: `executescript` would commit before it begins."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _is_ours(connection: sqlite3.Connection) -> bool:
    return connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID


def _is_blank(connection: sqlite3.Connection) -> bool:
    """Nobody's yet: no tables, and no other application's marks in the header."""
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
    marks = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    return not (tables or any(marks))
