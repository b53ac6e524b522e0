"""`recollect check` and `recollect repair`: what is wrong, and setting it right."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from ..reports import Problem, Report
from ..store import AsyncSessionStore
from .bar import bar_of_things
from .opening import reading, writing
from .options import Db, Json
from .run import REFUSED, run
from .safe import one_line
from .screen import console, counted, write_fields, write_json

_ADVICE = {
    "structure": "the file itself is damaged: restore a backup, or save what can be read with `recollect copy`",
    "content": "part of a message is not what was stored: a backup may have it",
    "orphans": "nothing tells where these rows belong; they are left as they are",
    "parent": "`recollect repair` forgets the parent",
    "counter": "`recollect repair` counts anew",
    "index": "`recollect repair` makes the index anew",
}

Look = Callable[..., Awaitable[Report]]


def check(db: Db = None, json: Json = False) -> None:
    """Look for what is wrong in the store, and change nothing.

    The structure of the file, rows without their session, the counters of sessions against their rows, the search
    index against what it was made of. A line for each problem: its kind, the session, what it is. Exit status 1 if
    there is any.
    """
    _end(run(_check(db, json)), json)


def repair(db: Db = None, json: Json = False) -> None:
    """Set right what is derived from other rows: counters, previews, parents that are gone, the search index.

    Nothing else is touched. A line for each problem that was mended, and for each that is left; exit status 1 if
    any is.
    """
    _end(run(_repair(db, json)), json)


async def _check(db: str | None, json: bool) -> Report:
    async with reading(db) as store:
        return await _watched(store, store.check, "checking", json)


async def _repair(db: str | None, json: bool) -> Report:
    async with writing(db) as store:
        return await _watched(store, store.repair, "repairing", json)


async def _watched(store: AsyncSessionStore, look: Look, verb: str, json: bool) -> Report:
    total = (await store.stats()).sessions
    with bar_of_things(shown=not json) as bar:
        return await look(progress=_advancing(bar, verb, total))


def _advancing(bar: Bar, verb: str, total: int) -> Callable[[int], None]:
    doing = bar.add_task(verb, total=total)
    return lambda done: bar.update(doing, completed=done)


def _end(report: Report, json: bool) -> None:
    out = console()
    if json:
        write_json(report)
    elif out.is_terminal:
        _show(out, report)
    else:
        for state, problems in (("repaired", report.repaired), ("wrong", report.problems)):
            for problem in problems:
                write_fields(out, state, problem.kind, problem.session_id or "", problem.what)
    if not report.is_sound:
        raise typer.Exit(REFUSED)


def _show(out: Console, report: Report) -> None:
    for problem in report.repaired:
        out.print(f"repaired  {_line(problem)}", soft_wrap=True, markup=False, highlight=False)
    for problem in report.problems:
        out.print(f"wrong     {_line(problem)}", style="red", soft_wrap=True, markup=False, highlight=False)
    for kind in dict.fromkeys(problem.kind for problem in report.problems):
        out.print(f"{kind}: {_ADVICE[kind]}", style="dim", soft_wrap=True, markup=False, highlight=False)
    found = counted(len(report.problems), "problem") if report.problems else "nothing is wrong"
    out.print(f"{counted(report.sessions, 'session')} looked at; {found}", style="dim")


def _line(problem: Problem) -> str:
    return one_line(f"{problem.session_id}: {problem.what}" if problem.session_id else problem.what)
