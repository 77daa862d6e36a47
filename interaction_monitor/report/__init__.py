"""A run's story, or a comparison, as one HTML file, for somebody who was not there."""

from interaction_monitor.report.page import comparison_page, report_page

__all__ = ["comparison_page", "report_page"]
