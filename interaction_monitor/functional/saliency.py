"""How strong the salient interactions of each order are: the signal the monitor watches.

The order of an interaction is the number of its players. Ren et al. 2024 ("Towards the dynamics of a DNN learning
symbolic interactions", Section 3.2) follow the share of each order, I_real^(k), through training; its mean is the one
number that falls in phase one and rises in phase two. The empty pattern is nobody's interaction and is never counted. A
sample without finite outputs has a row of NaN and is left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from interaction_monitor._checks import per_sample, require_one_shape, to_float64
from interaction_monitor.functional.interactions import and_outputs, n_players, or_outputs, sum_by_order

# The paper's share of the mean output change.
SALIENCY = 0.03


def saliency_threshold(v: Tensor, fraction: float = SALIENCY) -> Tensor:
    """Give the size from which on an interaction counts as salient.

    τ = fraction · mean over samples of |v(N) - v(∅)| (Ren et al. 2024, Section 3.2). One threshold for all
    samples of a measurement, so the mean has to run over all of them, those of other processes included.

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

    strength(k) = Σ_{|S|=k, |I(S)|≥τ} |I(S)| over AND and OR together: the numerator of I_real^(k) for
    one sample (Ren et al. 2024, Section 3.2). Sums are in float64.

    Args:
        and_: (..., 2^n) AND interactions.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.
        tau: threshold, in units of the interactions; a number, or (...,) one per sample.

    Returns:
        (..., n) float64, entry k-1 for order k; NaN throughout for a sample with an interaction that
        is not finite, or whose threshold is NaN.

    Raises:
        ValueError: if the last axis is no power of two, the shapes differ, or `tau` does not fit them.

    Examples:
        >>> and_ = torch.tensor([9.0, 2.0, -0.1, -1.0])  # order 0, 1, 1, 2
        >>> order_strength(and_, None, tau=0.5).tolist()
        [2.0, 1.0]
    """
    threshold = per_sample(and_, tau=tau)
    size = kinds(and_, or_).abs()
    return sum_by_order(torch.where(size < threshold, 0, size).sum(0)).where(~threshold.isnan(), torch.nan)


def salient_counts(and_: Tensor, or_: Tensor | None, tau: float | Tensor) -> Tensor:
    """Count the salient interactions of every order.

    Args:
        and_: (..., 2^n) AND interactions.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.
        tau: threshold, in units of the interactions; a number, or (...,) one per sample.

    Returns:
        (..., n) float64 whole numbers, entry k-1 for order k. An interaction of exactly 0 is never
        salient. NaN throughout for a sample with an interaction that is not finite, or whose threshold is NaN.

    Raises:
        ValueError: if the last axis is no power of two, the shapes differ, or `tau` does not fit them.

    Examples:
        >>> salient_counts(torch.tensor([9.0, 2.0, -0.1, -1.0]), None, tau=0.5).tolist()
        [1.0, 1.0]
    """
    threshold = per_sample(and_, tau=tau)
    size = kinds(and_, or_).abs()
    # 0 · size is NaN where the size is not finite, and so marks the sample
    counts = ((size >= threshold) & (size > 0)) + 0 * size
    return sum_by_order(counts.sum(0)).where(~threshold.isnan(), torch.nan)


def sparsity_exponent(and_: Tensor, tau: float | Tensor) -> Tensor:
    """Give the ξ with which n^ξ/τ would be just the number of salient AND interactions.

    ξ = log_n(|Ω| τ / |v(N) - v(∅)|), Ω the interactions with |I(S)| ≥ τ, S ≠ ∅ (Theorem 1; the threshold counts in
    units of the sample's output). It is not the paper's, which is that of the bound: `faithfulness.bound_exponent`.

    Args:
        and_: (..., 2^n) AND interactions that sum to the output, as `and_interactions` gives, n ≥ 2.
        tau: the threshold, positive; broadcasts to (...,).

    Returns:
        (...,) float64; -Inf where nothing is salient.

    Raises:
        ValueError: if there is one player only, for which no exponent says anything.

    Examples:
        >>> round(sparsity_exponent(torch.tensor([0.0, 3.0, 3.0, 2.0]), tau=0.5).item(), 3)  # log2(3 · 0.5 / 8)
        -2.415
    """
    n = n_players(and_)
    if n < 2:
        raise ValueError("and_ must be of at least two players for an exponent of n, but has one")
    change = to_float64(and_[..., 1:]).sum(-1).abs()
    count = salient_counts(and_, None, tau).sum(-1)
    return (count * per_sample(and_, tau=tau)[..., 0] / change).log() / math.log(n)


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
    threshold = per_sample(and_, tau=tau)
    both = kinds(and_, or_)
    kept = both.where(both.abs() >= threshold, 0.0)
    kept[0, ..., 0] = both[0, ..., 0]
    made = and_outputs(kept[0]) + (or_outputs(kept[1]) if or_ is not None else 0.0)
    return made.where(~threshold.isnan(), torch.nan)


def order_distribution(strength: Tensor) -> Tensor:
    """Give the share of every order, I_real^(k), averaged over samples.

    I^(k) = mean over samples of strength(k), divided by Z = its mean over k, so that the entries sum
    to n and 1 is an even share (Ren et al. 2024, Section 3.2). A sample weighs by its strength.

    Args:
        strength: (S, n) strength per sample and order; rows with NaN are left out.

    Returns:
        (n,) float64 with sum n; zeros if nothing is salient.

    Raises:
        ValueError: if `strength` has no order.

    Examples:
        >>> order_distribution(torch.tensor([[3.0, 1.0], [3.0, 1.0]])).tolist()
        [1.5, 0.5]
    """
    total = valid_rows(strength).sum(0)
    return total if total.sum() == 0 else total / total.mean()


def mean_order(strength: Tensor) -> Tensor:
    """Give the mean order ⟨k⟩ = Σ_k k I^(k) / Σ_k I^(k).

    Args:
        strength: (S, n) strength per sample and order, or (n,) an order distribution; rows with NaN are left out.

    Returns:
        () float64 in 1..n; NaN if nothing is salient.

    Raises:
        ValueError: if `strength` has no order.

    Examples:
        >>> mean_order(torch.tensor([[3.0, 1.0], [1.0, 3.0]])).item()
        1.5
    """
    total = valid_rows(strength).sum(0)
    weight = torch.arange(1, len(total) + 1, dtype=total.dtype, device=total.device)
    return (weight * total).sum() / total.sum()


def first_high_order(n: int) -> int:
    """Give the order from which on interactions count as high: the smallest k > n/3, and at least 2.

    4 of 10 players. Chosen on recorded runs: see "High orders" in the documentation on phases.

    Args:
        n: number of players.

    Returns:
        The smallest high order; with a single player it is 2, which no interaction has.

    Examples:
        >>> [first_high_order(n) for n in (1, 3, 6, 10, 12)]
        [2, 2, 3, 4, 5]
    """
    return max(2, n // 3 + 1)


def high_order_share(strength: Tensor) -> float:
    """Give the share of the strength that lies in the high orders, `first_high_order` and above.

    Where ⟨k⟩ moves already when order one gives way to order two, this share stays near zero until the
    network encodes patterns of many variables, those that Ren et al. 2024 find to generalise badly.

    Args:
        strength: (S, n) strength per sample and order, or (n,) an order distribution; rows with NaN
            are left out.

    Returns:
        A share in 0..1; NaN if nothing is salient.

    Raises:
        ValueError: if `strength` has no order.

    Examples:
        >>> high_order_share(torch.tensor([[2.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]))
        0.25
    """
    total = valid_rows(strength).sum(0)
    return float(total[first_high_order(len(total)) - 1 :].sum() / total.sum())


def noise_floor(n: int, sigma: float | Tensor) -> Tensor:
    """Give the standard deviation that noise on the outputs leaves in an interaction of each order.

    Independent noise of variance σ² on every output makes a noise of variance 2^k σ² in a dividend of
    order k (Ren et al. 2024, Lemma 1). Interactions below it cannot be told from noise.

    Args:
        n: number of players.
        sigma: standard deviation of the noise on one output, e.g. half the last digit of the model's
            precision.

    Returns:
        (n,) float64, entry k-1 for order k, in units of the outputs: σ·2^{k/2}.

    Examples:
        >>> noise_floor(4, 0.5).round(decimals=3).tolist()
        [0.707, 1.0, 1.414, 2.0]
    """
    sigma = to_float64(sigma)
    powers = torch.arange(1, n + 1, dtype=torch.float64, device=sigma.device)
    return sigma * 2 ** (powers / 2)


def valid_rows(strength: Tensor) -> Tensor:
    """Keep the samples whose strengths are all finite, (..., n) -> (samples, n) float64.

    Raises:
        ValueError: if `strength` has no order.
    """
    if strength.ndim == 0 or strength.shape[-1] == 0:
        raise ValueError(f"strength must have the orders on its last axis, but has shape {tuple(strength.shape)}")
    rows = to_float64(strength).reshape(-1, strength.shape[-1])
    return rows[rows.isfinite().all(-1)]
