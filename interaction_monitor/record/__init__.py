"""What a run leaves on disk: one folder that can be read back without the model, the data or Lightning.

Its files are listed in `interaction_monitor.record.files`. A measurement's arrays are put in place before its row, and
a row counts only where its arrays are whole, so a run killed at any moment leaves a record that opens with at most the
measurement in progress missing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from interaction_monitor.history import History, Row
from interaction_monitor.measurement import Measurement
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import encoding, files, manifest
from interaction_monitor.record.encoding import Measurements
from interaction_monitor.record.files import RecordError, copy_file, measurement_path, write_arrays
from interaction_monitor.record.manifest import Progress
from interaction_monitor.state import uninterrupted

__all__ = ["Measurements", "Progress", "Record", "RecordError"]


class Record:
    """The folder of one run, open for reading and, after `create` or `resume`, for writing.

    Nothing but `run.json` and `history.csv` is read before it is asked for.

    Attributes:
        folder: Where the record lies.
        settings: What the monitor was asked to do, as given to `create`.
        n_samples: Number of probe samples S.
        n_players: Number of players n.
        packages: Versions of the packages that wrote the record.
        history: The scalars of every whole measurement.
        left_out: Measurements that are missing or damaged, one sentence each; empty for a clean record.
        ignored: Arrays without a row, as a killed run leaves them, one sentence each.

    Examples:
        >>> import tempfile, torch
        >>> probe = Probe(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]))
        >>> players = PlayerMap(torch.arange(3).repeat(4, 1), n_players=3, axes=(1,), baseline=0.0)
        >>> new = Record.create(tempfile.mkdtemp(), settings={"output": "log-odds"}, players=players, probe=probe)
        >>> record = Record.open(new.folder)
        >>> record.settings, len(record.history), record.players.n_players
        ({'output': 'log-odds'}, 0, 3)
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        history: History,
        *,
        left_out: tuple[str, ...] = (),
        ignored: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = run["settings"]
        self.n_samples, self.n_players = int(run["n_samples"]), int(run["n_players"])
        self.packages: dict[str, str] = dict(run["packages"])
        self.history = history
        self.left_out, self.ignored = left_out, ignored
        self._run = run

    def __repr__(self) -> str:
        measured = f"{len(self.history)} measurements of {self.n_samples} samples, {self.n_players} players"
        return f"Record({self.folder}, {measured})"

    def _repr_html_(self) -> str:
        return self.history._repr_html_()

    @classmethod
    def create(cls, folder: str | Path, *, settings: Mapping[str, Any], players: PlayerMap, probe: Probe) -> Record:
        """Begin the record of a run, ready for `write`.

        Args:
            folder: Where it goes; made if need be. It must not hold a record yet.
            settings: What the monitor was asked to do; anything that JSON can hold, e.g. the kind of players.
            players: The players of each probe sample.
            probe: The samples, kept so that players can be drawn on their inputs later.

        Returns:
            The record, without a measurement.

        Raises:
            RecordError: If the folder already holds a record.
            TypeError: If the settings hold something that JSON cannot.
            OSError: If the folder cannot be written.
        """
        folder = manifest.require_free(Path(folder))
        facts, arrays = encoding.describe(players, probe)
        run = manifest.make(settings, facts)
        manifest.prepare(folder)
        for name, of_file in arrays.items():
            write_arrays(folder / name, of_file)
        encoding.write_rows(folder / files.HISTORY, History(), players.n_players)
        # Last, because a folder counts as a record from the moment that it has a run.json.
        manifest.write(folder, run)
        return cls(folder, run, History())

    @classmethod
    def open(cls, folder: str | Path) -> Record:
        """Open a record for reading; the folder is not changed.

        Rows whose arrays are missing or damaged are left out with a warning; arrays without a row, as a
        killed run leaves them, are ignored. `left_out` and `ignored` list them.

        Args:
            folder: The run's folder.

        Returns:
            The record, to read from.

        Raises:
            RecordError: If the folder holds no record, a damaged one, or one of a newer version.
        """
        folder = Path(folder)
        run = manifest.read(folder)
        whole, left_out, ignored = encoding.read_whole(folder, run["n_samples"], run["n_players"])
        if left_out:
            warnings.warn(f"{len(left_out)} of {len(whole) + len(left_out)} measurements: {left_out[0]}", stacklevel=2)
        return cls(folder, run, whole, left_out=left_out, ignored=ignored)

    @classmethod
    def resume(cls, folder: str | Path, *, up_to: tuple[int, int] | None = None) -> Record:
        """Open a record to go on writing, back at the moment of a checkpoint.

        What was measured after it waits in the folder `set_aside` until the resumed run has measured it again, and
        leftovers of a killed run are gone. To go another way from there and keep the record as it is, use `branch`.

        Args:
            folder: The run's folder.
            up_to: (epoch, step) of the checkpoint; None keeps everything that is whole.

        Returns:
            The record, ready for `write`.

        Raises:
            RecordError: As `open`.
            OSError: If the folder cannot be written.
        """
        record = cls.open(folder)
        history = record.history if up_to is None else record.history.until(*up_to)
        manifest.set_back(record.folder, record.history, len(history), record.n_players)
        return cls(record.folder, record._run, history)

    @classmethod
    def branch(cls, folder: str | Path, target: str | Path, *, up_to: tuple[int, int]) -> Record:
        """Begin a record, ready for `write`, that shares its first measurements with another, which stays as it is.

        Args:
            folder: The other run's folder.
            target: Where the new record goes; made if need be. It must not hold a record yet.
            up_to: (epoch, step) of the checkpoint from which the new run goes on, the last that is shared.

        Returns:
            The new record, which holds all measurements up to there.

        Raises:
            RecordError: As `open`, or if the target already holds a record.
            OSError: If the target cannot be written.
        """
        record, target = cls.open(folder), manifest.require_free(Path(target))
        history = record.history.until(*up_to)
        manifest.prepare(target)
        for name in (files.PLAYERS, files.PROBE):
            copy_file(record.folder / name, target / name)
        for row in history:
            copy_file(measurement_path(record.folder, row.position), measurement_path(target, row.position))
        encoding.write_rows(target / files.HISTORY, history, record.n_players)
        manifest.write(target, record._run)
        return cls(target, record._run, history)

    @uninterrupted()  # a measurement that the run knows already would be missing for good
    def write(self, measurement: Measurement, row: Row) -> None:
        """Add a measurement: first its arrays, then its row; Ctrl-C waits meanwhile.

        Args:
            measurement: What was measured on the record's samples and players.
            row: The same as scalars; its (epoch, step) comes after all earlier ones.

        Raises:
            ValueError: If a shape differs from the record's, or the row does not come after the others.
            OSError: If the disk is full or the folder cannot be written; the record stays as it was.
        """
        if row.n_players != self.n_players:
            raise ValueError(f"the record has {self.n_players} players, the row {row.n_players}")
        history = History([*self.history, row])
        arrays = encoding.pack_measurement(measurement, self.n_samples, self.n_players)
        write_arrays(measurement_path(self.folder, row.position), arrays)
        encoding.write_rows(self.folder / files.HISTORY, history, self.n_players)
        self.history = history
        with suppress(OSError):  # it is tried again at the next measurement
            manifest.drop_measured(self.folder, row.position, self.n_players)

    @property
    def problems(self) -> tuple[str, ...]:
        """What was found wrong: `left_out` and `ignored` together."""
        return self.left_out + self.ignored

    @property
    def waiting(self) -> History:
        """What was measured after the checkpoint from which the run was resumed, and not yet again."""
        return manifest.read_waiting(self.folder, self.n_players)

    @property
    def progress(self) -> Progress:
        """How far the run had come when it last noted it."""
        return manifest.read_progress(self.folder)

    def note(self, progress: Progress) -> None:
        """Write down how far the run has come.

        Raises:
            OSError: If the folder cannot be written.
        """
        manifest.write_progress(self.folder, progress)

    @property
    def measurements(self) -> Measurements:
        """The measurements in the order of `history`, each read from its file when it is indexed."""
        paths = [measurement_path(self.folder, row.position) for row in self.history]
        return Measurements(paths, n_samples=self.n_samples, n_players=self.n_players)

    @cached_property
    def players(self) -> PlayerMap:
        """The players of each probe sample, as they were drawn.

        Raises:
            RecordError: If `players.npz` is missing or damaged.
        """
        return encoding.read_players(self.folder / files.PLAYERS, self._run)

    @property
    def probe_inputs(self) -> Tensor | dict[str, Tensor]:
        """The inputs of the probe samples, (S, ...), or one such tensor per key.

        Raises:
            RecordError: If `probe.npz` is missing or damaged.
        """
        return self._probe[0]

    @property
    def probe_targets(self) -> Tensor | None:
        """The targets of the probe samples, (S,), if they have any.

        Raises:
            RecordError: If `probe.npz` is missing or damaged.
        """
        return self._probe[1]

    @cached_property
    def _probe(self) -> tuple[Tensor | dict[str, Tensor], Tensor | None]:
        return encoding.read_probe(self.folder / files.PROBE, self._run)


@dataclass
class NewRecord:
    """Makes a record at the first write: a run that is refused leaves no folder.

    Args:
        target: where it goes; a number is put after it if there is something already.
        settings: what decides what a measurement means.
    """

    target: Path
    settings: dict[str, Any]
    _chosen: Path | None = None

    def make(self, probe: Probe, players: PlayerMap, train: tuple[Probe, PlayerMap] | None = None) -> Record:
        """Return the new record, beside which the training samples lie."""
        if self._chosen is None:  # what could not be finished for lack of room must not be made again elsewhere
            self._chosen = manifest.free(self.target)
        write_training_samples(self._chosen, train)  # first, because a record is complete when it is made
        return Record.create(self._chosen, settings=self.settings, players=players, probe=probe)


def write_training_samples(folder: Path, train: tuple[Probe, PlayerMap] | None) -> None:
    """Put the training samples beside a record, unless they are there.

    Raises:
        OSError: if the folder cannot be written.
    """
    if train is not None:
        with suppress(RecordError):  # they are there
            Record.create(folder / files.TRAINING, settings={}, players=train[1], probe=train[0])
