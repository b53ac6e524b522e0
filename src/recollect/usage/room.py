"""The room of usage: figures are prepared here and handed to the ledger's operations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Unpack

from ..access import Access
from ..encoding import Encoder
from ..errors import InvalidQuery, InvalidRecord
from ..fields import UsageFields
from ..filters import Filter
from ..models import NewUsage, UsageRound, UsageTotal
from .correct import add, set_totals
from .ledger import COSTS, GROUPS, TOKENS, Round, prepare_round, read_rounds, read_totals, record_round


class Usage:
    """The ledger of `store.usage`: a row per round of the model, and per correction.

    Token counts are what the provider reported, prompt counts with cached tokens in them; costs are US
    dollars, kept in millionths. Of a session's `model` and `billing_*` the first given stays, of
    `cost_status`, `cost_source` and `pricing_version` the last; None keeps what there is.
    """

    def __init__(self, access: Access, encoder: Encoder) -> None:
        self._access = access
        self._encoder = encoder

    async def record_round(
        self, session_id: str, *, round_index: int, send_index: int | None = None, **usage: Unpack[UsageFields]
    ) -> None:
        """Records the usage of a round of the model, in place of what was recorded for it before.

        `send_index` left out is the session's current send. Raises SessionNotFound, InvalidRecord.
        """
        given = NewUsage(round_index=round_index, send_index=send_index, **usage)
        await self._write(record_round, session_id, prepare_round(self._encoder, given))

    async def add(self, session_id: str, **usage: Unpack[UsageFields]) -> None:
        """Adds a correction: differences, which may be negative. Raises SessionNotFound, InvalidRecord."""
        await self._write(add, session_id, self._correction(usage, signed=True))

    async def set(self, session_id: str, **usage: Unpack[UsageFields]) -> None:
        """Adds the correction that brings the session's counters to these totals; what is left out, or
        None, keeps its own. Raises SessionNotFound, InvalidRecord."""
        given = frozenset(name.removesuffix("_usd") for name, value in usage.items() if value is not None)
        kept: Any = {name: value for name, value in usage.items() if value is not None}
        await self._write(set_totals, session_id, self._correction(kept), given & {*TOKENS, *COSTS})

    def _correction(self, usage: UsageFields, *, signed: bool = False) -> Round:
        if not {"round_index", "send_index"}.isdisjoint(usage):
            raise InvalidRecord("a correction belongs to no round: use record_round; not stored")
        return prepare_round(self._encoder, NewUsage(**usage), signed=signed)

    async def _write(self, op: Any, session_id: str, *args: Any) -> None:
        await self._access.write(op, self._encoder.identifier(session_id, "session_id"), *args)

    async def rounds(self, session_id: str) -> list[UsageRound]:
        """The session's ledger in order; empty if there is no such session."""
        return await self._access.read(read_rounds, session_id)

    async def totals(
        self,
        *,
        by: Literal["session", "model", "source", "day"] = "session",
        session_id: str | Sequence[str] | None = None,
        source: str | Sequence[str] | None = None,
        user_id: str | Sequence[str] | None = None,
        model: str | Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[UsageTotal]:
        """Sums by session, model, source of the session, or day (UTC), largest total first.

        `since` is inclusive, `until` exclusive. Raises InvalidQuery for another `by`.
        """
        if not isinstance(by, str) or by not in GROUPS:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidQuery(f"totals by {by!r}: it must be one of {', '.join(GROUPS)}")
        where = Filter()
        where.among("s.id", session_id)
        where.among("s.source", source)
        where.among("s.user_id", user_id)
        where.among("u.model", model)
        where.between("u.created_at", since, until)
        return await self._access.read_any(read_totals, by, self._access.narrow(where, "s.user_id"))
