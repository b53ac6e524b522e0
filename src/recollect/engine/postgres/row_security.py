"""Row-level security: the database itself keeps users apart, also from an operation that forgets to.

An option, not a migration: it costs something, and the role has to be one that policies apply to. The owner of the
tables makes it (`row_security=True`, once, in one transaction); every other role that asks for it finds out whether it
would hold, and is refused otherwise. A store that did not ask finds it made and works with it.

- *Policies* let through what is everybody's (`recollect.scope` is 'store') or the user's; nothing set, nothing is let
  through, to read or to write. They are forced, so that they hold for the owner too. What hangs on a session is looked
  at through it: by a scalar sub-select, for which one row of the primary key is read. EXISTS would be planned with
  all sessions in a hash. The settings stand in sub-selects of their own, so that they are read once per statement.
- *The words of the search index* are the exception. `@@` is not marked leakproof, so under a policy it could not be a
  condition of the index, and every search would read all words. Its table has a policy for those who write, which is
  the store; searches read a view of its owner, to whom the policy does not apply. The view gives nothing where nothing
  is set, but within a user's scope all words: what is found is looked up in tables that are guarded.
- *Events* of deleted sessions bear a pseudonym in place of the user, which his watches may read.
- *Learning sessions and cursors of importers* belong to no user: they are the store's.

Foreign keys and unique indexes see all rows. Operations that must as well (is this title taken?) say so
(`recollect.access.everybodys`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ...errors import NotGuarded
from .migrate import BOOT
from .pipeline import Connection

VERSION = 1
"""of the policies below: it is in their names"""

_OURS = "recollect_"
_ALL, _READ = f"{_OURS}{VERSION}", f"{_OURS}{VERSION}_read"

# The first is the truth itself, so that the planner takes it for likely as not, not for one value among many.
_STORE = "(SELECT current_setting('recollect.scope', true) = 'store')"
_USER = "(SELECT NULLIF(current_setting('recollect.user_id', true), ''))"
_PSEUDONYM = "(SELECT NULLIF(current_setting('recollect.pseudonym', true), ''))"


def _listed(setting: str) -> str:
    """The outer CAST does nothing but keep ANY from taking the sub-select for its rows."""
    return f"ANY (CAST((SELECT CAST(NULLIF(current_setting('{setting}', true), '') AS TEXT[])) AS TEXT[]))"


_OWN = f"user_id = {_USER} OR user_id = {_listed('recollect.users')}"
_CLAIMED = f"CAST(LENGTH(id) AS TEXT) || ':' || id || user_id = {_listed('recollect.claims')}"


class Policy(NamedTuple):
    """A policy of a table: for everything, or for reading only."""

    name: str
    reads: str
    """the condition of rows that are there"""
    writes: str | None
    """the condition of rows that may be written; None: it is for reading only"""


def _store_or(reads: str, writes: str | None = None) -> list[Policy]:
    return [Policy(_ALL, f"{_STORE} OR {reads}", f"{_STORE} OR {writes or reads}")]


def _of_session(table: str) -> list[Policy]:
    return _store_or(f"(SELECT s.session FROM sessions s WHERE s.session = {table}.session) IS NOT NULL")


_THE_STORES = [Policy(_ALL, _STORE, _STORE)]
_ANYBODYS = f"{_STORE} OR {_USER} IS NOT NULL"

POLICIES: dict[str, list[Policy]] = {
    "sessions": _store_or(f"{_OWN} OR {_CLAIMED}"),
    **{table: _of_session(table) for table in ("session_texts", "messages", "compactions", "usage_rounds", "leases")},
    "events": _store_or(f"{_OWN} OR user_id = {_PSEUDONYM}", _OWN),
    **dict.fromkeys(("learning_sessions", "edit_outcomes", "import_cursors", "search_terms"), _THE_STORES),
    "index_state": [*_THE_STORES, Policy(_READ, _ANYBODYS, None)],
}
"""of every table but the one that tells the schema's version"""

UNFORCED = "search_terms"
"""its owner reads it, for the view"""

_WORDS = "search_words"
_VIEW = f"CREATE OR REPLACE VIEW {_WORDS} AS SELECT id, part, parts, words FROM search_terms WHERE {_ANYBODYS}"


class _Table(NamedTuple):
    """What a table has."""

    name: str
    enabled: bool
    forced: bool
    policies: list[str]
    """those that let something through"""
    is_ours: bool
    passes: bool
    """whether policies do not apply to its owner, even if they are forced"""


_TABLES = """
SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity,
  ARRAY(SELECT CAST(p.polname AS TEXT) FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive ORDER BY 1),
  pg_has_role(c.relowner, 'USAGE'), o.rolsuper OR o.rolbypassrls
FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner
WHERE c.relnamespace = CAST(quote_ident(current_schema()) AS regnamespace) AND c.relname = ANY(%s)
ORDER BY c.relname"""

_ROLE = "SELECT rolname FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls)"


async def guard(connection: Connection, *, asked: bool, readonly: bool) -> bool:
    """Whether the rows are guarded. If that is `asked`, they are, or NotGuarded is raised."""
    if asked:
        await _refuse_who_passes(connection)
    tables = await _read(connection)
    if asked and (lacking := list(_lacking(tables))):
        if readonly or not all(table.is_ours for table in tables):
            raise NotGuarded(f"{'; '.join(lacking)}: {_MAKE_IT}")
        await _make(connection)
        tables = await _read(connection)
        if lacking := list(_lacking(tables)):
            raise NotGuarded("; ".join(lacking))
    return any(table.enabled for table in tables)


_PATIENCE = "SET LOCAL lock_timeout = '5s'"
"""with those who are at work on a table: others wait behind whoever waits for it"""

_MAKE_IT = "open the store once with row_security=True as the owner of its tables, who makes it so"


async def _refuse_who_passes(connection: Connection) -> None:
    cursor = await connection.execute(_ROLE)
    if row := await cursor.fetchone():
        raise NotGuarded(
            f"the role {row[0]!r} is a superuser or has BYPASSRLS, so that row-level security does not apply to it:"
            " open the store as another"
        )


async def _read(connection: Connection) -> list[_Table]:
    cursor = await connection.execute(_TABLES, ([*POLICIES, _WORDS],))
    return [_Table(*row) for row in await cursor.fetchall()]


def _lacking(tables: list[_Table]) -> Iterator[str]:
    """What is not as it should be, in words."""
    if _WORDS not in [table.name for table in tables]:
        yield f"there is no view {_WORDS}"
    yield from [wrong for table in tables if (wrong := _wrong(table))]


def _wrong(table: _Table) -> str | None:
    if table.passes:
        return f"{table.name} belongs to a superuser, or to a role with BYPASSRLS"
    if table.name == _WORDS:
        return None
    if not table.enabled or table.forced is (table.name == UNFORCED):
        return f"row-level security is off for {table.name}"
    if table.policies != [policy.name for policy in POLICIES[table.name]]:
        return f"{table.name} has the policies {', '.join(table.policies) or 'none'}"
    return None


async def _make(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute(_PATIENCE)
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (BOOT,))
        for table in await _read(connection):
            if table.name != _WORDS and _wrong(table):
                await connection.execute("; ".join(_statements(table)).encode())
        await connection.execute(_VIEW.encode())


def _statements(table: _Table) -> Iterator[str]:
    name = table.name
    yield f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
    yield f"ALTER TABLE {name} {'NO FORCE' if name == UNFORCED else 'FORCE'} ROW LEVEL SECURITY"
    yield from [f"DROP POLICY {each} ON {name}" for each in table.policies if each.startswith(_OURS)]
    for policy in POLICIES[name]:
        if policy.writes is None:
            yield f"CREATE POLICY {policy.name} ON {name} FOR SELECT USING ({policy.reads})"
        else:
            yield f"CREATE POLICY {policy.name} ON {name} USING ({policy.reads}) WITH CHECK ({policy.writes})"
