"""Looking at a model without leaving a trace: whatever its forwards change is put back after each of them."""

from interaction_monitor.state._collectives import answered
from interaction_monitor.state._undisturbed import Kept, preserved_rng, silent, undisturbed, uninitialized

__all__ = ["Kept", "answered", "preserved_rng", "silent", "undisturbed", "uninitialized"]
