"""Pure tensor mathematics of interactions: no Lightning, no files, no models."""

from interaction_monitor.functional.coalitions import coalition, members, n_players, orders
from interaction_monitor.functional.transforms import (
    and_interactions,
    and_outputs,
    or_interactions,
    or_outputs,
)

__all__ = [
    "and_interactions",
    "and_outputs",
    "coalition",
    "members",
    "n_players",
    "or_interactions",
    "or_outputs",
    "orders",
]
