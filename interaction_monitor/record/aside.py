"""Measurements behind a checkpoint: kept in `set_aside/` until the resumed run has taken them again.

The folder holds `history.csv` and the measurements' files, as a record does, but no `run.json`: it is a part of the
record in which it lies.
"""

from __future__ import annotations

from pathlib import Path

from interaction_monitor.history import History
from interaction_monitor.record.encoding import measurement_name
from interaction_monitor.record.storage import RecordError, copy_file, remove_leftovers
from interaction_monitor.record.tables import NAME as ROWS
from interaction_monitor.record.tables import read_rows, write_rows

NAME = "set_aside"


def read_aside(folder: Path, n_players: int) -> History:
    """Return the rows that wait to be measured again; none where nothing does, or where they cannot be read."""
    try:
        return read_rows(folder / NAME / ROWS, n_players)
    except RecordError:
        return History()


def set_aside(folder: Path, rows: History, n_players: int) -> None:
    """Copy measurements into `set_aside/`, beside those that wait there already.

    Args:
        folder: The record's folder.
        rows: The measurements, in place in the record.
        n_players: Number of players.

    Raises:
        OSError: If the folder cannot be written.
    """
    if not len(rows):
        return
    (folder / NAME).mkdir(exist_ok=True)
    for row in rows:
        name = measurement_name(*row.position)
        copy_file(folder / "measurements" / name, folder / NAME / name)
    waiting = {row.position: row for row in (*read_aside(folder, n_players), *rows)}
    write_rows(folder / NAME / ROWS, History(waiting[position] for position in sorted(waiting)), n_players)


def drop_measured(folder: Path, position: tuple[int, int], n_players: int) -> None:
    """Remove from `set_aside/` what the run has measured again: all up to (epoch, step)."""
    waiting = read_aside(folder, n_players)
    left = History(row for row in waiting if row.position > position)
    if len(left) == len(waiting):
        return
    if len(left):
        write_rows(folder / NAME / ROWS, left, n_players)
        for row in waiting.until(*position):
            (folder / NAME / measurement_name(*row.position)).unlink(missing_ok=True)
        return
    (folder / NAME / ROWS).unlink(missing_ok=True)
    remove_leftovers(folder / NAME)
    for path in (folder / NAME).glob("epoch_*.npz"):
        path.unlink(missing_ok=True)
    (folder / NAME).rmdir()
