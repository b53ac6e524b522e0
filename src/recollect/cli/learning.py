"""`recollect learning`: an agent's attempts to improve itself, and the index of their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from msgspec import structs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..learning.models import LearningSession, LearningStatus, Rebuilt, RecordedOutcome
from ..store import AsyncSessionStore
from .bar import bar_of_things
from .imported import PLACES
from .opening import NotThere, reading, target
from .options import Db, Json
from .run import run
from .safe import one_line, printable
from .screen import console, counted, local, utc, write_fields, write_json, write_text

S = TypeVar("S", bound=msgspec.Struct)

app = typer.Typer(name="learning", no_args_is_help=True, help="Show what an agent learned from its failures.")


# -- many of them ----------------------------------------------------------------------------------


@app.command("list")
def list_sessions(
    status: Annotated[
        list[LearningStatus] | None, typer.Option("--status", help="Only these; may be repeated.", case_sensitive=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Sessions at most; 0 for all.")] = 20,
    db: Db = None,
    json: Json = False,
) -> None:
    """List learning sessions, the newest first.

    In a pipe, a line each: id, status, trigger, when it began, outcomes, dollars for the teacher, error.
    """
    run(_list(status, limit or None, db, json))


async def _list(status: list[LearningStatus] | None, limit: int | None, db: str | None, json: bool) -> None:
    async with reading(db) as store:
        listed = await store.learning.list(status=status or None, limit=limit)
    out = console()
    if json:
        for session in listed:
            write_json(_as_json(session))
    elif out.is_terminal:
        _show_table(out, listed)
    else:
        for session in listed:
            _write_line(out, session)


def _as_json(session: LearningSession) -> Any:
    outcomes = [_in_utc(outcome) for outcome in session.edit_outcomes]
    return msgspec.to_builtins(structs.replace(_in_utc(session), edit_outcomes=outcomes), enc_hook=str)  # paths


def _in_utc(record: S) -> S:
    """The record with its times in UTC, as programs are promised them."""
    times = {name: at for name, at in structs.asdict(record).items() if isinstance(at, datetime)}
    return structs.replace(record, **{name: _utc(at) for name, at in times.items()})


def _utc(at: datetime) -> datetime:
    with suppress(OverflowError):  # at the ends of time
        return at.astimezone(UTC)
    return at


def _write_line(out: Console, session: LearningSession) -> None:
    write_fields(
        out, session.id, session.status.value, session.trigger.value, utc(_utc(session.started_at)),
        len(session.edit_outcomes), f"{session.teacher_cost_usd:.4f}", session.error,
    )  # fmt: skip


def _show_table(out: Console, listed: Sequence[LearningSession]) -> None:
    if not listed:
        return out.print("no learning sessions", style="dim")
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("session", "status", "trigger", "edits", "began"):
        table.add_column(name, overflow="fold", justify="right" if name == "edits" else "left")
    for session in listed:
        edits, began = f"{len(session.edit_outcomes):,}", local(session.started_at)
        table.add_row(Text(one_line(session.id), "cyan"), session.status.value, session.trigger.value, edits, began)
    return out.print(table)


# -- one of them -----------------------------------------------------------------------------------


@app.command("show")
def show_session(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Its id.")],
    db: Db = None,
    json: Json = False,
) -> None:
    """Show a learning session, and what became of its edits.

    With --json it is one object, of "session" and "outcomes".
    """
    run(_show(session, db, json))


async def _show(session_id: str, db: str | None, json: bool) -> None:
    async with reading(db) as store:
        session = await store.learning.get(session_id)
        if session is None:
            raise NotThere(f"no learning session {session_id!r} (`recollect learning list`)")
        outcomes = await store.learning.outcomes(session_id)
    if json:
        return write_json({"session": _as_json(session), "outcomes": [_in_utc(each) for each in outcomes]})
    out = console()
    out.print(Text(one_line(session.id), "bold cyan"), soft_wrap=True)
    for line in (_origin(session), _life(session), _places(session)):
        out.print(Text(one_line(" · ".join(line)), "dim"), soft_wrap=True)
    if session.error:
        write_text(out, printable(session.error))
    for outcome in outcomes:
        _show_outcome(out, outcome)
    return None


def _origin(session: LearningSession) -> Iterator[str]:
    yield session.status
    yield f"trigger {session.trigger}"
    yield f"autonomy {session.autonomy_mode}"
    if session.parent_session_id:
        yield f"after {session.parent_session_id}"


def _life(session: LearningSession) -> Iterator[str]:
    yield f"began {local(session.started_at)}"
    if session.ended_at:
        yield f"ended {local(session.ended_at)}"
    after = session.benchmark_after
    score = f"score {session.benchmark_before.overall_score:.3f}"
    yield score if after is None else f"{score} → {after.overall_score:.3f}"
    if session.teacher_cost_usd:
        yield f"${session.teacher_cost_usd:,.4f}"


def _places(session: LearningSession) -> Iterator[str]:
    yield f"diagnosis {session.diagnosis_path}"
    yield f"plan {session.plan_path}"
    yield f"git {session.git_checkpoint_pre}"
    if session.git_checkpoint_post:
        yield f"to {session.git_checkpoint_post}"


def _show_outcome(out: Console, outcome: RecordedOutcome) -> None:
    out.print()
    heading = Text(one_line(outcome.edit_id), "bold").append(f"  {outcome.status}", "yellow")
    if outcome.benchmark_delta is not None:
        heading.append(f"  {outcome.benchmark_delta:+.3f}", "not bold")
    out.print(heading, soft_wrap=True)
    known = [outcome.pillar, outcome.op, outcome.target, outcome.risk_tier]
    if any(known):
        out.print(Text(one_line(" · ".join(text for text in known if text)), "dim"), soft_wrap=True)
    for text in (outcome.rationale, outcome.error):
        if text:
            write_text(out, printable(text))


# -- their files -----------------------------------------------------------------------------------


@app.command("rebuild")
def rebuild(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Where the sessions' folders are.")
    ],
    db: Db = None,
    json: Json = False,
) -> None:
    """Make the index of learning sessions anew from their files; makes the database if there is none.

    The files, DIR/*/session.json, are the truth. One that cannot be understood is listed, does not stop
    the rest, and does not change the exit status. Sessions without a file stay as they are.
    """
    run(_rebuild(directory, db, json))


async def _rebuild(directory: Path, db: str | None, json: bool) -> None:
    async with AsyncSessionStore(target(db)) as store:
        with bar_of_things(shown=not json) as bar:
            task = bar.add_task("rebuilding", total=None)
            rebuilt = await store.learning.rebuild(
                directory, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
    if json:
        return write_json(rebuilt)
    out = console()
    return _show_rebuilt(out, rebuilt) if out.is_terminal else _write_rebuilt(out, rebuilt)


def _counts(rebuilt: Rebuilt) -> dict[str, int]:
    return {
        "files": rebuilt.files,
        "sessions": rebuilt.sessions,
        "outcomes": rebuilt.outcomes,
        "without file": len(rebuilt.without_file),
    }


def _write_rebuilt(out: Console, rebuilt: Rebuilt) -> None:
    """A line per count; then one per rejection: `rejected`, place, reason."""
    for name, count in _counts(rebuilt).items():
        write_fields(out, name, count)
    for rejection in rebuilt.rejections:
        write_fields(out, "rejected", rejection.file, rejection.reason)


def _show_rebuilt(out: Console, rebuilt: Rebuilt) -> None:
    out.print(f"{counted(rebuilt.sessions, 'session')} with {counted(rebuilt.outcomes, 'outcome')}")
    if rebuilt.without_file:
        out.print(f"{counted(len(rebuilt.without_file), 'session')} without a file stayed", style="dim")
    if rebuilt.rejections:
        out.print("\nrejected", style="bold yellow")
    for rejection in rebuilt.rejections[:PLACES]:
        out.print(Text.assemble((one_line(rejection.file), "cyan"), f"  {one_line(rejection.reason)}"), soft_wrap=True)
    if (more := rebuilt.rejected.total() - PLACES) > 0:
        out.print(f"and {more:,} more; --json lists up to 1,000", style="dim")
