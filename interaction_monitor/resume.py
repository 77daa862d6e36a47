"""Going on where a checkpoint was taken: its state, and the record that belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn

from interaction_monitor._trainer import free
from interaction_monitor.observer import Observer
from interaction_monitor.record import Record, RecordError
from interaction_monitor.schedule import Budget

VERSION = 1


def state_of(observer: Observer, budget: Budget) -> dict[str, Any]:
    """Return what a resumed run needs, as plain values and tensors that load without pickle."""
    return {
        "version": VERSION,
        "observer": observer.state_dict(),
        "record": None if observer.record is None else str(observer.record.folder.resolve()),
        "budget": budget.state_dict(),
    }


def restore(state: dict[str, Any], observer: Observer, budget: Budget) -> None:
    """Bring observer and account of time to where `state_of` was called.

    Raises:
        ValueError: if the state is of a newer version or does not fit this run.
    """
    # The first states had neither a version nor an account of time.
    version = state.get("version", 0)
    if version > VERSION:
        raise ValueError(
            f"the checkpoint holds a monitor's state of version {version}, this package reads up to {VERSION}; "
            "update interaction-monitor, or resume without the callback's state"
        )
    observer.load_state_dict(state["observer"])
    if "budget" in state:
        budget.load_state_dict(state["budget"])


def open_record(earlier: str | None, target: Path, observer: Observer, *, settings: dict[str, Any]) -> Record:
    """Go on with the record of a resumed run, or begin one.

    Args:
        earlier: the record of the run that wrote the checkpoint; None where there is none.
        target: where a new record goes; a number is put behind it if there is something already.
        observer: what has been measured so far, on which samples and players.
        settings: what the monitor was asked to do.

    Returns:
        The record, ready for `write`.
    """
    if earlier is not None and len(observer.history):
        reason = _why_not(Path(earlier), observer)
        if reason is None:
            return Record.resume(earlier, up_to=observer.history[-1].position)
        rank_zero_warn(f"InteractionMonitor: a new record is begun, because {reason}")
    return Record.create(free(target), settings=settings, players=observer.players, probe=observer.probe)


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
