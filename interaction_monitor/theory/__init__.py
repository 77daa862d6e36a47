"""What the theory of Ren et al. 2024 says of a run: noise levels (section 3.3.2, Figure 4), head starts (Theorem 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property
from itertools import pairwise
from math import comb
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interaction_monitor._checks import require_counts
from interaction_monitor.functional import mean_order, order_strength
from interaction_monitor.functional.saliency import SALIENCY
from interaction_monitor.history import History
from interaction_monitor.history.landmarks import lowest_index, onset_index, places
from interaction_monitor.measurement import Measurement
from interaction_monitor.progress_bar import counted
from interaction_monitor.record import Record
from interaction_monitor.theory.closed_form import (
    Prediction,
    checked_levels,
    predict,
    predict_and_or,
    predicted_strength,
)
from interaction_monitor.theory.fit import Distance, SigmaFit, fit_sigma2, jensen_shannon

__all__ = [
    "Distance",
    "NoOverlayError",
    "Overlay",
    "Prediction",
    "SigmaFit",
    "Trend",
    "fit_record",
    "fit_sigma2",
    "jensen_shannon",
    "norm_ratio",
    "predict",
    "predict_and_or",
    "predicted_strength",
    "row_norms",
]


class NoOverlayError(ValueError):
    """The theory has nothing to say about this record; the message tells why and what would help."""


@dataclass(frozen=True)
class Trend:
    """Whether σ̂² decreases over phase two, by the intervals and not the points, and which two measurements decide."""

    direction: Literal["falls", "rises", "unclear"]
    earlier: int | None = None
    later: int | None = None


@dataclass(frozen=True)
class Overlay:
    """The measurements of a run, and beside each the closest that the theory comes to it."""

    history: History  # (E) the measurements that were compared
    fit: SigmaFit  # σ̂² and I_theo^(k) of each
    turn: int  # which of them is the first of phase two
    onset_known: bool  # False: the lowest ⟨k⟩ stands in for an onset that the run has not found
    left_out: tuple[str, ...]  # where no sample was finite, "epoch 3" say

    @cached_property
    def in_phase_two(self) -> NDArray[np.bool_]:
        """(E,) whether the theory makes a claim about the measurement."""
        return np.arange(len(self.history)) >= self.turn

    @property
    def stage(self) -> str:
        """What to call the measurements from `turn` on: a run without an onset has no phase two that is known of."""
        return "phase two" if self.onset_known else "what is taken for phase two"

    @cached_property
    def measured_order(self) -> NDArray[np.float64]:
        """(E,) ⟨k⟩ of I_real^(k), over the samples that are finite in every measurement."""
        return np.array([float(mean_order(real)) for real in self.fit.real])

    @cached_property
    def predicted_order(self) -> NDArray[np.float64]:
        """(E,) ⟨k⟩ of I_theo^(k)."""
        return np.array([float(mean_order(theory.nan_to_num(0))) for theory in self.fit.theory])

    @cached_property
    def places(self) -> list[str]:
        """(E) where in the run each measurement was taken: its epoch, or its step where epochs repeat."""
        return places(self.history)

    @cached_property
    def worst(self) -> int:
        """Which measurement of phase two the theory matches worst, by the cosine."""
        cosine = self.fit.cosine.numpy()
        return int(np.nanargmin(np.where(self.in_phase_two, cosine, np.nan)))

    @cached_property
    def trend(self) -> Trend:
        """Whether σ̂² decreases over phase two.

        It rises where a later measurement's interval lies wholly above an earlier one's, whatever the points do: late
        in training they wobble at levels that the data cannot tell from none. It falls where it nowhere rises and some
        later interval lies wholly below an earlier one; the last, from which w* was taken, does not count there.
        """
        low, high = self.fit.low.numpy(), self.fit.high.numpy()
        known = [i for i in range(self.turn, len(self.history)) if np.isfinite(low[i])]
        pairs = [(i, j) for i in known for j in known if i < j]
        rising = [(i, j) for i, j in pairs if low[j] > high[i]]
        if rising:
            return Trend("rises", *max(rising, key=lambda pair: np.log(low[pair[1]] / max(high[pair[0]], 1e-300))))
        falling = [(i, j) for i, j in pairs if j != len(self.history) - 1 and high[j] < low[i]]
        if falling:
            return Trend("falls", falling[0][0], max(j for _, j in falling))
        return Trend("unclear")


def fit_record(record: Record, *, and_part: bool = False) -> Overlay:
    """Fit the noise level of every measurement of a record.

    w* is what is salient in the last measurement; the saliency threshold's fraction is the one the run used.

    Args:
        record: At least two measurements of at least two players.
        and_part: Leave the OR interactions of a run that has them out of both sides: the theorem is about AND, and
            Figure 7 of the paper may be read so. A run measured with AND interactions alone is its other reading.

    Returns:
        The overlay. Measurements without a single finite sample are left out, and named.

    Raises:
        NoOverlayError: If there are too few measurements or players, or the last measurement cannot be predicted from.
        RecordError: If a measurement's file is damaged.
    """
    _require_two(record)
    last, epoch = record.measurements[-1], record.history[-1].epoch
    strength = torch.stack([_strength(measurement, and_part) for measurement in record.measurements])
    finite = strength[-1].isfinite().all(-1)
    if not finite.any():
        raise NoOverlayError(
            f"the last measurement, at epoch {epoch}, has no sample with finite outputs: the run diverged, and there "
            "is no final network to predict from"
        )
    if and_part and not strength[-1, finite].any() and last.strength[finite].any():
        raise NoOverlayError(
            f"the last measurement, at epoch {epoch}, has salient interactions of OR alone, so its AND part predicts "
            "nothing; leave out --and-part (and_part=True)"
        )
    if not strength[-1, finite].any():
        raise NoOverlayError(
            f"the last measurement, at epoch {epoch}, has no salient interaction: the network never converged to any, "
            "so there is nothing to predict from; train it on"
        )
    kept = strength.isfinite().all(-1).any(-1).nonzero()[:, 0].tolist()
    history = History(record.history[i] for i in kept)
    or_ = last.or_ if last.or_.nan_to_num().any() and not and_part else None
    try:
        fit = fit_sigma2(strength[kept], last.and_, or_, tau=last.tau, fraction=_fraction(record.settings))
    except ValueError as error:
        raise NoOverlayError(str(error)) from error
    left_out = tuple(place for i, place in enumerate(places(record.history)) if i not in kept)
    onset = onset_index(history)
    turn = lowest_index(history) if onset is None else onset
    return Overlay(history, fit, turn, onset is not None, left_out)


def _strength(measurement: Measurement, and_part: bool) -> Tensor:
    """Return (S, n), with NaN for samples that were left out, whatever a damaged file holds for them."""
    strength = order_strength(measurement.and_, None, measurement.tau) if and_part else measurement.strength
    return strength.where(measurement.valid[:, None], torch.nan)


def _require_two(record: Record) -> None:
    found = len(record.history)
    if found < 2:
        raise NoOverlayError(
            f"{record.folder} holds {found or 'no'} measurement{'s' * (found == 0)}; at least two are needed to tell "
            "how a run went, so train for longer or measure more often"
        )
    if record.n_players < 2:
        raise NoOverlayError(
            f"{record.folder} was measured with n_players=1, so every interaction has order 1 and there is no "
            "distribution over orders; measure with at least two players"
        )


def _fraction(settings: Mapping[str, Any]) -> float:
    # Records of plain loops hold whatever settings their author chose.
    thresholds = settings.get("thresholds")
    value = thresholds.get("saliency") if isinstance(thresholds, dict) else None
    return float(value) if isinstance(value, (int, float)) and value > 0 else SALIENCY


def _row_norms(n: int, sigma2: float) -> list[float]:
    """Norms of the rows of M̂ for one noise level, by order 0..n.

    Row T of M̂ at column T' is 2^{(|T'|-|T|)/2} Σ_j f_j [z^j] Π over players of (s²+c²z) where both hold the player,
    cs(1-z) where one does, (c²+s²z) where none does: it depends on how often each happens, no more. The factors are
    multiplied onto f one at a time, (α+βz) taking f_j to αf_j + βf_{j+1}, in decimals, as differences cancel 2n digits.
    """
    with localcontext() as context:
        context.prec = 40 + 2 * n
        root17 = Decimal(17).sqrt()
        large, small = (5 + root17) / 4, (5 - root17) / 4
        # cos² and sin² of the rotation, whose slope is √2 (√17 - 3) / 4
        c2 = 1 / (1 + (root17 - 3) ** 2 / 8)
        s2 = 1 - c2
        cs = (c2 * s2).sqrt()
        noise = Decimal(2) ** n * Decimal(sigma2)
        kept = [1 / (1 + noise / (large ** (n - j) * small**j)) for j in range(n + 1)]

        squares: dict[tuple[int, int], Decimal] = {}  # by players in both sets, players in one
        one = kept
        for in_one in range(n + 1):
            both = one
            for in_both in range(n - in_one + 1):
                rest = both
                while len(rest) > 1:
                    rest = [c2 * f + s2 * g for f, g in pairwise(rest)]
                squares[in_both, in_one] = rest[0] ** 2
                both = [s2 * f + c2 * g for f, g in pairwise(both)]
            one = [cs * (f - g) for f, g in pairwise(one)]

        def norm(order: int) -> float:
            total = sum(
                comb(order, inside)
                * comb(n - order, outside)
                * Decimal(2) ** (inside + outside - order)
                * squares[inside, order - inside + outside]
                for inside in range(order + 1)
                for outside in range(n - order + 1)
            )
            return float(Decimal(total).sqrt())

        return [norm(order) for order in range(n + 1)]


def row_norms(n: int, sigma2: float | Tensor) -> Tensor:
    """Give the norm of a row of M̂ for every order: how far ŵ_T can reach for a w* of norm one.

    ŵ = M̂ w*, and the norm of row T depends on n, σ² and |T| only (Ren et al. 2024, Theorem 4). It is summed over the
    O(n³) ways in which two sets can lie to each other, right to the last digit where no dense matrix fits.

    Args:
        n: number of players, at least 1.
        sigma2: noise variance, a number or (K,).

    Returns:
        (n + 1,) or (K, n + 1) float64, index = order |T| = 0..n.

    Raises:
        ValueError: if `n` is below 1, or `sigma2` negative or not finite.

    Examples:
        >>> row_norms(10, 0.0).tolist() == [1.0] * 11  # no noise, M̂ is the identity
        True
        >>> bool((row_norms(20, 0.1).diff() < 0).all())  # noise hits high orders harder
        True
    """
    require_counts(1, n=n)
    levels = checked_levels(sigma2)
    norms = [_row_norms(n, level) for level in counted("theory, noise levels", levels.reshape(-1).tolist())]
    return torch.tensor(norms, dtype=torch.float64, device=levels.device).reshape(*levels.shape, n + 1)


def norm_ratio(n: int, sigma2: float | Tensor) -> Tensor:
    """Give r^(k) = ‖m̂_T‖ / ‖m̂_T'‖ for |T| = k, |T'| = k + 1: the head start of order k over the next.

    It is 1 without noise and rises with it, to √10 (Ren et al. 2024, Proposition 1 and Figure 3).

    Args:
        n: number of players, at least 1.
        sigma2: noise variance, a number or (K,).

    Returns:
        (n - 1,) or (K, n - 1) float64 for k = 1..n-1.

    Raises:
        ValueError: if `n` is below 1, or `sigma2` negative or not finite.

    Examples:
        >>> ratio = norm_ratio(6, torch.tensor([0.0, 0.01, 1.0, 1e6]))
        >>> bool((ratio.diff(dim=0) > 0).all())
        True
        >>> [round(r, 3) for r in ratio[-1].tolist()]
        [3.162, 3.162, 3.162, 3.162, 3.162]
    """
    norms = row_norms(n, sigma2)
    return norms[..., 1:-1] / norms[..., 2:]
