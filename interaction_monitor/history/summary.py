"""From a measurement, whose arrays are large, to the row of numbers that a history is made of."""

from __future__ import annotations

import math

from interaction_monitor.functional import high_order_share, mean_order_interval, order_effects, salient_counts
from interaction_monitor.history import Row
from interaction_monitor.measurement import Measurement
from interaction_monitor.phases import PhaseState


def summarise(
    measurement: Measurement,
    state: PhaseState,
    *,
    epoch: int,
    step: int,
    train_loss: float | None = None,
    test_loss: float | None = None,
) -> Row:
    """Reduce a measurement to the scalars that panels, console and files share.

    Args:
        measurement: the measurement.
        state: the phase after it.
        epoch: completed epochs.
        step: training step.
        train_loss: mean loss on the training samples, where known.
        test_loss: mean loss on the test samples, where known.

    Returns:
        One row of the history.
    """
    valid = measurement.valid
    strength = measurement.strength[valid]
    change = (measurement.v[valid, -1] - measurement.v[valid, 0]).abs().mean()
    n_salient = salient_counts(measurement.and_[valid], measurement.or_[valid], measurement.tau).sum(dim=-1)
    low, _, high = mean_order_interval(strength)
    return Row(
        epoch=epoch,
        step=step,
        distribution=tuple(measurement.distribution.tolist()),
        strength=tuple(strength.mean(dim=0).tolist()),
        mean_order=measurement.mean_order,
        mean_order_low=low,
        mean_order_high=high,
        high_order_share=high_order_share(strength),
        n_salient=float(n_salient.double().mean()),
        tau=measurement.tau,
        output_change=float(change),
        solver_gap=float(measurement.gap[valid].max()),
        seconds=measurement.seconds,
        n_valid=int(valid.sum()),
        phase=state.phase,
        onset_epoch=state.onset_epoch,
        detected_epoch=state.detected_epoch,
        gap_onset_epoch=state.gap_onset_epoch,
        onset_step=state.onset_step,
        detected_step=state.detected_step,
        train_loss=train_loss,
        test_loss=test_loss,
        rounding=None if math.isnan(measurement.rounding) else measurement.rounding,
        effect=tuple(order_effects(measurement.and_[valid], measurement.or_[valid]).mean(dim=0).tolist()),
    )
