import pytest
import torch
from torch import nn

from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.outputs import log_odds
from interaction_monitor.players import Columns, ImagePatches, Segments
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
        (lambda: Segments(torch.zeros(2, 4, 4).long()).assign(Probe(IMAGES), seed=0), "maps for 2 samples, but .* 3"),
        (lambda: Segments(torch.zeros(1, 5, 5).long()).assign(Probe(IMAGES), seed=0), r"do not fit .* \(3, 2, 4, 4\)"),
        (lambda: Segments(torch.zeros(1, 4).long(), axes=(9,)).assign(Probe(IMAGES), seed=0), "do not fit"),
        (lambda: Segments(torch.zeros(1, 1, 1, 1).long()).assign(Probe(IMAGES), seed=0), "do not fit"),
    ],
)
def test_segments_that_do_not_fit_are_refused(make, message):
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


def test_labels_of_segments_are_a_tensor():
    with pytest.raises(TypeError, match=r"Segments\(labels=list of 1.*torch.as_tensor"):
        Segments([[0, 1]])
