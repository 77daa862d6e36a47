from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from interaction_monitor.functional import (
    first_high_order,
    high_order_share,
    mean_order,
    mean_order_influence,
    mean_order_interval,
    order_distribution,
)
from interaction_monitor.functional.distribution import share_influence, share_interval, student_quantile


def test_distribution_sums_to_n_and_ignores_scale():
    torch.manual_seed(2)
    strength = torch.rand(7, 10)
    distribution = order_distribution(strength)
    assert distribution.sum().item() == pytest.approx(10)
    torch.testing.assert_close(order_distribution(strength * 1e-9), distribution)
    # the average over samples comes before the division: a strong sample weighs more
    uneven = torch.tensor([[9.0, 0.0], [0.0, 1.0]])
    assert order_distribution(uneven).tolist() == pytest.approx([1.8, 0.2])
    assert mean_order(uneven).item() == pytest.approx(1.1)
    assert mean_order(order_distribution(strength)).item() == pytest.approx(mean_order(strength).item())


def test_nothing_salient():
    nothing = torch.zeros(4, 6)
    assert order_distribution(nothing).tolist() == [0.0] * 6
    assert mean_order(nothing).isnan()
    assert math.isnan(high_order_share(nothing))
    assert all(math.isnan(bound) for bound in mean_order_interval(nothing))


def test_influence_is_the_derivative_of_the_mean_order():
    torch.manual_seed(5)
    strength = torch.rand(6, 4, dtype=torch.float64)
    influence = mean_order_influence(strength)
    assert influence.mean().abs() < 1e-12
    for sample in range(6):
        weight = torch.ones(6, 1, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(mean_order(strength * weight), weight)
        assert influence[sample].item() / 6 == pytest.approx(slope[sample].item())


def test_interval_covers_as_often_as_it_says():
    generator = torch.Generator().manual_seed(6)
    shape = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5]).double()
    truth = mean_order(shape).item()
    hits = 0
    for _ in range(2000):
        strength = -torch.rand(30, 5, generator=generator, dtype=torch.float64).log() * shape
        low, _, high = mean_order_interval(strength, level=0.9)
        hits += low <= truth <= high
    # binomial standard error 0.7%; the delta method covers a little less than it says at 30 samples
    assert 0.865 < hits / 2000 < 0.92


def test_interval_at_the_edges():
    assert mean_order_interval(torch.tensor([[1.0, 1.0, 0.0]])) == (1.0, 1.5, 3.0)
    same = mean_order_interval(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    assert same == (1.5, 1.5, 1.5)
    with pytest.raises(ValueError, match="level"):
        mean_order_interval(torch.ones(3, 2), level=95)
    with pytest.raises(ValueError, match="level"):  # said before the samples are looked at
        share_interval(torch.ones(3, 2), torch.ones(3, 2), level=95)


@pytest.mark.parametrize("of", [mean_order_influence, mean_order_interval])
def test_a_number_has_no_order(of):
    with pytest.raises(ValueError, match="orders on its last axis"):
        of(torch.tensor(1.0))


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 49, 500])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.975, 1 - 1e-4, 1 - 1e-9])
def test_student_quantile(level, freedom):
    assert student_quantile(level, freedom) == pytest.approx(stats.t.ppf(level, freedom), rel=1e-5, abs=1e-9)


def test_student_quantile_wants_a_tail():
    for p, freedom in ((0.3, 5), (1.0, 5), (0.9, 0)):
        with pytest.raises(ValueError, match="p must lie"):
            student_quantile(p, freedom)


def test_high_orders_start_above_a_third():
    for n in range(3, 30):
        first = first_high_order(n)
        assert first > n / 3 >= first - 1
    assert [first_high_order(n) for n in (1, 2)] == [2, 2]
    share = high_order_share(torch.tensor([1.0, 1.0, 1.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]))
    assert share == pytest.approx(5 / 8)
    assert high_order_share(torch.tensor([[3.0]])) == 0


def test_the_interval_of_a_share_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    whole = generator.lognormal(0, 0.5, (2000, 25))
    part = whole * generator.beta(6, 4, whole.shape)
    covered = [
        low <= 0.6 <= high
        for low, _, high in (share_interval(torch.tensor(p), torch.tensor(w)) for p, w in zip(part, whole, strict=True))
    ]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_influence_is_the_derivative_by_a_samples_weight():
    generator = torch.Generator().manual_seed(0)
    whole = torch.rand(6, generator=generator, dtype=torch.float64) + 0.5
    part = whole * torch.rand(6, generator=generator, dtype=torch.float64)
    step = 1e-6
    for index, influence in enumerate(share_influence(part, whole).tolist()):
        weight = torch.ones(6, dtype=torch.float64)
        weight[index] += step
        moved = (weight * part).sum() / (weight * whole).sum() - part.sum() / whole.sum()
        assert float(moved) / step * 6 == pytest.approx(influence, abs=1e-5)
