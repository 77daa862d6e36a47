"""The fitted noise level, against planted noise and an exhaustive scan."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from interaction_monitor.functional import orders
from interaction_monitor.theory import (
    fit_sigma2,
    jensen_shannon,
    predicted_strength,
)


def interactions(n, *batch, seed=0, density=1.0):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(*batch, 2**n, generator=generator, dtype=torch.float64)
    return torch.where(torch.rand(w.shape, generator=generator) < density, w, 0)


def final_network(samples=40, n=6, seed=0):
    """Sparse interactions of every order, none so small that the threshold drops it."""
    w_and, w_or = interactions(n, 2, samples, seed=seed, density=0.3)
    w_or[:, orders(n) < 2] = 0
    return w_and, w_or


@pytest.mark.parametrize("with_or", [False, True])
@pytest.mark.parametrize("distance", ["jensen-shannon", "total-variation", "cosine"])
def test_fit_recovers_planted_noise(with_or, distance):
    w_and, w_or = final_network()
    w_or = w_or if with_or else None
    planted = torch.tensor([3.0, 0.2, 0.01, 1e-3, 1e-5, 0.0], dtype=torch.float64)
    strength = predicted_strength(w_and, w_or, planted)
    # the outputs of a growing network are larger, which the shares must not notice
    strength = strength * torch.tensor([0.1, 1, 2, 5, 10, 20])[:, None, None]
    fit = fit_sigma2(strength, w_and, w_or, tau=1e-9, distance=distance)
    assert torch.allclose(fit.sigma2[:5].log(), planted[:5].log(), atol=0.2)
    assert fit.sigma2[5] < 1e-7
    assert (fit.cosine > 0.999).all()
    assert (fit.divergence < 1e-3).all()
    assert ((fit.low <= planted * 1.2) & (planted <= fit.high * 1.2)).all()
    assert torch.allclose(fit.real.sum(-1), torch.full((6,), 6.0, dtype=torch.float64))
    assert torch.allclose(fit.theory.sum(-1), torch.full((6,), 6.0, dtype=torch.float64))


def test_fit_is_the_best_of_an_exhaustive_scan():
    w_and, w_or = final_network(seed=4)
    strength = interactions(6, 5, 40, seed=9)[..., :6].abs()
    fit = fit_sigma2(strength, w_and, w_or, tau=0.0, replicates=5, distance="jensen-shannon")
    assert fit.grid[0] == 0
    assert (fit.grid.diff() > 0).all()
    levels = torch.cat((torch.zeros(1), torch.logspace(-10, 3, 800))).double()
    theory = predicted_strength(w_and, w_or, levels).mean(1)
    scan = jensen_shannon(strength.mean(1)[:, None], theory)
    assert torch.allclose(fit.curve.min(-1).values, fit.divergence, atol=1e-12)
    # thresholds make the curve jump, so a finer scan may win by a little
    assert (fit.divergence <= scan.min(-1).values + 2e-3).all()
    at_best = predicted_strength(w_and, w_or, fit.sigma2).mean(1)
    assert torch.allclose(fit.theory, at_best / at_best.mean(-1, keepdim=True), rtol=1e-9)


def test_fit_predicts_from_what_is_salient_and_the_output_on_whole_and_empty_samples():
    w_and, w_or = final_network(seed=5)
    tau = 0.8
    salient_and, salient_or = (torch.where(w.abs() >= tau, w, 0) for w in (w_and, w_or))
    salient_and[:, 0] = w_and[:, 0]
    fit = fit_sigma2(predicted_strength(w_and, w_or, torch.tensor([0.3])), w_and, w_or, tau=tau)
    expected = predicted_strength(salient_and, salient_or, fit.sigma2, or_whole=w_or.sum(-1)).mean(1)
    assert torch.allclose(fit.theory, expected / expected.mean(-1, keepdim=True), rtol=1e-9)


def test_of_levels_that_match_as_well_the_least_is_taken():
    final = torch.randn(20, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fit = fit_sigma2(predicted_strength(final, None, torch.tensor([1e-8])), final, tau=0.0)
    assert fit.grid[fit.curve.argmin()] > 0
    assert fit.sigma2.tolist() == [0.0]


def test_interval_says_when_nothing_is_determined():
    # with one player every noise level predicts the same distribution
    w_and = torch.tensor([[0.3, 1.0], [0.1, -2.0]])
    fit = fit_sigma2(torch.ones(2, 2, 1), w_and, tau=0.0)
    assert fit.low.tolist() == [0, 0]
    assert fit.high.tolist() == pytest.approx([1e3, 1e3])
    assert fit.cosine.tolist() == pytest.approx([1, 1])


def test_more_samples_narrow_the_interval():
    generator = torch.Generator().manual_seed(0)
    width = []
    for samples in (8, 200):
        w_and, _ = final_network(samples)
        strength = predicted_strength(w_and, None, torch.tensor([0.01]))
        strength = strength * (1 + 0.5 * torch.randn(strength.shape, generator=generator).double()).abs()
        fit = fit_sigma2(strength, w_and, tau=0.0)
        width.append(float((fit.high / fit.low).log()))
    assert width[1] < width[0] / 2


def test_fit_is_reproducible_and_its_draws_are_seeded():
    w_and, w_or = final_network()
    strength = predicted_strength(w_and, w_or, torch.tensor([1.0, 0.1, 0.01])).roll(1, dims=1)
    one, same, other = (fit_sigma2(strength, w_and, w_or, tau=0.1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.low, same.low)
    assert torch.equal(one.sigma2, other.sigma2)
    assert not (torch.equal(one.low, other.low) and torch.equal(one.high, other.high))


def test_samples_that_diverged_are_left_out():
    w_and, w_or = final_network()
    strength = predicted_strength(w_and, w_or, torch.tensor([0.1, 0.0]))
    broken = strength.clone()
    broken[0, 3] = math.nan
    broken_and = w_and.clone()
    broken_and[7, 5] = math.inf
    kept = [s for s in range(40) if s not in (3, 7)]
    fit = fit_sigma2(broken, broken_and, w_or, tau=0.0)
    expected = fit_sigma2(strength[:, kept], w_and[kept], w_or[kept], tau=0.0)
    assert torch.equal(fit.sigma2, expected.sigma2)
    assert torch.equal(fit.real, expected.real)


def test_measurement_with_nothing_salient_has_no_noise_level():
    w_and, w_or = final_network()
    strength = predicted_strength(w_and, w_or, torch.tensor([0.1, 0.0]))
    strength[0] = 0
    fit = fit_sigma2(strength, w_and, w_or, tau=0.0)
    assert fit.sigma2[0].isnan()
    assert fit.low[0].isnan()
    assert fit.high[0].isnan()
    assert fit.theory[0].isnan().all()
    assert fit.cosine[0].isnan()
    assert fit.divergence[0].isnan()
    assert fit.sigma2[1] < 1e-6


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"tau": 1e9}, "reaches tau"),
        ({"tau": -1.0}, "tau must"),
        ({"tau": math.nan}, "tau must"),
        ({"distance": "euclid"}, "jensen-shannon"),
        ({"level": 1.0}, "level"),
        ({"replicates": 0}, "replicates"),
        ({"strength": torch.ones(2, 4, 3)}, "strength"),
        ({"strength": torch.ones(0, 5, 3)}, "strength"),
        ({"strength": torch.full((2, 5, 3), math.nan)}, "no sample"),
        ({"and_": torch.ones(8)}, "and_"),
        ({"and_": torch.ones(5, 7)}, "power|2\\*\\*n"),
        ({"or_": torch.ones(5, 4)}, "one shape"),
    ],
)
def test_bad_fit_input_is_named(change, word):
    arguments = {"strength": torch.ones(2, 5, 3), "and_": torch.ones(5, 8), "or_": torch.ones(5, 8), "tau": 0.1}
    arguments |= change
    with pytest.raises(ValueError, match=word):
        fit_sigma2(arguments.pop("strength"), arguments.pop("and_"), arguments.pop("or_"), **arguments)


# SciPy divides by zero at the smallest floats there are: zero itself, and what is clearly above it.
WEIGHTS = st.lists(st.just(0.0) | st.floats(1e-100, 1), min_size=4, max_size=4).filter(lambda x: sum(x) > 1e-3)


@settings(max_examples=50, deadline=None)
@given(p=WEIGHTS, q=WEIGHTS)
def test_jensen_shannon_is_scipys(p, q):
    ours = float(jensen_shannon(torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)))
    assert ours == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-9)
    assert 0 <= ours <= 1 + 1e-12
