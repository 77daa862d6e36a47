"""Taking samples from a loader of somebody's run without touching the run's data loading."""

from interaction_monitor.loading.read import UnreadableLoaderError, read_samples
from interaction_monitor.loading.selection import TooFewSamplesError

__all__ = ["TooFewSamplesError", "UnreadableLoaderError", "read_samples"]
