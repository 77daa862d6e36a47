"""What a checkpoint must hold so that a run goes on measuring as it began, and what is refused that would not."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from interaction_monitor.observer import Observer
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import Record, RecordError
from interaction_monitor.record.files import TRAINING, is_record
from interaction_monitor.schedule import Budget
from interaction_monitor.settings import differences, plain

VERSION = 2
_NEW = "or give the monitor another name= to begin a new history and record"


def state_of(
    observer: Observer,
    budget: Budget,
    settings: Mapping[str, Any],
    *,
    samples: Mapping[str, Any] | None = None,
    shown: int | None = None,
    run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a resumed run needs, as plain values and tensors that load without pickle.

    Args:
        observer: what was measured so far.
        budget: the account of time.
        settings: what decides what a measurement means, see `CallbackBase.plain_settings`.
        samples: a digest of the probe's, see `settings.plain`.
        shown: the loggers' step of the last measurement; None before the first.
        run: what was counted and averaged since, see `run_of`.
    """
    return {
        "version": VERSION,
        "observer": observer.state_dict(),
        "record": None if observer.record is None else str(observer.record.folder.resolve()),
        "budget": budget.state_dict(),
        "settings": dict(settings),
        "samples": samples,
        "train": state_of_training(observer.train),
        "shown": shown,
        "run": dict(run or {}),
    }


def state_in(record: Record) -> dict[str, Any]:
    """Return what a record tells of how its run measured, in the form of `state_of`.

    Raises:
        RecordError: if the record's samples or players cannot be read.
    """
    settings = record.settings
    if "forward_func" not in settings:  # earlier versions wrote the others in another form
        settings = {name: settings[name] for name in ("interactions", "thresholds", "seed") if name in settings}
    train: dict[str, Any] = {"n_samples": 0}
    if is_record(record.folder / TRAINING):
        training = Record.open(record.folder / TRAINING)
        probe = Probe(training.probe_inputs, training.probe_targets)
        train = state_of_training((probe, training.players))
    return {
        "version": VERSION,
        "observer": {"labels": record.players.labels},
        "record": str(record.folder),
        "settings": settings,
        "samples": plain(Probe(record.probe_inputs, record.probe_targets)),
        "train": train,
    }


def run_of(state: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a state holds of counts and sums: whether batches are counted, and the losses of the present epoch.

    Raises:
        ValueError: if that is damaged.
    """
    run = (state or {}).get("run", {})
    try:
        given = {"sum": 0, "samples": 0} | run.get("loss", {})
        loss = {name: float(given[name]) for name in ("sum", "samples", "test") if name in given}
        return {"in_batches": bool(run.get("in_batches", False)), "loss": loss}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(_damaged(f"run is {run!r:.40}")) from error


def check(state: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse a state of a newer version, or one that was measured in another way than this run would measure.

    Args:
        state: what `state_of` returned when the checkpoint was taken.
        settings: what decides what a measurement of this run means.

    Raises:
        ValueError: that names each argument, both values and what to do.
    """
    # The first states had neither a version nor an account of time, those after them no settings.
    version = state.get("version", 0)
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(
            f"the checkpoint holds a monitor's state of version {version}, this package reads up to {VERSION}; "
            "update interaction-monitor, or resume without the callback's state"
        )
    before = state.get("settings", {})
    for name, kind in (
        ("observer", dict),
        ("record", str | None),
        ("shown", int | None),
        ("settings", dict),
        ("train", dict),
    ):
        if not isinstance(state.get(name, {} if kind is dict else None), kind):
            raise ValueError(_damaged(f"{name} is {state[name]!r:.40}"))
    changed = differences(before, settings)
    if changed:
        was = ", ".join(f"{name}={old!r}" for name, old, _ in changed)
        now = ", ".join(f"{name}={new!r}" for name, _, new in changed)
        raise ValueError(
            f"the checkpoint's history was measured with {was}, but this run has {now}, so its numbers would not go "
            f"together; resume with {was}, {_NEW}"
        )


def restore(state: dict[str, Any], observer: Observer, budget: Budget) -> None:
    """Bring observer and account of time to where `state_of` was called.

    Raises:
        ValueError: if the state does not fit this run, or is damaged.
    """
    try:
        observer.load_state_dict(state["observer"])
        if "budget" in state:
            budget.load_state_dict(state["budget"])
            budget.share()
        # A tracker takes what it is given; that it can go on from there shows only when it does.
        look = torch.ones(len(observer.probe), observer.players.n_players)
        copy.deepcopy(observer.tracker).update(epoch=2**53, strength=look, train_loss=1.0, test_loss=1.0)
    except ValueError:
        raise
    except Exception as error:  # whatever comes of a part that is missing or of another kind
        raise ValueError(_damaged(f"{type(error).__name__}: {error}")) from error


def _damaged(what: str) -> str:
    return f"the monitor's state in the checkpoint is damaged ({what}); resume from another checkpoint, {_NEW}"


def samples_of(state: Mapping[str, Any], probe: Probe, *, given: bool, who: str) -> Probe:
    """Return the samples on which the checkpoint's history was measured.

    Args:
        state: what `state_of` returned when the checkpoint was taken.
        probe: the samples that this run would take.
        given: whether they were given as `probe=`, and not taken from a loader.
        who: the class of the callback, which begins a warning.

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
    return _those_of_the_start(before, probe, state.get("record"), "the loader", "samples", who=who)


def training_of(state: Mapping[str, Any], probe: Probe, *, who: str) -> Probe:
    """Return the training samples on which the checkpoint's history was measured, as `samples_of` does."""
    before, record = (state.get("train") or {}).get("samples"), state.get("record")
    folder = None if record is None else str(Path(record) / TRAINING)
    return _those_of_the_start(before, probe, folder, "the loader for training", "training samples", who=who)


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


def state_of_training(train: tuple[Probe, PlayerMap] | None) -> dict[str, Any]:
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


def _those_of_the_start(before: object, probe: Probe, record: str | None, loader: str, what: str, *, who: str) -> Probe:
    if before is None or before == plain(probe):
        return probe
    try:
        kept = Record.open(record or "")
        recorded = Probe(kept.probe_inputs, kept.probe_targets)
    except (RecordError, TypeError, ValueError):
        recorded = probe
    if plain(recorded) == before:
        rank_zero_warn(
            f"{who}: {loader} gives other samples than when the run began; it goes on with those of "
            f"its record, {record}"
        )
        return recorded
    rank_zero_warn(
        f"{who}: {loader} gives other samples than when the run began, and its record does not hold "
        f"those {what}; what is measured from here on may differ for that alone"
    )
    return probe
