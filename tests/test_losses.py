"""The losses that a run logs, and those of the same network in evaluation mode on samples that stay the same."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor, Observer, Probe, assign_players
from interaction_monitor.batches import MOST_SAMPLES
from interaction_monitor.callbacks import loggers
from interaction_monitor.history.landmarks import shown_losses
from interaction_monitor.losses import Losses, LossSamples, evaluated_loss
from interaction_monitor.players import FeaturePatches, ImagePatches
from interaction_monitor.settings import Settings

FEATURES = FeaturePatches(layer="features.2", grid=8, margin=1, n_players=3)


def test_a_validation_loss_that_waits_to_be_read_outlives_an_interruption():
    before, after = Losses(), Losses()
    before.validated({"val_loss": torch.tensor(0.5)})
    after.load_state_dict(before.state_dict())
    assert after.read({}) == (None, 0.5)
    assert after.read({}) == (None, None)  # it is read once
    assert before.read({"val_loss": 0.5}) == (None, 0.5)
    assert "test" not in before.state_dict()


def test_of_several_validation_loaders_the_first_has_the_loss(loaders, make_trainer, make_net):
    class Several(make_net):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]) + 100 * dataloader_idx)

    monitor = InteractionMonitor(FEATURES, n_samples=5, interactions="and")
    trainer = make_trainer(monitor, max_epochs=1, logger=False)
    trainer.fit(Several(), loaders[0], [loaders[1], loaders[1]])
    assert 0 < monitor.observer.history[-1].test_loss < 50
    assert trainer.callback_metrics["val_loss/dataloader_idx_0"].item() == monitor.observer.history[-1].test_loss


def cross_entropy(net, x, y):
    """By hand, one sample after the other."""
    net = copy.deepcopy(net).eval()
    with torch.no_grad():
        rows = [net(x[i : i + 1])[0].double() for i in range(len(x))]
    return sum(float(row.exp().sum().log() - row[int(target)]) for row, target in zip(rows, y, strict=True)) / len(x)


@pytest.mark.parametrize("sizes", [[1], [64], [130], [3, 70, 1]])
def test_the_loss_is_that_of_the_network_in_evaluation_mode(net, digits, sizes):
    x, y = (tensor[: sum(sizes)] for tensor in digits[0].tensors)
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    parts = [Probe(*part) for part in zip(x.split(sizes), y.split(sizes), strict=True)]
    assert evaluated_loss(net, parts, Settings()) == pytest.approx(cross_entropy(net, x, y), rel=1e-5)
    assert net.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize(
    "targets", [None, torch.rand(5), torch.randint(3, (5, 2)), torch.full((5,), 7), torch.full((5,), -100)]
)
def test_targets_that_are_no_classes_have_no_loss(targets):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    assert evaluated_loss(net, [Probe(torch.rand(5, 4), targets)], Settings()) is None


def test_a_diverged_network_has_no_loss():
    net = nn.Linear(4, 3)
    nn.init.constant_(net.weight, torch.nan)
    assert evaluated_loss(net, [Probe(torch.rand(5, 4), torch.arange(5) % 3)], Settings()) is None


def test_the_probe_stands_for_test_samples_until_there_are_more(net):
    (x, y), (other, targets) = ((torch.rand(300, 1, 8, 8), torch.arange(300) % 10) for _ in range(2))
    probe = Probe(other[:4], targets[:4])
    samples = LossSamples(probe)
    observer = Observer(probe, assign_players(net, FEATURES, probe))
    samples.collects = True
    start = samples.evaluate(net, observer.settings, observer.ranks, step=0)
    assert start["evaluated_train_loss"] is None
    assert start["evaluated_test_loss"] == pytest.approx(cross_entropy(net, probe.inputs, probe.targets), rel=1e-5)
    assert samples.evaluate(net, observer.settings, observer.ranks, step=1) == {}
    samples.train.add((x[:300], y[:300]))
    samples.train.close()
    few = samples.evaluate(net, observer.settings, observer.ranks, step=1)
    assert few["evaluated_samples"] == 4
    samples.test.add((other[:250], targets[:250]))
    samples.test.close()
    many = samples.evaluate(net, observer.settings, observer.ranks, step=1)
    assert many["evaluated_samples"] == 250
    assert many["evaluated_test_loss"] == pytest.approx(cross_entropy(net, other[:250], targets[:250]), rel=1e-5)


def test_a_loop_has_both_losses_beside_the_logged_ones(net, digits):
    (x, y), (other, targets) = (part.tensors for part in digits)
    probe, train, test = Probe(other[:4], targets[:4]), Probe(x[:6], y[:6]), Probe(other[:5], targets[:5])
    observer = Observer(probe, assign_players(net, FEATURES, probe), train_samples=train, test_samples=test)
    row = observer.observe(net, epoch=0, step=0, train_loss=1.0, test_loss=2.0)
    assert row.evaluated_train_loss == pytest.approx(cross_entropy(net, x[:6], y[:6]), rel=1e-5)
    assert row.evaluated_test_loss == pytest.approx(cross_entropy(net, other[:5], targets[:5]), rel=1e-5)
    assert row.evaluated_gap == row.evaluated_test_loss - row.evaluated_train_loss
    assert (row.evaluated_samples, row.loss_gap) == (5, 1.0)


class Seen:
    """A tracker that keeps the losses it is given."""

    def __init__(self, observer):
        self.tracker, self.losses, self.began = observer.tracker, [], []
        observer.tracker = self

    def __getattr__(self, name):
        return getattr(self.tracker, name)

    def update(self, *, train_loss, test_loss, **rest):
        self.losses.append((train_loss, test_loss))
        return self.tracker.update(train_loss=train_loss, test_loss=test_loss, **rest)

    def forget_losses(self, first):
        self.began.append((len(self.losses), first))
        self.tracker.forget_losses(first)


def linear(n_samples):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    samples = Probe(torch.rand(n_samples, 1, 8, 8), torch.zeros(n_samples, dtype=torch.long))
    probe = samples.select(range(4))
    return net, samples, probe, assign_players(net, ImagePatches(grid=4, margin=0, n_players=3), probe)


@pytest.mark.parametrize("logged", [True, False])
def test_of_few_samples_the_gap_opens_between_logged_losses_or_else_between_these(logged):
    net, samples, probe, players = linear(4)
    observer = Observer(probe, players, train_samples=samples)
    seen = Seen(observer)
    for epoch in range(3):
        # As a trainer logs: nothing before the first epoch.
        losses = {"train_loss": 0.5, "test_loss": 0.6} if logged and epoch else {}
        row = observer.observe(net, epoch=epoch, step=epoch, **losses)
    evaluated = (row.evaluated_train_loss, row.evaluated_test_loss)
    assert seen.losses == [(None, None), *[(0.5, 0.6) if logged else evaluated] * 2]
    assert seen.began == []


def test_of_many_samples_the_gap_opens_between_these_alone():
    """As in a run of steps: logged losses at first, and a measurement at which the others cannot be had."""
    net, samples, probe, players = linear(200)
    observer = Observer(probe, players)
    seen = Seen(observer)
    observer.loss_samples.collects = True
    for step in range(6):
        if step == 3:
            for each in (observer.loss_samples.train, observer.loss_samples.test):
                each.add((samples.inputs, samples.targets))
                each.close()
        observer.loss_samples.train.complete = 2 < step != 4
        row = observer.observe(net, epoch=step, step=step, train_loss=0.5, test_loss=0.6)
    first, evaluated = observer.history[0].evaluated_test_loss, (row.evaluated_train_loss, row.evaluated_test_loss)
    assert seen.losses == [(0.5, 0.6)] * 3 + [evaluated, (None, None), evaluated]
    assert seen.began == [(3, first)]
    losses = shown_losses(observer.history)
    assert losses.of == " in evaluation mode"
    np.testing.assert_array_equal(np.isfinite(losses.gap), [False, False, False, True, False, True])
    np.testing.assert_array_equal(np.isfinite(losses.test), [True, False, False, True, False, True])
    assert losses.first == first
    assert row.loss_gap == row.evaluated_gap
    assert observer.history[1].loss_gap == pytest.approx(0.1)


def test_a_tracker_of_the_users_own_needs_no_more_than_update():
    class Plain:
        def __init__(self, tracker):
            self.update = tracker.update

    net, samples, probe, players = linear(200)
    observer = Observer(probe, players, train_samples=samples, test_samples=samples)
    observer.tracker = Plain(observer.tracker)
    row = observer.observe(net, epoch=0, step=0)
    assert (row.phase, row.evaluated_on_many) == ("initial", True)


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(loggers.Loggers, "draw", lambda *_, **__: None)


def recorded(net):
    """The network's class with a list of the batches that its training step was given."""
    batches = []

    class Taking(type(net)):
        def training_step(self, batch, batch_idx):
            batches.append([part.clone() for part in batch])
            return super().training_step(batch, batch_idx)

    net.__class__ = Taking
    return batches


@pytest.mark.usefixtures("no_pictures")
def test_a_lightning_run_has_them_without_reading_its_loader(digits, make_trainer, net):
    batches = recorded(net)
    loaders = [DataLoader(part, batch_size=64, shuffle=True) for part in digits]
    monitor = InteractionMonitor(FEATURES, n_samples=6, every_n_epochs=1, on_error="raise")
    trainer = make_trainer(monitor, max_epochs=2)
    trainer.fit(net, *loaders)
    first, *later = monitor.observer.history
    assert first.evaluated_train_loss is None
    assert first.evaluated_test_loss > 0
    assert all(row.evaluated_train_loss is not None for row in later)
    a_pass = len(batches) // 2
    x, y = (torch.cat([batch[i] for batch in batches[:a_pass]])[:MOST_SAMPLES] for i in (0, 1))
    assert later[-1].evaluated_train_loss == pytest.approx(cross_entropy(net, x, y), rel=1e-5)
    test = [Probe(*digits[1][:])] if len(digits[1]) <= MOST_SAMPLES else monitor.observer.loss_samples.test.parts
    assert later[-1].evaluated_test_loss == pytest.approx(evaluated_loss(net, test, Settings()), rel=1e-5)
    assert later[-1].evaluated_samples == min(len(x), len(digits[1]), MOST_SAMPLES)
    logged = trainer.callback_metrics
    assert float(logged["interactions/evaluated_gap"]) == pytest.approx(later[-1].evaluated_gap)
    assert float(logged["interactions/loss_gap"]) == pytest.approx(later[-1].loss_gap)


@pytest.mark.usefixtures("no_pictures")
def test_training_samples_that_are_measured_do_not_stand_in_the_way_of_more(digits, make_trainer, net):
    monitor = InteractionMonitor(FEATURES, n_samples=4, n_train_samples=3, every_n_epochs=1, on_error="raise")
    make_trainer(monitor, max_epochs=1).fit(net, *(DataLoader(part, batch_size=64) for part in digits))
    first, last = monitor.observer.history
    assert (first.evaluated_samples, last.evaluated_samples) == (3, 100)
    assert len(monitor.observer.loss_samples.train) == 200


@pytest.mark.usefixtures("no_pictures")
def test_a_resumed_run_keeps_its_samples_though_batches_come_in_another_order(digits, make_trainer, make_net, tmp_path):
    data = [digits[0], TensorDataset(*(torch.cat([part] * 8) for part in digits[1].tensors))]

    def run(epochs, checkpoint=None):
        monitor = InteractionMonitor(FEATURES, n_samples=6, every_n_epochs=1, interactions="and", on_error="raise")
        trainer = make_trainer(monitor, max_epochs=epochs)
        loaders = [DataLoader(part, batch_size=30, shuffle=True) for part in data]
        trainer.fit(make_net(), *loaders, ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return monitor.observer

    before, after = run(1), run(2, tmp_path / "1.ckpt")
    for name in ("train", "test"):
        part, other = (getattr(observer.loss_samples, name).parts[0] for observer in (before, after))
        assert len(part) == (200 if name == "train" else MOST_SAMPLES)
        assert torch.equal(part.inputs, other.inputs)
        assert torch.equal(part.targets, other.targets)
    assert after.history[1].evaluated_gap == before.history[1].evaluated_gap
    assert after.history[2].evaluated_on_many


@pytest.mark.usefixtures("no_pictures")
def test_a_lightning_run_without_validation_samples_has_no_test_loss(loaders, make_trainer, net):
    monitor = InteractionMonitor(FEATURES, n_samples=6, every_n_epochs=1, on_error="raise")
    with pytest.warns(UserWarning, match="no validation loader"):
        make_trainer(monitor).fit(net, loaders[0])
    assert all(row.evaluated_test_loss is None for row in monitor.observer.history)
    assert np.isnan(shown_losses(monitor.observer.history).test).all()

    own = InteractionMonitor(FEATURES, probe=monitor.observer.probe, every_n_epochs=1, on_error="raise")
    make_trainer(own).fit(net, loaders[0])
    assert np.isfinite(shown_losses(own.observer.history).test[1:]).all()


@pytest.mark.usefixtures("no_pictures")
def test_the_trial_of_the_validation_gives_no_samples(digits, make_trainer, net):
    """Its two batches come again in the first whole pass."""
    monitor = InteractionMonitor(FEATURES, n_samples=6, every_n_epochs=1, on_error="raise")
    small = TensorDataset(*(part[:250] for part in digits[1].tensors))
    make_trainer(monitor, max_epochs=1, num_sanity_val_steps=2).fit(
        net, DataLoader(digits[0], batch_size=64), DataLoader(small, batch_size=50)
    )
    (part,) = monitor.observer.loss_samples.test.parts
    assert sorted(part.targets.tolist()) == sorted(small.tensors[1].tolist())
