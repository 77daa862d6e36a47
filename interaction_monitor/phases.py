"""The two phases of learning interactions: which one a network is in, and where the second began.

In phase one the mean order ⟨k⟩ of the salient interactions falls, in phase two it rises again, and the gap
between test and train loss begins to open (Ren et al. 2024, "Towards the dynamics of a DNN learning symbolic
interactions", Section 3.2). `PhaseTracker` says so only when three things agree: the rise is large enough to
matter, larger than the choice of probe samples explains, and larger than the jitter from one measurement to
the next explains. How and why, and how often it is wrong, is in the documentation on phases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor

from interaction_monitor.functional.intervals import (
    mean_order_influence,
    mean_order_interval,
    student_quantile,
)
from interaction_monitor.functional.strengths import high_order_share, mean_order

__all__ = ["PhaseState", "PhaseTracker", "high_order_share", "mean_order_interval"]

Phase = Literal["initial", "one", "two"]


@dataclass(frozen=True)
class PhaseState:
    """What is known of the phases after a measurement; what is not known yet is None."""

    phase: Phase  # "initial" until ⟨k⟩ has clearly fallen, "one" until it has clearly risen again, then "two"
    onset_epoch: int | None  # where ⟨k⟩ was lowest, once phase two is known
    detected_epoch: int | None  # the measurement at which that became known
    gap_onset_epoch: int | None  # where test loss minus train loss was lowest, once it is known to open
    gap_detected_epoch: int | None  # the measurement at which that became known
    fall: float  # first ⟨k⟩ minus the lowest so far, in orders; 0 before the first measurement
    rise: float  # ⟨k⟩ now minus the lowest so far, in orders; 0 before the first measurement

    @property
    def lag(self) -> int | None:
        """Epochs from the onset of phase two to the opening of the loss gap, once both are known."""
        if self.onset_epoch is None or self.gap_onset_epoch is None:
            return None
        return self.gap_onset_epoch - self.onset_epoch


class PhaseTracker:
    """Name the phase after each measurement, and find where phase two and the loss gap began.

    A change counts when each of the last `persistence` measurements shows it and their mean passes
    three tests:

    - effect: a least share of the fall of ⟨k⟩, so that what is found matters;
    - probe samples: a paired t-test of the samples' linearised changes, as other samples might not show it;
    - jitter: that many standard deviations of the noise from one measurement to the next, which moves all
      samples together and is learnt from the second differences of the history.

    Levels are spent over the looks: α/(m(m+1)) at look m against jitter, which is new at each look, and once
    per doubling of their number against samples, whose changes wander. All of a state is plain numbers.

    Args:
        alpha: chance of a false phase two in a whole run in which ⟨k⟩ falls and then stays.
        min_fall: phase one needs a fall by this share of what could be lost, first ⟨k⟩ - 1.
        min_rise: phase two needs a rise by this share of the fall. A tenth: slow wandering of ⟨k⟩ with
            a spread of 2% of the fall, however autocorrelated, stays below it.
        min_gap_rise: the loss gap needs a rise by this share of the first train loss.
        persistence: how many measurements in a row must show a change; the first of them alone could
            be one spike.

    Raises:
        ValueError: if an argument is out of range.

    Examples:
        >>> spread = torch.linspace(0.8, 1.2, 30)
        >>> def strengths(mean):  # 30 samples with interactions of orders 1 and 4
        ...     high = (mean - 1) / 3
        ...     return torch.stack((spread * 0 + 1 - high, spread * 0, spread * 0, high * spread), dim=1)
        >>> tracker = PhaseTracker()
        >>> fall_and_rise = [3.0, 2.5, 2.1, 1.8, 1.6, 1.5, 1.45, 1.5, 1.6, 1.75, 1.9, 2.0, 2.15, 2.3]
        >>> for epoch, mean in enumerate(fall_and_rise):
        ...     state = tracker.update(epoch=epoch, strength=strengths(mean))
        >>> state.phase, state.onset_epoch, state.detected_epoch
        ('two', 6, 10)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.05,
        min_fall: float = 0.1,
        min_rise: float = 0.1,
        min_gap_rise: float = 0.025,
        persistence: int = 2,
    ) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, but is {alpha}; 0.05 is the default")
        for name, value in (("min_fall", min_fall), ("min_rise", min_rise), ("min_gap_rise", min_gap_rise)):
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, but is {value}")
        if persistence < 1:
            raise ValueError(f"persistence must be at least 1 measurement, but is {persistence}")
        self.alpha = alpha
        self.min_fall = min_fall
        self.min_rise = min_rise
        self.min_gap_rise = min_gap_rise
        self.persistence = persistence
        self._phase: Phase = "initial"
        self._onset: tuple[int, int] | None = None
        self._gap_onset: tuple[int, int] | None = None
        self._last_epoch: int | None = None
        self._epochs: list[int] = []
        self._means: list[float] = []
        # ⟨k⟩ plus each sample's influence on it, for the measurements that may still be compared
        self._linear: dict[int, list[float]] = {}
        self._gap_epochs: list[int] = []
        self._gaps: list[float] = []
        self._first_train_loss = 0.0

    @property
    def state(self) -> PhaseState:
        """What is known after the last measurement."""
        onset, detected = self._onset or (None, None)
        gap_onset, gap_detected = self._gap_onset or (None, None)
        means = self._means or [0.0]
        return PhaseState(
            phase=self._phase,
            onset_epoch=onset,
            detected_epoch=detected,
            gap_onset_epoch=gap_onset,
            gap_detected_epoch=gap_detected,
            fall=means[0] - min(means),
            rise=means[-1] - min(means),
        )

    def update(
        self,
        *,
        epoch: int,
        strength: Tensor,
        train_loss: float | None = None,
        test_loss: float | None = None,
    ) -> PhaseState:
        """Take in one measurement.

        Args:
            epoch: completed epochs; may stay the same but never falls.
            strength: (S, n) strength of the salient interactions per probe sample and order, the same
            samples each
                time. Samples with NaN are left out of comparisons with this measurement; a measurement
                with nothing salient says nothing of the phase.
            train_loss: mean loss on training samples, if known.
            test_loss: mean loss on test samples, if known.

        Returns:
            What is known now.

        Raises:
            ValueError: if `epoch` falls, `strength` is not (S, n), or S is not that of the earlier
            measurements.
        """
        strength = torch.as_tensor(strength).detach().cpu()
        self._check(epoch, strength)
        self._last_epoch = epoch
        mean = float(mean_order(strength))
        if not math.isnan(mean):
            self._epochs.append(epoch)
            self._means.append(mean)
            self._linear[len(self._means) - 1] = (mean + mean_order_influence(strength)).tolist()
            self._advance_phase()
        if train_loss is not None and test_loss is not None and math.isfinite(test_loss - train_loss):
            self._gap_epochs.append(epoch)
            if not self._gaps:
                self._first_train_loss = float(train_loss)
            self._gaps.append(float(test_loss - train_loss))
            self._watch_gap()
        return self.state

    def _check(self, epoch: int, strength: Tensor) -> None:
        if self._last_epoch is not None and epoch < self._last_epoch:
            raise ValueError(f"epoch must not fall, but is {epoch} after {self._last_epoch}")
        if strength.ndim != 2 or 0 in strength.shape:
            raise ValueError(f"strength must be (samples, orders), but has shape {tuple(strength.shape)}")
        known = next(iter(self._linear.values()), None)
        if known is not None and len(known) != len(strength):
            raise ValueError(f"strength must keep its samples, but has {len(strength)} rows after {len(known)} before")

    def _advance_phase(self) -> None:
        last = range(len(self._means) - self.persistence, len(self._means))
        if last.start < 1:
            return
        if self._phase == "initial" and self._has_fallen(last):
            self._phase = "one"
        lowest = _lowest(self._means[: last.start])
        if self._phase == "one" and self._has_risen(lowest, last):
            self._phase = "two"
            self._onset = (self._epochs[lowest], self._epochs[-1])
        # a later minimum can only be one of the last measurements
        self._linear = {index: self._linear[index] for index in sorted({0, lowest, *last})}

    def _has_fallen(self, last: range) -> bool:
        start = self._means[0]
        if any(start - self._means[index] < self.min_fall * (start - 1) for index in last):
            return False
        fall = [-change for change in self._changes(0, last)]
        backwards = [-mean for mean in self._means]
        return self._beats_samples(fall) and self._beats_jitter(backwards, 0, caution=20, after_descent=False)

    def _has_risen(self, lowest: int, last: range) -> bool:
        fall = self._means[0] - self._means[lowest]
        if any(self._means[index] - self._means[lowest] < self.min_rise * fall for index in last):
            return False
        # the whole fall was found to stand out from the jitter, so half of it does
        undone = sum(self._means[index] for index in last) / len(last) - self._means[lowest] >= fall / 2
        return self._beats_samples(self._changes(lowest, last)) and (
            undone or self._beats_jitter(self._means, lowest, caution=10)
        )

    def _watch_gap(self) -> None:
        first = len(self._gaps) - self.persistence
        if first < 1 or self._gap_onset is not None:
            return
        lowest = _lowest(self._gaps[:first])
        least = self.min_gap_rise * abs(self._first_train_loss)
        has_opened = all(gap - self._gaps[lowest] >= least for gap in self._gaps[first:])
        if has_opened and self._beats_jitter(self._gaps, lowest, caution=20):
            self._gap_onset = (self._gap_epochs[lowest], self._gap_epochs[-1])

    def _changes(self, reference: int, last: range) -> list[float]:
        """Give each sample's change of ⟨k⟩ from the reference to the mean of the last, where it is known."""
        now = torch.tensor([self._linear[index] for index in last], dtype=torch.float64).mean(0)
        changes = now - torch.tensor(self._linear[reference], dtype=torch.float64)
        known: list[float] = changes[changes.isfinite()].tolist()
        return known

    def _beats_samples(self, changes: list[float]) -> bool:
        if len(changes) < 2:
            return False
        values = torch.tensor(changes, dtype=torch.float64)
        # what wanders from look to look is new only after about as many looks again: one test per doubling
        doublings = len(self._means).bit_length()
        level = self.alpha / (doublings**2 * (doublings + 1))
        error = float(values.std()) / math.sqrt(len(values))
        return float(values.mean()) > student_quantile(1 - level, len(values) - 1) * error

    def _beats_jitter(
        self, values: Sequence[float], reference: int, *, caution: float, after_descent: bool = True
    ) -> bool:
        last = values[-self.persistence :]
        change = sum(last) / len(last) - values[reference]
        looks = len(values) - 1
        quantile = NormalDist().inv_cdf(1 - self.alpha / (looks * (looks + 1)))
        # one estimate knows more differences, the other is free of the bends of the descent
        estimates = [_jitter(values, drop_descents=drop) for drop in ((False, True) if after_descent else (False,))]
        # the spread of a median of few, and the choice of the lowest as the reference: found by simulation
        spread = min((jitter * (1 + caution / count) for jitter, count in estimates if count), default=math.inf)
        return change > quantile * spread * math.sqrt(1 + 1 / self.persistence)

    def state_dict(self) -> dict[str, Any]:
        """Give all that has been seen as plain numbers, strings, lists and dicts."""
        return {
            "phase": self._phase,
            "onset": list(self._onset) if self._onset else None,
            "gap_onset": list(self._gap_onset) if self._gap_onset else None,
            "last_epoch": self._last_epoch,
            "epochs": list(self._epochs),
            "means": list(self._means),
            "linear": [[index, list(values)] for index, values in self._linear.items()],
            "gap_epochs": list(self._gap_epochs),
            "gaps": list(self._gaps),
            "first_train_loss": self._first_train_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the tracker that gave `state` was; the arguments are this tracker's own.

        Args:
            state: what `state_dict` gave.
        """
        self._phase = state["phase"]
        self._onset = tuple(state["onset"]) if state["onset"] else None
        self._gap_onset = tuple(state["gap_onset"]) if state["gap_onset"] else None
        self._last_epoch = state["last_epoch"]
        self._epochs = list(state["epochs"])
        self._means = list(state["means"])
        self._linear = {index: list(values) for index, values in state["linear"]}
        self._gap_epochs = list(state["gap_epochs"])
        self._gaps = list(state["gaps"])
        self._first_train_loss = state["first_train_loss"]


def _lowest(values: Sequence[float]) -> int:
    """Give the index of the lowest value, the last of equal ones: the change came after it."""
    return max(range(len(values)), key=lambda index: (-values[index], index))


def _jitter(values: Sequence[float], *, drop_descents: bool) -> tuple[float, int]:
    """Estimate the standard deviation of the noise that each measurement has of its own.

    From the median of |second differences|, which a steady trend leaves alone. In a rise after a fall
    the steps of the fall would only blur it by their curvature, so pairs of downward steps are
    dropped; the constants make white Gaussian noise come out right either way.

    Returns:
        The estimate, and the number of second differences it rests on.
    """
    steps = [after - before for before, after in pairwise(values)]
    bends = sorted(abs(b - a) for a, b in pairwise(steps) if not (drop_descents and a < 0 and b < 0))
    if not bends:
        return math.nan, 0
    return bends[(len(bends) - 1) // 2] / (1.9546 if drop_descents else 1.6522), len(bends)
