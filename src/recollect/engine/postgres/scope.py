"""Whose rows a transaction has, where the schema guards them by user (`row_security.py`).

`recollect.scope` is 'store' for everybody's rows. Otherwise `recollect.user_id` is whose they are, and
`recollect.pseudonym` what stands for him in what is left of his deleted sessions. Writes of several users that are
done in one go have `recollect.users`, and `recollect.claims`: sessions, each with the user whose it must be. Each is
local to its transaction, so nothing of it is on a connection that a pooler hands on; where none is set there are no
rows. An operation begins with everybody's, whatever the one before it did, and narrows that by `as_user`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..operation import Whose

STORE = b"SET LOCAL recollect.scope = 'store'"
"""everybody's rows, for a transaction that sets nothing else"""

_SET = (
    b"SELECT set_config('recollect.scope', $1, true), set_config('recollect.user_id', $2, true),"
    b" set_config('recollect.pseudonym', $3, true), set_config('recollect.users', $4, true),"
    b" set_config('recollect.claims', $5, true)"
)


def narrowing(whose: Whose | None) -> tuple[bytes, Sequence[str]]:
    """What gives a transaction these rows from here on; None: everybody's."""
    if whose is None:
        return _SET, ("store", "", "", "", "")
    user, pseudonym, users, claims = whose
    claimed = [f"{len(session)}:{session}{owner}" for session, owner in claims]
    return _SET, ("user", user or "", pseudonym or "", _array(users), _array(claimed))


def _array(texts: Iterable[str]) -> str:
    """As PostgreSQL writes it."""
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
    return "{" + ",".join([f'"{text}"' for text in quoted]) + "}" if quoted else ""
