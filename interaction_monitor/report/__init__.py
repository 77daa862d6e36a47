"""A run's story as one HTML file, for somebody who was not there."""

from interaction_monitor.report.page import report_page

__all__ = ["report_page"]
