"""Interactions as torchmetrics metrics, for loops that already speak that language."""

from interaction_monitor.metrics.one_network import GeneralizingStrength, OrderDistribution
from interaction_monitor.metrics.several_networks import GeneralizationPower, SharedStrength

__all__ = ["GeneralizationPower", "GeneralizingStrength", "OrderDistribution", "SharedStrength"]
