"""How far two rankings of runs agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Give Spearman's rank correlation; equal values share their mean rank.

    Args:
        first: the one number of each run.
        second: the other.

    Returns:
        -1..1; NaN for fewer than three runs or where one of the two is constant.

    Examples:
        >>> rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 40.0])
        0.8
    """
    if len(first) < 3:
        return float("nan")
    ranks = [
        np.array([np.mean([np.sum(np.less(x, y)), np.sum(np.less_equal(x, y)) - 1]) for y in x])
        for x in (np.asarray(first), np.asarray(second))
    ]
    a, b = (rank - rank.mean() for rank in ranks)
    spread = np.sqrt((a @ a) * (b @ b))
    return round(float(a @ b / spread), 10) if spread else float("nan")
