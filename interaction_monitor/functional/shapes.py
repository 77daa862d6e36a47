"""A distribution over orders as a decay and a spindle, and how far each order cancels.

The later work of the papers' group holds that what generalizes decays over the orders and what does not is a spindle
that mostly cancels (Cheng et al. 2025, "Revisiting generalization power of a DNN in terms of symbolic interactions";
He et al. 2025, "Towards the three-phase dynamics of generalization power of a DNN"). The two shapes here are the
simplest of their kind, not those papers' formulas: a geometric decay, and the binomial that independent players make.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._float64 import to_float64
from interaction_monitor.functional.interactions import n_players, orders

_RATES = torch.linspace(0.02, 0.6, 59, dtype=torch.float64)
_CENTRES = torch.linspace(0.3, 0.7, 41, dtype=torch.float64)


@dataclass(frozen=True)
class Shapes:
    """The decay and the spindle that come nearest to a distribution over orders; float64."""

    decay: Tensor  # (..., n) its part of the distribution, which sums to `decay_share`
    spindle: Tensor  # (..., n) its part, which sums to 1 - decay_share
    decay_share: Tensor  # (...,) 0..1
    rate: Tensor  # (...,) of the decay, order k+1 over order k
    centre: Tensor  # (...,) of the spindle, its mean order
    misfit: Tensor  # (...,) share of the strength at a wrong order, 0..1


def fit_shapes(strength: Tensor) -> Shapes:
    """Split a distribution over orders into a decay and a spindle.

    Least squares over the mixtures a·ρ^(k-1) + (1-a)·C(n,k) q^k (1-q)^(n-k), each normalised over k = 1..n, with
    0 ≤ a ≤ 1, 0.02 ≤ ρ ≤ 0.6 and 0.3 ≤ q ≤ 0.7 on a grid.

    Args:
        strength: (..., n) strength by order, not negative, in any unit; n ≥ 4, fewer orders fit anything.

    Returns:
        The shapes; NaN where there is no strength.

    Raises:
        ValueError: if there are fewer than four orders, or a strength is negative.

    Examples:
        >>> decay = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25])
        >>> fit = fit_shapes(decay)
        >>> round(fit.decay_share.item(), 2), round(fit.rate.item(), 2)
        (1.0, 0.5)
    """
    n = strength.shape[-1]
    if n < 4:
        raise ValueError(f"strength must be of at least 4 orders for two shapes to be told apart, but is of {n}")
    if (strength < 0).any():
        raise ValueError("strength must not be negative; give the sums of |I| by order")
    strength = to_float64(strength)
    shape, device = strength.shape[:-1], strength.device
    seen = (strength / strength.sum(-1, keepdim=True)).reshape(-1, 1, n)
    decays, spindles = (x.to(device) for x in _templates(n))
    apart = decays - spindles
    share = (((seen - spindles) * apart).sum(-1) / apart.square().sum(-1)).clamp(0, 1)  # (E, G)
    fitted = spindles + share[..., None] * apart
    best = (seen - fitted).square().sum(-1).nan_to_num(torch.inf).argmin(-1)  # (E,)
    share = share.gather(1, best[:, None])
    decay, spindle = share * decays[best], (1 - share) * spindles[best]
    unknown = seen.isnan().any(-1)
    k = torch.arange(1, n + 1, dtype=torch.float64, device=device)

    def known(x: Tensor) -> Tensor:
        return x.masked_fill(unknown if x.ndim > 1 else unknown[:, 0], math.nan).reshape(shape + x.shape[1:])

    return Shapes(
        decay=known(decay),
        spindle=known(spindle),
        decay_share=known(share[:, 0]),
        rate=known(_RATES.to(device)[best // len(_CENTRES)]),
        centre=known(spindles[best] @ k),
        misfit=known((seen[:, 0] - decay - spindle).abs().sum(-1) / 2),
    )


def order_cancellation(and_: Tensor, or_: Tensor, tau: float | Tensor = 0.0) -> Tensor:
    """Give the part of each order's salient strength that cancels on the whole sample.

    1 - |Σ I| / Σ|I| over the AND and OR interactions of the order with |I| ≥ τ, of the sums over all samples of the
    numerator and of the denominator: 0 where all of a sample's interactions have one sign, near 1 where as many speak
    for the output as against it.

    Args:
        and_: (S, 2^n) AND interactions; samples with NaN are left out.
        or_: (S, 2^n) OR interactions.
        tau: threshold; 0 takes all.

    Returns:
        (n,) float64 in 0..1, entry k-1 for order k; NaN for orders without strength.

    Examples:
        >>> and_ = torch.tensor([[9.0, 1.0, 2.0, 0.0], [9.0, 1.0, -1.0, 4.0]])
        >>> order_cancellation(and_, torch.zeros(2, 4)).tolist()  # |3| and |0| of 3 and 2
        [0.4, 0.0]
    """
    n = n_players(and_)
    both = torch.stack((to_float64(and_), to_float64(or_)), -2)
    both = both[both.isfinite().all(-1).all(-1)]
    both = both.where(both.abs() >= tau, 0.0)
    of_order = (orders(n, device=both.device)[:, None] == torch.arange(1, n + 1, device=both.device)).double()
    net, gross = (both @ of_order).sum(-2).abs().sum(0), (both.abs() @ of_order).sum((0, 1))
    return torch.where(gross > 0, 1 - net / gross, math.nan)


def _templates(n: int) -> tuple[Tensor, Tensor]:
    """Every pair of a decay and a spindle, (G, n) each, the centres fastest."""
    k = torch.arange(1, n + 1, dtype=torch.float64)
    decays = _RATES[:, None] ** (k - 1)
    binomial = torch.tensor([math.comb(n, order) for order in range(1, n + 1)], dtype=torch.float64)
    spindles = binomial * _CENTRES[:, None] ** k * (1 - _CENTRES[:, None]) ** (n - k)
    pairs = decays.repeat_interleave(len(_CENTRES), 0), spindles.repeat(len(_RATES), 1)
    return pairs[0] / pairs[0].sum(-1, keepdim=True), pairs[1] / pairs[1].sum(-1, keepdim=True)
