"""The two phases of learning interactions: which one a network is in, and where the second began."""

from interaction_monitor.functional.intervals import mean_order_interval
from interaction_monitor.functional.saliency import high_order_share
from interaction_monitor.phases.loss_gap import GapOpening, gap_opening
from interaction_monitor.phases.onset import PhaseState, PhaseTracker
from interaction_monitor.phases.overfitting import OverfittingState, OverfittingTracker

__all__ = [
    "GapOpening",
    "OverfittingState",
    "OverfittingTracker",
    "PhaseState",
    "PhaseTracker",
    "gap_opening",
    "high_order_share",
    "mean_order_interval",
]
