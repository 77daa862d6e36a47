"""Other statistics of over-fitting than those that `OverfittingTracker` watches, as far as what is stored tells them.

``python -m gallery.other_statistics`` prints how many onsets each finds, truly and falsely, and how late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from gallery.references import CHOOSING, FRESH, LATER, Stored, load, onset, overfits, shares, unseen, with_seeds
from interaction_monitor.phases import LEARNING
from interaction_monitor.phases.change_tests import leaves_jitter, lowest


def with_mean(run: Stored) -> Stored:
    """Add the strength that each twin has, in the mean of the two, as one more kind of references."""
    return {**run, "twins_mean": (run["twins_both"] + run["twins_one"]) / 2}


def discounted_onset(run: Stored, *, least: float = 0.1) -> int | None:
    """Give the epoch at which the twins' loss divided by 1 + their share is known to rise; None where it is not.

    Args:
        run: the run.
        least: the least rise, as a part of the lowest.
    """
    losses, share = unseen(run)[1:], shares(run, "twins_both")[1:]
    values = [float(np.log(loss) - np.log1p(part)) for loss, part in zip(losses, share, strict=True) if loss]
    for end in range(LEARNING - 1, len(values) + 1):
        seen = values[:end]
        turn = lowest(seen[:-2])
        rises = all(value - seen[turn] >= np.log1p(least) for value in seen[-2:])
        if rises and leaves_jitter(seen, turn, persistence=2, alpha=0.05):
            return int(run["epochs"][end])
    return None


STATISTICS: Mapping[str, Callable[[Stored], int | None]] = {
    "share, both twins": lambda run: onset(run, "twins_both")[1],
    "share, mean of the twins": lambda run: onset(with_mean(run), "twins_mean")[1],
    "share, both twins, and loss": lambda run: onset(run, "twins_both", with_loss=True)[1],
    "share, mean of the twins, and loss": lambda run: onset(with_mean(run), "twins_mean", with_loss=True)[1],
    "loss / (1 + share)": discounted_onset,
}


def rows(groups: Sequence[Mapping[str, Stored]]) -> Iterator[str]:
    """Give a line for each statistic: false, found and the median lag from the lowest validation loss, of each group.

    Args:
        groups: runs that have the twins' loss, by name.
    """
    for name, statistic in STATISTICS.items():
        cells = []
        for runs in groups:
            known = {run: statistic(stored) for run, stored in runs.items()}
            over = [run for run in runs if overfits(runs[run])]
            false = [run for run in runs if run not in over and known[run] is not None]
            lags = [at - int(runs[run]["val_loss"].argmin()) for run in over if (at := known[run]) is not None]
            lag = f"{np.median(lags):.0f}" if lags else "-"
            cells += [f"{len(false)} of {len(runs) - len(over)}", f"{len(lags)} of {len(over)}", lag]
        yield f"{name} | {' | '.join(cells)}"


def groups() -> list[dict[str, Stored]]:
    """Give the stored runs that have the twins' loss: those to choose on, the new and the later ones."""
    known = {name: run for name, run in load().items() if "cross_loss" in run}
    return [with_seeds(known, seeds) for seeds in (CHOOSING, FRESH, LATER)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("\n".join(rows(groups())))
