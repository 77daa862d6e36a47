"""A record that is made when there is something to write, in a folder that is not taken."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record.files import TRAINING, RecordError
from interaction_monitor.record.record import Record

Measured = tuple[Probe, PlayerMap]


@dataclass
class NewRecord:
    """Makes a record at the first write: a run that is refused leaves no folder.

    Args:
        target: where it goes; a number is put behind it if there is something already.
        settings: what decides what a measurement means.
    """

    target: Path
    settings: dict[str, Any]
    _chosen: Path | None = None

    def make(self, probe: Probe, players: PlayerMap, train: Measured | None = None) -> Record:
        """Return the new record, beside which the training samples lie."""
        if self._chosen is None:  # what could not be finished for lack of room must not be made again elsewhere
            self._chosen = free(self.target)
        write_training_samples(self._chosen, train)  # first, because a record is complete when it is made
        return Record.create(self._chosen, settings=self.settings, players=players, probe=probe)


def free(target: Path, word: str = "") -> Path:
    """Return the path itself, or with the word and the first number behind it that nothing is called yet."""
    number, path = 0, target
    while path.exists():
        number += 1
        path = target.with_name(f"{target.name}_{word}{number}")
    return path


def write_training_samples(folder: Path, train: Measured | None) -> None:
    """Put the training samples beside a record, unless they are there.

    Raises:
        OSError: if the folder cannot be written.
    """
    if train is not None:
        with suppress(RecordError):  # they are there
            Record.create(folder / TRAINING, settings={}, players=train[1], probe=train[0])
