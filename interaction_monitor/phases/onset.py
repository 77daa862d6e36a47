"""The two phases of learning interactions: which one a network is in, and where the second began.

In phase one the mean order ⟨k⟩ of the salient interactions falls, in phase two it rises again, and the gap
between test and train loss begins to open (Ren et al. 2024, "Towards the dynamics of a DNN learning symbolic
interactions", Section 3.2). `PhaseTracker` says so only when three things agree: the rise is large enough to
matter, larger than the choice of probe samples explains, and larger than the jitter from one measurement to
the next explains. How and why, and how often it is wrong, is in the documentation on phases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from interaction_monitor._checks import require_between_0_and_1, require_counts, require_no_less_than_zero
from interaction_monitor.functional.distribution import (
    first_high_order,
    high_order_share,
    mean_order,
    mean_order_influence,
    share_influence,
)
from interaction_monitor.phases.change_tests import Curve, lowest
from interaction_monitor.phases.loss_gap import EARLY, clear_rise

Phase = Literal["initial", "one", "two"]


@dataclass(frozen=True)
class PhaseState:
    """What is known of the phases after a measurement; what is not known yet is None."""

    phase: Phase  # "initial" until ⟨k⟩ has clearly fallen, "one" until orders have clearly risen again, then "two"
    onset_epoch: int | None  # where ⟨k⟩ was lowest, once phase two is known
    detected_epoch: int | None  # the measurement at which that became known
    gap_onset_epoch: int | None  # the last before test loss minus train loss rises, once it is known to open
    gap_detected_epoch: int | None  # the measurement at which that became known
    fall: float  # first ⟨k⟩ minus the lowest so far, in orders; 0 before the first measurement
    rise: float  # ⟨k⟩ now minus the lowest so far, in orders; 0 before the first measurement
    onset_step: int | None = None  # as `onset_epoch`, in optimizer steps; None where steps were not given
    detected_step: int | None = None  # as `detected_epoch`
    gap_onset_step: int | None = None  # as `gap_onset_epoch`

    @property
    def lag(self) -> int | None:
        """Epochs from the onset of phase two to the opening of the loss gap, once both are known."""
        if self.onset_epoch is None or self.gap_onset_epoch is None:
            return None
        return self.gap_onset_epoch - self.onset_epoch


class PhaseTracker:
    """Name the phase after each measurement, and find where phase two and the loss gap began.

    Two curves are watched, half of `alpha` for each: the mean order ⟨k⟩, and the share of the strength in high
    orders, which few strong samples of low order blur less. A rise counts when each of the last `persistence`
    measurements shows it and, averaged over two, four or eight measurements, it passes three tests:

    - effect: a least share of the curve's fall, so that what is found matters;
    - probe samples: a paired t-test of the samples' linearised changes, as other samples might not show it;
    - jitter: a t-test against the noise from one measurement to the next, which moves all samples together. It is
      learnt from the second differences of the history and, until it is, taken to be 3% of the fall.

    Phase one is known by the same three tests of the fall from the first measurements. The level is spent over the
    looks, 9α/((m+8)(m+9)) at measurement m, α in all. All of a state is plain numbers.

    Args:
        alpha: chance of a false phase two in a whole run in which ⟨k⟩ falls and then stays. Checked by simulation.
        min_fall: phase one needs a fall by this share of what could be lost, first ⟨k⟩ - 1.
        min_rise: phase two needs a rise by this share of the fall. A tenth: slow wandering of ⟨k⟩ with
            a spread of 2% of the fall, however autocorrelated, stays below it.
        min_gap_rise: the loss gap needs a rise by this share of the first known loss.
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
        require_between_0_and_1(0.05, alpha=alpha)
        require_no_less_than_zero(min_fall=min_fall, min_rise=min_rise, min_gap_rise=min_gap_rise)
        require_counts(1, persistence=persistence)
        self.alpha = alpha
        self.min_fall = min_fall
        self.min_rise = min_rise
        self.min_gap_rise = min_gap_rise
        self.persistence = persistence
        self._phase: Phase = "initial"
        self._onset: tuple[int, int] | None = None
        self._onset_steps: tuple[int | None, int | None] = (None, None)
        self._last_epoch: int | None = None
        self._epochs: list[int] = []
        self._steps: list[int | None] = []
        self._order, self._high = Curve(), Curve()
        self._first_loss = 0.0
        self.forget_losses()

    @property
    def state(self) -> PhaseState:
        """What is known after the last measurement."""
        onset, detected = self._onset or (None, None)
        gap_onset, gap_detected = self._gap_onset or (None, None)
        means = self._order.values or [0.0]
        return PhaseState(
            phase=self._phase,
            onset_epoch=onset,
            detected_epoch=detected,
            gap_onset_epoch=gap_onset,
            gap_detected_epoch=gap_detected,
            fall=means[0] - min(means),
            rise=means[-1] - min(means),
            onset_step=self._onset_steps[0],
            detected_step=self._onset_steps[1],
            gap_onset_step=self._gap_onset_step,
        )

    def update(
        self,
        *,
        epoch: int,
        strength: Tensor,
        train_loss: float | None = None,
        test_loss: float | None = None,
        step: int | None = None,
    ) -> PhaseState:
        """Take in one measurement.

        Args:
            epoch: completed epochs; may stay the same but never falls.
            strength: (S, n) strength of the salient interactions per probe sample and order, the same
                samples each time. Samples with NaN are left out of comparisons with this measurement; a measurement
                with nothing salient says nothing of the phase.
            train_loss: mean loss on training samples, if known.
            test_loss: mean loss on test samples, if known.
            step: optimizer steps so far, if the onset is to be known by step too.

        Returns:
            What is known now.

        Raises:
            ValueError: if `epoch` falls, `strength` is not (S, n), or S is not that of the earlier
                measurements.
        """
        strength = torch.as_tensor(strength).detach().cpu().double()
        self._check(epoch, strength)
        self._last_epoch = epoch
        mean = float(mean_order(strength))
        if not math.isnan(mean):
            self._epochs.append(epoch)
            self._steps.append(step)
            self._order.append(mean, (mean + mean_order_influence(strength)).tolist())
            if self._watches_high_orders(strength.shape[-1]):
                share = high_order_share(strength)
                high = strength[:, first_high_order(strength.shape[-1]) - 1 :].sum(-1)
                self._high.append(share, (share + share_influence(high, strength.sum(-1))).tolist())
            self._advance_phase()
        losses = [float(loss) for loss in (train_loss, test_loss) if loss is not None and math.isfinite(loss)]
        if losses and not self._first_loss:
            self._first_loss = losses[0]
        if train_loss is not None and test_loss is not None and len(losses) == 2:
            self._gap_epochs.append(epoch)
            self._gap_steps.append(step)
            self._gaps.append(float(test_loss - train_loss))
            self._watch_gap()
        return self.state

    def forget_losses(self, first: float | None = None) -> None:
        """Watch the gap anew, between other losses from now on.

        Args:
            first: the loss before training of these, by which a rise is judged; None takes the first that comes.
        """
        self._gap_onset: tuple[int, int] | None = None
        self._gap_onset_step: int | None = None
        self._gap_epochs: list[int] = []
        self._gap_steps: list[int | None] = []
        self._gaps: list[float] = []
        self._first_loss = first or 0.0

    def _check(self, epoch: int, strength: Tensor) -> None:
        if self._last_epoch is not None and epoch < self._last_epoch:
            raise ValueError(f"epoch must not fall, but is {epoch} after {self._last_epoch}")
        if strength.ndim != 2 or 0 in strength.shape:
            raise ValueError(f"strength must be (samples, orders), but has shape {tuple(strength.shape)}")
        known = next(iter(self._order.linear.values()), None)
        if known is not None and len(known) != len(strength):
            raise ValueError(f"strength must keep its samples, but has {len(strength)} rows after {len(known)} before")

    def _watches_high_orders(self, n: int) -> bool:
        # States of the first versions know nothing of high orders; such a run goes on without them.
        return first_high_order(n) <= n and len(self._high.values) == len(self._order.values) - 1

    def _advance_phase(self) -> None:
        means = self._order.values
        if self._phase == "initial" and self._order.has_fallen(
            persistence=self.persistence, least=self.min_fall * (means[0] - 1), alpha=self.alpha
        ):
            self._phase = "one"
        watched = [curve for curve in (self._order, self._high) if len(curve.values) == len(means)]
        if self._phase == "one" and any(
            curve.has_risen(persistence=self.persistence, min_rise=self.min_rise, alpha=self.alpha / len(watched))
            for curve in watched
        ):
            turn = lowest(means[: -self.persistence])
            self._phase = "two"
            self._onset = (self._epochs[turn], self._epochs[-1])
            self._onset_steps = (self._steps[turn], self._steps[-1])
        for curve in watched:
            curve.forget(self.persistence)

    def _watch_gap(self) -> None:
        if self._gap_onset is not None:
            return
        scale = abs(self._first_loss)
        found = clear_rise(
            self._gap_epochs,
            self._gaps,
            least=self.min_gap_rise * scale,
            early=EARLY * scale,
            persistence=self.persistence,
            alpha=self.alpha,
        )
        if found is not None:
            self._gap_onset = (self._gap_epochs[found[1]], self._gap_epochs[-1])
            self._gap_onset_step = self._gap_steps[found[1]]

    def state_dict(self) -> dict[str, Any]:
        """Give all that has been seen as plain numbers, strings, lists and dicts."""
        order = self._order.state_dict()
        return {
            "phase": self._phase,
            "onset": list(self._onset) if self._onset else None,
            "onset_steps": list(self._onset_steps),
            "gap_onset": list(self._gap_onset) if self._gap_onset else None,
            "last_epoch": self._last_epoch,
            "epochs": list(self._epochs),
            "steps": list(self._steps),
            "means": order["values"],
            "linear": order["linear"],
            "high": self._high.state_dict(),
            "gap_onset_step": self._gap_onset_step,
            "gap_epochs": list(self._gap_epochs),
            "gap_steps": list(self._gap_steps),
            "gaps": list(self._gaps),
            "first_train_loss": self._first_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the tracker that gave `state` was; the arguments are this tracker's own.

        Args:
            state: what `state_dict` gave, of this version or an earlier one.
        """
        self._phase = state["phase"]
        self._onset = tuple(state["onset"]) if state["onset"] else None
        self._onset_steps = tuple(state.get("onset_steps", (None, None)))
        self._gap_onset = tuple(state["gap_onset"]) if state["gap_onset"] else None
        self._last_epoch = state["last_epoch"]
        self._epochs = list(state["epochs"])
        self._steps = list(state.get("steps", [None] * len(self._epochs)))
        self._order.load_state_dict({"values": state["means"], "linear": state["linear"]})
        self._high.load_state_dict(state.get("high", {"values": [], "linear": []}))
        self._gap_onset_step = state.get("gap_onset_step")
        self._gap_epochs = list(state["gap_epochs"])
        self._gap_steps = list(state.get("gap_steps", [None] * len(self._gap_epochs)))
        self._gaps = list(state["gaps"])
        self._first_loss = state["first_train_loss"]
