"""Coalitions as bitmasks, and the AND and OR interactions of outputs on all coalitions.

A coalition is an int whose bit ``i`` is set when player ``i`` is present. A vector over all coalitions of ``n`` players
has length ``2**n`` on its last axis, and its index is the bitmask; index 0 is the empty one.

The AND interactions are the Harsanyi dividends (the Möbius transform over subsets), the OR interactions those of the
complements with the sign turned (Ren et al. 2024, "Towards the dynamics of a DNN learning symbolic interactions", Eq. 2
and Appendix C). Each is n in-place butterfly stages over the last axis, 2^n n / 2 additions per game: never a 2^n x 2^n
matrix. Batches, any device and any floating dtype are taken as they come. Low precision hurts, as order n sums 2^n
outputs of alternating sign: cast half precision to float64 first.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any

import torch
from torch import Tensor

from interaction_monitor._checks import to_float64


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


def sum_by_order(values: Tensor) -> Tensor:
    """Sum float64 numbers of coalitions within each order, (..., 2^n) -> (..., n); the empty coalition is of none."""
    n = n_players(values)
    order = orders(n, device=values.device)[1:]
    return values[..., 1:] @ (order[:, None] == torch.arange(1, n + 1, device=values.device)).to(values.dtype)


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
    coalition = index(coalition)  # NumPy's whole numbers have no bit_length in every version
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
        bitmask |= 1 << index(player)
    return bitmask


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


class _Butterfly(torch.autograd.Function):
    """One clone, then n in-place stages of the 2x2 kernel [[1, 0], [sign, 1]], or of its transpose.

    Autograd would track every in-place stage. The gradient of a linear map is its transpose, which is this again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, sign: int, transposed: bool) -> Tensor:
        ctx.sign, ctx.transposed = sign, transposed
        y = x.clone(memory_format=torch.contiguous_format)
        source, target = (1, 0) if transposed else (0, 1)
        n = n_players(x)
        for stage in range(n):
            pairs = y.view(*x.shape[:-1], 1 << (n - stage - 1), 2, 1 << stage)
            pairs[..., target, :].add_(pairs[..., source, :], alpha=sign)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return _butterfly(gradients[0], ctx.sign, not ctx.transposed), None, None


def _butterfly(x: Tensor, sign: int, transposed: bool = False) -> Tensor:
    result: Tensor = _Butterfly.apply(x, sign, transposed)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return result


def _checked(name: str, x: Tensor) -> Tensor:
    n_players(x)
    if not x.is_floating_point():
        raise TypeError(f"{name} must be of a floating dtype, but is {x.dtype}; call it with {name}.double()")
    return x


def and_interactions(v: Tensor) -> Tensor:
    """Give every coalition its AND interaction, the Harsanyi dividend of `v`.

    I(S) = Σ_{T⊆S} (-1)^{|S|-|T|} v(T): what the players of S add only when all of them are present
    (Ren et al. 2024, Eq. 2). I(∅) = v(∅).

    Args:
        v: (..., 2^n) outputs of all coalitions, floating.

    Returns:
        (..., 2^n) interactions, of the dtype and device of `v`, differentiable.

    Raises:
        ValueError: if the last axis is no power of two.
        TypeError: if `v` is not floating.

    Examples:
        >>> v = torch.tensor([1.0, 3.0, 1.0, 8.0])  # outputs of {}, {0}, {1}, {0, 1}
        >>> and_interactions(v).tolist()
        [1.0, 2.0, 0.0, 5.0]
    """
    return _butterfly(_checked("v", v), -1)


def and_outputs(i: Tensor) -> Tensor:
    """Give every coalition the output that AND interactions make: the inverse of `and_interactions`.

    v(T) = Σ_{S⊆T} i(S) (Ren et al. 2024, Eq. 3).

    Args:
        i: (..., 2^n) AND interactions, floating; i(∅) is the output of the empty coalition.

    Returns:
        (..., 2^n) outputs, of the dtype and device of `i`, differentiable.

    Raises:
        ValueError: if the last axis is no power of two.
        TypeError: if `i` is not floating.

    Examples:
        >>> and_outputs(torch.tensor([1.0, 2.0, 0.0, 5.0])).tolist()
        [1.0, 3.0, 1.0, 8.0]
    """
    return _butterfly(_checked("i", i), 1)


def or_interactions(v: Tensor) -> Tensor:
    r"""Give every coalition its OR interaction: what any one of its players brings.

    I(S) = -Σ_{T⊆S} (-1)^{|S|-|T|} v(N\T) for S ≠ ∅ (Ren et al. 2024, Eq. 2): the dividends of the game where present
    and absent change places, with the sign turned. I(∅) = 0, as OR has no empty pattern: v(∅) belongs to AND.

    Args:
        v: (..., 2^n) outputs of all coalitions, floating.

    Returns:
        (..., 2^n) interactions, of the dtype and device of `v`, differentiable.

    Raises:
        ValueError: if the last axis is no power of two.
        TypeError: if `v` is not floating.

    Examples:
        >>> v = torch.tensor([0.0, 5.0, 5.0, 5.0])  # 5 as soon as player 0 or player 1 is present
        >>> or_interactions(v).tolist()
        [0.0, 0.0, 0.0, 5.0]
    """
    interactions = _butterfly(-_checked("v", v).flip(-1), -1)
    interactions[..., 0] = 0
    return interactions


def or_outputs(i: Tensor) -> Tensor:
    """Give every coalition the output that OR interactions make: the inverse of `or_interactions`.

    v(T) = Σ_{S∩T≠∅} i(S). i(∅) is without effect, and v(∅) = 0: ``or_outputs(or_interactions(v))`` is v - v(∅).

    Args:
        i: (..., 2^n) OR interactions, floating.

    Returns:
        (..., 2^n) outputs, of the dtype and device of `i`, differentiable.

    Raises:
        ValueError: if the last axis is no power of two.
        TypeError: if `i` is not floating.

    Examples:
        >>> or_outputs(torch.tensor([0.0, 0.0, 0.0, 5.0])).tolist()
        [0.0, 5.0, 5.0, 5.0]
    """
    contained = _butterfly(_checked("i", i), 1)
    # the patterns that miss T are those contained in its complement, whose index is the mirrored one
    return contained[..., -1:] - contained.flip(-1)


def noise_floor(n: int, sigma: float | Tensor) -> Tensor:
    """Give the standard deviation that independent noise on the outputs leaves in an interaction of each order.

    It is σ·2^{k/2} at order k (Ren et al. 2024, Lemma 1). Interactions below it cannot be told from noise.

    Args:
        n: number of players.
        sigma: standard deviation of the noise on one output, e.g. half the last digit of the model's precision.

    Returns:
        (n,) float64, entry k-1 for order k, in units of the outputs.

    Examples:
        >>> noise_floor(4, 0.5).round(decimals=3).tolist()
        [0.707, 1.0, 1.414, 2.0]
    """
    sigma = to_float64(sigma)
    return sigma * 2 ** (torch.arange(1, n + 1, dtype=torch.float64, device=sigma.device) / 2)
