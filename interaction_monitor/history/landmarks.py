"""Which measurements of a run are which: where each lies, which is the onset, and which tell the story."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from interaction_monitor.history import History


def positions(history: History) -> tuple[NDArray[np.float64], str]:
    """Return where the measurements lie along the run, and what that axis counts.

    Returns:
        (E,) increasing positions and the axis label: epochs, or optimizer steps where an epoch was measured
        more than once.
    """
    if len(set(history.epochs.tolist())) == len(history):
        return history.epochs.astype(np.float64), "epoch"
    return history.steps.astype(np.float64), "optimizer step"


def index_of_epoch(history: History, epoch: int | None) -> int | None:
    """Return which measurement an epoch of the history means; of several, the one of lowest mean order.

    Returns:
        Its index, or None where the epoch is None or was not measured.
    """
    found = np.flatnonzero(history.epochs == epoch) if epoch is not None else np.array([], dtype=np.int64)
    if not len(found):
        return None
    orders = history.column("mean_order")[found]
    return int(found[0] if np.isnan(orders).all() else found[np.nanargmin(orders)])


def onset_index(history: History) -> int | None:
    """Return which measurement the onset of phase two is, as far as the history knows."""
    return index_of_epoch(history, history[-1].onset_epoch) if len(history) else None


def telling_columns(history: History, n_columns: int = 6) -> list[int]:
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
    orders = history.column("mean_order")
    turn = onset_index(history)
    if turn is None:
        turn = 0 if np.isnan(orders).all() else int(np.nanargmin(orders))
    chosen = {0, turn, n - 1}
    if turn > 1 and len(chosen) < n_columns:
        # Phase one is a steep fall, so its middle is a middle in height, not in time.
        halfway = np.abs(orders[1:turn] - (orders[0] + orders[turn]) / 2)
        chosen.add(1 if np.isnan(halfway).all() else 1 + int(np.nanargmin(halfway)))
    later = np.linspace(turn, n - 1, n_columns - len(chosen) + 2).round().astype(int)[1:-1]
    chosen.update(later.tolist())
    # A late onset leaves no room after it; the widest stretches without a column get the rest.
    while len(chosen) < n_columns:
        taken = sorted(chosen)
        left, right = max(itertools.pairwise(taken), key=lambda pair: pair[1] - pair[0])
        chosen.add((left + right) // 2)
    return sorted(chosen)
