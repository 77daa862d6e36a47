"""What the tracker says of each run while it goes on, beside what is seen when the whole run is known.

``python -m gallery.detection`` compares its delay with that of an oracle, and counts false alarms on flat histories.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from gallery.replay import replay
from gallery.stored import Stored, load_all
from interaction_monitor.functional.distribution import mean_order_influence, student_quantile
from interaction_monitor.history import History
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.phases.loss_gap import GapOpening, gap_opening, valley

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
    gap: GapOpening | None  # in epochs, where the loss gap opens clearly
    gap_lowest: int | None  # the epoch at which it was lowest by the exact fit, likewise

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
        if self.onset is None or self.gap is None:
            return None
        return int(self.gap.epoch - self.stored.epochs[self.onset])

    @property
    def onset_epoch(self) -> int | None:
        """The epoch of the true onset."""
        return None if self.onset is None else int(self.stored.epochs[self.onset])


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
    fitted = valley(orders)
    turn, fall, rise = fitted.turn, fitted.fall, fitted.rise
    learns = stored.run.expectation != "never learns"
    # A rise in the last two measurements alone may be a spike.
    lasts = turn <= len(orders) - 4
    true = learns and lasts and fall >= 0.1 * (orders[0] - 1) and rise >= CLEAR_RISE * fall
    above = orders - orders[turn] >= 0.1 * fall
    lasting = [i for i in range(turn + 1, len(orders)) if above[i:].mean() > 0.9 and above[i]]
    gap = history.column("loss_gap")
    shape = valley(gap)
    opened = learns and shape.rise >= CLEAR_GAP * float(stored.curves["train_loss"][0])
    losses = (stored.epochs.tolist(), history.column("train_loss").tolist(), history.column("test_loss").tolist())
    known = next((i for i, row in enumerate(history) if row.phase == "two"), None)
    return Detected(
        stored=stored,
        history=history,
        onset=turn if true else None,
        known=known,
        mattered=lasting[0] if true and lasting else None,
        gap_lowest=int(stored.epochs[shape.turn]) if opened else None,
        gap=gap_opening(list(zip(*losses, strict=True))) if opened else None,
    )


def oracle(detected: Detected, *, level: float = 0.05) -> int | None:
    """Find when one could have known of a true onset who knows which measurement is lowest, and the jitter.

    Such a one looks once, with the best number of measurements to average, and needs no persistence: the rise of ⟨k⟩
    since the lowest must matter, and pass one test against other samples and one against jitter. What the tracker is
    later than this is the price of looking again and again and of learning the rest; what this is later than the
    onset lies in the data.

    Args:
        detected: a run with a true onset.
        level: of either test.

    Returns:
        The index of the measurement; None where there is no true onset, or it is never clear.
    """
    if detected.onset is None:
        return None
    turn, orders = detected.onset, detected.history.column("mean_order")
    strength = torch.tensor(detected.stored.strength["and-or"])
    linear = np.stack(
        [order + mean_order_influence(values).numpy() for order, values in zip(orders, strength, strict=True)]
    )
    # The second difference of white noise has six times its variance.
    jitter = np.sqrt(np.square(np.diff(orders[turn:], 2)).mean() / 6)
    for end in range(turn + 1, len(orders)):
        for first in range(turn + 1, end + 1):
            rise = orders[first : end + 1].mean() - orders[turn]
            changes = linear[first : end + 1].mean(0) - linear[turn]
            changes = changes[np.isfinite(changes)]
            error = changes.std(ddof=1) / np.sqrt(len(changes))
            beyond = NormalDist().inv_cdf(1 - level) * jitter * np.sqrt(1 + 1 / (end + 1 - first))
            matters = rise >= 0.1 * (orders[0] - orders[turn])
            if matters and rise > beyond and changes.mean() > student_quantile(1 - level, len(changes) - 1) * error:
                return end
    return None


def flat_histories(
    runs: Sequence[Stored], *, replicates: int, seed: int = 0, length: int = 40, rising: bool = True
) -> tuple[int, int]:
    """Count false phases two where real runs are made to stay where they were lowest.

    After the lowest measurement its neighbours, two on either side, go on in random order: their jitter is real, and
    nothing rises. The probe samples are drawn with replacement, the same for a whole run.

    Args:
        runs: stored runs; those that never fall are left out.
        replicates: histories per run.
        seed: of the draws.
        length: measurements after the lowest.
        rising: whether to repeat also neighbours that already belong to a true rise. With two such of four, one history
            in four begins just as the run itself went on, and whoever knows the one soon is wrong on the other.

    Returns:
        How many false ones, of how many.
    """
    false = total = 0
    for history in flat_strengths(runs, replicates=replicates, seed=seed, length=length, rising=rising):
        tracker = PhaseTracker()
        for look, strength in enumerate(history):
            state = tracker.update(epoch=look, strength=strength)
        false += state.phase == "two"
        total += 1
    return false, total


def flat_strengths(
    runs: Sequence[Stored], *, replicates: int, seed: int = 0, length: int = 40, rising: bool = True
) -> Iterator[Tensor]:
    """Give the strengths, (E, S, n), of such histories; the arguments are those of `flat_histories`."""
    generator = np.random.default_rng(seed)
    for stored in runs:
        fitted, measured = valley(replay(stored).column("mean_order")), stored.strength["and-or"]
        turn, fall = fitted.turn, fitted.fall
        if fall < 0.2 or turn < 3:
            continue
        near = np.arange(turn - 1, min(turn + 3, len(stored.epochs)))
        if not rising and (mattered := detect(stored).mattered) is not None:
            near = near[near < mattered]
        for _ in range(replicates):
            order = np.concatenate((np.arange(turn + 1), generator.choice(near, length)))
            samples = generator.integers(measured.shape[1], size=measured.shape[1])
            yield torch.tensor(measured[order][:, samples])


def known_with(run: Detected, every: int, *, denser: bool) -> tuple[int | None, int]:
    """Tell when an onset is known where only some measurements are taken, or more of them around a turn.

    Args:
        run: a run with a true onset.
        every: so many measurements of the run make a step.
        denser: whether none is left out while ⟨k⟩ lies above its lowest.

    Returns:
        Measurements of the full run from the onset to where it is known, None where it never is; and how many were
        taken by then.
    """
    assert run.onset is not None
    orders, tracker, index, taken, lowest = run.history.column("mean_order"), PhaseTracker(), 0, 0, np.inf
    while index < len(orders):
        strength = torch.tensor(run.stored.strength["and-or"][index])
        state = tracker.update(epoch=int(run.stored.epochs[index]), strength=strength)
        taken += 1
        if state.phase == "two":
            return index - run.onset, taken
        above, lowest = orders[index] > lowest, min(lowest, orders[index])
        index += 1 if index < 2 or (denser and above) else every
    return None, taken


def _print_figures(replicates: int) -> None:
    runs = load_all()
    for part in ("choosing", "held out", "fresh"):
        chosen = [stored for stored in runs if stored.run.part == part]
        true = [run for run in map(detect, chosen) if run.onset is not None]
        known = [
            (at - run.onset, run.delay) for run in true if run.onset is not None and (at := oracle(run)) is not None
        ]
        delays = [(best, delay) for best, delay in known if delay is not None]
        print(f"{part}: of {len(true)} onsets an oracle knows {len(known)}, the tracker {len(delays)} of these")
        print("  median delay of oracle and tracker:", *np.median(delays, axis=0))
        for rising in (True, False):
            false, total = flat_histories(chosen, replicates=replicates, rising=rising)
            print(f"  flat, neighbours {'as they are' if rising else 'before the rise'}: {false} false of {total}")
    for run in (found for found in map(detect, runs) if "-fine-" in found.stored.run.name and found.onset is not None):
        ways = ((1, False), (2, False), (4, False), (2, True), (4, True))
        print(run.stored.run.name, *(f"{every}{' denser' * denser}: {known_with(run, every, denser=denser)}"
                                     for every, denser in ways))  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    _print_figures(replicates=20)
