"""Where things were in a run: each measurement, the onset, the opening of the gap, and a few that stand for all.

Pictures, reports, tables and sentences all look these up here, so that they name the same measurement: by the step
where steps are known, since an epoch may have been measured many times.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interaction_monitor.history import History
from interaction_monitor.phases.loss_gap import gap_opening


@dataclass(frozen=True)
class Landmark:
    """Something that happened at one measurement of a run."""

    index: int | None  # which measurement of the history; None where it is not among them
    place: str  # "epoch 12", or "step 600" where an epoch was measured more than once


def by_step(history: History) -> bool:
    """Tell whether only steps tell the measurements apart, because an epoch was measured more than once."""
    return len(set(history.epochs.tolist())) < len(history)


def positions(history: History) -> tuple[NDArray[np.float64], str]:
    """Return where the measurements lie along the run, and what that axis counts.

    Returns:
        (E,) increasing positions and the axis label: epochs, or optimizer steps where an epoch was measured
        more than once.
    """
    if by_step(history):
        return history.steps.astype(np.float64), "optimizer step"
    return history.epochs.astype(np.float64), "epoch"


def places(history: History) -> list[str]:
    """Name where each measurement was taken: its epoch, or its step where an epoch was measured more than once."""
    values, unit = positions(history)
    return [f"{unit.removeprefix('optimizer ')} {value:.0f}" for value in values]


def find_onset(history: History) -> Landmark | None:
    """Return where phase two began; None where that is not known."""
    return _told(history, "onset", lowest="mean_order")


def find_detection(history: History) -> Landmark | None:
    """Return where it became known that phase two had begun; None where it is not."""
    return _told(history, "detected")


def find_gap_opening(history: History) -> Landmark | None:
    """Return from where on the loss gap rises; None where that is not known.

    That it does is decided during the run; where is read again from all measurements, since later ones say more.
    """
    told = _told(history, "gap_onset", lowest="loss_gap")
    if told is None:
        return None
    (values, _), losses = positions(history), shown_losses(history)
    found = gap_opening(list(zip(*(x.tolist() for x in (values, losses.train, losses.test)), strict=True)))
    if found is None:
        return told
    index = int(np.flatnonzero(values == found.epoch)[0])
    # What rose at once and then stayed has not risen by any later measurement.
    rises = np.nanmax(losses.gap[index + 1 :], initial=-np.inf) > losses.gap[index]
    return Landmark(index, places(history)[index]) if rises else told


EVALUATED = " in evaluation mode"  # of losses of the very network, on many samples


@dataclass(frozen=True)
class ShownLosses:
    """The losses that pictures, tables and sentences about a run are of: one pair for all of them."""

    train: NDArray[np.float64]  # (E,) NaN where not known
    test: NDArray[np.float64]  # (E,)
    of: str  # "" as the run logs them, `EVALUATED`, or " of the measured samples"

    @property
    def gap(self) -> NDArray[np.float64]:
        """(E,) test minus train loss."""
        return self.test - self.train

    @property
    def first(self) -> float:
        """The first loss that is known, of training if both are, by which a rise is judged; NaN if none is."""
        both = np.stack((self.train, self.test), axis=1).ravel()
        return float(next(iter(both[np.isfinite(both)]), np.nan))


def shown_losses(history: History) -> ShownLosses:
    """Return the losses of the network as it was at each measurement, or those that the run logs.

    Both of the very network, in evaluation mode, where they are known on many samples: a logged training loss lags
    behind. Else those that the run logs, and where it logs none from the start, those of the few measured samples.
    """
    logged = history.column("train_loss"), history.column("test_loss")
    evaluated = history.column("evaluated_train_loss"), history.column("evaluated_test_loss")
    many = np.array([row.evaluated_on_many for row in history], dtype=bool)
    if many.any():  # and never of two kinds in one curve
        before = history.steps == 0  # training, where no training sample is known
        train, test = np.where(many, evaluated[0], np.nan), np.where(many | before, evaluated[1], np.nan)
        return ShownLosses(train, test, EVALUATED)
    logs_none = len(history) > 1 and not np.isfinite(logged[1] - logged[0])[1]
    if logs_none and np.isfinite(evaluated[1] - evaluated[0]).any():
        return ShownLosses(*evaluated, " of the measured samples")
    return ShownLosses(*logged, "")


def top_of_losses(history: History) -> float | None:
    """Return where an axis of losses ends, if a loss before training would flatten all others; None if not.

    It would where it is ten times as high as all that come after: 23 before the first epoch and 0.3 after it.
    """
    losses = shown_losses(history)
    higher = np.fmax(losses.train, losses.test)
    after = float(np.nanmax(higher[1:], initial=-np.inf))
    return 1.1 * after if higher[:1] > 10 * after > 0 else None


def ends_of_gap(history: History) -> tuple[float, float] | tuple[None, None]:
    """Return between what an axis of the loss gap lies, if the first gap that is known would flatten all others.

    It would where it is five times as large as all that come after, whose rise would have a fifth of the axis.
    """
    gaps = shown_losses(history).gap
    first, after = np.split(gaps[np.isfinite(gaps)], [1])
    if not (first.size and abs(first[0]) > 5 * np.abs(after).max(initial=0) > 0):
        return None, None
    low, high = float(after.min(initial=0)), float(after.max(initial=0))
    room = 0.2 * (high - low)  # the first stands there as a number
    return low - room, high + room


def lowest_test_loss(history: History) -> int | None:
    """Return at which measurement the test loss was lowest; None where none is known.

    The logged one, of all validation samples, where there is any.
    """
    for values in (history.column("test_loss"), shown_losses(history).test):
        if np.isfinite(values).any():
            return int(np.nanargmin(values))
    return None


def rises_below_zero(history: History) -> bool:
    """Tell whether the loss gap begins to rise where the test loss still lies below the training loss.

    So it is where training labels are wrong or the training loss is that of a network with dropout: the gap then
    opens later than it begins to rise.
    """
    opening, crossing = find_gap_opening(history), find_gap_crossing(history)
    if opening is None or opening.index is None:
        return False
    gaps = shown_losses(history).gap[opening.index :]
    # One measurement is as near as the crossing can be told; a gap that comes up to zero and stays there is not open.
    crosses_soon = crossing is not None and crossing.index is not None and crossing.index <= opening.index + 1
    return bool(gaps[0] < 0 and not (crosses_soon and np.nanmax(gaps) > -gaps[0]))


def find_gap_crossing(history: History) -> Landmark | None:
    """Return from where on the test loss lies above the training loss to the end; None where it never lay below it."""
    gap = shown_losses(history).gap
    known = np.flatnonzero(np.isfinite(gap))
    last_below = max(np.flatnonzero(~(gap[known] > 0)).tolist(), default=len(known))
    if last_below + 1 >= len(known):
        return None
    index = int(known[last_below + 1])
    return Landmark(index, places(history)[index])


def told_phases(history: History) -> list[str | None]:
    """Tell the phase of each measurement as it is known at the last one, not as it was known then.

    Returns:
        "one" before the onset of phase two and "two" from it on; None where that is not decided yet. While phase two
        is not known, whatever comes before the lowest mean order is phase one, since the onset can only lie later.
    """
    turn = onset_index(history)
    after = None if turn is None else "two"
    if turn is None:
        turn = lowest_index(history) if len(history) and history[-1].phase == "one" else 0
    return ["one" if index < turn else after for index in range(len(history))]


def lowest_index(history: History) -> int:
    """Return which measurement has the lowest mean order; the first where none has any."""
    orders = history.column("mean_order")
    return 0 if np.isnan(orders).all() else int(np.nanargmin(orders))


def find_overfitting(history: History) -> Landmark | None:
    """Return from where the network over-fits; None where that is not known."""
    return _told(history, "overfitting")


def onset_index(history: History) -> int | None:
    """Return which measurement the onset of phase two is; None where it is not known, or not in the history."""
    found = find_onset(history)
    return None if found is None else found.index


def _told(history: History, event: str, *, lowest: str | None = None) -> Landmark | None:
    """Find the measurement at which the last row says that something happened.

    Where the step is not known, as in what earlier versions wrote, it is that one of the epoch's measurements which is
    lowest in a column, as onsets are, or the first.
    """
    epoch, step = (getattr(history[-1], f"{event}_{of}") if len(history) else None for of in ("epoch", "step"))
    if epoch is None:
        return None
    here = history.epochs == epoch if step is None else (history.epochs == epoch) & (history.steps == step)
    found = np.flatnonzero(here)
    index = None
    if len(found):
        values = np.full(len(found), np.nan) if lowest is None else history.column(lowest)[found]
        index = int(found[0] if np.isnan(values).all() else found[np.nanargmin(values)])
        step = history[index].step
    return Landmark(index, f"step {step}" if by_step(history) and step is not None else f"epoch {epoch}")


def representative_measurements(history: History, n_columns: int = 6) -> list[int]:
    """Choose the measurements that tell a run's story: start, phase one, the onset, and later ones.

    With fewer measurements than columns all are taken. While no onset is known the lowest mean order so far
    stands in its place, and whatever comes after it is spread evenly.

    Args:
        history: The run so far.
        n_columns: How many measurements to choose at most; the paper's Figure 2 has six.

    Returns:
        Increasing indices into the history.
    """
    n = len(history)
    if n <= n_columns:
        return list(range(n))
    orders, onset = history.column("mean_order"), onset_index(history)
    turn = lowest_index(history) if onset is None else onset
    chosen = {0, turn, n - 1}
    if turn > 1 and len(chosen) < n_columns:
        # Phase one is a steep fall, so its middle is a middle in height, not in time.
        halfway = np.abs(orders[1:turn] - (orders[0] + orders[turn]) / 2)
        chosen.add(1 if np.isnan(halfway).all() else 1 + int(np.nanargmin(halfway)))
    later = np.linspace(turn, n - 1, n_columns - len(chosen) + 2).round().astype(int)[1:-1]
    chosen.update(later.tolist())
    # A late onset leaves no room after it; the widest stretches without a column get the rest.
    while len(chosen) < n_columns:
        left, right = max(itertools.pairwise(sorted(chosen)), key=lambda pair: pair[1] - pair[0])
        chosen.add((left + right) // 2)
    return sorted(chosen)


def phase_turn(history: History) -> tuple[float | None, bool]:
    """Return where phase one ends, and whether phase two is known to begin there.

    While it is not, phase one is decided up to the lowest mean order; None where not even that is known.
    """
    if history[-1].phase == "initial":
        return None, False
    onset = onset_index(history)
    return float(positions(history)[0][lowest_index(history) if onset is None else onset]), onset is not None


class Mark(NamedTuple):
    """A landmark as charts over the run show it."""

    kind: Literal["onset", "gap", "over-fitting"]
    at: int  # which measurement
    name: str  # with its place, "onset of phase two (epoch 12)"


def marks(history: History) -> list[Mark]:
    """List the landmarks that are among the measurements: the onset, what the loss gap does, and over-fitting."""
    gap = "loss gap rises" if rises_below_zero(history) else "loss gap opens"
    found: tuple[tuple[Literal["onset", "gap", "over-fitting"], Landmark | None, str], ...] = (
        ("onset", find_onset(history), "onset of phase two"),
        ("gap", find_gap_opening(history), gap),
        ("over-fitting", find_overfitting(history), "over-fitting begins"),
    )
    return [
        Mark(kind, landmark.index, f"{name} ({landmark.place})")
        for kind, landmark, name in found
        if landmark is not None and landmark.index is not None
    ]
