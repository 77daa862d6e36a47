"""What the interactions of each order do, by definition; planted mixtures of decay and spindle are found."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from interaction_monitor.functional import (
    and_interactions,
    generalizing_parts,
    generalizing_strength,
    high_order_share,
    mean_order,
    mean_order_influence,
    mean_order_interval,
    order_distribution,
    order_effects,
    order_similarity,
    order_strength,
    order_turnover,
    orders,
    saliency_threshold,
    salient_counts,
    salient_outputs,
)
from interaction_monitor.functional.faithfulness import sparsity_exponent
from interaction_monitor.functional.saliency import fit_shapes, order_cancellation
from interaction_monitor.measurement import interpret


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


def test_random_outputs_have_the_textbook_spindle():
    torch.manual_seed(3)
    v = torch.randn(50, 1024, dtype=torch.float64)
    distribution = order_distribution(order_strength(and_interactions(v), None, saliency_threshold(v)))
    # dividends of pure noise: binomial(n, k) of them, each of standard deviation 2^(k/2)
    expected = torch.tensor([math.comb(10, k) * 2 ** (k / 2) for k in range(1, 11)]).double()
    torch.testing.assert_close(distribution, 10 * expected / expected.sum(), rtol=0.1, atol=0.01)


@pytest.mark.cuda
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


def games(seed: int, *shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.round(decimals=1)


class TestEffects:
    def test_sum_to_the_output_change(self):
        v = games(3, 6, 32)
        result = interpret(v, interactions="and")
        torch.testing.assert_close(order_effects(result.and_, result.or_).sum(-1), v[:, -1] - v[:, 0])

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match="must have one shape"):
            order_effects(torch.zeros(4), torch.zeros(8))


class TestSimilarity:
    def test_is_one_for_the_same_means_and_zero_for_turned_signs(self):
        group = tuple(games(4, 2, 5, 8))
        torch.testing.assert_close(order_similarity(group, group), torch.ones(3).double())
        turned = tuple(-effects for effects in group)
        assert not order_similarity(group, turned).any()

    def test_is_the_mean_over_the_classes_of_both(self):
        first, second = tuple(games(5, 2, 6, 8)), tuple(games(6, 2, 4, 8))
        classes = torch.tensor([0, 0, 0, 1, 1, 7]), torch.tensor([1, 0, 1, 0])
        expected = []
        for one in (0, 1):
            a, b = (
                np.stack([e.numpy()[of.numpy() == one].mean(0) for e in group])
                for group, of in zip((first, second), classes, strict=True)
            )
            sims = []
            for order in (1, 2, 3):
                chosen = [c for c in range(8) if c.bit_count() == order]
                x, y = (np.concatenate([part[:, chosen].clip(0), (-part[:, chosen]).clip(0)]) for part in (a, b))
                sims.append(np.minimum(x, y).sum() / np.maximum(x, y).sum())
            expected.append(sims)
        np.testing.assert_allclose(order_similarity(first, second, classes), np.mean(expected, axis=0))

    def test_refuses_groups_that_cannot_be_compared(self):
        group = (torch.ones(2, 4),) * 2
        with pytest.raises(ValueError, match="2 and 3 players"):
            order_similarity(group, (torch.ones(2, 8),) * 2)
        with pytest.raises(ValueError, match="no class has samples in both"):
            order_similarity(group, group, (torch.tensor([0, 0]), torch.tensor([1, 1])))


def planted(n: int, share: float, rate: float, q: float) -> list[float]:
    decay = [rate ** (k - 1) for k in range(1, n + 1)]
    spindle = [math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(1, n + 1)]
    return [share * d / sum(decay) + (1 - share) * s / sum(spindle) for d, s in zip(decay, spindle, strict=True)]


@pytest.mark.parametrize(
    ("share", "rate", "q"), [(1.0, 0.3, 0.5), (0.0, 0.3, 0.5), (0.6, 0.25, 0.45), (0.35, 0.4, 0.6)]
)
def test_planted_mixtures_are_found(share, rate, q):
    fit = fit_shapes(7.0 * torch.tensor(planted(10, share, rate, q)))
    assert fit.decay_share.item() == pytest.approx(share, abs=0.02)
    assert fit.misfit.item() < 0.01
    torch.testing.assert_close((fit.decay + fit.spindle).sum(), torch.tensor(1.0, dtype=torch.float64))
    if share:
        assert fit.rate.item() == pytest.approx(rate, abs=0.02)
    if share < 1:
        assert fit.centre.item() == pytest.approx(10 * q / (1 - (1 - q) ** 10), abs=0.15)


def test_measurements_are_fitted_each_for_itself():
    strength = torch.tensor([[planted(6, 0.2, 0.3, 0.5), [0.0] * 6], [planted(6, 0.9, 0.3, 0.5), [1.0] * 6]])
    fit = fit_shapes(strength)
    assert fit.decay.shape == (2, 2, 6)
    assert fit.decay_share[0, 1].isnan()
    assert fit.spindle[0, 1].isnan().all()
    for i, j in ((0, 0), (1, 0), (1, 1)):
        torch.testing.assert_close(fit.decay_share[i, j], fit_shapes(strength[i, j]).decay_share)
    with pytest.raises(ValueError, match="at least 4 orders"):
        fit_shapes(torch.ones(3))
    with pytest.raises(ValueError, match="must not be negative"):
        fit_shapes(torch.tensor([1.0, -1.0, 0.0, 0.0]))


@pytest.mark.parametrize("taus", [[0.4] * 5, [0.4, 0.1, 0.8, 0.4, 1.2]], ids=["one threshold", "one per sample"])
def test_cancelling_is_that_of_its_definition(taus):
    generator = torch.Generator().manual_seed(0)
    and_, or_ = torch.randn(2, 5, 16, generator=generator, dtype=torch.float64)
    and_[3, 2] = math.nan
    found = order_cancellation(and_, or_, tau=taus[0] if len(set(taus)) == 1 else torch.tensor(taus))
    of = orders(4).tolist()
    for k in range(1, 5):
        net = gross = 0.0
        for sample in (0, 1, 2, 4):
            effects = [float(i[sample, s]) for i in (and_, or_) for s in range(16) if of[s] == k]
            effects = [x for x in effects if abs(x) >= taus[sample]]
            net, gross = net + abs(sum(effects)), gross + sum(map(abs, effects))
        assert float(found[k - 1]) == pytest.approx(1 - net / gross)
    assert order_cancellation(torch.zeros(2, 4), torch.zeros(2, 4)).isnan().all()


def test_effects_of_one_sign_cancel_by_nothing_less_than_nothing():
    for seed in range(20):
        effects = torch.rand(2, 3, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = order_cancellation(*effects)
        assert (found >= 0).all()
        assert (found < 1e-12).all()


def test_cancelling_refuses_what_does_not_fit():
    zero = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="tau must be a number, or one per sample"):
        order_cancellation(zero, zero, tau=torch.zeros(4))
    with pytest.raises(ValueError, match="and_ and or_ must have one shape"):
        order_cancellation(zero, torch.zeros(1, 4))


def test_cancelling_leaves_out_samples_without_a_threshold():
    and_, or_ = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = order_cancellation(and_, or_, tau=torch.tensor([0.1, math.nan, 0.1]))
    torch.testing.assert_close(found, order_cancellation(and_[[0, 2]], or_[[0, 2]], tau=0.1))
