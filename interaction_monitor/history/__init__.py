"""The run in numbers: a row of scalars per measurement, and where in it things happened."""

from interaction_monitor.history.history import History
from interaction_monitor.history.row import PHASES, Row, csv_columns

__all__ = ["PHASES", "History", "Row", "csv_columns"]
