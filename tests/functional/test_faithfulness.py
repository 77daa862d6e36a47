from __future__ import annotations

import math
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapiq import ExactComputer

from interaction_monitor.functional import (
    and_interactions,
    and_outputs,
    matching_error,
    matching_precision,
    matching_precision_curve,
    or_interactions,
    or_outputs,
    orders,
    shapley_values,
    sparsity_curve,
)
from interaction_monitor.functional.faithfulness import (
    average_outputs,
    bound_exponent,
    largest_drop,
    polynomial_degree,
    sparsity_exponent,
)


def split(v, gamma):
    """AND and OR interactions of v = (v/2 + γ) + (v/2 - γ), any γ; v(∅) to AND."""
    or_ = or_interactions(v / 2 - gamma)
    return and_interactions(v - or_outputs(or_)), or_


@st.composite
def splits(draw, samples=3):
    n = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    v, gamma = torch.randn(2, samples, 2**n, generator=generator, dtype=torch.float64)
    return v, *split(v, gamma)


def test_matching_error_against_a_loop():
    torch.manual_seed(0)
    v, and_, or_, delta = torch.randn(4, 8).double()
    errors = [
        v[t] - sum(and_[s] for s in range(8) if s & t == s) - sum(or_[s] for s in range(1, 8) if s & t)
        for t in range(8)
    ]
    assert matching_error(v, and_, or_).item() == pytest.approx(max(abs(e.item()) for e in errors))
    with_noise = max(abs((e - delta[t]).item()) for t, e in enumerate(errors))
    assert matching_error(v, and_, or_, delta).item() == pytest.approx(with_noise)


@given(splits())
def test_any_split_matches_all_outputs(game):
    v, and_, or_ = game
    assert matching_error(v, and_, or_).shape == (3,)
    assert matching_error(v, and_, or_).max() < 1e-12
    assert matching_error(v, and_interactions(v), None).max() < 1e-12


def test_noise_terms_are_added_back():
    torch.manual_seed(1)
    v = torch.randn(4, 32).double()
    delta = 0.02 * (2 * torch.rand(4, 32) - 1).double()
    and_ = and_interactions(v - delta)
    assert matching_error(v, and_, None, delta).max() < 1e-12
    torch.testing.assert_close(matching_error(v, and_, None), delta.abs().amax(-1))


def test_precision_against_a_loop():
    torch.manual_seed(2)
    v, gamma = torch.randn(2, 5, 8).double()
    and_, or_ = split(v, gamma)
    for sample in range(5):
        pooled = [*and_[sample, 1:].tolist(), *or_[sample, 1:].tolist()]
        pooled.sort(key=abs, reverse=True)
        for k in (1, 2, 5, 14):
            said = sum(abs(x) for x in pooled[:k])
            missed = abs(v[sample, -1] - v[sample, 0] - sum(pooled[:k])).item()
            assert matching_precision(v, and_, or_, k)[sample].item() == pytest.approx(said / (said + missed))


@given(splits())
def test_all_interactions_match_precisely(game):
    v, and_, or_ = game
    curve = matching_precision_curve(v, and_, or_)
    assert curve.shape == (3, 2 * (v.shape[-1] - 1))
    assert ((curve >= 0) & (curve <= 1)).all()
    torch.testing.assert_close(curve[:, -1], torch.ones(3).double())


def test_precision_where_there_is_nothing_to_match():
    nothing = torch.zeros(2, 4)
    assert matching_precision_curve(nothing, nothing, nothing).tolist() == [[1.0] * 6] * 2


def test_sparsity_curve_sorts_each_sample_on_its_own():
    torch.manual_seed(3)
    and_, or_ = torch.randn(2, 2, 3, 8).double()
    pooled = np.concatenate([and_[..., 1:], or_[..., 1:]], axis=-1).reshape(6, 14)
    expected = np.mean([sorted(np.abs(row))[::-1] for row in pooled], axis=0)
    np.testing.assert_allclose(sparsity_curve(and_, or_), expected)
    assert len(sparsity_curve(and_, None)) == 7


def brute_shapley(v, n):
    result = torch.zeros(n, dtype=torch.float64)
    orders = list(permutations(range(n)))
    for order in orders:
        present = 0
        for player in order:
            result[player] += v[present | 1 << player] - v[present]
            present |= 1 << player
    return result / len(orders)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_shapley_values_against_all_arrivals(n):
    torch.manual_seed(n)
    v, gamma = torch.randn(2, 2**n).double()
    torch.testing.assert_close(shapley_values(*split(v, gamma)), brute_shapley(v, n))
    torch.testing.assert_close(shapley_values(and_interactions(v), None), brute_shapley(v, n))


def test_shapley_values_against_shapiq():
    n = 7
    torch.manual_seed(7)
    v, gamma = torch.randn(2, 2**n).double()

    def game(coalitions):
        return v.numpy()[coalitions @ (1 << np.arange(n))]

    exact = ExactComputer(game, n)("SV")
    expected = [exact[(player,)] for player in range(n)]
    np.testing.assert_allclose(shapley_values(*split(v, gamma)), expected, atol=1e-10)


@given(splits())
def test_shapley_values_sum_to_the_output_change(game):
    v, and_, or_ = game
    torch.testing.assert_close(shapley_values(and_, or_).sum(-1), v[:, -1] - v[:, 0])


def test_one_or_pattern_is_shared_equally():
    or_ = torch.zeros(16).double()
    or_[0b1011] = 6.0
    expected = torch.tensor([2.0, 2.0, 0.0, 2.0]).double()
    torch.testing.assert_close(shapley_values(torch.zeros(16), or_), expected)
    torch.testing.assert_close(brute_shapley(or_outputs(or_), 4), expected)
    torch.testing.assert_close(brute_shapley(and_outputs(or_), 4), expected)


def test_bad_input_is_named():
    v = torch.zeros(2, 8)
    for bad in (0, 15, -1):
        with pytest.raises(ValueError, match=f"between 1 and 14.*{bad}"):
            matching_precision(v, v, v, bad)
    with pytest.raises(ValueError, match=r"v, and_ and or_ must have one shape.*or_ is \(2, 4\)"):
        matching_error(v, v, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"2\*\*n"):
        shapley_values(torch.zeros(2, 6), None)


def test_the_pooled_curve_sorts_all_samples_together():
    and_, or_ = torch.tensor([[5.0, 1.0, -3.0, 0.0], [5.0, 40.0, 2.0, 0.5]]), torch.zeros(2, 4)
    curve = sparsity_curve(and_, or_, pooled=True)
    assert curve.tolist() == [40.0, 3.0, 2.0, 1.0, 0.5] + [0.0] * 7
    assert sparsity_curve(and_, or_)[0] == 21.5  # (3 + 40) / 2


def test_averages_are_those_over_all_coalitions_of_a_size():
    v = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sample in range(2):
        for k in range(1, 5):
            values = [float(v[sample, sum(1 << p for p in s)] - v[sample, 0]) for s in combinations(range(4), k)]
            assert float(average_outputs(v)[sample, k - 1]) == pytest.approx(sum(values) / len(values))


def test_a_drop_counts_from_the_highest_before_it():
    assert largest_drop(torch.tensor([3.0, 1.0, 2.0, 4.0])).item() == 0.5
    assert largest_drop(torch.tensor([-2.0, -1.0, 4.0])).item() == 0.5  # nothing at all has 0
    assert largest_drop(torch.tensor([1.0, 0.0])).item() == math.inf


@pytest.mark.parametrize("p", [0.5, 1.0, 2.5])
def test_the_degree_of_a_power_is_its_exponent(p):
    k = torch.arange(1, 8, dtype=torch.float64)
    assert polynomial_degree(3 * k**p).item() == pytest.approx(p)
    assert polynomial_degree(torch.zeros(2, 0)).tolist() == [0, 0]  # without orders any p will do


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


def bound_by_hand(v, n):
    """p + δ by the digits of each order's sum to the base n, one sample, from the definition alone."""
    of_size = {k: [sum(1 << i for i in s) for s in combinations(range(n), k)] for k in range(n + 1)}
    mean = [sum(float(v[t] - v[0]) for t in of_size[k]) / len(of_size[k]) for k in range(n + 1)]
    if any(later < earlier for earlier, later in pairwise(mean)) or mean[1] <= 0:
        return math.nan
    p = max(math.log(mean[k] / mean[1]) / math.log(k) for k in range(2, n + 1))
    dividends = and_interactions(v)
    high, low = {}, {}
    for k in range(1, n + 1):
        total = n if k == 1 else float(dividends[of_size[k]].sum()) / mean[1]
        whole, digits = int(abs(total)), []
        while whole:
            whole, digit = divmod(whole, n)
            digits.append(digit)
        digits = digits or [0]
        digits[0] += abs(total) - int(abs(total))
        low[k] = math.copysign(sum(digit * n**i for i, digit in enumerate(digits) if i < int(p)), total)
        high[k] = math.copysign(sum(digit * n**i for i, digit in enumerate(digits) if i >= int(p)), total)
    found = []
    for m in (n - 1, n):
        weights = {k: math.comb(m, k) / math.comb(n, k) for k in range(1, n)}
        h, rest = (sum(weights[k] * part[k] for k in weights) for part in (high, low))
        if h:
            found.append(max(map(abs, high.values())) * ((n**p - rest) / h if h > 0 else rest / -h))
    return math.log(min(found)) / math.log(n) if min(found, default=0) > 0 else math.nan


def test_the_exponent_of_the_bound_is_that_of_its_definition():
    n = 5
    size = orders(n).double()
    noise = torch.randn(60, 2**n, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    v = size ** torch.linspace(0.5, 2.5, 60, dtype=torch.float64)[:, None] + 0.4 * noise
    found, expected = bound_exponent(average_outputs(v)), [bound_by_hand(row, n) for row in v]
    assert found.tolist() == [pytest.approx(value, nan_ok=True) for value in expected]
    assert 10 < int(found.isfinite().sum()) < 60
    p = ((average_outputs(v) / average_outputs(v)[:, :1]).log() / torch.arange(1, n + 1).log())[:, 1:].amax(1)
    known = p[found.isfinite()]
    assert known.min() < 1 < 2 < known.max()  # no digit is set aside, one, and two


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
