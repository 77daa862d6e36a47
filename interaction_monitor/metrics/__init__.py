"""Interactions as torchmetrics metrics, for loops that already speak that language."""

from interaction_monitor.metrics.generalizing_strength import GeneralizingStrength
from interaction_monitor.metrics.order_distribution import OrderDistribution
from interaction_monitor.metrics.shared_strength import GeneralizationPower, SharedStrength

__all__ = ["GeneralizationPower", "GeneralizingStrength", "OrderDistribution", "SharedStrength"]
