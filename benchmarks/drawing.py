"""How long the pictures of a run take, one by one: drawn and turned to pixels, as TensorBoard gets them.

A run of 31 measurements over ten orders, as long as the demo's. Processor time of the fastest of five, since pictures
are drawn by one thread and other programs on the machine should not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from interaction_monitor.history import History, Row
from interaction_monitor.plots import run_figures

N_PLAYERS = 10


def run_like_the_demos() -> History:
    """A fall and a rise of the mean order, with losses and what persists."""
    orders = np.arange(1, N_PLAYERS + 1)
    rows = []
    for index in range(31):
        mean = 1.3 + 2.0 * np.exp(-index) + 0.05 * index
        shares = np.exp(-((orders - mean) ** 2) / (0.5 * mean) ** 2)
        shares *= N_PLAYERS / shares.sum()
        rows.append(
            Row(
                epoch=2 * index, step=32 * index, distribution=tuple(shares), strength=tuple(2 * shares),
                mean_order=mean, mean_order_low=mean - 0.1, mean_order_high=mean + 0.1, high_order_share=0.1,
                n_salient=20.0, tau=0.1, output_change=3.0, solver_gap=0.005, seconds=1.0, n_valid=30,
                phase="two" if index > 8 else "one", onset_epoch=4 if index > 8 else None,
                detected_epoch=18 if index > 8 else None, gap_onset_epoch=20 if index > 12 else None,
                train_loss=2.3 * np.exp(-index / 8), test_loss=2.3 * np.exp(-index / 8) + 0.01 * max(0, index - 10),
                persisted=tuple(shares), vanished=tuple(0.5 * shares), effect=tuple(0.5 * shares),
            )
        )  # fmt: skip
    return History(rows)


def seconds(make: Callable[[History], Figure], history: History, repeats: int = 5) -> float:
    """Processor time of one picture."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        run_figures.to_image(make(history))
        taken.append(time.process_time() - started)
    return min(taken)


def main() -> None:
    """Print the table."""
    history = run_like_the_demos()
    run_figures.to_image(run_figures.heat_map(history))  # fonts are read once
    for make in (
        run_figures.story, run_figures.order_rows, run_figures.heat_map, run_figures.curves, run_figures.carry_over,
    ):  # fmt: skip
        image = run_figures.to_image(make(history))
        print(f"{make.__name__:12} {1000 * seconds(make, history):6.0f} ms  {image.shape[1]} x {image.shape[0]} pixels")


if __name__ == "__main__":
    main()
