"""How strongly the closed form can express an interaction of each order (Ren et al. 2024, Proposition 1)."""

from __future__ import annotations

from decimal import Decimal, localcontext
from itertools import pairwise
from math import comb

import torch
from torch import Tensor

from interaction_monitor.theory.closed_form import checked_levels


def _row_norms(n: int, sigma2: float) -> list[float]:
    """Norms of the rows of M̂ for one noise level, by order 0..n.

    Row T of M̂ at column T' is 2^{(|T'|-|T|)/2} Σ_j f_j [z^j] Π over players of (s²+c²z) where both hold the
    player, cs(1-z) where one does, (c²+s²z) where none does: it depends on how often each happens, no more. The
    sum is made by multiplying the factors onto f one at a time, (α+βz) taking f_j to αf_j + βf_{j+1}. Differences
    of f cancel up to 2n digits, hence the decimals.
    """
    with localcontext() as context:
        context.prec = 40 + 2 * n
        root17 = Decimal(17).sqrt()
        large, small = (5 + root17) / 4, (5 - root17) / 4
        # cos² and sin² of the rotation, whose slope is √2 (√17 - 3) / 4
        c2 = 1 / (1 + (root17 - 3) ** 2 / 8)
        s2 = 1 - c2
        cs = (c2 * s2).sqrt()
        noise = Decimal(2) ** n * Decimal(sigma2)
        kept = [1 / (1 + noise / (large ** (n - j) * small**j)) for j in range(n + 1)]

        squares: dict[tuple[int, int], Decimal] = {}  # by players in both sets, players in one
        one = kept
        for in_one in range(n + 1):
            both = one
            for in_both in range(n - in_one + 1):
                rest = both
                while len(rest) > 1:
                    rest = [c2 * f + s2 * g for f, g in pairwise(rest)]
                squares[in_both, in_one] = rest[0] ** 2
                both = [s2 * f + c2 * g for f, g in pairwise(both)]
            one = [cs * (f - g) for f, g in pairwise(one)]

        def norm(order: int) -> float:
            total = sum(
                comb(order, inside)
                * comb(n - order, outside)
                * Decimal(2) ** (inside + outside - order)
                * squares[inside, order - inside + outside]
                for inside in range(order + 1)
                for outside in range(n - order + 1)
            )
            return float(Decimal(total).sqrt())

        return [norm(order) for order in range(n + 1)]


def row_norms(n: int, sigma2: float | Tensor) -> Tensor:
    """Give the norm of a row of M̂ for every order: how far ŵ_T can reach for a w* of norm one.

    ŵ = M̂ w*, and the norm of row T depends on n, σ² and |T| only (Ren et al. 2024, Theorem 4). Here it is summed
    over the O(n³) ways in which two sets can lie to each other, in decimal arithmetic, so that it is right to
    the last digit of float64 where a dense matrix is not even representable.

    Args:
        n: number of players, at least 1.
        sigma2: noise variance, a number or (K,).

    Returns:
        (n + 1,) or (K, n + 1) float64, index = order |T| = 0..n.

    Raises:
        ValueError: if `n` is below 1, or `sigma2` negative or not finite.

    Examples:
        >>> row_norms(10, 0.0).tolist() == [1.0] * 11  # no noise, M̂ is the identity
        True
        >>> bool((row_norms(20, 0.1).diff() < 0).all())  # noise hits high orders harder
        True
    """
    if n < 1:
        raise ValueError(f"n must be a number of players, at least 1, but is {n}")
    levels = checked_levels(sigma2)
    norms = [_row_norms(n, level) for level in levels.reshape(-1).tolist()]
    return torch.tensor(norms, dtype=torch.float64, device=levels.device).reshape(*levels.shape, n + 1)


def norm_ratio(n: int, sigma2: float | Tensor) -> Tensor:
    """Give r^(k) = ‖m̂_T‖ / ‖m̂_T'‖ for |T| = k, |T'| = k + 1: the head start of order k over the next.

    Each ratio is 1 without noise and rises with it, to √10: while the noise fades, high orders catch up
    (Ren et al. 2024, Proposition 1 and Figure 3).

    Args:
        n: number of players, at least 1.
        sigma2: noise variance, a number or (K,).

    Returns:
        (n - 1,) or (K, n - 1) float64 for k = 1..n-1.

    Raises:
        ValueError: if `n` is below 1, or `sigma2` negative or not finite.

    Examples:
        >>> ratio = norm_ratio(6, torch.tensor([0.0, 0.01, 1.0, 1e6]))
        >>> bool((ratio.diff(dim=0) > 0).all())
        True
        >>> [round(r, 3) for r in ratio[-1].tolist()]
        [3.162, 3.162, 3.162, 3.162, 3.162]
    """
    norms = row_norms(n, sigma2)
    return norms[..., 1:-1] / norms[..., 2:]
