"""The two phases of learning interactions, and from when what is learnt no longer generalizes, decided here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interaction_monitor._checks import require_between_0_and_1, require_counts
from interaction_monitor.functional.distribution import (
    high_order_share,
    mean_order_interval,
    share_influence,
    share_interval,
)
from interaction_monitor.phases.change_tests import Curve, lowest
from interaction_monitor.phases.loss_gap import GapOpening, change_point, clear_rise, gap_opening
from interaction_monitor.phases.onset import PhaseState, PhaseTracker

__all__ = [
    "GapOpening",
    "OverfittingState",
    "OverfittingTracker",
    "PhaseState",
    "PhaseTracker",
    "gap_opening",
    "high_order_share",
    "mean_order_interval",
]

# Before so many measurements too little is known of the jitter of a share that need not have risen before.
LEARNING = 8
# What is compared is the highest of many, which the levels of the looks leave out: only this share of alpha is spent.
SPENT = 0.4
Found = tuple[int, int, int, int]  # indices of measurements: earliest, onset, latest, detected


@dataclass(frozen=True)
class OverfittingState:
    """What is known of over-fitting after a measurement; what is not known yet is None."""

    onset_epoch: int | None  # the last measured epoch before the share sinks or the loss rises, once that is known
    earliest_epoch: int | None  # the first epoch at which it may have begun, by the jitter of the curve; 95%
    latest_epoch: int | None  # the last, likewise
    detected_epoch: int | None  # the measurement at which it became known
    share: float | None  # the generalizing share now, in 0..1
    highest_share: float | None  # the highest so far
    onset_step: int | None = None  # as `onset_epoch`, in optimizer steps; None where steps were not given
    detected_step: int | None = None  # as `detected_epoch`


class OverfittingTracker:
    """Find from when the generalizing share sinks, or twins do worse on what they do not learn from.

    A drop counts when each of the last `persistence` measurements shows it and, averaged over two, four or eight
    measurements, it passes three tests: a least drop, so that what is found matters; a paired t-test of the samples'
    linearised changes, as other samples might not show it; and a t-test against the jitter from one measurement to the
    next, which is learnt from the second differences of the history and, until it is, taken to be 3% of the highest
    share. Nothing is said before eight measurements. The level is spent over the looks, as in `PhaseTracker`. Once
    known, the onset stays.

    The twins' loss rises when each of the last `persistence` measurements shows a least rise above its lowest, and they
    lie higher than its jitter explains. Each curve that there is has an equal part of `alpha`.

    A share can also sink because the references know less than the network, and twins over-fit sooner than a run that
    learns from all samples: the tests cannot tell that from over-fitting of the run.

    Args:
        alpha: chance of a false onset in a whole run in which the curves turn and then stay. Checked by simulation.
        min_drop: the least drop as a part of the highest share. Beside references trained on as many samples as the
            run, clean runs that do not over-fit lose up to 8% of it.
        min_loss_rise: the least rise of the twins' loss as a part of its lowest. Twins have half as many samples and
            over-fit sooner: where their loss rises by less, the run's validation loss hardly does.
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

    def __init__(
        self, *, alpha: float = 0.05, min_drop: float = 0.1, min_loss_rise: float = 0.1, persistence: int = 2
    ) -> None:
        require_between_0_and_1(0.05, alpha=alpha)
        if not 0 <= min_drop < 1:
            raise ValueError(
                f"min_drop must lie between 0 and 1, but is {min_drop}; 0.1 is a tenth of the highest share"
            )
        if not min_loss_rise >= 0:
            raise ValueError(f"min_loss_rise must be at least 0, but is {min_loss_rise}; 0.1 is a tenth of the lowest")
        require_counts(1, persistence=persistence)
        self.alpha = alpha
        self.min_drop = min_drop
        self.min_loss_rise = min_loss_rise
        self.persistence = persistence
        self._curve = Curve()  # of the share with its sign turned, so that sinking is a rise
        self._losses: list[tuple[int, float]] = []  # index of the measurement, and the twins' loss up to it
        self._epochs: list[int] = []
        self._steps: list[int | None] = []
        self._last_epoch: int | None = None
        self._found: Found | None = None

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
        self,
        *,
        epoch: int,
        generalizing: Tensor,
        strength: Tensor,
        step: int | None = None,
        unseen_loss: float | None = None,
    ) -> OverfittingState:
        """Take in one measurement.

        Args:
            epoch: completed epochs; may stay the same but never falls.
            generalizing: (S,) strength of the salient interactions that some reference has, of each probe sample, the
                same samples each time; from `functional.generalizing_strength`, summed over the orders.
            strength: (S,) strength of all salient interactions. Samples with NaN in either are left out of comparisons
                with this measurement; a measurement with nothing salient says nothing.
            step: optimizer steps so far, if the onset is to be known by step too.
            unseen_loss: the mean loss of twins on training samples that they do not learn from since the measurement
                before, where there are twins.

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
        if unseen_loss is not None and math.isfinite(unseen_loss):
            self._losses.append((len(self._epochs) - 1, unseen_loss))
        if self._found is None and len(self._epochs) >= LEARNING:
            alpha = self.alpha / (2 if self._losses else 1)
            self._found = self._of_share(alpha) or self._of_loss(alpha)
        self._curve.forget(self.persistence)
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

    def _of_share(self, alpha: float) -> Found | None:
        values = self._curve.values
        highest = -min(values)
        if not self._curve.has_risen(
            persistence=self.persistence, min_rise=self.min_drop, alpha=SPENT * alpha, scale=highest
        ):
            return None
        turn = lowest(values[: -self.persistence])
        found = change_point(self._epochs, values, early=self.min_drop * highest)
        return (*(found or (turn, turn, turn)), len(values) - 1)

    def _of_loss(self, alpha: float) -> Found | None:
        at, values = [index for index, _ in self._losses], [loss for _, loss in self._losses]
        if len(values) <= self.persistence + 1 or at[-1] != len(self._epochs) - 1:
            return None
        least = self.min_loss_rise * abs(min(values[: -self.persistence]))
        times = [self._epochs[index] for index in at]
        found = clear_rise(times, values, least=least, early=2 * least, persistence=self.persistence, alpha=alpha)
        return None if found is None else (at[found[0]], at[found[1]], at[found[2]], at[-1])

    def state_dict(self) -> dict[str, Any]:
        """Give all that has been seen as plain numbers, strings, lists and dicts."""
        return {
            "curve": self._curve.state_dict(),
            "losses": [list(each) for each in self._losses],
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
        self._losses = [(index, loss) for index, loss in state.get("losses", [])]  # earlier versions knew none
        self._epochs = list(state["epochs"])
        self._steps = list(state["steps"])
        self._last_epoch = state["last_epoch"]
        self._found = tuple(state["found"]) if state["found"] else None
