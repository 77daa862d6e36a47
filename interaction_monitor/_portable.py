"""Numbers that are the same on every machine: in float64, where tensors are or on the CPU, and seeded draws."""

from __future__ import annotations

import hashlib
import heapq
from functools import lru_cache

import torch
from torch import Tensor


def float64_device(device: torch.device | str) -> torch.device:
    """Return the device itself if it has float64, or the CPU if it has none, as Apple's GPUs.

    Examples:
        >>> float64_device("cpu")
        device(type='cpu')
    """
    device = torch.device(device)
    return device if device.type in ("cpu", "cuda", "meta") or _has_float64(device) else torch.device("cpu")


@lru_cache(maxsize=16)
def _has_float64(device: torch.device) -> bool:
    # Some refuse the tensor, others only what is computed with it.
    try:
        (torch.ones(1, dtype=torch.float32, device=device).double() + 1).cpu()
    except (TypeError, RuntimeError):
        return False
    return True


def where_float64_is(x: Tensor) -> Tensor:
    """Return the tensor, of whatever type, on `float64_device` of its own."""
    return x.to(float64_device(x.device))


def to_float64(x: Tensor) -> Tensor:
    """Return the tensor in float64, on its own device or on the CPU.

    Examples:
        >>> to_float64(torch.tensor([0.5, 1.0])).dtype
        torch.float64
    """
    # Not at once: a device without float64 would convert before it hands over.
    return where_float64_is(x).double()


def as_float64(value: float | Tensor, device: torch.device | str) -> Tensor:
    """Return a number or a tensor in float64 beside what `to_float64` makes of tensors on `device`."""
    device = float64_device(device)
    if isinstance(value, Tensor):
        return to_float64(value).to(device)
    return torch.tensor(value, dtype=torch.float64, device=device)


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
