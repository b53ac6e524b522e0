"""Texts for the measurements: made from a fixed seed, with the word lengths of running English
(4.7 letters on average) and frequencies that fall with the rank (Zipf)."""

from __future__ import annotations

import random
from functools import cache

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


@cache
def words(n: int = 20_000) -> list[str]:
    """Made-up words by rank: the first hundred have 2 to 4 letters, the others 3 to 10."""
    draw = random.Random(7)
    found: dict[str, None] = {}
    while len(found) < n:
        length = draw.randint(2, 4) if len(found) < 100 else min(10, max(3, round(draw.gauss(5.6, 1.8))))
        found["".join(draw.choices(LETTERS, weights=range(26, 0, -1), k=length))] = None
    return list(found)


def messages(n: int, size: int = 400, seed: int = 1) -> list[str]:
    """`n` texts of `size` characters."""
    draw = random.Random(seed)
    vocabulary = words()
    pool = draw.choices(vocabulary, weights=[1 / (rank + 3) for rank in range(len(vocabulary))], k=400_000)
    made: list[str] = []
    for _ in range(n):
        at = draw.randrange(len(pool) - size)
        made.append(" ".join(pool[at : at + size // 2])[:size])
    return made
