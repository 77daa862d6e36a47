"""How often the phase tracker is wrong and how late it is right, on simulated runs: the tables of docs/phases.md.

Run it as ``python -m benchmarks.phase_false_alarms [runs]``; 100 runs of each kind take about three minutes.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from interaction_monitor.phases import PhaseState, PhaseTracker

LOOKS = 60
SLOW = 1.3 + 2.6 * np.exp(-np.arange(12) / 3)
SUDDEN = np.array([3.9, 1.3])


def strengths(path, generator, *, samples=50, n=10, drift=0.0):
    """Measurements whose mean order follows `path`, by samples of different strength and mean order."""
    weight = generator.lognormal(0, 0.7, samples)
    mean = path[:, None] + 0.4 * generator.standard_normal(samples)
    mean = mean + 0.2 * generator.standard_normal((len(path), samples))
    mean = (mean + drift * generator.standard_normal((len(path), samples)).cumsum(0)).clip(1, n - 1e-6)
    low = np.floor(mean).astype(int)
    result = np.zeros((len(path), samples, n))
    rows, columns = np.indices(mean.shape)
    result[rows, columns, low - 1] += weight * (low + 1 - mean)
    result[rows, columns, low] += weight * (mean - low)
    return torch.tensor(result)


def final_state(path, generator, **arguments) -> PhaseState:
    tracker = PhaseTracker()
    for epoch, strength in enumerate(strengths(path, generator, **arguments)):
        tracker.update(epoch=epoch, strength=strength)
    return tracker.state


def continued(fall, slope=0.0):
    return np.concatenate((fall, fall[-1] + slope * np.arange(1, LOOKS - len(fall) + 1)))


def false_alarms(runs: int) -> None:
    generator = np.random.default_rng(0)
    kinds = [("no fall, jitter 0.3", np.full(LOOKS, 3.0), 0.3, {})]
    for name, fall in (("slow", SLOW), ("sudden", SUDDEN)):
        kinds += [(f"{name} fall, jitter {jitter}", continued(fall), jitter, {}) for jitter in (0.05, 0.1, 0.2, 0.4)]
    for samples in (6, 15, 50):
        for drift in (0.1, 0.3):
            name = f"slow fall, {samples} samples wander by {drift}"
            kinds.append((name, continued(SLOW) + 3, 0.0, {"samples": samples, "drift": drift}))
    for name, path, jitter, arguments in kinds:
        false = sum(
            final_state(path + jitter * generator.standard_normal(LOOKS), generator, **arguments).phase == "two"
            for _ in range(runs)
        )
        print(f"{name:42} {false:4} false of {runs}", flush=True)


def delays(runs: int) -> None:
    generator = np.random.default_rng(1)
    for slope in (0.4, 0.2, 0.1, 0.05):
        path = continued(SLOW, slope)
        states = [final_state(path + 0.03 * generator.standard_normal(LOOKS), generator) for _ in range(runs)]
        found = [
            (state.onset_epoch - 11, state.detected_epoch - 11)
            for state in states
            if state.onset_epoch is not None and state.detected_epoch is not None
        ]
        place, known = np.median(found, axis=0)
        print(f"rise {slope:4}: {len(found)} of {runs} found, median place {place:+.0f}, known after {known:.0f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    false_alarms(runs)
    delays(max(runs // 2, 1))
