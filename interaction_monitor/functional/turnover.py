"""What carries over: from one moment of a network to the next, and from training samples to others.

Zhou et al. 2024 ("Explaining generalization power of a DNN using interactive concepts") found that interactions of
high order carry over from training to test samples less than those of low order, and Ren et al. 2024 ("Towards the
dynamics of a DNN learning symbolic interactions", Section 3.2) build their reading of the two phases on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._float64 import as_float64, to_float64
from interaction_monitor.functional.interactions import n_players, orders


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
        The strengths for each order. NaN throughout for a sample with an interaction that is not finite.

    Raises:
        ValueError: if the last axis is no power of two or the shapes differ.

    Examples:
        >>> zero = torch.zeros(4)
        >>> early = torch.tensor([0.0, 2.0, 0.0, 1.0])  # player 0, and players 0 and 1 together
        >>> late = torch.tensor([0.0, 2.5, 3.0, 0.0])  # player 0 and player 1
        >>> turnover = order_turnover((early, zero), (late, zero), before_tau=0.1, tau=0.1)
        >>> turnover.persisted.tolist(), turnover.appeared.tolist(), turnover.vanished.tolist()
        ([2.5, 0.0], [3.0, 0.0], [0.0, 1.0])
    """
    shapes = [tuple(effects.shape) for effects in (*before, *now)]
    if len(set(shapes)) > 1:
        raise ValueError(f"the interactions before and now must have one shape, but have {shapes}")
    n = n_players(now[0])
    thresholds = [as_float64(t, now[0].device)[..., None] for t in (before_tau, tau)]
    parts = []
    for pair in zip(before, now, strict=True):
        then, here = (to_float64(effects) for effects in pair)
        sizes = then.abs(), here.abs()
        was, is_ = ((size >= t) & (size > 0) for size, t in zip(sizes, thresholds, strict=True))
        both = was & is_ & (then.sign() == here.sign())
        # 0 · size is NaN where the size is not finite, and so marks the sample
        unknown = 0 * sizes[0] + 0 * sizes[1]
        parts.append(
            [
                torch.where(chosen, size, 0.0) + unknown
                for chosen, size in ((both, sizes[1]), (is_ & ~both, sizes[1]), (was & ~both, sizes[0]))
            ]
        )
    return Turnover(*(_by_order(and_part + or_part, n) for and_part, or_part in zip(*parts, strict=True)))


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
    if and_.shape != or_.shape:
        raise ValueError(f"and_ and or_ must have one shape, but have {tuple(and_.shape)} and {tuple(or_.shape)}")
    return _by_order(to_float64(and_) + to_float64(or_), n_players(and_))


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
        classes = tuple(torch.zeros(len(group[0]), dtype=torch.int64) for group in (first, second))  # type: ignore[assignment]  # a tuple of two
    assert classes is not None
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
        least, most = (_by_order(part.sum(0), n) for part in (signed.amin(0), signed.amax(0)))
        similarities.append(least / most)
    return torch.stack(similarities).nanmean(0)


def _by_order(values: Tensor, n: int) -> Tensor:
    order = orders(n, device=values.device)[1:]
    return values[..., 1:] @ (order[:, None] == torch.arange(1, n + 1, device=values.device)).double()
