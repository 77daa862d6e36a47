"""Going on where a checkpoint was taken: its state, and the record that belongs to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from interaction_monitor.callbacks._samples import keep_training, state_of_training
from interaction_monitor.callbacks._settings import differences
from interaction_monitor.callbacks.faults import Faults
from interaction_monitor.history import Row
from interaction_monitor.observer import Observer
from interaction_monitor.record import Progress, Record, RecordError
from interaction_monitor.schedule import Budget

VERSION = 2


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
        settings: what decides what a measurement means, see `_settings`.
        samples: a digest of the probe's, see `_settings`.
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


def run_of(state: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a state holds of counts and sums: whether batches are counted, and the losses of the present epoch.

    Raises:
        ValueError: if that is damaged.
    """
    run = (state or {}).get("run", {})
    try:
        loss = {name: float(run.get("loss", {}).get(name, 0)) for name in ("sum", "samples")}
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
            f"together; resume with {was}, or give the monitor another name= to begin a new history and record"
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
    return (
        f"the monitor's state in the checkpoint is damaged ({what}); resume from another checkpoint, or give the "
        "monitor another name= to begin a new history and record"
    )


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
        of the very network in the checkpoint, after writing it: for `Observer.adopt`.
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
    adopted = [
        (row, measurement.strength, measurement.generalizing)
        for row, measurement in zip(record.history, record.measurements, strict=True)
        if row.position > position and row.step == step
    ]
    position = adopted[-1][0].position if adopted else position
    record = go_on(record, target, up_to=position, step=step)
    keep_training(record.folder, observer.train)
    return record, adopted


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


def free(target: Path, word: str = "") -> Path:
    """Return the path itself, or with the word and the first number behind it that nothing is called yet."""
    number, path = 0, target
    while path.exists():
        number += 1
        path = target.with_name(f"{target.name}_{word}{number}")
    return path


def note(observer: Observer | None, progress: Progress, faults: Faults) -> None:
    """Write down how far the run has come, if there is a record; as only rank zero has it, a failure is only told."""
    if observer is not None and observer.record is not None:
        try:
            observer.record.note(progress)
        except OSError as error:
            faults.warn_once("progress", f"noting how far the run has come failed: {error}")


@dataclass
class Begin:
    """Begins a record when there is something to write: a run that is refused leaves no folder.

    Args:
        target: where it goes; a number is put behind it if there is something already.
        observer: has the samples and players.
        settings: what the monitor was asked to do.
    """

    target: Path
    observer: Observer
    settings: dict[str, Any]
    _chosen: Path | None = None

    def __call__(self) -> Record:
        """Return the new record, beside which the training samples lie."""
        if self._chosen is None:  # what was begun for lack of room must not be begun again elsewhere
            self._chosen = free(self.target)
        observer = self.observer
        keep_training(self._chosen, observer.train)  # first, because a record is complete when it is made
        return Record.create(self._chosen, settings=self.settings, players=observer.players, probe=observer.probe)


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
