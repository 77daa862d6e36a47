"""Masking by labels, against masking by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interaction_monitor.players import PlayerMap


def mask_by_hand(x, labels, axes, coalition, baseline):
    """Mask one sample, position by position."""
    masked = x.clone()
    for position in torch.cartesian_prod(*(torch.arange(size) for size in labels.shape)).reshape(-1, labels.ndim):
        player = labels[tuple(position)].item()
        if player >= 0 and not coalition >> player & 1:
            index = [slice(None)] * x.ndim
            for axis, place in zip(axes, position.tolist(), strict=True):
                index[axis] = place
            masked[tuple(index)] = baseline
    return masked


@st.composite
def maps_and_tensors(draw):
    n = draw(st.integers(1, 5))
    positions = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    ndim = 1 + len(positions) + draw(st.integers(0, 2))
    axes = tuple(sorted(draw(st.permutations(range(1, ndim)))[: len(positions)]))
    shape = [draw(st.integers(1, 3)) for _ in range(ndim)]
    for axis, size in zip(axes, positions, strict=True):
        shape[axis] = size
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    labels = torch.randint(-1, n, (3, *positions), generator=generator)
    x = torch.randn(3, *shape[1:], generator=generator)
    return PlayerMap(labels, n, axes, baseline=0.25), x


@settings(max_examples=60, deadline=None)
@given(maps_and_tensors(), st.data())
def test_masking_is_that_by_hand(case, data):
    players, x = case
    coalitions = torch.arange(1 << players.n_players)
    sample = data.draw(st.integers(0, 2))
    expected = torch.cat(
        [mask_by_hand(x[sample : sample + 1], players.labels[sample], players.axes, c, 0.25) for c in coalitions]
    )
    assert torch.equal(players.mask(x[sample : sample + 1], sample, coalitions), expected)
    # Rows of different samples give what each gives alone.
    rows = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=5)))
    some = coalitions[torch.tensor([data.draw(st.integers(0, len(coalitions) - 1)) for _ in rows])]
    alone = [players.mask(x[r : r + 1], int(r), c[None]) for r, c in zip(rows, some, strict=True)]
    assert torch.equal(players.mask(x[rows], rows, some), torch.cat(alone))


def test_nan_in_a_masked_part_is_gone_and_present_parts_keep_their_bits():
    players = PlayerMap(torch.tensor([[0, 1, -1]]), 2, (1,), baseline=0.0)
    x = torch.tensor([[torch.nan, torch.inf, -0.0]])
    masked = players.mask(x, 0, torch.tensor([0b00, 0b10]))
    assert masked[0].tolist() == [0.0, 0.0, 0.0]
    assert masked[1, 0] == 0
    assert masked[1, 1] == torch.inf
    assert torch.signbit(masked[:, 2]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8])
@pytest.mark.parametrize("baseline", [7, torch.tensor([[7.0]])])
def test_the_dtype_stays(dtype, baseline):
    players = PlayerMap(torch.tensor([[0, -1]]), 1, (1,), baseline=baseline)
    masked = players.mask(torch.tensor([[1, 2]], dtype=dtype), 0, torch.tensor([0, 1]))
    assert masked.dtype == dtype
    assert masked.tolist() == [[7, 2], [1, 2]]


def test_each_sample_has_its_own_baseline_where_it_is_given():
    baseline = torch.tensor([[10.0], [20.0]])
    players = PlayerMap(torch.tensor([[0, -1], [-1, 0]]), 1, (1,), baseline=baseline)
    x = torch.ones(2, 2)
    assert players.mask(x[1:], 1, torch.tensor([0])).tolist() == [[1, 20]]
    assert players.mask(x, torch.tensor([0, 1]), torch.tensor([0, 0])).tolist() == [[10, 1], [1, 20]]
    assert players.select([1]).mask(x[1:], 0, torch.tensor([0])).tolist() == [[1, 20]]


def test_samples_are_selected_with_their_names():
    players = PlayerMap(torch.tensor([[0], [-1], [0]]), 1, (1,), names=(("a",), ("b",), ("c",)))
    chosen = players.select(torch.tensor([2, 0]))
    assert chosen.names == (("c",), ("a",))
    assert players.complete.tolist() == [True, False, True]
    assert len(players) == 3


def test_sixty_two_players_fit_the_bitmask():
    players = PlayerMap(torch.arange(62)[None], 62, (1,), baseline=0.0)
    masked = players.mask(torch.ones(1, 62), 0, torch.tensor([1 << 61, (1 << 62) - 1]))
    assert masked[0].nonzero().tolist() == [[61]]
    assert masked[1].all()


def test_regions_are_enlarged_by_the_nearest_position():
    labels = torch.tensor([[[0, 1, -1], [2, 3, 4]]])
    picture = PlayerMap(labels, 5, (2, 3)).regions(0, 4, 6)
    assert torch.equal(picture, labels[0].repeat_interleave(2, 0).repeat_interleave(2, 1))
    # The same as torch's own nearest upsampling where sizes do not divide.
    uneven = PlayerMap(labels, 5, (2, 3)).regions(0, 5, 7)
    assert torch.equal(uneven, torch.nn.functional.interpolate(labels[None].float(), (5, 7))[0, 0].long())
    with pytest.raises(ValueError, match="have 1 position axes"):
        PlayerMap(torch.tensor([[0]]), 1, (1,)).regions(0, 2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([[0.0, 1.0]])}, "must be int64"),
        ({"labels": torch.tensor([0, 1])}, r"of \(2,\)"),
        ({"labels": torch.tensor([[0, 2]])}, "n_players-1=1, got 0 to 2"),
        ({"labels": torch.tensor([[0, -2]])}, "got -2 to 0"),
        ({"n_players": 0}, "n_players=0"),
        ({"n_players": 63}, "from 1 to 62"),
        ({"axes": (1, 2)}, r"axes=\(1, 2\)"),
        ({"axes": (0,)}, r"axes=\(0,\)"),
        ({"layer": "a", "input_key": "b"}, "not both"),
        ({"names": (("a", "b"), ("c", "d"))}, "names are given for 2 samples, labels for 1"),
    ],
)
def test_maps_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PlayerMap(**({"labels": torch.tensor([[0, 1]]), "n_players": 2, "axes": (1,)} | changes))


def test_tensors_that_do_not_fit_are_refused():
    players = PlayerMap(torch.tensor([[0, 1]]), 2, (1,))
    for x in (torch.zeros(1, 3), torch.zeros(1)):
        with pytest.raises(ValueError, match=r"drawn for \(2,\) positions on axes \(1,\)"):
            players.mask(x, 0, torch.tensor([0]))
    with pytest.raises(ValueError, match="axis 0 of the tensor to mask must be the batch: for 3 coalitions"):
        players.mask(torch.zeros(2, 2), 0, torch.tensor([0, 1, 2]))
