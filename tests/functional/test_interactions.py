from __future__ import annotations

from itertools import chain, combinations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from interaction_monitor.functional import (
    and_interactions,
    and_outputs,
    coalition,
    members,
    n_players,
    noise_floor,
    or_interactions,
    or_outputs,
    orders,
)

ALL = [and_interactions, and_outputs, or_interactions, or_outputs]


def subsets(players):
    players = tuple(players)
    return chain.from_iterable(combinations(players, size) for size in range(len(players) + 1))


def brute_and(v, n):
    return torch.stack(
        [sum((-1) ** (len(s) - len(t)) * v[coalition(t)] for t in subsets(s)) for s in map(members, range(2**n))]
    )


def brute_or(v, n):
    everyone = 2**n - 1
    result = [
        -sum((-1) ** (len(s) - len(t)) * v[everyone - coalition(t)] for t in subsets(s))
        for s in map(members, range(2**n))
    ]
    result[0] = torch.zeros_like(v[0])
    return torch.stack(result)


def brute_and_outputs(i, n):
    return torch.stack([sum(i[s] for s in range(2**n) if s & t == s) for t in range(2**n)])


def brute_or_outputs(i, n):
    zero = torch.zeros_like(i[0])
    return torch.stack([sum((i[s] for s in range(2**n) if s & t), zero) for t in range(2**n)])


# whole numbers, so that the algebra holds exactly and nothing hides behind a tolerance
@st.composite
def games(draw, batch=(), smallest=1, largest=6):
    n = draw(st.integers(smallest, largest))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1000, 1000, (*batch, 2**n), generator=generator).double()


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize(
    ("fast", "brute"),
    [
        (and_interactions, brute_and),
        (or_interactions, brute_or),
        (and_outputs, brute_and_outputs),
        (or_outputs, brute_or_outputs),
    ],
)
def test_agrees_with_sums_over_subsets(fast, brute, n):
    torch.manual_seed(n)
    v = torch.randint(-99, 99, (2**n,)).double()
    assert torch.equal(fast(v), brute(v, n))


@given(games(batch=(2, 3)))
def test_inverses(v):
    assert torch.equal(and_outputs(and_interactions(v)), v)
    assert torch.equal(and_interactions(and_outputs(v)), v)
    assert torch.equal(or_outputs(or_interactions(v)), v - v[..., :1])
    without_empty = v.clone()
    without_empty[..., 0] = 0
    assert torch.equal(or_interactions(or_outputs(v)), without_empty)


@given(games(), st.integers(1, 1000))
def test_or_does_not_see_the_empty_pattern(i, other):
    changed = i.clone()
    changed[0] += other
    assert torch.equal(or_outputs(i), or_outputs(changed))
    assert or_outputs(i)[0] == 0
    assert or_interactions(i)[0] == 0


@given(games())
def test_efficiency(v):
    assert and_interactions(v).sum() == v[-1]
    assert or_interactions(v).sum() == v[-1] - v[0]


@given(games(batch=(2,)), st.integers(-9, 9), st.integers(-9, 9))
def test_linearity(v, a, b):
    for transform in ALL:
        assert torch.equal(transform(a * v[0] + b * v[1]), a * transform(v[0]) + b * transform(v[1]))


def with_player(v, player, extra):
    """The game in which a new player at place `player` gives `extra(T)` to each coalition T of the others."""
    low = v.reshape(-1, 2**player)
    return torch.stack((low, low + extra.reshape(-1, 2**player)), dim=1).reshape(-1)


@given(games(), st.data())
def test_dummy(v, data):
    player = data.draw(st.integers(0, n_players(v)))
    game = with_player(v, player, torch.full_like(v, 7.0))
    has_player = (torch.arange(len(game)) >> player & 1).bool()
    in_company = has_player & (orders(n_players(game)) > 1)
    for interactions in (and_interactions(game), or_interactions(game)):
        assert (interactions[in_company] == 0).all()
        assert interactions[1 << player] == 7


def renamed(v, permutation):
    """The game of the players renamed: (πv)(πS) = v(S)."""
    index = [coalition(permutation[i] for i in members(s)) for s in range(v.shape[-1])]
    result = torch.empty_like(v)
    result[..., index] = v
    return result


@given(games(smallest=2), st.data())
def test_symmetry(v, data):
    n = n_players(v)
    i, j = data.draw(st.permutations(range(n)))[:2]
    swap = list(range(n))
    swap[i], swap[j] = j, i
    game = v + renamed(v, swap)
    for interactions in (and_interactions(game), or_interactions(game)):
        for s in subsets(set(range(n)) - {i, j}):
            assert interactions[coalition((*s, i))] == interactions[coalition((*s, j))]


@given(games(), st.data())
def test_anonymity(v, data):
    permutation = data.draw(st.permutations(range(n_players(v))))
    for transform in ALL:
        assert torch.equal(transform(renamed(v, permutation)), renamed(transform(v), permutation))


@given(games(smallest=2), st.data())
def test_recursion(v, data):
    player = data.draw(st.integers(0, n_players(v) - 1))
    halves = v.reshape(-1, 2, 2**player)
    absent, present = halves[:, 0].reshape(-1), halves[:, 1].reshape(-1)
    expected = and_interactions(present) - and_interactions(absent)
    assert torch.equal(and_interactions(v).reshape(-1, 2, 2**player)[:, 1].reshape(-1), expected)


@given(st.integers(1, 6), st.integers(1, 99), st.data())
def test_interaction_distribution(n, c, data):
    pattern = data.draw(st.integers(1, 2**n - 1))
    index = torch.arange(2**n)
    only = torch.where(index == pattern, c, 0).double()
    assert torch.equal(and_interactions(torch.where(index & pattern == pattern, c, 0).double()), only)
    assert torch.equal(or_interactions(torch.where(index & pattern > 0, c, 0).double()), only)


@pytest.mark.parametrize("transform", ALL)
def test_gradients(transform):
    torch.manual_seed(0)
    v = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform, v)
    assert torch.autograd.gradgradcheck(lambda x: transform(x) ** 2, v)


@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtype_is_kept_and_the_input_untouched(transform, dtype):
    v = torch.arange(8, dtype=dtype)
    result = transform(v)
    assert result.dtype == dtype
    assert torch.equal(v, torch.arange(8, dtype=dtype))
    assert torch.equal(result.double(), transform(v.double()))


@pytest.mark.parametrize("transform", ALL)
def test_any_memory_layout(transform):
    v = torch.randn(16, 5, dtype=torch.float64)
    expected = torch.stack([transform(v[:, column].contiguous()) for column in range(5)])
    assert torch.equal(transform(v.T), expected)
    assert torch.equal(transform(v[:, :1].T.expand(3, 16)), expected[:1].expand(3, 16))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("transform", ALL)
def test_cuda_agrees_with_the_cpu(transform):
    v = torch.randint(-99, 99, (5, 1024)).double()
    assert torch.equal(transform(v.cuda()).cpu(), transform(v))


@pytest.mark.parametrize("transform", ALL)
def test_bad_input_is_named(transform):
    with pytest.raises(ValueError, match=r"2\*\*n coalitions.*\(4, 12\)"):
        transform(torch.zeros(4, 12))
    with pytest.raises(TypeError, match=r"int64.*double\(\)"):
        transform(torch.zeros(8, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 1)])
def test_shapes_that_hold_no_coalitions(shape):
    with pytest.raises(ValueError, match=r"2\*\*n"):
        n_players(torch.zeros(shape))


@settings(max_examples=50)
@given(st.sets(st.integers(0, 40)))
def test_bitmasks(players):
    assert members(coalition(players)) == tuple(sorted(players))


def test_orders_count_members():
    assert orders(5).tolist() == [len(members(s)) for s in range(32)]
    assert orders(0).tolist() == [0]
    assert [members(s) for s in np.array([0, 5, 6])] == [(), (0, 2), (1, 2)]
    assert coalition(np.array([0, 70])) == 1 + 2**70
    for bad in (lambda: orders(-1), lambda: members(-1), lambda: coalition([-1])):
        with pytest.raises(ValueError, match="at least 0"):
            bad()


def test_no_games_give_no_interactions():
    assert and_interactions(torch.empty(0, 8)).shape == (0, 8)


def test_noise_floor_is_the_spread_of_dividends_of_noise():
    torch.manual_seed(4)
    noise = 0.3 * torch.randn(4000, 32, dtype=torch.float64)
    spread = and_interactions(noise).std(0)
    floor = noise_floor(5, 0.3)
    for one in range(1, 32):
        assert spread[one].item() == pytest.approx(floor[bin(one).count("1") - 1].item(), rel=0.06)
