"""Generalization power, sharing by order and overlap, against sets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interaction_monitor import functional
from interaction_monitor.functional.sharing import discrimination_power, salient, transfer_curve

N = 4


def interactions(m: int, samples: int, seed: int, density: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    effects = torch.randn(m, samples, 2**N, generator=generator, dtype=torch.float64)
    return effects * (torch.rand(m, samples, 2**N, generator=generator) < density)


def top(effects: Tensor, k: int) -> set[int]:
    """The k strongest coalitions of one sample, ties to the lower one."""
    sizes = sorted((-abs(effect), coalition) for coalition, effect in enumerate(effects.tolist()) if coalition)
    return {coalition for size, coalition in sizes[:k] if size < 0}


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 40), st.sampled_from([0.05, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_power_of_the_strongest_counts_sets(seed: int, m: int, k: int, density: float) -> None:
    effects = interactions(m, 3, seed, density)
    power = functional.generalization_power(functional.strongest(effects, k))
    curve = functional.generalization_curve(effects, [k, 1])
    assert curve.shape == (m, 3, 2)
    torch.testing.assert_close(curve[..., 0], power, equal_nan=True)
    for sample in range(3):
        sets = [top(effects[network, sample], k) for network in range(m)]
        common = set.intersection(*sets)
        for network in range(m):
            expected = len(common) / len(sets[network]) if sets[network] else math.nan
            assert power[network, sample].item() == pytest.approx(expected, nan_ok=True)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_power_of_salient_interactions_counts_sets(seed: int) -> None:
    and_, or_ = interactions(2, 1, seed, 1.0), interactions(2, 1, seed + 1, 1.0)
    masks = functional.salient(and_, or_, fraction=0.3)
    for mask, effects in zip(masks, (and_, or_), strict=True):
        power = functional.generalization_power(mask)
        sets = []
        for network in range(2):
            tau = 0.3 * max(and_[network, 0, 1:].abs().max(), or_[network, 0, 1:].abs().max())
            sets.append({s for s in range(1, 2**N) if abs(effects[network, 0, s]) > tau})
        for network in range(2):
            expected = len(sets[0] & sets[1]) / len(sets[network]) if sets[network] else math.nan
            assert power[network, 0].item() == pytest.approx(expected, nan_ok=True)


@given(st.integers(0, 10**6), st.integers(2, 3))
@settings(max_examples=30, deadline=None)
def test_sharing_by_order_sums_sets(seed: int, m: int) -> None:
    and_, or_ = interactions(m, 2, seed), interactions(m, 2, seed + 1)
    masks = functional.strongest(and_, 6), functional.strongest(or_, 6)
    result = functional.order_sharing(and_, or_, *masks)
    for sample in range(2):
        for network in range(m):
            expected = dict.fromkeys(("all_positive", "all_negative", "shared_positive", "shared_negative"), 0.0)
            expected = {name: [0.0] * N for name in expected}
            for effects in (and_, or_):
                sets = [top(effects[i, sample], 6) for i in range(m)]
                for coalition in sets[network]:
                    effect = effects[network, sample, coalition].item()
                    sign = "positive" if effect > 0 else "negative"
                    expected[f"all_{sign}"][coalition.bit_count() - 1] += effect
                    if all(coalition in of_other for of_other in sets):
                        expected[f"shared_{sign}"][coalition.bit_count() - 1] += effect
            for name, values in expected.items():
                torch.testing.assert_close(getattr(result, name)[network, sample], torch.tensor(values).double())
    share = result.shared_fraction
    assert ((share >= -1e-12) & (share <= 1 + 1e-12) | share.isnan()).all()


def test_identical_networks_share_everything_and_disjoint_ones_nothing() -> None:
    effects = interactions(1, 3, 0, 1.0)
    both = effects.repeat(2, 1, 1)
    assert (functional.generalization_curve(both, [1, 5, 15]) == 1).all()
    apart = both.clone()
    apart[0, :, 1::2] = 0
    apart[1, :, 0::2] = 0
    assert (functional.generalization_curve(apart, [1, 5, 7]) == 0).all()
    masks = functional.salient(apart, apart)
    assert (functional.order_sharing(apart, apart, *masks).shared_positive == 0).all()
    assert (functional.overlap(effects, -2 * effects, k=7) == 1).all()


@pytest.mark.parametrize("k", [2, 3, 4, 5, 100])
def test_more_than_there_are_is_all_there_are(k):
    first, second = torch.tensor([9.0, 1.0, 0.0, 2.0]), torch.tensor([9.0, 0.0, 1.0, 2.0])
    assert functional.strongest(first, k).tolist() == [False, True, False, True]
    assert functional.overlap(first, second, k).item() == 0.5  # {1, 3} and {2, 3}
    assert functional.overlap(first, second).item() == 0.5
    assert functional.overlap(first, torch.tensor([9.0, 0.0, 1.0, 0.0])).item() == 0.0
    assert functional.generalization_curve(torch.stack((first, second)), [k, 1]).tolist() == [[0.5, 1.0]] * 2


def test_the_floor_leaves_out_the_faint() -> None:
    effects = torch.tensor([[0.0, 4.0, -1.0, 0.01], [9.0, 2.0, 0.001, 1.0]])
    assert functional.strongest(effects, 3, floor=0.01).tolist() == [
        [False, True, True, False],
        [False, True, False, True],
    ]
    assert functional.generalization_curve(effects, [3]).flatten().tolist() == [1.0, 1.0]
    assert functional.generalization_curve(effects, [3], floor=0.01).flatten().tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="floor must be at least 0, but is -1"):
        functional.strongest(effects, 3, floor=-1)


def test_a_network_that_is_not_finite_leaves_its_samples_out():
    effects = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))
    broken = effects.clone()
    broken[1, 2, 5], broken[2, 3] = torch.inf, torch.nan
    expected = functional.generalization_curve(effects, [2, 9])
    expected[:, 2:] = torch.nan
    torch.testing.assert_close(functional.generalization_curve(broken, [2, 9]), expected, equal_nan=True)
    for pair in ((0, 1), (1, 0)):
        shares = functional.overlap(*broken[list(pair)], k=3)
        assert shares.isnan().tolist() == [False, False, True, False]


def test_bad_input_says_what_to_do() -> None:
    effects = interactions(2, 3, 0)
    with pytest.raises(ValueError, match="at least two networks"):
        functional.generalization_curve(effects[:1], [3])
    with pytest.raises(ValueError, match="at least two networks"):
        functional.generalization_power(effects[:1] > 0)
    with pytest.raises(TypeError, match=r"is_salient must be bool, but is torch.float64; make it by salient"):
        functional.generalization_power(effects)
    with pytest.raises(ValueError, match="k must be at least 1, but is 0"):
        functional.strongest(effects, 0)
    with pytest.raises(ValueError, match="ks must be at least 1, but hold 0"):
        functional.generalization_curve(effects, [3, 0])
    with pytest.raises(ValueError, match="fraction must be at least 0, but is -1"):
        functional.salient(effects, effects, fraction=-1)
    with pytest.raises(ValueError, match=r"and_ is \(2, 3, 16\), or_ is \(2, 2, 16\)"):
        functional.salient(effects, effects[:, :2])
    with pytest.raises(ValueError, match="first and second must have one shape"):
        functional.overlap(effects, effects[:1])
    with pytest.raises(ValueError, match="the last axis"):
        functional.strongest(effects[..., :7], 2)


def test_salient_by_a_unit_of_each_networks_own():
    and_ = torch.tensor([[[0.0, 1.0, 0.4, -0.6]], [[0.0, 1.0, 0.4, -0.6]]])
    masks = functional.salient(and_, torch.zeros_like(and_), 0.5, unit=torch.tensor([[1.0], [1.5]]))
    assert masks[0][:, 0].tolist() == [[False, True, False, True], [False, True, False, False]]


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


def test_what_lies_at_the_threshold_is_not_salient_nor_is_nothing():
    effects, nothing = torch.tensor([9.0, 1.0, -2.0, 4.0]), torch.zeros(4)
    assert [mask.tolist() for mask in salient(effects, nothing, 0.5)] == [[False, False, False, True], [False] * 4]
    assert not salient(effects, nothing, 0.0)[1].any()
