"""Patches of images, of maps with their channels first or last, and of a transformer's tokens."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.players import FeaturePatches, ImagePatches, PointClusters, Spans, TokenPatches
from interaction_monitor.probe import Probe

IMAGES = Probe(torch.rand(6, 3, 16, 24), torch.arange(6))


def test_patches_are_the_papers():
    """10 of the central 6x6 cells of an 8x8 grid, other ones in each sample."""
    labels = ImagePatches().assign(IMAGES, seed=3).labels
    assert labels.shape == (6, 16, 24)
    cells = labels.unfold(1, 2, 2).unfold(2, 3, 3).flatten(3)  # 8 x 8 cells of 2 x 3 pixels
    assert (cells == cells[..., :1]).all()
    cells = cells[..., 0]
    for sample in cells:
        assert sorted(sample[sample >= 0].tolist()) == list(range(10))
        assert sample[sample >= 0].tolist() == list(range(10))  # in reading order
    border = torch.ones(8, 8, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert (cells[:, border] == -1).all()
    assert len({tuple(sample.flatten().tolist()) for sample in cells}) == 6


def test_the_draw_depends_on_the_seed_and_on_the_sample_alone():
    players = ImagePatches(n_players=5)
    labels = players.assign(IMAGES, seed=0).labels
    assert torch.equal(players.assign(IMAGES, seed=0).labels, labels)
    assert torch.equal(players.assign(Probe(torch.rand(3, 1, 16, 24)), seed=0).labels, labels[:3])
    assert not torch.equal(players.assign(IMAGES, seed=1).labels, labels)


def test_feature_patches_are_those_of_the_layers_map():
    players = FeaturePatches("features.1", grid=7, n_players=10)
    drawn = players.assign(IMAGES, torch.rand(1, 8, 14, 14), seed=0)
    assert (drawn.layer, drawn.axes, drawn.baseline, drawn.input_key) == ("features.1", (2, 3), 0.0, None)
    assert drawn.complete.all()
    assert torch.equal(drawn.labels, ImagePatches(grid=7).assign(Probe(torch.rand(6, 1, 14, 14)), seed=0).labels)


def test_images_in_a_dict_are_found():
    probe = Probe({"pixel_values": IMAGES.inputs, "mask": torch.ones(6)})
    assert ImagePatches(input_key="pixel_values").assign(probe, seed=0).input_key == "pixel_values"
    with pytest.raises(ValueError, match="input_key=None must be one of"):
        ImagePatches().assign(probe, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_players": 37}, "n_players=37 is more than the 36 cells of the central 6x6 region of a 8x8 grid"),
        ({"margin": 4}, "the 0 cells of the central 0x0"),
        ({"grid": 0}, "grid=0"),
        ({"margin": -1}, "margin=-1"),
        ({"n_players": 0}, "n_players=0"),
    ],
)
def test_grids_that_do_not_fit_are_refused(settings, message):
    for make in (ImagePatches, lambda **kwargs: FeaturePatches("a", **kwargs)):
        with pytest.raises(ValueError, match=message):
            make(**settings)


@pytest.mark.parametrize("name", ["grid", "margin", "n_players"])
@pytest.mark.parametrize("value", [6.0, "6", True, None, (4, 4)])
def test_numbers_that_are_not_whole_are_refused(name, value):
    with pytest.raises(TypeError, match=re.escape(f"ImagePatches({name}={value!r}): give a whole number")):
        ImagePatches(**{name: value})
    with pytest.raises(TypeError, match=re.escape(f"FeaturePatches({name}={value!r}): give a whole number")):
        FeaturePatches("a", **{name: value})
    with pytest.raises(TypeError, match=re.escape(f"PointClusters(n_clusters={value!r}): give")):
        PointClusters(n_clusters=value)


def test_numpy_numbers_are_whole():
    players = ImagePatches(grid=np.int64(4), margin=np.int64(0), n_players=np.int64(3))
    assert players.assign(IMAGES, seed=0).n_players == 3


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"height, width\), got a tensor of shape \(2, 8\)"):
        ImagePatches().assign(Probe(torch.rand(2, 8)), seed=0)
    with pytest.raises(ValueError, match=r"layer='fc' gives a tensor of shape \(1, 8\)"):
        FeaturePatches("fc").assign(IMAGES, torch.rand(1, 8), seed=0)
    with pytest.raises(ValueError, match=r"7x9 .* too small for a 8x8 grid; take grid=7 or less"):
        FeaturePatches("a").assign(IMAGES, torch.rand(1, 2, 7, 9), seed=0)


SQUARE_IMAGES = Probe(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2]))


class ToChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class ToTokens(nn.Module):
    """Tokens row by row, after a class token of ones."""

    def __init__(self, class_tokens=1):
        super().__init__()
        self.class_tokens = class_tokens

    def forward(self, x):
        tokens = x.flatten(2).mT
        return torch.cat([tokens.new_ones(len(x), self.class_tokens, tokens.shape[2]), tokens], dim=1)


def outputs_at(model, players, probe=SQUARE_IMAGES):
    return masked_outputs(model, probe, assign_players(model, players, probe))


def test_maps_with_channels_last_are_masked_where_those_with_channels_first_are():
    """Swin's blocks and the norms of ConvNeXt give (B, H, W, C)."""
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 12, 4, 4)
    vector = torch.rand(12)
    first = nn.Sequential(stem, nn.GELU(), nn.Flatten(), nn.Linear(12 * 64, 3))
    last = nn.Sequential(stem, ToChannelsLast(), nn.GELU(), nn.Unflatten(3, (12,)), ToChannelsFirst(), *first[2:])
    patches = {"grid": 4, "margin": 0, "n_players": 4, "baseline": vector}
    expected = outputs_at(first, FeaturePatches("1", **patches))
    torch.testing.assert_close(outputs_at(last, FeaturePatches("2", **patches)), expected)
    assert assign_players(last, FeaturePatches("2", **patches), SQUARE_IMAGES).axes == (1, 2)
    assert assign_players(first, FeaturePatches("1", **patches), SQUARE_IMAGES).axes == (2, 3)


class ToChannelsFirst(nn.Module):
    def forward(self, x):
        return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("image", "maps", "axes"),
    [
        ((32, 32), (16, 8, 8), (2, 3)),
        ((32, 32), (8, 8, 16), (1, 2)),
        ((32, 32), (8, 8, 8), (2, 3)),  # either way: as in torch
        ((224, 224), (56, 56, 96), (1, 2)),
        ((64, 400), (64, 32, 200), (2, 3)),
        ((64, 400), (16, 100, 192), (1, 2)),
        ((20, 40), (16, 12, 32), (2, 3)),  # borders cut off
        ((16, 24), (8, 14, 14), (2, 3)),  # pooled to a square
        ((32, 32), (8, 8, 10), (1, 2)),
    ],
)
def test_the_axes_of_a_map_are_found_by_the_proportions_of_the_image(image, maps, axes):
    players = FeaturePatches("any", grid=4, margin=0, n_players=2)
    assert players.assign(Probe(torch.rand(2, 1, *image)), torch.rand(1, *maps)).axes == axes
    if sorted(maps)[0] >= 4:
        forced = FeaturePatches("any", grid=4, margin=0, n_players=2, channels_last=axes == (2, 3))
        assert forced.assign(Probe(torch.rand(2, 1, *image)), torch.rand(1, *maps)).axes != axes


@pytest.mark.parametrize(("probe", "maps"), [((2, 1, 32, 32), (6, 50, 8)), ((2, 900), (8, 8, 30))])
def test_axes_that_cannot_be_known_are_asked_for(probe, maps):
    with pytest.raises(ValueError, match=r"unclear which axes.*channels_last=False.*channels_last=True"):
        FeaturePatches("any", grid=4, n_players=2).assign(Probe(torch.rand(probe)), torch.rand(1, *maps))


def test_images_with_channels_last():
    patches = ImagePatches(grid=4, margin=0, n_players=3, baseline=torch.tensor([0.1, 0.2, 0.3]))
    first = patches.assign(SQUARE_IMAGES)
    last = patches.assign(Probe(SQUARE_IMAGES.inputs.permute(0, 2, 3, 1).contiguous()))
    assert (first.axes, last.axes) == ((2, 3), (1, 2))
    masked = last.mask(SQUARE_IMAGES.inputs[:1].permute(0, 2, 3, 1), 0, torch.arange(8))
    assert torch.equal(masked.permute(0, 3, 1, 2), first.mask(SQUARE_IMAGES.inputs[:1], 0, torch.arange(8)))


@pytest.mark.parametrize("class_tokens", [0, 1, 5])
def test_patches_of_tokens_are_those_of_the_map_that_they_come_from(class_tokens):
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 12, 4, 4), nn.Linear(12 * 64, 3)
    model = nn.Sequential(stem, ToTokens(class_tokens), nn.Identity(), Plane(class_tokens), nn.Flatten(), head)
    patches = {"grid": 4, "margin": 1, "n_players": 4, "baseline": torch.rand(12)}
    expected = outputs_at(nn.Sequential(stem, nn.Identity(), nn.Flatten(), head), FeaturePatches("1", **patches))
    torch.testing.assert_close(outputs_at(model, TokenPatches("2", **patches)), expected)
    drawn = assign_players(model, TokenPatches("2", **patches), SQUARE_IMAGES)
    assert (drawn.labels[:, :class_tokens] == -1).all()
    assert all(re.fullmatch(r"tokens from row \d, column \d", name) for name in drawn.names[0])


class Plane(nn.Module):
    """The map that the tokens of a square image were."""

    def __init__(self, class_tokens):
        super().__init__()
        self.class_tokens = class_tokens

    def forward(self, x):
        side = math.isqrt(x.shape[1] - self.class_tokens)
        return x[:, self.class_tokens :].mT.unflatten(2, (side, side))


@pytest.mark.parametrize(
    ("image", "n_tokens", "options", "before"),
    [
        ((224, 224), 197, {}, 1),
        ((224, 224), 198, {}, 2),  # a distillation token
        ((224, 224), 201, {}, 5),  # registers
        ((224, 176), 14 * 11 + 1, {}, 1),
        ((230, 180), 14 * 11, {}, 0),  # the border is cut off
        ((224, 224), 150, {"plane": (10, 15)}, 0),
        ((224, 224), 152, {"plane": (10, 15), "class_tokens": 2}, 2),
    ],
)
def test_the_plane_of_tokens_is_found(image, n_tokens, options, before):
    players = TokenPatches("blocks.0", grid=2, margin=0, n_players=4, **options)
    drawn = players.assign(Probe(torch.rand(1, 3, *image)), torch.rand(1, n_tokens, 4))
    assert (drawn.labels[0] == -1).nonzero()[:, 0].tolist() == list(range(before))
    assert drawn.complete.all()


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (1, 155, 4), r"155 tokens, which are not a plane.*224x224 image.*plane=\(height, width\)"),
        ({"plane": (10, 15)}, (1, 149, 4), r"plane=\(10, 15\) does not fit 149"),
        ({"plane": (7, 7), "class_tokens": 2}, (1, 50, 4), r"plane=\(7, 7\) after class_tokens=2 does not fit 50"),
        ({}, (1, 12, 14, 14), "take FeaturePatches"),
        ({"grid": 20}, (1, 197, 4), "14x14"),
    ],
)
def test_tokens_that_do_not_fit_are_named(options, shape, message):
    players = TokenPatches("blocks.0", **{"n_players": 4} | options)
    with pytest.raises(ValueError, match=message):
        players.assign(Probe(torch.rand(1, 3, 224, 224)), torch.rand(shape))


def test_arguments_of_tokens_and_spans_are_checked():
    with pytest.raises(ValueError, match="class_tokens=-1"):
        TokenPatches("x", class_tokens=-1)
    with pytest.raises(ValueError, match=r"plane=\(0, 4\)"):
        TokenPatches("x", plane=(0, 4))
    with pytest.raises(ValueError, match="n_players=5 must be from 1 to n_spans=4"):
        Spans(n_spans=4, n_players=5)
    with pytest.raises(ValueError, match="axis=0 must be at least 1"):
        Spans(axis=0)
    with pytest.raises(TypeError, match=r"Spans\(n_spans=2.5\)"):
        Spans(n_spans=2.5)


SIGNALS = Probe(torch.rand(4, 2, 40, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1]))


def test_maps_of_a_one_dimensional_network_are_sent_to_players_of_sequences():
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    net(SIGNALS.inputs)
    with pytest.raises(ValueError, match=r"TokenPatches\('1'\).*Spans\(layer='1', axis=2\)") as caught:
        assign_players(net, FeaturePatches("1"), SIGNALS)
    assert "name a" not in str(caught.value)
    with pytest.raises(ValueError, match="take Spans"):
        assign_players(net, ImagePatches(), SIGNALS)


def test_a_layer_whose_first_axis_is_not_the_batch_is_named():
    class Windows(nn.Module):
        def forward(self, x):
            return x.unflatten(0, (-1, 1)).expand(-1, 4, -1, -1).flatten(0, 1)

    net = nn.Sequential(Windows(), nn.Unflatten(0, (-1, 4)), nn.Flatten(), nn.Linear(320, 2))
    with pytest.raises(ValueError, match=r"layer='0' gives .* for one sample, so its first axis is not the batch"):
        assign_players(net, Spans(layer="0", axis=2), SIGNALS)


class Hungry(nn.Module):
    """Runs out of memory at its last layer beyond so many rows."""

    def __init__(self, most):
        super().__init__()
        self.most, self.stem, self.head = most, nn.Conv2d(3, 4, 4, 4), nn.Linear(256, 3)

    def forward(self, x):
        x = self.stem(x)
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.head(x.flatten(1))


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_feature_players_fall_back_where_memory_runs_out(most):
    torch.manual_seed(0)
    net = Hungry(10**9)
    players = FeaturePatches("stem", grid=4, margin=0, n_players=3)
    expected = outputs_at(net, players)
    net.most = most
    torch.testing.assert_close(outputs_at(net, players), expected)
