from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression

from interaction_monitor.phases.loss_gap import GapOpening, change_point, falling_fits, gap_opening, valley


def falling_error(curve):
    return float(np.square(curve - isotonic_regression(curve, increasing=False)).sum())


curves = st.lists(st.floats(-5, 5), min_size=1, max_size=20).map(np.array)


@settings(max_examples=50, deadline=None)
@given(curves)
def test_falling_fits_are_scikit_learns(curve):
    errors, levels, whole = falling_fits(curve)
    np.testing.assert_allclose(whole, isotonic_regression(curve, increasing=False), atol=1e-9)
    for end in range(1, len(curve) + 1):
        expected = isotonic_regression(curve[:end], increasing=False)
        assert errors[end - 1] == pytest.approx(np.square(curve[:end] - expected).sum(), abs=1e-8)
        assert levels[end - 1] == pytest.approx(expected[-1], abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_the_valley_is_the_best_of_all_splits(seed):
    generator = np.random.default_rng(seed)
    curve = np.concatenate((np.linspace(3, 1, 8), np.linspace(1.1, 2, 9))) + 0.3 * generator.standard_normal(17)
    rising = [falling_error(curve[i + 1 :][::-1]) if i + 1 < len(curve) else 0.0 for i in range(len(curve))]
    errors = [falling_error(curve[: i + 1]) + rising[i] for i in range(len(curve))]
    fitted = valley(curve)
    assert errors[fitted.turn] == pytest.approx(min(errors))
    assert np.square(curve - fitted.fit).sum() == pytest.approx(min(errors))
    assert fitted.fall > 0.5
    assert fitted.rise > 0.3


EPOCHS = np.arange(40)
SHAPES = {
    "a line": lambda x: 0.1 * x,
    "a slow line": lambda x: 0.02 * x,
    "ever steeper": lambda x: 0.01 * x**2,
    "ever flatter": lambda x: 0.8 * (1 - np.exp(-x / 8)),
}


def losses(generator, shape, *, opens=20, noise=0.01, dip=0.0):
    train = 2.3 * np.exp(-EPOCHS / 10)
    gap = SHAPES[shape](np.maximum(0, EPOCHS - opens)) + dip * np.exp(-EPOCHS / 4)
    return list(zip(EPOCHS.tolist(), train, train + gap + noise * generator.standard_normal(40), strict=True))


@pytest.mark.parametrize("dip", [0.0, 0.6])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_opening_is_found_where_it_is_and_the_interval_holds_it(shape, dip):
    generator = np.random.default_rng(0)
    found = [gap_opening(losses(generator, shape, dip=dip)) for _ in range(40)]
    assert all(opening is not None and opening.low <= opening.epoch <= opening.high for opening in found)
    assert abs(np.median([opening.epoch for opening in found]) - 20) <= 1
    assert np.mean([opening.low <= 20 <= opening.high for opening in found]) >= 0.75
    # more jitter, wider intervals
    wide = [gap_opening(losses(generator, shape, dip=dip, noise=0.04)) for _ in range(10)]
    assert np.mean([o.high - o.low for o in wide]) > np.mean([o.high - o.low for o in found])


def test_a_single_dip_hides_nothing():
    generator = np.random.default_rng(2)
    run = losses(generator, "a line")
    dipped = [(at, train, test - 0.5 * (at == 7)) for at, train, test in run]
    assert min(dipped, key=lambda point: point[2] - point[1])[0] == 7
    assert abs(gap_opening(dipped).epoch - 20) <= 1


def test_a_flat_beginning_has_its_lowest_anywhere_but_one_opening():
    generator = np.random.default_rng(1)
    runs = [losses(generator, "a line", noise=0.003) for _ in range(20)]
    lowest = [min(run, key=lambda point: point[2] - point[1])[0] for run in runs]
    assert max(lowest) - min(lowest) >= 10
    assert {gap_opening(run).epoch for run in runs} <= {19, 20, 21}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 50), st.floats(-3, 3))
def test_units_and_a_constant_do_not_matter(seed, scale, constant):
    run = losses(np.random.default_rng(seed), "a line")
    moved = [(3 * epoch, scale * train, scale * (test + constant)) for epoch, train, test in run]
    opening, again = gap_opening(run), gap_opening(moved)
    assert again == GapOpening(*(3 * epoch for epoch in opening))


def test_a_gap_that_does_not_open_has_no_opening():
    generator = np.random.default_rng(2)
    flat = losses(generator, "a line", opens=99)
    assert all(gap_opening(losses(generator, "a line", opens=99, noise=0.003)) is None for _ in range(20))
    assert gap_opening(flat[:2]) is None
    assert gap_opening([]) is None
    assert gap_opening([(0, 1.0, 1.0)] * 5) is None
    falls = [(epoch, train, train - 0.01 * epoch) for epoch, train, _ in flat]
    assert gap_opening(falls) is None
    rises = [(epoch, train, train + 0.1 * epoch) for epoch, train, _ in flat]
    assert gap_opening(rises).epoch == 0


def test_missing_losses_are_passed_over_and_one_epoch_may_have_many_measurements():
    run = losses(np.random.default_rng(3), "a line")
    holes = [(epoch, math.nan, test) if epoch in (3, 21) else (epoch, train, test) for epoch, train, test in run]
    assert abs(gap_opening(holes).epoch - gap_opening(run).epoch) <= 1
    assert gap_opening([(0, math.nan, math.inf)] * 5) is None
    same = [(0, train, test) for _, train, test in run]
    assert gap_opening(same) == (0, 0, 0)
    assert change_point([0] * 40, [test - train for _, train, test in run], early=0.23)[1] == gap_opening(run).epoch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 1.0}, "level must lie between 0 and 1, but is 1.0"),
        ({"min_rise": -0.1}, "min_rise must be at least 0"),
        ({"losses": [(1, 1.0, 1.0), (0, 1.0, 2.0), (2, 1.0, 3.0)]}, "epochs must not fall"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    run = losses(np.random.default_rng(4), "a line")
    with pytest.raises(ValueError, match=message):
        gap_opening(**{"losses": run, **arguments})
