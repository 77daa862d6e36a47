"""Where a change lies when the whole run is known: the yardstick for what is decided while it runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def valley(values: Sequence[float] | NDArray[np.float64]) -> tuple[int, float, float]:
    """Fit a curve that first never rises and then never falls, and give its lowest point.

    Two monotone segments are what the two phases are, whatever the shape of either. The least-squares fit is exact:
    pool-adjacent-violators from the left gives the best falling fit of every beginning, from the right the best rising
    fit of every end, and the split with the least error in sum is taken; of equal ones the last.

    Args:
        values: (E,) the curve.

    Returns:
        The index of the last measurement of the falling segment; how far the fit falls before and rises after it.

    Examples:
        >>> valley([3.0, 2.0, 1.0, 1.1, 0.9, 1.5, 2.0])
        (4, 2.05, 1.05)
    """
    curve = np.asarray(values, dtype=np.float64)
    falling = _isotonic_errors(-curve)
    rising = _isotonic_errors(-curve[::-1])[::-1]
    # The lowest measurement ends the fall: split i puts measurements 0..i into it.
    errors = [falling[i] + (rising[i + 1] if i + 1 < len(curve) else 0.0) for i in range(len(curve))]
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    before, after = -_isotonic(-curve[: best + 1]), _isotonic(curve[best + 1 :])
    lowest = before[-1]
    return best, float(before[0] - lowest), float(after[-1] - lowest) if len(after) else 0.0


def _isotonic(values: NDArray[np.float64]) -> NDArray[np.float64]:
    blocks: list[list[float]] = []  # mean, weight
    for value in values:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean, weight = blocks.pop()
            before = blocks[-1]
            blocks[-1] = [(before[0] * before[1] + mean * weight) / (before[1] + weight), before[1] + weight]
    return np.repeat([mean for mean, _ in blocks], [int(weight) for _, weight in blocks])


def _isotonic_errors(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the error of the best never-falling fit to each beginning; short curves, so each is fitted anew."""
    return np.array([np.square(values[: i + 1] - _isotonic(values[: i + 1])).sum() for i in range(len(values))])


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
