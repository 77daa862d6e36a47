"""Keeping to the samples with which a run began, of validation and of training, when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from interaction_monitor.callbacks._settings import plain
from interaction_monitor.players.base import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import Record, RecordError

TRAINING = "training"  # the folder in a record that holds the training samples, as a record without measurements
_NEW = "or give the monitor another name= to begin a new history and record"

Measured = tuple[Probe, PlayerMap]


def samples_of(state: Mapping[str, Any], probe: Probe, *, given: bool) -> Probe:
    """Return the samples on which the checkpoint's history was measured.

    Args:
        state: what `resume.state_of` returned when the checkpoint was taken.
        probe: the samples that this run would take.
        given: whether they were given as `probe=`, and not taken from a loader.

    Returns:
        These, or those in the record of the interrupted run, where a loader does not give the same again.

    Raises:
        ValueError: if other samples were given, or another number of them is asked for.
    """
    before, labels = state.get("samples"), state["observer"].get("labels")
    if not isinstance(labels, Tensor) or not labels.ndim:  # restoring says what is wrong
        return probe
    if len(labels) != len(probe):
        asked = f"probe= holds {len(probe)}" if given else f"this run has n_samples={len(probe)}"
        raise ValueError(
            f"the checkpoint's history was measured on n_samples={len(labels)} samples, but {asked}; resume with "
            f"{len(labels)}, {_NEW}"
        )
    if given and before is not None and before != plain(probe):
        raise ValueError(
            "the checkpoint's history was measured with other samples than probe= holds now; resume with the same, "
            f"{_NEW}"
        )
    return _those_of_the_start(before, probe, state.get("record"), "the loader", "samples")


def training_of(state: Mapping[str, Any], probe: Probe) -> Probe:
    """Return the training samples on which the checkpoint's history was measured, as `samples_of` does."""
    before, record = (state.get("train") or {}).get("samples"), state.get("record")
    folder = None if record is None else str(Path(record) / TRAINING)
    return _those_of_the_start(before, probe, folder, "the loader for training", "training samples")


def check_number_of_training(state: Mapping[str, Any], n_samples: int) -> None:
    """Refuse another number of training samples than before.

    Raises:
        ValueError: that names both numbers and what to do.
    """
    # States of before there was this entry do not tell.
    before = (state.get("train") or {}).get("n_samples", n_samples)
    if before != n_samples:
        raise ValueError(
            f"the checkpoint's history was measured with n_train_samples={before}, but this run has "
            f"n_train_samples={n_samples}; resume with n_train_samples={before}, {_NEW}"
        )


def state_of_training(train: Measured | None) -> dict[str, Any]:
    """Return what a resumed run must know of the training samples, as plain values and tensors."""
    if train is None:
        return {"n_samples": 0}
    probe, players = train
    return {"n_samples": len(probe), "samples": plain(probe), "baseline": players.baseline}


def with_baseline_of(state: Mapping[str, Any], players: PlayerMap) -> PlayerMap:
    """Give players of training samples the baseline of the start: one that the network computes changes with it."""
    baseline, now = (state.get("train") or {}).get("baseline"), players.baseline
    if isinstance(baseline, Tensor) and isinstance(now, Tensor) and baseline.shape == now.shape:
        return replace(players, baseline=baseline.to(now.dtype))
    return players


def keep_training(folder: Path, train: Measured | None) -> None:
    """Put the training samples beside a record, unless they are there.

    Raises:
        OSError: if the folder cannot be written.
    """
    if train is not None:
        with suppress(RecordError):  # they are there
            Record.create(folder / TRAINING, settings={}, players=train[1], probe=train[0])


def _those_of_the_start(before: object, probe: Probe, record: str | None, who: str, what: str) -> Probe:
    if before is None or before == plain(probe):
        return probe
    try:
        kept = Record.open(record or "")
        recorded = Probe(kept.probe_inputs, kept.probe_targets)
    except (RecordError, TypeError, ValueError):
        recorded = probe
    if plain(recorded) == before:
        rank_zero_warn(
            f"InteractionMonitor: {who} gives other samples than when the run began; it goes on with those of "
            f"its record, {record}"
        )
        return recorded
    rank_zero_warn(
        f"InteractionMonitor: {who} gives other samples than when the run began, and its record does not hold "
        f"those {what}; what is measured from here on may differ for that alone"
    )
    return probe
