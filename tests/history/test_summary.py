"""What a row takes from measurements: whose samples count, and by which threshold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor, Observer, Probe, assign_players
from interaction_monitor.functional import and_outputs, order_similarity, order_strength, order_turnover
from interaction_monitor.history import History, Row
from interaction_monitor.history.summary import from_before, from_training, summarise
from interaction_monitor.measurement import interpret
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players import Columns, ImagePatches
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.record import Record

# One effect of 0.02 beside the pattern of both players: below 3% of the output's change, and above it.
FAINT = interpret(and_outputs(torch.tensor([[0.0, 0.02, 0.0, 1.0]])), interactions="and")
CLEAR = interpret(and_outputs(torch.tensor([[0.0, 0.02, 0.0, 0.3]])), interactions="and")


def test_a_sample_that_is_not_finite_counts_nowhere_in_a_row():
    v = and_outputs(torch.tensor([[0.0, 1.0, 2.0, -4.0], [0.0, 3.0, 0.0, 0.0]]))
    state = PhaseTracker().state
    alone = summarise(interpret(v, interactions="and"), state, epoch=0, step=0)
    broken = torch.cat((v, torch.full((1, 4), math.nan)))
    beside = summarise(interpret(broken, interactions="and"), state, epoch=0, step=0)
    assert (alone.n_valid, alone.strength, alone.n_salient) == (2, (3.0, 2.0), 2.0)
    for name in ("n_valid", "strength", "n_salient", "mean_order", "mean_order_low", "high_order_share", "effect"):
        assert getattr(beside, name) == getattr(alone, name), name


@pytest.mark.parametrize(("before", "now", "kept"), [(FAINT, CLEAR, 0.0), (CLEAR, CLEAR, 0.02)])
def test_what_was_there_before_is_salient_by_its_own_threshold(before, now, kept):
    assert from_before(before, now)["persisted"] == pytest.approx((kept, 0.3))


def test_training_samples_count_by_the_threshold_of_the_others():
    probe = Probe(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    players = PlayerMap(labels=torch.tensor([[0, 1]]), n_players=2, axes=(1,), baseline=0.0)
    for test, train, strength in ((FAINT, CLEAR, (0.0, 0.3)), (CLEAR, FAINT, (0.02, 1.0))):
        numbers = from_training(test, train, (probe, probe), (players, players))
        assert numbers["train_strength"] == pytest.approx(strength)
        assert numbers["similarity"] == pytest.approx((1.0, 0.3))  # the smaller of both strengths by the larger


def games(seed: int, *shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.round(decimals=1)


class TestNumbers:
    def test_the_turnover_is_that_of_samples_finite_at_both_moments(self):
        v, later = games(7, 5, 16), games(8, 5, 16)
        later[2, 3] = math.nan
        before, now = interpret(v), interpret(later)
        kept = [0, 1, 3, 4]
        expected = order_turnover(
            (before.and_[kept], before.or_[kept]), (now.and_[kept], now.or_[kept]), before_tau=before.tau, tau=now.tau
        )
        numbers = from_before(before, now)
        assert numbers["persisted"] == pytest.approx(expected.persisted.mean(0).tolist())
        assert numbers["vanished"] == pytest.approx(expected.vanished.mean(0).tolist())
        assert from_before(None, now) == {}
        assert from_before(replace(before, valid=~now.valid), now) == {}

    def test_interactions_are_compared_only_where_players_mean_the_same(self):
        table, images = Probe(torch.rand(6, 4), torch.arange(6) % 2), Probe(torch.rand(6, 1, 8, 8))
        test, train = interpret(games(9, 6, 16)), interpret(games(10, 6, 16))
        columns = Columns(n_players=4).assign
        same = (columns(table), columns(table))
        numbers = from_training(test, train, (table, table), same)
        classes = (table.targets, table.targets)
        expected = order_similarity((train.and_, train.or_), (test.and_, test.or_), classes)
        assert numbers["similarity"] == pytest.approx(expected.tolist())
        assert numbers["train_strength"] == pytest.approx(
            order_strength(train.and_, train.or_, test.tau).mean(0).tolist()
        )
        patches = ImagePatches(grid=4, margin=0, n_players=4).assign(images)
        assert set(from_training(test, train, (images, images), (patches, patches))) == {
            "train_strength",
            "train_effect",
        }
        other_classes = Probe(table.inputs, table.targets + 5)
        assert "similarity" not in from_training(test, train, (table, other_classes), same)


class TestRows:
    def test_optional_fields_survive_every_way_of_writing(self, planted_run):
        first = planted_run().history[0]
        unknown = replace(first, **dict.fromkeys(("persisted", "effect"), ()))
        known = replace(first, epoch=9, step=99, persisted=(1.0,) * 5, train_effect=(0.5,) * 5)
        history = History([unknown, known])
        cells = [{key: of.get(key, "") for key in known.to_csv()} for of in history.to_csv()]
        assert History.from_csv(cells) == history
        for row in (unknown, known):
            assert Row.from_csv(row.to_csv() | {"vanished_1": ""}).persisted == row.persisted
            assert Row.from_primitives(row.to_primitives()) == row
        old = {key: value for key, value in known.to_primitives().items() if key != "persisted"}
        assert Row.from_primitives(old).persisted == ()
        assert np.isnan(history.by_order("persisted")[0]).all()
        assert history.by_order("persisted")[1].tolist() == [1.0] * 5
        with pytest.raises(ValueError, match="persisted needs one entry per order"):
            replace(first, persisted=(1.0,))
        with pytest.raises(ValueError, match="no field 'phase' with an entry per order"):
            history.by_order("phase")

    def test_sums_of_the_high_orders(self, planted_run):
        row = replace(
            planted_run().history[0],
            strength=(4.0, 2.0, 1.0, 1.0, 0.0),
            persisted=(2.0, 1.0, 1.0, 0.0, 0.0),
            effect=(1.0, 0.5, -0.5, 0.25, 0.0),  # the high ones of five players are 2 and above
            train_effect=(1.0, 1.0, 1.0, 0.0, 0.0),
        )
        assert row.persisted_share == 0.5
        assert row.high_order_effect == 0.25
        assert row.high_order_gap == 1.75
        assert replace(row, train_effect=()).high_order_gap is None
        assert replace(row, effect=()).high_order_effect is None
        assert replace(row, strength=(0.0,) * 5).persisted_share is None


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
