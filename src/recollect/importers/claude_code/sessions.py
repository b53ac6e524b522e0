"""The sessions that a chunk of a transcript tells of: whose records they are, who spawned whom, what
they are called."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from ...encoding import Encoder, decode_json
from ...errors import InvalidRecord
from ...models import Lifecycle
from ...sessions.life import NewSession
from ...sessions.titles import LONGEST, clean_title
from ..chunk import Titled
from ..source import open_file
from .record import Record
from .state import Name, State, remember

SOURCE = "claude-code"

RANK = {"summary": 1, "ai-title": 2, "custom-title": 3}
"""the user's own title goes before the agent's, that before a summary"""

_NEXT = ""
"""in place of a uuid: whichever session comes next"""


class Origin(msgspec.Struct):
    """What a chunk tells of a session."""

    id: str
    parent_id: str | None
    created_at: int
    model: str | None = None
    metadata: dict[str, Any] = {}


class Origins:
    """The sessions of one chunk. `agents` is shared by the files of a run: what spawned whom."""

    def __init__(self, path: str, state: State, agents: dict[str, str], encoder: Encoder) -> None:
        self.titles: dict[str, Titled] = {}
        self.spawned: dict[str, str] = {}
        self._origins: dict[str, Origin] = {}
        self._path = path
        self._state = state
        self._agents = agents
        self._encoder = encoder
        self._meta = _read_meta(path)

    def begin(self) -> None:
        """The next chunk."""
        self.titles = {}
        self.spawned = {}
        self._origins = {}

    def new_sessions(self) -> list[NewSession]:
        """Parents before their children."""
        return [self._as_new_session(origin) for origin in self._origins.values()]

    # -- whose it is ---------------------------------------------------------------------------

    def place(self, record: Record, at: int) -> Origin:
        """The session a record belongs to, with what the record says of it. Raises InvalidRecord."""
        own_id = self._own(record)
        session_id = self._child(record, own_id)
        metadata = _surroundings(record)
        own = self.open(own_id, at)
        own.metadata = {**metadata, **own.metadata}
        self._name_waiting(own_id, record)
        if session_id == own_id:
            return own
        child = self.open(session_id, at, own_id)
        child.metadata = {**self._agent(record), **metadata, **child.metadata}
        return child

    def open(self, session_id: str, at: int, parent_id: str | None = None) -> Origin:
        """The session, made known to the chunk."""
        origin = self._origins.get(session_id)
        if origin is None:
            origin = self._origins[session_id] = Origin(session_id, parent_id, at)
            self._name_early(session_id)
        origin.created_at = min(origin.created_at, at)
        return origin

    def _own(self, record: Record) -> str:
        """The session that the record names, else that of the record before, else the file's name."""
        given = record.session_id
        if given is None:
            given = self._state.session_id or os.path.basename(self._path).removesuffix(".jsonl")
        self._state.session_id = self._encoder.identifier(given, "sessionId")
        return given

    def _child(self, record: Record, own: str) -> str:
        """Sub-agents' records carry the session of their parent."""
        if isinstance(record.agent_id, str) and record.agent_id and record.is_sidechain is not False:
            return self._encoder.identifier(_agent_session(own, record.agent_id), "agentId")
        return f"{own}:sidechain" if record.is_sidechain is True else own

    def _agent(self, record: Record) -> dict[str, Any]:
        if not isinstance(record.agent_id, str):
            return {}
        if not self._meta or os.path.basename(self._path) != f"agent-{record.agent_id}.jsonl":
            return {"agent_id": record.agent_id}
        kind = {"agent_type": self._meta["agentType"]} if "agentType" in self._meta else {}
        return {"agent_id": record.agent_id, **kind, "agent": self._meta}

    def link(self, session_id: Any, agent_id: str | None, call_id: Any) -> None:
        """A tool call has spawned a sub-agent; transcripts tell it several times."""
        if not agent_id or not isinstance(session_id, str) or not isinstance(call_id, str):
            return
        child = self._encoder.identifier(_agent_session(session_id, agent_id), "agentId")
        if child not in self._state.agents:
            remember(self._state.agents, child, self._encoder.identifier(call_id, "toolUseID"))
            self._agents[child] = self.spawned[child] = call_id

    def _as_new_session(self, origin: Origin) -> NewSession:
        encoder = self._encoder
        return NewSession(
            id=origin.id,
            source=SOURCE,
            user_id=None,
            key=None,
            model=encoder.text(origin.model, "model"),
            config=None,
            system_prompt=None,
            title=None,
            metadata=encoder.json_object(origin.metadata, "metadata"),
            parent_id=origin.parent_id,
            relation="spawn" if origin.parent_id else None,
            lifecycle=Lifecycle.LINKED.value,
            spawn_tool_call_id=self._agents.get(origin.id),
            created_at=origin.created_at,
        )

    # -- titles --------------------------------------------------------------------------------

    def entitle(self, record: Record) -> None:
        """A title makes no session: it is for one that is there, or that comes later in the file."""
        title = {"summary": record.summary, "ai-title": record.ai_title}.get(record.type, record.custom_title)
        if not isinstance(title, str):
            raise InvalidRecord(f"the title must be text, not {type(title).__name__}")
        title = self._encoder.text(title, "title") or ""
        session_id = self._state.session_id if record.session_id is None else record.session_id
        if session_id is not None:
            self._name(self._encoder.identifier(session_id, "sessionId"), record.type, title)
        else:
            remember(self._state.leaves, record.leaf_uuid if isinstance(record.leaf_uuid, str) else _NEXT, title)

    def _name(self, session_id: str, kind: str, text: str) -> None:
        title = _shortened(text)
        before = self._state.names.get(session_id)
        if title is None or (before and before.rank > RANK[kind]):
            return
        in_store = self.titles[session_id].before if session_id in self.titles else before and before.title
        self.titles[session_id] = Titled(session_id, title, in_store)
        remember(self._state.names, session_id, Name(RANK[kind], title, session_id not in self._origins))

    def _name_early(self, session_id: str) -> None:
        """A title that was told before its session is given now, once more: it may have found none."""
        name = self._state.names.get(session_id)
        if name and name.is_early:
            name.is_early = False
            self.titles.setdefault(session_id, Titled(session_id, name.title, name.title))

    def _name_waiting(self, session_id: str, record: Record) -> None:
        if not self._state.leaves:
            return
        for key in (_NEXT, record.uuid):
            if isinstance(key, str) and (title := self._state.leaves.pop(key, None)):
                self._name(session_id, "summary", title)


def _agent_session(session_id: str, agent_id: str) -> str:
    return f"{session_id}:agent-{agent_id}"


def _surroundings(record: Record) -> dict[str, str]:
    given = {"cwd": record.cwd, "git_branch": record.git_branch, "version": record.version}
    return {name: value for name, value in given.items() if isinstance(value, str) and value}


def _shortened(text: str) -> str | None:
    """A title of what is left of the text, with an ellipsis where that is too long."""
    line = " ".join(text[: 8 * LONGEST].split())
    return clean_title(line if len(line) <= LONGEST else line[: LONGEST - 1] + "…")


def _read_meta(path: str) -> dict[str, Any]:
    """What stands beside a sub-agent's file: its type, and whatever else is told."""
    try:
        with open_file(path.removesuffix(".jsonl") + ".meta.json") as file:
            meta = decode_json(file.read(64 * 1024))
    except (OSError, ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}
