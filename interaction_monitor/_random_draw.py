"""Seeded draws that give the same answer on every machine, device and library version."""

from __future__ import annotations

import hashlib
import heapq


def draw(n_items: int, n_draws: int, *key: int | str) -> list[int]:
    """Draw `n_draws` distinct items of `range(n_items)` at random, decided by `key` alone.

    Items are ranked by the SHA-256 digest of `"key/.../item"` and the first `n_draws` are taken. No random
    number generator is used or disturbed: the streams of generators may change between library versions, and
    a run that is resumed years later must still find the same players.

    Args:
        n_items: how many items there are.
        n_draws: how many to draw, at most `n_items`.
        key: what decides the draw, for instance the seed and the index of the sample.

    Returns:
        The drawn items in the order of the draw; the first `k` of them are the draw of `k` items.

    Examples:
        >>> draw(36, 4, 0, 17)
        [2, 23, 32, 19]
    """
    prefix = "/".join(str(part) for part in key)

    def rank(item: int) -> bytes:
        return hashlib.sha256(f"{prefix}/{item}".encode()).digest()

    return heapq.nsmallest(n_draws, range(n_items), key=rank)


def uniform(*key: int | str) -> float:
    """Return a number in [0, 1), uniformly distributed, decided by `key` alone.

    Examples:
        >>> 0 <= uniform("k-means", 0, 3) < 1
        True
    """
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    # 53 bits are what a float holds: more would round up to one.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
