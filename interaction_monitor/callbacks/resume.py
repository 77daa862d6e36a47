"""Going on with the record of a run that was interrupted, or branching off it, where a checkpoint was taken."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from interaction_monitor.callbacks import checkpoint
from interaction_monitor.callbacks.errors import Faults
from interaction_monitor.history import Row
from interaction_monitor.observer import Observer
from interaction_monitor.record import NewRecord, Progress, Record, RecordError, write_training_samples
from interaction_monitor.record.files import is_record
from interaction_monitor.record.manifest import free


def open_record(
    observer: Observer, target: Path, settings: Mapping[str, Any], state: Mapping[str, Any] | None, *, step: int
) -> None:
    """Have a record where measurements are written: a new one, or that of the checkpoint from which the run goes on.

    What the earlier run had still measured of the very network in the checkpoint is taken over.

    Args:
        observer: what has been measured up to the checkpoint; only that of rank zero gets a record.
        target: where a new record goes; something is put behind it if there is something already.
        settings: what decides what a measurement means.
        state: what `checkpoint.state_of` returned when the checkpoint was taken; None where the run begins.
        step: optimizer steps at the checkpoint.
    """
    later: list[tuple[Row, Tensor, Tensor | None]] = []
    with observer.ranks.together():
        if observer.ranks.rank == 0:
            observer.new_record = NewRecord(target, dict(settings))
            if state is not None:
                observer.record, later = continued(state["record"], target, observer, step=step)
    for row, strength, generalizing in observer.ranks.of_first(later):
        observer.take_over(row, strength, generalizing)


def open_at_step(
    observer: Observer, target: Path, settings: Mapping[str, Any], earlier: Record | None, *, step: int, who: str
) -> None:
    """Have a record: a new one, or that of a run that went before, with all that was measured up to a step of it.

    Args:
        observer: that of rank zero, which gets the record and what is in it.
        target: where a new record goes; something is put behind it if there is something already.
        settings: what decides what a measurement means.
        earlier: the record of the run that wrote the checkpoint, if there is one.
        step: optimizer steps at the checkpoint.
        who: begins the warning that tells of a branch.
    """
    if earlier is None:
        observer.record = NewRecord(target, dict(settings)).make(observer.probe, observer.players, observer.train)
        return
    # Where fractions of epochs are added up, only the step tells what came before the checkpoint.
    positions = [row.position for row in earlier.history if row.step <= step]
    observer.record = go_on(earlier, target, up_to=positions[-1] if positions else (0, -1), step=step, who=who)
    for row, measurement in zip(observer.record.history, observer.record.measurements, strict=True):
        observer.take_over(row, measurement.strength, measurement.generalizing)


def continued(
    earlier: str | None, target: Path, observer: Observer, *, step: int
) -> tuple[Record | None, list[tuple[Row, Tensor, Tensor | None]]]:
    """Go on with the record of the run that wrote the checkpoint, or branch off it.

    A run that was stopped goes on in its record, where it measures again what it had measured after its newest
    checkpoint. If there is a newer checkpoint, or the run had come to its end, then this is another run, and gets a
    record of its own that begins with a copy; so it is where neither is known.

    Args:
        earlier: the record of the run that wrote the checkpoint; None where there is none.
        target: where a new record goes; something is put behind it if there is something already.
        observer: what has been measured up to the checkpoint, on which samples and players.
        step: optimizer steps at the checkpoint.

    Returns:
        The record, ready for `write`; None where there is nothing to go on with. And what that run had still measured
        of the very network in the checkpoint, after writing it: for `Observer.take_over`.
    """
    if earlier is None or not len(observer.history):
        return None, []
    reason = _why_not(Path(earlier), observer)
    if reason is not None:
        last = observer.history[-1]
        rank_zero_warn(
            f"InteractionMonitor: a new record is begun, because {reason}. It starts here: what was measured up to "
            f"epoch {last.epoch}, step {last.step} is in the history of the checkpoint, and not in this record"
        )
        return None, []
    record = Record.open(earlier)
    position = observer.history[-1].position
    later = [
        (row, measurement.strength, measurement.generalizing)
        for row, measurement in zip(record.history, record.measurements, strict=True)
        if row.position > position and row.step == step
    ]
    position = later[-1][0].position if later else position
    record = go_on(record, target, up_to=position, step=step)
    write_training_samples(record.folder, observer.train)
    return record, later


def go_on(
    record: Record, target: Path, *, up_to: tuple[int, int], step: int, who: str = "InteractionMonitor"
) -> Record:
    """Go on in the record of a run that was stopped, or branch off that of one that had come further.

    Args:
        record: that of the run that wrote the checkpoint.
        target: where a branch goes; something is put behind it if there is something already.
        up_to: (epoch, step) of the last measurement that belongs to the checkpoint.
        step: optimizer steps at the checkpoint.
        who: begins the warning that tells of a branch.

    Returns:
        The record, ready for `write`.
    """
    earlier, beyond = record.folder, record.history[-1].step if len(record.history) else 0
    if beyond <= step or record.progress.goes_on_from(step):
        record = Record.resume(earlier, up_to=up_to)
    else:
        record = Record.branch(earlier, free(target, "branch_"), up_to=up_to)
        rank_zero_warn(
            f"{who}: this run branches off at step {step} of one that was measured up to step {beyond}. "
            f"That one's record stays as it is, in {earlier}; this run's is {record.folder}, which begins with a copy "
            f"of the measurements up to there"
        )
    record.note(Progress(checkpoint=step))
    return record


class _Noted(dict[str, Any]):
    """What a callback adds to the trainer's state in this very run; from a checkpoint comes a plain dict."""


def claim(who: str, name: str, places: MutableMapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take a callback's place in a trainer's state, which goes into each checkpoint.

    Args:
        who: the class of the callback.
        name: its name.
        places: those of all callbacks, by class and name.

    Returns:
        The place; and what a callback of the same name had left there when the checkpoint was taken.

    Raises:
        ValueError: if another callback of this run has the place.
    """
    key = f"{who}[{name}]"
    before = places.get(key)
    if isinstance(before, _Noted):
        raise ValueError(
            f"{who}(name={name!r}): another one in this trainer has this name; give each a name= of its own, by which "
            "its record and its keys are known"
        )
    places[key] = _Noted()
    return places[key], before if isinstance(before, dict) else {}


def earlier_record(folder: Path, name: str, settings: Mapping[str, Any]) -> Record:
    """Open the record of the run that wrote a checkpoint.

    Args:
        folder: where the trainer writes.
        name: of the record's folder in it.
        settings: what decides what a measurement of this run means.

    Raises:
        RecordError: if there is none that can be read.
        ValueError: if this run would measure otherwise than there.
    """
    path = folder / Path(name).name
    if not is_record(path):
        raise RecordError(f"there is no record to go on with in {path}")
    record = Record.open(path)
    checkpoint.check(checkpoint.state_in(record), settings)
    return record


def note(observer: Observer | None, progress: Progress, faults: Faults) -> None:
    """Write down how far the run has come, if there is a record; as only rank zero has it, a failure is only told."""
    if observer is not None and observer.record is not None:
        try:
            observer.record.note(progress)
        except OSError as error:
            faults.warn_once("progress", f"noting how far the run has come failed: {error}")


def _why_not(earlier: Path, observer: Observer) -> str | None:
    """Say why an earlier record cannot be continued; None if it can."""
    if not earlier.is_dir():
        return f"the record of the interrupted run, {earlier}, is gone"
    # The folder's name comes from a file: nothing is touched that is not the record of the same measurements.
    try:
        record = Record.open(earlier)
        same = torch.equal(record.players.labels, observer.players.labels)
    except RecordError as error:
        return str(error)
    known = observer.history.to_csv()
    # Somebody may have gone on from an earlier checkpoint in the meantime.
    same = same and all(row in known for row in record.history.until(*observer.history[-1].position).to_csv())
    return None if same else f"{earlier} is the record of another run"
