"""What following a stop rule would have cost each run, beside early stopping and the best epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gallery.detection import Detected
from gallery.stored import Stored
from interaction_monitor.stopping import HighOrderGrowth, HighOrdersAndGap, OnsetPatience, StopRule, TransferLoss


@dataclass(frozen=True)
class Stop:
    """Where a rule stops a run, and what that costs."""

    epoch: int
    regret: float  # best test accuracy of the whole run minus that at the stop, in percentage points
    used: float  # share of the run's epochs


Way = Callable[[Detected], Stop]


def stop_at(stored: Stored, epoch: int) -> Stop:
    """Give the cost of stopping at an epoch."""
    accuracy = stored.curves["test_accuracy"]
    return Stop(epoch, 100 * float(accuracy.max() - accuracy[epoch]), epoch / stored.n_epochs)


def by_rule(rule: StopRule) -> Way:
    """Stop after the measurement at which a rule first says so, or at the end."""

    def stop(run: Detected) -> Stop:
        index = rule.first_stop(run.history)
        return stop_at(run.stored, run.stored.n_epochs if index is None else int(run.stored.epochs[index]))

    return stop


def by_validation_loss(patience: int, *, restore: bool = False) -> Way:
    """Stop when the validation loss has not become lower for so many epochs, as plain early stopping does.

    Args:
        patience: epochs.
        restore: whether to go back to the weights with the lowest validation loss.
    """

    def stop(run: Detected) -> Stop:
        stored = run.stored
        loss = stored.curves["val_loss"]
        best = np.fmin.accumulate(loss)
        waited = np.array([epoch - int(np.argmin(loss[: epoch + 1])) for epoch in range(len(best))])
        due = np.flatnonzero(waited >= patience)
        end = int(due[0]) if len(due) else stored.n_epochs
        at = stop_at(stored, int(np.argmin(loss[: end + 1])) if restore else end)
        return Stop(end, at.regret, end / stored.n_epochs)

    return stop


def by_noise_level(below: float) -> Way:
    """Stop where σ̂² of the theory first falls below a level after the lowest ⟨k⟩: only known after the run."""

    def stop(run: Detected) -> Stop:
        stored = run.stored
        if "and-or" not in stored.theory:
            return stop_at(stored, stored.n_epochs)
        sigma2 = stored.theory["and-or"].sigma2
        turn = int(np.nanargmin(run.history.column("mean_order")))
        found = [i for i in range(turn, len(sigma2)) if sigma2[i] < below]
        return stop_at(stored, int(stored.epochs[found[0]]) if found else stored.n_epochs)

    return stop


RULES: Mapping[str, Way] = {
    "to the end": lambda run: stop_at(run.stored, run.stored.n_epochs),
    **{f"validation loss, patience {p}": by_validation_loss(p) for p in (5, 10)},
    **{f"the same, best weights back, {p}": by_validation_loss(p, restore=True) for p in (5, 10)},
    **{f"OnsetPatience({p})": by_rule(OnsetPatience(p)) for p in (0, 5, 10)},
    **{f"HighOrderGrowth({r})": by_rule(HighOrderGrowth(r)) for r in (0.1, 0.3, 0.5)},
    **{
        f"HighOrdersAndGap({r}, {g})": by_rule(HighOrdersAndGap(r, g))
        for r, g in ((0.0, 0.05), (0.1, 0.05), (0.2, 0.05), (0.1, 0.02), (0.1, 0.1))
    },
    **{f"HighOrdersAndGap(0.1, 0.05, patience={p})": by_rule(HighOrdersAndGap(0.1, 0.05, patience=p)) for p in (0, 4)},
    **{f"TransferLoss({s})": by_rule(TransferLoss(s)) for s in (0.05, 0.1, 0.2)},
    **{f"σ̂² below {s:g} (hindsight)": by_noise_level(s) for s in (1e-3, 1e-4)},
}


def learning(runs: list[Detected]) -> list[Detected]:
    """Leave out runs that never learn or have only wrong labels: no epoch of theirs is better than another."""
    kept = [run for run in runs if run.stored.run.expectation != "never learns"]
    return [run for run in kept if run.stored.run.wrong_labels < 1]
