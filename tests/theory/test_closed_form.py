"""The closed form against dense algebra and high precision."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interaction_monitor.functional import and_outputs, or_interactions, or_outputs, order_strength, orders
from interaction_monitor.theory import (
    norm_ratio,
    predict,
    predict_and_or,
    predicted_strength,
    row_norms,
)

LEVELS = (1e-9, 1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3)


def triggered(n):
    """J[S, T] = 1(T ⊆ S), written with sets."""
    subsets = [{i for i in range(n) if mask >> i & 1} for mask in range(2**n)]
    return torch.tensor([[float(t <= s) for t in subsets] for s in subsets], dtype=torch.float64)


def noise_weights(n):
    return torch.tensor([2.0 ** bin(mask).count("1") for mask in range(2**n)], dtype=torch.float64)


def dense(features, targets, sigma2):
    """Minimise E_S (y_S - wᵀJ(x_S))² + Σ_T 2^{|T|} σ² w_T² by the normal equations, refined once.

    One step of iterative refinement gives a dense solve the digits that the condition number, 6.9ⁿ, takes.
    `targets` holds one regression in each column, as does the result.
    """
    rows = len(features)
    n = rows.bit_length() - 1
    system = features.T @ features + torch.diag(rows * sigma2 * noise_weights(n))
    right = features.T @ targets
    factor = torch.linalg.cholesky(system)
    solution = torch.cholesky_solve(right, factor)
    return solution + torch.cholesky_solve(right - system @ solution, factor)


def exact(w_star, sigma2):
    """The closed form by LU in 60 digits."""
    size = len(w_star)
    n = size.bit_length() - 1
    with mpmath.workdps(60):
        gram = mpmath.matrix(size)
        for a, b in itertools.product(range(size), repeat=2):
            gram[a, b] = mpmath.mpf(2) ** (n - bin(a | b).count("1"))
        system = gram.copy()
        for a in range(size):
            system[a, a] += size * mpmath.mpf(2) ** bin(a).count("1") * mpmath.mpf(sigma2)
        solution = mpmath.lu_solve(system, gram * mpmath.matrix(w_star.tolist()))
        return torch.tensor([float(x) for x in solution], dtype=torch.float64)


def interactions(n, *batch, seed=0, density=1.0):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(*batch, 2**n, generator=generator, dtype=torch.float64)
    return torch.where(torch.rand(w.shape, generator=generator) < density, w, 0)


def difference(a, b):
    return float((a - b).norm() / b.norm())


def contained(values, mirrored=False):
    """J x, or Jᵀ x, exactly: sums over subsets, or over supersets, of fractions."""
    values = list(values)
    for bit in (1 << i for i in range(len(values).bit_length() - 1)):
        for mask in range(len(values)):
            if mask & bit:
                target, source = (mask ^ bit, mask) if mirrored else (mask, mask ^ bit)
                values[target] += values[source]
    return values


def refined(w_star, sigma2):
    """The closed form by a dense Cholesky solve, corrected by exact residuals until it is right to the last digit.

    On its own the solve may lose as many digits as the condition number has, how many depends on the number of threads.
    """
    size = len(w_star)
    n = size.bit_length() - 1
    gram = 2.0 ** (n - orders(n)[torch.arange(size)[:, None] | torch.arange(size)].double())
    factor = torch.linalg.cholesky(gram + torch.diag(size * sigma2 * noise_weights(n)))
    weights = [size * Fraction(sigma2) * 2 ** bin(mask).count("1") for mask in range(size)]
    wanted = [Fraction(value) for value in w_star.tolist()]
    solution = [Fraction(0)] * size
    for _ in range(4):
        missing = contained(contained(a - b for a, b in zip(wanted, solution, strict=True)), mirrored=True)
        residual = [m - c * x for m, c, x in zip(missing, weights, solution, strict=True)]
        right = torch.tensor([float(value) for value in residual], dtype=torch.float64)
        correction = torch.cholesky_solve(right[:, None], factor)[:, 0]
        solution = [x + Fraction(c) for x, c in zip(solution, correction.tolist(), strict=True)]
    found = torch.tensor([float(value) for value in solution], dtype=torch.float64)
    assert float(correction.norm()) <= 1e-14 * float(found.norm())
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 10])
@pytest.mark.parametrize("sigma2", [0.0, *LEVELS])
def test_equals_the_dense_solve(n, sigma2):
    w_star = interactions(n, seed=n, density=0.3)
    w_star[0] = 1.0
    assert difference(predict(w_star, sigma2), refined(w_star, sigma2)) < 1e-10


@pytest.mark.parametrize("sigma2", LEVELS)
def test_every_order_is_right_to_eleven_digits(sigma2):
    w_star = interactions(6, seed=3)
    predicted, expected = predict(w_star, sigma2), exact(w_star, sigma2)
    for order in range(7):
        chosen = orders(6) == order
        assert difference(predicted[chosen], expected[chosen]) < 1e-11


@pytest.mark.parametrize("n", [1, 4, 11])
def test_without_noise_nothing_changes(n):
    w_star = interactions(n, 3)
    assert torch.equal(predict(w_star, 0.0), w_star)
    assert torch.equal(predict(w_star, torch.tensor([0.1, 0.0]))[1], w_star)


def test_vanishing_noise_leads_to_no_noise():
    w_star = interactions(8)
    assert difference(predict(w_star, 1e-14), w_star) < 1e-6


def test_overwhelming_noise_leaves_the_correlations_over_their_variance():
    # (JᵀJ + 2ⁿσ²D)⁻¹ JᵀJ w* -> D⁻¹ JᵀJ w* / (2ⁿσ²)
    n, sigma2 = 7, 1e12
    w_star = interactions(n)
    features = triggered(n)
    limit = features.T @ (features @ w_star) / noise_weights(n) / (2**n * sigma2)
    assert difference(predict(w_star, sigma2), limit) < 1e-8


def test_batches_and_levels_are_independent():
    w_star = interactions(6, 2, 3)
    levels = torch.tensor([0.0, 1e-4, 0.3, 50.0], dtype=torch.float64)
    together = predict(w_star, levels)
    assert together.shape == (4, 2, 3, 64)
    for k, i, j in itertools.product(range(4), range(2), range(3)):
        assert torch.allclose(together[k, i, j], predict(w_star[i, j], float(levels[k])), rtol=1e-12, atol=1e-14)


def test_many_levels_go_through_in_chunks(monkeypatch):
    w_star = interactions(5, 4)
    levels = torch.logspace(-6, 2, 13, dtype=torch.float64)
    whole = predict(w_star, levels)
    monkeypatch.setattr("interaction_monitor.theory.closed_form._CHUNK", 300)
    assert torch.allclose(predict(w_star, levels), whole, rtol=1e-12, atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
    a=st.floats(-5, 5),
    b=st.floats(-5, 5),
    exponent=st.floats(-8, 3),
)
def test_prediction_is_linear(n, seed, a, b, exponent):
    x, y = interactions(n, 2, seed=seed)
    sigma2 = 10**exponent
    combined = predict(a * x + b * y, sigma2)
    assert torch.allclose(combined, a * predict(x, sigma2) + b * predict(y, sigma2), rtol=1e-9, atol=1e-11)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 7), seed=st.integers(0, 2**32 - 1), shift=st.integers(1, 6))
def test_renaming_players_renames_the_prediction(n, seed, shift):
    index = torch.arange(2**n)
    shift %= n
    renamed = ((index << shift) | (index >> (n - shift))) & (2**n - 1)
    w_star = interactions(n, seed=seed)
    assert torch.allclose(predict(w_star[renamed], 0.01), predict(w_star, 0.01)[renamed], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("w_star", "sigma2", "word"),
    [
        (torch.zeros(8), -1.0, "sigma2"),
        (torch.zeros(8), math.nan, "sigma2"),
        (torch.zeros(8), torch.tensor([0.1, math.inf]), "sigma2"),
        (torch.zeros(8), torch.zeros(2, 2), "sigma2"),
        (torch.tensor([0.0, math.nan]), 0.1, "w_star"),
        (torch.zeros(7), 0.1, "power|2\\*\\*n"),
        (torch.zeros(1), 0.1, "power|2\\*\\*n"),
    ],
)
def test_bad_input_is_named(w_star, sigma2, word):
    with pytest.raises(ValueError, match=word):
        predict(w_star, sigma2)


def test_no_samples_have_no_prediction():
    nothing = torch.zeros(0, 8)
    assert predict(nothing, 0.1).shape == (0, 8)
    assert predict(nothing, torch.tensor([0.0, 0.1])).shape == (2, 0, 8)
    assert predict_and_or(nothing, nothing, 0.1).or_.shape == (0, 8)
    assert predicted_strength(nothing, None, 0.1).shape == (0, 3)


# --- AND and OR -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma2", [0.0, 1e-4, 0.02, 3.0])
def test_or_is_the_regression_on_absent_players(sigma2):
    # written without any flip of vectors: the output v_or(x_T) is regressed on "all of S are absent in x_T",
    # whose true weights are v_or(x_N) for S = ∅ and -I_or(S) else
    n = 5
    w_or = interactions(n, seed=8, density=0.4)
    w_or[0] = 0
    outputs = or_outputs(w_or)
    subsets = [{i for i in range(n) if mask >> i & 1} for mask in range(2**n)]
    absent = torch.tensor([[float(not s & t) for s in subsets] for t in subsets], dtype=torch.float64)
    expected = dense(absent, outputs[:, None], sigma2)[:, 0]
    predicted = predict_and_or(torch.zeros(2**n), w_or, sigma2)
    assert torch.allclose(predicted.or_[1:], -expected[1:], rtol=1e-9, atol=1e-11)
    assert float(predicted.or_whole) == pytest.approx(float(expected[0]), rel=1e-9)
    assert predicted.or_[0] == 0


def test_and_is_not_touched_by_or():
    w_and, w_or = interactions(6, 2, 3)
    predicted = predict_and_or(w_and, w_or, torch.tensor([0.0, 0.05]))
    assert torch.allclose(predicted.and_, predict(w_and, torch.tensor([0.0, 0.05])), rtol=1e-12, atol=1e-14)
    assert torch.equal(predicted.and_[0], w_and)
    assert torch.equal(predicted.or_[0][:, 1:], w_or[:, 1:])


def test_flipping_a_game_swaps_the_two_predictions():
    # Appendix D: the OR interactions of v are minus the AND interactions of the game with present and absent swapped
    v = interactions(6)
    v[0] = 0
    w_or = or_interactions(v)
    flipped_dividends = -w_or
    flipped_dividends[0] = v[-1]
    assert torch.allclose(and_outputs(flipped_dividends), v.flip(-1), atol=1e-11)
    predicted = predict_and_or(torch.zeros(64), w_or, 0.03)
    assert torch.allclose(predicted.or_[1:], -predict(flipped_dividends, 0.03)[1:], rtol=1e-9, atol=1e-11)


def test_threshold_is_a_share_of_the_predicted_output_change():
    w_and, w_or = interactions(5, 2)
    predicted = predict_and_or(w_and, w_or, 0.01)
    # the flipped network's output is ŵ_∅ on the whole sample and Σ ŵ_S where everything is absent
    whole = and_outputs(predicted.and_)[-1] + predicted.or_whole
    empty = predicted.and_[0] + predicted.or_whole - predicted.or_.sum()
    assert float(predicted.threshold()) == pytest.approx(0.03 * abs(float(whole - empty)))


def test_or_output_on_the_whole_sample_can_be_given():
    w_and, w_or = interactions(5, 2)
    given_sum = predict_and_or(w_and, w_or, 0.1, or_whole=w_or[1:].sum())
    assert torch.allclose(given_sum.or_, predict_and_or(w_and, w_or, 0.1).or_)
    other = predict_and_or(w_and, w_or, 0.1, or_whole=w_or[1:].sum() + 1)
    assert not torch.allclose(given_sum.or_, other.or_)


# --- norms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4, 7, 8])
@pytest.mark.parametrize("sigma2", [0.0, *LEVELS])
def test_row_norms_equal_the_dense_ones(n, sigma2):
    features = triggered(n)
    expected = dense(features, features, sigma2).norm(dim=1)
    got = row_norms(n, sigma2)
    assert torch.allclose(got[orders(n)], expected, rtol=1e-10)
    assert torch.allclose(norm_ratio(n, sigma2), got[1:-1] / got[2:], rtol=1e-14)


@pytest.mark.parametrize("n", [10, 20, 30])
def test_row_norms_at_overwhelming_noise(n):
    # rows of D⁻¹JᵀJ/(2ⁿσ²): √5 for each player outside T, √2/2 for each inside
    expected = [5 ** ((n - k) / 2) * 2 ** (-k / 2) / (2.0**n * 1e18) for k in range(n + 1)]
    assert np.allclose(row_norms(n, 1e18).numpy(), expected, rtol=1e-6, atol=0)
    assert np.allclose(norm_ratio(n, 1e18).numpy(), math.sqrt(10), rtol=1e-6)


def test_row_norms_equal_those_of_single_predictions():
    # the norm of a row of M̂ = D⁻¹ M̂ᵀ D, so one prediction from one interaction gives it
    n, sigma2 = 14, 1e-4
    weights = noise_weights(n)
    for order in (0, 1, 7, 14):
        w_star = torch.zeros(2**n, dtype=torch.float64)
        w_star[(1 << order) - 1] = 1
        row = predict(w_star, sigma2) * weights / weights[(1 << order) - 1]
        assert float(row_norms(n, sigma2)[order]) == pytest.approx(float(row.norm()), rel=1e-10)


@pytest.mark.parametrize("n", range(2, 11))
def test_norm_ratio_exceeds_one_and_rises_with_noise(n):
    ratio = norm_ratio(n, torch.logspace(-6, 3, 37, dtype=torch.float64))
    assert ratio.shape == (37, n - 1)
    assert (ratio > 1).all()
    assert (ratio.diff(dim=0) > 0).all()


def test_proposition_one_fails_for_twelve_players():
    # not a matter of rounding: a dense solve of one row each, refined, finds the same
    n, sigma2 = 12, 1e-7
    size = 2**n
    gram = 2.0 ** (n - orders(n)[torch.arange(size)[:, None] | torch.arange(size)].double())
    system = gram + torch.diag(size * sigma2 * noise_weights(n))
    rows = torch.zeros(size, 2, dtype=torch.float64)
    rows[1, 0] = rows[3, 1] = 1
    factor = torch.linalg.cholesky(system)
    solution = torch.cholesky_solve(rows, factor)
    solution += torch.cholesky_solve(rows - system @ solution, factor)
    norms = (gram @ solution).norm(dim=0)
    ratio = float(norms[0] / norms[1])
    assert ratio < 0.9999
    assert float(norm_ratio(n, sigma2)[0]) == pytest.approx(ratio, rel=1e-7)


def test_one_player_has_no_ratio():
    assert norm_ratio(1, 0.5).shape == (0,)
    assert norm_ratio(1, torch.tensor([0.5, 1.0])).shape == (2, 0)
    # (B + 2σ²D)⁻¹B for B = [[2, 1], [1, 1]], σ² = 1/2
    assert row_norms(1, 0.5).tolist() == pytest.approx([math.hypot(5, 2) / 8, math.hypot(1, 2) / 8])


@pytest.mark.parametrize(("n", "sigma2", "word"), [(0, 0.1, "n must"), (5, -0.1, "sigma2"), (5, math.nan, "sigma2")])
def test_bad_norm_input_is_named(n, sigma2, word):
    with pytest.raises(ValueError, match=word):
        row_norms(n, sigma2)


# --- strengths ------------------------------------------------------------------------------------------------


def final_network(samples=40, n=6, seed=0):
    """Sparse interactions of every order, none so small that the threshold drops it."""
    w_and, w_or = interactions(n, 2, samples, seed=seed, density=0.3)
    w_or[:, orders(n) < 2] = 0
    return w_and, w_or


def test_predicted_strength_counts_by_hand():
    w_and, w_or = final_network(samples=3, n=4)
    for sigma2 in (0.0, 0.01, 2.0):
        predicted = predict_and_or(w_and, w_or, sigma2)
        expected = torch.zeros(3, 4, dtype=torch.float64)
        for sample in range(3):
            and_, or_ = predicted.and_[sample].tolist(), predicted.or_[sample].tolist()
            tau = 0.03 * abs(sum(and_[1:]) + sum(or_[1:]))
            for mask in range(1, 16):
                order = bin(mask).count("1")
                # "any of one player" and "all of one player" are one pattern
                values = [and_[mask] + or_[mask]] if order == 1 else [and_[mask], or_[mask]]
                expected[sample, order - 1] += sum(abs(x) for x in values if abs(x) >= tau)
        assert torch.allclose(predicted_strength(w_and, w_or, sigma2), expected)


def test_predicted_strength_without_or_is_of_the_plain_prediction():
    w_and, _ = final_network(samples=3, n=5)
    levels = torch.tensor([0.0, 0.1], dtype=torch.float64)
    predicted = predict(w_and, levels)
    tau = 0.03 * predicted[..., 1:].sum(-1).abs()
    assert torch.allclose(predicted_strength(w_and, None, levels), order_strength(predicted, None, tau))
