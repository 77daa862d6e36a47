"""What lies where in a record: the name of every file, and of what the commands put beside them.

run.json                                       settings, players, package versions
players.npz  probe.npz                         who plays, on which samples
history.csv                                    one row of scalars per measurement
progress.json                                  the newest checkpoint, and whether the run came to its end
measurements/epoch_00012_step_00003456.npz     outputs and interactions of one measurement
training/                                      the training samples, as a record without measurements
set_aside/                                     measurements behind the checkpoint, until they are taken again
report.html  theory_bars.png  theory_noise_level.png
"""

from __future__ import annotations

from pathlib import Path

RUN = "run.json"
PLAYERS = "players.npz"
PROBE = "probe.npz"
HISTORY = "history.csv"
PROGRESS = "progress.json"
MEASUREMENTS = "measurements"
TRAINING = "training"
WAITING = "set_aside"
REPORT = "report.html"
THEORY_BARS = "theory_bars.png"
THEORY_NOISE_LEVEL = "theory_noise_level.png"


def is_record(folder: Path) -> bool:
    """Tell whether a folder is a record: from the moment that it has a `run.json`."""
    return (folder / RUN).exists()


def measurement_name(epoch: int, step: int) -> str:
    """Return the file name of a measurement, which sorts as the run went.

    Example:
        >>> measurement_name(12, 3456)
        'epoch_00012_step_00003456.npz'
    """
    return f"epoch_{epoch:05d}_step_{step:08d}.npz"


def measurement_path(folder: Path, position: tuple[int, int]) -> Path:
    """Return the file of the measurement at (epoch, step)."""
    # Built from two numbers, never from text that a record holds: no name can lead out of the folder.
    return folder / MEASUREMENTS / measurement_name(*position)
