"""Which part of what a network encodes will hold on new samples: the part that other networks encode too.

Ren et al. 2024 ("Towards the dynamics of a DNN learning symbolic interactions") watch one network over time, Chen et
al. 2024 ("Defining and extracting generalizable interaction primitives from DNNs") compare finished ones. Joined: a
salient interaction of the watched network is *generalizing* if some reference, a network trained for the same task on
other samples, has it too on the same sample: the same kind (AND or OR), the same players, the same sign, and salient by
the reference's own threshold. In the same way an interaction of one network persists from one moment to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._checks import per_sample, require_one_shape
from interaction_monitor.functional.distribution import ShareInterval, share_interval
from interaction_monitor.functional.interactions import n_players, sum_by_order
from interaction_monitor.functional.saliency import kinds, order_strength

Reference = tuple[Tensor, Tensor | None, float | Tensor]  # AND and OR interactions (..., 2^n), and their threshold


@dataclass(frozen=True)
class GeneralizingParts:
    """The salient interactions of each order, those that some reference has and the others; float64, entry k-1 for k.

    Strengths never cancel, effects do. All patterns are active on the whole sample, so an effect is what the part adds
    to the output there.
    """

    strength: Tensor  # (..., n) Σ|I| of those that some reference has
    effect: Tensor  # (..., n) Σ I of them
    other_strength: Tensor  # (..., n) Σ|I| of those that no reference has
    other_effect: Tensor  # (..., n) Σ I of them

    @property
    def cancelled(self) -> Tensor:
        """(..., n) share of the generalizing strength that cancels within its order, 0..1; NaN where there is none."""
        return 1 - self.effect.abs() / self.strength

    @property
    def other_cancelled(self) -> Tensor:
        """(..., n) share of the other strength that cancels within its order, 0..1; NaN where there is none."""
        return 1 - self.other_effect.abs() / self.other_strength


@dataclass(frozen=True)
class Turnover:
    """Strength of the salient interactions of each order by whether they stayed; float64."""

    persisted: Tensor  # (..., n) strength now of those salient before and now, with one sign; entry k-1 for order k
    appeared: Tensor  # (..., n) strength now of the other ones salient now
    vanished: Tensor  # (..., n) strength before of the other ones salient before


def generalizing_strength(
    and_: Tensor,
    or_: Tensor | None,
    references: Sequence[Reference],
    *,
    tau: float | Tensor,
    at_least: int = 1,
) -> Tensor:
    """Sum the salient interactions of every order that some reference has too.

    The generalizing part of `order_strength`. An interaction counts if at least one reference has it with the same sign
    and salient by its own threshold. So a further reference can only add to it, and references that know less than the
    network (trained on fewer samples, or for a shorter time) make true progress look as if it did not generalize.

    Args:
        and_: (..., 2^n) AND interactions of the network.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.
        references: (and_, or_, tau) of each reference, of the same samples and players, in the same order.
        tau: the network's threshold, in units of the interactions; a number, or (...,) one per sample.
        at_least: how many references must have it. One is enough where none has seen the network's training samples;
            where each has seen a part of them, as twins have, only what several have cannot be learnt by heart.

    Returns:
        (..., n) float64, entry k-1 for order k; NaN throughout for a sample on which the network or a reference has an
        interaction that is not finite, or a threshold that is NaN.

    Raises:
        ValueError: if there is no reference or there are fewer than `at_least`, the last axis is no power of two, the
            shapes differ, a threshold does not fit them, or OR interactions are given on one side only.

    Examples:
        >>> zero = torch.zeros(4)
        >>> network = torch.tensor([9.0, 2.0, -1.0, 3.0])  # player 0, player 1, and both together
        >>> reference = torch.tensor([5.0, 1.5, 1.0, 0.2])  # player 1 has the other sign, both together are weak
        >>> generalizing_strength(network, zero, [(reference, zero, 0.5)], tau=0.5).tolist()
        [2.0, 0.0]
        >>> generalizing_strength(network, zero, [(network, zero, 0.5)], tau=0.5).tolist()
        [3.0, 3.0]
    """
    held = held_interactions(and_, or_, references, at_least=at_least)
    return order_strength(*held, tau)


def generalizing_parts(
    and_: Tensor,
    or_: Tensor | None,
    references: Sequence[Reference],
    *,
    tau: float | Tensor,
    at_least: int = 1,
) -> GeneralizingParts:
    """Split the salient interactions of every order into those that some reference has and the others.

    Beside the strength of either part it gives what the part adds to the output, signs counted: what is learnt by heart
    speaks for and against the output alike on new samples, and mostly cancels.

    Args:
        and_: (..., 2^n) AND interactions of the network.
        or_: (..., 2^n) OR interactions, or None where only AND interactions were computed.
        references: as in `generalizing_strength`.
        tau: the network's threshold; a number, or (...,) one per sample.
        at_least: as in `generalizing_strength`.

    Returns:
        Strengths and effects. Both strengths sum to `order_strength`, and both effects to `order_effects` less what is
        not salient. NaN throughout for a sample on which the network or a reference is not finite, or a
        threshold NaN.

    Raises:
        ValueError: as `generalizing_strength`.

    Examples:
        >>> zero = torch.zeros(8)
        >>> network = torch.tensor([0.0, 2.0, 0.0, 1.5, 0.0, -1.0, 0.5, 0.0])  # three pairs
        >>> reference = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0])
        >>> parts = generalizing_parts(network, zero, [(reference, zero, 0.1)], tau=0.1)
        >>> parts.effect.tolist(), parts.other_effect.tolist()
        ([2.0, 0.5, 0.0], [0.0, 0.5, 0.0])
        >>> parts.other_strength.tolist(), parts.other_cancelled[1].item()
        ([0.0, 2.5, 0.0], 0.8)
    """
    threshold = per_sample(and_, tau=tau)
    held = kinds(*held_interactions(and_, or_, references, at_least=at_least))
    held, every = (torch.where(part.abs() < threshold, 0, part) for part in (held, kinds(and_, or_)))
    parts = held.abs(), held, (every - held).abs(), every - held
    return GeneralizingParts(*(sum_by_order(part.sum(0)).where(~threshold.isnan(), torch.nan) for part in parts))


def generalizing_share(generalizing: Tensor, strength: Tensor, *, level: float = 0.95) -> ShareInterval:
    """Give the generalizing share of the strength, with a confidence interval over the choice of probe samples.

    Σ generalizing / Σ strength over all samples and orders, so a sample weighs by its strength. For the share of one
    order k pass its column alone, `generalizing[:, [k - 1]]` and `strength[:, [k - 1]]`. The interval says how far
    another draw of probe samples would move the share of this network beside these references; it knows nothing of
    other references.

    Args:
        generalizing: (S, n) from `generalizing_strength`.
        strength: (S, n) from `order_strength`, of the same samples; samples with NaN in either are left out.
        level: coverage, 0.95 by default, between 0 and 1.

    Returns:
        (low, share, high) within 0..1. With a single sample the bounds are 0 and 1; all NaN if nothing is salient.

    Raises:
        ValueError: if the shapes are not (S, n) or differ, `level` is not between 0 and 1, or `generalizing` is more
            than `strength`.

    Examples:
        >>> strength = torch.tensor([[2.0, 2.0], [3.0, 1.0], [2.0, 0.0]])
        >>> generalizing = torch.tensor([[2.0, 0.0], [3.0, 0.0], [2.0, 0.0]])
        >>> low, share, high = generalizing_share(generalizing, strength)
        >>> share
        0.7
        >>> generalizing_share(generalizing[:, [1]], strength[:, [1]]).share  # of order two
        0.0
    """
    if strength.ndim != 2 or generalizing.shape != strength.shape:
        raise ValueError(
            "generalizing and strength must both be (samples, orders), of the same samples, but have shapes "
            f"{tuple(generalizing.shape)} and {tuple(strength.shape)}"
        )
    interval = share_interval(generalizing.sum(-1), strength.sum(-1), level=level)
    if interval.share > 1.001:  # more than sums in another order and precision make
        raise ValueError(
            f"generalizing is a part of strength, but is {interval.share:.4g} times as much; give "
            "generalizing_share(generalizing, strength), both of the same network, samples and tau"
        )
    return interval


def held_interactions(
    and_: Tensor, or_: Tensor | None, references: Sequence[Reference], *, at_least: int = 1
) -> tuple[Tensor, Tensor | None]:
    """Keep the interactions that some reference has, salient and with the same sign; the others become 0.

    Which are held does not depend on the network's own threshold, so that `order_strength` of what is kept is
    `generalizing_strength` for any.

    Args:
        and_: (..., 2^n) AND interactions of the network.
        or_: (..., 2^n) OR interactions, or None.
        references: as in `generalizing_strength`.
        at_least: as in `generalizing_strength`.

    Returns:
        AND and OR interactions, float64; NaN throughout for a sample on which a reference is not finite or its
        threshold NaN. None for OR where `or_` is None.

    Raises:
        ValueError: as `generalizing_strength`.

    Examples:
        >>> network, reference = torch.tensor([9.0, 2.0, -1.0, 3.0]), torch.tensor([5.0, 1.5, 1.0, 0.2])
        >>> held_interactions(network, None, [(reference, None, 0.5)])[0].tolist()
        [0.0, 2.0, 0.0, 0.0]
    """
    _check(and_, or_, references, at_least)
    own = kinds(and_, or_)
    count = torch.zeros_like(own, dtype=torch.int64)
    # A network that is not finite somewhere is not known anywhere; torch.where would hide it behind a 0.
    known = own[..., 1:].isfinite().all(-1).all(0)
    for index, (other_and, other_or, tau) in enumerate(references):
        other, threshold = kinds(other_and, other_or), per_sample(and_, **{f"references[{index}]: tau": tau})
        count += (other.abs() >= threshold) & (other != 0) & (other.sign() == own.sign())
        known = known & other[..., 1:].isfinite().all(-1).all(0) & ~threshold[..., 0].isnan()
    count[..., 0] = 0
    held = own.where(count >= at_least, 0.0).where(known[..., None], torch.nan)
    return held[0], None if or_ is None else held[1]


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
    unknown = (0 * then + 0 * here).sum(0)
    compared = ~(then_least + least).isnan()
    parts = (here.where(both, 0.0), here.where(is_ & ~both, 0.0), then.where(was & ~both, 0.0))
    return Turnover(*(sum_by_order(part.abs().sum(0) + unknown).where(compared, torch.nan) for part in parts))


def _check(and_: Tensor, or_: Tensor | None, references: Sequence[Reference], at_least: int) -> None:
    if not len(references):
        raise ValueError("references must hold (and_, or_, tau) of at least one network, but is empty")
    if not 1 <= at_least <= len(references):
        raise ValueError(f"at_least must be from 1 to the number of references, {len(references)}, but is {at_least}")
    n_players(and_)
    require_one_shape(and_=and_, or_=or_)
    for index, reference in enumerate(references):
        if not isinstance(reference, (tuple, list)) or len(reference) != 3:
            raise ValueError(f"references[{index}] must be (and_, or_, tau); give a list of such, one for each network")
        for name, kind, given in (("and_", and_, reference[0]), ("or_", or_, reference[1])):
            if (kind is None) != (given is None):
                missing, there = ("the network", "the reference") if kind is None else ("the reference", "the network")
                raise ValueError(
                    f"references[{index}]: {missing} has no OR interactions and {there} has; measure both with the "
                    "same interactions="
                )
            if kind is not None and given is not None and given.shape != kind.shape:
                raise ValueError(
                    f"references[{index}]: {name} is {tuple(given.shape)}, but the network's is {tuple(kind.shape)}; "
                    "measure both on the same samples with the same players"
                )
