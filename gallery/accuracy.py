"""What fewer samples, measurements or players, or a schedule, would have told of the same runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gallery.detection import Detected
from gallery.replay import fewer_measurements, fewer_samples, only, replay
from gallery.stored import Stored
from interaction_monitor.schedule import DEFAULT, DEFAULT_SHARE, DEFAULT_SPARED, Budget, Every, LogSpaced, Schedule


@dataclass(frozen=True)
class Cost:
    """How runs with less measuring compare with all that was measured; medians over the runs."""

    found: int  # onsets that were known by the end
    runs: int  # of so many
    moved: float  # |difference of the onset| in epochs, as a share of the run
    delay: float  # epochs from the onset to where it was known, as a share of the run
    order: float  # |difference of ⟨k⟩|, in orders, over all measurements
    width: float  # of the 95% interval of ⟨k⟩, in orders


def compare(runs: Sequence[Detected], changed: Sequence[Stored]) -> Cost:
    """Lay runs that were measured less beside the same in full.

    Args:
        runs: in full; only those with a clear onset that was found count.
        changed: the same, with less; several to one are named one after the other. Those of no run in full are left
            out.

    Returns:
        The comparison.
    """
    full = {run.stored.run.name: run for run in runs}
    moved, delay, order, width, found, total = [], [], [], [], 0, 0
    for stored in changed:
        whole = full.get(stored.run.name)
        if whole is None or whole.known is None or whole.onset is None:
            continue
        total += 1
        history = replay(stored)
        last = history[-1]
        common = [i for i, epoch in enumerate(whole.stored.epochs) if epoch in stored.epochs]
        order.append(np.mean(np.abs(history.column("mean_order") - whole.history.column("mean_order")[common])))
        width.append(np.nanmean(history.column("mean_order_high") - history.column("mean_order_low")))
        if last.onset_epoch is not None and last.detected_epoch is not None:
            found += 1
            moved.append(abs(last.onset_epoch - whole.stored.epochs[whole.onset]) / stored.n_epochs)
            delay.append((last.detected_epoch - whole.stored.epochs[whole.onset]) / stored.n_epochs)
    values = (float(np.median(x)) if x else float("nan") for x in (moved, delay, order, width))
    return Cost(found, total, *values)


def with_samples(runs: Sequence[Detected], samples: int, *, draws: int = 4, seed: int = 0) -> Cost:
    """Compare with so many of the samples, drawn some times."""
    generator = np.random.default_rng(seed)
    changed = [
        fewer_samples(stored, np.sort(generator.permutation(stored.strength["and-or"].shape[1])[:samples]))
        for stored in (run.stored for run in runs)
        if stored.strength["and-or"].shape[1] >= samples
        for _ in range(draws if samples < stored.strength["and-or"].shape[1] else 1)
    ]
    return compare(runs, changed)


def with_every(runs: Sequence[Detected], every: int) -> Cost:
    """Compare with every so many of the measurements."""
    return compare(runs, [fewer_measurements(run.stored, every) for run in runs])


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
