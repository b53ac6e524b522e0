"""The room of learning sessions: records are checked here and handed to operations and files."""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ..encoding import Encoder, as_id
from ..engine import Engine
from ..errors import InvalidRecord, ReadOnly, StoreError
from ..filters import Filter, as_list, page_size
from ..options import Timeouts
from . import files, table
from .files import directory_of, folder_name
from .given import Given, labels_by_edit, merged, outcome_of, plain, session_of
from .lock import Locks, to_the_end
from .models import Edit, EditOutcome, LearningSession, LearningStatus, OutcomeStatus, Rebuilt, RecordedOutcome
from .rebuild import Rebuild

Several = str | Sequence[str] | None


class Learning:
    """The learning sessions of `store.learning`: an agent's attempts to improve itself.

    A session with a folder has a file in it, `session.json`, which is the truth; the table is an index of
    it, and can be rebuilt. Learning sessions belong to no user, and are not the sessions of `store.sessions`.
    """

    def __init__(self, engine: Engine, encoder: Encoder, timeouts: Timeouts) -> None:
        self._engine = engine
        self._encoder = encoder
        self._locks = Locks(timeouts.busy_s)

    async def save(
        self,
        session: LearningSession | Mapping[str, Any] | Any,
        *,
        edits: Sequence[Edit | Mapping[str, Any] | Any] | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> LearningSession:
        """Saves a session with its outcomes, all or nothing, and returns it as it is stored.

        session: a LearningSession, a mapping of its fields (enumerations, paths and times also as texts), or
        a model of it with `model_dump`. Saved again, it takes the place of what was stored under its id; its
        outcomes are added, or update those of the same edit: what they leave empty is kept, and none is
        removed. edits: what was proposed; the outcomes of the same ids get its pillar, op, target, risk tier
        and rationale.

        directory: writes `<directory>/<id>/session.json` first, with every outcome known of it, then the
        table. If the latter fails, the file is there even so: save again, or `rebuild`. Of all who save with that
        directory, in whatever process, one writes at a time, with the lock of `<directory>/.recollect.lock`, so
        that file and table agree; whoever is cancelled after he began to write leaves when both are written.

        Raises InvalidRecord, also for a field that is not known, SessionNotFound for a parent that is not
        there; with a directory also OSError, and StoreBusy for a lock that was not free within
        `timeouts.busy_s`. Then nothing is written, no file either.
        """
        given = session_of(self._encoder, session, labels_by_edit(self._encoder, edits))
        size = self._size(files.encoded(given))
        if directory is None:
            return await self._engine.write(table.save, given, session=given.session.id, size=size)
        place = directory_of(directory)
        folder_name(given.session.id)
        return await self._save_with_file(given, place)

    async def _save_with_file(self, given: Given, directory: str) -> LearningSession:
        self._check_writing()
        await self._with_known(given)  # what is wrong with it is told before any folder is made
        return await self._locks.hold(directory, partial(self._put, given, directory), is_made=True)

    async def _put(self, given: Given, directory: str) -> LearningSession:
        given, content = await self._with_known(given)
        loop = asyncio.get_running_loop()
        path = await to_the_end(loop.run_in_executor(None, files.write, directory, given.session.id, content))
        try:
            return await self._engine.write(table.save, given, session=given.session.id, size=len(content))
        except StoreError as error:
            error.add_note(f"its file is written, {path}: save it again, or rebuild")
            raise

    async def _with_known(self, given: Given) -> tuple[Given, bytes]:
        """The session with every outcome known of it, and its file."""
        known: list[RecordedOutcome] = await self._engine.read(table.read_known, given.session)
        given = given._replace(outcomes=merged(known, given.outcomes))
        content = files.encoded(given)
        self._size(content)
        return given, content

    def _check_writing(self) -> None:
        if self._engine.readonly:
            raise ReadOnly("the store was opened with readonly=True; not stored, and no file was written")

    def _size(self, content: bytes) -> int:
        return self._encoder.within(len(content), "the learning session")

    async def get(self, session_id: str) -> LearningSession | None:
        """The session with its outcomes, or None."""
        return await self._engine.read(table.read_session, as_id(session_id))

    async def list(self, *, status: Several = None, limit: int | None = None) -> list[LearningSession]:
        """Sessions with their outcomes, the newest first by the instant at which they began, whatever the
        offsets of their times. status: one or several. limit: at most so many; None: all."""
        where = Filter()
        where.among("status", _each_of(LearningStatus, status, "status"))
        return await self._engine.read(table.read_sessions, where, page_size(limit))

    async def save_outcome(
        self,
        session_id: str,
        outcome: EditOutcome | Mapping[str, Any] | Any,
        *,
        pillar: str | None = None,
        op: str | None = None,
        target: str | None = None,
        risk_tier: str | None = None,
        rationale: str = "",
    ) -> RecordedOutcome:
        """Saves what became of an edit, and returns all that is known of it.

        Saved again, it updates the outcome of the same edit; what is left empty is kept: to take an error
        away, give an empty one. Of a session with a file, the file has it when the session is saved next.
        Raises SessionNotFound, InvalidRecord.
        """
        labels = {"pillar": pillar, "op": op, "target": target, "risk_tier": risk_tier, "rationale": rationale}
        session_id = self._encoder.identifier(session_id, "session_id")
        given = outcome_of(self._encoder, session_id, outcome, labels)
        size = self._encoder.within(len(msgspec.json.encode(given)), "the outcome")
        return await self._engine.write(table.save_outcome, given, session=session_id, size=size)

    async def outcomes(
        self,
        session_id: Several = None,
        *,
        op: Several = None,
        pillar: Several = None,
        target: Several = None,
        risk_tier: Several = None,
        status: Several = None,
    ) -> builtins.list[RecordedOutcome]:
        """Outcomes with what is known of their edits, of one session, of several, or of all, in the order in
        which they were first stored. Each filter takes one value or several; an empty list matches nothing."""
        where = Filter()
        where.among("status", _each_of(OutcomeStatus, status, "status"))
        given = {"session_id": session_id, "op": op, "pillar": pillar, "target": target, "risk_tier": risk_tier}
        for column, values in given.items():
            where.among(column, None if values is None else [plain(value) for value in as_list(values)])
        return await self._engine.read(table.read_outcomes, where)

    async def rebuild(
        self, directory: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None
    ) -> Rebuilt:
        """Makes the table anew from `<directory>/*/session.json`: what they say takes the place of the rows.

        Of the `plan.json` beside a file, what it says of the edits is taken as well. Files that cannot be
        understood are told, and do not stop the rest; sessions that have no file, and outcomes that are in
        none, stay as they are, for they may never have had one. No link is followed, and no file over
        `limits.row_bytes` is read. `progress` gets the numbers of sessions done and of all; what it raises
        ends the rebuild, as cancelling does; repeat it then. `redact` is called in a worker thread.
        The lock of the directory (see `save`) is held over each of the chunks in which it is read, unless the
        directory may only be read and has none. Raises FileNotFoundError, NotADirectoryError, OSError, StoreBusy.
        """
        place = directory_of(directory)
        self._check_writing()
        return await Rebuild(self._engine, self._encoder, self._locks, place).run(progress)


def _each_of(allowed: Any, values: Several, name: str) -> builtins.list[str] | None:
    if values is None:
        return None
    known = [str(each) for each in allowed]
    listed = [plain(value) for value in as_list(values)]
    for value in listed:
        if value not in known:
            raise InvalidRecord(f"{name} must be one of {', '.join(known)}, not {value!r}")
    return listed
