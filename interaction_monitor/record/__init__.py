"""What a run leaves on disk, and how it is read back."""

from interaction_monitor.record.encoding import Measurements
from interaction_monitor.record.files import RecordError
from interaction_monitor.record.manifest import Progress
from interaction_monitor.record.record import Record

__all__ = ["Measurements", "Progress", "Record", "RecordError"]
