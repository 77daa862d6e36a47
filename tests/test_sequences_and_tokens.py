"""Players of maps with their channels last, of a transformer's tokens, and of sequences."""

import math
import re

import pytest
import torch
from torch import nn

from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.players import FeaturePatches, ImagePatches, Spans, TokenPatches
from interaction_monitor.probe import Probe

IMAGES = Probe(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2]))


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


def outputs_at(model, players, probe=IMAGES):
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
    assert assign_players(last, FeaturePatches("2", **patches), IMAGES).axes == (1, 2)
    assert assign_players(first, FeaturePatches("1", **patches), IMAGES).axes == (2, 3)


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
    first = patches.assign(IMAGES)
    last = patches.assign(Probe(IMAGES.inputs.permute(0, 2, 3, 1).contiguous()))
    assert (first.axes, last.axes) == ((2, 3), (1, 2))
    masked = last.mask(IMAGES.inputs[:1].permute(0, 2, 3, 1), 0, torch.arange(8))
    assert torch.equal(masked.permute(0, 3, 1, 2), first.mask(IMAGES.inputs[:1], 0, torch.arange(8)))


@pytest.mark.parametrize("class_tokens", [0, 1, 5])
def test_patches_of_tokens_are_those_of_the_map_that_they_come_from(class_tokens):
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 12, 4, 4), nn.Linear(12 * 64, 3)
    model = nn.Sequential(stem, ToTokens(class_tokens), nn.Identity(), Plane(class_tokens), nn.Flatten(), head)
    patches = {"grid": 4, "margin": 1, "n_players": 4, "baseline": torch.rand(12)}
    expected = outputs_at(nn.Sequential(stem, nn.Identity(), nn.Flatten(), head), FeaturePatches("1", **patches))
    torch.testing.assert_close(outputs_at(model, TokenPatches("2", **patches)), expected)
    drawn = assign_players(model, TokenPatches("2", **patches), IMAGES)
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


def by_hand(model, probe, spans, chosen, *, axis, target):
    """Mask spans of the first sample's input by zero."""
    x = probe.inputs[:1]
    n_spans, size = spans, x.shape[axis] // spans
    outputs = []
    for coalition in range(1 << len(chosen)):
        masked = x.clone()
        for player, span in enumerate(chosen):
            if not coalition >> player & 1:
                masked.narrow(axis, span * size, size).zero_()
        with torch.no_grad():
            z = model(masked)[0].double()
        outputs.append(z[target] - z[1 - target])
    assert n_spans * size == x.shape[axis]
    return torch.stack(outputs)


def test_spans_of_a_signal_are_masked_position_by_position():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(160, 2))
    expected = by_hand(net, SIGNALS, 5, range(5), axis=2, target=0)
    torch.testing.assert_close(outputs_at(net, Spans(n_spans=5), SIGNALS)[0], expected, rtol=1e-5, atol=1e-6)
    drawn = assign_players(net, Spans(n_spans=5, n_players=3), SIGNALS)
    starts = [int(name.split()[1]) // 8 for name in drawn.names[0]]
    found = masked_outputs(net, SIGNALS, drawn)[0]
    torch.testing.assert_close(found, by_hand(net, SIGNALS, 5, starts, axis=2, target=0), rtol=1e-5, atol=1e-6)


def test_spans_at_a_layer_of_a_recurrent_network():
    torch.manual_seed(0)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(2, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0].tanh().sum(1))

    probe = Probe(SIGNALS.inputs.mT.contiguous(), SIGNALS.targets)
    net = Reader()
    v = outputs_at(net, Spans(layer="lstm", n_spans=4, axis=1), probe)
    with torch.no_grad():
        states = net.lstm(probe.inputs[:1])[0]
        kept = states.clone()
        kept[:, 10:] = 0
        z = net.head(kept.tanh().sum(1))[0].double()
    torch.testing.assert_close(v[0, 1], z[0] - z[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("players", "shape", "message"),
    [
        (Spans(), (4, 16, 40), r"unclear which axis.*axis=1 .*recurrent.*axis=2 .*Conv1d"),
        (Spans(), (4, 5, 7), r"no axis of n_spans=10 positions; give n_spans=7 or less"),
        (Spans(), (4, 1, 1), "name a layer whose output is a sequence"),
        (Spans(axis=3), (4, 16, 40), "axis=3.*no such axis"),
        (Spans(axis=1), (4, 5, 40), "axis=1.*5 positions there for n_spans=10"),
    ],
)
def test_a_sequence_that_is_unclear_is_asked_for(players, shape, message):
    with pytest.raises(ValueError, match=message):
        players.assign(Probe(torch.rand(shape)))


@pytest.mark.parametrize(("shape", "axis"), [((4, 40), 1), ((4, 1, 40), 2), ((4, 40, 3), 1)])
def test_a_sequence_that_is_clear_is_found(shape, axis):
    assert Spans().assign(Probe(torch.rand(shape))).axes == (axis,)


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
