"""Going on with a run that was interrupted: its state, what is refused that would measure otherwise, and its record.

A state is what `state_of` returned when a checkpoint was taken, or `state_in` of a record: plain values and tensors,
which load without pickle.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from interaction_monitor.history import Row
from interaction_monitor.observer import Observer
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import NewRecord, Progress, Record, RecordError, write_training_samples
from interaction_monitor.record.files import TRAINING, is_record
from interaction_monitor.record.manifest import free
from interaction_monitor.schedule import Budget
from interaction_monitor.settings import differences, plain

VERSION = 2
NEW = "or give the monitor another name= to begin a new history and record"
_KINDS = {"observer": dict, "record": str | None, "shown": int | None, "settings": dict, "train": dict}


def state_of(
    observer: Observer,
    budget: Budget,
    settings: Mapping[str, Any],
    *,
    samples: Mapping[str, Any] | None = None,
    shown: int | None = None,
    run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a resumed run needs.

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
        "train": _state_of_training(observer.train),
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
    train = None
    if is_record(record.folder / TRAINING):
        training = Record.open(record.folder / TRAINING)
        train = Probe(training.probe_inputs, training.probe_targets), training.players
    return {
        "version": VERSION,
        "observer": {"labels": record.players.labels},
        "record": str(record.folder),
        "settings": settings,
        "samples": plain(Probe(record.probe_inputs, record.probe_targets)),
        "train": _state_of_training(train),
    }


def _state_of_training(train: tuple[Probe, PlayerMap] | None) -> dict[str, Any]:
    if train is None:
        return {"n_samples": 0}
    probe, players = train
    return {"n_samples": len(probe), "samples": plain(probe), "baseline": players.baseline}


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


def check(state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse a state of a newer version, or one that was measured by other settings than this run's.

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
    for name, kind in _KINDS.items():
        if name in state and not isinstance(state[name], kind):
            raise ValueError(_damaged(f"{name} is {state[name]!r:.40}"))
    if changed := differences(state.get("settings", {}), settings):
        was = ", ".join(f"{name}={old!r}" for name, old, _ in changed)
        now = ", ".join(f"{name}={new!r}" for name, _, new in changed)
        raise ValueError(
            f"the checkpoint's history was measured with {was}, but this run has {now}, so its numbers would not go "
            f"together; resume with {was}, {NEW}"
        )


def check_number_of_training(state: Mapping[str, Any], n_samples: int) -> None:
    """Refuse another number of training samples than before."""
    # States of before there was this entry do not tell.
    before = (state.get("train") or {}).get("n_samples", n_samples)
    if before != n_samples:
        raise ValueError(
            f"the checkpoint's history was measured with n_train_samples={before}, but this run has "
            f"n_train_samples={n_samples}; resume with n_train_samples={before}, {NEW}"
        )


def restore(state: Mapping[str, Any], observer: Observer, budget: Budget) -> None:
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
    return f"the monitor's state in the checkpoint is damaged ({what}); resume from another checkpoint, {NEW}"


def with_baseline_of(state: Mapping[str, Any], players: PlayerMap) -> PlayerMap:
    """Give players of training samples the baseline of the start: one that the network computes changes with it."""
    baseline, now = (state.get("train") or {}).get("baseline"), players.baseline
    if isinstance(baseline, Tensor) and isinstance(now, Tensor) and baseline.shape == now.shape:
        return replace(players, baseline=baseline.to(now.dtype))
    return players


def open_record(
    observer: Observer, target: Path, settings: Mapping[str, Any], state: Mapping[str, Any] | None, *, step: int
) -> None:
    """Have a record where measurements are written: a new one, or that of the run that wrote the checkpoint.

    What that run had still measured of the very network in the checkpoint is taken over.

    Args:
        observer: what has been measured up to the checkpoint; only that of rank zero gets a record.
        target: where a new record goes; something is put after it if there is something already.
        settings: what decides what a measurement means.
        state: of the interrupted run; None where the run begins.
        step: optimizer steps at the checkpoint.
    """
    later: list[tuple[Row, Tensor, Tensor | None]] = []
    with observer.ranks.together():
        if observer.ranks.rank == 0:
            observer.new_record = NewRecord(target, dict(settings))
            if state is not None and (earlier := _earlier(state["record"], observer)) is not None:
                position = observer.history[-1].position
                later = [
                    (row, measurement.strength, measurement.generalizing)
                    for row, measurement in zip(earlier.history, earlier.measurements, strict=True)
                    if row.position > position and row.step == step
                ]
                position = later[-1][0].position if later else position
                observer.record = _go_on(earlier, target, observer, up_to=position, step=step, who="InteractionMonitor")
    for row, strength, generalizing in observer.ranks.of_first(later):
        observer.take_over(row, strength, generalizing)


def open_at_step(
    observer: Observer, target: Path, settings: Mapping[str, Any], earlier: Record | None, *, step: int, who: str
) -> None:
    """Have a record as `open_record`, on rank zero, where all up to a step is taken over from the earlier run's."""
    if earlier is None:
        observer.record = NewRecord(target, dict(settings)).make(observer.probe, observer.players, observer.train)
        return
    # Where fractions of epochs are added up, only the step tells what came before the checkpoint.
    before = [row.position for row in earlier.history if row.step <= step]
    observer.record = _go_on(earlier, target, observer, up_to=before[-1] if before else (0, -1), step=step, who=who)
    for row, measurement in zip(observer.record.history, observer.record.measurements, strict=True):
        observer.take_over(row, measurement.strength, measurement.generalizing)


def _earlier(folder: str | None, observer: Observer) -> Record | None:
    """Open the record of the run that wrote a checkpoint; warn where it cannot be continued."""
    if folder is None or not len(observer.history):
        return None
    last = observer.history[-1]
    reason = f"the record of the interrupted run, {folder}, is gone"
    if Path(folder).is_dir():
        reason = f"{folder} is the record of another run"
        # The folder's name comes from a file: nothing is touched that is not the record of the same measurements.
        try:
            record = Record.open(folder)
            known, kept = observer.history.to_csv(), record.history.until(*last.position).to_csv()
            # Somebody may have gone on from an earlier checkpoint in the meantime.
            if torch.equal(record.players.labels, observer.players.labels) and all(row in known for row in kept):
                return record
        except RecordError as error:
            reason = str(error)
    rank_zero_warn(
        f"InteractionMonitor: a new record is begun, because {reason}. It starts here: what was measured up to epoch "
        f"{last.epoch}, step {last.step} is in the history of the checkpoint, and not in this record"
    )
    return None


def _go_on(earlier: Record, target: Path, observer: Observer, *, up_to: tuple[int, int], step: int, who: str) -> Record:
    """Go on in the record of a run that was stopped, or branch off that of one that had come further.

    A run that was stopped measures again what it had measured after its newest checkpoint. If there is a newer one, or
    the run had come to its end, or neither is known, this is another run, whose own record begins with a copy.
    """
    beyond = earlier.history[-1].step if len(earlier.history) else 0
    if beyond <= step or earlier.progress.goes_on_from(step):
        record = Record.resume(earlier.folder, up_to=up_to)
    else:
        record = Record.branch(earlier.folder, free(target, "branch_"), up_to=up_to)
        rank_zero_warn(
            f"{who}: this run branches off at step {step} of one that was measured up to step {beyond}. "
            f"That one's record stays as it is, in {earlier.folder}; this run's is {record.folder}, which begins with "
            "a copy of the measurements up to there"
        )
    record.note(Progress(checkpoint=step))
    write_training_samples(record.folder, observer.train)
    return record


def earlier_record(folder: Path, settings: Mapping[str, Any]) -> Record:
    """Open the record of the run that wrote a checkpoint.

    Raises:
        RecordError: if there is none that can be read.
        ValueError: if this run would measure otherwise than there.
    """
    if not is_record(folder):
        raise RecordError(f"there is no record to go on with in {folder}")
    record = Record.open(folder)
    check(state_in(record), settings)
    return record
