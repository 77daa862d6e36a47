"""Shared extraction against HiGHS, planted interactions, and its symmetries."""

from __future__ import annotations

import math
import warnings
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from interaction_monitor.functional import and_interactions, and_outputs, or_outputs, sparsest_and_or
from interaction_monitor.functional._lp.problem import largest_sums
from interaction_monitor.functional._lp.splitting import shrink_together
from interaction_monitor.functional.extraction import SharedAndOr, ToleranceNotMetWarning, shared_and_or


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
        monkeypatch.setattr(f"interaction_monitor.functional._lp.solve.{checks}", 1)
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
