"""Behind pgbouncer in transaction mode, where each transaction may run on another connection of the server."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from recollect import AsyncSessionStore

from .exercise import exercise

PATIENCE_S = 10.0

pytestmark = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed")

CONFIGURATION = """
[databases]
store = host={host} port={port} dbname={dbname} user={user}{secret} connect_query='SET search_path TO {schema}'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
logfile = {folder}/log
"""


@pytest.fixture
def pooled(recollect_postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of an empty schema behind pgbouncer."""
    server = conninfo_to_dict(recollect_postgres_server)
    host = str(server["host"])
    owner = pwd.getpwuid(os.stat(host).st_uid).pw_name if host.startswith("/") else "nobody"
    folder = tmp_path_factory.mktemp("pgbouncer")
    for above in (folder, *folder.parents[:2]):
        above.chmod(0o755)
    shutil.chown(folder, owner)
    own_port = free_port()
    given = {"port": 5432, "user": "postgres", "dbname": "postgres", **server, "own_port": own_port}
    given["secret"] = f" password={server['password']}" if "password" in server else ""
    settings = folder / "pgbouncer.ini"
    settings.write_text(CONFIGURATION.format(**given, schema="recollect_pooled", folder=folder))
    command = ["pgbouncer", "-q", str(settings)]
    if os.geteuid() == 0:  # it does not run as root
        command[1:1] = ["-u", owner]
    with psycopg.connect(recollect_postgres_server, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA recollect_pooled")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(own_port, process, folder / "log")
            yield f"postgresql://{given['user']}@127.0.0.1:{own_port}/store"
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
            connection.execute("DROP SCHEMA recollect_pooled CASCADE")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < end:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"pgbouncer did not start: {log.read_text() if log.exists() else process.returncode}")


async def test_all_that_the_rooms_ask_is_done_behind_a_pooler(pooled: str):
    """Every operation of every room; nothing relies on what a connection remembers."""
    async with AsyncSessionStore(pooled) as store:
        await exercise(store)
        assert (await store.check()).is_sound


async def test_more_stores_than_the_pooler_has_connections_share_them(pooled: str):
    """Many tasks of several stores, a watch among them: each message once, in the order of each task's calls."""
    stores = [AsyncSessionStore(pooled) for _ in range(3)]
    try:
        for store in stores:
            await store.open()
        for n in range(6):
            await stores[0].sessions.create(f"s{n}")

        async def say(store: AsyncSessionStore, n: int, who: int) -> list[int]:
            said = [await store.messages.append(f"s{n}", role="user", content=f"{who} {k}") for k in range(20)]
            return [ref.id for ref in said]

        async with asyncio.timeout(30), stores[0].watch(kinds="message") as live:
            ids = await asyncio.gather(*[say(store, n, who) for who, store in enumerate(stores) for n in range(6)])
            seen = [(await anext(live)).id for _ in range(360)]
        assert seen == sorted(id for each in ids for id in each)
        assert all(each == sorted(each) for each in ids)
        hits = [hit async for hit in stores[1].search('"2 7"', limit=None)]
        assert len(hits) == 6
    finally:
        for store in stores:
            await store.aclose()
