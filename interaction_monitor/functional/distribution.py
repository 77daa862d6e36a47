"""The distribution over orders in a number, and how far the choice of probe samples can have moved it.

The mean order is the one number that falls in phase one and rises in phase two (Ren et al. 2024, "Towards the dynamics
of a DNN learning symbolic interactions", Section 3.2). It and each share of the strength are a ratio of two means over
samples, so the spread follows from one number per sample, the influence function, by the delta method. A sample without
finite outputs has a row of NaN and is left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from interaction_monitor._checks import require_between_0_and_1, to_float64


class MeanOrderInterval(NamedTuple):
    """A mean order with its confidence interval over the probe samples."""

    low: float  # lower bound, at least 1
    mean: float  # the mean order itself, in 1..n
    high: float  # upper bound, at most n


class ShareInterval(NamedTuple):
    """A share with its confidence interval over the probe samples."""

    low: float  # lower bound, at least 0
    share: float  # the share itself, in 0..1
    high: float  # upper bound, at most 1


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


def mean_order_influence(strength: Tensor) -> Tensor:
    """Give how much each sample moves the mean order, linearised.

    ⟨k⟩ is a ratio of two means over samples, A/B with A_s = Σ_k k·strength and B_s = Σ_k strength. To first
    order a sample contributes ψ_s = (A_s - ⟨k⟩ B_s) / B (its influence function), so that the variance
    of ⟨k⟩ over draws of samples is var(ψ)/S, and the difference of two measurements of the same
    samples has the paired differences ψ_s - ψ'_s.

    Args:
        strength: (S, n) strength per sample and order.

    Returns:
        (S,) float64, with mean 0 over the valid samples; NaN for rows with NaN, and throughout if
        nothing is salient.

    Raises:
        ValueError: if `strength` has no order.

    Examples:
        >>> mean_order_influence(torch.tensor([[3.0, 1.0], [1.0, 3.0]])).tolist()
        [-0.25, 0.25]
    """
    rows, strength = valid_rows(strength), to_float64(strength)
    weight = torch.arange(1, strength.shape[-1] + 1, dtype=torch.float64, device=strength.device)
    centred = (strength * (weight - mean_order(strength))).sum(-1)
    return centred / rows.sum(-1).mean()


def mean_order_interval(strength: Tensor, level: float = 0.95) -> MeanOrderInterval:
    """Give the mean order with a confidence interval over the choice of probe samples.

    Delta method: the standard error is that of the mean of `mean_order_influence`, times Student's
    quantile. It says how far another draw of probe samples would move ⟨k⟩ of *this* network; it knows
    nothing of another run.

    Args:
        strength: (S, n) strength per sample and order; rows with NaN are left out.
        level: coverage, 0.95 by default, between 0 and 1.

    Returns:
        (low, mean, high) within 1..n. With a single valid sample nothing is known and the bounds are 1
        and n; all NaN if nothing is salient.

    Raises:
        ValueError: if `level` is not between 0 and 1, or `strength` has no order.

    Examples:
        >>> low, mean, high = mean_order_interval(torch.tensor([[3.0, 1.0], [1.0, 3.0], [2.0, 2.0]]))
        >>> round(low, 2), mean, round(high, 2)
        (1.0, 1.5, 2.0)
    """
    require_between_0_and_1(0.95, level=level)
    reach = _reach(mean_order_influence(strength), level)
    mean = float(mean_order(strength))
    # of NaN and a bound max and min give what stands first
    return MeanOrderInterval(max(mean - reach, 1.0), mean, min(mean + reach, float(strength.shape[-1])))


def share_influence(part: Tensor, whole: Tensor) -> Tensor:
    """Give how much each sample moves a share r = Σ part / Σ whole, linearised: (part_s - r whole_s) / mean(whole).

    Args:
        part: (S,) what of each sample belongs to the part.
        whole: (S,) all of each sample; samples with NaN in either are left out.

    Returns:
        (S,) float64, with mean 0 over the valid samples; NaN for samples with NaN, and throughout if the whole is 0.

    Raises:
        ValueError: if the shapes are not (S,) or differ.

    Examples:
        >>> share_influence(torch.tensor([1.0, 3.0]), torch.tensor([4.0, 4.0])).tolist()
        [-0.25, 0.25]
    """
    if part.ndim != 1 or part.shape != whole.shape:
        raise ValueError(f"part and whole must be (samples,), but are {tuple(part.shape)} and {tuple(whole.shape)}")
    part, whole = to_float64(part), to_float64(whole)
    valid = part.isfinite() & whole.isfinite()
    total = whole[valid].mean()
    centred = part - part[valid].mean() / total * whole
    return (centred / total).where(valid, torch.nan)


def share_interval(part: Tensor, whole: Tensor, *, level: float = 0.95) -> ShareInterval:
    """Give a share of the strength with a confidence interval, as `mean_order_interval` does for ⟨k⟩.

    Args:
        part: (S,) what of each sample belongs to the part.
        whole: (S,) all of each sample; samples with NaN in either are left out.
        level: coverage, 0.95 by default, between 0 and 1.

    Returns:
        (low, share, high) within 0..1. With a single valid sample the bounds are 0 and 1; all NaN if the whole is 0.

    Raises:
        ValueError: if `level` is not between 0 and 1, or the shapes are not (S,) or differ.

    Examples:
        >>> low, share, high = share_interval(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 4.0, 4.0]))
        >>> round(low, 2), share, round(high, 2)
        (0.0, 0.5, 1.0)
    """
    require_between_0_and_1(0.95, level=level)
    influence = share_influence(part, whole)
    reach = _reach(influence, level)
    part, whole = (to_float64(x)[influence.isfinite()].sum() for x in (part, whole))
    share = float(part / whole)
    return ShareInterval(max(share - reach, 0.0), share, min(share + reach, 1.0))


def student_quantile(p: float, freedom: int) -> float:
    """Give the quantile of Student's t, also far in the tail.

    Bisection of the finite series that the distribution function is for whole degrees of freedom
    (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).

    Args:
        p: probability, at least 0.5 and below 1.
        freedom: degrees of freedom, at least 1.

    Returns:
        The value below which a share `p` lies, to 12 digits.

    Raises:
        ValueError: if `p` or `freedom` is out of range.

    Examples:
        >>> round(student_quantile(0.975, 49), 4)
        2.0096
    """
    if not 0.5 <= p < 1 or freedom < 1:
        raise ValueError(f"p must lie in [0.5, 1) and freedom be at least 1, but are {p} and {freedom}")
    low, high = 0.0, 1.0
    while _central_probability(high, freedom) < 2 * p - 1:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if _central_probability(middle, freedom) < 2 * p - 1:
            low = middle
        else:
            high = middle
    return high


def _reach(influence: Tensor, level: float) -> float:
    """How far a mean over samples may be from the truth: NaN without a sample, without bound with a single one."""
    known = influence[influence.isfinite()]
    if len(known) < 2:
        return math.inf if len(known) else math.nan
    return student_quantile(0.5 + level / 2, len(known) - 1) * float(known.std()) / math.sqrt(len(known))


def _central_probability(t: float, freedom: int) -> float:
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, series = math.cos(angle) if odd else 1.0, 0.0
    for index in range(1, freedom // 2 + 1):
        series += term
        term *= (2 * index - 1 + odd) / (2 * index + odd) * math.cos(angle) ** 2
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * series)
    return math.sin(angle) * series


def valid_rows(strength: Tensor) -> Tensor:
    """Keep the samples whose strengths are all finite, (..., n) -> (samples, n) float64.

    Raises:
        ValueError: if `strength` has no order.
    """
    if strength.ndim == 0 or strength.shape[-1] == 0:
        raise ValueError(f"strength must have the orders on its last axis, but has shape {tuple(strength.shape)}")
    rows = to_float64(strength).reshape(-1, strength.shape[-1])
    return rows[rows.isfinite().all(-1)]
