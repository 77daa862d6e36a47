"""Pictures of the theory, against the numbers that they show."""

import numpy as np
import pytest
import torch

from interaction_monitor.plots.theory_figures import bars, noise_level, norm_ratio_figure
from interaction_monitor.theory import (
    fit_record,
    norm_ratio,
)


class TestFigures:
    def test_phase_one_is_grey_and_says_why(self, planted_run):
        overlay = fit_record(planted_run())
        figure = bars(overlay)
        assert len(figure.axes) == 6
        colours = [{patch.get_facecolor()[:3] for patch in ax.patches} for ax in figure.axes]
        for i, found in enumerate(colours):
            is_grey = all(red == green == blue for red, green, blue in found)
            assert is_grey == (i < 2), i
        assert "section" in figure.get_supxlabel()
        assert "3.3.3" in figure.get_supxlabel()

    def test_bars_have_the_shares_of_both(self, planted_run):
        overlay = fit_record(planted_run())
        heights = [patch.get_height() for patch in bars(overlay, [3]).axes[0].patches]
        both = torch.cat([overlay.fit.real[3] / 5, overlay.fit.theory[3] / 5])
        np.testing.assert_allclose(heights, both.numpy())

    def test_the_curve_shows_every_level(self, planted_run):
        overlay = fit_record(planted_run())
        top = noise_level(overlay).axes[0]
        curve = next(line for line in top.lines if len(line.get_xdata()) == 4 and line.get_linestyle() == "-")
        np.testing.assert_allclose(curve.get_ydata()[:3], overlay.fit.sigma2[2:5])
        assert 0 < curve.get_ydata()[3] < overlay.fit.grid[1]  # no noise has a place below the least level


def test_figure_draws_the_ratios():
    figure = norm_ratio_figure((2, 6), sigma2=(1e-3, 0.1, 10.0))
    left, right = figure.axes
    assert (len(left.lines), len(right.lines)) == (1, 5)
    expected = norm_ratio(6, torch.tensor([1e-3, 0.1, 10.0], dtype=torch.float64))
    assert np.allclose(right.lines[2].get_ydata(), expected[:, 2])
    with pytest.raises(ValueError, match="n_players"):
        norm_ratio_figure((1,))
    with pytest.raises(ValueError, match="sigma2"):
        norm_ratio_figure((4,), sigma2=(0.0, 1.0))
