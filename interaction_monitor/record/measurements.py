"""The measurements of a record, each read from its file when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from interaction_monitor.measurement import Measurement
from interaction_monitor.record import encoding


def measurement_path(folder: Path, position: tuple[int, int]) -> Path:
    """Return the file of the measurement at (epoch, step)."""
    # Built from two numbers, never from text that a record holds: no name can lead out of the folder.
    return folder / "measurements" / encoding.measurement_name(*position)


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
        return encoding.read_measurement(self._paths[index], *self._sizes)
