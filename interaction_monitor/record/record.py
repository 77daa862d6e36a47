"""What a run leaves on disk: one folder that can be read back without the model, the data or Lightning.

    run.json                                       settings, players, package versions
    players.npz  probe.npz                         who plays, on which samples
    history.csv                                    one row of scalars per measurement
    measurements/epoch_00012_step_00003456.npz     outputs and interactions of one measurement

A measurement's arrays are put in place before its row, and a row counts only where its arrays are whole, so
a run killed at any moment leaves a record that opens with at most the measurement in progress missing.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from interaction_monitor.history import History, Row, csv_columns
from interaction_monitor.measurement import Measurement
from interaction_monitor.players.base import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import layout, manifest
from interaction_monitor.record.storage import (
    RecordError,
    Shape,
    check_arrays,
    read_text,
    remove_leftovers,
    write_arrays,
    write_bytes,
)

_CSV_LIMIT = 2**30


class Record:
    """The folder of one run, open for reading and, after `create` or `resume`, for writing.

    Nothing but `run.json` and `history.csv` is read before it is asked for.

    Attributes:
        folder: Where the record lies.
        settings: What the monitor was asked to do, as given to `create`.
        history: The scalars of every whole measurement.
        problems: What was found wrong but could be left out, one sentence each; empty for a clean record.

    Example:
        >>> import tempfile, torch
        >>> from interaction_monitor.players.base import PlayerMap
        >>> from interaction_monitor.probe import Probe
        >>> probe = Probe(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]))
        >>> players = PlayerMap(torch.arange(3).repeat(4, 1), n_players=3, axes=(1,), baseline=0.0)
        >>> folder = tempfile.mkdtemp()
        >>> _ = Record.create(folder, settings={"output": "log-odds"}, players=players, probe=probe)
        >>> record = Record.open(folder)
        >>> record.settings, len(record.history), record.players.n_players
        ({'output': 'log-odds'}, 0, 3)
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], history: History, problems: tuple[str, ...]) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = run["settings"]
        self.history = history
        self.problems = problems
        self._run = run

    @classmethod
    def create(cls, folder: str | Path, *, settings: Mapping[str, Any], players: PlayerMap, probe: Probe) -> Record:
        """Begin the record of a run.

        Args:
            folder: Where it goes; made if need be. It must not hold a record yet.
            settings: What the monitor was asked to do; anything that JSON can hold, e.g. the kind of players.
            players: The players of each probe sample.
            probe: The samples, kept so that players can be drawn on their inputs later.

        Returns:
            The record, ready for `write`.

        Raises:
            RecordError: If the folder already holds a record.
            TypeError: If the settings hold something that JSON cannot.
            OSError: If the folder cannot be written.
        """
        folder = Path(folder)
        if (folder / manifest.NAME).exists() or any(folder.glob("measurements/*.npz")):
            raise RecordError(
                f"{folder} already holds a record; go on with it by Record.resume, or choose another folder"
            )
        player_facts, player_arrays = layout.describe_players(players)
        probe_facts, probe_arrays = layout.describe_probe(probe)
        run = manifest.make(
            settings=dict(settings),
            n_samples=len(players.labels),
            n_players=players.n_players,
            players=player_facts,
            probe=probe_facts,
        )
        (folder / "measurements").mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        write_arrays(folder / "players.npz", player_arrays)
        write_arrays(folder / "probe.npz", probe_arrays)
        _write_history(folder, History(), players.n_players)
        # Last, because a folder counts as a record from the moment that it has a run.json.
        manifest.write(folder, run)
        return cls(folder, run, History(), ())

    @classmethod
    def open(cls, folder: str | Path) -> Record:
        """Open a record for reading; the folder is not changed.

        Rows whose arrays are missing or damaged are left out with a warning; arrays without a row, as a
        killed run leaves them, are ignored. Both are listed in `problems`.

        Args:
            folder: The run's folder.

        Returns:
            The record.

        Raises:
            RecordError: If the folder holds no record, a damaged one, or one of a newer version.
        """
        folder = Path(folder)
        run = manifest.read(folder)
        rows = _read_history(folder, run["n_players"])
        arrays = layout.measurement_arrays(run["n_samples"], run["n_players"])
        whole = History()
        problems = []
        for row in rows:
            damage = _damage(_file(folder, row.position), arrays)
            if damage is None:
                whole.append(row)
            else:
                problems.append(f"epoch {row.epoch}, step {row.step} is left out: {damage}")
        if problems:
            warnings.warn(f"{len(problems)} of {len(rows)} measurements: {problems[0]}", stacklevel=2)
        named = {_file(folder, row.position).name for row in rows}
        orphans = sorted({path.name for path in folder.glob("measurements/*.npz")} - named)
        problems += [f"measurements/{name} has no row in history.csv and is ignored" for name in orphans]
        return cls(folder, run, whole, tuple(problems))

    @classmethod
    def resume(cls, folder: str | Path, *, up_to: tuple[int, int] | None = None) -> Record:
        """Open a record to go on writing, back at the moment of a checkpoint.

        Args:
            folder: The run's folder.
            up_to: (epoch, step) of the checkpoint: what was measured after it is dropped, since the resumed
                run will measure it again. None keeps everything that is whole.

        Returns:
            The record, ready for `write`. Leftovers of a killed run are gone from the folder.

        Raises:
            RecordError: As `open`.
            OSError: If the folder cannot be written.
        """
        record = cls.open(folder)
        history = record.history if up_to is None else record.history.until(*up_to)
        _remove_leftovers(record.folder)
        _write_history(record.folder, history, record.n_players)
        kept = {_file(record.folder, row.position) for row in history}
        for path in record.folder.glob("measurements/*.npz"):
            if path not in kept:
                path.unlink()
        return cls(record.folder, record._run, history, ())

    def write(self, measurement: Measurement, row: Row) -> None:
        """Add a measurement: first its arrays, then its row.

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
        arrays = layout.pack_measurement(measurement, self.n_samples, self.n_players)
        write_arrays(_file(self.folder, row.position), arrays)
        _write_history(self.folder, history, self.n_players)
        self.history = history

    @property
    def n_samples(self) -> int:
        """Number of probe samples S."""
        return int(self._run["n_samples"])

    @property
    def n_players(self) -> int:
        """Number of players n."""
        return int(self._run["n_players"])

    @property
    def packages(self) -> dict[str, str]:
        """Versions of the packages that wrote the record."""
        return dict(self._run["packages"])

    @property
    def measurements(self) -> Measurements:
        """The measurements in the order of `history`, each read from its file when it is indexed."""
        paths = [_file(self.folder, row.position) for row in self.history]
        return Measurements(paths, n_samples=self.n_samples, n_players=self.n_players)

    @cached_property
    def players(self) -> PlayerMap:
        """The players of each probe sample, as they were drawn.

        Raises:
            RecordError: If `players.npz` is missing or damaged.
        """
        return layout.read_players(self.folder / "players.npz", self._run)

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
        return layout.read_probe(self.folder / "probe.npz", self._run)


class Measurements(Sequence[Measurement]):
    """Measurements on disk, each read when it is indexed and not kept.

    Args:
        paths: Their files, in order.
        n_samples: Number of probe samples S.
        n_players: Number of players n.
    """

    def __init__(self, paths: Sequence[Path], *, n_samples: int, n_players: int) -> None:
        self._paths = paths
        self._sizes = (n_samples, n_players)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Measurement: ...
    @overload
    def __getitem__(self, index: slice) -> Measurements: ...
    def __getitem__(self, index: int | slice) -> Measurement | Measurements:
        if isinstance(index, slice):
            n_samples, n_players = self._sizes
            return Measurements(self._paths[index], n_samples=n_samples, n_players=n_players)
        return layout.read_measurement(self._paths[index], *self._sizes)


def _file(folder: Path, position: tuple[int, int]) -> Path:
    # Built from two numbers, never from text that a record holds: no name can lead out of the folder.
    return folder / "measurements" / layout.measurement_name(*position)


def _damage(path: Path, arrays: Mapping[str, tuple[str, Shape]]) -> RecordError | None:
    try:
        check_arrays(path, arrays, optional=layout.OPTIONAL)
    except RecordError as error:
        return error
    return None


def _remove_leftovers(folder: Path) -> None:
    remove_leftovers(folder)
    remove_leftovers(folder / "measurements")


def _write_history(folder: Path, history: History, n_players: int) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, csv_columns(n_players), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history.to_csv())
    write_bytes(folder / "history.csv", text.getvalue().encode())


def _read_history(folder: Path, n_players: int) -> History:
    path = folder / "history.csv"
    text = read_text(path, limit=_CSV_LIMIT)
    advice = "restore it from a copy, or delete the lines from there on to keep what comes before"
    # Rows end with a line break, so a file that does not was cut off, perhaps within a number.
    if not text.endswith("\n"):
        raise RecordError(f"{path} is cut off in its last line; {advice}")
    reader = csv.DictReader(io.StringIO(text), restkey="", restval=None)
    history = History()
    try:
        if not set(csv_columns(n_players, optional=False)) <= set(reader.fieldnames or ()):
            raise ValueError(f"its first line does not name the columns of {n_players} players")
        for cells in reader:
            row = Row.from_csv(cells)
            if row.n_players != n_players:
                raise ValueError(f"it has {row.n_players} orders, run.json says {n_players} players")
            history.append(row)
    except (ValueError, csv.Error) as error:
        raise RecordError(f"{path}, line {reader.line_num}: {error}; {advice}") from error
    return history
