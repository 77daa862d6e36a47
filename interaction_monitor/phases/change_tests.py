"""When a curve of measurements has clearly fallen or risen: larger than its jitter, and true of most probe samples.

Nothing here knows of orders or phases. How the constants were found is in the documentation on phases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import torch

from interaction_monitor.functional.distribution import student_quantile

# Measurements averaged at the lowest and at the end: short ones for leaps, long ones for slow rises.
WINDOWS = ((1, 2), (2, 4), (4, 8))
# What jitter beside a rise is taken to be until it is learnt: a share of the fall, as if so many second differences had
# shown it.
ASSUMED_JITTER, ASSUMED_COUNT = 0.03, 4
# What jitter beside a fall is taken to be until it is learnt: a multiple of what the samples' scatter would make, as if
# so many second differences had shown it. In real runs it is 0.4 to 2 times that scatter.
SCATTER_JITTER, SCATTER_COUNT = 1.5, 2
# How much wider the test of single numbers gets by having few second differences; found by simulation.
CAUTION = 20

_student_quantile = lru_cache(maxsize=4096)(student_quantile)


class Curve:
    """One value per measurement, and what each probe sample adds to it, as far as it may still be compared.

    Attributes:
        values: one per measurement.
        linear: measurement to the samples' linearised values, whose mean is the measurement's.
    """

    def __init__(self) -> None:
        self.values: list[float] = []
        self.linear: dict[int, list[float]] = {}

    def append(self, value: float, linear: Sequence[float]) -> None:
        """Add a measurement."""
        self.values.append(value)
        self.linear[len(self.values) - 1] = list(linear)

    def forget(self, persistence: int) -> None:
        """Drop the samples' values of measurements that no later one will be compared with."""
        end, (before, after) = len(self.values), WINDOWS[-1]
        kept = {*range(before), *range(max(0, end - max(persistence, before + after)), end)}
        for before, after in WINDOWS:
            kept.update(self._lowest_window(before, end - after))
        self.linear = {index: self.linear[index] for index in sorted(kept) if index in self.linear}

    def has_fallen(self, *, persistence: int, least: float, alpha: float) -> bool:
        """Tell whether the last measurements lie clearly below the first.

        Args:
            persistence: how many of them must each show the least fall.
            least: the least fall.
            alpha: chance of a false yes in the whole run.
        """
        end = len(self.values)
        if end <= persistence or any(self.values[0] - value < least for value in self.values[-persistence:]):
            return False
        bends = _bends(self.values, drop_descents=False)[:-1]
        return any(
            self._is_higher(range(before), range(end - after, end), least=least, alpha=alpha, bends=bends)
            for before, after in WINDOWS
            if before + after <= end
        )

    def has_risen(self, *, persistence: int, min_rise: float, alpha: float, scale: float | None = None) -> bool:
        """Tell whether the last measurements lie clearly above the lowest before.

        Args:
            persistence: how many of them must each show the least rise.
            min_rise: the least rise as a share of the scale.
            alpha: chance of a false yes in the whole run.
            scale: what the least rise, and the jitter that is not known yet, are a share of; None means the fall.
        """
        values, end = self.values, len(self.values)
        if end <= persistence:
            return False
        lowest = min(values[: end - persistence])
        scale = values[0] - lowest if scale is None else scale
        if any(value - lowest < min_rise * scale for value in values[end - persistence :]):
            return False
        # The steps of a fall would only blur the jitter by their curvature.
        bends = _bends(values, drop_descents=True)[:-1]
        return any(
            self._is_higher(
                range(end - after, end),
                self._lowest_window(before, end - after),
                least=min_rise * scale,
                alpha=alpha,
                bends=bends,
                assumed=ASSUMED_JITTER * scale,
            )
            for before, after in WINDOWS
            if before + after <= end
        )

    def _is_higher(
        self,
        high: range,
        low: range,
        *,
        least: float,
        alpha: float,
        bends: Sequence[float],
        assumed: float | None = None,
    ) -> bool:
        """Put the change between two windows to two t-tests: against other samples, and against jitter.

        Jitter is learnt from the second differences beside the change, `bends`. Before that it is what is assumed, as
        if `ASSUMED_COUNT` bends had shown it; None is what the samples' scatter would make, times `SCATTER_JITTER`, as
        if `SCATTER_COUNT` had.
        """
        # What an earlier version forgot is not there to be compared with.
        if not {*high, *low} <= self.linear.keys():
            return False
        change = _mean(self.values, high) - _mean(self.values, low)
        mean, error, freedom = self._paired(high, low)
        # These levels add up to alpha; the first sixteen looks, where most onsets are, get two thirds of it.
        level = 9 * alpha / ((len(self.values) + 8) * (len(self.values) + 9))
        if change < least or not mean > _student_quantile(1 - level, freedom) * error:
            return False
        width = math.sqrt(1 / len(high) + 1 / len(low))
        scatter = SCATTER_COUNT, SCATTER_JITTER * error / width
        jitter, freedom = _pooled_jitter(bends, *(scatter if assumed is None else (ASSUMED_COUNT, assumed)))
        return change > _student_quantile(1 - level / len(WINDOWS), freedom) * jitter * width

    def _paired(self, high: range, low: range) -> tuple[float, float, int]:
        """Give the mean of the samples' own changes, linearised, its standard error and degrees of freedom."""
        above, below = (
            torch.tensor([self.linear[index] for index in window], dtype=torch.float64) for window in (high, low)
        )
        changes = above.mean(0) - below.mean(0)
        known = changes[changes.isfinite()]
        if len(known) < 2:
            return 0.0, math.inf, 1
        return float(known.mean()), float(known.std()) / math.sqrt(len(known)), len(known) - 1

    def _lowest_window(self, width: int, end: int) -> range:
        """Find the `width` measurements in a row before `end` that are lowest on average, the last of equal ones."""
        starts = range(end - width + 1)
        if not starts:
            return range(0)
        best = min(starts, key=lambda start: (_mean(self.values, range(start, start + width)), -start))
        return range(best, best + width)

    def state_dict(self) -> dict[str, Any]:
        """Give everything as plain numbers and lists."""
        return {
            "values": list(self.values),
            "linear": [[index, list(values)] for index, values in self.linear.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.values = list(state["values"])
        self.linear = {index: list(values) for index, values in state["linear"]}


def leaves_jitter(values: Sequence[float], reference: int, *, persistence: int, alpha: float) -> bool:
    """Tell whether the last of some single numbers lie above a reference by more than their jitter explains.

    The jitter is learnt from the median of the second differences, which single leaps leave alone, with or without the
    bends of a descent.

    Args:
        values: all of them.
        reference: the index of the one to compare with.
        persistence: how many of the last are averaged.
        alpha: chance of a false yes, spent as α/(m(m+1)) at look m.
    """
    change = sum(values[-persistence:]) / persistence - values[reference]
    looks = len(values) - 1
    quantile = NormalDist().inv_cdf(1 - alpha / (looks * (looks + 1)))
    estimates = [median_jitter(values, drop_descents=drop) for drop in (False, True)]
    spread = min((jitter * (1 + CAUTION / count) for jitter, count in estimates if count), default=math.inf)
    return change > quantile * spread * math.sqrt(1 + 1 / persistence)


def lowest(values: Sequence[float]) -> int:
    """Give the index of the lowest value, the last of equal ones: the change came after it."""
    return max(range(len(values)), key=lambda index: (-values[index], index))


def median_jitter(values: Sequence[float], *, drop_descents: bool) -> tuple[float, int]:
    """Estimate the standard deviation of the noise that each measurement has of its own, and from how many bends.

    From the median of |second differences|, which a steady trend leaves alone. In a rise after a fall the steps of the
    fall would only blur it by their curvature, so pairs of downward steps are dropped; the constants make white
    Gaussian noise come out right either way.
    """
    bends = _bends(values, drop_descents=drop_descents)
    if not bends:
        return math.nan, 0
    return bends[(len(bends) - 1) // 2] / (1.9546 if drop_descents else 1.6522), len(bends)


def _pooled_jitter(bends: Sequence[float], count: int, assumed: float) -> tuple[float, int]:
    """Estimate jitter from bends, and from what is assumed of it as if `count` more had shown it; with its freedom."""
    freedom = count + len(bends)
    # The second difference of white noise has six times its variance.
    return math.sqrt((count * assumed**2 + sum(bend**2 for bend in bends) / 6) / freedom), freedom


def _bends(values: Sequence[float], *, drop_descents: bool) -> list[float]:
    steps = [after - before for before, after in pairwise(values)]
    return sorted(abs(b - a) for a, b in pairwise(steps) if not (drop_descents and a < 0 and b < 0))


def _mean(values: Sequence[float], window: range) -> float:
    return sum(values[window.start : window.stop]) / len(window)
