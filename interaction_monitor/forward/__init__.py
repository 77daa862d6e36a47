"""The forward engine: the outputs of a model on all coalitions of the players of each sample."""

from interaction_monitor.forward.all_coalitions import masked_outputs
from interaction_monitor.forward.assign import assign_players
from interaction_monitor.forward.batching import MAX_FORWARDS, check_forwards
from interaction_monitor.settings import ForwardContext, ForwardFunc

__all__ = ["MAX_FORWARDS", "ForwardContext", "ForwardFunc", "assign_players", "check_forwards", "masked_outputs"]
