"""The search index on SQLite: a contentless FTS5 table, rowid = id of the message or event.

Contentless: nothing is stored twice, but a row can only be taken out with the very words it was put
in with. Automatic merging is off, for it would fall on whoever appends; the keeper merges.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..fulltext import AllOf, AnyOf, Match, Phrase
from ..operation import Operation, Statement, execute, lock, many, one, tuples

_CREATE = """
CREATE VIRTUAL TABLE IF NOT EXISTS search_index USING fts5(content, keys, content='',
  tokenize="unicode61 remove_diacritics 0 categories 'L* N* Co M* So'")"""

_SHADOWS = (
    "search_index_data (id INTEGER PRIMARY KEY, block BLOB)",
    "search_index_idx (segid, term, pgno, PRIMARY KEY (segid, term)) WITHOUT ROWID",
    "search_index_docsize (id INTEGER PRIMARY KEY, sz BLOB)",
    "search_index_config (k PRIMARY KEY, v) WITHOUT ROWID",
)

_EMPTIED_AT_ONCE = 256
"""pages of the old index erased in one step of a reset"""


class SqliteFullText:
    """FTS5's fragments and steps; see `recollect.engine.fulltext.FullText`."""

    table = "search_index AS f"
    matches = "search_index MATCH :match"
    id = "f.rowid"
    score = "-bm25(search_index, 1.0, 0.0)"

    def expression(self, match: Match, keys: Sequence[str]) -> str:
        """An FTS5 query: every token quoted, so that no input is syntax."""
        words = f"content : ({_fts5(match)})"
        return f"keys : ({' OR '.join(map(_quoted, keys))}) AND {words}" if keys else words

    def condition(self, match: Match, keys: Sequence[str]) -> tuple[str, dict[str, str]]:
        """One query for all of it."""
        return self.matches, {"match": self.expression(match, keys)}

    def lock(self) -> Statement:
        """Nothing: the writer is alone."""
        return lock()

    def insert(self, rows: Sequence[tuple[int, str, str]]) -> Statement:
        """Adds rows."""
        return many("INSERT INTO search_index (rowid, content, keys) VALUES (?, ?, ?)", rows)

    def remove(self, rows: Sequence[tuple[int, str, str]]) -> Statement:
        """Takes rows out."""
        return many("INSERT INTO search_index (search_index, rowid, content, keys) VALUES ('delete', ?, ?, ?)", rows)

    def ids(self, after: int, top: int, n: int) -> Statement:
        """What the sizes are kept of."""
        return tuples(
            "SELECT id FROM search_index_docsize WHERE id > :after AND id <= :top ORDER BY id LIMIT :n",
            after=after,
            top=top,
            n=n,
        )

    def merge(self, pages: int) -> Operation[bool]:
        """Merges segments for about `pages` pages; a negative number starts a merge of all of them."""
        before = yield one("SELECT total_changes() AS n")
        yield execute("INSERT INTO search_index (search_index, rank) VALUES ('merge', :pages)", pages=pages)
        after = yield one("SELECT total_changes() AS n")
        return after.n - before.n >= 2  # fewer: there was nothing to merge (sqlite.org/fts5.html, 'merge')

    def reset(self) -> Operation[bool]:
        """Empties the index page by page, then makes it anew.

        A damaged one cannot be dropped as it is (FTS5 refuses to open it), so it is first given back
        the tables and records that it needs to be opened.
        """
        for shadow in _SHADOWS:
            yield execute(f"CREATE TABLE IF NOT EXISTS {shadow}")
        erased = yield execute(
            "DELETE FROM search_index_data WHERE id IN (SELECT id FROM search_index_data LIMIT :n)",
            n=_EMPTIED_AT_ONCE,
        )
        if erased == _EMPTIED_AT_ONCE:
            return False
        yield from _drop()
        yield execute(_CREATE)
        yield execute("INSERT INTO search_index (search_index, rank) VALUES ('automerge', 0)")
        yield execute("INSERT INTO search_index (search_index, rank) VALUES ('crisismerge', 512)")
        return True


def _drop() -> Operation[None]:
    if not (yield one("SELECT 1 AS n FROM sqlite_schema WHERE name = 'search_index'")):
        for shadow in _SHADOWS:
            yield execute(f"DROP TABLE {shadow.split()[0]}")
        return
    yield execute(_CREATE.replace("search_index", "search_blank"))
    yield execute("INSERT OR REPLACE INTO search_index_data SELECT id, block FROM search_blank_data")
    yield execute("INSERT OR REPLACE INTO search_index_config SELECT k, v FROM search_blank_config")
    yield execute("DROP TABLE search_blank")
    yield execute("DROP TABLE search_index")


def _fts5(match: Match) -> str:
    if isinstance(match, Phrase):
        return _quoted(" ".join(match.tokens)) + (" *" if match.prefix else "")
    if isinstance(match, AllOf):
        return f"({' AND '.join(map(_fts5, match.parts))})"
    if isinstance(match, AnyOf):
        return f"({' OR '.join(map(_fts5, match.parts))})"
    return f"({_fts5(match.keep)} NOT {_fts5(match.drop)})"


def _quoted(tokens: str) -> str:
    return '"' + tokens.replace('"', '""') + '"'


FULLTEXT = SqliteFullText()
