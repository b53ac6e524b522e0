"""What callers, files and other stores give for learning sessions → checked records, in the caller's task.

A record may be a Struct of ours, a mapping, or anything with `model_dump`; enumerations may be given as
anybody's, paths and times as texts. Texts are cleaned and redacted, what names something is unchanged or
refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from enum import Enum
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import structs

from ..encoding import Encoder, decode_json
from ..errors import InvalidRecord
from .models import BenchmarkSnapshot, Edit, EditOutcome, LearningSession, RecordedOutcome

S = TypeVar("S", bound=msgspec.Struct)

Labels = Mapping[str, str | None]
"""what is said of an edit, by the names in LABELS"""

LABELS = ("pillar", "op", "target", "risk_tier", "rationale")
"""the fields of an outcome that are its edit's"""


class Given(NamedTuple):
    """A session that may be stored, and its outcomes, one for each edit."""

    session: LearningSession
    outcomes: tuple[RecordedOutcome, ...]


def session_of(encoder: Encoder, value: Any, labels: Mapping[str, Labels], *, is_exact: bool = True) -> Given:
    """A session as given, with what is said of its edits. `is_exact`: fields that are not known here are
    refused; else they are passed over, for whoever wrote them keeps them."""
    fields = _fields(value, "the session", LearningSession, is_exact)
    given = _several(fields.pop("edit_outcomes", ()), "edit_outcomes")
    for name in ("started_at", "ended_at"):
        fields[name] = _time(fields.get(name), name)
    for name in ("benchmark_before", "benchmark_after"):
        if fields.get(name) is not None:
            fields[name] = _fields(fields[name], name, BenchmarkSnapshot, is_exact)
    session = _cleaned(encoder, _converted(fields, LearningSession, "the session"))
    outcomes = [
        _outcome(encoder, session.id, each, labels, f"edit_outcomes[{at}]", is_exact) for at, each in enumerate(given)
    ]
    return Given(session, merged((), outcomes))


def outcome_of(encoder: Encoder, session_id: str, value: Any, labels: Labels) -> RecordedOutcome:
    """An outcome as given, with what is said of its edit beside it."""
    return _labelled(_outcome(encoder, session_id, value, {}, "the outcome", True), _clean_labels(encoder, labels))


def merged(known: Iterable[RecordedOutcome], given: Iterable[RecordedOutcome]) -> tuple[RecordedOutcome, ...]:
    """One outcome for each edit: the later says what there is, and what it leaves empty is kept. The table does the
    same in a statement of its own (`table.put_outcomes`); the tests hold both to the same cases."""
    outcomes = {outcome.edit_id: outcome for outcome in known}
    for outcome in given:
        before = outcomes.get(outcome.edit_id)
        outcomes[outcome.edit_id] = outcome if before is None else _over(before, outcome)
    return tuple(outcomes.values())


def _over(before: RecordedOutcome, after: RecordedOutcome) -> RecordedOutcome:
    said = {name: value for name, value in structs.asdict(after).items() if value is not None}
    for name in ("cluster_deltas", "rationale"):
        if not said[name]:
            del said[name]
    return structs.replace(before, **said)


def plain(value: Any) -> Any:
    """An enumeration's member, of whatever enumeration, as its value; a path as its text."""
    if isinstance(value, Enum):
        return value.value
    return os.fspath(value) if isinstance(value, os.PathLike) else value


# -- shapes ----------------------------------------------------------------------------------------


def _fields(value: Any, name: str, kind: type[msgspec.Struct], is_exact: bool) -> dict[str, Any]:
    if isinstance(value, msgspec.Struct):
        found: Any = structs.asdict(value)
    else:
        dump = getattr(value, "model_dump", None)
        found = dump() if callable(dump) else value
    if not isinstance(found, Mapping):
        wanted = f"a {kind.__name__}, a mapping of its fields, or a model of it"
        raise InvalidRecord(f"{name} must be {wanted}, not {type(value).__name__}; not stored")
    unknown = [key for key in found if key not in kind.__struct_fields__]
    if unknown and is_exact:
        raise InvalidRecord(f"{name} has no field {unknown[0]!r}; not stored")
    return {key: plain(each) for key, each in found.items() if key in kind.__struct_fields__}


def _several(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidRecord(f"{name} must be a list, not {type(value).__name__}; not stored")
    return list(value)


def _converted(fields: dict[str, Any], kind: type[S], name: str) -> S:
    try:
        return msgspec.convert(fields, kind, dec_hook=_made)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRecord(f"{name}: {error}; not stored") from error


def _made(kind: type, value: Any) -> Any:
    if not isinstance(value, str):
        raise InvalidRecord(f"a path is text, not {type(value).__name__}; not stored")
    return kind(value)


def _time(value: Any, name: str) -> datetime | None:
    """A time with the offset it has, which no later rule of a time zone can move."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidRecord(f"{name} must be an ISO 8601 time, not {value!r}; not stored") from None
    if not isinstance(value, datetime):
        raise InvalidRecord(f"{name} must be a datetime, not {type(value).__name__}; not stored")
    offset = value.utcoffset()
    if offset is None:
        raise InvalidRecord(f"{name} must be aware: {value!r} names no time zone; not stored")
    return datetime(*value.timetuple()[:6], value.microsecond, timezone(offset))


def _finite(value: float | None, name: str) -> None:
    if value is not None and not math.isfinite(value):
        raise InvalidRecord(f"{name} must be a finite number, not {value!r}; not stored")


# -- sessions --------------------------------------------------------------------------------------


def _cleaned(encoder: Encoder, session: LearningSession) -> LearningSession:
    parent = session.parent_session_id
    if parent == session.id:
        raise InvalidRecord(f"parent_session_id is that of the session itself, {parent!r}; not stored")
    _finite(session.teacher_cost_usd, "teacher_cost_usd")
    for name in ("diagnosis_path", "plan_path"):
        encoder.identifier(str(getattr(session, name)), name)
    after = session.benchmark_after
    return structs.replace(
        session,
        id=encoder.identifier(session.id, "id"),
        parent_session_id=None if parent is None else encoder.identifier(parent, "parent_session_id"),
        trigger_metadata=_json(encoder, session.trigger_metadata, "trigger_metadata"),
        benchmark_before=_snapshot(encoder, session.benchmark_before, "benchmark_before"),
        benchmark_after=None if after is None else _snapshot(encoder, after, "benchmark_after"),
        **{name: encoder.text(getattr(session, name), name) for name in _SESSION_TEXTS},
    )


_SESSION_TEXTS = ("git_checkpoint_pre", "git_checkpoint_post", "error")


def _snapshot(encoder: Encoder, snapshot: BenchmarkSnapshot, name: str) -> BenchmarkSnapshot:
    _finite(snapshot.elapsed_seconds, f"{name}.elapsed_seconds")
    return structs.replace(
        snapshot,
        benchmark_version=encoder.text(snapshot.benchmark_version, f"{name}.benchmark_version"),
        cluster_scores=_json(encoder, snapshot.cluster_scores, f"{name}.cluster_scores"),
    )


def _json(encoder: Encoder, value: Any, name: str) -> Any:
    return decode_json(encoder.json(value, name))


# -- outcomes --------------------------------------------------------------------------------------


def _outcome(
    encoder: Encoder, session_id: str, value: Any, labels: Mapping[str, Labels], name: str, is_exact: bool
) -> RecordedOutcome:
    fields = _fields(value, name, RecordedOutcome, is_exact)
    fields["session_id"] = session_id
    fields["applied_at"] = _time(fields.get("applied_at"), f"{name}.applied_at")
    own = {label: fields.pop(label, None) for label in LABELS}
    outcome = _converted(fields, RecordedOutcome, name)
    _finite(outcome.benchmark_delta, f"{name}.benchmark_delta")
    cleaned = structs.replace(
        outcome,
        edit_id=encoder.identifier(outcome.edit_id, f"{name}.edit_id"),
        cluster_deltas=_json(encoder, outcome.cluster_deltas, f"{name}.cluster_deltas"),
        error=encoder.text(outcome.error, f"{name}.error"),
    )
    return _labelled(_labelled(cleaned, _clean_labels(encoder, own)), labels.get(outcome.edit_id, {}))


def _labelled(outcome: RecordedOutcome, labels: Labels) -> RecordedOutcome:
    return structs.replace(outcome, **{name: text for name, text in labels.items() if text})


def _clean_labels(encoder: Encoder, labels: Mapping[str, Any]) -> Labels:
    return {name: encoder.text(plain(labels.get(name)), name) for name in LABELS}


def labels_by_edit(encoder: Encoder, edits: Any) -> dict[str, Labels]:
    """What edits say of the outcomes with their ids; of an edit, only what is asked for must be there."""
    found: dict[str, Labels] = {}
    for at, edit in enumerate([] if edits is None else _several(edits, "edits")):
        fields = _fields(edit, f"edits[{at}]", Edit, is_exact=False)
        found[encoder.identifier(fields.get("id", ""), f"edits[{at}].id")] = _clean_labels(encoder, fields)
    return found


def as_outcome(outcome: RecordedOutcome) -> EditOutcome:
    """An outcome as its session has it."""
    return EditOutcome(**{name: getattr(outcome, name) for name in EditOutcome.__struct_fields__})
