"""One measurement by all processes of a run: each runs a share of the samples, and all have the result."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from interaction_monitor._sharded import is_split
from interaction_monitor.distributed import Ranks
from interaction_monitor.forward import outputs_of
from interaction_monitor.forward.precision import rounding
from interaction_monitor.history import History
from interaction_monitor.losses import evaluated_loss
from interaction_monitor.measurement import Measurement, interpret_by
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.settings import Settings

LossPair = tuple[float | None, float | None]  # of training, of test


def measure_jointly(
    model: nn.Module, probe: Probe, players: PlayerMap, settings: Settings, ranks: Ranks
) -> Measurement:
    """Measure a model once.

    Args:
        model: the network, the same on all processes.
        probe: the S samples.
        players: their players.
        settings: how they are measured.
        ranks: the processes, all of which call this.

    Returns:
        The measurement, the same on all processes; how large the rounding is, is not known yet.

    Raises:
        NoValidSamplesError: if no sample has finite outputs.
        OtherRankError: if it failed on another process.
    """
    started = time.perf_counter()
    # Of a split model the processes run each its share, and join them, where they exchange the model's parts.
    sharing = Ranks() if is_split(model) else ranks
    with sharing.same_buffers(model), ranks.together():
        v = _outputs(model, probe, players, settings, sharing.share_of(len(probe)))
    v = sharing.join_samples(v)
    forward_seconds = time.perf_counter() - started
    with ranks.together():
        measurement = interpret_by(v, settings)
    return replace(measurement, forward_seconds=forward_seconds)


def _outputs(model: nn.Module, probe: Probe, players: PlayerMap, settings: Settings, share: range) -> Tensor:
    if not share:
        return torch.empty(0, 1 << players.n_players, dtype=torch.float64)
    if len(share) < len(probe):
        probe, players = probe.select(share), players.select(share)
    return outputs_of(model, probe, players, settings)


def with_rounding(
    measurement: Measurement, model: nn.Module, probe: Probe, players: PlayerMap, settings: Settings
) -> Measurement:
    """Add to a measurement how large the rounding in the model is."""
    started = time.perf_counter()
    sigma = rounding(model, probe, players, measurement.v, settings)
    seconds = measurement.forward_seconds + time.perf_counter() - started
    return replace(measurement, rounding=sigma, forward_seconds=seconds)


def evaluated_losses(model: nn.Module, train: Probe | None, test: Probe, settings: Settings, ranks: Ranks) -> LossPair:
    """Return the losses of the network as it is on training and test samples, on all processes alike.

    Returns:
        None for both where there are no training samples, where one cannot be known, or for a network in parts.
    """
    if train is None or is_split(model):
        return None, None
    found: LossPair = (None, None)
    if ranks.rank == 0:
        with suppress(Exception):  # it is told beside the interactions, which say what fails
            found = evaluated_loss(model, train, settings), evaluated_loss(model, test, settings)
    return ranks.of_first(found)


def compared_losses(history: History, logged: LossPair, evaluated: LossPair) -> LossPair:
    """Return the losses between which the gap opens: the evaluated ones in runs that log none from the start."""
    row = history[1] if len(history) > 1 else None
    known = None not in logged if row is None else row.loss_gap is not None
    return logged if known or not len(history) else evaluated
