"""Taking samples from a loader of somebody's run without touching the run's data loading."""

from interaction_monitor.loading.batches import TooFewSamplesError
from interaction_monitor.loading.read import UnreadableLoaderError, read_samples

__all__ = ["TooFewSamplesError", "UnreadableLoaderError", "read_samples"]
