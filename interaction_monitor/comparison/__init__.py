"""What several networks, or several moments of one, encode in common: from records or outputs to tables and pictures.

Chen et al. 2024, "Defining and extracting generalizable interaction primitives from DNNs".
"""

from interaction_monitor.comparison.comparison import (
    Comparison,
    Counting,
    Extraction,
    NotComparableError,
    ablate,
    compare_outputs,
    extract_again,
)
from interaction_monitor.comparison.networks import Network, compare, compare_networks, read_published

__all__ = [
    "Comparison",
    "Counting",
    "Extraction",
    "Network",
    "NotComparableError",
    "ablate",
    "compare",
    "compare_networks",
    "compare_outputs",
    "extract_again",
    "read_published",
]
