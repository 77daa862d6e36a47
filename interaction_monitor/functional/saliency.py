"""What the salient interactions of each order do: how strong they are, whether they cancel or agree, in which shape.

The order of an interaction is the number of its players. Ren et al. 2024 ("Towards the dynamics of a DNN learning
symbolic interactions", Section 3.2) follow the share of each order, I_real^(k), through training. The empty pattern is
nobody's interaction and is never counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._checks import per_sample, require_one_shape, to_float64
from interaction_monitor.functional.interactions import and_outputs, n_players, or_outputs, sum_by_order

SALIENCY = 0.03  # the paper's share of the mean output change
_RATES = torch.linspace(0.02, 0.6, 59, dtype=torch.float64)
_CENTRES = torch.linspace(0.3, 0.7, 41, dtype=torch.float64)


def saliency_threshold(v: Tensor, fraction: float = SALIENCY) -> Tensor:
    """Give the size from which on an interaction counts as salient.

    τ = fraction · mean over samples of |v(N) - v(∅)| (Ren et al. 2024, Section 3.2), the mean over all samples of a
    measurement, those of other processes included.

    Args:
        v: (S, 2^n) outputs of all coalitions; any leading axes count as samples.
        fraction: share of the mean output change; 0.03 is the paper's.

    Returns:
        () float64, in units of `v`; NaN if any sample's is.

    Raises:
        ValueError: if the last axis is no power of two, or `fraction` is negative.

    Examples:
        >>> saliency_threshold(torch.tensor([[0.0, 1.0, 1.0, 2.0], [1.0, 0.0, 0.0, -3.0]])).item()
        0.09
    """
    n_players(v)
    if not fraction >= 0:
        raise ValueError(f"fraction must be at least 0, but is {fraction}; the paper's is {SALIENCY}")
    v = to_float64(v)
    return fraction * (v[..., -1] - v[..., 0]).abs().mean()


def kinds(and_: Tensor, or_: Tensor | None) -> Tensor:
    """Lay AND interactions, and OR interactions where there are any, along a first axis: (1 or 2, ..., 2^n) float64.

    Raises:
        ValueError: if the last axis is no power of two or the shapes differ.
    """
    n_players(and_)
    require_one_shape(and_=and_, or_=or_)
    return torch.stack([to_float64(kind) for kind in (and_, or_) if kind is not None])


def order_strength(and_: Tensor, or_: Tensor | None, tau: float | Tensor) -> Tensor:
    """Sum the salient interactions of every order.

    Σ_{|S|=k, |I(S)|≥τ} |I(S)| over AND and OR is the numerator of I_real^(k) (Ren et al. 2024, Section 3.2).

    Args:
        and_: (..., 2^n) AND interactions.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.
        tau: threshold, in units of the interactions; a number, or (...,) one per sample.

    Returns:
        (..., n) float64, entry k-1 for order k; NaN throughout for a sample with an interaction that is not finite, or
        whose threshold is NaN.

    Raises:
        ValueError: if the last axis is no power of two, the shapes differ, or `tau` does not fit them.

    Examples:
        >>> and_ = torch.tensor([9.0, 2.0, -0.1, -1.0])  # order 0, 1, 1, 2
        >>> order_strength(and_, None, tau=0.5).tolist()
        [2.0, 1.0]
    """
    threshold, size = per_sample(and_, tau=tau), kinds(and_, or_).abs_()
    # In place, as the theory asks this of hundreds of noise levels at once, and memory is what takes the time.
    size.masked_fill_(size < threshold, 0)
    return sum_by_order(size.sum(0)).where(~threshold.isnan(), torch.nan)


def salient_counts(and_: Tensor, or_: Tensor | None, tau: float | Tensor) -> Tensor:
    """Count the salient interactions of every order.

    Args:
        and_: (..., 2^n) AND interactions.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.
        tau: threshold, in units of the interactions; a number, or (...,) one per sample.

    Returns:
        (..., n) float64 whole numbers, NaN as in `order_strength`. An interaction of exactly 0 is never salient.

    Raises:
        ValueError: if the last axis is no power of two, the shapes differ, or `tau` does not fit them.

    Examples:
        >>> salient_counts(torch.tensor([9.0, 2.0, -0.1, -1.0]), None, tau=0.5).tolist()
        [1.0, 1.0]
    """
    threshold, size = per_sample(and_, tau=tau), kinds(and_, or_).abs_()
    # 0 · size is NaN where the size is not finite, and so marks the sample
    counts = ((size >= threshold) & (size > 0)) + 0 * size
    return sum_by_order(counts.sum(0)).where(~threshold.isnan(), torch.nan)


def salient_outputs(and_: Tensor, or_: Tensor | None, tau: float | Tensor) -> Tensor:
    """Give the outputs of all coalitions that the salient interactions make by themselves.

    Σ_{S⊆T} I_and(S) + Σ_{S∩T≠∅} I_or(S) over v(∅) and the interactions with |I| ≥ τ (Chen et al. 2024, Figure 6).

    Args:
        and_: (..., 2^n) AND interactions, the empty one v(∅), which always counts.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.
        tau: the threshold; broadcasts to (...,).

    Returns:
        (..., 2^n) float64 in units of the interactions; NaN for a sample whose threshold is NaN.

    Raises:
        ValueError: if the last axis is no power of two, the shapes differ, or `tau` does not fit them.

    Examples:
        >>> salient_outputs(torch.tensor([5.0, 1.0, 0.1, 3.0]), torch.tensor([0.0, 0.0, 0.0, 0.2]), tau=0.5).tolist()
        [5.0, 6.0, 5.0, 9.0]
    """
    threshold, both = per_sample(and_, tau=tau), kinds(and_, or_)
    kept = both.where(both.abs() >= threshold, 0.0)
    kept[0, ..., 0] = both[0, ..., 0]
    made = and_outputs(kept[0]) + (or_outputs(kept[1]) if or_ is not None else 0.0)
    return made.where(~threshold.isnan(), torch.nan)


def order_effects(and_: Tensor, or_: Tensor) -> Tensor:
    """Sum the interactions of every order with their signs: what the order adds to the output on the whole sample.

    All patterns are active there, so the orders sum to v(N) - v(∅), less the noise terms. An order of much strength and
    little effect speaks for the output as often as against it.

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
    threshold, both = per_sample(and_, tau=tau), kinds(and_, or_)
    salient = both.where(both.abs() >= threshold, 0.0)[:, both.isfinite().all(-1).all(0)]
    net, gross = sum_by_order(salient).sum(0).abs().sum(0), sum_by_order(salient.abs()).sum((0, 1))
    # Of one sign alone the sums are the same up to rounding, and a part of a strength is never negative.
    return torch.where(gross > 0, (1 - net / gross).clamp_min(0), math.nan)


def order_similarity(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], classes: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Compare the average interactions of two groups of samples, coalition by coalition, for every order.

    sim(k) = Σ min / Σ max over the coalitions of order k and both signs, of the mean interactions of each class in
    the one group and the other (Zhou et al. 2024, "Explaining generalization power of a DNN using interactive
    concepts"): 1 where they agree, 0 where they have nothing in common. **It presumes that a player means the same in
    every sample**, as a column of a table does and a random patch of an image does not. The fewer samples, the lower.

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
    groups = kinds(*first), kinds(*second)
    for one in common:
        means = [group[:, (of == one).to(group.device)].mean(1) for group, of in zip(groups, classes, strict=True)]
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
    """Split a distribution over orders into a geometric decay and a spindle, the binomial of independent players.

    Least squares over the mixtures a·ρ^(k-1) + (1-a)·C(n,k) q^k (1-q)^(n-k), each normalised over k = 1..n, with
    0 ≤ a ≤ 1, 0.02 ≤ ρ ≤ 0.6 and 0.3 ≤ q ≤ 0.7 on a grid. What generalizes is said to decay, the rest to be a spindle
    (Cheng et al. 2025, "Revisiting generalization power of a DNN in terms of symbolic interactions").

    Args:
        strength: (..., n) strength by order, not negative, in any unit; n ≥ 4, fewer orders fit anything.

    Returns:
        The shapes; NaN where there is no strength.

    Raises:
        ValueError: if there are fewer than four orders, or a strength is negative.

    Examples:
        >>> fit = fit_shapes(torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25]))
        >>> round(fit.decay_share.item(), 2), round(fit.rate.item(), 2)
        (1.0, 0.5)
    """
    n = strength.shape[-1]
    if n < 4:
        raise ValueError(f"strength must be of at least 4 orders for two shapes to be told apart, but is of {n}")
    if (strength < 0).any():
        raise ValueError("strength must not be negative; give the sums of |I| by order")
    strength = to_float64(strength)
    seen = (strength / strength.sum(-1, keepdim=True)).unsqueeze(-2)  # (..., 1, n)
    k = torch.arange(1, n + 1, dtype=torch.float64)
    binomial = torch.tensor([math.comb(n, order) for order in range(1, n + 1)], dtype=torch.float64)
    rates, centres = torch.cartesian_prod(_RATES, _CENTRES).unsqueeze(-1).unbind(1)  # (G, 1), each pair of them
    pairs = rates ** (k - 1), binomial * centres**k * (1 - centres) ** (n - k)
    decays, spindles = ((x / x.sum(-1, keepdim=True)).to(strength.device) for x in pairs)
    apart = decays - spindles
    share = (((seen - spindles) * apart).sum(-1) / apart.square().sum(-1)).clamp(0, 1)  # (..., G)
    fitted = spindles + share[..., None] * apart
    best = (seen - fitted).square().sum(-1).nan_to_num(torch.inf).argmin(-1)
    share = share.gather(-1, best[..., None])  # NaN where there is no strength
    decay, spindle = share * decays[best], (1 - share) * spindles[best]
    unknown = share[..., 0].isnan()
    return Shapes(
        decay=decay,
        spindle=spindle,
        decay_share=share[..., 0],
        rate=rates[:, 0].to(strength.device)[best].masked_fill(unknown, math.nan),
        centre=(spindles[best] @ k.to(strength.device)).masked_fill(unknown, math.nan),
        misfit=(seen[..., 0, :] - decay - spindle).abs().sum(-1) / 2,
    )
