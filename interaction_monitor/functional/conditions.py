"""Whether the conditions hold under which few interactions suffice, how few they are, and whether samples share them.

Ren et al. 2024 ("Towards the dynamics of a DNN learning symbolic interactions"), Theorem 1 and Appendix B: a network
that encodes no very high orders, grows surer the more of the sample it sees, and does so at most polynomially, has
O(n^ξ/τ) salient AND interactions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from interaction_monitor._float64 import to_float64
from interaction_monitor.functional.interactions import n_players, orders


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
    n = n_players(v)
    of_order = (orders(n, device=v.device)[:, None] == torch.arange(1, n + 1, device=v.device)).double()
    u = to_float64(v - v[..., :1])
    return u @ (of_order / of_order.sum(0)).to(u.device)


def largest_drop(average: Tensor) -> Tensor:
    """Give how far a network gets less sure when it sees more: 0 where Condition 2 holds.

    max_{k' ≤ k} (ū^(k') - ū^(k)) / |ū^(n)|.

    Args:
        average: (..., n) from `average_outputs`, of a true class's output.

    Returns:
        (...,) float64, 0 or more; Inf where only the whole sample's output is that of nothing.

    Examples:
        >>> largest_drop(torch.tensor([[1.0, 2.0, 4.0], [1.0, 3.0, 2.0]])).tolist()
        [0.0, 0.5]
    """
    average = to_float64(average)
    drop = (average.cummax(-1).values - average).amax(-1)
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
    least = torch.zeros(average.shape[:-1], dtype=torch.float64, device=average.device)
    most = torch.full_like(least, torch.inf)
    for fewer in range(1, n):
        for more in range(fewer + 1, n + 1):
            small, large = average[..., fewer - 1], average[..., more - 1]
            equal = (large / small).log() / math.log(more / fewer)  # the p of equality, of two of one sign
            above, below = (small > 0) & (large > 0), (small < 0) & (large < 0)
            least = torch.where(above, torch.maximum(least, equal), least)
            most = torch.where(below, torch.minimum(most, equal), most)
            least = torch.where((small <= 0) & (large > small) & ~below, torch.inf, least)
    return torch.where(least <= most, least, torch.inf)


def sparsity_exponent(and_: Tensor, tau: float | Tensor) -> Tensor:
    """Give ξ of the bound n^ξ/τ on the number of salient AND interactions, if it were met with equality.

    ξ = log_n(|Ω| τ / |v(N) - v(∅)|), Ω the interactions with |I(S)| ≥ τ, S ≠ ∅ (Theorem 1; the threshold counts in
    units of the sample's output). The paper found 0.9 to 1.2.

    Args:
        and_: (..., 2^n) AND interactions that sum to the output, as `and_interactions` gives, n ≥ 2.
        tau: the threshold, positive; broadcasts to (...,).

    Returns:
        (...,) float64; -Inf where nothing is salient.

    Raises:
        ValueError: if there is one player only, for which no exponent says anything.

    Examples:
        >>> and_ = torch.tensor([0.0, 3.0, 3.0, 2.0])
        >>> round(sparsity_exponent(and_, tau=0.5).item(), 3)  # 3 of 0.5 / 8 each: log2(3 / 16)
        -2.415
    """
    n = n_players(and_)
    if n < 2:
        raise ValueError("and_ must be of at least two players for an exponent of n, but has one")
    effects = to_float64(and_[..., 1:])
    tau = torch.as_tensor(tau, dtype=torch.float64, device=effects.device)
    count = (effects.abs() >= tau.unsqueeze(-1)).sum(-1)
    return (count * tau / effects.sum(-1).abs()).log() / math.log(n)


def transfer_curve(is_salient: Tensor) -> Tensor:
    """Give how much of a sample's salient interactions lies among the k that most samples have, for every k.

    E_x[|D_k ∩ Ω_x| / |Ω_x|], D_k the k patterns that are salient in most samples, the earlier first of equals (the
    transfer over samples of Li and Zhang 2023, "Does a neural network really encode symbolic concepts?"). **It
    presumes that a player means the same in every sample**, as a hand-labelled part does and a random patch does not.

    Args:
        is_salient: (S, P) bool, which of P patterns are salient, such as AND and OR interactions side by side.

    Returns:
        (P,) float64 in 0..1, entry k-1 for k; NaN where no sample has a salient interaction.

    Raises:
        TypeError: if the mask is not bool.

    Examples:
        >>> transfer_curve(torch.tensor([[True, True, False], [False, True, True]])).tolist()
        [0.5, 0.75, 1.0]
    """
    if is_salient.dtype != torch.bool:
        raise TypeError(f"is_salient must be bool, but is {is_salient.dtype}; make it by salient or strongest")
    by_frequency = is_salient.sum(0).argsort(descending=True, stable=True)
    of_sample = to_float64(is_salient[is_salient.any(-1)][:, by_frequency])
    return (of_sample.cumsum(-1) / of_sample.sum(-1, keepdim=True)).mean(0)


def discrimination_power(effects: Tensor, is_salient: Tensor) -> float:
    """Give how far a pattern speaks for the same answer wherever it is salient, the frequent ones counting more.

    Σ_S α_S β_S / Σ_S α_S, α_S the samples in which S is salient and β_S = max(those with I > 0, those with I < 0) / α_S
    (Li and Zhang 2023). 1 where each pattern has one sign; half would be chance. Samples are those of one class.

    Args:
        effects: (S, P) interactions.
        is_salient: (S, P) bool.

    Returns:
        0.5..1; NaN where nothing is salient. Patterns that one sample has count as 1.

    Examples:
        >>> effects = torch.tensor([[1.0, 2.0], [1.0, -2.0], [1.0, 2.0]])
        >>> round(discrimination_power(effects, torch.ones(3, 2, dtype=torch.bool)), 3)  # (3 + 2) of 6
        0.833
    """
    for_it = (is_salient & (effects > 0)).sum(0)
    against = (is_salient & (effects < 0)).sum(0)
    total = int((for_it + against).sum())
    return float(torch.maximum(for_it, against).sum()) / total if total else math.nan
