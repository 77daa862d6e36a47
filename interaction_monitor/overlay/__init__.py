"""What the theory predicts, laid over what a run's record holds: as a table, as pictures and in TensorBoard."""

from interaction_monitor.overlay.fitted import NoOverlayError, Overlay, Trend, lay_over

__all__ = ["NoOverlayError", "Overlay", "Trend", "lay_over"]
