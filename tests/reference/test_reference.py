"""Which part of a run's strength its references have too, live; and which references are refused."""

import copy
import json
import warnings

import pytest
import torch
from torch import nn

from interaction_monitor import Observer, Probe, Record, assign_players, measure
from interaction_monitor.functional import order_strength
from interaction_monitor.measurement import Thresholds
from interaction_monitor.players import ImagePatches
from interaction_monitor.reference import Checkpoint, Salient

PATCHES = ImagePatches(grid=4, margin=0, n_players=4)


def network(seed, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, classes))


def samples(seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    return Probe(torch.randn(5, 1, 8, 8, generator=generator), torch.arange(5) % classes)


PROBE = samples()
PLAYERS = assign_players(network(0), PATCHES, PROBE)


def record_of(folder, *networks, losses=None, probe=PROBE, players=PLAYERS, settings=None, **arguments):
    record = Record.create(folder, settings=settings or {}, players=players, probe=probe)
    observer = Observer(probe, players, record=record, **arguments)
    for epoch, net in enumerate(networks):
        loss = None if losses is None else losses[epoch]
        observer.observe(net, epoch=epoch, step=epoch, test_loss=loss, train_loss=loss)
    return record


def by_hand(net, references):
    """The share, one interaction after the other."""
    mine, theirs = measure(net, PROBE, PLAYERS), [measure(other, PROBE, PLAYERS) for other in references]
    held = torch.zeros(5, 4, dtype=torch.float64)
    for sample in range(5):
        for kind in ("and_", "or_"):
            for coalition in range(1, 16):
                value = float(getattr(mine, kind)[sample, coalition])
                found = any(
                    abs(float(getattr(other, kind)[sample, coalition])) >= other.tau
                    and float(getattr(other, kind)[sample, coalition]) * value > 0
                    for other in theirs
                )
                if found and abs(value) >= mine.tau:
                    held[sample, coalition.bit_count() - 1] += abs(value)
    return held, mine.strength


@pytest.mark.parametrize("n_references", [1, 2])
def test_the_share_is_what_is_counted_by_hand(n_references):
    references = [network(seed) for seed in range(1, 1 + n_references)]
    observer = Observer(PROBE, PLAYERS, reference=references)
    for epoch in range(2):
        net = network(10 + epoch)
        row = observer.observe(net, epoch=epoch, step=epoch)
        held, strength = by_hand(net, references)
        assert 0 < held.sum() < strength.sum()
        torch.testing.assert_close(observer.last.generalizing, held)
        assert row.generalizing_share == pytest.approx(float(held.sum() / strength.sum()))
        assert row.generalizing == pytest.approx(held.mean(0).tolist())
        assert row.generalizing_low <= row.generalizing_share <= row.generalizing_high


def test_without_references_nothing_is_known():
    row = Observer(PROBE, PLAYERS).observe(network(1), epoch=0, step=0)
    assert (row.generalizing_share, row.generalizing, row.overfitting_epoch) == (None, (), None)


def test_a_record_a_network_and_a_checkpoint_say_the_same(tmp_path):
    other = network(1)
    torch.save(other.state_dict(), tmp_path / "weights.pt")

    def load(path):
        net = network(99)
        net.load_state_dict(torch.load(path))
        return net

    record = record_of(tmp_path / "record", network(2), other, network(3), losses=[2.0, 1.0, 3.0])
    sources = (other, record, record.folder, str(record.folder), Checkpoint(load, tmp_path / "weights.pt"))
    observers = [Observer(PROBE, PLAYERS, reference=source) for source in sources]
    shares = [observer.observe(network(4), epoch=0, step=0).generalizing_share for observer in observers]
    assert 0 < shares[0] < 1
    assert len(set(shares)) == 1


def test_of_a_record_without_losses_the_last_network_is_taken(tmp_path):
    record = record_of(tmp_path / "record", network(2), network(1))
    row = Observer(PROBE, PLAYERS, reference=record).observe(network(4), epoch=0, step=0)
    expected = Observer(PROBE, PLAYERS, reference=network(1)).observe(network(4), epoch=0, step=0)
    assert row.generalizing_share == expected.generalizing_share


def test_the_references_are_measured_once():
    other = network(1)
    observer = Observer(PROBE, PLAYERS, reference=other)
    observer.observe(network(2), epoch=0, step=0)
    again = Observer(PROBE, PLAYERS, reference=network(1))
    again.observe(network(2), epoch=0, step=0)
    nn.init.zeros_(other[1].weight)
    shares = [each.observe(network(3), epoch=1, step=1).generalizing_share for each in (observer, again)]
    assert shares[0] == shares[1] > 0


def test_the_network_and_the_references_stay_as_they_were():
    net, other = network(2), network(1)
    before = copy.deepcopy([net.state_dict(), other.state_dict()])
    random = torch.get_rng_state()
    Observer(PROBE, PLAYERS, reference=other).observe(net, epoch=0, step=0)
    assert torch.equal(torch.get_rng_state(), random)
    for was, now in zip(before, [net.state_dict(), other.state_dict()], strict=True):
        assert all(torch.equal(was[name], now[name]) for name in was)
    assert other.training
    assert net.training


def saved(path, content):
    path.write_bytes(content)
    return path


REFUSED = {
    "other players": (
        lambda folder: record_of(folder, network(1), players=assign_players(network(0), PATCHES, PROBE, seed=1)),
        "differ in which positions the players have",
    ),
    "more players": (
        lambda folder: record_of(
            folder, network(1), players=assign_players(network(0), ImagePatches(grid=4, margin=0, n_players=5), PROBE)
        ),
        "differ in the number of players: 4 and 5",
    ),
    "another probe": (lambda folder: record_of(folder, network(1), probe=samples(1)), "differ in the probe samples"),
    "other targets": (
        lambda folder: record_of(folder, network(1), probe=Probe(PROBE.inputs, PROBE.targets.flip(0))),
        "differ in the targets",
    ),
    "another output": (
        lambda folder: record_of(folder, network(1), output="logit", settings={"output": "logit"}),
        "differ in the output: log_odds and logit",
    ),
    "dividends alone": (
        lambda folder: record_of(folder, network(1), interactions="and", settings={"interactions": "and"}),
        "was measured with interactions='and', but this run has interactions='and-or'",
    ),
    "other thresholds": (
        lambda folder: record_of(folder, network(1), settings={"thresholds": vars(Thresholds(saliency=0.1))}),
        "was measured with thresholds=",
    ),
    "an empty record": (lambda folder: record_of(folder), "holds no measurement"),
    "other classes": (lambda _: network(1, classes=5), "has 5 outputs, but the network that is trained has 3"),
    "another precision": (
        lambda _: network(1).double(),
        "reference=network Sequential on the probe failed with RuntimeError: .*; give one that is called as the run's",
    ),
    "a file that is none": (
        lambda folder: Checkpoint(torch.load, saved(folder, b"")),
        "reference=checkpoint record: its factory failed with .*; let it make a network and load the weights",
    ),
    "weights alone": (
        lambda folder: Checkpoint(lambda path: network(1).state_dict(), saved(folder, b"")),
        "reference=checkpoint record: its factory returned OrderedDict .*; let it make a network and load the weights",
    ),
    "the same weights": (lambda _: network(7), "has the very outputs of the network that is about to be trained"),
    "a record of the same weights": (
        lambda folder: record_of(folder, network(7)),
        "has the very outputs of the network that is about to be trained",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_reference_is_refused_by_name(kind, tmp_path):
    make, message = REFUSED[kind]
    observer = Observer(PROBE, PLAYERS, reference=make(tmp_path / "record"))
    with pytest.raises(ValueError, match=message):
        observer.observe(network(7), epoch=0, step=0)
    assert not len(observer.history)


def test_the_run_itself_is_refused(tmp_path):
    net = network(7)
    with pytest.raises(ValueError, match="holds the very weights that are trained"):
        Observer(PROBE, PLAYERS, reference=net).observe(net, epoch=0, step=0)
    wrapped = nn.Sequential(net)
    with pytest.raises(ValueError, match="holds the very weights that are trained"):
        Observer(PROBE, PLAYERS, reference=wrapped).observe(net, epoch=0, step=0)
    record = record_of(tmp_path / "record", network(1))
    observer = Observer(PROBE, PLAYERS, reference=record.folder, record=record)
    with pytest.raises(ValueError, match="is the record of this very run"):
        observer.observe(net, epoch=1, step=1)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], ValueError, "give at least one"),
        (3, TypeError, "reference=.*3.*: give the folder of a record"),
        ([network], TypeError, "give the folder of a record"),
        ("nowhere", ValueError, "reference='nowhere': give a folder or file that exists"),
        (Checkpoint(network, "nowhere.pt"), ValueError, "give a folder or file that exists, unlike nowhere.pt"),
    ],
)
def test_other_arguments_are_refused_before_anything_is_measured(given, error, message):
    with pytest.raises(error, match=message):
        Observer(PROBE, PLAYERS, reference=given)


def test_a_reference_that_saw_the_same_samples_is_told_of(tmp_path):
    record = record_of(tmp_path / "record", network(1))
    Record.create(record.folder / "training", settings={}, players=PLAYERS.select([0, 1]), probe=PROBE.select([0, 1]))
    observer = Observer(PROBE, PLAYERS, reference=record)
    with pytest.warns(UserWarning, match="was trained on 2 of the probe's samples"):
        observer.observe(network(7), epoch=0, step=0)
    learnt = Probe(torch.cat((PROBE.inputs[1:2], torch.randn(4, 1, 8, 8))), torch.arange(5) % 3)
    observer = Observer(PROBE, PLAYERS, reference=record, train=(learnt, PLAYERS))
    with pytest.warns(UserWarning, match="was trained on 1 of this run's training samples"):
        observer.observe(network(7), epoch=0, step=0)


def test_a_reference_from_the_same_start_is_told_of(tmp_path):
    record = record_of(tmp_path / "record", network(7), network(1))
    with pytest.warns(UserWarning, match="began from the very weights from which this run begins"):
        Observer(PROBE, PLAYERS, reference=record).observe(network(7), epoch=0, step=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Observer(PROBE, PLAYERS, reference=record).observe(network(8), epoch=0, step=0)


def test_a_resumed_run_goes_on_without_measuring_the_references_again():
    gone = network(1)
    straight = Observer(PROBE, PLAYERS, reference=gone)
    rows = [straight.observe(network(10 + epoch), epoch=epoch, step=epoch) for epoch in range(4)]
    halted = Observer(PROBE, PLAYERS, reference=gone)
    for epoch in range(2):
        halted.observe(network(10 + epoch), epoch=epoch, step=epoch)
    state = copy.deepcopy(halted.state_dict())
    nn.init.zeros_(gone[1].weight)
    resumed = Observer(PROBE, PLAYERS, reference=gone)
    resumed.load_state_dict(state)
    again = [resumed.observe(network(10 + epoch), epoch=epoch, step=epoch) for epoch in (2, 3)]
    assert [row.generalizing_share for row in again] == [row.generalizing_share for row in rows[2:]]
    assert resumed.references.tracker.state_dict() == straight.references.tracker.state_dict()


def test_the_record_holds_what_generalizes(tmp_path):
    record = Record.create(tmp_path / "record", settings={}, players=PLAYERS, probe=PROBE)
    observer = Observer(PROBE, PLAYERS, record=record, reference=network(1))
    row = observer.observe(network(2), epoch=0, step=0)
    read = Record.open(tmp_path / "record")
    assert read.history[0].generalizing_share == row.generalizing_share
    torch.testing.assert_close(read.measurements[0].generalizing, observer.last.generalizing, rtol=0, atol=0)
    assert read.measurements[0].held.equal(observer.last.held)
    json.dumps(read.history.to_primitives())


def test_the_record_holds_the_references_from_which_a_resumed_loop_goes_on(tmp_path):
    record = Record.create(tmp_path / "record", settings={}, players=PLAYERS, probe=PROBE)
    given = [network(1), network(3)]
    first = Observer(PROBE, PLAYERS, record=record, reference=given)
    first.observe(network(2), epoch=0, step=0)
    found = measure(network(3), PROBE, PLAYERS)
    nn.init.zeros_(given[1][1].weight)
    resumed = Observer(PROBE, PLAYERS, record=Record.resume(tmp_path / "record"), reference=given)
    resumed.observe(network(4), epoch=1, step=1)
    for one, other in zip(first.references.measured, resumed.references.measured, strict=True):
        assert torch.equal(one.and_, other.and_)
        assert torch.equal(one.or_, other.or_)
        assert torch.equal(one.ends, other.ends)
        assert one.tau == other.tau
    assert resumed.references.measured[1].tau == found.tau
    # Others than those that were given before, or damaged ones, are measured anew.
    others = Observer(PROBE, PLAYERS, record=Record.resume(tmp_path / "record"), reference=network(1))
    others.observe(network(4), epoch=2, step=2)
    assert len(others.references.measured) == 1
    (tmp_path / "record" / "references" / "reference_2.npz").write_bytes(b"damaged")
    damaged = Observer(PROBE, PLAYERS, record=Record.resume(tmp_path / "record"), reference=given)
    damaged.observe(network(4), epoch=3, step=3)
    assert not torch.equal(damaged.references.measured[1].ends, first.references.measured[1].ends)


def test_a_sample_on_which_a_reference_is_not_finite_is_left_out():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network(1)

        def forward(self, x):
            return torch.where((x[:, 0, 0, :1] == PROBE.inputs[2, 0, 0, 0]), torch.nan, self.net(x))

    inside = ImagePatches(grid=4, margin=1, n_players=4)  # the pixel in the corner is never masked
    players = assign_players(network(0), inside, PROBE)
    observer = Observer(PROBE, players, reference=Broken())
    row = observer.observe(network(2), epoch=0, step=0)
    kept = [0, 1, 3, 4]
    held = observer.last.generalizing
    assert held[2].isnan().all()
    assert row.generalizing_share == pytest.approx(float(held[kept].sum() / observer.last.strength[kept].sum()))


def test_what_is_kept_of_a_reference_are_its_signs():
    found = measure(network(1), PROBE, PLAYERS)
    kept = Salient.of(found, "other")
    and_, or_, tau = kept.as_reference()
    count = order_strength(and_, or_, tau).sum()
    expected = sum(int((kind[:, 1:].abs() >= found.tau).sum()) for kind in (found.and_, found.or_))
    assert int(count) == expected
    again = Salient.from_primitives(kept.to_primitives())
    assert torch.equal(again.and_, kept.and_)
    assert again.name == "other"
    with pytest.raises(ValueError, match="a reference in the checkpoint lacks valid, ends"):
        Salient.from_primitives({"name": "a", "and_": kept.and_, "or_": kept.or_})
