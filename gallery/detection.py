"""What the tracker says of each run while it goes on, beside what is seen when the whole run is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gallery.offline import valley
from gallery.replay import replay
from gallery.stored import Stored
from interaction_monitor.history import History
from interaction_monitor.phases import PhaseTracker

# A rise counts as true from this part of the fall on: twice what the tracker asks for, so that it can be seen.
CLEAR_RISE = 0.2
# The same for the loss gap, of the first train loss.
CLEAR_GAP = 0.05


@dataclass(frozen=True)
class Detected:
    """One run: epochs, and indices of measurements where it says so."""

    stored: Stored
    history: History
    onset: int | None  # index of the lowest measurement of the exact fit, if its rise is clear; known afterwards
    known: int | None  # index of the measurement at which the tracker knew
    mattered: int | None  # index from which on the rise stays above what the tracker asks for at least
    gap_onset: int | None  # index where the loss gap was lowest by the exact fit, if it opens clearly

    @property
    def delay(self) -> int | None:
        """Measurements from the onset to the one at which it was known."""
        return None if self.onset is None or self.known is None else self.known - self.onset

    @property
    def late(self) -> int | None:
        """Measurements from where the rise first mattered, and lasted, to the one at which it was known."""
        return None if self.mattered is None or self.known is None else self.known - self.mattered

    @property
    def lag(self) -> int | None:
        """Epochs from the onset of phase two to the opening of the loss gap, both known afterwards."""
        if self.onset is None or self.gap_onset is None:
            return None
        return int(self.stored.epochs[self.gap_onset] - self.stored.epochs[self.onset])

    @property
    def places(self) -> tuple[float, float]:
        """Where phase two begins and where the loss gap opens, as parts of the run; both must be known."""
        epochs = self.stored.epochs[[self.onset, self.gap_onset]] / self.stored.n_epochs
        return float(epochs[0]), float(epochs[1])


def detect(stored: Stored, *, kind: str = "and-or") -> Detected:
    """Replay a run to the tracker and fit it afterwards.

    Args:
        stored: the run.
        kind: of its interactions.

    Returns:
        Both.
    """
    history = replay(stored, kind=kind)
    orders = history.column("mean_order")
    turn, fall, rise = valley(orders)
    learns = stored.run.expectation != "never learns"
    # A rise in the last two measurements alone may be a spike.
    lasts = turn <= len(orders) - 4
    true = learns and lasts and fall >= 0.1 * (orders[0] - 1) and rise >= CLEAR_RISE * fall
    above = orders - orders[turn] >= 0.1 * fall
    lasting = [i for i in range(turn + 1, len(orders)) if above[i:].mean() > 0.9 and above[i]]
    gap = history.column("loss_gap")
    opens, _, opening = valley(gap)
    opened = learns and opening >= CLEAR_GAP * float(stored.curves["train_loss"][0])
    known = next((i for i, row in enumerate(history) if row.phase == "two"), None)
    return Detected(
        stored=stored,
        history=history,
        onset=turn if true else None,
        known=known,
        mattered=lasting[0] if true and lasting else None,
        gap_onset=opens if opened else None,
    )


def flat_histories(runs: Sequence[Stored], *, replicates: int, seed: int = 0, length: int = 40) -> tuple[int, int]:
    """Count false phases two where real runs are made to stay where they were lowest.

    After the lowest measurement its neighbours, two on either side, go on in random order: their jitter is real, and
    nothing rises. The probe samples are drawn with replacement, the same for a whole run.

    Args:
        runs: stored runs; those that never fall are left out.
        replicates: histories per run.
        seed: of the draws.
        length: measurements after the lowest.

    Returns:
        How many false ones, of how many.
    """
    generator = np.random.default_rng(seed)
    false = total = 0
    for stored in runs:
        turn, fall, _ = valley(replay(stored).column("mean_order"))
        if fall < 0.2 or turn < 3:
            continue
        near = np.arange(turn - 1, min(turn + 3, len(stored.epochs)))
        for _ in range(replicates):
            order = np.concatenate((np.arange(turn + 1), generator.choice(near, length)))
            samples = generator.integers(stored.strength["and-or"].shape[1], size=stored.strength["and-or"].shape[1])
            tracker = PhaseTracker()
            for look, index in enumerate(order):
                state = tracker.update(epoch=look, strength=torch.tensor(stored.strength["and-or"][index][samples]))
            false += state.phase == "two"
            total += 1
    return false, total
