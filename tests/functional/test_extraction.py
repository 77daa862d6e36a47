"""The sparsest extraction of one network and of several: against HiGHS, at every size, and what it refuses."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from interaction_monitor.functional import (
    SparsestAndOr,
    ToleranceNotMetWarning,
    and_interactions,
    and_outputs,
    coalition,
    or_outputs,
    orders,
    saliency_threshold,
    sparsest_and_or,
)
from interaction_monitor.functional._solver import InteriorPoint
from interaction_monitor.functional._solver.problem import Problem, atoms_of, by_intersection, largest_sums, lower_bound
from interaction_monitor.functional._solver.splitting import shrink_together
from interaction_monitor.functional.extraction import SharedAndOr, shared_and_or

CPU = torch.device("cpu")


def dense_atoms(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AND and OR atoms as columns over T ≠ ∅, and the order of each, from their definitions."""
    coalitions = range(1, 2**n)
    patterns = [(s, "and") for s in coalitions] + [(s, "or") for s in coalitions if s.bit_count() > 1]
    columns = [[float(s & t == s if kind == "and" else s & t != 0) for t in coalitions] for s, kind in patterns]
    return np.array(columns).T, np.array([s.bit_count() for s, _ in patterns]), np.array(patterns, dtype=object)


def highs_optimum(v: Tensor, noise: float, tie_break: float) -> float:
    n = int(np.log2(len(v)))
    atoms, order, _ = dense_atoms(n)
    u = (v - v[0])[1:].numpy()
    zeta = noise * abs(u[-1])
    weights = 1 + tie_break * (order - 1)
    solution = linprog(
        np.concatenate((weights, weights, np.zeros(len(u)))),
        A_eq=np.hstack((atoms, -atoms, np.eye(len(u)))),
        b_eq=u,
        bounds=[(0, None)] * (2 * len(order)) + [(-zeta, zeta)] * len(u),
        method="highs",
    )
    return float(solution.fun)


def network_like(samples: int, n: int, seed: int = 0) -> Tensor:
    """Outputs of a small random network whose inputs are switched on and off: smooth, with all orders in it."""
    generator = torch.Generator().manual_seed(seed)
    present = (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).double()
    weights = torch.randn(samples, n, 12, generator=generator, dtype=torch.float64)
    bias = torch.randn(samples, 1, 12, generator=generator, dtype=torch.float64)
    hidden = torch.relu(present @ weights + bias)
    return (hidden @ torch.randn(samples, 12, 1, generator=generator, dtype=torch.float64)).squeeze(-1)


def problem_of(u: Tensor, noise: float) -> Problem:
    """The problem of one network, from (S, 2^n) outputs less the empty coalition's."""
    zeta = noise * u[None, :, -1:].abs()
    n = u.shape[-1].bit_length() - 1
    return Problem(atoms_of(n, 0.01, CPU), u[None], zeta, torch.full_like(zeta, torch.inf), 0.0)


def explained(result: SparsestAndOr) -> Tensor:
    return and_outputs(result.and_) + or_outputs(result.or_)


def weighted(result: SparsestAndOr, tie_break: float = 0.01) -> Tensor:
    order = orders(result.and_.shape[-1].bit_length() - 1).double()
    weights = 1 + tie_break * (order - 1)
    return ((result.and_.abs() + result.or_.abs()) * weights)[..., 1:].sum(-1)


def assert_feasible(v: Tensor, result: SparsestAndOr, noise: float) -> None:
    v = v.double()
    scale = (v - v[..., :1]).abs().amax(-1, keepdim=True) + v[..., :1].abs()
    zeta = noise * (v[..., -1:] - v[..., :1]).abs()
    assert (result.delta.abs() <= zeta).all()
    assert ((explained(result) + result.delta - v).abs() <= 2e-12 * scale).all()
    assert ((explained(result) - v).abs() <= zeta + 2e-12 * scale).all()
    order = orders(v.shape[-1].bit_length() - 1)
    assert torch.equal(result.and_[..., 0], v[..., 0])
    assert (result.or_[..., order <= 1] == 0).all()
    assert (result.delta[..., 0] == 0).all()
    torch.testing.assert_close((v - result.delta) / 2 + result.gamma, and_outputs(result.and_), atol=1e-11, rtol=1e-11)
    torch.testing.assert_close((v - result.delta) / 2 - result.gamma, or_outputs(result.or_), atol=1e-11, rtol=1e-11)


def overlap_and_mean_orders(v: Tensor, a: SparsestAndOr, b: SparsestAndOr) -> tuple[float, float, float]:
    tau = saliency_threshold(v)
    order = orders(v.shape[-1].bit_length() - 1)
    both = [torch.stack((r.and_, r.or_), -2)[..., 1:].abs() for r in (a, b)]
    salient = [x >= tau for x in both]
    overlap = float((salient[0] & salient[1]).sum() / (salient[0] | salient[1]).sum())
    means = [float((x * s * order[1:]).sum() / (x * s).sum()) for x, s in zip(both, salient, strict=True)]
    return overlap, means[0], means[1]


# --- against the optimum ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("tie_break", [0.0, 0.01])
@pytest.mark.parametrize("tol", [1e-2, 1e-6])
def test_objective_is_within_the_reported_gap_of_the_highs_optimum(noise: float, tie_break: float, tol: float) -> None:
    for n, samples in ((3, 3), (5, 3), (8, 1)):
        v = torch.cat((network_like(samples, n, seed=n), torch.randn(1, 2**n, dtype=torch.float64)))
        result = sparsest_and_or(v, noise=noise, tol=tol, tie_break=tie_break)
        assert (result.gap <= tol).all()
        torch.testing.assert_close(result.objective, weighted(result, tie_break), rtol=1e-12, atol=1e-12)
        for sample, objective, gap in zip(v, result.objective, result.gap, strict=True):
            optimum = highs_optimum(sample, noise, tie_break)
            assert optimum * (1 - 1e-7) <= objective
            assert objective * (1 - gap) <= optimum * (1 + 1e-7)


def test_toy_function_gives_exactly_its_four_interactions() -> None:
    x1, x2, x3, x4, x5 = ((torch.arange(32) >> i & 1).double() for i in range(5))
    v = x1 * x2 * x3 + x2 * x3 + x3 * x4 + torch.maximum(x4, x5)
    result = sparsest_and_or(v, noise=0.0, tol=1e-6)
    found = {(int(i), "and"): float(result.and_[i]) for i in (result.and_.abs() > 1e-5).nonzero().flatten()}
    found |= {(int(i), "or"): float(result.or_[i]) for i in (result.or_.abs() > 1e-5).nonzero().flatten()}
    expected = [
        (coalition(s), kind) for s, kind in (((0, 1, 2), "and"), ((1, 2), "and"), ((2, 3), "and"), ((3, 4), "or"))
    ]
    assert found == {pattern: pytest.approx(1.0, abs=1e-5) for pattern in expected}
    coarse = sparsest_and_or(v, noise=0.0)
    salient = {(int(i), "and") for i in (coarse.and_.abs() > 0.03).nonzero().flatten()}
    assert salient | {(int(i), "or") for i in (coarse.or_.abs() > 0.03).nonzero().flatten()} == set(expected)


@given(st.integers(0, 2**20), st.integers(1, 5), st.sampled_from([0.0, 0.02, 0.3]))
@settings(max_examples=15, deadline=None)
def test_any_dual_vector_gives_a_true_bound(seed: int, n: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    v, dual = torch.randn(2, 2**n, generator=generator, dtype=torch.float64)
    u = v - v[0]
    bound = lower_bound(problem_of(u[None], noise), (dual * torch.sign(u))[None, None])
    assert float(bound) <= highs_optimum(v, noise, 0.01) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("n", [1, 2, 5])
def test_atoms_agree_with_their_definition(n: int) -> None:
    dense, _, patterns = dense_atoms(n)
    atoms = atoms_of(n, 0.01, CPU)
    generator = torch.Generator().manual_seed(n)
    x = torch.zeros(2, 2**n, dtype=torch.float64)
    columns = torch.randn(len(patterns), generator=generator, dtype=torch.float64)
    for (s, kind), value in zip(patterns, columns, strict=True):
        x[0 if kind == "and" else 1, s] = value
    torch.testing.assert_close(atoms.outputs(x)[1:], torch.from_numpy(dense) @ columns)
    dual = torch.randn(2**n, generator=generator, dtype=torch.float64)
    met = atoms.correlations(dual)
    expected = torch.from_numpy(dense).T @ dual[1:]
    torch.testing.assert_close(torch.stack([met[0 if kind == "and" else 1, s] for s, kind in patterns]), expected)
    moves = torch.rand(1, 2, 2**n, generator=generator, dtype=torch.float64) * atoms.exists
    diagonal = np.array([float(moves[0, 0 if kind == "and" else 1, s]) for s, kind in patterns])
    torch.testing.assert_close(atoms.covariance(moves)[0, 1:, 1:], torch.from_numpy((dense * diagonal) @ dense.T))
    pairs = by_intersection(dual)
    index = torch.arange(2**n)
    assert torch.equal(pairs, dual[index[:, None] & index])


def test_interior_point_stays_feasible_and_closes_the_gap() -> None:
    v = network_like(3, 6)
    u = v - v[:, :1]
    u = u / u.abs().mean(-1, keepdim=True)
    atoms = atoms_of(6, 0.01, CPU)
    solver = InteriorPoint(problem_of(u, 0.02))
    for _ in range(25):
        solver.advance()
        missed = (u - atoms.outputs(solver.x)).abs()
        assert (missed <= 0.02 * u[:, -1:].abs() + 1e-9).all()
        assert (atoms.correlations(solver.dual).abs() <= atoms.weights * (1 + 1e-9)).all()
    objective = (solver.x.abs() * atoms.weights.where(atoms.exists, 0.0)).sum((-2, -1))
    assert (objective - solver.bound() <= 1e-6 * objective).all()


def hand_made(n: int) -> dict[str, Tensor]:
    """Functions whose interactions are all in the high orders."""
    order = orders(n)
    return {
        "parity": (-1.0) ** order.double(),
        "AND of all": (order == n).double(),
        "OR of all": (order > 0).double(),
        "majority": (order > n / 2).double(),
        "random": torch.randn(2**n, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    }


def test_functions_of_high_orders_need_no_interior_point(monkeypatch: pytest.MonkeyPatch) -> None:
    # beyond twelve players there is none
    monkeypatch.setattr("interaction_monitor.functional._solver._INTERIOR_POINT_PLAYERS", 0)
    for n in (6, 9):
        v = torch.stack(list(hand_made(n).values()))
        result = sparsest_and_or(v)
        assert (result.gap <= 1e-2).all(), dict(zip(hand_made(n), result.gap.tolist(), strict=True))
        assert_feasible(v, result, 0.02)


def test_fourteen_players() -> None:
    v = torch.cat((network_like(1, 14), torch.stack(list(hand_made(14).values()))[:1]))
    result = sparsest_and_or(v, tol=5e-2)  # for time
    assert (result.gap <= 5e-2).all()
    assert_feasible(v, result, 0.02)


# --- any input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 14))
def test_every_number_of_players(n: int) -> None:
    v = network_like(2 if n < 11 else 1, n)
    tol = 1e-2 if n < 13 else 5e-2  # for time
    result = sparsest_and_or(v, tol=tol)
    assert_feasible(v, result, 0.02)
    assert (result.gap <= tol).all()


@given(
    st.integers(0, 2**20), st.integers(1, 5), st.sampled_from([0.0, 0.02, 0.5, 2.0]), st.sampled_from([0.0, 0.01, 0.5])
)
@settings(max_examples=15, deadline=None)
def test_any_outputs_are_matched(seed: int, n: int, noise: float, tie_break: float) -> None:
    v = torch.randn(2, 2**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result = sparsest_and_or(v, noise=noise, tie_break=tie_break, tol=1e-3)
    assert_feasible(v, result, noise)
    assert (result.gap <= 1e-3).all()


def test_zero_and_constant_outputs_have_no_interactions() -> None:
    result = sparsest_and_or(torch.stack((torch.zeros(64), torch.full((64,), -3.7))))
    assert (result.and_[:, 1:] == 0).all()
    assert (result.or_ == 0).all()
    assert (result.objective == 0).all()
    assert (result.gap == 0).all()
    assert torch.equal(result.and_[:, 0], torch.tensor([0.0, -3.7]).double())


def test_full_and_empty_output_alike_leaves_no_room_for_noise() -> None:
    v = network_like(2, 5)
    v[:, -1] = v[:, 0]
    result = sparsest_and_or(v)
    assert (result.delta.abs() <= 1e-15).all()
    assert (result.gap <= 1e-2).all()
    assert_feasible(v, result, 0.02)


@pytest.mark.parametrize("scale", [1e-8, 1e6])
def test_answer_scales_with_the_outputs(scale: float) -> None:
    v = network_like(3, 6)
    one, scaled = sparsest_and_or(v), sparsest_and_or(v * scale)
    torch.testing.assert_close(scaled.and_ / scale, one.and_, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(scaled.gap, one.gap, rtol=1e-4, atol=1e-9)
    assert_feasible(v * scale, scaled, 0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_outputs_are_taken_as_they_are(dtype: torch.dtype) -> None:
    v = network_like(2, 4).to(dtype)
    result, exact = sparsest_and_or(v), sparsest_and_or(v.double())
    assert result.and_.dtype == torch.float64
    assert torch.equal(result.and_, exact.and_)


def test_leading_axes_are_kept() -> None:
    v = network_like(6, 4)
    flat, nested, single = sparsest_and_or(v), sparsest_and_or(v.view(2, 3, 16)), sparsest_and_or(v[0])
    assert nested.and_.shape == nested.gamma.shape == (2, 3, 16)
    assert nested.gap.shape == nested.objective.shape == (2, 3)
    assert single.or_.shape == (16,)
    assert single.gap.shape == ()
    torch.testing.assert_close(nested.or_.view(6, 16), flat.or_)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("tol", [1e-2, 1e-5])
def test_cuda_gives_the_same_answer(tol: float) -> None:
    v = network_like(8, 8)
    there = sparsest_and_or(v.cuda(), tol=tol)
    assert there.and_.is_cuda
    torch.testing.assert_close(there.and_.cpu(), sparsest_and_or(v, tol=tol).and_, rtol=1e-4, atol=1e-4)


# --- the answer depends on the sample alone -----------------------------------------------------------------------


def test_batch_order_and_threads_do_not_change_the_answer() -> None:
    v = network_like(6, 8)
    reference = sparsest_and_or(v)
    dominated = sparsest_and_or(torch.cat((v, 1e6 * v[:1], torch.randn(1, 256, dtype=torch.float64))))
    alone = sparsest_and_or(v[3])
    reversed_ = sparsest_and_or(v.flip(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(3 if threads == 1 else 1)
    other_threads = sparsest_and_or(v)
    torch.set_num_threads(threads)
    for a, b in (
        (dominated.and_[:6], reference.and_),
        (alone.or_, reference.or_[3]),
        (reversed_.and_.flip(0), reference.and_),
        (other_threads.or_, reference.or_),
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def strided(v: Tensor) -> Tensor:
    return torch.stack((v, -v), -1)[..., 0]


@pytest.mark.parametrize(
    "way",
    [
        lambda v: sparsest_and_or(strided(v)),
        lambda v: sparsest_and_or(v.T.contiguous().T.requires_grad_()),
        lambda v: torch.inference_mode()(sparsest_and_or)(v),
        lambda v: torch.autocast("cpu", torch.bfloat16)(sparsest_and_or)(v),
        lambda v: run_with(v, torch.set_default_dtype, torch.float16, torch.float32),
        lambda v: run_with(v, torch.set_default_device, "meta", None),
    ],
    ids=["strided", "with a gradient", "inference", "autocast", "default dtype", "default device"],
)
@pytest.mark.parametrize("n", [3, 9])  # of nine players on in float32
def test_what_torch_is_set_to_changes_nothing(way: Callable[[Tensor], SparsestAndOr], n: int) -> None:
    v = network_like(2, n)
    expected, found = sparsest_and_or(v), way(v)
    assert not found.and_.requires_grad
    for one, other in zip(vars(found).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def run_with(v: Tensor, set_to: Callable[[object], None], value: object, before: object) -> SparsestAndOr:
    set_to(value)
    try:
        return sparsest_and_or(v)
    finally:
        set_to(before)


def test_threads_of_the_program_do_not_disturb_each_other() -> None:
    games = [network_like(2, 7, seed) for seed in range(4)]
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(sparsest_and_or, games))
    assert torch.get_num_threads() == threads
    for found, game in zip(together, games, strict=True):
        assert torch.equal(found.and_, sparsest_and_or(game).and_)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_are_as_many_afterwards_also_where_it_fails(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    v, before, seen = network_like(2, 6), torch.get_num_threads(), []

    def fail(*_: object, **__: object) -> None:
        seen.append(torch.get_num_threads())
        raise RuntimeError("the cable is out")

    torch.set_num_threads(threads)
    try:
        sparsest_and_or(v)
        assert torch.get_num_threads() == threads
        monkeypatch.setattr("interaction_monitor.functional._solver.Splitting", fail)
        with pytest.raises(RuntimeError, match="cable"):
            sparsest_and_or(v)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_single_precision_and_batches_hardly_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    # with nine players and more, most of the iterations are in float32
    v = network_like(3, 9)
    reference, alone = sparsest_and_or(v), sparsest_and_or(v[1])
    torch.testing.assert_close(alone.and_, reference.and_[1], rtol=0, atol=2e-3 * float(v.abs().max()))
    monkeypatch.setattr("interaction_monitor.functional._solver._SINGLE_PRECISION_PLAYERS", 17)
    double = sparsest_and_or(v)
    overlap, one, other = overlap_and_mean_orders(v, reference, double)
    assert overlap >= 0.98
    assert abs(one - other) <= 1e-3
    torch.testing.assert_close(reference.objective, double.objective, rtol=1e-3, atol=0)


def test_a_rounding_of_float32_products_that_was_asked_for_is_kept_away(monkeypatch: pytest.MonkeyPatch) -> None:
    v = network_like(1, 9)
    monkeypatch.setattr("interaction_monitor.functional._solver._SINGLE_PRECISION_PLAYERS", 17)
    double = sparsest_and_or(v)
    monkeypatch.undo()
    torch.set_float32_matmul_precision("medium")
    try:
        asked = sparsest_and_or(v)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(asked.and_, double.and_)


def test_permuting_the_players_permutes_the_answer() -> None:
    n = 6
    v = network_like(3, n)
    permutation = torch.tensor([3, 0, 5, 1, 4, 2])
    index = torch.arange(2**n)
    permuted_index = sum(((index >> i & 1) << permutation[i]) for i in range(n))
    assert isinstance(permuted_index, Tensor)
    one, other = sparsest_and_or(v), sparsest_and_or(v[:, permuted_index])
    torch.testing.assert_close(other.and_, one.and_[:, permuted_index], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(other.or_, one.or_[:, permuted_index], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("tie_break", [0.0, 0.01])
def test_small_changes_of_the_outputs_change_little(tie_break: float) -> None:
    v = network_like(8, 8)
    change = torch.randn(v.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = v + 1e-6 * v.abs().mean() * change
    overlap, one, other = overlap_and_mean_orders(
        v, sparsest_and_or(v, tie_break=tie_break), sparsest_and_or(moved, tie_break=tie_break)
    )
    assert overlap >= 0.98
    assert abs(one - other) <= 1e-3


def test_converging_further_hardly_changes_the_answer() -> None:
    v = network_like(10, 8)
    overlap, one, other = overlap_and_mean_orders(v, sparsest_and_or(v), sparsest_and_or(v, tol=1e-6))
    assert overlap >= 0.85
    assert abs(one - other) <= 0.03


# --- complaints ---------------------------------------------------------------------------------------------------


def test_a_missed_tolerance_is_reported_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interaction_monitor.functional._solver._INTERIOR_POINT_STEPS", 3)
    v = torch.randn(4, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.warns(ToleranceNotMetWarning, match=r"of 4 samples .* not within tol=1.0e-05"):
        result = sparsest_and_or(v, tol=1e-5)
    assert (result.gap > 1e-5).any()
    for sample, objective, gap in zip(v, result.objective, result.gap, strict=True):
        assert objective * (1 - gap) <= highs_optimum(sample, 0.02, 0.01) * (1 + 1e-7)


def test_no_warning_where_the_tolerance_is_met() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsest_and_or(network_like(3, 5), tol=1e-4)


@pytest.mark.parametrize(
    ("v", "settings", "error", "message"),
    [
        (torch.zeros(3), {}, ValueError, "2\\*\\*n"),
        (torch.zeros(4, dtype=torch.int64), {}, TypeError, "v.double"),
        (torch.zeros(2**17), {}, ValueError, "at most 16"),
        (torch.tensor([0.0, torch.nan]), {}, ValueError, "1 of 1 samples"),
        (torch.tensor([[0.0, torch.inf], [0.0, 1.0]]), {}, ValueError, "1 of 2 samples"),
        (torch.tensor([0.0, 1.7e308], dtype=torch.float64), {}, ValueError, "1 of 1 samples .* sums are Inf"),
        (np.zeros(4), {}, TypeError, "v must be a tensor, but is ndarray"),
        (torch.zeros(4), {"noise": "2%"}, ValueError, "noise must be a finite number, at least 0, but is '2%'"),
        (torch.zeros(4), {"noise": True}, ValueError, "noise"),
        (torch.zeros(4), {"noise": -0.1}, ValueError, "noise"),
        (torch.zeros(4), {"noise": float("nan")}, ValueError, "noise"),
        (torch.zeros(4), {"tol": 0.0}, ValueError, "tol"),
        (torch.zeros(4), {"tie_break": -1.0}, ValueError, "tie_break"),
    ],
)
def test_bad_input_is_refused(v: Tensor, settings: dict[str, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sparsest_and_or(v, **settings)


# Several networks together: against HiGHS, planted interactions, and symmetries


def networks(m: int, samples: int, n: int, seed: int = 0) -> Tensor:
    """Outputs of m networks that hold many patterns in common and some of their own, with a little noise."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def sparse_interactions(*shape: int, density: float) -> Tensor:
        return draw(*shape) * (torch.rand(*shape, generator=generator) < density)

    common_and, common_or = (sparse_interactions(1, samples, 2**n, density=8 / 2**n) for _ in range(2))
    own_and, own_or = (sparse_interactions(m, samples, 2**n, density=3 / 2**n) for _ in range(2))
    strength = 1 + 0.3 * draw(m, samples, 1)
    v = and_outputs(strength * common_and + own_and) + or_outputs(strength * common_or + own_or)
    return v + 0.02 * draw(m, samples, 2**n)


def optimum(
    v: Tensor, *, alpha: float, share_bound: float, noise: float = 0.02, tie_break: float = 0.01
) -> list[float]:
    """The least objective of each sample, by HiGHS on the explicit program."""
    m, samples, size = v.shape
    coalitions = np.arange(1, size)
    common = coalitions[:, None] & coalitions[None, :]
    order = np.array([coalition.bit_count() for coalition in coalitions.tolist()])
    inside, meets = (common == coalitions).astype(float), (common > 0).astype(float)[:, order >= 2]
    atoms, halves = np.hstack((inside, meets)), np.hstack((inside, -meets)) / 2
    weights = 1 + tie_break * (np.concatenate((order, order[order >= 2])) - 1)
    singles = inside[:, order == 1]
    count, rows, n = len(weights), size - 1, singles.shape[1]
    u = (v - v[..., :1])[..., 1:].numpy()
    tau = share_bound * np.abs(u[..., -1]).mean(1)
    empty = sparse.csr_matrix
    # of each network: positive and negative parts, noise, own split, order one on the other side; then largest, common
    each = (count, count, rows, rows, n)
    results = []
    for sample in range(samples):
        blocks: list[list[sparse.spmatrix]] = []
        bounds: list[tuple[float | None, float | None]] = []
        right = []
        for i in range(m):
            zeta = noise * abs(u[i, sample, -1])
            bounds += (
                [(0, None)] * (2 * count) + [(-zeta, zeta)] * rows + [(-tau[i], tau[i])] * rows + [(None, None)] * n
            )
            outputs = (empty(atoms), empty(-atoms), sparse.eye(rows), empty((rows, rows)), empty((rows, n)))
            split = (empty(halves), empty(-halves), empty((rows, rows)), -sparse.eye(rows), empty(singles))
            for parts, common_part in ((outputs, empty((rows, rows))), (split, -sparse.eye(rows))):
                others = [[empty((rows, width)) for width in each] for _ in range(m)]
                others[i] = list(parts)
                blocks.append([*chain.from_iterable(others), empty((rows, count)), common_part])
            right += [u[i, sample], np.zeros(rows)]
        below = []
        for i in range(m):
            others = [[empty((count, width)) for width in each] for _ in range(m)]
            others[i][:2] = [sparse.eye(count), sparse.eye(count)]
            below.append([*chain.from_iterable(others), -sparse.eye(count), empty((count, rows))])
        bounds += [(None, None)] * (count + rows)
        of_network = np.concatenate((alpha * weights, alpha * weights, np.zeros(2 * rows + n)))
        solution = linprog(
            np.concatenate((np.tile(of_network, m), weights, np.zeros(rows))),
            A_eq=sparse.bmat(blocks, format="csr"),
            b_eq=np.concatenate(right),
            A_ub=sparse.bmat(below, format="csr"),
            b_ub=np.zeros(m * count),
            bounds=bounds,
            method="highs",
        )
        assert solution.status == 0, solution.message
        results.append(float(solution.fun))
    return results


def charged(result: SharedAndOr, alpha: float, tie_break: float = 0.01) -> Tensor:
    """The objective, from the interactions themselves."""
    size = result.and_.shape[-1]
    order = torch.tensor([coalition.bit_count() for coalition in range(size)])
    weights = (1 + tie_break * (order - 1)) * (order > 0)
    return sum(((i.abs().amax(0) + alpha * i.abs().sum(0)) * weights).sum(-1) for i in (result.and_, result.or_))


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize(
    ("n", "alpha", "share_bound"), [(3, 0.1, 0.5), (5, 0.0, 0.5), (5, 1.0, 0.02), (6, 0.1, 0.05), (5, 4.0, 0.02)]
)
def test_lies_within_the_reported_gap_of_the_optimum(m: int, n: int, alpha: float, share_bound: float) -> None:
    v = networks(m, 2, n, seed=n)
    result = shared_and_or(v, alpha=alpha, share_bound=share_bound)
    best = torch.tensor(optimum(v, alpha=alpha, share_bound=share_bound), dtype=torch.float64)
    assert (result.gap <= 1e-2).all()
    assert (result.objective >= best * (1 - 1e-7)).all()
    assert (result.objective * (1 - result.gap) <= best * (1 + 1e-7)).all()
    torch.testing.assert_close(result.objective, charged(result, alpha))


def test_seven_players_come_close_when_much_is_asked() -> None:
    v = networks(2, 1, 7, seed=3)
    result = shared_and_or(v, tol=1e-3)
    assert abs(result.objective.item() / optimum(v, alpha=0.1, share_bound=0.5)[0] - 1) < 1e-3


def test_a_tight_bound_on_the_splits_costs() -> None:
    v = networks(2, 2, 5, seed=5)
    loose, tight = (torch.tensor(optimum(v, alpha=1.0, share_bound=bound)) for bound in (0.5, 0.02))
    # otherwise the comparison with HiGHS would say nothing about the bound
    assert (tight > 1.001 * loose).any()
    assert (shared_and_or(v, alpha=1.0, share_bound=math.inf).objective <= 1.01 * loose).all()


def test_explains_every_output_within_the_noise_bound() -> None:
    v = networks(3, 4, 6)
    for share_bound in (0.5, 0.02):
        result = shared_and_or(v, share_bound=share_bound)
        torch.testing.assert_close(and_outputs(result.and_) + or_outputs(result.or_) + result.delta, v)
        zeta = 0.02 * (v[..., -1:] - v[..., :1]).abs()
        assert (result.delta.abs() <= zeta + 1e-12).all()
        assert (result.or_[..., [0, 1, 2, 4, 8, 16, 32]] == 0).all()
        torch.testing.assert_close(and_interactions((v - result.delta) / 2 + result.gamma), result.and_)


def test_finds_planted_shared_and_private_interactions() -> None:
    and_, or_ = torch.zeros(2, 2, 1, 2**6, dtype=torch.float64)
    and_[:, 0, 0b000111], and_[:, 0, 0b001000] = torch.tensor([4.0, 3.0]), torch.tensor([1.0, 2.0])
    or_[:, 0, 0b110000] = torch.tensor([-2.0, -3.0])
    and_[0, 0, 0b100001], or_[1, 0, 0b011100] = 1.5, 2.5
    result = shared_and_or(and_outputs(and_) + or_outputs(or_), noise=0.0, tol=1e-4)
    torch.testing.assert_close(result.and_, and_, atol=0.02, rtol=0)
    torch.testing.assert_close(result.or_, or_, atol=0.02, rtol=0)


def test_one_network_is_the_sparsest_extraction() -> None:
    v = networks(1, 4, 6)
    shared, single = shared_and_or(v, alpha=0.3, tol=1e-3), sparsest_and_or(v[0], tol=1e-3)
    torch.testing.assert_close(shared.objective, 1.3 * single.objective, rtol=1e-3, atol=0)
    torch.testing.assert_close(shared.and_[0], single.and_, rtol=0, atol=0.02 * float(v.abs().max()))


def test_equal_networks_share_everything() -> None:
    v = networks(1, 3, 6).repeat(3, 1, 1)
    result = shared_and_or(v)
    torch.testing.assert_close(result.and_, result.and_[:1].expand(3, -1, -1))
    torch.testing.assert_close(
        result.objective, (1 + 3 * 0.1) * sparsest_and_or(v[0], tol=1e-3).objective, rtol=1e-2, atol=0
    )


def test_permuting_networks_permutes_the_result() -> None:
    v = networks(3, 2, 4)
    for share_bound in (0.5, 0.02):
        result = shared_and_or(v, share_bound=share_bound)
        permuted = shared_and_or(v[[2, 0, 1]], share_bound=share_bound)
        torch.testing.assert_close(permuted.and_, result.and_[[2, 0, 1]], atol=1e-6, rtol=0)
        torch.testing.assert_close(permuted.or_, result.or_[[2, 0, 1]], atol=1e-6, rtol=0)


def test_permuting_players_permutes_the_result() -> None:
    v = networks(2, 2, 4)
    new_place = [3, 0, 1, 2]
    renamed = torch.tensor([sum(1 << new_place[i] for i in range(4) if t >> i & 1) for t in range(16)])
    for share_bound in (0.5, 0.02):
        result = shared_and_or(v, share_bound=share_bound)
        moved = torch.empty_like(v)
        moved[..., renamed] = v
        permuted = shared_and_or(moved, share_bound=share_bound)
        torch.testing.assert_close(permuted.and_[..., renamed], result.and_, atol=1e-6, rtol=0)
        torch.testing.assert_close(permuted.or_[..., renamed], result.or_, atol=1e-6, rtol=0)


def test_a_sample_does_not_depend_on_the_others_but_through_the_bound() -> None:
    v = networks(2, 5, 5)
    together, alone = shared_and_or(v, share_bound=math.inf), shared_and_or(v[:, 1:2], share_bound=math.inf)
    torch.testing.assert_close(together.and_[:, 1:2], alone.and_, atol=1e-9, rtol=0)


def test_twelve_players() -> None:
    v = networks(2, 1, 12)
    result = shared_and_or(v, tol=5e-2)
    assert (result.gap <= 5e-2).all()
    torch.testing.assert_close(and_outputs(result.and_) + or_outputs(result.or_) + result.delta, v)


def test_normalizing_takes_the_scale_of_a_network_out() -> None:
    v = networks(2, 4, 5)
    scaled = v * torch.tensor([1.0, 50.0])[:, None, None]
    plain, normalized = shared_and_or(v, normalize=True), shared_and_or(scaled, normalize=True)
    torch.testing.assert_close(normalized.and_[0], plain.and_[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(normalized.or_[1], 50 * plain.or_[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.objective, plain.objective)
    # without it the large network decides alone
    overshadowed = shared_and_or(scaled, share_bound=math.inf)
    single = sparsest_and_or(scaled[1], tol=1e-3)
    assert (overshadowed.or_[1] - single.or_).abs().sum() < 0.2 * single.or_.abs().sum()


def test_scaling_all_networks_scales_the_interactions() -> None:
    v = networks(2, 3, 5)
    result, scaled = shared_and_or(v), shared_and_or(-1000 * v + 7)
    torch.testing.assert_close(scaled.and_[..., 1:], -1000 * result.and_[..., 1:], atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.objective, 1000 * result.objective)
    assert (scaled.and_[..., 0] == (-1000 * v + 7)[..., 0]).all()


def test_constant_outputs_have_no_interactions() -> None:
    v = networks(2, 3, 4)
    v[:, 0] = 3.0
    v[0, 1] = -1.0
    result = shared_and_or(v)
    assert result.objective[0] == result.gap[0] == 0
    assert (result.and_[:, 0, 1:] == 0).all()
    assert (result.and_[0, 1, 1:].abs() < 1e-3).all()
    assert (result.gap <= 1e-2).all()


def test_one_player_works() -> None:
    result = shared_and_or(torch.tensor([[[1.0, 3.0]], [[0.0, -4.0]]]), noise=0.0)
    assert result.and_.flatten().tolist() == [1.0, 2.0, 0.0, -4.0]
    assert result.objective.item() == pytest.approx(4 + 0.1 * 6)


@given(
    st.integers(1, 5).flatmap(
        lambda m: st.tuples(
            st.lists(st.floats(-5, 5), min_size=m, max_size=m), st.lists(st.floats(-5, 5), min_size=m, max_size=m)
        )
    ),
    st.floats(0, 4),
)
@settings(max_examples=100, deadline=None)
def test_shrinking_together_is_the_proximal_step(pair: tuple[list[float], list[float]], threshold: float) -> None:
    x, other = (torch.tensor(values, dtype=torch.float64) for values in pair)
    y = shrink_together(x, torch.tensor(threshold, dtype=torch.float64))

    def energy(z: Tensor) -> Tensor:
        return threshold * z.abs().max() + ((z - x) ** 2).sum() / 2

    for share in (0.01, 0.3, 1.0):
        assert energy(y) <= energy(y + share * (other - y)) + 1e-9


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=6))
def test_largest_sums_sorts(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(largest_sums(x), x.abs().sort(descending=True).values.cumsum(0))


def test_warns_where_the_tolerance_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    for checks in ("_FIRST_CHECKS", "_LAST_CHECKS"):
        monkeypatch.setattr(f"interaction_monitor.functional._solver.{checks}", 1)
    with pytest.warns(UserWarning, match="of 3 samples are proven to be only within"):
        shared_and_or(networks(2, 3, 5), tol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared_and_or(networks(2, 3, 5), tol=0.9)


@pytest.mark.parametrize(
    ("v", "settings", "message"),
    [
        (torch.zeros(4, 8), {}, r"v must be \(networks, samples, 2\^n\), but has shape \(4, 8\); stack"),
        (torch.zeros(2, 4, 7), {}, "last axis"),
        (torch.zeros(0, 4, 8), {}, "v must be"),
        (torch.zeros(1, 1, 2**15), {}, "n = 15 players"),
        (torch.zeros(2, 1, 8), {"alpha": math.inf}, "alpha must be a finite number, at least 0, but is inf"),
        (torch.zeros(2, 1, 8), {"alpha": math.nan}, "alpha"),
        (torch.zeros(2, 1, 8), {"alpha": -0.1}, "alpha"),
        (torch.zeros(2, 1, 8), {"noise": -1.0}, "noise must be"),
        (torch.zeros(2, 1, 8), {"tie_break": math.inf}, "tie_break must be"),
        (torch.zeros(2, 1, 8), {"share_bound": -0.1}, "share_bound must be"),
        (torch.zeros(2, 1, 8), {"tol": 0.0}, "tol must be"),
    ],
)
def test_refuses_what_cannot_be_meant(v: Tensor, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shared_and_or(v, **settings)


def test_names_the_network_that_has_nan() -> None:
    v = networks(3, 4, 3)
    v[1, 2, 5] = math.nan
    with pytest.raises(ValueError, match=r"v\[1\] holds NaN or Inf.* in 1 of 4 samples; leave them out for all"):
        shared_and_or(v)
    with pytest.raises(TypeError, match="floating"):
        shared_and_or(torch.zeros(2, 1, 8, dtype=torch.int64))


def test_many_networks_with_nothing_to_share_get_to_the_tolerance() -> None:
    v = torch.randn(6, 2, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ToleranceNotMetWarning)
        assert (shared_and_or(v).gap <= 1e-2).all()
