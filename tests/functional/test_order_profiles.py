"""What stays, agrees and cancels in each order, by definition; planted mixtures of decay and spindle are found."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor, Observer, Probe, assign_players
from interaction_monitor.functional import order_effects, order_similarity, order_strength, order_turnover, orders
from interaction_monitor.functional.order_profiles import fit_shapes, order_cancellation
from interaction_monitor.history import History, Row
from interaction_monitor.history.summary import from_before, from_training
from interaction_monitor.measurement import interpret
from interaction_monitor.players import Columns, ImagePatches
from interaction_monitor.record import Record


def games(seed: int, *shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.round(decimals=1)


class TestTurnover:
    @given(seed=st.integers(0, 10_000), n=st.integers(1, 4))
    def test_counts_sets(self, seed, n):
        and_, or_, then_and, then_or = games(seed, 4, 2**n)
        tau, before_tau = 0.7, 0.4
        result = order_turnover((then_and, then_or), (and_, or_), before_tau=before_tau, tau=tau)
        expected = {"persisted": [0.0] * n, "appeared": [0.0] * n, "vanished": [0.0] * n}
        for then, now in ((then_and, and_), (then_or, or_)):
            for coalition in range(1, 2**n):
                order = coalition.bit_count() - 1
                before, here = float(then[coalition]), float(now[coalition])
                was, is_ = abs(before) >= before_tau, abs(here) >= tau
                if was and is_ and before * here > 0:
                    expected["persisted"][order] += abs(here)
                    continue
                expected["appeared"][order] += abs(here) * is_
                expected["vanished"][order] += abs(before) * was
        for name, values in expected.items():
            assert getattr(result, name).tolist() == pytest.approx(values)
        torch.testing.assert_close(result.persisted + result.appeared, order_strength(and_, or_, tau))

    def test_nothing_changes_without_a_change(self):
        and_, or_ = games(0, 2, 3, 16)
        result = order_turnover((and_, or_), (and_, or_), before_tau=0.5, tau=0.5)
        torch.testing.assert_close(result.persisted, order_strength(and_, or_, 0.5))
        assert not result.appeared.any()
        assert not result.vanished.any()

    def test_a_turned_sign_is_another_pattern(self):
        one, none = torch.tensor([0.0, 2.0]), torch.zeros(2)
        result = order_turnover((one, none), (-one, none), before_tau=0.1, tau=0.1)
        assert (result.persisted.item(), result.appeared.item(), result.vanished.item()) == (0.0, 2.0, 2.0)

    def test_a_sample_that_is_not_finite_is_unknown(self):
        before, now = games(1, 2, 2, 8), games(2, 2, 2, 8)
        before[0, 1, 3] = math.nan
        result = order_turnover(tuple(before), tuple(now), before_tau=0.1, tau=0.1)
        assert result.persisted[1].isnan().all()
        assert result.persisted[0].isfinite().all()

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match="must have one shape"):
            order_turnover((torch.zeros(4),) * 2, (torch.zeros(8),) * 2, before_tau=0.1, tau=0.1)


class TestEffects:
    def test_sum_to_the_output_change(self):
        v = games(3, 6, 32)
        result = interpret(v, interactions="and")
        torch.testing.assert_close(order_effects(result.and_, result.or_).sum(-1), v[:, -1] - v[:, 0])

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match="must have one shape"):
            order_effects(torch.zeros(4), torch.zeros(8))


class TestSimilarity:
    def test_is_one_for_the_same_means_and_zero_for_turned_signs(self):
        group = tuple(games(4, 2, 5, 8))
        torch.testing.assert_close(order_similarity(group, group), torch.ones(3).double())
        turned = tuple(-effects for effects in group)
        assert not order_similarity(group, turned).any()

    def test_is_the_mean_over_the_classes_of_both(self):
        first, second = tuple(games(5, 2, 6, 8)), tuple(games(6, 2, 4, 8))
        classes = torch.tensor([0, 0, 0, 1, 1, 7]), torch.tensor([1, 0, 1, 0])
        expected = []
        for one in (0, 1):
            a, b = (
                np.stack([e.numpy()[of.numpy() == one].mean(0) for e in group])
                for group, of in zip((first, second), classes, strict=True)
            )
            sims = []
            for order in (1, 2, 3):
                chosen = [c for c in range(8) if c.bit_count() == order]
                x, y = (np.concatenate([part[:, chosen].clip(0), (-part[:, chosen]).clip(0)]) for part in (a, b))
                sims.append(np.minimum(x, y).sum() / np.maximum(x, y).sum())
            expected.append(sims)
        np.testing.assert_allclose(order_similarity(first, second, classes), np.mean(expected, axis=0))

    def test_refuses_groups_that_cannot_be_compared(self):
        group = (torch.ones(2, 4),) * 2
        with pytest.raises(ValueError, match="2 and 3 players"):
            order_similarity(group, (torch.ones(2, 8),) * 2)
        with pytest.raises(ValueError, match="no class has samples in both"):
            order_similarity(group, group, (torch.tensor([0, 0]), torch.tensor([1, 1])))


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


def planted(n: int, share: float, rate: float, q: float) -> list[float]:
    decay = [rate ** (k - 1) for k in range(1, n + 1)]
    spindle = [math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(1, n + 1)]
    return [share * d / sum(decay) + (1 - share) * s / sum(spindle) for d, s in zip(decay, spindle, strict=True)]


@pytest.mark.parametrize(
    ("share", "rate", "q"), [(1.0, 0.3, 0.5), (0.0, 0.3, 0.5), (0.6, 0.25, 0.45), (0.35, 0.4, 0.6)]
)
def test_planted_mixtures_are_found(share, rate, q):
    fit = fit_shapes(7.0 * torch.tensor(planted(10, share, rate, q)))
    assert fit.decay_share.item() == pytest.approx(share, abs=0.02)
    assert fit.misfit.item() < 0.01
    torch.testing.assert_close((fit.decay + fit.spindle).sum(), torch.tensor(1.0, dtype=torch.float64))
    if share:
        assert fit.rate.item() == pytest.approx(rate, abs=0.02)
    if share < 1:
        assert fit.centre.item() == pytest.approx(10 * q / (1 - (1 - q) ** 10), abs=0.15)


def test_measurements_are_fitted_each_for_itself():
    strength = torch.tensor([[planted(6, 0.2, 0.3, 0.5), [0.0] * 6], [planted(6, 0.9, 0.3, 0.5), [1.0] * 6]])
    fit = fit_shapes(strength)
    assert fit.decay.shape == (2, 2, 6)
    assert fit.decay_share[0, 1].isnan()
    assert fit.spindle[0, 1].isnan().all()
    for i, j in ((0, 0), (1, 0), (1, 1)):
        torch.testing.assert_close(fit.decay_share[i, j], fit_shapes(strength[i, j]).decay_share)
    with pytest.raises(ValueError, match="at least 4 orders"):
        fit_shapes(torch.ones(3))
    with pytest.raises(ValueError, match="must not be negative"):
        fit_shapes(torch.tensor([1.0, -1.0, 0.0, 0.0]))


@pytest.mark.parametrize("taus", [[0.4] * 5, [0.4, 0.1, 0.8, 0.4, 1.2]], ids=["one threshold", "one per sample"])
def test_cancelling_is_that_of_its_definition(taus):
    generator = torch.Generator().manual_seed(0)
    and_, or_ = torch.randn(2, 5, 16, generator=generator, dtype=torch.float64)
    and_[3, 2] = math.nan
    found = order_cancellation(and_, or_, tau=taus[0] if len(set(taus)) == 1 else torch.tensor(taus))
    of = orders(4).tolist()
    for k in range(1, 5):
        net = gross = 0.0
        for sample in (0, 1, 2, 4):
            effects = [float(i[sample, s]) for i in (and_, or_) for s in range(16) if of[s] == k]
            effects = [x for x in effects if abs(x) >= taus[sample]]
            net, gross = net + abs(sum(effects)), gross + sum(map(abs, effects))
        assert float(found[k - 1]) == pytest.approx(1 - net / gross)
    assert order_cancellation(torch.zeros(2, 4), torch.zeros(2, 4)).isnan().all()


def test_effects_of_one_sign_cancel_by_nothing_less_than_nothing():
    for seed in range(20):
        effects = torch.rand(2, 3, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = order_cancellation(*effects)
        assert (found >= 0).all()
        assert (found < 1e-12).all()


def test_cancelling_refuses_what_does_not_fit():
    zero = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="tau must be a number, or one per sample"):
        order_cancellation(zero, zero, tau=torch.zeros(4))
    with pytest.raises(ValueError, match="and_ and or_ must have one shape"):
        order_cancellation(zero, torch.zeros(1, 4))


def test_cancelling_leaves_out_samples_without_a_threshold():
    and_, or_ = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = order_cancellation(and_, or_, tau=torch.tensor([0.1, math.nan, 0.1]))
    torch.testing.assert_close(found, order_cancellation(and_[[0, 2]], or_[[0, 2]], tau=0.1))
