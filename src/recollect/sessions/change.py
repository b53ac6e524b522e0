"""What every change to a session comes down to: columns set, texts written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..encoding import now
from ..engine.operation import Operation, execute, one


def change(session: int, values: dict[str, Any]) -> Operation[None]:
    """Sets columns of a session; it was updated now."""
    columns = "".join(f"{name} = :{name}, " for name in values)
    yield execute(
        f"UPDATE sessions SET {columns}updated_at = :now, revision = revision + 1 WHERE session = :session",
        session=session,
        now=now(),
        **values,
    )


def set_texts(session: int, texts: dict[str, str | None]) -> Operation[None]:
    """Writes some of the long texts of a session."""
    there = yield one("SELECT 1 AS n FROM session_texts WHERE session = :session", session=session)
    if there is None:
        yield execute("INSERT INTO session_texts (session) VALUES (:session)", session=session)
    columns = ", ".join(f"{name} = :{name}" for name in texts)
    yield execute(f"UPDATE session_texts SET {columns} WHERE session = :session", session=session, **texts)


def withdraw(numbers: Sequence[int], events_before: int) -> Operation[None]:
    """Takes everything off these rows that could name or find them: they are the keeper's now, and so are
    their events below that id."""
    yield execute(
        "UPDATE sessions SET gone_id = id, gone_before = :before, id = NULL, title = NULL, key = NULL,"
        " parent = NULL, preview = NULL, pending = NULL, updated_at = :now WHERE session IN :numbers",
        numbers=numbers,
        before=events_before,
        now=now(),
    )
