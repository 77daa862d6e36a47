"""A plain loop watches its network by an observer."""

import pydoc
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor, Observer, Probe, Record, assign_players
from interaction_monitor.functional import and_outputs, order_similarity, order_strength
from interaction_monitor.measurement import interpret
from interaction_monitor.observer import from_training
from interaction_monitor.players import Columns, ImagePatches, PlayerMap


@pytest.fixture
def setting():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    probe = Probe(torch.rand(3, 1, 4, 4), torch.arange(3))
    return model, probe, assign_players(model, ImagePatches(grid=4, margin=0, n_players=4), probe)


def loop(model, probe, players, folder):
    observer = Observer(probe, players, interactions="and", record=folder)
    for epoch in range(3):
        observer.observe(model, epoch=epoch, step=epoch)
    return observer


def test_a_loop_that_runs_twice_keeps_both_records(setting, tmp_path):
    first = loop(*setting, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    second = loop(*setting, str(tmp_path / "run"))
    assert (first.record.folder, second.record.folder) == (tmp_path / "run", tmp_path / "run_1")
    assert {path: path.read_bytes() for path in before} == before
    for observer in (first, second):
        record = Record.open(observer.record.folder)
        assert record.history == observer.history
        assert record.settings["interactions"] == "and"
        assert record.settings["thresholds"]["saliency"] == 0.03


@pytest.mark.parametrize("step", ["write_arrays", "encoding.write_rows"])
def test_a_measurement_is_recorded_though_it_is_interrupted_meanwhile(setting, tmp_path, monkeypatch, step):
    model, probe, players = setting
    observer = Observer(probe, players, interactions="and", record=tmp_path / "run")
    observer.observe(model, epoch=0, step=0)
    with monkeypatch.context() as patch:
        own = pydoc.locate(f"interaction_monitor.record.{step}")

        def pressed(*args):
            signal.raise_signal(signal.SIGINT)
            return own(*args)

        patch.setattr(f"interaction_monitor.record.{step}", pressed)
        with pytest.raises(KeyboardInterrupt):
            observer.observe(model, epoch=1, step=1)
    observer.observe(model, epoch=2, step=2)
    assert Record.open(tmp_path / "run").history == observer.history


def test_a_loop_that_measures_nothing_leaves_no_folder(setting, tmp_path):
    _, probe, players = setting
    assert Observer(probe, players, record=tmp_path / "run").record is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("record", [3, ["run"]])
def test_what_is_no_place_for_a_record_is_refused(setting, record):
    _, probe, players = setting
    with pytest.raises(TypeError, match=r"Observer\(record=.*give a folder, a Record, or None"):
        Observer(probe, players, record=record)


def test_too_many_players_are_refused_before_anything_is_measured():
    probe = Probe(torch.rand(2, 20), torch.arange(2))
    players = PlayerMap(torch.arange(20).repeat(2, 1), n_players=20, axes=(1,))
    with pytest.raises(ValueError, match=r"n_players=20 is more than the 16 .*interactions='and'"):
        Observer(probe, players)
    assert Observer(probe, players, interactions="and").players.n_players == 20


def test_training_samples_count_by_the_threshold_of_the_others():
    probe = Probe(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    players = PlayerMap(labels=torch.tensor([[0, 1]]), n_players=2, axes=(1,), baseline=0.0)
    # One effect of 0.02 beside the pattern of both players: below 3% of the output's change, and above it.
    faint, clear = (
        interpret(and_outputs(torch.tensor([[0.0, 0.02, 0.0, both]])), interactions="and") for both in (1.0, 0.3)
    )
    for test, train, strength in ((faint, clear, (0.0, 0.3)), (clear, faint, (0.02, 1.0))):
        numbers = from_training(test, train, (probe, players), (probe, players))
        assert numbers["train_strength"] == pytest.approx(strength)
        assert numbers["similarity"] == pytest.approx((1.0, 0.3))  # the smaller of both strengths by the larger


def test_interactions_are_compared_only_where_players_mean_the_same():
    table, images = Probe(torch.rand(6, 4), torch.arange(6) % 2), Probe(torch.rand(6, 1, 8, 8))
    test, train = (
        interpret(torch.randn(6, 16, generator=torch.Generator().manual_seed(seed)).double()) for seed in (9, 10)
    )
    players = Columns(n_players=4).assign(table)
    numbers = from_training(test, train, (table, players), (table, players))
    classes = (table.targets, table.targets)
    expected = order_similarity((train.and_, train.or_), (test.and_, test.or_), classes)
    assert numbers["similarity"] == pytest.approx(expected.tolist())
    assert numbers["train_strength"] == pytest.approx(order_strength(train.and_, train.or_, test.tau).mean(0).tolist())
    patches = ImagePatches(grid=4, margin=0, n_players=4).assign(images)
    assert set(from_training(test, train, (images, patches), (images, patches))) == {
        "train_strength",
        "train_effect",
    }
    other_classes = Probe(table.inputs, table.targets + 5)
    assert "similarity" not in from_training(test, train, (table, players), (other_classes, players))


def test_an_observer_tells_what_persists_and_measures_training_samples(net, loaders):
    probe, train = (Probe.from_loader(loader, 6) for loader in reversed(loaders))
    patches = ImagePatches(grid=4, margin=0, n_players=5)
    players, train_players = (assign_players(net, patches, samples) for samples in (probe, train))
    alone = Observer(probe, players)
    observer = Observer(probe, players, train=(train, train_players))
    first = observer.observe(net, epoch=0, step=0)
    assert first.persisted == ()
    again = observer.observe(net, epoch=1, step=1)
    assert again.persisted == pytest.approx(again.strength)
    assert again.vanished == (0.0,) * 5
    assert again.persisted_share == pytest.approx(1.0)
    expected = Observer(train, train_players).observe(net, epoch=0, step=0)
    assert first.train_effect == pytest.approx(expected.effect)
    without = alone.observe(net, epoch=0, step=0)
    assert (without.strength, without.train_strength) == (first.strength, ())


def test_a_monitor_measures_training_samples_and_goes_on_after_a_stop(make_net, make_trainer, loaders, tmp_path):
    def monitor():
        return InteractionMonitor(
            ImagePatches(grid=4, margin=0, n_players=4), n_samples=4, n_train_samples=3, on_error="raise"
        )

    torch.manual_seed(0)
    net = make_net()
    trainer = make_trainer(monitor(), max_epochs=1)
    trainer.fit(net, *loaders)
    logged = trainer.callback_metrics
    assert {"interactions/persisted_share", "interactions/high_order_gap"} <= set(logged)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    resumed = monitor()
    make_trainer(resumed, max_epochs=2).fit(net, *loaders, ckpt_path=tmp_path / "one.ckpt")
    history = resumed.observer.history
    # The first measurement after the stop is compared with the last one before it, which only the record has.
    assert [bool(row.persisted) for row in history] == [False, True, True]
    assert all(len(row.train_effect) == 4 for row in history)
    record = Record.open(resumed.observer.record.folder)
    assert record.history == history


def test_tables_get_a_similarity():
    x, y = torch.randn(60, 4), torch.arange(60) % 2
    loader = DataLoader(TensorDataset(x, y), batch_size=20)
    model = torch.nn.Linear(4, 2)
    probe = Probe.from_loader(loader, 20)
    players = assign_players(model, Columns(n_players=4), probe)
    row = Observer(probe, players, train=(probe, players)).observe(model, epoch=0, step=0)
    assert row.similarity[0] == pytest.approx(1.0)


def test_measuring_training_samples_leaves_training_as_it_was(make_net, make_trainer, loaders):
    def trained(*monitors):
        torch.manual_seed(0)
        net = make_net()
        torch.manual_seed(1)
        make_trainer(*monitors, max_epochs=1).fit(net, *loaders)
        return net.state_dict(), torch.rand(1)

    patches = ImagePatches(grid=4, margin=0, n_players=3)
    alone, draw = trained()
    watched, other_draw = trained(InteractionMonitor(patches, n_samples=2, n_train_samples=2, on_error="raise"))
    assert draw == other_draw
    for name, value in alone.items():
        assert torch.equal(value, watched[name]), name
