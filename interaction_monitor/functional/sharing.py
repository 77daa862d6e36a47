"""How much of what networks encode is found in all of them, or in most samples.

An interaction of one network generalizes if it is salient in every network trained for the task (Chen et al. 2024,
"Defining and extracting generalizable interaction primitives from DNNs", Definition 1). Interactions are (m, ..., 2^n)
here: m networks, or m extractions of one network. Which of them are salient is a mask of the same shape, from
`strongest` (the top k, Figure 3) or `salient` (above a share of the largest, Section 3). ∅ never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._checks import require_counts, require_one_shape, to_float64, where_float64_is
from interaction_monitor.functional.interactions import n_players, sum_by_order
from interaction_monitor.functional.saliency import kinds


@dataclass(frozen=True)
class OrderSharing:
    """Strength of the salient interactions of each order and sign, all of them and those shared; float64."""

    all_positive: Tensor  # (m, ..., n) Σ max(0, I), entry k-1 for order k
    all_negative: Tensor  # (m, ..., n) Σ min(0, I)
    shared_positive: Tensor  # (m, ..., n) the same over the interactions salient in all networks
    shared_negative: Tensor  # (m, ..., n)

    @property
    def shared_fraction(self) -> Tensor:
        """(m, ..., n) share of the strength, of both signs, that is shared; NaN for orders without any."""
        return (self.shared_positive - self.shared_negative) / (self.all_positive - self.all_negative)


def strongest(interactions: Tensor, k: int, *, floor: float = 0.0) -> Tensor:
    """Mark the k interactions of largest magnitude.

    Interactions of strength 0 are never marked, so there can be fewer than k. Of equal ones the lower coalitions
    come first.

    Args:
        interactions: (..., 2^n) AND or OR interactions.
        k: how many, at least 1.
        floor: leave out interactions of at most this fraction of the sample's largest. Far below the largest there
            is only what the extraction's tolerance leaves, in no order worth counting; 0 is the paper's.

    Returns:
        (..., 2^n) bool.

    Raises:
        ValueError: if the last axis is no power of two, `k` is below 1 or not whole, or `floor` negative.

    Examples:
        >>> strongest(torch.tensor([9.0, 1.0, -3.0, 2.0]), k=2).tolist()  # ∅ does not count
        [False, False, True, True]
    """
    require_counts(1, k=k)
    return _ranks(interactions, floor) < k


def salient(and_: Tensor, or_: Tensor, fraction: float = 0.05, *, unit: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mark the interactions of more than a share of the sample's largest, or of another unit.

    |I(S)| > τ with τ = fraction · max_S |I(S)| over AND and OR, for each network and sample (Chen et al. 2024,
    Section 3). The authors' notebook of Figure 4 has τ = 0.03 · E_x|v(N) - v(∅)| instead.

    Args:
        and_: (..., 2^n) AND interactions.
        or_: (..., 2^n) OR interactions.
        fraction: 0.05 is the paper's.
        unit: (...), or what broadcasts to it, what `fraction` is a share of; None takes the sample's largest.

    Returns:
        (..., 2^n) bool each, for AND and for OR.

    Raises:
        ValueError: if the last axis is no power of two, the shapes differ, or `fraction` is negative.

    Examples:
        >>> and_, or_ = torch.tensor([9.0, 1.0, 0.0, 4.0]), torch.tensor([0.0, 0.0, 0.0, -0.3])
        >>> [mask.tolist() for mask in salient(and_, or_, fraction=0.1)]
        [[False, True, False, True], [False, False, False, False]]
    """
    n_players(and_)
    require_one_shape(and_=and_, or_=or_)
    if not fraction >= 0:
        raise ValueError(f"fraction must be at least 0, but is {fraction}; the paper's is 0.05")
    size = torch.stack((and_, or_)).abs()
    size[..., 0] = 0.0
    unit = size.amax((0, -1)) if unit is None else unit
    above = size > fraction * unit.unsqueeze(-1)
    return above[0], above[1]


def generalization_power(is_salient: Tensor) -> Tensor:
    """Give the share of each network's salient interactions that are salient in all networks.

    s^(i) = |∩_j Ω^(j)| / |Ω^(i)| (Chen et al. 2024, Definition 1), for AND or for OR.

    Args:
        is_salient: (m, ..., 2^n) bool, m ≥ 2.

    Returns:
        (m, ...) float64 in 0..1; NaN where a network has no salient interaction.

    Raises:
        ValueError: if there are fewer than two networks, or the last axis is no power of two.
        TypeError: if the mask is not bool.

    Examples:
        >>> first, second = torch.tensor([False, True, True, False]), torch.tensor([False, False, True, False])
        >>> generalization_power(torch.stack((first, second))).tolist()
        [0.5, 1.0]
    """
    _several(is_salient)
    _is_mask(is_salient=is_salient)
    return to_float64(is_salient.all(0).sum(-1)) / to_float64(is_salient.sum(-1))


def generalization_curve(interactions: Tensor, ks: Sequence[int], *, floor: float = 0.0) -> Tensor:
    """Give the generalization power of the strongest k interactions for several k.

    Entry j is `generalization_power(strongest(interactions, ks[j]))` (Chen et al. 2024, Figure 3), at the cost of one
    sort for all of them.

    Args:
        interactions: (m, ..., 2^n) AND or OR interactions, m ≥ 2.
        ks: numbers of interactions, each at least 1.
        floor: as in `strongest`.

    Returns:
        (m, ..., len(ks)) float64 in 0..1; NaN for a network without interactions, and where one's are not finite.

    Raises:
        ValueError: if there are fewer than two networks, the last axis is no power of two, a k is below 1,
            or `floor` is negative.

    Examples:
        >>> first, second = torch.tensor([0.0, 3.0, 2.0, 1.0]), torch.tensor([0.0, 3.0, 1.0, 2.0])
        >>> generalization_curve(torch.stack((first, second)), ks=[1, 2, 3])[0].tolist()
        [1.0, 0.5, 1.0]
    """
    _several(interactions)
    if min(ks, default=1) < 1:
        raise ValueError(f"ks must be at least 1, but hold {min(ks)}")
    ranks = _ranks(interactions, floor)
    limits = torch.tensor(list(ks), device=ranks.device)
    in_all = ranks.amax(0).sort(-1).values
    shared = torch.searchsorted(in_all, limits.expand(*in_all.shape[:-1], -1).contiguous())
    power = to_float64(shared) / to_float64(torch.minimum((ranks < ranks.shape[-1]).sum(-1, keepdim=True), limits))
    # What a diverged network shares with others is not known; zero would count against these.
    return power.masked_fill(~interactions.isfinite().all(-1, keepdim=True).all(0).to(power.device), torch.nan)


def overlap(first: Tensor, second: Tensor, k: int = 100) -> Tensor:
    """Give the share of the strongest k interactions of one extraction that are among those of another.

    |A ∩ B| / |A| (Chen et al. 2024, Section 2.3.1 and Table 2).

    Args:
        first: (..., 2^n) AND or OR interactions.
        second: (..., 2^n) the same network's and samples', extracted anew.
        k: how many; 100 is the paper's.

    Returns:
        (...,) float64 in 0..1; NaN where `first` has no interaction, or either has one that is not finite.

    Raises:
        ValueError: if the shapes differ, the last axis is no power of two, or `k` is below 1.

    Examples:
        >>> overlap(torch.tensor([0.0, 3.0, 2.0, 1.0]), torch.tensor([0.0, 3.0, 1.0, 2.0]), k=2).item()
        0.5
    """
    require_one_shape(first=first, second=second)
    return generalization_curve(torch.stack((first, second)), [k])[0, ..., 0]


def order_sharing(and_: Tensor, or_: Tensor, and_salient: Tensor, or_salient: Tensor) -> OrderSharing:
    """Sum the salient interactions of each order and sign: all of a network's, and those shared by all networks.

    All±(k) and Shared±(k) of Chen et al. 2024, Figure 4, over AND and OR together. Shared is what is salient in all
    networks, each network with its own strengths.

    Args:
        and_: (m, ..., 2^n) AND interactions, m ≥ 2.
        or_: (m, ..., 2^n) OR interactions.
        and_salient: (m, ..., 2^n) bool, which of them are salient; from `salient` or `strongest`.
        or_salient: (m, ..., 2^n) bool.

    Returns:
        The four strengths for each network and order.

    Raises:
        ValueError: if there are fewer than two networks, the last axis is no power of two, or the shapes differ.
        TypeError: if a mask is not bool.

    Examples:
        >>> and_ = torch.tensor([[0.0, 2.0, 0.0, -5.0], [0.0, 3.0, 1.0, 0.0]])
        >>> or_ = torch.zeros(2, 4)
        >>> result = order_sharing(and_, or_, *salient(and_, or_))
        >>> result.all_positive.tolist(), result.shared_positive.tolist()
        ([[2.0, 0.0], [4.0, 0.0]], [[2.0, 0.0], [3.0, 0.0]])
        >>> result.all_negative[0].tolist()
        [0.0, -5.0]
    """
    _several(and_)
    require_one_shape(and_=and_, or_=or_, and_salient=and_salient, or_salient=or_salient)
    _is_mask(and_salient=and_salient, or_salient=or_salient)
    every = where_float64_is(torch.stack((and_salient, or_salient)))
    both, shared = kinds(and_, or_), every.all(1, keepdim=True)
    signed = both.clamp_min(0.0), both.clamp_max(0.0)
    return OrderSharing(*(sum_by_order(part.where(among, 0.0).sum(0)) for among in (every, shared) for part in signed))


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
    _is_mask(is_salient=is_salient)
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
    for_it, against = (to_float64((is_salient & side).sum(0)) for side in (effects > 0, effects < 0))
    return float(torch.maximum(for_it, against).sum() / (for_it + against).sum())


def _ranks(interactions: Tensor, floor: float) -> Tensor:
    """Place of each interaction from the strongest, 0 on; beyond any k for ∅ and for those not above the floor."""
    n_players(interactions)
    if not floor >= 0:
        raise ValueError(f"floor must be at least 0, but is {floor}; 0 counts every interaction")
    size = interactions.abs()
    size[..., 0] = 0.0
    ranks = size.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return ranks.where(size > floor * size.amax(-1, keepdim=True), torch.iinfo(ranks.dtype).max)


def _several(networks: Tensor) -> None:
    if networks.ndim < 2 or len(networks) < 2:
        raise ValueError(
            f"sharing takes at least two networks, (m, ..., 2^n), but the shape is {tuple(networks.shape)}; "
            "stack the networks' interactions along the first axis"
        )
    n_players(networks)


def _is_mask(**masks: Tensor) -> None:
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise TypeError(f"{name} must be bool, but is {mask.dtype}; make it by salient or strongest")
