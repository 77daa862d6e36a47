"""How well interactions account for a network's outputs, with how few, and whether the conditions for that hold.

Ren et al. 2024 ("Towards the dynamics of a DNN learning symbolic interactions") and Chen et al. 2024 ("Defining and
extracting generalizable interaction primitives from DNNs") call interactions faithful where they match the output on
every coalition and few of them suffice. Few suffice where the network encodes no very high orders, grows surer the more
of the sample it sees, and does so at most polynomially: then O(n^ξ/τ) AND interactions are salient (Ren et al. 2024,
Theorem 1 and Appendix B).
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from interaction_monitor._checks import per_sample, require_one_shape, to_float64
from interaction_monitor.functional.interactions import and_outputs, n_players, or_outputs, orders, sum_by_order
from interaction_monitor.functional.saliency import kinds, salient_counts


def matching_error(v: Tensor, and_: Tensor, or_: Tensor | None, delta: Tensor | None = None) -> Tensor:
    """Give the largest error with which interactions match the outputs of all coalitions.

    max_T |v(T) - Σ_{S⊆T} I_and(S) - Σ_{S∩T≠∅} I_or(S) - δ(T)| (universal matching, Ren et al. 2024, Theorem 2). With
    the noise terms δ of the extraction it is rounding, without them at most their bound ζ = 0.02·|v(N) - v(∅)|.

    Args:
        v: (..., 2^n) outputs of all coalitions.
        and_: (..., 2^n) AND interactions, the empty one v(∅).
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.
        delta: (..., 2^n) noise terms of the extraction; None leaves them in the error.

    Returns:
        (...,) float64, in units of `v`.

    Raises:
        ValueError: if the last axis is no power of two or the shapes differ.

    Examples:
        >>> v = torch.tensor([0.0, 1.0, 2.0, 9.0])
        >>> matching_error(v, torch.tensor([0.0, 1.0, 2.0, 5.5]), None).item()
        0.5
    """
    require_one_shape(v=v, and_=and_, or_=or_, delta=delta)
    error = to_float64(v) - and_outputs(to_float64(and_))
    if or_ is not None:
        error = error - or_outputs(to_float64(or_))
    if delta is not None:
        error = error - to_float64(delta)
    return error.abs().amax(-1)


def matching_precision_curve(v: Tensor, and_: Tensor, or_: Tensor | None) -> Tensor:
    """Give the matching precision of the strongest k interactions for every k.

    m_k = Σ|I| / (Σ|I| + |v(N) - v(∅) - ΣI|), both sums over the k interactions of largest |I|, AND and OR together but
    the empty one (Chen et al. 2024, Appendix M): the share of what they say that the whole sample does not contradict.

    Args:
        v: (..., 2^n) outputs of all coalitions.
        and_: (..., 2^n) AND interactions.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.

    Returns:
        (..., K) float64 in 0..1, entry k-1 for k, with K = 2(2^n - 1), or 2^n - 1 without OR; 1 where there is nothing
        to match and nothing is said.

    Raises:
        ValueError: if the last axis is no power of two or the shapes differ.

    Examples:
        >>> v = torch.tensor([0.0, 1.0, 0.0, 4.0])  # = 1·[player 0] + 3·[both]
        >>> matching_precision_curve(v, torch.tensor([0.0, 1.0, 0.0, 3.0]), None).tolist()
        [0.75, 1.0, 1.0]
    """
    require_one_shape(v=v, and_=and_, or_=or_)
    effects = _pool(and_, or_)
    effects = effects.gather(-1, effects.abs().argsort(dim=-1, descending=True, stable=True))
    total = to_float64(v[..., -1:] - v[..., :1])
    said, missed = effects.abs().cumsum(-1), (total - effects.cumsum(-1)).abs()
    return torch.where(said + missed == 0, 1.0, said / (said + missed))


def matching_precision(v: Tensor, and_: Tensor, or_: Tensor | None, k: int) -> Tensor:
    """Give the matching precision m of the strongest k interactions, one entry of `matching_precision_curve`.

    Args:
        v: (..., 2^n) outputs of all coalitions.
        and_: (..., 2^n) AND interactions.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.
        k: how many interactions, AND and OR together; at least 1.

    Returns:
        (...,) float64 in 0..1: 1 when the k interactions sum to the whole output change.

    Raises:
        ValueError: if `k` is not between 1 and their number, the last axis is no power of two or the shapes differ.

    Examples:
        >>> v = torch.tensor([0.0, 1.0, 0.0, 4.0])
        >>> matching_precision(v, torch.tensor([0.0, 1.0, 0.0, 3.0]), None, k=1).item()
        0.75
    """
    curve = matching_precision_curve(v, and_, or_)
    if not 1 <= k <= curve.shape[-1]:
        raise ValueError(f"k must lie between 1 and {curve.shape[-1]}, the number of interactions, but is {k}")
    return curve[..., k - 1]


def sparsity_curve(and_: Tensor, or_: Tensor | None, *, pooled: bool = False) -> Tensor:
    """Give the sizes of the interactions from the strongest to the weakest.

    Each sample's |I|, AND and OR together but the empty one, is sorted on its own; entry k-1 is the mean of the k-th
    largest. Pooled, the interactions of all samples are sorted together (Chen et al. 2024, Figure 2): a sample of large
    outputs then makes the beginning by itself. A curve that drops steeply is a network that a few patterns explain.

    Args:
        and_: (..., 2^n) AND interactions; any leading axes count as samples.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.
        pooled: whether all samples are sorted together, as the paper does.

    Returns:
        (K,) float64, never rising, with K = 2(2^n - 1), or 2^n - 1 without OR; pooled as many times as there
        are samples.

    Raises:
        ValueError: if the last axis is no power of two or the shapes differ.

    Examples:
        >>> sparsity_curve(torch.tensor([[0.0, 1.0, 0.0, -3.0], [7.0, 2.0, 1.0, 0.0]]), None).tolist()
        [2.5, 1.0, 0.0]
    """
    size = _pool(and_, or_).abs()
    by_sample = size.reshape(1, -1) if pooled else size.reshape(-1, size.shape[-1])
    return by_sample.sort(-1, descending=True).values.mean(0)


def sparsity_exponent(and_: Tensor, tau: float | Tensor) -> Tensor:
    """Give the ξ with which n^ξ/τ would be just the number of salient AND interactions.

    ξ = log_n(|Ω| τ / |v(N) - v(∅)|), Ω the interactions with |I(S)| ≥ τ, S ≠ ∅ (Theorem 1; the threshold counts in
    units of the sample's output). It is not the paper's, which is that of the bound: `bound_exponent`.

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


def shapley_values(and_: Tensor, or_: Tensor | None) -> Tensor:
    """Share every interaction equally among its players: the Shapley values.

    φ(i) = Σ_{S∋i} (I_and(S) + I_or(S)) / |S|. For AND this is Chen et al. 2024, Theorem 3. The game of an OR treats the
    players of S alike, too, and gives the others nothing, so each of S gets I(S)/|S|, and the games add up.

    Args:
        and_: (..., 2^n) AND interactions.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.

    Returns:
        (..., n) float64 in units of the interactions; they sum to v(N) - v(∅), less what noise terms took.

    Raises:
        ValueError: if the last axis is no power of two or the shapes differ.

    Examples:
        >>> shapley_values(torch.tensor([0.0, 1.0, 0.0, 4.0]), torch.tensor([0.0, 0.0, 0.0, 2.0])).tolist()
        [4.0, 3.0]
    """
    effects = kinds(and_, or_).sum(0)[..., 1:]
    n, device = n_players(and_), effects.device
    is_member = torch.arange(1, 2**n, device=device)[:, None] >> torch.arange(n, device=device) & 1
    return effects @ (is_member / orders(n, device=device)[1:, None].double())


def average_outputs(v: Tensor) -> Tensor:
    """Average the change of the output over all masked samples with k players present.

    ū^(k) = E_{|S|=k}[v(x_S) - v(x_∅)] (Condition 2).

    Args:
        v: (..., 2^n) outputs of all coalitions.

    Returns:
        (..., n) float64, entry k-1 for k players, in units of `v`.

    Raises:
        ValueError: if the last axis is no power of two.

    Examples:
        >>> average_outputs(torch.tensor([1.0, 3.0, 2.0, 9.0])).tolist()
        [1.5, 8.0]
    """
    u = to_float64(v - v[..., :1])
    return sum_by_order(u) / sum_by_order(u.new_ones(u.shape[-1:]))


def largest_drop(average: Tensor) -> Tensor:
    """Give how far a network gets less sure when it sees more: 0 where Condition 2 holds.

    max_{k' ≤ k} (ū^(k') - ū^(k)) / |ū^(n)|, from k' = 0 on, where ū is 0.

    Args:
        average: (..., n) from `average_outputs`, of a true class's output.

    Returns:
        (...,) float64, 0 or more; Inf where only the whole sample's output is that of nothing.

    Examples:
        >>> largest_drop(torch.tensor([[1.0, 2.0, 4.0], [1.0, 3.0, 2.0]])).tolist()
        [0.0, 0.5]
    """
    average = to_float64(average)
    drop = (average.cummax(-1).values.clamp_min(0) - average).amax(-1)
    return torch.where(drop == 0, 0.0, drop / average[..., -1].abs())


def polynomial_degree(average: Tensor) -> Tensor:
    """Give the least p with ū^(k') ≥ (k'/k)^p ū^(k) for all k' ≤ k (Condition 3).

    Args:
        average: (..., n) from `average_outputs`.

    Returns:
        (...,) float64, 0 or more; Inf where no p will do, because with fewer players the output is not above that of
        none while with more it is.

    Examples:
        >>> polynomial_degree(torch.tensor([1.0, 4.0, 9.0])).item()
        2.0
        >>> polynomial_degree(torch.tensor([-1.0, 4.0])).item()
        inf
    """
    average = to_float64(average)
    n = average.shape[-1]
    least, most = (average.new_full(average.shape[:-1], bound) for bound in (0.0, torch.inf))
    for fewer, more in combinations(range(1, n + 1), 2):
        small, large = average[..., fewer - 1], average[..., more - 1]
        equal = (large / small).log() / math.log(more / fewer)  # the p of equality, of two of one sign
        above, below = (small > 0) & (large > 0), (small < 0) & (large < 0)
        least = torch.where(above, torch.maximum(least, equal), least)
        most = torch.where(below, torch.minimum(most, equal), most)
        least = torch.where((small <= 0) & (large > small) & ~below, torch.inf, least)
    return torch.where(least <= most, least, torch.inf)


def bound_exponent(average: Tensor) -> Tensor:
    """Give ξ = p + δ of the bound on the number of salient AND interactions, which the paper found to be 0.9 to 1.2.

    Ren et al. 2024 ("Where we have arrived in proving the emergence of sparse interaction primitives in DNNs"), with
    M = n - 1 as in their code: p is the least with ū^(k) ≤ k^p ū^(1). A^(k)/ū^(1), A^(k) = Σ_{|S|=k} I(S), is a part
    h_k in whole multiples of n^⌊p⌋ (all of it for p < 1) and a rest l_k; then n^ξ = max_k |h_k| (n^p - l)/h, or l/-h
    where h < 0, h and l the sums over k ≤ M with weights C(m,k)/C(n,k), the less of m = n - 1 and n.

    Args:
        average: (..., n) from `average_outputs`, n ≥ 2.

    Returns:
        (...,) float64; NaN where Condition 2 does not hold or the bound says nothing.

    Examples:
        >>> bound_exponent(torch.tensor([1.0, 2.0, 3.0])).item()  # each player adds 1: n of 1
        1.0
    """
    average = to_float64(average)
    n, device = average.shape[-1], average.device
    k = torch.arange(1, n + 1, dtype=torch.float64, device=device)
    choose = torch.tensor([[math.comb(m, j) for j in range(1, n + 1)] for m in range(1, n + 1)], device=device).double()
    mean_effects = torch.linalg.solve_triangular(choose, average[..., None], upper=False)[..., 0]
    ratio = choose[-1] * (mean_effects / average[..., :1])
    p = ((average / average[..., :1]).log() / k.log())[..., 1:].amax(-1, keepdim=True)
    rest = torch.where(p < 1, 0.0, ratio.abs() % n ** p.floor()) * ratio.sign()
    high, low = (part[..., :-1] @ (choose[-2:, :-1] / choose[-1, :-1]).T for part in (ratio - rest, rest))
    size = (ratio - rest).abs().amax(-1, keepdim=True)
    power = size * torch.where(high > 0, n**p - low, low) / high.abs()
    power = torch.where(high.abs() < 1e-8 * size, torch.inf, power).amin(-1)
    known = (largest_drop(average) == 0) & (average[..., 0] > 0) & (power > 0) & power.isfinite()
    return (power.log() / math.log(n)).where(known, torch.nan)


def _pool(and_: Tensor, or_: Tensor | None) -> Tensor:
    return torch.cat(kinds(and_, or_)[..., 1:].unbind(), dim=-1)
