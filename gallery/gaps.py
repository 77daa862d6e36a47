"""Three ways to read where the loss gap opens, and how closely each follows the onset of phase two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gallery.detection import Detected
from interaction_monitor.plots.theory_text import rank_correlation

Reading = Callable[[Detected], float | None]  # the epoch at which the gap opens; None where it does not


def leaves_its_lowest(run: Detected, *, share: float = 0.01) -> float | None:
    """Give the last measured epoch at which the gap lay close to the lowest so far.

    Args:
        run: the run.
        share: how close, as a part of the first train loss.
    """
    if run.gap is None:
        return None
    gap = run.history.column("loss_gap")
    close = gap - np.minimum.accumulate(gap) < share * run.history[0].train_loss  # type: ignore[operator]  # all log it
    last = int(np.flatnonzero(close)[-1])
    return None if last == len(gap) - 1 else float(run.stored.epochs[last])


READINGS: Mapping[str, Reading] = {
    "where the gap is lowest": lambda run: run.gap_lowest,
    "where it leaves its lowest by 1% of the first train loss, for good": leaves_its_lowest,
    "the change point: first flat or falling, then rising": lambda run: None if run.gap is None else run.gap.epoch,
}


@dataclass(frozen=True)
class Correlation:
    """How closely one reading follows the onset, over the runs that have both."""

    places: tuple[tuple[float, float], ...]  # of onset and opening, as parts of the run
    lags: tuple[int, ...]  # epochs from the onset to the opening

    @property
    def value(self) -> float:
        """Spearman's rank correlation of the places; NaN for fewer than three runs."""
        return rank_correlation([onset for onset, _ in self.places], [opening for _, opening in self.places])


def correlation(runs: Sequence[Detected], reading: Reading) -> Correlation:
    """Lay the opening of the gap beside the onset.

    Args:
        runs: those without a true onset, or whose gap does not open, are left out.
        reading: of the opening.

    Returns:
        Places and lags.
    """
    known = [(run.stored.n_epochs, run.onset_epoch, reading(run)) for run in runs]
    both = [(epochs, onset, opening) for epochs, onset, opening in known if onset is not None and opening is not None]
    return Correlation(
        tuple((onset / epochs, opening / epochs) for epochs, onset, opening in both),
        tuple(int(opening - onset) for _, onset, opening in both),
    )
