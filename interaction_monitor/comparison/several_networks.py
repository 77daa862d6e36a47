"""The interactions of several networks on the same samples, extracted one by one, together, and again in other ways."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from interaction_monitor._checks import describe, is_number, require_counts
from interaction_monitor.functional import (
    SharedAndOr,
    and_interactions,
    n_players,
    overlap,
    salient,
    shared_and_or,
    sparsest_and_or,
)
from interaction_monitor.functional.extraction import MAX_PLAYERS_SHARED, NOISE, TOL
from interaction_monitor.players.player_map import PlayerMap


class NotComparableError(ValueError):
    """The networks were not measured on the same samples with the same players; the message says what differs."""


@dataclass(frozen=True)
class Counting:
    """Which interactions the tables and pictures of a comparison count.

    Args:
        ks: numbers of strongest interactions whose generalization power is shown; none: 5 to 100. Those of Chen et al.
            2024, Figure 3, are 5% to 45% of 2^n, with `floor=0`.
        floor: leave out interactions of at most this fraction of the sample's largest: what is fainter than 1e-3 is
            what the extraction's tolerance leaves. 0 counts as the paper does.
        fraction: a salient interaction exceeds this share of `unit`; 0.05 is the paper's.
        unit: "largest", the sample's largest interaction (the paper's section 3), or "change", the network's
            mean |v(N) - v(∅)| (the authors' notebook of Figure 4, with `fraction=0.03`).
        pooled: whether the sparsity curve sorts the interactions of all samples together (the paper's Figure 2), and
            not each sample's, of which the mean is drawn.

    Raises:
        ValueError: if a number makes no sense; it says which.

    Examples:
        >>> papers = Counting(ks=(12, 64, 115), floor=0.0)  # n = 8
    """

    ks: tuple[int, ...] = ()
    floor: float = 1e-3
    fraction: float = 0.05
    unit: Literal["largest", "change"] = "largest"
    pooled: bool = False

    def __post_init__(self) -> None:
        for k in self.ks:
            require_counts(1, ks=k)
        for name in ("floor", "fraction"):
            if not (is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1):
                raise ValueError(f"{name} must be at least 0 and below 1, but is {getattr(self, name)}")
        if self.unit not in ("largest", "change"):
            raise ValueError(f"unit must be 'largest' or 'change', but is {self.unit!r}")


@dataclass(frozen=True)
class Extraction:
    """The interactions of m networks by one method."""

    name: str
    and_: Tensor  # (m, S, 2^n) float64
    or_: Tensor  # (m, S, 2^n) float64
    counting: Counting = Counting()
    change: Tensor | None = None  # (m,) mean |v(N) - v(∅)| of each network; for `counting.unit` "change"
    and_only: bool = False  # whether it has no OR interactions; `or_` is then zero

    @property
    def salient(self) -> tuple[Tensor, Tensor]:
        """(m, S, 2^n) bool each, which AND and which OR interactions are salient."""
        unit = None if self.counting.unit == "largest" or self.change is None else self.change[:, None]
        return salient(self.and_, self.or_, self.counting.fraction, unit=unit)


@dataclass(frozen=True)
class Comparison:
    """m networks on S samples of n players."""

    names: tuple[str, ...]  # (m,)
    v: Tensor  # (m, S, 2^n) float64, the masked outputs
    harsanyi: Extraction  # the dividends of all outputs: AND interactions alone
    alone: Extraction  # the sparsest of each network [Chen et al. 2024, Eq. 4]
    shared: Extraction  # the sparsest shared ones [Eq. 6]
    control: Extraction | None  # as shared, but of outputs on different samples, which have nothing to share
    alpha: float
    noise: float  # this and the next two as in `shared_and_or`
    tol: float
    normalize: bool
    gap: Tensor  # (S,) certified relative gap of the shared extraction
    samples: tuple[int, ...]  # (S,) which probe samples these are
    player_names: tuple[tuple[str, ...], ...] | None = None  # (S, n)
    counting: Counting = Counting()
    players: PlayerMap | None = None  # of all probe samples, for a map of the players; None where it is not known
    inputs: Tensor | dict[str, Tensor] | None = None  # of all probe samples

    @property
    def ks(self) -> list[int]:
        """Which numbers of strongest interactions are shown, from the least; 5 to 100 if nothing was asked for.

        Examples:
            >>> compare_outputs(torch.rand(2, 3, 16)).ks
            [5, 10]
        """
        most = 2**self.n_players - 1
        if self.counting.ks:
            return sorted({k for k in self.counting.ks if k <= most}) or [most]
        return [k for k in (5, 10, 20, 30, 40, 50, 75, 100) if k < most] or [1]

    @property
    def extractions(self) -> tuple[Extraction, ...]:
        """Harsanyi, each alone, shared, and the control if there is one."""
        return (self.harsanyi, self.alone, self.shared, *([] if self.control is None else [self.control]))

    @property
    def n_players(self) -> int:
        """Number of players n."""
        return self.v.shape[-1].bit_length() - 1

    def player_name(self, sample: int, player: int) -> str:
        """What a player of the comparison's sample is called: its word, or its number."""
        return str(player) if self.player_names is None else self.player_names[sample][player]


def require_players(n: int) -> None:
    """Refuse a single player, whose only interaction all networks have, and more than can be extracted together."""
    if not 2 <= n <= MAX_PLAYERS_SHARED:
        raise NotComparableError(f"n_players={n}: networks are compared by 2 to {MAX_PLAYERS_SHARED}; measure them so")


def compare_outputs(
    v: Tensor,
    *,
    names: Sequence[str] | None = None,
    alpha: float = 0.1,
    noise: float = NOISE,
    tol: float = TOL,
    normalize: bool = False,
    player_names: tuple[tuple[str, ...], ...] | None = None,
    counting: Counting | None = None,
) -> Comparison:
    """Extract the interactions of several networks, one by one and together.

    What is extracted so as to be shared is shared more, also where there is nothing to share. So the same is done to
    a control: outputs of the networks on different samples, side by side as if they were one sample's. Only what
    exceeds its sharing is common knowledge of the networks.

    Args:
        v: (m, S, 2^n) masked outputs of m ≥ 2 networks on the same samples with the same players. Samples on which
            a network's output is not finite are left out.
        names: what the networks are called; None numbers them.
        alpha: as in `shared_and_or`.
        noise: as there, for both extractions.
        tol: as there, for both extractions.
        normalize: as there.
        player_names: (S, n) what the players of each sample are called.
        counting: which interactions are counted; None takes the defaults.

    Returns:
        The comparison, on the CPU.

    Raises:
        NotComparableError: if there are fewer than two networks, the names are not as many, there are fewer than 2 or
            more than 14 players, no sample has finite outputs in all, or no output depends on what is masked.

    Examples:
        >>> result = compare_outputs(torch.rand(2, 5, 8), names=["small", "large"])
        >>> result.names, result.shared.and_.shape
        (('small', 'large'), torch.Size([2, 5, 8]))
    """
    if not isinstance(v, Tensor) or v.ndim != 3 or len(v) < 2:
        raise NotComparableError(f"v must be (networks, samples, 2^n) of two networks or more, but is {describe(v)}")
    require_players(n_players(v))
    names = [f"network {i}" for i in range(len(v))] if names is None else list(names)
    if len(names) != len(v):
        raise NotComparableError(f"{len(names)} names are given for {len(v)} networks; give one for each")
    if player_names is not None and [len(named) for named in player_names] != [n_players(v)] * v.shape[1]:
        raise NotComparableError(f"player_names must have {n_players(v)} names for each of {v.shape[1]} samples")
    valid = v.isfinite().all(-1).all(0)
    if not valid.any():
        raise NotComparableError("no sample has finite outputs in all networks, so there is nothing to compare")
    v = v[:, valid].detach().double().cpu()
    if v.eq(v[..., :1]).all():
        raise NotComparableError("no output changes with what is masked; train the networks, or mask other parts")
    kept = valid.nonzero()[:, 0].tolist()
    counting = Counting() if counting is None else counting

    def extraction(name: str, and_: Tensor, or_: Tensor) -> Extraction:
        return Extraction(name, and_, or_, counting, change=(v[..., -1] - v[..., 0]).abs().mean(1))

    dividends = and_interactions(v)

    def together(outputs: Tensor) -> SharedAndOr:
        return shared_and_or(outputs, alpha=alpha, noise=noise, tol=tol, normalize=normalize)

    shared = together(v)
    control = None
    if len(kept) >= len(v):
        apart = together(torch.stack([outputs.roll(network, 0) for network, outputs in enumerate(v)]))
        control = extraction("control", apart.and_, apart.or_)
    return Comparison(
        names=tuple(names),
        v=v,
        harsanyi=replace(extraction("Harsanyi", dividends, torch.zeros_like(dividends)), and_only=True),
        alone=extraction("each alone", *_each_alone(v, noise, tol)),
        shared=extraction("shared", shared.and_, shared.or_),
        control=control,
        alpha=alpha,
        noise=noise,
        tol=tol,
        normalize=normalize,
        gap=shared.gap,
        samples=tuple(kept),
        player_names=None if player_names is None else tuple(player_names[i] for i in kept),
        counting=counting,
    )


def _each_alone(v: Tensor, noise: float, tol: float) -> tuple[Tensor, Tensor]:
    results = [sparsest_and_or(outputs, noise=noise, tol=tol) for outputs in v]
    return torch.stack([result.and_ for result in results]), torch.stack([result.or_ for result in results])


def ablate(comparison: Comparison, alphas: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)) -> tuple[Extraction, ...]:
    """Extract the shared interactions of a comparison's networks with several α (Chen et al. 2024, Figure 8).

    Args:
        comparison: the networks; all but α is as it was extracted.
        alphas: as `alpha` of `shared_and_or`; the defaults are the paper's.

    Returns:
        The shared extraction for each α, named by it.

    Raises:
        ValueError: if there is no α, or one is negative or not finite.

    Examples:
        >>> extractions = ablate(compare_outputs(torch.rand(2, 2, 8)), alphas=(0.0, 1.0))
        >>> [extraction.name for extraction in extractions]
        ['α = 0', 'α = 1']
    """
    if not alphas or not all(is_number(alpha) and 0 <= alpha < math.inf for alpha in alphas):
        raise ValueError(f"alphas must be finite numbers of at least 0, but are {list(alphas)}")
    kept = {"noise": comparison.noise, "tol": comparison.tol}
    results = [shared_and_or(comparison.v, alpha=x, normalize=comparison.normalize, **kept) for x in alphas]
    named = zip([f"α = {alpha:g}" for alpha in alphas], results, strict=True)
    return tuple(replace(comparison.shared, name=name, and_=found.and_, or_=found.or_) for name, found in named)


@dataclass(frozen=True)
class Repetition:
    """Each network extracted alone a second time, from outputs changed a little."""

    again: Extraction
    k: int
    and_: tuple[float, ...]  # (m,) share of the strongest k AND interactions that are among the k of the second time
    or_: tuple[float, ...]  # (m,)


def extract_again(comparison: Comparison, *, k: int = 100, change: float = 1e-6) -> Repetition:
    """Extract each network alone again, and see how many of the strongest interactions are the same.

    The extraction has no start that could be varied as Chen et al. 2024 do (Table 2 and Figure 12): the same outputs
    give the same interactions. So the outputs are changed, by normal noise of a millionth of their mean size.

    Args:
        comparison: the networks.
        k: how many of the strongest; 100 is the paper's. Fewer where there are fewer interactions.
        change: standard deviation of the noise, as a share of each sample's mean |v(T) - v(∅)|.

    Returns:
        The second extraction, and the overlaps.

    Examples:
        >>> repetition = extract_again(compare_outputs(torch.rand(2, 2, 8)), k=3, change=0.0)
        >>> repetition.and_
        (1.0, 1.0)
    """
    v = comparison.v
    k = min(k, v.shape[-1] - 1)
    size = (v - v[..., :1]).abs().mean(-1, keepdim=True)
    changed = v + change * size * torch.randn(v.shape, dtype=v.dtype, generator=torch.Generator().manual_seed(0))
    and_, or_ = _each_alone(changed, comparison.noise, comparison.tol)
    alone = comparison.alone
    shares = (tuple(overlap(*pair, k).nanmean(-1).tolist()) for pair in ((alone.and_, and_), (alone.or_, or_)))
    return Repetition(replace(alone, name="again", and_=and_, or_=or_), k, *shares)
