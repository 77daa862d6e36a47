"""Draws of samples, which must never change."""

import torch

from interaction_monitor.loading import draw


def test_draws_are_pinned_for_all_time():
    # Golden values: a resumed run must find the players of its start.
    assert draw(36, 10, 0, 0) == [8, 24, 21, 34, 10, 16, 32, 29, 33, 12]
    assert draw(5, 5, "probe", 7) == [2, 4, 3, 0, 1]


def test_draws_are_uniform_enough():
    counts = torch.zeros(36)
    for sample in range(2000):
        counts[draw(36, 10, 0, sample)] += 1
    # Binomial: 2000 * 10/36 = 556 with a standard deviation of 20.
    assert (counts - 2000 * 10 / 36).abs().max() < 5 * 20
