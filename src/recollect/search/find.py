"""Searches as operations: an expression and filters in, pages of hits out.

By time, a page is read from the index where the one before ended. By relevance, ids are ranked once
and pages are looked up by them. Nothing stays open between pages. A hit's context comes for a whole
page in one statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..access import everybodys, only
from ..encoding import moment, moment_or_none
from ..engine.fulltext import FullText, Match, Phrase
from ..engine.operation import Operation, Row, all, one, together
from ..filters import Filter
from ..journal import VISIBLE
from ..models import ContextLine, Hit
from .index import event_key, event_words, read_lag, searchable, session_key, user_key
from .snippet import snippet


class Search(NamedTuple):
    """A search as asked for."""

    within: str | None
    """whose rows it has; None: everybody's"""
    fulltext: FullText
    match: Match
    phrases: Sequence[Phrase]
    kinds: Sequence[str]
    sessions: list[str] | None
    users: list[str] | None
    where: Filter
    """conditions in SQL that the index does not know"""
    order: str
    rewound: bool
    context: int
    tokens: int
    marks: tuple[str, str]
    with_text: bool


class Ranked(NamedTuple):
    """Ids in the order of relevance, best first, with their scores."""

    ids: list[int]
    scores: list[float]


class Behind(NamedTuple):
    """The answer to a search that the index has not caught up with: it must reach `top`."""

    top: int


class Page(NamedTuple):
    """Hits in the order of ids, up to the id that was the newest at the call."""

    top: int
    hits: list[Hit]


# -- the matches -----------------------------------------------------------------------------------

_JOINS = """
LEFT JOIN messages m ON m.id = {id} LEFT JOIN sessions s ON s.session = m.session
LEFT JOIN events e ON e.id = {id}
LEFT JOIN sessions x ON x.id = e.session_id AND (e.user_id IS NULL OR e.user_id = x.user_id)"""
# An event that one user recorded of another's session tells nothing of that session.


def _from(search: Search, condition: str, where: str) -> str:
    joins = _JOINS.format(id=search.fulltext.id) if search.where.sql else ""
    return f"FROM {search.fulltext.table}{joins} WHERE {condition}{where}{search.where.sql}"


def _condition(search: Search) -> Operation[tuple[str, dict[str, Any]] | None]:
    """What matches, within the scopes given, and all the parameters; None where a scope is empty."""
    keys: list[str] = []
    if search.sessions is not None:
        keys = yield from _session_keys(search.sessions)
    elif search.users is not None:
        keys = yield from _user_keys(search.users)
    if not keys and (search.sessions is not None or search.users is not None):
        return None
    condition, params = search.fulltext.condition(search.match, keys)
    return condition, {**params, **search.where.params}


def _session_keys(sessions: list[str]) -> Operation[list[str]]:
    rows = yield all("SELECT session FROM sessions WHERE id IN :ids", ids=sessions)
    return [session_key(row.session) for row in rows] + [event_key(id) for id in sessions]


def _user_keys(users: list[str]) -> Operation[list[str]]:
    late = yield all(
        "SELECT session, id FROM sessions WHERE user_id IN :users AND user_late = 1 AND id IS NOT NULL", users=users
    )
    keys = [user_key(user) for user in users]
    return keys + [key for row in late for key in (session_key(row.session), event_key(row.id))]


def find_by_time(search: Search, top: int | None, after: int | None, n: int, patient: bool) -> Operation[Page | Behind]:
    """The next `n` hits in the order of ids, up to `top` (None: the newest there is); `after` is the last
    id seen. No hits: there are no more."""
    aim = yield from _aim(search, top, patient)
    if isinstance(aim, Behind):
        return aim
    top = aim
    asked = yield from _condition(search)
    if asked is None:
        return Page(top, [])
    ids = yield from _page_of_ids(search, *asked, top, after, n)
    hits = yield from _hits(search, Ranked(ids, [0.0] * len(ids)), _time_cursor)
    while ids and not hits:  # a page of rows that are deleted and not erased yet
        ids = yield from _page_of_ids(search, *asked, top, ids[-1], max(n, _SKIPPED_AT_ONCE))
        hits = yield from _hits(search, Ranked(ids, [0.0] * len(ids)), _time_cursor)
    return Page(top, hits)


_SKIPPED_AT_ONCE = 100


def _time_cursor(id: int, _: int) -> str:
    return str(id)


def _aim(search: Search, top: int | None, patient: bool) -> Operation[int | Behind]:
    """What a search aims at: the newest row there is when it begins. Behind, if it is to be waited for."""
    if top is not None and not patient:
        return top
    yield everybodys()  # how far the index has read is a matter of all rows
    lag = yield from read_lag()
    yield only(search.within)
    top = lag.last if top is None else min(top, lag.last)
    return Behind(top) if patient and not lag.has(top) else top


def _page_of_ids(
    search: Search, condition: str, params: dict[str, Any], top: int, after: int | None, n: int
) -> Operation[list[int]]:
    id = search.fulltext.id
    newest = search.order == "newest"
    where = f" AND {id} <= :top" + ("" if after is None else f" AND {id} {'<' if newest else '>'} :after")
    params = {**params, "top": top} if after is None else {**params, "top": top, "after": after}
    rows = yield all(
        f"SELECT {id} AS id {_from(search, condition, where)} ORDER BY {id} {'DESC' if newest else 'ASC'} LIMIT :n",
        n=n,
        **params,
    )
    return [row.id for row in rows]


def rank(search: Search, top: int | None, most: int, n: int, patient: bool) -> Operation[tuple[int, Ranked] | Behind]:
    """The best `n` of the newest `most` matches up to id `top` (None: the newest there is)."""
    aim = yield from _aim(search, top, patient)
    if isinstance(aim, Behind):
        return aim
    top = aim
    search = yield from _without_deleted(search)
    asked = yield from _condition(search)
    if asked is None:
        return top, Ranked([], [])
    condition, params = asked
    id, score = search.fulltext.id, search.fulltext.score
    rows = yield all(
        f"SELECT id, score FROM (SELECT {id} AS id, {score} AS score"
        f" {_from(search, condition, f' AND {id} <= :top')} ORDER BY {id} DESC LIMIT :most) AS matched"
        " ORDER BY score DESC, id DESC LIMIT :n",
        top=top,
        most=most,
        n=n,
        **params,
    )
    return top, Ranked([row[0] for row in rows], [row[1] for row in rows])


def _without_deleted(search: Search) -> Operation[Search]:
    """The same search; while deleted rows wait to be erased, they must not crowd out what is ranked."""
    if search.where.sql or not (yield one("SELECT 1 AS n FROM sessions WHERE id IS NULL LIMIT 1")):
        return search
    where = Filter()
    where.add("(s.id IS NOT NULL OR e.id IS NOT NULL)")
    return search._replace(where=where)


def find_ranked(search: Search, ranked: Ranked, top: int, first: int) -> Operation[list[Hit]]:
    """The hits of these ids, the first of which has the rank `first`."""

    def cursor(_: int, at: int) -> str:
        return f"{top}.{first + at + 1}"

    return (yield from _hits(search, ranked, cursor))


def rank_and_find(
    search: Search, top: int | None, most: int, n: int, first: int, page: int, patient: bool
) -> Operation[tuple[int, Ranked, list[Hit]] | Behind]:
    """Ranks, and looks up the first page in the same hop and snapshot."""
    found = yield from rank(search, top, most, n, patient)
    if isinstance(found, Behind):
        return found
    top, ranked = found
    shown = Ranked(ranked.ids[first : first + page], ranked.scores[first : first + page])
    return top, ranked, (yield from find_ranked(search, shown, top, first))


# -- the hits --------------------------------------------------------------------------------------

_MESSAGES = """
SELECT m.id, m.session, m.seq, m.position, m.state, m.role, m.name, m.content, m.tool_calls, m.created_at,
  s.id AS session_id, s.user_id, s.source, s.model, s.created_at AS started
FROM messages m JOIN sessions s ON s.session = m.session
WHERE m.id IN :ids AND m.state IN (0, 1, 2) AND s.id IS NOT NULL"""

_EVENTS = f"""
SELECT e.id, e.at, e.session_id, e.name, e.action, e.issue_id, e.path, e.anchor, e.text,
  e.user_id, s.source, s.model, s.created_at AS started
FROM events e LEFT JOIN sessions s ON s.id = e.session_id AND (e.user_id IS NULL OR e.user_id = s.user_id)
WHERE e.id IN :ids AND {VISIBLE}"""


def _hits(search: Search, ranked: Ranked, cursor: Any) -> Operation[list[Hit]]:
    """Records of the rows that are still there and wanted, in the order given."""
    if not ranked.ids:
        return []
    messages: dict[int, Row] = {}
    events: dict[int, Row] = {}
    if "message" in search.kinds:
        rows = yield all(_MESSAGES, ids=ranked.ids)
        messages = {row.id: row for row in rows if _wanted(search, row) and (search.rewound or row.state != REWOUND)}
    if "event" in search.kinds and len(messages) < len(ranked.ids):
        rows = yield all(_EVENTS, ids=ranked.ids)
        events = {row.id: row for row in rows if _wanted(search, row)}
    context = yield from _context(search, messages)
    hits: list[Hit] = []
    for at, (id, score) in enumerate(zip(ranked.ids, ranked.scores, strict=True)):
        if id in messages:
            hits.append(_message_hit(search, messages[id], score, context.get(id, []), cursor(id, at)))
        elif id in events:
            hits.append(_event_hit(search, events[id], score, cursor(id, at)))
    return hits


REWOUND = 2


def _wanted(search: Search, row: Row) -> bool:
    """Scopes are digests in the index: nobody is shown a row for having found two that agree."""
    if search.sessions is not None and row.session_id not in search.sessions:
        return False
    return search.users is None or row.user_id in search.users


def _message_hit(search: Search, row: Row, score: float, context: list[ContextLine], cursor: str) -> Hit:
    text = searchable(row.content, row.tool_calls)
    return Hit(
        "message", row.id, row.session_id, row.seq, row.role, row.name, None, None,
        snippet(text, search.phrases, tokens=search.tokens, marks=search.marks),
        text if search.with_text else None, score, moment(row.created_at), row.source, row.model,
        moment(row.started), context, cursor,
    )  # fmt: skip


def _event_hit(search: Search, row: Row, score: float, cursor: str) -> Hit:
    text = event_words(row)
    return Hit(
        "event", row.id, row.session_id, None, None, row.name, row.issue_id or row.path or row.name, row.anchor,
        snippet(text, search.phrases, tokens=search.tokens, marks=search.marks),
        text if search.with_text else None, score, moment(row.at), row.source, row.model,
        moment_or_none(row.started), [], cursor,
    )  # fmt: skip


# The active messages around each hit. What is compared with a sub-select cannot be looked up in an index where rows are
# guarded (it might tell of others' rows), so the places are found first. With one neighbour on each side these are
# three, all in one statement; of more it has to be said from where to where, and a planner who does not know how few
# lie in between would read all messages: that is asked for each hit.
_NEXT = """
WITH around AS MATERIALIZED (
  SELECT h.id, h.session, h.position,
    (SELECT MAX(b.position) FROM messages b
      WHERE b.session = h.session AND b.state = 0 AND b.position < h.position) AS before,
    (SELECT MIN(a.position) FROM messages a
      WHERE a.session = h.session AND a.state = 0 AND a.position > h.position) AS behind
  FROM messages h WHERE h.id IN :ids)
SELECT w.id AS hit, c.id, c.role, SUBSTR(c.content, 1, 200) AS content, c.position, c.seq
FROM around w CROSS JOIN messages c
WHERE c.session = w.session AND c.state = 0 AND c.position IN (w.before, w.position, w.behind)"""

_SPANS = """
SELECT h.id, h.session,
  COALESCE((SELECT MIN(b.position) FROM (SELECT position FROM messages
    WHERE session = h.session AND state = 0 AND position < h.position
    ORDER BY position DESC LIMIT :n) AS b), h.position) AS begins,
  COALESCE((SELECT MAX(a.position) FROM (SELECT position FROM messages
    WHERE session = h.session AND state = 0 AND position > h.position
    ORDER BY position LIMIT :n) AS a), h.position) AS ends
FROM messages h WHERE h.id IN :ids"""

_SPAN = """
SELECT CAST(:hit AS BIGINT) AS hit, c.id, c.role, SUBSTR(c.content, 1, 200) AS content, c.position, c.seq
FROM messages c
WHERE c.session = :session AND c.state = 0 AND c.position >= :begins AND c.position <= :ends"""


def _neighbours(hits: Sequence[int], n: int) -> Operation[list[Row]]:
    """`n` on each side of each of these messages."""
    if n == 1:
        return (yield all(_NEXT, ids=hits))
    spans = yield all(_SPANS, ids=hits, n=n)
    asked = [all(_SPAN, hit=row.id, session=row.session, begins=row.begins, ends=row.ends) for row in spans]
    return [row for found in (yield together(*asked)) for row in found]


def _context(search: Search, messages: dict[int, Row]) -> Operation[dict[int, list[ContextLine]]]:
    if search.context < 1 or not messages:
        return {}
    rows = yield from _neighbours(list(messages), search.context)
    around: dict[int, dict[int, tuple[int, int, ContextLine]]] = {}
    for id, row in messages.items():  # the hit itself, which need not be active
        line = ContextLine(row.role, (row.content or "")[:200])
        around[id] = {id: (row.position, row.seq, line)}
    for row in rows:
        around[row.hit][row.id] = (row.position, row.seq, ContextLine(row.role, row.content or ""))
    return {
        hit: [line for _, _, line in sorted(lines.values(), key=lambda place: place[:2])]
        for hit, lines in around.items()
    }
