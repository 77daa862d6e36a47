"""Coalitions as bitmasks: which players are present, and how many.

A coalition is an int whose bit ``i`` is set when player ``i`` is present. A vector over all coalitions of
``n`` players has length ``2**n`` on its last axis, and its index is the bitmask; index 0 is the empty one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def n_players(v: Tensor) -> int:
    """Count the players of a vector over coalitions.

    Args:
        v: (..., 2^n) any tensor whose last axis runs over all coalitions.

    Returns:
        n, at least 1.

    Raises:
        ValueError: if the last axis is no power of two, or shorter than two: it cannot hold every coalition.

    Examples:
        >>> n_players(torch.zeros(50, 1024))
        10
    """
    length = v.shape[-1] if v.ndim else 0
    if length < 2 or length & (length - 1):
        raise ValueError(
            f"the last axis must run over all 2**n coalitions (n >= 1), but v has shape {tuple(v.shape)}; "
            "put the coalitions last and give the output of every one, the empty one at index 0"
        )
    return length.bit_length() - 1


def orders(n: int, device: torch.device | str | None = None) -> Tensor:
    """Give the order of every coalition: the number of players present in it.

    Args:
        n: number of players.
        device: where the result lives; default: torch's default device.

    Returns:
        (2^n,) int64, the number of set bits of each index.

    Raises:
        ValueError: if `n` is negative.

    Examples:
        >>> orders(3).tolist()
        [0, 1, 1, 2, 1, 2, 2, 3]
    """
    if n < 0:
        raise ValueError(f"n must be a number of players, at least 0, but is {n}")
    result = torch.zeros(1, dtype=torch.int64, device=device)
    for _ in range(n):
        result = torch.cat((result, result + 1))
    return result


def highest_bit_first(v: Tensor) -> Tensor:
    """Turn a vector over coalitions whose player 0 has the highest bit into one whose player 0 has the lowest, or back.

    The code of the papers' authors lists masks as binary numbers read from the left, so that index 1 is the last
    player alone. Applied twice it changes nothing.

    Args:
        v: (..., 2^n) outputs or interactions.

    Returns:
        (..., 2^n) the same values in the other order.

    Raises:
        ValueError: if the last axis is no power of two.

    Examples:
        >>> highest_bit_first(torch.tensor([0, 20, 10, 30])).tolist()  # 10 is what player 0 has alone
        [0, 10, 20, 30]
    """
    n = n_players(v)
    axes = v.reshape(*v.shape[:-1], *[2] * n)
    first = v.ndim - 1
    return axes.permute(*range(first), *reversed(range(first, first + n))).reshape(v.shape)


def members(coalition: int) -> tuple[int, ...]:
    """List the players of a coalition, in ascending order.

    Args:
        coalition: bitmask, bit `i` set when player `i` is present.

    Returns:
        The indices of the set bits.

    Raises:
        ValueError: if `coalition` is negative, which no bitmask is.

    Examples:
        >>> members(0b1101)
        (0, 2, 3)
    """
    if coalition < 0:
        raise ValueError(f"coalition must be a bitmask, at least 0, but is {coalition}")
    return tuple(player for player in range(coalition.bit_length()) if coalition >> player & 1)


def coalition(members: Iterable[int]) -> int:
    """Make the bitmask of a set of players: the inverse of `members`.

    Args:
        members: player indices, each at least 0; one named twice counts once.

    Returns:
        The bitmask.

    Raises:
        ValueError: if an index is negative.

    Examples:
        >>> bin(coalition([0, 2, 3]))
        '0b1101'
    """
    bitmask = 0
    for player in members:
        if player < 0:
            raise ValueError(f"members must be player indices, at least 0, but one is {player}")
        bitmask |= 1 << player
    return bitmask
