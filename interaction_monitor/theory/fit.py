"""Which noise level makes the closed form look like a measurement.

Ren et al. 2024, "Towards the Dynamics of a DNN Learning Symbolic Interactions", section 3.3.2, Figure 4: "the σ²
value was determined to achieve the best match between I_theo^(k) and I_real^(k)", one for every measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from interaction_monitor._checks import require_between_0_and_1, require_counts, require_one_shape, to_float64
from interaction_monitor.functional import n_players
from interaction_monitor.functional.saliency import SALIENCY
from interaction_monitor.progress_bar import counted
from interaction_monitor.theory.closed_form import EIGENVALUES, predicted_strength

Distance = Literal["jensen-shannon", "total-variation", "cosine"]

_COARSE_PER_DECADE = 4
_FINE_PER_STEP = 4
# Numbers compared at once in the bootstrap, 32 MiB.
_CHUNK = 1 << 22


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Give the Jensen-Shannon divergence of distributions over orders, in bits.

    The mean Kullback-Leibler divergence of both from their average: 0 when equal, 1 when they share no order,
    defined where an order is empty in one of them.

    Args:
        p: (..., n) non-negative, of any positive sum.
        q: (..., n) likewise, broadcast against `p`.

    Returns:
        (...) float64 in 0..1; NaN where a sum is 0.

    Examples:
        >>> jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])).tolist()
        [0.0, 1.0]
    """
    p, q = _shares(p), _shares(q)
    return (_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2).clamp(min=0)


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp(min=1e-300).log2_()).sum(-1)


def _shares(strength: Tensor) -> Tensor:
    strength = to_float64(strength)
    return strength / strength.sum(-1, keepdim=True)


# Each with its resolution: noise levels whose distances differ by less match equally well. It is a thousandth of the
# strength at another order, less than it makes to have one threshold for all samples or one for each; the other two
# are quadratic in such a change.
_DISTANCES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "jensen-shannon": (jensen_shannon, 1e-6),
    "total-variation": (lambda p, q: (_shares(p) - _shares(q)).abs().sum(-1) / 2, 1e-3),
    "cosine": (lambda p, q: 1 - torch.nn.functional.cosine_similarity(p, q, dim=-1), 1e-6),
}


@dataclass(frozen=True)
class SigmaFit:
    """The noise level of every measurement, and how well the closed form matches there."""

    sigma2: Tensor  # (E,) σ̂², the best match; NaN where nothing was salient
    low: Tensor  # (E,) lower bound over draws of samples
    high: Tensor  # (E,) upper bound; reaches the end of the grid where ever more noise changes nothing
    real: Tensor  # (E, n) I_real^(k), sums to n
    theory: Tensor  # (E, n) I_theo^(k) at σ̂², sums to n
    cosine: Tensor  # (E,) similarity of the two
    divergence: Tensor  # (E,) Jensen-Shannon divergence of the two, bits
    grid: Tensor  # (K,) noise levels tried, ascending, 0 first
    curve: Tensor  # (E, K) distance of every measurement at every noise level
    distance: Distance
    level: float  # coverage of low..high


def fit_sigma2(
    strength: Tensor,
    and_: Tensor,
    or_: Tensor | None = None,
    *,
    tau: float,
    fraction: float = SALIENCY,
    distance: Distance = "total-variation",
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> SigmaFit:
    """Find for every measurement the noise level at which the closed form matches it best.

    w* is what is salient in the final measurement, with v(x_∅) in the place of ∅. I_theo^(k) of every σ² on a
    logarithmic grid, finer around the best levels, is made once and laid beside every measurement and every
    bootstrap replicate; of levels that match equally well the least is taken (Ren et al. 2024, Theorem 3 and Figure 4).

    The default distance is the share of the strength that the prediction puts at a wrong order. The Jensen-Shannon
    divergence makes much of what is nearly empty: with planted noise its 95% intervals held the truth 33 times of 60,
    those of the other two always. The cosine sees little but the strongest order: late in training its intervals reach
    up to a thousand times further.

    `low` and `high` are percentiles over draws of the samples with replacement, the same samples for measurement and
    theory, of the least and the most noise that match best. Where I_theo^(k) does not depend on σ² they lie far
    apart: the measurement does not determine it. They know nothing of other runs, nor of errors of the theory.

    Args:
        strength: (E, S, n) strength of the salient interactions per measurement, sample and order, as from
            `functional.order_strength`. Samples with NaN anywhere are left out throughout.
        and_: (S, 2^n) AND interactions of the final, converged network, v(x_∅) at index 0.
        or_: (S, 2^n) its OR interactions, or None where only AND interactions were measured.
        tau: saliency threshold of the final measurement.
        fraction: share of the predicted output change that makes τ_theo, per sample; 0.03 is the paper's.
        distance: what "best" means: "jensen-shannon", "total-variation" or "cosine" (one minus it).
        replicates: bootstrap draws; 200 give the ends of a 95% interval to about a grid step.
        level: coverage of the interval.
        seed: of the draws.

    Returns:
        One entry per measurement in the order of `strength`; NaN for one in which nothing is salient.

    Raises:
        ValueError: if shapes do not go together, no final interaction is salient, no sample is finite throughout, or
            an option is out of range.

    Examples:
        >>> from interaction_monitor.theory import predicted_strength
        >>> generator = torch.Generator().manual_seed(0)
        >>> final = torch.randn(50, 64, generator=generator, dtype=torch.float64)
        >>> strength = predicted_strength(final, None, torch.tensor([0.1, 1e-3, 0.0]))
        >>> fit = fit_sigma2(strength, final, tau=0.0)
        >>> [f"{sigma2:.0e}" for sigma2 in fit.sigma2.tolist()]
        ['1e-01', '1e-03', '0e+00']
        >>> bool((fit.cosine > 0.999).all())
        True
    """
    strength, and_, or_ = _checked(strength, and_, or_, tau=tau, distance=distance, level=level, replicates=replicates)
    w_and = torch.where(and_.abs() >= tau, and_, 0)
    w_and[:, 0] = and_[:, 0]
    w_or = None if or_ is None else torch.where(or_.abs() >= tau, or_, 0)
    or_whole = None if or_ is None else or_[:, 1:].sum(-1)
    if not w_and[:, 1:].any() and (w_or is None or not w_or[:, 1:].any()):
        raise ValueError(
            f"no final interaction reaches tau = {tau}, so there is nothing to predict from; "
            "give the interactions of the converged network and the threshold of the same measurement"
        )

    def predicted(levels: Tensor) -> Tensor:
        return predicted_strength(w_and, w_or, levels, or_whole=or_whole, fraction=fraction)

    compare, resolution = _DISTANCES[distance]
    real = strength.mean(1)
    grid = _coarse_grid(strength.shape[-1]).to(strength.device)
    theory = predicted(grid)
    finer = _around(grid, compare(real[:, None], theory.mean(1)).nan_to_num(0).argmin(-1))
    grid, position = torch.cat((grid, finer)).sort()
    theory = torch.cat((theory, predicted(finer)))[position]

    mean = theory.mean(1)
    curve = compare(real[:, None], mean)
    best = _close(curve, resolution).argmax(-1)  # the first, that is the least noise, of equals
    low, high = _bounds(strength, theory, distance, replicates=replicates, level=level, seed=seed)
    unknown = real.sum(-1) == 0
    real, matched = (x / x.mean(-1, keepdim=True) for x in (real, mean[best]))
    return SigmaFit(
        sigma2=grid[best].masked_fill(unknown, math.nan),
        low=grid[low].masked_fill(unknown, math.nan),
        high=grid[high].masked_fill(unknown, math.nan),
        real=real,
        theory=matched.masked_fill(unknown[:, None], math.nan),
        cosine=torch.nn.functional.cosine_similarity(real, matched, dim=-1),
        divergence=jensen_shannon(real, matched),
        grid=grid,
        curve=curve,
        distance=distance,
        level=level,
    )


def _checked(
    strength: Tensor, and_: Tensor, or_: Tensor | None, *, tau: float, distance: str, level: float, replicates: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    n = n_players(and_)
    if and_.ndim != 2:
        raise ValueError(f"and_ must be (S, 2^n), one row per sample, but has shape {tuple(and_.shape)}")
    require_one_shape(and_=and_, or_=or_)
    if strength.ndim != 3 or strength.shape[1:] != (len(and_), n) or len(strength) == 0:
        raise ValueError(
            f"strength must be (E, S, n) = (E >= 1, {len(and_)}, {n}) to go with and_ {tuple(and_.shape)}, "
            f"but has shape {tuple(strength.shape)}"
        )
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau must be a finite threshold, at least 0, but is {tau}")
    if distance not in _DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(_DISTANCES)}, but is {distance!r}")
    require_between_0_and_1(0.95, level=level)
    require_counts(1, replicates=replicates)
    # In one place from here on, and where float64 is.
    strength, and_, or_ = to_float64(strength), to_float64(and_), None if or_ is None else to_float64(or_)
    usable = and_.isfinite().all(-1) & strength.isfinite().all(-1).all(0)
    if or_ is not None:
        usable &= or_.isfinite().all(-1)
    if not usable.any():
        raise ValueError("no sample is finite in every measurement; leave out the measurements that diverged")
    return strength[:, usable], and_[usable], None if or_ is None else or_[usable]


def _coarse_grid(n: int) -> Tensor:
    """No noise, then from where the smallest eigenvalue, 0.22ⁿ, is untouched to where the largest is gone."""
    lowest = n * math.log10(EIGENVALUES[1] / 2) - 3
    steps = math.ceil(_COARSE_PER_DECADE * (3 - lowest)) + 1
    return torch.cat((torch.zeros(1, dtype=torch.float64), torch.logspace(lowest, 3, steps, dtype=torch.float64)))


def _around(grid: Tensor, best: Tensor) -> Tensor:
    """Divide the steps of the grid on both sides of every best level."""
    starts = torch.unique(torch.cat((best - 1, best)))
    starts = starts[(starts >= 1) & (starts < len(grid) - 1)]
    share = torch.arange(1, _FINE_PER_STEP, dtype=torch.float64, device=grid.device) / _FINE_PER_STEP
    logs = grid.log10()
    return (10 ** (logs[starts, None] * (1 - share) + logs[starts + 1, None] * share)).flatten()


def _close(curve: Tensor, resolution: float) -> Tensor:
    """Mark the noise levels that match as well as the best one; all of them where nothing can be compared."""
    curve = curve.nan_to_num(math.inf)
    return (curve <= curve.min(-1, keepdim=True).values + resolution).to(torch.int8)


def _bounds(
    strength: Tensor,
    theory: Tensor,
    distance: Distance,
    *,
    replicates: int,
    level: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Percentiles of the first and the last best level over samples drawn with replacement, as grid indices."""
    compare, resolution = _DISTANCES[distance]
    samples, levels = strength.shape[1], len(theory)
    draws = torch.randint(samples, (replicates, samples), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(replicates, samples, dtype=torch.float64)
    weights = weights.scatter_add_(1, draws, torch.ones_like(weights)).to(strength.device)
    first, last = [], []
    parts = torch.split(weights, max(1, _CHUNK // (strength[:, 0].numel() * levels)))
    for part in counted("theory, draws of samples", parts):
        real = torch.einsum("bs,esn->ben", part, strength)
        predicted = torch.einsum("bs,ksn->bkn", part, theory)
        close = _close(compare(real[:, :, None], predicted[:, None]), resolution)
        first.append(close.argmax(-1))
        last.append(levels - 1 - close.flip(-1).argmax(-1))
    tail = (1 - level) / 2
    low = torch.cat(first).double().quantile(tail, dim=0, interpolation="lower").long()
    high = torch.cat(last).double().quantile(1 - tail, dim=0, interpolation="higher").long()
    return low, high
