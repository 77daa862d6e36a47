"""The file `history.csv`, and its like: one line of numbers per measurement."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from interaction_monitor.history import History, Row, csv_columns
from interaction_monitor.record.storage import RecordError, read_text, write_bytes

NAME = "history.csv"
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
                raise ValueError(f"it has {row.n_players} orders, run.json says {n_players} players")
            history.append(row)
    except (ValueError, csv.Error) as error:
        raise RecordError(f"{path}, line {reader.line_num}: {error}; {advice}") from error
    return history
