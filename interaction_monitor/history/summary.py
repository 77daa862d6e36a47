"""From a measurement, whose arrays are large, to a row of numbers."""

from __future__ import annotations

import math
from typing import Any

import torch

from interaction_monitor.functional import (
    high_order_share,
    mean_order_interval,
    order_effects,
    order_similarity,
    order_strength,
    order_turnover,
    salient_counts,
)
from interaction_monitor.history import Row
from interaction_monitor.measurement import Measurement
from interaction_monitor.phases import PhaseState
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe


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
        step: optimizer steps taken so far.
        train_loss: mean loss on the training samples, where known.
        test_loss: mean loss on the test samples, where known.
    """
    valid = measurement.valid
    strength = measurement.strength[valid]
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
        output_change=measurement.output_change,
        solver_gap=float(measurement.gap[valid].max()),
        seconds=measurement.seconds,
        n_valid=int(valid.sum()),
        **of_phase(state),
        train_loss=train_loss,
        test_loss=test_loss,
        rounding=None if math.isnan(measurement.rounding) else measurement.rounding,
        effect=tuple(order_effects(measurement.and_[valid], measurement.or_[valid]).mean(dim=0).tolist()),
    )


def of_phase(state: PhaseState) -> dict[str, Any]:
    """Return the fields of a row that say what is known of the phases."""
    found = [f"{event}_{of}" for event in ("onset", "detected", "gap_onset") for of in ("epoch", "step")]
    return {name: getattr(state, name) for name in ("phase", *found)}


Numbers = dict[str, Any]  # name of a field of a row -> (n,) floats


def from_before(before: Measurement | None, now: Measurement) -> Numbers:
    """Tell how much of the strength was there at the measurement before, and how much of that is gone.

    Args:
        before: The same samples and players at an earlier moment; None where there is none.
        now: The measurement.

    Returns:
        `persisted` and `vanished` of a row, means over the samples that are finite at both moments; nothing if
        there is no such sample.
    """
    if before is None or before.v.shape != now.v.shape:
        return {}
    both = before.valid & now.valid
    if not both.any():
        return {}
    turnover = order_turnover(
        (before.and_[both], before.or_[both]),
        (now.and_[both], now.or_[both]),
        before_tau=before.tau,
        tau=now.tau,
    )
    return {name: tuple(getattr(turnover, name).mean(0).tolist()) for name in ("persisted", "vanished")}


def from_training(
    test: Measurement, train: Measurement, probes: tuple[Probe, Probe], players: tuple[PlayerMap, PlayerMap]
) -> Numbers:
    """Lay the interactions of training samples beside those of others.

    Strengths are comparable because both take the threshold of the test samples; effects need none. The
    interactions themselves are compared only where a player is the same in all samples of both.

    Args:
        test: The measurement of the probe samples.
        train: That of training samples.
        probes: The samples of both, those of the probe first.
        players: The players of both.

    Returns:
        `train_strength`, `train_effect` and, where it means something, `similarity` of a row.
    """
    valid = train.valid
    numbers = {
        "train_strength": order_strength(train.and_[valid], train.or_[valid], test.tau).mean(0),
        "train_effect": order_effects(train.and_[valid], train.or_[valid]).mean(0),
    }
    classes = _classes(probes[1], train), _classes(probes[0], test)
    first = players[0].labels[:1]
    same = all(of.labels.shape[1:] == first.shape[1:] and bool((of.labels == first).all()) for of in players)
    if same and torch.isin(*classes).any():
        groups = [(m.and_[m.valid], m.or_[m.valid]) for m in (train, test)]
        numbers["similarity"] = order_similarity(groups[0], groups[1], classes)
    return {name: tuple(values.tolist()) for name, values in numbers.items()}


def _classes(probe: Probe, measurement: Measurement) -> torch.Tensor:
    targets = probe.targets
    # Targets that are no classes, of one sample each, make one group.
    if targets is None or targets.ndim != 1 or targets.is_floating_point():
        return torch.zeros(int(measurement.valid.sum()), dtype=torch.int64)
    return targets.cpu()[measurement.valid]
