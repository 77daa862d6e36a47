"""What carries over, as the numbers of a row: from the measurement before, and from training samples."""

from __future__ import annotations

from typing import Any

import torch

from interaction_monitor.functional import order_effects, order_similarity, order_strength, order_turnover
from interaction_monitor.measurement import Measurement
from interaction_monitor.players.base import PlayerMap
from interaction_monitor.probe import Probe

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
    return {
        "persisted": tuple(turnover.persisted.mean(0).tolist()),
        "vanished": tuple(turnover.vanished.mean(0).tolist()),
    }


def from_training(
    test: Measurement,
    train: Measurement,
    probes: tuple[Probe, Probe],
    players: tuple[PlayerMap, PlayerMap],
) -> Numbers:
    """Lay the interactions of training samples beside those of others.

    Strengths are comparable because both take the threshold of the test samples; effects need none. The
    interactions themselves are compared only where a player is the same in all samples of both.

    Args:
        test: The measurement of the probe samples.
        train: That of training samples.
        probes: The samples of both.
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
    if _same_in_all(*players) and torch.isin(*classes).any():
        groups = [(m.and_[m.valid], m.or_[m.valid]) for m in (train, test)]
        numbers["similarity"] = order_similarity(groups[0], groups[1], classes)
    return {name: tuple(values.tolist()) for name, values in numbers.items()}


def _same_in_all(first: PlayerMap, second: PlayerMap) -> bool:
    if first.labels.shape[1:] != second.labels.shape[1:]:
        return False
    labels = torch.cat((first.labels, second.labels))
    return bool((labels == labels[:1]).all())


def _classes(probe: Probe, measurement: Measurement) -> torch.Tensor:
    targets = probe.targets
    # Targets that are no classes, of one sample each, make one group.
    if targets is None or targets.ndim != 1 or targets.is_floating_point():
        return torch.zeros(int(measurement.valid.sum()), dtype=torch.int64)
    return targets.cpu()[measurement.valid]
