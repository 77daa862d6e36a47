"""Spans of sequences, and segments that somebody drew."""

import pytest
import torch
from torch import nn

from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.outputs import log_odds
from interaction_monitor.players import ImagePatches, Segments, Spans
from interaction_monitor.probe import Probe

IMAGES = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def network(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 3))


def test_segments_are_masked_as_by_hand():
    labels = torch.stack([torch.arange(16).roll(shift).reshape(4, 4) // 2 % 4 - 1 for shift in range(3)])
    probe = Probe(IMAGES, torch.tensor([0, 1, 2]))
    model = network(32)
    drawn = assign_players(model, Segments(labels, baseline=0.5), probe)
    expected = torch.empty(3, 8, dtype=torch.float64)
    for sample in range(3):
        for coalition in range(8):
            masked = IMAGES[sample].clone()
            for row in range(4):
                for column in range(4):
                    player = labels[sample, row, column].item()
                    if player >= 0 and not coalition >> player & 1:
                        masked[:, row, column] = 0.5
            with torch.no_grad():
                expected[sample, coalition] = log_odds(model(masked[None]), probe.target_of(sample))
    assert (expected.std(dim=1) > 1e-3).all()
    torch.testing.assert_close(masked_outputs(model, probe, drawn), expected, rtol=0, atol=1e-6)


def test_segments_say_what_the_other_players_say():
    probe = Probe(torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2]))
    model = network(64)
    patches = assign_players(model, ImagePatches(grid=4, n_players=3), probe)
    segments = assign_players(model, Segments(patches.labels), probe)
    assert torch.equal(masked_outputs(model, probe, segments), masked_outputs(model, probe, patches))


@pytest.mark.parametrize(
    ("shape", "axes", "positions"),
    [
        ((1, 1, 4, 4), (2, 3), (4, 4)),  # Captum: one mask for all samples and channels
        ((3, 1, 4, 4), (2, 3), (4, 4)),
        ((1, 2, 4, 4), (1, 2, 3), (2, 4, 4)),  # channels apart
        ((1, 2, 1, 1), (1,), (2,)),  # whole channels
        ((3, 4, 4), (2, 3), (4, 4)),
        ((1, 4), (3,), (4,)),
        ((1, 2), (1,), (2,)),
    ],
)
def test_feature_masks_are_fitted_to_the_axes_they_speak_of(shape, axes, positions):
    labels = torch.arange(torch.Size(shape).numel()).reshape(shape) % 2
    drawn = Segments(labels).assign(Probe(IMAGES), seed=0)
    assert (drawn.axes, tuple(drawn.labels.shape)) == (axes, (3, *positions))
    # Broadcasting the labels over the images, as Captum does, masks the same.
    full = (
        labels
        if len(shape) == 4
        else labels.view(len(labels), *[s if a in axes else 1 for a, s in zip((1, 2, 3), (2, 4, 4), strict=True)])
    )
    for sample in range(3):
        expected = torch.where(full.expand(3, 2, 4, 4)[sample] == 1, IMAGES[sample], 0.0)
        assert torch.equal(drawn.mask(IMAGES[sample : sample + 1], sample, torch.tensor([0b10]))[0], expected)


def test_axes_can_be_named():
    square = torch.rand(2, 4, 4)
    labels = torch.tensor([[0, 1, 1, -1]])
    assert Segments(labels).assign(Probe(square), seed=0).axes == (2,)
    assert Segments(labels, axes=(1,)).assign(Probe(square), seed=0).axes == (1,)


def test_superpixels_are_drawn():
    labels = torch.arange(16).reshape(1, 4, 4).repeat(3, 1, 1) * 5
    drawn = Segments(labels, n_players=6).assign(Probe(IMAGES), seed=0)
    for sample in drawn.labels:
        assert sample[sample >= 0].tolist() == list(range(6))
    assert not torch.equal(drawn.labels[0], drawn.labels[1])


def test_samples_with_too_few_segments_are_left_out():
    labels = torch.arange(16).reshape(1, 4, 4).repeat(3, 1, 1)
    labels[1] = 0
    for segments in (Segments(labels), Segments(labels, n_players=4)):
        with pytest.warns(UserWarning, match="samples 1 of the probe have fewer than"):
            assert segments.assign(Probe(IMAGES), seed=0).complete.tolist() == [True, False, True]
    with pytest.raises(ValueError, match="no sample has n_players=20 segments"):
        Segments(labels, n_players=20).assign(Probe(IMAGES), seed=0)


def test_segments_live_at_layers_too():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    probe = Probe(IMAGES, torch.tensor([0, 1, 2]))
    drawn = assign_players(model, Segments(torch.arange(16).reshape(1, 4, 4) % 3, layer="1"), probe)
    v = masked_outputs(model, probe, drawn)
    assert v.isfinite().all()
    assert (v.std(dim=1) > 1e-4).all()


def test_index_sets_become_labels():
    indices = [[[0, 1], [15]], [[3, 2], [7]], [[8, 9], [5]]]
    segments = Segments.from_indices(indices, (4, 4), baseline=1.0)
    assert segments.baseline == 1.0
    for sample, players in enumerate(indices):
        for player, places in enumerate(players):
            assert (segments.labels[sample].flatten() == player).nonzero()[:, 0].tolist() == sorted(places)
    with pytest.raises(ValueError, match="sample 0, player 1 lies outside of 4 positions"):
        Segments.from_indices([[[0], [4]]], (2, 2))
    with pytest.raises(ValueError, match="sample 0, player 1 shares a position"):
        Segments.from_indices([[[0, 1], [1]]], (2, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segments(torch.rand(1, 4, 4)), "labels must be integers"),
        (lambda: Segments(torch.full((1, 4), -1)), "some segment from 0 on"),
        (lambda: Segments(torch.tensor([0, 1])), r"of \(2,\)"),
        (lambda: Segments(torch.zeros(1, 4).long(), n_players=-1), "n_players=-1"),
        (
            lambda: Segments(torch.zeros(2, 4, 4).long()).assign(Probe(IMAGES), seed=0),
            "maps for 2 samples, but .* 3",
        ),
        (
            lambda: Segments(torch.zeros(1, 5, 5).long()).assign(Probe(IMAGES), seed=0),
            r"do not fit .* \(3, 2, 4, 4\)",
        ),
        (lambda: Segments(torch.zeros(1, 4).long(), axes=(9,)).assign(Probe(IMAGES), seed=0), "do not fit"),
        (lambda: Segments(torch.zeros(1, 1, 1, 1).long()).assign(Probe(IMAGES), seed=0), "do not fit"),
    ],
)
def test_segments_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_of_segments_are_a_tensor():
    with pytest.raises(TypeError, match=r"Segments\(labels=list of 1.*torch.as_tensor"):
        Segments([[0, 1]])


SQUARE_IMAGES = Probe(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2]))


def outputs_at(model, players, probe=SQUARE_IMAGES):
    return masked_outputs(model, probe, assign_players(model, players, probe))


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
