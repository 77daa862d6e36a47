"""What fewer samples, measurements or players would have told of the same runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gallery.detection import Detected
from gallery.replay import fewer_measurements, fewer_samples, replay
from gallery.stored import Stored


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
