"""The conditions of sparsity, against sums written out coalition by coalition."""

import math
from itertools import combinations

import pytest
import torch

from interaction_monitor.functional import and_interactions
from interaction_monitor.functional.conditions import (
    average_outputs,
    discrimination_power,
    largest_drop,
    polynomial_degree,
    sparsity_exponent,
    transfer_curve,
)


def test_averages_are_those_over_all_coalitions_of_a_size():
    v = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sample in range(2):
        for k in range(1, 5):
            values = [float(v[sample, sum(1 << p for p in s)] - v[sample, 0]) for s in combinations(range(4), k)]
            assert float(average_outputs(v)[sample, k - 1]) == pytest.approx(sum(values) / len(values))


def test_a_drop_counts_from_the_highest_before_it():
    assert largest_drop(torch.tensor([3.0, 1.0, 2.0, 4.0])).item() == 0.5
    assert largest_drop(torch.tensor([-2.0, -1.0, 0.0])).item() == 0.0
    assert largest_drop(torch.tensor([1.0, 0.0])).item() == math.inf


@pytest.mark.parametrize("p", [0.5, 1.0, 2.5])
def test_the_degree_of_a_power_is_its_exponent(p):
    k = torch.arange(1, 8, dtype=torch.float64)
    assert polynomial_degree(3 * k**p).item() == pytest.approx(p)


def test_the_degree_is_the_least_that_bounds_every_pair():
    average = torch.tensor(
        [[1.0, 1.5, 8.0, 9.0], [5.0, 4.0, 3.0, 2.0], [-1.0, -2.0, -3.0, -4.0], [-3.0, -2.0, -1.0, 4.0]]
    )
    found = polynomial_degree(average)
    assert found.tolist()[1:] == [0.0, 0.0, math.inf]
    p = float(found[0])
    for q, holds in ((p + 1e-9, True), (p - 1e-3, False)):
        bounds = [(average[0, i], ((i + 1) / (j + 1)) ** q * average[0, j]) for j in range(4) for i in range(j)]
        assert all(small >= bound for small, bound in bounds) is holds


def test_the_exponent_meets_the_bound_with_equality():
    v = torch.randn(3, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    and_, tau = and_interactions(v), 0.7
    for sample, exponent in enumerate(sparsity_exponent(and_, tau).tolist()):
        count = sum(abs(float(i)) >= tau for i in and_[sample, 1:])
        change = abs(float(v[sample, -1] - v[sample, 0]))
        assert 5**exponent * change / tau == pytest.approx(count)
    assert sparsity_exponent(torch.ones(2, 4), tau=9.0).tolist() == [-math.inf] * 2
    with pytest.raises(ValueError, match="at least two players"):
        sparsity_exponent(torch.ones(2), tau=1.0)


def test_transfer_and_discrimination_are_those_of_their_definitions():
    generator = torch.Generator().manual_seed(2)
    effects = torch.randn(6, 9, generator=generator)
    mask = effects.abs() > 0.8
    mask[4] = False  # a sample without any
    counts = mask.sum(0).tolist()
    order = sorted(range(9), key=lambda p: (-counts[p], p))
    for k, share in enumerate(transfer_curve(mask).tolist(), start=1):
        parts = [sum(bool(mask[x, p]) for p in order[:k]) / int(mask[x].sum()) for x in range(6) if mask[x].any()]
        assert share == pytest.approx(sum(parts) / len(parts))
    weighted = total = 0.0
    for p in range(9):
        signs = [float(effects[x, p]) > 0 for x in range(6) if mask[x, p]]
        if signs:
            beta = max(signs.count(True), signs.count(False)) / len(signs)
            weighted, total = weighted + counts[p] * beta, total + counts[p]
    assert discrimination_power(effects, mask) == pytest.approx(weighted / total)
    assert math.isnan(discrimination_power(effects, torch.zeros_like(mask)))
    with pytest.raises(TypeError, match="must be bool"):
        transfer_curve(effects)
