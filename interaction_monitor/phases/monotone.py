"""The best fits to a curve by one that never rises, by one that never falls, and by one that falls and then rises.

Least squares, exact, by pooling adjacent violators (Ayer et al. 1955, "An empirical distribution function for sampling
with incomplete information").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class FallingFits(NamedTuple):
    """The best never-rising fit to every beginning of a curve."""

    errors: NDArray[np.float64]  # (E,) sum of squared errors of the fit to values 0..i
    levels: NDArray[np.float64]  # (E,) where that fit ends


def falling_fits(values: Sequence[float] | NDArray[np.float64]) -> FallingFits:
    """Fit a never-rising curve to every beginning of the values, all in one pass.

    Args:
        values: (E,) the curve.

    Returns:
        The error and the last level of each.

    Examples:
        >>> fits = falling_fits([3.0, 1.0, 2.0])  # the last two are pooled
        >>> fits.errors.tolist(), fits.levels.tolist()
        ([0.0, 0.0, 0.5], [3.0, 1.0, 1.5])
    """
    curve = np.asarray(values, dtype=np.float64)
    errors, levels = np.zeros(len(curve)), np.zeros(len(curve))
    blocks: list[tuple[float, int]] = []  # mean and size
    error = 0.0
    for index, value in enumerate(curve.tolist()):
        mean, size = value, 1
        while blocks and blocks[-1][0] <= mean:
            before, count = blocks.pop()
            error += (mean - before) ** 2 * count * size / (count + size)
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
        errors[index], levels[index] = error, mean
    return FallingFits(errors, levels)


def falling_fit(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit a never-rising curve.

    Args:
        values: (E,) the curve.

    Returns:
        (E,) the fit; `-falling_fit(-values)` never falls.

    Examples:
        >>> falling_fit([3.0, 1.0, 2.0]).tolist()
        [3.0, 1.5, 1.5]
    """
    blocks: list[tuple[float, int]] = []
    for value in np.asarray(values, dtype=np.float64).tolist():
        mean, size = value, 1
        while blocks and blocks[-1][0] <= mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    return np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])


class Valley(NamedTuple):
    """The best fit by a curve that first never rises and then never falls."""

    turn: int  # index of the last value of the falling part; of equally good ones the last
    fit: NDArray[np.float64]  # (E,)

    @property
    def fall(self) -> float:
        """How far the fit falls before the turn."""
        return float(self.fit[0] - self.fit[self.turn])

    @property
    def rise(self) -> float:
        """How far the fit rises after the turn; negative if it ends below."""
        return float(self.fit[-1] - self.fit[self.turn])


def valley(values: Sequence[float] | NDArray[np.float64]) -> Valley:
    """Fit a curve that first never rises and then never falls.

    The split with the least error in sum is taken; where the curve is flat at its lowest, that is anywhere in the flat
    part.

    Args:
        values: (E,) the curve.

    Returns:
        Where it turns, and the fit.

    Examples:
        >>> fitted = valley([3.0, 2.0, 1.0, 1.1, 0.9, 1.5, 2.0])
        >>> fitted.turn, round(fitted.fall, 9), round(fitted.rise, 9)
        (4, 2.1, 1.1)
    """
    curve = np.asarray(values, dtype=np.float64)
    falling, rising = falling_fits(curve).errors, falling_fits(curve[::-1]).errors[::-1]
    errors = falling + np.append(rising[1:], 0.0)
    turn = len(errors) - 1 - int(np.argmin(errors[::-1]))
    return Valley(turn, np.concatenate((falling_fit(curve[: turn + 1]), -falling_fit(-curve[turn + 1 :]))))
