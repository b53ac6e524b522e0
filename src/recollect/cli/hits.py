"""Hits on the screen: under their session in a terminal, a line each in a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ..models import Hit
from .safe import one_line
from .screen import local, utc, write_fields

MARKS = ("\ue000", "\ue001")
"""around a match on its way to the screen: private characters, which texts rarely hold"""

_INDENT = (0, 0, 0, 2)
_DEEPER = (0, 0, 0, 4)


def show_session_of(out: Console, hit: Hit, *, first: bool) -> None:
    """The heading over hits of one session."""
    heading = Text("" if first else "\n")
    heading.append(one_line(hit.session_id or "no session"), "bold cyan")
    for fact in (hit.source, hit.model, hit.session_started and local(hit.session_started)):
        if fact:
            heading.append(f"  {one_line(fact)}", "dim")
    out.print(heading, soft_wrap=True)


def show_hit(out: Console, hit: Hit) -> None:
    """Where it is, and its snippet among its neighbours."""
    what = (
        f"#{hit.seq} {hit.role}" if hit.kind == "message" else " ".join(filter(None, (hit.name, hit.ref, hit.anchor)))
    )
    out.print(Padding(Text.assemble((one_line(what), "green"), (f"  {local(hit.at)}", "dim")), _INDENT, expand=False))
    own = _own_line(hit)
    for at, line in enumerate(hit.context):
        if at == own:
            _show_snippet(out, hit)
        else:
            out.print(Padding(Text(f"{line.role}: {one_line(line.content)}", "dim"), _DEEPER, expand=False))
    if own is None:
        _show_snippet(out, hit)


def _show_snippet(out: Console, hit: Hit) -> None:
    out.print(Padding(highlighted(hit.snippet), _DEEPER, expand=False))


def _own_line(hit: Hit) -> int | None:
    """Which line of the context is the hit's: one of its role that its text begins with."""
    for at, line in enumerate(hit.context):
        if line.role == hit.role and (hit.text or "").startswith(line.content):
            return at
    return None


def highlighted(snippet: str) -> Text:
    """The snippet with its marks turned into a colour."""
    text = Text()
    for at, piece in enumerate(one_line(snippet).split(MARKS[0])):
        match, closed, rest = piece.partition(MARKS[1])
        if at and closed:
            text.append(match, "bold yellow").append(rest)
        else:
            text.append(piece)
    return text


def write_hit(out: Console, hit: Hit) -> None:
    """A line: time, session, seq, role (or what the event is about), snippet."""
    snippet = hit.snippet.replace(MARKS[0], "").replace(MARKS[1], "")
    write_fields(out, utc(hit.at), hit.session_id, hit.seq, hit.role or hit.ref or hit.name, snippet)
