"""What schedules would have told of the same runs, at which cost: the onset found, its delay, and the measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gallery.accuracy import compare
from gallery.detection import Detected
from gallery.replay import only
from interaction_monitor.schedule import DEFAULT, DEFAULT_SHARE, DEFAULT_SPARED, Budget, Every, LogSpaced, Schedule


@dataclass(frozen=True)
class Told:
    """What runs that are measured by a schedule tell; medians over the runs."""

    found: int  # onsets that were known by the end
    runs: int  # of so many
    moved: float  # |difference of the onset|, as a share of the run
    delay: float  # from the onset to where it was known, as a share of the run
    measurements: float
    share: float  # time of measuring per time of training


def kept(length: int, schedule: Schedule, *, most: float | None, spared: int, cost: float) -> list[int]:
    """Give the measurements that a schedule and a budget leave of a run that was measured after each epoch.

    Args:
        length: epochs of the run.
        schedule: tells after which epochs to measure.
        most: the largest share of the training time that measuring may take; None allows any.
        spared: how many measurements are taken whatever they cost.
        cost: how long a measurement takes, in epochs of training.

    Returns:
        The epochs; the first network and the last are among them.
    """
    clock = [0.0]
    budget = Budget(most, spared=spared, clock=lambda: clock[0])
    budget.start()
    chosen = []
    for epoch in range(length + 1):
        clock[0] += epoch > 0
        if epoch in (0, length) or (schedule(epoch) and budget.allows_another()):
            with budget.measuring():
                clock[0] += cost
            chosen.append(epoch)
    return chosen


def told(
    runs: Sequence[Detected], schedule: Schedule, *, most: float | None = None, spared: int = 0, cost: float = 1.0
) -> Told:
    """Lay runs that are measured by a schedule beside the same in full.

    What lies between two stored measurements of a run stands for an epoch.

    Args:
        runs: in full; only those with a clear onset that was found count.
        schedule: as in `kept`, as are the others.
        most: of the budget.
        spared: of the budget.
        cost: of a measurement.

    Returns:
        The comparison.
    """
    chosen = {
        run.stored.run.name: kept(len(run.stored.epochs) - 1, schedule, most=most, spared=spared, cost=cost)
        for run in runs
    }
    found = compare(runs, [only(run.stored, chosen[run.stored.run.name]) for run in runs])
    counts = [len(chosen[run.stored.run.name]) for run in runs]
    shares = [cost * count / (len(run.stored.epochs) - 1) for count, run in zip(counts, runs, strict=True)]
    return Told(found.found, found.runs, found.moved, found.delay, float(np.median(counts)), float(np.median(shares)))


# What each is called in the table: the schedule, and the share and the number of measurements that the budget spares.
SCHEDULES: dict[str, tuple[Schedule, float | None, int]] = {
    "each epoch": (Every(1), None, 0),
    "every 2. epoch": (Every(2), None, 0),
    "every 3. epoch": (Every(3), None, 0),
    "LogSpaced(3)": (LogSpaced(3), None, 0),
    "LogSpaced(4)": (LogSpaced(4), None, 0),
    "LogSpaced(6)": (LogSpaced(6), None, 0),
    "each epoch, budget 1": (Every(1), 1.0, 1),
    "each epoch, budget 1, 12 spared": (Every(1), 1.0, 12),
    "LogSpaced(4), budget 1, 12 spared": (LogSpaced(4), 1.0, 12),
    "the default: LogSpaced(4), budget 1, 20 spared": (DEFAULT, DEFAULT_SHARE, DEFAULT_SPARED),
}
