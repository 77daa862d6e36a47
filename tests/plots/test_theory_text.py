"""What is said of the theory beside a run."""

import numpy as np
import pytest

from interaction_monitor.plots.theory_text import rank_correlation


def test_rank_correlation_is_scipys():
    from scipy import stats

    generator = np.random.default_rng(0)
    first, second = generator.integers(6, size=(2, 30)).astype(float)
    assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert np.isnan(rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    assert np.isnan(rank_correlation([1.0, 2.0], [1.0, 2.0]))
