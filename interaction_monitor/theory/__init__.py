"""What the theory of Ren et al. 2024 predicts for a run, from the interactions of its final network.

"Towards the Dynamics of a DNN Learning Symbolic Interactions", section 3.3.2 and Figure 4: the noise level of each
measurement of a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interaction_monitor.functional import mean_order, order_strength
from interaction_monitor.functional.saliency import SALIENCY
from interaction_monitor.history import History
from interaction_monitor.history.landmarks import lowest_index, onset_index, places
from interaction_monitor.measurement import Measurement
from interaction_monitor.record import Record
from interaction_monitor.theory.and_or import Prediction, predict_and_or, predicted_strength
from interaction_monitor.theory.closed_form import norm_ratio, predict, row_norms
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
    """Whether σ̂² decreases over phase two, by the intervals and not by the points.

    `earlier` and `later` are the two measurements that decide: of a rise those whose intervals lie furthest apart.
    """

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

        It rises where a later measurement's interval lies wholly above an earlier one's, whatever the
        points do: late in training they wobble at levels that the data cannot tell from none. It falls
        where it nowhere rises and some later interval lies wholly below an earlier one. The last
        measurement does not count there: w* was taken from it, so its σ̂² is 0 or near it.
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
    require_two(record)
    measurements = record.measurements
    last = measurements[-1]
    epoch = record.history[-1].epoch
    strength = torch.stack([_strength(measurement, and_part) for measurement in measurements])
    finite = strength[-1].isfinite().all(-1)
    if not finite.any():
        raise NoOverlayError(
            f"the last measurement, at epoch {epoch}, has no sample with finite outputs: the run diverged, and there "
            "is no final network to predict from"
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


def require_two(record: Record) -> None:
    """Refuse a record with too little in it for anything to change from one measurement to the next.

    Raises:
        NoOverlayError: If it has fewer than two measurements or two players.
    """
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
