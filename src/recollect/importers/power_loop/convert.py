"""The rows of one session there → the record of a session here. Nothing is read or written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ...encoding import Encoder, moment
from ...errors import InvalidRecord
from ...messages.prepare import prepare
from ...models import NewMessage
from ...sessions.transfer import MessageRecord, without
from .folding import ACTIVE, PUT_AWAY, Fold, Folded, Line, replay
from .layout import Reject, Row, SessionRows

SOURCE = "power-loop"
"""what the sessions are marked with; also begins the external ids of their messages"""

SEQ = "power_loop_seq"
"""in the metadata of a note that a compaction here has made: the seq that it has there"""

STATE = "power_loop_state"
"""in the metadata of a message that is neither active nor compacted there: what it is"""

NOTE = "compact_note"

Record = dict[str, Any]


def external_id(seq: int) -> str:
    """What a message is known by here."""
    return f"{SOURCE}:{seq}"


def record_of(
    rows: SessionRows, reject: Reject, *, left_out: Collection[int] = (), stood: Mapping[int, int] | None = None
) -> Record:
    """The session as a record. `left_out`: seqs of messages that this store cannot take; `stood`: up to which
    seq messages are known to have been active."""
    messages = _messages(rows, reject, left_out)
    audits = _audits(rows.compactions, {message["seq"] for message in messages}, reject)
    folds = [Fold(audit["seq"], audit["note_seq"], audit["from_seq"], audit["to_seq"]) for audit in audits]
    folded = replay([_line(message, (stood or {}).get(message["seq"], 0)) for message in messages], folds)
    for message in messages:
        message["position"] = folded.places[message["seq"]]
        message["compacted_by"] = folded.under.get(message["seq"])
        message["state"] = _STATES.get(message["state"], "compacted")
    return {
        **_session(rows.session, reject),
        **state_of(rows.session, rows.state, newest_of(rows.messages), reject),
        "messages": messages,
        "compactions": _covering(rows, audits, folded, reject),
        "usage": usage_of(rows.usage, reject),
    }


_STATES = {ACTIVE: "active", PUT_AWAY: "compacted"}


def newest_of(messages: Sequence[Row]) -> int:
    """The highest seq that has been given out, also to a message that cannot be read."""
    return max([row["seq"] for row in messages if isinstance(row["seq"], int)], default=0)


def _readable(read: Callable[[Row], Any], row: Row, kind: str, place: str, reject: Reject) -> Any:
    """What a row is read as; None where it cannot be."""
    try:
        return read(row)
    except _Unreadable as error:
        line = row[place] if isinstance(row[place], int) else row["rowid"]
        reject(kind, line, f"session {row['session_id']!r}: {error}")
        return None


class _Unreadable(ValueError):
    """A value that cannot be what it stands for."""


# -- values ----------------------------------------------------------------------------------------


def _time(row: Row, name: str) -> datetime:
    try:
        return moment(row[name])
    except (TypeError, OverflowError):
        raise _Unreadable(f"{name} is no time: {row[name]!r}") from None


def _number(row: Row, name: str, least: int = 0) -> int:
    value = row.get(name)
    if not isinstance(value, int) or not least <= value <= _LARGEST:
        raise _Unreadable(f"{name} is no number from {least} on: {value!r}")
    return value


_LARGEST = 2**53
"""of a count or a seq"""


def _number_or_none(row: Row, name: str) -> int | None:
    return None if row.get(name) is None else _number(row, name)


def _text(row: Row, name: str) -> str | None:
    value = row[name]
    if value is not None and not isinstance(value, str):
        raise _Unreadable(f"{name} is no text: {value!r:.40}")
    return value


def _json(row: Row, name: str) -> Any:
    text = row.get(name)
    try:
        return _decoded(text) if text else None
    except (TypeError, ValueError, RecursionError) as error:
        raise _Unreadable(f"{name} is no JSON: {error}") from None


def _decoded(text: str) -> Any:
    """What JSON says; numbers that it has no word for (NaN is written there even so), or that are too large,
    come as text."""
    return json.loads(text, parse_constant=str, parse_float=_float, parse_int=_int)


def _float(text: str) -> float | str:
    return value if math.isfinite(value := float(text)) else text


def _int(text: str) -> int | str:
    return int(text) if len(text) <= _DIGITS else text


_DIGITS = 18
"""so many surely fit into 64 bits"""


def _object(row: Row, name: str) -> dict[str, Any]:
    value = _json(row, name)
    if value is not None and not isinstance(value, dict):
        raise _Unreadable(f"{name} is no object")
    return value or {}


# -- the session -----------------------------------------------------------------------------------

_CHOICES = {
    "status": ("active", "archived"),
    "kind": ("root", "subagent"),
    "lifecycle": ("ephemeral", "linked", "detached"),
}


def _session(row: Row, reject: Reject) -> Record:
    """What is unreadable of a session is told and left out; without its id and time it cannot go in."""
    record: Record = {"id": row["session_id"], "source": SOURCE}
    for name, allowed in _CHOICES.items():
        record[name] = row[name] if row[name] in allowed else allowed[0]
        if record[name] != row[name]:
            reject("sessions", row["rowid"], f"session {row['session_id']!r}: {name} {row[name]!r} is not known")
    for name, column, read in (
        ("config", "config_json", _object),
        ("metadata", "metadata_json", _object),
        ("created_at", "created_at", _time),
        ("updated_at", "updated_at", _time),
        ("spawn_depth", "spawn_depth", _number),
        *[(name, name, _text) for name in ("model", "system_prompt", "spawn_tool_call_id")],
    ):
        value = _readable(lambda row, read=read, column=column: read(row, column), row, "sessions", "rowid", reject)
        if value is not None:
            record[name] = value
    if row["parent_session_id"] is not None:
        record |= {"parent_id": row["parent_session_id"], "relation": "spawn"}
    return record


def state_of(session: Row, state: Row, newest: int, reject: Reject) -> Record:
    """Where the agent is. The next seq is behind the newest message, whatever is written there."""
    row = {**state, "session_id": session["session_id"], "rowid": session["rowid"]}
    given = {
        name: _readable(lambda row, name=name: _number_or_none(row, name), row, "state", "rowid", reject) or 0
        for name in ("next_seq", "round_index", "last_compact_seq")
    }
    return {
        "next_seq": max(given["next_seq"], newest + 1),
        "round_index": given["round_index"],
        "last_compaction_seq": given["last_compact_seq"],
        "pending": _readable(lambda row: _json(row, "pending_json"), row, "pending", "rowid", reject),
    }


# -- its messages ----------------------------------------------------------------------------------


def _messages(rows: SessionRows, reject: Reject, left_out: Collection[int]) -> list[Record]:
    """The messages in order, with the state that they have there."""
    messages: list[Record] = []
    send = 0
    for row in sorted(rows.messages, key=lambda row: row["seq"] if isinstance(row["seq"], int) else 0):
        message = _readable(_message, row, "messages", "seq", reject)
        if message is not None and message["seq"] not in left_out:
            send = _send(message, send)
            message["send_index"] = send
            messages.append(message)
    return messages


def _send(message: Record, before: int) -> int:
    """Which send a message belongs to; where that is not written, a message of the user begins one."""
    if message["send_index"] is not None:
        return message["send_index"]
    return before + (message["role"] == "user")


def _message(row: Row) -> Record:
    meta = _object(row, "meta_json")
    content = row["content"]
    if meta.get("content_encoding") == "json" and isinstance(content, str):
        content, meta = _structured(content, meta)
    if row["state"] not in _STATES:
        meta = {**meta, STATE: row["state"]}
    return {
        "seq": _number(row, "seq", 1),
        "role": row["role"],
        "content": content,
        "name": row["name"],
        "tool_calls": _json(row, "tool_calls_json"),
        "tool_call_id": row["tool_call_id"],
        "round_index": _number_or_none(row, "round_index"),
        "send_index": _number_or_none(row, "send_index"),
        "state": row["state"],
        "external_id": external_id(row["seq"]),
        "metadata": meta,
        "created_at": _time(row, "created_at"),
    }


def _structured(content: str, meta: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Lists and dicts are written as JSON there; the later versions mark them. What is not marked may as
    well be a text that looks like JSON, and stays one."""
    try:
        value = _decoded(content)
    except (ValueError, RecursionError):
        return content, meta
    if not isinstance(value, list | dict):
        return content, meta
    return value, {name: value for name, value in meta.items() if name != "content_encoding"}


def refusal(encoder: Encoder, message: Mapping[str, Any]) -> str | None:
    """Why this store cannot take a message of a record; None: it can."""
    try:
        record = msgspec.convert(message, MessageRecord)
        prepare(encoder, NewMessage(**without(record, "seq", "position", "state", "compacted_by")))
    except (InvalidRecord, msgspec.ValidationError) as error:
        return str(error)
    return None


# -- its compactions -------------------------------------------------------------------------------


def _line(message: Record, stood: int) -> Line:
    line = Line(message["seq"], message["state"], stood=stood)
    if message["name"] != NOTE:
        return line
    said = {name: message["metadata"].get(name) for name in ("ord", "from_seq")}
    ord, first = [value if type(value) is int else None for value in said.values()]
    return line._replace(ord=ord, first=first)


def _audits(rows: Sequence[Row], seqs: Collection[int], reject: Reject) -> list[Record]:
    """The audit rows that can be read, and whose notes are there: what was put away can be deleted there."""
    audits: list[Record] = []
    for row in rows:
        audit = _readable(_audit, row, "compactions", "compact_seq", reject)
        if audit is not None and audit["note_seq"] in seqs:
            audits.append(audit)
        elif audit is not None:
            reject("compactions", audit["seq"], f"session {row['session_id']!r}: its note {audit['note_seq']} is gone")
    return audits


def _audit(row: Row) -> Record:
    return {
        "seq": _number(row, "compact_seq", 1),
        **{name: _number(row, name) for name in ("note_seq", "from_seq", "to_seq")},
        **{name: _number_or_none(row, name) for name in ("before_tokens", "after_tokens", "round_index")},
        "created_at": _time(row, "created_at"),
    }


def _covering(rows: SessionRows, audits: Sequence[Record], folded: Folded, reject: Reject) -> list[Record]:
    """The audit rows with the places that they cover here. Those that cover nothing are told and left out:
    their notes stand for themselves."""
    covered: dict[int, list[int]] = {}
    for seq, fold_seq in folded.under.items():
        covered.setdefault(fold_seq, []).append(folded.places[seq])
    covering: list[Record] = []
    for audit in audits:
        if places := covered.get(audit["seq"]):
            covering.append({**audit, "from_seq": min(places), "to_seq": max(places), "count": len(places)})
        else:
            id = rows.session["session_id"]
            reject("compactions", audit["seq"], f"session {id!r}: nothing is under it; its note comes by itself")
    return covering


# -- its usage -------------------------------------------------------------------------------------


def usage_of(rows: Sequence[Row], reject: Reject) -> list[Record]:
    """The ledger. Versions that did not keep the send have all rounds in send 0."""
    read = [_readable(_usage, row, "usage", "rowid", reject) for row in rows]
    return [usage for usage in read if usage is not None]


def _usage(row: Row) -> Record:
    return {
        "send_index": _number_or_none(row, "send_index") or 0,
        "round_index": _number(row, "round_index"),
        "model": _text(row, "model"),
        "prompt_tokens": _number_or_none(row, "prompt_tokens") or 0,
        "completion_tokens": _number_or_none(row, "completion_tokens") or 0,
        "total_tokens": _number_or_none(row, "total_tokens"),
        "cache_read_tokens": _number_or_none(row, "cached_tokens") or 0,
        "created_at": _time(row, "created_at"),
    }
