"""From a stored run back to a history: what the monitor would have said, with other settings, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from gallery.stored import Stored
from interaction_monitor.functional import high_order_share, mean_order, mean_order_interval, order_distribution
from interaction_monitor.history import History, Row
from interaction_monitor.phases import PhaseTracker


def replay(stored: Stored, *, kind: str = "and-or", tracker: PhaseTracker | None = None) -> History:
    """Show a run's measurements to a tracker, one after the other.

    Args:
        stored: the run.
        kind: "and-or" or "and", the dividends alone.
        tracker: a fresh one; None means the default.

    Returns:
        The history that the monitor would have written. What is not stored is NaN.
    """
    tracker = tracker or PhaseTracker()
    history = History()
    for i, epoch in enumerate(stored.epochs.tolist()):
        strength = torch.tensor(stored.strength[kind][i])
        losses = {
            "train_loss": float(stored.curves["train_loss"][epoch]),
            "test_loss": float(stored.curves["val_loss"][epoch]),
        }
        state = tracker.update(epoch=epoch, strength=strength, **losses)
        valid = strength[strength.isfinite().all(-1)]
        low, _, high = mean_order_interval(valid)
        history.append(
            Row(
                epoch=epoch,
                step=int(stored.steps[i]),
                distribution=tuple(order_distribution(valid).tolist()),
                strength=tuple(valid.mean(0).tolist()),
                mean_order=float(mean_order(valid)),
                mean_order_low=low,
                mean_order_high=high,
                high_order_share=high_order_share(valid),
                n_salient=float("nan"),
                tau=float(stored.tau[i]),
                output_change=float(stored.output_change[i]),
                solver_gap=float(stored.solver_gap[i]),
                seconds=0.0,
                n_valid=len(valid),
                phase=state.phase,
                onset_epoch=state.onset_epoch,
                detected_epoch=state.detected_epoch,
                gap_onset_epoch=state.gap_onset_epoch,
                **losses,
                **{
                    name: tuple(stored.effect[part][i].tolist())
                    for name, part in (("effect", "test"), ("train_effect", "train"))
                    if part in stored.effect
                },
            )
        )
    return history


def fewer_samples(stored: Stored, chosen: Sequence[int] | NDArray[Any]) -> Stored:
    """Keep only some of the probe samples."""
    return replace(stored, strength={kind: values[:, chosen] for kind, values in stored.strength.items()})


def fewer_measurements(stored: Stored, every: int) -> Stored:
    """Keep every so many measurements, and the last."""
    return only(stored, sorted({*range(0, len(stored.epochs), every), len(stored.epochs) - 1}))


def only(stored: Stored, kept: Sequence[int]) -> Stored:
    """Keep only some of the measurements, by their number."""
    kept = list(kept)
    return replace(
        stored,
        epochs=stored.epochs[kept],
        steps=stored.steps[kept],
        strength={kind: values[kept] for kind, values in stored.strength.items()},
        tau=stored.tau[kept],
        output_change=stored.output_change[kept],
        solver_gap=stored.solver_gap[kept],
        effect={name: values[kept] for name, values in stored.effect.items()},
        theory={},
    )
