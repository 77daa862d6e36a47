"""Jitter, against noise of a known standard deviation."""

from __future__ import annotations

import numpy as np
import pytest

from interaction_monitor.phases.change_tests import median_jitter


def test_jitter_is_the_standard_deviation_of_white_noise():
    noise = np.random.default_rng(13).standard_normal(40_000).tolist()
    for drop in (True, False):
        assert median_jitter(noise, drop_descents=drop)[0] == pytest.approx(1, rel=0.02)
    trend = [value + 5 * index for index, value in enumerate(noise)]
    assert median_jitter(trend, drop_descents=True)[0] == pytest.approx(0.845, rel=0.03)
    assert median_jitter([5.0, 3.0, 2.0, 1.5], drop_descents=True)[1] == 0
    assert median_jitter([1.0, 2.0], drop_descents=False)[1] == 0
