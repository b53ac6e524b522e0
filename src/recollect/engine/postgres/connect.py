"""Connections to a server: how they are made, and what may stand in between."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ...errors import InvalidRecord
from ...options import Durability
from .pipeline import Command, Connection

STUCK_S = 30.0
"""beyond the patience with locks: so long a batch may take; then its connection counts as lost"""


class NotConnected(psycopg.OperationalError):
    """The server cannot be reached, or lets nobody in; it may later."""


class Server:
    """A database on a server, by its DSN."""

    def __init__(self, dsn: str, durability: Durability, patience_s: float) -> None:
        try:
            given = conninfo_to_dict(dsn)
        except psycopg.Error as error:
            raise InvalidRecord(f"that is no DSN of PostgreSQL: {error}") from None
        place = f"{given.get('host') or ''}:{given.get('port') or ''}/{given.get('dbname') or ''}"
        self.name = f"postgresql://{place}"
        """without secrets"""
        self.is_pooled = False
        """whether something hands one connection of the server to several clients in turn, as pgbouncer does"""
        self.guards_rows = False
        """whether the schema guards its rows by user"""
        self.patience_s = patience_s
        self.begin = _begin(durability, patience_s)
        """what a transaction that writes begins with"""
        self.dsn = make_conninfo(dsn, **{name: value for name, value in _DEFAULTS.items() if name not in given})

    def _settings(self, reading: bool) -> dict[str, Any]:
        """What psycopg is told beside the DSN. Which index is best for a search depends on how often its words occur,
        so a reader's statements are planned each time."""
        given: dict[str, Any] = {"autocommit": True, "prepare_threshold": None}
        if reading and not self.is_pooled:
            own = conninfo_to_dict(self.dsn).get("options") or ""
            given["options"] = f"{own} -c plan_cache_mode=force_custom_plan".strip()
        return given

    async def connect(self, *, reading: bool = False) -> Connection:
        """A connection. Raises NotConnected."""
        try:
            connection = await Connection.connect(self.dsn, **self._settings(reading))
        except psycopg.Error as error:
            raise NotConnected(str(error)) from error
        self.configure(connection)
        return connection

    def configure(self, connection: Connection) -> None:
        """Tells a connection what is known of the server."""
        connection.prepares = not self.is_pooled
        connection.guards = self.guards_rows

    async def look(self, connection: Connection) -> None:
        """Finds out whether a pooler stands in between: it numbers its clients itself."""
        cursor = await connection.execute("SELECT pg_backend_pid()")
        row = await cursor.fetchone()
        self.is_pooled = row is not None and row[0] != connection.info.backend_pid


_DEFAULTS = {
    "fallback_application_name": "recollect",
    "tcp_user_timeout": 30_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
}
"""a network that swallows everything is found out after 30 s: what is sent (milliseconds), and what is waited for"""


def _begin(durability: Durability, patience_s: float) -> tuple[Command, ...]:
    """Settings go with each transaction, for a pooler would not keep them for us. A process that is stopped in the
    middle of one must not hold up the others for ever: the server ends it."""
    patience_ms = max(1, int(patience_s * 1000))
    settings = {
        "synchronous_commit": "on" if durability is Durability.COMMIT else "off",
        "lock_timeout": patience_ms,
        "idle_in_transaction_session_timeout": patience_ms + int(STUCK_S * 1000),
    }
    calls = [f"set_config('{name}', '{value}', true)" for name, value in settings.items()]
    return Command(b"BEGIN"), Command(f"SELECT {', '.join(calls)}".encode())
