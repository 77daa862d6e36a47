"""When to stop a run, as small named rules over its history.

A rule looks at nothing but the rows of a history, so what it would have done to a finished run is known by replaying
it. How rules compare with early stopping on real runs is told in the documentation's gallery and on generalizing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from interaction_monitor._checks import require_counts, require_no_less_than_zero
from interaction_monitor.history import History
from interaction_monitor.history.landmarks import lowest_test_loss, shown_losses


class StopRule(ABC):
    """Decides from the rows so far whether a run has gone far enough.

    Attributes:
        needs_train_samples: whether the rule can only stop runs that measure training samples too.
        needs_reference: whether the rule can only stop runs that are laid beside references.
        needs_losses: whether the rule can only stop runs whose training and validation loss are known.
    """

    needs_train_samples: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False

    @abstractmethod
    def reason(self, history: History) -> str | None:
        """Say why the run should stop now; None while it should go on.

        Args:
            history: the measurements so far.

        Returns:
            The reason, as it goes on after "stopping the run, because".
        """

    def should_stop(self, history: History) -> bool:
        """Tell whether the run should stop now."""
        return self.sentence(history) is not None

    def sentence(self, history: History) -> str | None:
        """Give the reason as text: a rule that answers by yes or no is named instead.

        Args:
            history: the measurements so far.
        """
        reason: object = self.reason(history)
        if reason is None or reason is False:
            return None
        return reason if isinstance(reason, str) and reason else repr(self)

    def first_stop(self, history: History) -> int | None:
        """Replay a history: give the index of the measurement after which the rule would have stopped the run.

        Args:
            history: a finished run.

        Returns:
            The index; None if the rule would have let the run go on to its end.
        """
        return next((i for i in range(len(history)) if self.should_stop(history[: i + 1])), None)


@dataclass(frozen=True)
class OnsetPatience(StopRule):
    """Stop so many measurements after phase two is known to have begun.

    Test accuracy mostly still rises then: in the gallery no fixed number of measurements does well on all runs.

    Attributes:
        measurements: how many to go on after that.

    Raises:
        ValueError: if it is negative or not a whole number.

    Examples:
        >>> OnsetPatience(measurements=10)
        OnsetPatience(measurements=10)
    """

    measurements: int = 0

    def __post_init__(self) -> None:
        require_counts(0, measurements=self.measurements)

    def reason(self, history: History) -> str | None:
        """Say why, as `StopRule.reason`."""
        waited = sum(row.detected_epoch is not None for row in history) - 1
        if waited < self.measurements:
            return None
        return f"phase two has been known for {waited} measurements"


@dataclass(frozen=True)
class HighOrderGrowth(StopRule):
    """Stop when high orders have come back, whatever the losses do.

    The share of the strength in high orders (k > n/3) falls in phase one and rises in phase two. A clean run encodes
    high orders too, and they do it no harm: this rule stops such runs too early.

    Attributes:
        regained: the part of what the share lost that must be back.
        measurements: how many in a row must show it.

    Raises:
        ValueError: if a number is out of range.
    """

    regained: float = 0.3
    measurements: int = 2

    def __post_init__(self) -> None:
        _check(measurements=self.measurements, regained=self.regained)

    def reason(self, history: History) -> str | None:
        """Say why, as `StopRule.reason`."""
        share = history.column("high_order_share")
        if not _lasting(_regained(share) >= self.regained, self.measurements):
            return None
        return f"high orders hold {share[-1]:.1%} of the strength again, after {np.nanmin(share):.1%}"


@dataclass(frozen=True)
class HighOrdersAndGap(StopRule):
    """Stop when high orders have come back, the loss gap has opened and the test loss no longer falls.

    The one that `stop_on_onset=True` means, as it lost the least test accuracy on the gallery's runs. It needs the
    training and the validation loss, and never stops a run that does not log both.

    Attributes:
        regained: the part of what the share of high orders lost that must be back.
        gap: by how much test loss minus train loss must lie above its lowest, as a part of the first train loss.
        measurements: how many in a row must show both.
        patience: how many measurements ago the test loss must have been lowest, at least. In a clean run high
            orders and gap grow while the network still learns.

    Raises:
        ValueError: if a number is out of range.
    """

    needs_losses: ClassVar[bool] = True
    regained: float = 0.1
    gap: float = 0.05
    measurements: int = 2
    patience: int = 2

    def __post_init__(self) -> None:
        _check(measurements=self.measurements, regained=self.regained, gap=self.gap)
        require_counts(0, patience=self.patience)

    def reason(self, history: History) -> str | None:
        """Say why, as `StopRule.reason`."""
        high = _regained(history.column("high_order_share")) >= self.regained
        losses, lowest = shown_losses(history), lowest_test_loss(history)
        gap = losses.gap
        opened = _above_lowest(gap) >= self.gap * abs(losses.first)
        if lowest is None or not _lasting(high & opened, self.measurements):
            return None
        waited = len(history) - 1 - lowest
        if waited < self.patience:
            return None
        return (
            f"high orders hold {history[-1].high_order_share:.1%} of the strength again, the loss gap has opened "
            f"from {np.nanmin(gap):+.3f} to {gap[-1]:+.3f}, and the test loss was lowest {waited} measurements ago"
        )


@dataclass(frozen=True)
class TransferLoss(StopRule):
    """Stop when what high orders add to the output on training samples is missing on others.

    It needs training samples beside the others, `InteractionMonitor(n_train_samples=...)`.

    Attributes:
        share: how much more they must add on training samples, as a part of the change of the output.
        measurements: how many in a row must show it.

    Raises:
        ValueError: if a number is out of range.
    """

    needs_train_samples: ClassVar[bool] = True
    share: float = 0.2
    measurements: int = 2

    def __post_init__(self) -> None:
        _check(measurements=self.measurements, share=self.share)

    def reason(self, history: History) -> str | None:
        """Say why, as `StopRule.reason`."""
        missing = history.column("high_order_gap") / history.column("output_change")
        if not _lasting(missing >= self.share, self.measurements):
            return None
        return f"high orders add {missing[-1]:.1%} of the output's change on training samples that others lack"


@dataclass(frozen=True)
class GeneralizingShare(StopRule):
    """Stop when less and less of what the network encodes is found in references trained on other samples.

    The share of the strength that some reference has too stays level, or rises, while learning is healthy, and sinks
    from where over-fitting begins. Nothing stops before it has risen above its first: two untrained networks may share
    more than they do a few epochs later.

    Attributes:
        drop: by how much the share must lie below its highest so far, as a part of that.
        measurements: how many in a row must show it.

    Raises:
        ValueError: if a number is out of range.

    Examples:
        >>> GeneralizingShare()
        GeneralizingShare(drop=0.15, measurements=3)
    """

    needs_reference: ClassVar[bool] = True
    drop: float = 0.15
    measurements: int = 3

    def __post_init__(self) -> None:
        _check(measurements=self.measurements, drop=self.drop)
        if self.drop > 1:
            raise ValueError(f"drop must be at most 1, but is {self.drop}; 0.15 is 15% of the highest share")

    def reason(self, history: History) -> str | None:
        """Say why, as `StopRule.reason`."""
        share = history.column("generalizing_share")
        highest = np.fmax.accumulate(share)
        known = np.isfinite(share)
        sunk = share[known] <= (1 - self.drop) * highest[known]
        # A measurement without a share says nothing either way.
        if not (known[-1:].any() and _lasting(sunk & (highest[known] > share[known][0]), self.measurements)):
            return None
        return (
            f"of what the network encodes {share[-1]:.0%} generalizes, after {highest[-1]:.0%} at epoch "
            f"{history[int(np.nanargmax(share))].epoch}"
        )


@dataclass(frozen=True)
class OverfittingKnown(StopRule):
    """Stop so many measurements after over-fitting is known to have begun.

    It needs no validation sample beside `reference.Twins`, and lost 2.0 points of test accuracy in the mean of 39 new
    runs where training to the end lost 3.0, `GeneralizingShare` 3.3 and patience on the validation loss 2.0, or 1.1
    with the best weights back.

    Attributes:
        measurements: how many to go on after that.

    Raises:
        ValueError: if it is negative or not a whole number.

    Examples:
        >>> OverfittingKnown()
        OverfittingKnown(measurements=0)
    """

    needs_reference: ClassVar[bool] = True
    measurements: int = 0

    def __post_init__(self) -> None:
        require_counts(0, measurements=self.measurements)

    def reason(self, history: History) -> str | None:
        """Say why, as `StopRule.reason`."""
        waited = sum(row.overfitting_detected_epoch is not None for row in history) - 1
        if waited < self.measurements:
            return None
        return f"the run is known to over-fit since epoch {history[-1].overfitting_epoch}"


def _check(*, measurements: int, **shares: float) -> None:
    require_counts(1, measurements=measurements)
    require_no_less_than_zero(**shares)


def _above_lowest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give how far each value lies above the lowest one up to it; NaN where it is not known."""
    return values - np.fmin.accumulate(values)


def _regained(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the part of the share's fall that is undone at each measurement; 0 where nothing has fallen."""
    known = share[np.isfinite(share)]
    fall = (known[0] if len(known) else np.nan) - np.fmin.accumulate(share)
    return np.divide(_above_lowest(share), fall, out=np.zeros_like(share), where=fall > 0)


def _lasting(holds: NDArray[np.bool_], measurements: int) -> bool:
    return len(holds) >= measurements and bool(holds[-measurements:].all())
