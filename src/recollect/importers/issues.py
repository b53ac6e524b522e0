"""Issue files (Markdown with front matter, as little-loops keeps them in `.issues`) into events of kind `issue`.

An event for each transition a file is found in:

- `issue_id` is the id in the front matter, else that of the file's name (`P2-BUG-490-slug.md`), else that of the
  first heading; a bare number gets its prefix from the name, or from the type.
- `action` is the status: `open`, `in_progress`, `blocked`, `deferred`, `done`, `cancelled`, or what else stands
  there; synonyms are folded. Where there is none, the folder says it (`completed`), else it is `open`.
- `name` is the title: that of the front matter, else the first heading without the id, else the slug.
- `text` is the type in words (`bug`, `enhancement`…), the priority, the labels, and below them the whole body.
- `path` is the file below the folder that was given, `anchor` its absolute path.
- `payload` is the front matter, with the id and the priority, of which the file's name has the last word.
- `at` is `completed_at`, `captured_at` or `discovered_date`, the first that is a date, UTC unless it says; else the
  time at which the file was changed.

Each file that the body names, or a field of the front matter whose name has `file` in it, is an event of the kind
`file` besides, once for each issue: `path` as it is written there, `action` `mentioned`, `issue_id`. It stays when
a later body does not name the file any more.

Known again by id, slug, status and that date: another body changes the event in place, another status or another
date is another event. So is a status that the file had before another one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from anyio import to_thread

from ..encoding import Encoder, moment, texts
from ..errors import InvalidRecord
from ..events.given import prepare
from ..events.mapping import time_of
from ..events.typed import FileEvent, IssueEvent
from ..reports import Imported, Rejection
from ..store import AsyncSessionStore
from .event_chunk import Mode, Piece
from .event_files import EventSource, Reading, Whole, load_files
from .event_lines import changed_at
from .front_matter import Document, outside_of_code, parse, require_yaml
from .mentions import files_named
from .source import Progress, SourceFile, find_files

IMPORTER = "issues"
VERSION = 1
KIND = "issues"
MENTIONED = "mentioned"

_NAME = re.compile(
    r"(?:(?:P(\d)-([A-Z]{2,12})|(BUG|ENH|FEAT|EPIC))-(\d{1,9})|P(\d)(?=-))?-?(.*)", re.IGNORECASE | re.DOTALL
)
_ID = re.compile(r"(?:P\d-)?([A-Z]{2,12})-(\d{1,9})$", re.IGNORECASE)
_HEADING = re.compile(r" {0,3}#{1,6}\s+(.+)")
_HEADING_ID = re.compile(r"(?:P\d-)?((?:BUG|ENH|FEAT|EPIC)-\d{1,9})\b(?:\s*[:.–—-]+)?\s*")

_TYPES = {"BUG": "bug", "ENH": "enhancement", "FEAT": "feature", "EPIC": "epic"}
"""prefixes of ids, and the words for them"""

_PREFIXES = {**{prefix.lower(): prefix for prefix in _TYPES}, **{word: prefix for prefix, word in _TYPES.items()}}

_STATUSES = {
    "open": "todo new backlog pending planned proposed ready captured reopened",
    "in_progress": "wip doing started active working",
    "blocked": "waiting on_hold",
    "deferred": "postponed parked later someday",
    "done": "complete completed closed finished fixed resolved implemented merged",
    "cancelled": "canceled wontfix wont_fix rejected invalid duplicate obsolete superseded abandoned",
}
_FOLDED = {word: status for status, words in _STATUSES.items() for word in (status, *words.split())}

_DATES = ("completed_at", "completed_date", "captured_at", "discovered_date")

_MOST_SEEN = 64
"""transitions of a file that are remembered"""


async def load(
    store: AsyncSessionStore,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], object] | None = None,
) -> Imported:
    """Imports an issue file, or every `*.md` below a folder; counted as `issues`, the files they name as `files`.

    A file that did not change costs a stat. What is no issue, or cannot be read, is counted with its place and
    stops nothing. `progress` is called on the event loop after every chunk; what it raises ends the import, as
    cancelling does, and the next one goes on where it stopped. `redact` of the store is called in a worker
    thread. Raises FileNotFoundError, ImportError without a YAML library (`recollect[backfill]`), and what the
    store may.
    """
    await to_thread.run_sync(require_yaml)
    top, files, unreadable = await to_thread.run_sync(_find, os.fspath(path))
    source = EventSource(IMPORTER, VERSION, KIND, None, _Reader(top).read, lambda _: False)
    return await load_files(store, source, files, unreadable, progress)


def _find(path: str) -> tuple[str, list[SourceFile], list[Rejection]]:
    """The folder that paths are told from, and the files."""
    top = os.path.abspath(os.path.expanduser(path))
    files, unreadable = find_files(top, ".md")
    return top if os.path.isdir(top) else os.path.dirname(top), files, unreadable


class _Told(msgspec.Struct):
    """What a file has told so far; kept in its cursor."""

    last: str = ""
    seen: dict[str, int] = {}
    """how often each transition was come to, by its digest"""

    def reach(self, transition: str) -> int:
        """The file is in this transition; how often it has left it before."""
        if self.last and self.last != transition and transition in self.seen:
            self.seen[transition] += 1
        self.last = transition
        self.seen.setdefault(transition, 0)
        while len(self.seen) > _MOST_SEEN:
            del self.seen[next(name for name in self.seen if name != transition)]
        return self.seen[transition]


class Issue(NamedTuple):
    """What a file says of its issue."""

    id: str
    slug: str
    title: str
    status: str
    kind: str
    priority: str | None
    at: datetime | None


class _Reader:
    """Reads issue files below one folder, in worker threads."""

    def __init__(self, top: str) -> None:
        self._top = top

    def read(self, whole: Whole, encoder: Encoder) -> Reading:
        """The event of a file. Raises InvalidRecord where it is no issue."""
        text = whole.text.decode(errors="replace")
        document = parse(text)
        issue = understand(document, whole.file.path)
        told = _told(whole.own)
        known_by = (issue.id, issue.slug, issue.status, issue.at.isoformat() if issue.at else "")
        transition = hashlib.blake2b("\x00".join(known_by).encode(errors="replace"), digest_size=12).hexdigest()
        again = told.reach(transition)
        event = IssueEvent(
            issue_id=issue.id,
            transition=issue.status,
            discovered_by=_text(_fields(document).get("discovered_by")),
            name=issue.title,
            path=os.path.relpath(whole.file.path, self._top).replace(os.sep, "/"),
            anchor=whole.file.path,
            text=f"{_words(document, issue)}\n\n{document.body.strip()}",
            payload=_payload(document, issue),
            # What it was before has its date already, and so no date of its own.
            at=moment(changed_at(whole.stat)) if again or issue.at is None else issue.at,
            dedupe_key=f"issue:{transition}" + (f":{again}" if again else ""),
        )
        named = [Piece("files", prepare(encoder, each.event())) for each in _mentions(document, event)]
        own = msgspec.Raw(msgspec.json.encode(told))
        return Reading([Piece(KIND, prepare(encoder, event.event()), Mode.ALWAYS), *named], own)


def _mentions(document: Document, issue: IssueEvent) -> Iterator[FileEvent]:
    """The files that the issue names; known again by both."""
    listed = [value for name, value in _fields(document).items() if "file" in name]
    for path in files_named([*texts(listed), *outside_of_code(document.body)]):
        told = f"{issue.issue_id}\x00{path}".encode(errors="replace")
        yield FileEvent(
            path=path,
            op=MENTIONED,
            issue_id=issue.issue_id,
            at=issue.at,
            anchor=issue.anchor,
            dedupe_key=f"issue:file:{hashlib.blake2b(told, digest_size=12).hexdigest()}",
        )


def _told(own: msgspec.Raw) -> _Told:
    try:
        return msgspec.json.decode(own, type=_Told)
    except msgspec.MsgspecError:
        return _Told()


# -- what a file says ------------------------------------------------------------------------------


def understand(document: Document, path: str) -> Issue:
    """What the file of that path says. Raises InvalidRecord where nothing says which issue it is."""
    name = _NAME.fullmatch(os.path.basename(path).rpartition(".")[0])
    assert name is not None  # everything matches
    priority, slug = name[1] or name[5], name[6]
    fields = _fields(document)
    heading = _heading(document.body)
    in_name = f"{(name[2] or name[3]).upper()}-{name[4]}" if name[4] else None
    id = _id(fields, in_name, heading)
    if id is None:
        raise InvalidRecord("no issue: neither its front matter, nor its name, nor its heading has an id")
    given = f"P{priority}" if priority else _text(fields.get("priority"))
    return Issue(
        id=id,
        slug=slug,
        title=_title(fields, heading, id, slug),
        status=_status(fields, path),
        kind=_kind(fields, id),
        priority=given,
        at=next((at for name in _DATES if (at := time_of(fields.get(name)))), None),
    )


def _fields(document: Document) -> dict[str, Any]:
    """The front matter by names in small letters."""
    return {name.strip().lower().replace("-", "_"): value for name, value in document.front.items()}


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _id(fields: dict[str, Any], in_name: str | None, heading: str | None) -> str | None:
    given = _text(fields.get("id")) or ""
    if found := _ID.match(given):
        return f"{found[1].upper()}-{found[2]}"
    if in_name:
        return in_name
    if given.isdecimal() and (prefix := _PREFIXES.get((_text(fields.get("type")) or "").lower())):
        return f"{prefix}-{given}"
    found = _HEADING_ID.match(heading or "")
    return found[1] if found else None


def _heading(body: str) -> str | None:
    for line in outside_of_code(body):
        if (found := _HEADING.match(line)) and (text := found[1].strip()) and (words := text.rstrip("#")):
            return words.rstrip() if words.endswith(" ") else text  # the #s of `# words ##` are not among them
    return None


def _title(fields: dict[str, Any], heading: str | None, id: str, slug: str) -> str:
    words = _HEADING_ID.sub("", heading or "", count=1) if _HEADING_ID.match(heading or "") else heading or ""
    words = words.removeprefix(id).lstrip(" :-–—") if words.startswith(id) else words
    return _text(fields.get("title")) or words or slug.replace("-", " ").strip() or id


def _status(fields: dict[str, Any], path: str) -> str:
    given = (_text(fields.get("status")) or "").lower()[:64]
    folded = re.sub(r"[\s-]+", "_", given.replace("'", ""))
    if folded:
        return _FOLDED.get(folded, folded)
    of_folder = _FOLDED.get(os.path.basename(os.path.dirname(path)).lower())
    return of_folder if of_folder in ("done", "deferred", "cancelled") else "open"


def _kind(fields: dict[str, Any], id: str) -> str:
    given = (_text(fields.get("type")) or id.partition("-")[0]).lower()
    return _TYPES.get(_PREFIXES.get(given, ""), given)


def _words(document: Document, issue: Issue) -> str:
    labels = _fields(document).get("labels")
    labels = labels if isinstance(labels, list) else [labels]
    return " ".join(filter(None, (issue.kind, issue.priority, *map(_text, labels))))


def _payload(document: Document, issue: Issue) -> dict[str, Any]:
    return {**document.front, "id": issue.id, **({"priority": issue.priority} if issue.priority else {})}
