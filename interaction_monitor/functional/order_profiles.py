"""What the orders do beside being strong: whether they stay, agree, cancel out, and which shape they make together.

Zhou et al. 2024 ("Explaining generalization power of a DNN using interactive concepts") found that interactions of
high order carry over from training to test samples less than those of low order, and Ren et al. 2024 ("Towards the
dynamics of a DNN learning symbolic interactions", Section 3.2) build their reading of the two phases on it. The later
work of their group holds that what generalizes decays over the orders and what does not is a spindle that mostly
cancels (Cheng et al. 2025, "Revisiting generalization power of a DNN in terms of symbolic interactions"; He et al.
2025, "Towards the three-phase dynamics of generalization power of a DNN"). The two shapes here are the simplest of
their kind, not those papers' formulas: a geometric decay, and the binomial that independent players make.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._checks import per_sample, require_one_shape, to_float64
from interaction_monitor.functional.interactions import n_players, sum_by_order
from interaction_monitor.functional.saliency import kinds

_RATES = torch.linspace(0.02, 0.6, 59, dtype=torch.float64)
_CENTRES = torch.linspace(0.3, 0.7, 41, dtype=torch.float64)


@dataclass(frozen=True)
class Turnover:
    """Strength of the salient interactions of each order by whether they stayed; float64."""

    persisted: Tensor  # (..., n) strength now of those salient before and now, with one sign; entry k-1 for order k
    appeared: Tensor  # (..., n) strength now of the other ones salient now
    vanished: Tensor  # (..., n) strength before of the other ones salient before


def order_turnover(
    before: tuple[Tensor, Tensor],
    now: tuple[Tensor, Tensor],
    *,
    before_tau: float | Tensor,
    tau: float | Tensor,
) -> Turnover:
    """Tell which interactions of a network persist from one moment to another, which appear and which vanish.

    An interaction persists if it is salient at both moments, each by the threshold of its own, and has the same sign.
    One that turns its sign vanishes and appears. Persisted and appeared sum to `order_strength` now, and so do the
    persisted of the other direction and the vanished before.

    Args:
        before: AND and OR interactions at the earlier moment, (..., 2^n) each.
        now: the same samples and players at the later one.
        before_tau: saliency threshold of the earlier moment; a number, or (...,) one per sample.
        tau: saliency threshold of the later one.

    Returns:
        The strengths for each order. NaN throughout for a sample with an interaction that is not finite, or with a
        threshold that is NaN.

    Raises:
        ValueError: if the last axis is no power of two, the shapes differ, or a threshold does not fit them.

    Examples:
        >>> zero = torch.zeros(4)
        >>> early = torch.tensor([0.0, 2.0, 0.0, 1.0])  # player 0, and players 0 and 1 together
        >>> late = torch.tensor([0.0, 2.5, 3.0, 0.0])  # player 0 and player 1
        >>> turnover = order_turnover((early, zero), (late, zero), before_tau=0.1, tau=0.1)
        >>> turnover.persisted.tolist(), turnover.appeared.tolist(), turnover.vanished.tolist()
        ([2.5, 0.0], [3.0, 0.0], [0.0, 1.0])
    """
    require_one_shape(**dict(zip(("and_ before", "or_ before", "and_ now", "or_ now"), (*before, *now), strict=True)))
    then_least, least = per_sample(now[0], before_tau=before_tau), per_sample(now[0], tau=tau)
    then, here = kinds(*before), kinds(*now)
    was, is_ = (then.abs() >= then_least) & (then != 0), (here.abs() >= least) & (here != 0)
    both = was & is_ & (then.sign() == here.sign())
    # 0 times what is not finite is NaN, and so marks the sample
    unknown = 0 * then + 0 * here
    compared = ~(then_least + least).isnan()
    parts = (here.where(both, 0.0), here.where(is_ & ~both, 0.0), then.where(was & ~both, 0.0))
    return Turnover(*(sum_by_order((part.abs() + unknown).sum(0)).where(compared, torch.nan) for part in parts))


def order_effects(and_: Tensor, or_: Tensor) -> Tensor:
    """Sum the interactions of every order with their signs: what the order adds to the output on the whole sample.

    All patterns are active on the whole sample, so the orders sum to v(N) - v(∅), less the noise terms. Strengths
    never cancel, effects do: an order of much strength and little effect speaks for the output as often as against it.

    Args:
        and_: (..., 2^n) AND interactions.
        or_: (..., 2^n) OR interactions.

    Returns:
        (..., n) float64, entry k-1 for order k, in units of the output.

    Raises:
        ValueError: if the last axis is no power of two or the shapes differ.

    Examples:
        >>> order_effects(torch.tensor([9.0, 1.0, 2.0, -4.0]), torch.tensor([0.0, 0.0, 0.0, 1.0])).tolist()
        [3.0, -3.0]
    """
    return sum_by_order(kinds(and_, or_).sum(0))


def order_similarity(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], classes: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Compare the average interactions of two groups of samples, coalition by coalition, for every order.

    sim(k) = Σ min / Σ max over the coalitions of order k and both signs, of the mean interactions of each class in
    the one group and the other (Zhou et al. 2024): 1 where they agree, 0 where they have nothing in common. **It
    presumes that a player means the same in every sample**, as a column of a table does and a random patch of an
    image does not. The fewer samples, the lower it is, the more so for orders that scatter.

    Args:
        first: AND and OR interactions of one group of samples, (S, 2^n) each.
        second: those of the other, (S', 2^n); S' may differ.
        classes: whole numbers, (S,) and (S',); averages are taken within each class. None takes all as one.

    Returns:
        (n,) float64 in 0..1, entry k-1 for order k, the mean over the classes that both groups have; NaN for orders
        without any interaction.

    Raises:
        ValueError: if the number of players differs, or no class is in both groups.

    Examples:
        >>> zero = torch.zeros(2, 4)
        >>> train = torch.tensor([[0.0, 2.0, 0.0, 3.0], [0.0, 2.0, 0.0, -1.0]])
        >>> test = torch.tensor([[0.0, 1.0, 0.0, -1.0], [0.0, 3.0, 0.0, -1.0]])
        >>> order_similarity((train, zero), (test, zero)).tolist()
        [1.0, 0.0]
    """
    n = n_players(first[0])
    if n_players(second[0]) != n:
        raise ValueError(f"the groups have {n} and {n_players(second[0])} players; compare samples of the same players")
    if classes is None:
        classes = torch.zeros(len(first[0]), dtype=torch.int64), torch.zeros(len(second[0]), dtype=torch.int64)
    common = sorted(set(classes[0].tolist()) & set(classes[1].tolist()))
    if not common:
        raise ValueError("no class has samples in both groups; choose samples of the same classes")
    similarities = []
    for one in common:
        means = [
            torch.stack([effects[(of == one).to(effects.device)].mean(0) for effects in map(to_float64, group)])
            for group, of in zip((first, second), classes, strict=True)
        ]
        signed = torch.stack([torch.cat((mean.clamp_min(0), -mean.clamp_max(0))) for mean in means])  # (2, 4, 2^n)
        least, most = (sum_by_order(part.sum(0)) for part in (signed.amin(0), signed.amax(0)))
        similarities.append(least / most)
    return torch.stack(similarities).nanmean(0)


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
        and_: (S, 2^n) AND interactions; samples with NaN, or whose threshold is NaN, are left out.
        or_: (S, 2^n) OR interactions.
        tau: threshold; a number, or (S,) one per sample; 0 takes all.

    Returns:
        (n,) float64 in 0..1, entry k-1 for order k; NaN for orders without strength.

    Raises:
        ValueError: if the last axis is no power of two, the shapes differ, or `tau` does not fit them.

    Examples:
        >>> and_ = torch.tensor([[9.0, 1.0, 2.0, 0.0], [9.0, 1.0, -1.0, 4.0]])
        >>> order_cancellation(and_, torch.zeros(2, 4)).tolist()  # |3| and |0| of 3 and 2
        [0.4, 0.0]
    """
    threshold = per_sample(and_, tau=tau)
    both = kinds(and_, or_)
    salient = both.where(both.abs() >= threshold, 0.0)[:, both.isfinite().all(-1).all(0)]
    net, gross = sum_by_order(salient).sum(0).abs().sum(0), sum_by_order(salient.abs()).sum((0, 1))
    # Of one sign alone the sums are the same up to rounding, and a part of a strength is never negative.
    return torch.where(gross > 0, (1 - net / gross).clamp_min(0), math.nan)


def _templates(n: int) -> tuple[Tensor, Tensor]:
    """Every pair of a decay and a spindle, (G, n) each, the centres fastest."""
    k = torch.arange(1, n + 1, dtype=torch.float64)
    decays = _RATES[:, None] ** (k - 1)
    binomial = torch.tensor([math.comb(n, order) for order in range(1, n + 1)], dtype=torch.float64)
    spindles = binomial * _CENTRES[:, None] ** k * (1 - _CENTRES[:, None]) ** (n - k)
    pairs = decays.repeat_interleave(len(_CENTRES), 0), spindles.repeat(len(_RATES), 1)
    return pairs[0] / pairs[0].sum(-1, keepdim=True), pairs[1] / pairs[1].sum(-1, keepdim=True)
