"""What a run leaves on disk, and how it is read back."""

from interaction_monitor.record.record import Measurements, Record
from interaction_monitor.record.storage import RecordError

__all__ = ["Measurements", "Record", "RecordError"]
