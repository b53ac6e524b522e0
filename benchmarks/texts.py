"""Texts for the measurements: made from a fixed seed, with words of a natural spread."""

from __future__ import annotations

import random
from functools import cache

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


@cache
def words(n: int = 20_000) -> list[str]:
    """Made-up words, the frequent ones short."""
    draw = random.Random(7)
    found = {"".join(draw.choices(LETTERS, weights=range(26, 0, -1), k=draw.randint(2, 11))) for _ in range(2 * n)}
    return sorted(found, key=lambda word: (len(word), word))[:n]


def messages(n: int, size: int = 400, seed: int = 1) -> list[str]:
    """`n` texts of about `size` characters, words drawn by rank (Zipf)."""
    draw = random.Random(seed)
    vocabulary = words()
    weights = [1 / (rank + 10) for rank in range(len(vocabulary))]
    pool = draw.choices(vocabulary, weights=weights, k=200_000)
    made: list[str] = []
    for _ in range(n):
        at = draw.randrange(len(pool) - size)
        made.append(" ".join(pool[at : at + size // 4])[:size])
    return made
