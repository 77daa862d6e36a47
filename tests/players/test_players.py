"""Columns of a table, and spans of sequences."""

import pytest
import torch
from torch import nn

from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.outputs import log_odds
from interaction_monitor.players import Columns, Segments, Spans
from interaction_monitor.probe import Probe

TABLE = torch.tensor([[1.0, 2.0, 3.0, 4.0], [3.0, 5.0, 9.0, -4.0], [8.0, 2.0, 0.0, 1.0]])


IMAGES = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def network(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("baseline", "values"),
    [
        ("mean", TABLE.mean(0)),
        ("median", torch.tensor([3.0, 2.0, 3.0, 1.0])),
        (7.0, torch.full((4,), 7.0)),
        (torch.arange(4.0), torch.arange(4.0)),
        (lambda table: table.amax(0), TABLE.amax(0)),
    ],
)
def test_columns_are_masked_as_by_hand(baseline, values):
    probe = Probe(TABLE, torch.tensor([0, 1, 2]))
    model = network(4)
    drawn = assign_players(model, Columns([3, (0, 1)], baseline=baseline), probe)
    assert drawn.n_players == 2
    expected = torch.empty(3, 4, dtype=torch.float64)
    for coalition in range(4):
        masked = TABLE.clone()
        if not coalition & 1:
            masked[:, 3] = values[3]
        if not coalition & 2:
            masked[:, :2] = values[:2]
        with torch.no_grad():
            expected[:, coalition] = log_odds(model(masked), probe.targets)
    assert (expected.std(dim=1) > 1e-3).all()
    torch.testing.assert_close(masked_outputs(model, probe, drawn), expected, rtol=0, atol=1e-6)


def test_all_samples_have_the_same_columns_and_their_names():
    table = Probe(torch.rand(4, 30))
    drawn = Columns(names=[f"c{i}" for i in range(30)]).assign(table, seed=0)
    assert drawn.n_players == Columns().n_players == 10
    assert (drawn.labels == drawn.labels[0]).all()
    chosen = (drawn.labels[0] >= 0).nonzero()[:, 0].tolist()
    assert drawn.names == (tuple(f"c{i}" for i in chosen),) * 4
    assert drawn.labels[0][chosen].tolist() == list(range(10))
    assert not torch.equal(Columns().assign(table, seed=1).labels, drawn.labels)
    assert Columns([0, (1, 2)]).assign(table, seed=0).names[0] == ("column 0", "column 1 + column 2")


def test_the_median_of_two_is_between_them():
    table = Probe(torch.tensor([[1.0], [3.0], [10.0], [0.0]]))
    assert Columns([0], baseline="median").assign(table, seed=0).baseline.tolist() == [[2.0]]


def test_codes_are_replaced_by_the_most_frequent_one():
    """The mean of the codes 0 and 7 is the code of something else."""
    table = Probe(torch.tensor([[0, 5], [7, 2], [7, 2], [0, 9], [0, 5]]))
    found = Columns(n_players=2).assign(table, seed=0).baseline
    assert (found.tolist(), found.dtype) == ([[0, 2]], torch.int64)  # of two that are as frequent, the smaller
    marks = Probe(torch.tensor([[True, False], [True, False], [False, False]]))
    assert Columns(n_players=2).assign(marks, seed=0).baseline.tolist() == [[True, False]]
    # A table of floats may hold codes too, but does not say so.
    of_floats = Probe(table.inputs.float())
    assert Columns(n_players=2).assign(of_floats, seed=0).baseline.tolist()[0] == pytest.approx([2.8, 4.6])
    assert Columns(n_players=2, baseline="most frequent").assign(of_floats, seed=0).baseline.tolist() == [[0, 2]]


def test_codes_are_replaced_by_codes():
    table = Probe(torch.tensor([[0, 1], [3, 1], [1, 2]]))
    assert Columns([0, 1], baseline="mean").assign(table, seed=0).baseline.tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Columns([0, 0]), "each once"),
        (lambda: Columns([0, (1, 0)]), "each once"),
        (lambda: Columns([-1, 0]), "from 0 on"),
        (lambda: Columns([0, ()]), "groups of one or more"),
        (lambda: Columns([0, 1], n_players=3), "n_players=3 must be from 1 to the 2 columns"),
        (lambda: Columns([]), "n_players=0"),
        (lambda: Columns(baseline="mode"), "baseline='mode' must be"),
        (lambda: Columns([0, 4]).assign(Probe(TABLE), seed=0), "go beyond the 4 columns"),
        (lambda: Columns().assign(Probe(TABLE), seed=0), "n_players=10 is more than the 4 columns"),
        (lambda: Columns([0], names=["a"]).assign(Probe(TABLE), seed=0), "names has 1 entries for the 4 columns"),
        (lambda: Columns([0]).assign(Probe(IMAGES), seed=0), "needs a table"),
        (lambda: Columns([0], baseline=torch.ones(3)).assign(Probe(TABLE), seed=0), "does not broadcast"),
    ],
)
def test_columns_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("columns", [3, "ab", ["a", "b"], [0.5, 1], [True, False], [(0, "a")], [[[0]]], [None]])
def test_columns_that_are_no_numbers_are_refused(columns):
    with pytest.raises(TypeError, match=r"Columns\(columns=.*\): give numbers of columns, or groups .* n_players="):
        Columns(columns)


def test_players_of_a_table_or_segments_are_counted_in_whole_numbers():
    for make in (Columns, lambda **given: Segments(torch.zeros(1, 4).long(), **given)):
        for value in (2.0, "2", True):
            with pytest.raises(TypeError, match=rf"n_players={value!r}\): give a whole number"):
                make(n_players=value)


def test_the_default_number_of_columns_says_how_many_there_can_be():
    with pytest.raises(ValueError, match=r"10 is the default\): give n_players=7 at most"):
        Columns().assign(Probe(torch.rand(3, 7)), seed=0)
    assert Columns(torch.tensor([0, 2])).n_players == 2


SIGNALS = Probe(torch.rand(4, 2, 40, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1]))


def outputs_at(model, players, probe):
    return masked_outputs(model, probe, assign_players(model, players, probe))


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
