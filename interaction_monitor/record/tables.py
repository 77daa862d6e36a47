"""The file `history.csv`, one line of numbers per measurement, and the measurements that wait to be taken again.

Measurements behind a checkpoint are kept in `set_aside/` until the resumed run has taken them again. That folder holds
`history.csv` and the measurements' files, as a record does, but no `run.json`: it is a part of the record in which it
lies.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from interaction_monitor.history import History, Row, csv_columns
from interaction_monitor.record.encoding import OPTIONAL, measurement_arrays
from interaction_monitor.record.files import (
    HISTORY,
    MEASUREMENTS,
    RUN,
    WAITING,
    RecordError,
    Shape,
    check_arrays,
    copy_file,
    measurement_name,
    measurement_path,
    read_text,
    remove_leftovers,
    write_bytes,
)

_LIMIT = 2**28  # some hundred thousand measurements


def write_rows(path: Path, history: History, n_players: int) -> None:
    """Put the rows of a history in place whole.

    Raises:
        OSError: If the disk is full or the folder cannot be written; the old file is untouched then.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, csv_columns(n_players), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history.to_csv())
    write_bytes(path, text.getvalue().encode())


def read_rows(path: Path, n_players: int) -> History:
    """Read what `write_rows` wrote.

    Raises:
        RecordError: If the file is missing, damaged or of another number of players; the message names the line.
    """
    text = read_text(path, limit=_LIMIT)
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
                raise ValueError(f"it has {row.n_players} orders, {RUN} says {n_players} players")
            history.append(row)
    except (ValueError, csv.Error) as error:
        raise RecordError(f"{path}, line {reader.line_num}: {error}; {advice}") from error
    return history


def read_whole(folder: Path, n_samples: int, n_players: int) -> tuple[History, tuple[str, ...], tuple[str, ...]]:
    """Read the rows of a record whose arrays are there and whole.

    Returns:
        The rows; the measurements that are missing or damaged, and the arrays without a row, one sentence each.

    Raises:
        RecordError: As `read_rows`.
    """
    found = read_rows(folder / HISTORY, n_players)
    arrays = measurement_arrays(n_samples, n_players)
    whole, left_out = History(), []
    for row in found:
        damage = _damage(measurement_path(folder, row.position), arrays)
        if damage is None:
            whole.append(row)
        else:
            left_out.append(f"epoch {row.epoch}, step {row.step} is left out: {damage}")
    named = {measurement_path(folder, row.position).name for row in found}
    orphans = sorted({path.name for path in folder.glob(f"{MEASUREMENTS}/*.npz")} - named)
    ignored = (f"{MEASUREMENTS}/{name} has no row in {HISTORY} and is ignored" for name in orphans)
    return whole, tuple(left_out), tuple(ignored)


def read_waiting(folder: Path, n_players: int) -> History:
    """Return the rows that wait to be measured again; none where nothing does, or where they cannot be read."""
    try:
        return read_rows(folder / WAITING / HISTORY, n_players)
    except RecordError:
        return History()


def set_back(folder: Path, history: History, kept: int, n_players: int) -> None:
    """Keep the first measurements of a record; the others are put into `set_aside/`, beside those that wait there.

    Args:
        folder: The record's folder.
        history: The measurements that are whole; arrays of others are removed.
        kept: How many of them stay.
        n_players: Number of players.

    Raises:
        OSError: If the folder cannot be written.
    """
    remove_leftovers(folder)
    # A run that is killed in here has its measurements twice, never not at all.
    if len(history) > kept:
        _keep_waiting(folder, history[kept:], n_players)
    write_rows(folder / HISTORY, history[:kept], n_players)
    staying = {measurement_path(folder, row.position) for row in history[:kept]}
    for path in folder.glob(f"{MEASUREMENTS}/*.npz"):
        if path not in staying:
            path.unlink()


def _keep_waiting(folder: Path, rows: History, n_players: int) -> None:
    (folder / WAITING).mkdir(exist_ok=True)
    for row in rows:
        name = measurement_name(*row.position)
        copy_file(measurement_path(folder, row.position), folder / WAITING / name)
    waiting = {row.position: row for row in (*read_waiting(folder, n_players), *rows)}
    write_rows(folder / WAITING / HISTORY, History(waiting[position] for position in sorted(waiting)), n_players)


def drop_measured(folder: Path, position: tuple[int, int], n_players: int) -> None:
    """Remove from `set_aside/` what the run has measured again: all up to (epoch, step)."""
    waiting = read_waiting(folder, n_players)
    left = History(row for row in waiting if row.position > position)
    if len(left) == len(waiting):
        return
    if len(left):
        write_rows(folder / WAITING / HISTORY, left, n_players)
        for row in waiting.until(*position):
            (folder / WAITING / measurement_name(*row.position)).unlink(missing_ok=True)
        return
    (folder / WAITING / HISTORY).unlink(missing_ok=True)
    remove_leftovers(folder / WAITING)
    for path in (folder / WAITING).glob("epoch_*.npz"):
        path.unlink(missing_ok=True)
    (folder / WAITING).rmdir()


def _damage(path: Path, arrays: Mapping[str, tuple[str, Shape]]) -> RecordError | None:
    try:
        check_arrays(path, arrays, optional=OPTIONAL)
    except RecordError as error:
        return error
    return None
