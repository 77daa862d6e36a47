from __future__ import annotations

import math
import re

import pytest
import torch
from scipy import stats

from interaction_monitor.functional import (
    and_interactions,
    first_high_order,
    generalizing_parts,
    generalizing_strength,
    high_order_share,
    mean_order,
    mean_order_influence,
    mean_order_interval,
    noise_floor,
    order_distribution,
    order_strength,
    order_turnover,
    saliency_threshold,
    salient_counts,
    salient_outputs,
)
from interaction_monitor.functional.intervals import student_quantile
from interaction_monitor.functional.saliency import sparsity_exponent


def brute_strength(and_, or_, tau, n):
    result = [0.0] * n
    for interactions in (and_, or_):
        for coalition in range(1, 2**n):
            size = abs(interactions[coalition].item())
            if size >= tau:
                result[bin(coalition).count("1") - 1] += size
    return result


def test_threshold_is_the_mean_change_over_all_samples():
    torch.manual_seed(0)
    v = torch.randn(3, 5, 16)
    expected = 0.03 * sum(abs(x[-1].item() - x[0].item()) for x in v.reshape(15, 16)) / 15
    assert saliency_threshold(v).item() == pytest.approx(expected, rel=1e-6)
    assert saliency_threshold(v, fraction=0.06).item() == pytest.approx(2 * expected, rel=1e-6)
    assert saliency_threshold(v).dtype == torch.float64


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_strength_agrees_with_a_loop(n):
    torch.manual_seed(n)
    and_, or_ = torch.randn(2, 4, 2**n).double()
    strength = order_strength(and_, or_, 0.7)
    assert strength.shape == (4, n)
    for sample in range(4):
        assert strength[sample].tolist() == pytest.approx(brute_strength(and_[sample], or_[sample], 0.7, n))
    alone = order_strength(and_, None, 0.7)
    torch.testing.assert_close(alone, order_strength(and_, torch.zeros_like(or_), 0.7))


def test_the_empty_coalition_never_counts_and_the_threshold_itself_does():
    and_ = torch.tensor([1e9, 0.5, 0.49, 0.0])
    assert order_strength(and_, None, 0.5).tolist() == [0.5, 0.0]
    assert salient_counts(and_, None, 0.5).tolist() == [1.0, 0.0]
    assert salient_counts(and_, None, 0.0).tolist() == [2.0, 0.0]


def test_threshold_per_sample():
    and_ = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]])
    assert order_strength(and_, None, torch.tensor([0.5, 2.5])).tolist() == [[3.0, 3.0], [0.0, 3.0]]
    assert salient_counts(and_, and_, torch.tensor([0.5, 2.5])).tolist() == [[4.0, 2.0], [0.0, 2.0]]


def salient_alone(and_, or_, tau):
    """Every function of a threshold, its results side by side, (samples, ...)."""
    turnovers = (
        order_turnover((and_, or_), (2 * and_, or_), before_tau=tau, tau=0.5),
        order_turnover((and_, or_), (2 * and_, or_), before_tau=0.5, tau=tau),
    )
    parts = generalizing_parts(and_, or_, [(and_, or_, 0.5)], tau=tau)
    return [
        order_strength(and_, or_, tau),
        salient_counts(and_, or_, tau),
        salient_outputs(and_, or_, tau),
        *(value for turnover in turnovers for value in vars(turnover).values()),
        generalizing_strength(and_, or_, [(and_, or_, 0.5)], tau=tau),
        generalizing_strength(and_, or_, [(and_, or_, 0.5), (and_, or_, tau)], tau=0.5),
        *vars(parts).values(),
        sparsity_exponent(and_, tau)[:, None],
    ]


def test_a_sample_whose_threshold_is_nan_is_unknown_and_the_others_are_as_without_it():
    and_, or_ = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    tau = torch.tensor([0.3, math.nan, 0.9, math.inf])
    others = [0, 2, 3]
    for some, rest in zip(
        salient_alone(and_, or_, tau), salient_alone(and_[others], or_[others], tau[others]), strict=True
    ):
        assert some[1].isnan().all()
        torch.testing.assert_close(some[others], rest, equal_nan=True)
    for every in salient_alone(and_, or_, math.nan):
        assert every.isnan().all()
    expected = [brute_strength(and_[s], or_[s], tau[s].item(), 3) for s in others]
    assert order_strength(and_, or_, tau)[others].tolist() == [pytest.approx(row) for row in expected]


@pytest.mark.parametrize("shape", [(4, 1), (3,), (1, 4)])
def test_a_threshold_of_another_shape_is_refused_by_name(shape):
    and_ = torch.ones(4, 8)
    pair, tau = (and_, and_), torch.ones(shape)
    said = rf"^tau must be a number, or one per sample of shape \(4,\), but has shape {re.escape(str(shape))}; squeeze"
    for function in (
        lambda: order_strength(*pair, tau),
        lambda: salient_counts(*pair, tau),
        lambda: salient_outputs(*pair, tau),
        lambda: order_turnover(pair, pair, before_tau=0.5, tau=tau),
        lambda: generalizing_strength(*pair, [(*pair, 0.5)], tau=tau),
        lambda: generalizing_parts(*pair, [(*pair, 0.5)], tau=tau),
        lambda: sparsity_exponent(and_, tau),
    ):
        with pytest.raises(ValueError, match=said):
            function()
    with pytest.raises(ValueError, match=r"^before_tau must be"):
        order_turnover(pair, pair, before_tau=tau, tau=0.5)
    with pytest.raises(ValueError, match=r"^references\[1\]: tau must be"):
        generalizing_strength(*pair, [(*pair, 0.5), (*pair, tau)], tau=0.5)


def test_a_threshold_spreads_over_axes_of_samples():
    and_ = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    tau = torch.tensor([0.4, 1.0])
    strength = order_strength(and_, None, tau[:, None])
    for index in range(2):
        torch.testing.assert_close(strength[index], order_strength(and_[index], None, tau[index]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_is_marked_and_left_out(bad):
    torch.manual_seed(1)
    and_ = torch.randn(3, 8).double()
    without = and_[[0, 2]]
    and_[1, 5] = bad
    for function in (order_strength, salient_counts):
        rows = function(and_, None, 0.1)
        assert rows[1].isnan().any()
        assert rows[[0, 2]].isfinite().all()
    strength = order_strength(and_, None, 0.1)
    kept = order_strength(without, None, 0.1)
    assert torch.equal(order_distribution(strength), order_distribution(kept))
    assert mean_order(strength) == mean_order(kept)
    assert mean_order_interval(strength) == mean_order_interval(kept)
    assert mean_order_influence(strength).isnan().tolist() == [False, True, False]
    assert high_order_share(strength) == high_order_share(kept)


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


def test_random_outputs_have_the_textbook_spindle():
    torch.manual_seed(3)
    v = torch.randn(50, 1024, dtype=torch.float64)
    distribution = order_distribution(order_strength(and_interactions(v), None, saliency_threshold(v)))
    # dividends of pure noise: binomial(n, k) of them, each of standard deviation 2^(k/2)
    expected = torch.tensor([math.comb(10, k) * 2 ** (k / 2) for k in range(1, 11)]).double()
    torch.testing.assert_close(distribution, 10 * expected / expected.sum(), rtol=0.1, atol=0.01)


def test_noise_floor_is_the_spread_of_dividends_of_noise():
    torch.manual_seed(4)
    noise = 0.3 * torch.randn(4000, 32, dtype=torch.float64)
    spread = and_interactions(noise).std(0)
    floor = noise_floor(5, 0.3)
    for coalition in range(1, 32):
        assert spread[coalition].item() == pytest.approx(floor[bin(coalition).count("1") - 1].item(), rel=0.06)


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


@pytest.mark.cuda
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    and_, or_ = torch.randn(2, 5, 64).double()
    on_device = order_strength(and_.cuda(), or_.cuda(), 0.5)
    torch.testing.assert_close(on_device.cpu(), order_strength(and_, or_, 0.5))
    assert mean_order_interval(on_device) == pytest.approx(mean_order_interval(on_device.cpu()))


@pytest.mark.parametrize("n", [1, 3, 5])
def test_salient_outputs_are_the_sums_over_each_coalition(n):
    torch.manual_seed(n)
    and_, or_ = torch.randn(2, 2, 2**n, dtype=torch.float64).unbind(1)
    taus = torch.tensor([0.3, 0.8], dtype=torch.float64)
    expected = torch.zeros(2, 2**n, dtype=torch.float64)
    for sample, tau in enumerate(taus.tolist()):
        for among in range(2**n):
            inside = [S for S in range(1, 2**n) if S & among == S and abs(and_[sample, S]) >= tau]
            touching = [S for S in range(1, 2**n) if S & among and abs(or_[sample, S]) >= tau]
            expected[sample, among] = and_[sample, 0] + and_[sample, inside].sum() + or_[sample, touching].sum()
    torch.testing.assert_close(salient_outputs(and_, or_, taus), expected, rtol=0, atol=1e-12)
    alone = salient_outputs(and_, None, taus)
    torch.testing.assert_close(alone[..., 0], and_[..., 0])
    torch.testing.assert_close(alone[..., -1], expected[..., -1] - salient_outputs(0 * and_, or_, taus)[..., -1])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"fraction.*-1"):
        saliency_threshold(torch.zeros(2, 4), fraction=-1)
    with pytest.raises(ValueError, match=r"or_ is \(3, 4\)"):
        order_strength(torch.zeros(2, 4), torch.zeros(3, 4), 0.1)
    with pytest.raises(ValueError, match=r"2\*\*n"):
        order_strength(torch.zeros(2, 5), None, 0.1)
    with pytest.raises(ValueError, match="orders on its last axis"):
        mean_order(torch.tensor(1.0))


def test_the_function_is_not_hidden_by_a_module_of_its_name():
    import interaction_monitor.functional as functional

    for name in functional.__all__:
        assert callable(getattr(functional, name)), name
