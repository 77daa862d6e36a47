"""From when a network over-fits: from where less and less of what it encodes is found in references.

The generalizing share, the part of the strength that networks trained on other samples have too, rises or stays level
while learning is healthy and sinks from where over-fitting begins. `OverfittingTracker` says so only when three things
agree, those that `PhaseTracker` asks of the phases: the drop is large enough to matter, larger than the choice of probe
samples explains, and larger than the jitter from one measurement to the next explains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interaction_monitor.functional.intervals import share_influence, share_interval
from interaction_monitor.phases.change_tests import Curve, lowest
from interaction_monitor.phases.loss_gap import change_point

# Before so many measurements too little is known of the jitter of a share that need not have risen before.
LEARNING = 8
# What is compared is the highest of many, which the levels of the looks leave out: only this share of alpha is spent.
SPENT = 0.4


@dataclass(frozen=True)
class OverfittingState:
    """What is known of over-fitting after a measurement; what is not known yet is None."""

    onset_epoch: int | None  # the last measured epoch before the share sinks, once that is known
    earliest_epoch: int | None  # the first epoch at which it may have begun, by the jitter of the share; 95%
    latest_epoch: int | None  # the last, likewise
    detected_epoch: int | None  # the measurement at which it became known
    share: float | None  # the generalizing share now, in 0..1
    highest_share: float | None  # the highest so far
    onset_step: int | None = None  # as `onset_epoch`, in optimizer steps; None where steps were not given
    detected_step: int | None = None  # as `detected_epoch`


class OverfittingTracker:
    """Find from when the generalizing share sinks.

    A drop counts when each of the last `persistence` measurements shows it and, averaged over two, four or eight
    measurements, it passes three tests: a least drop, so that what is found matters; a paired t-test of the samples'
    linearised changes, as other samples might not show it; and a t-test against the jitter from one measurement to the
    next, which is learnt from the second differences of the history and, until it is, taken to be 3% of the highest
    share. Nothing is said before eight measurements. The level is spent over the looks, as in `PhaseTracker`. Once
    known, the onset stays.

    A share can also sink because the references know less than the network: the tests cannot tell that from
    over-fitting.

    Args:
        alpha: chance of a false onset in a whole run in which the share rises and then stays. Checked by simulation.
        min_drop: the least drop as a part of the highest share. Beside references trained on as many samples as the
            run, clean runs that do not over-fit lose up to 8% of it.
        persistence: how many measurements in a row must show it.

    Raises:
        ValueError: if an argument is out of range.

    Examples:
        >>> strength = torch.linspace(0.8, 1.2, 30)
        >>> tracker = OverfittingTracker()
        >>> shares = [0.2, 0.5, 0.7, 0.75, 0.75, 0.75, 0.75, 0.73, 0.68, 0.6, 0.55, 0.5]
        >>> for epoch, share in enumerate(shares):
        ...     state = tracker.update(epoch=epoch, generalizing=share * strength, strength=strength)
        >>> state.onset_epoch, state.detected_epoch, round(state.highest_share, 2), round(state.share, 2)
        (6, 10, 0.75, 0.5)
    """

    def __init__(self, *, alpha: float = 0.05, min_drop: float = 0.1, persistence: int = 2) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, but is {alpha}; 0.05 is the default")
        if not 0 <= min_drop < 1:
            raise ValueError(
                f"min_drop must lie between 0 and 1, but is {min_drop}; 0.1 is a tenth of the highest share"
            )
        if persistence < 1:
            raise ValueError(f"persistence must be at least 1 measurement, but is {persistence}")
        self.alpha = alpha
        self.min_drop = min_drop
        self.persistence = persistence
        self._curve = Curve()  # of the share with its sign turned, so that sinking is a rise
        self._epochs: list[int] = []
        self._steps: list[int | None] = []
        self._last_epoch: int | None = None
        self._found: tuple[int, int, int, int] | None = None  # indices: earliest, onset, latest, detected

    @property
    def state(self) -> OverfittingState:
        """What is known after the last measurement."""
        epochs = [None] * 4 if self._found is None else [self._epochs[index] for index in self._found]
        steps = [None] * 4 if self._found is None else [self._steps[index] for index in self._found]
        shares = [-value for value in self._curve.values]
        return OverfittingState(
            onset_epoch=epochs[1],
            earliest_epoch=epochs[0],
            latest_epoch=epochs[2],
            detected_epoch=epochs[3],
            share=shares[-1] if shares else None,
            highest_share=max(shares) if shares else None,
            onset_step=steps[1],
            detected_step=steps[3],
        )

    def update(
        self, *, epoch: int, generalizing: Tensor, strength: Tensor, step: int | None = None
    ) -> OverfittingState:
        """Take in one measurement.

        Args:
            epoch: completed epochs; may stay the same but never falls.
            generalizing: (S,) strength of the salient interactions that some reference has, of each probe sample, the
                same samples each time; from `functional.generalizing_strength`, summed over the orders.
            strength: (S,) strength of all salient interactions. Samples with NaN in either are left out of comparisons
                with this measurement; a measurement with nothing salient says nothing.
            step: optimizer steps so far, if the onset is to be known by step too.

        Returns:
            What is known now.

        Raises:
            ValueError: if `epoch` falls, the shapes are not (S,) or differ, or S is not that of the earlier
                measurements.
        """
        generalizing, strength = (torch.as_tensor(x).detach().cpu().double() for x in (generalizing, strength))
        self._check(epoch, generalizing, strength)
        self._last_epoch = epoch
        _, share, _ = share_interval(generalizing, strength)
        if math.isnan(share):
            return self.state
        self._epochs.append(epoch)
        self._steps.append(step)
        self._curve.append(-share, (-share - share_influence(generalizing, strength)).tolist())
        self._look()
        return self.state

    def _check(self, epoch: int, generalizing: Tensor, strength: Tensor) -> None:
        if self._last_epoch is not None and epoch < self._last_epoch:
            raise ValueError(f"epoch must not fall, but is {epoch} after {self._last_epoch}")
        if strength.ndim != 1 or not len(strength) or generalizing.shape != strength.shape:
            raise ValueError(
                "generalizing and strength must be (samples,), summed over the orders, but have shapes "
                f"{tuple(generalizing.shape)} and {tuple(strength.shape)}"
            )
        known = next(iter(self._curve.linear.values()), None)
        if known is not None and len(known) != len(strength):
            raise ValueError(f"strength must keep its samples, but has {len(strength)} after {len(known)} before")

    def _look(self) -> None:
        values = self._curve.values
        highest = -min(values)
        if (
            self._found is None
            and len(values) >= LEARNING
            and self._curve.has_risen(
                persistence=self.persistence, min_rise=self.min_drop, alpha=SPENT * self.alpha, scale=highest
            )
        ):
            turn = lowest(values[: -self.persistence])
            found = change_point(self._epochs, values, early=self.min_drop * highest)
            self._found = (*(found or (turn, turn, turn)), len(values) - 1)
        self._curve.forget(self.persistence)

    def state_dict(self) -> dict[str, Any]:
        """Give all that has been seen as plain numbers, strings, lists and dicts."""
        return {
            "curve": self._curve.state_dict(),
            "epochs": list(self._epochs),
            "steps": list(self._steps),
            "last_epoch": self._last_epoch,
            "found": list(self._found) if self._found else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the tracker that gave `state` was; the arguments are this tracker's own.

        Args:
            state: what `state_dict` gave.
        """
        self._curve.load_state_dict(state["curve"])
        self._epochs = list(state["epochs"])
        self._steps = list(state["steps"])
        self._last_epoch = state["last_epoch"]
        found = state["found"]
        self._found = (found[0], found[1], found[2], found[3]) if found else None
