"""References: other networks for the same task, beside which a run shows which part of it will hold on new samples."""

from interaction_monitor.reference.references import References
from interaction_monitor.reference.salient import Salient
from interaction_monitor.reference.sources import Checkpoint
from interaction_monitor.reference.twins import Twins, TwinTraining

__all__ = ["Checkpoint", "References", "Salient", "TwinTraining", "Twins"]
