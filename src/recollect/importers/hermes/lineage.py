"""The sessions of a file as a family: parents first, how deep, which has the key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ...models import Relation
from .rows import Fields, Lineage, Listed, object_of, relation_of

_NEVER = datetime.min.replace(tzinfo=UTC)


class Family:
    """All sessions of a file, by what must be known of them at once."""

    def __init__(self, listed: Sequence[Listed]) -> None:
        self._by_id = {one.id: one for one in listed}
        self._depths: dict[str, int] = {}
        self._holders: dict[str, Listed] = {}
        for one in sorted(listed, key=lambda one: (one.started_at or _NEVER, one.number)):
            if one.key is not None and one.is_live:
                self._holders[one.key] = one

    def __len__(self) -> int:
        return len(self._by_id)

    def in_order(self) -> Iterator[Listed]:
        """Every session after its parent; who is its own ancestor somewhere."""
        done: set[str] = set()
        for start in self._by_id.values():
            chain: list[Listed] = []
            one: Listed | None = start
            while one is not None and one.id not in done:
                done.add(one.id)
                chain.append(one)
                one = self._by_id.get(one.parent_id or "")
            yield from reversed(chain)

    def lineage(self, one: Listed, row: Fields) -> Lineage:
        """Where a session stands whose parent was asked for before."""
        has_key = not one.is_live or self._holders.get(one.key or "") == one
        if one.parent_id is None:
            return Lineage(None, 0, has_key)
        relation = relation_of(one, object_of(row.get("model_config")), self._by_id.get(one.parent_id))
        depth = self._depths.get(one.parent_id, 0) + (relation is Relation.SPAWN)
        self._depths[one.id] = depth
        return Lineage(relation, depth, has_key)
