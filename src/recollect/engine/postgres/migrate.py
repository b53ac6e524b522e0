"""Schema: numbered .sql files in, the database's version up to date, in one transaction.

Two first boots at once: one does it, the other waits for its advisory lock and finds it done.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib import resources

from ...errors import NotAStore, ReadOnly, SchemaTooNew
from .pipeline import Connection
from .scope import STORE

BOOT = 0x7265636F6C6C6563
"""'recollec': the advisory lock of whoever makes or changes the schema"""


@cache
def migrations() -> list[tuple[int, str]]:
    """(version, SQL) of every migration, ascending."""
    folder = resources.files("recollect.engine.postgres").joinpath("migrations")
    files = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".sql"))
    return [(int(name.split("_")[0]), file.read_text(encoding="utf-8")) for name, file in files]


def newest() -> int:
    """The version this code knows."""
    return migrations()[-1][0]


async def migrate(connection: Connection, *, readonly: bool) -> None:
    """Applies what is missing. Raises SchemaTooNew, NotAStore, and ReadOnly where that would have to write."""
    scripts = await asyncio.to_thread(migrations)  # files, read once
    if await _version(connection) == newest():
        return
    if readonly:
        raise ReadOnly("there is no store of this version in that database, and readonly=True makes none")
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (BOOT,))
        version = await _version(connection)
        if version == 0:
            await _refuse_foreign(connection)
        await connection.execute(STORE)  # what is there may be guarded
        for number, script in scripts:
            if number > version:
                await connection.execute(script.encode())
        await connection.execute("UPDATE recollect_schema SET version = %s", (newest(),))


async def _version(connection: Connection) -> int:
    """The schema's version; 0 where there is none. Raises SchemaTooNew."""
    if "recollect_schema" not in await _tables(connection):
        return 0
    cursor = await connection.execute("SELECT version FROM recollect_schema")
    (version,) = await cursor.fetchone() or (0,)
    if version > newest():
        raise SchemaTooNew(f"the database has schema {version}, this recollect knows up to {newest()}: upgrade it")
    return version


async def _refuse_foreign(connection: Connection) -> None:
    if taken := await _tables(connection) & {"sessions", "messages", "events"}:
        raise NotAStore(
            f"another application has {', '.join(sorted(taken))} in that schema: name another (search_path)"
        )


async def _tables(connection: Connection) -> set[str]:
    """The tables of the schema in which ours are made. From the catalog: `to_regclass` would answer from a cache
    that does not know what another has committed while one waited for the lock."""
    cursor = await connection.execute("SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema()")
    return {name for (name,) in await cursor.fetchall()}
