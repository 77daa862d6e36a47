"""Where the gap between test and train loss opens: first flat, then rising.

Curves are fitted by ones that never rise, or fall and then rise: least squares, exact, by pooling adjacent violators
(Ayer et al. 1955, "An empirical distribution function for sampling with incomplete information").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interaction_monitor._checks import require_between_0_and_1
from interaction_monitor.functional.distribution import student_quantile
from interaction_monitor.phases.change_tests import leaves_jitter, lowest, median_jitter

Values = NDArray[np.float64]  # (E,) one value per measurement


def falling_fits(values: Sequence[float] | Values) -> tuple[Values, Values, Values]:
    """Fit a never-rising curve to every beginning of the values, all in one pass.

    Args:
        values: (E,) the curve.

    Returns:
        (E,) sums of squared errors of the fits to values 0..i, (E,) where these fits end, and (E,) the fit to all.

    Examples:
        >>> errors, levels, fit = falling_fits([3.0, 1.0, 2.0])  # the last two are pooled
        >>> errors.tolist(), levels.tolist(), fit.tolist()
        ([0.0, 0.0, 0.5], [3.0, 1.0, 1.5], [3.0, 1.5, 1.5])
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
    return errors, levels, np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])


class Valley(NamedTuple):
    """The best fit by a curve that first never rises and then never falls."""

    turn: int  # index of the last value of the falling part; of equally good ones the last
    fit: Values

    @property
    def fall(self) -> float:
        """How far the fit falls before the turn."""
        return float(self.fit[0] - self.fit[self.turn])

    @property
    def rise(self) -> float:
        """How far the fit rises after the turn; negative if it ends below."""
        return float(self.fit[-1] - self.fit[self.turn])


def valley(values: Sequence[float] | Values) -> Valley:
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
    falling, rising = falling_fits(curve)[0], falling_fits(curve[::-1])[0][::-1]
    errors = falling + np.append(rising[1:], 0.0)
    turn = len(errors) - 1 - int(np.argmin(errors[::-1]))
    return Valley(turn, np.concatenate((falling_fits(curve[: turn + 1])[2], -falling_fits(-curve[turn + 1 :])[2])))


# The rise is fitted by a parabola up to this share of the first train loss: what comes later says nothing of its start.
EARLY = 0.1


class GapOpening(NamedTuple):
    """Where a loss gap opens, with the epochs that the jitter of the losses leaves possible."""

    low: float  # the first epoch at which it may have opened
    epoch: float  # the last measured epoch before it rises
    high: float  # the last epoch at which it may have opened


def gap_opening(
    losses: Sequence[tuple[float, float, float]], *, min_rise: float = 0.025, level: float = 0.95
) -> GapOpening | None:
    """Find where the gap between test and train loss leaves its low beginning.

    A gap that is flat and then opens has its lowest value anywhere in the flat part. So the opening is a change point:
    the gap never rises up to it, and after it rises along a parabola that never falls, until it has risen by a tenth of
    the first train loss. Least squares over all measurements as change points; the interval holds those whose error
    exceeds the least by no more than jitter explains. It knows of jitter from measurement to measurement alone, not of
    other samples.

    Args:
        losses: (epoch, train loss, test loss) of each measurement, in order; those with a loss that is not finite are
            left out. Steps may stand in the place of epochs.
        min_rise: a rise of the gap by less than this share of the first known loss, of training if both are, is no
            opening.
        level: coverage of the interval, between 0 and 1.

    Returns:
        The opening; None where the gap has not risen so far.

    Raises:
        ValueError: if `level` is not between 0 and 1, `min_rise` is negative, or the epochs fall.

    Examples:
        >>> train = [2.3, 1.8, 1.5, 1.3, 1.1, 0.9, 0.8, 0.7, 0.6, 0.5]
        >>> test = [2.3, 1.8, 1.5, 1.3, 1.1, 1.0, 1.0, 1.0, 1.0, 1.0]
        >>> gap_opening([(2 * i, a, b) for i, (a, b) in enumerate(zip(train, test))]).epoch
        8
    """
    if not min_rise >= 0:
        raise ValueError(f"min_rise must be at least 0, but is {min_rise}")
    known = [(at, train, test - train) for at, train, test in losses if math.isfinite(test - train)]
    if not known:
        return None
    epochs = [at for at, _, _ in known]
    scale = abs(next(loss for _, *both in losses for loss in both if math.isfinite(loss)))
    found = change_point(epochs, [gap for _, _, gap in known], early=EARLY * scale, least=min_rise * scale, level=level)
    return None if found is None else GapOpening(*(epochs[index] for index in found))


def change_point(
    times: Sequence[float], values: Sequence[float], *, early: float, least: float = 0.0, level: float = 0.95
) -> tuple[int, int, int] | None:
    """Find where a curve that is flat, or falls, begins to rise.

    Args:
        times: (E,) when the values were measured; equal ones lie apart by one measurement instead.
        values: (E,) the curve.
        early: the rise by which it is judged; what comes after says nothing of its start. 0 takes all of it.
        least: a smaller rise does not count.
        level: coverage of the interval, between 0 and 1.

    Returns:
        Indices of the first measurement at which it may have begun, of the last before it rises by the best fit, and of
        the last at which it may have begun; None where it has not risen.

    Raises:
        ValueError: if `level` is not between 0 and 1, or the times fall.

    Examples:
        >>> change_point(range(8), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0], early=3.0)
        (3, 3, 3)
    """
    require_between_0_and_1(0.95, level=level)
    steps = np.diff(np.asarray(times, dtype=np.float64))
    if (steps < 0).any():
        raise ValueError(f"epochs must not fall, but are {list(times)}")
    if len(values) < 3:
        return None
    at = np.arange(len(values), dtype=np.float64) if (steps == 0).any() else np.asarray(times, dtype=np.float64)
    curve = np.asarray(values, dtype=np.float64)
    if early > 0:  # one low value would be the whole of the early rise, and hide where the others begin to
        curve = _without_dips(curve, early)
    turn, fit = valley(curve)
    risen = fit - fit[turn]
    if not risen[-1] > least:
        return None
    last = len(curve) - 1
    end = next((i for i in range(turn + 1, last) if risen[i] >= early > 0), last) + 1
    errors = _errors(at[:end], curve[:end])
    best = int(np.argmin(errors))
    if math.isinf(errors[best]):
        return None
    # The jitter of all measurements, or what the parabola leaves where that is more.
    estimates = [median_jitter(curve.tolist(), drop_descents=drop) for drop in (False, True)]
    jitter = min((jitter for jitter, count in estimates if count), default=0.0)
    freedom = max(1, end - 3)
    variance = max(jitter**2, float(errors[best]) / freedom)
    most = errors[best] + variance * student_quantile(0.5 + level / 2, freedom) ** 2
    possible = np.flatnonzero(errors <= most).tolist()
    return possible[0], best, possible[-1]


def clear_rise(
    times: Sequence[float], values: Sequence[float], *, least: float, early: float, persistence: int, alpha: float
) -> tuple[int, int, int] | None:
    """Find where a curve of single numbers, losses say, begins to rise, once it is clear that it does.

    It is when each of the last `persistence` values lies by `least` above the lowest before, and `leaves_jitter` holds.

    Returns:
        As `change_point`, or thrice the lowest where it finds none; None while no rise is clear.
    """
    if len(values) <= persistence:
        return None
    turn = lowest(values[:-persistence])
    if any(value - values[turn] < least for value in values[-persistence:]):
        return None
    if not leaves_jitter(values, turn, persistence=persistence, alpha=alpha):
        return None
    return change_point(times, values, early=early) or (turn, turn, turn)


def _without_dips(curve: Values, depth: float) -> Values:
    """Raise single values that lie deeper than that below both of their neighbours to the lower one."""
    beside = np.minimum(curve[:-2], curve[2:])
    raised = np.where(curve[1:-1] < beside - depth, beside, curve[1:-1])
    return np.concatenate((curve[:1], raised, curve[-1:]))


def _errors(epochs: Values, gaps: Values) -> Values:
    """Give the error of never rising up to each measurement and rising by a parabola from there; inf where it falls."""
    falling, levels, _ = falling_fits(gaps)
    errors = np.full(len(gaps), math.inf)
    for index in range(len(gaps) - 1):
        after, above = epochs[index + 1 :] - epochs[index], gaps[index + 1 :] - levels[index]
        # A parabola never falls if its slope is at least 0 at either end: these two with weights of at least 0.
        late = after**2 / (2 * after[-1])
        early = after - late
        left = min(_residual(parts, above) for parts in ([early, late], [early], [late]))
        errors[index] = falling[index] + left
    return errors


def _residual(parts: list[Values], values: Values) -> float:
    columns = np.stack(parts, axis=1)
    weights = np.linalg.lstsq(columns, values, rcond=None)[0]
    if (weights < 0).any() or not (weights > 0).any():
        return math.inf
    return float(np.square(values - columns @ weights).sum())
