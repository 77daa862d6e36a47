"""What several networks, or several moments of one, encode in common: from records or outputs to tables and pictures.

Chen et al. 2024, "Defining and extracting generalizable interaction primitives from DNNs".
"""

from interaction_monitor.comparison.compared import (
    Comparison,
    Extraction,
    NotComparableError,
    compare,
    compare_outputs,
)

__all__ = ["Comparison", "Extraction", "NotComparableError", "compare", "compare_outputs"]
