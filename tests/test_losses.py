"""Both losses of the same network in evaluation mode, on fixed samples."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from interaction_monitor import InteractionMonitor, Observer, Probe, assign_players
from interaction_monitor.callbacks import loggers
from interaction_monitor.history.landmarks import shown_losses
from interaction_monitor.losses import BatchLosses, Losses, TrainingSamples, evaluated_loss
from interaction_monitor.players import FeaturePatches, ImagePatches
from interaction_monitor.settings import Settings

FEATURES = FeaturePatches(layer="features.2", grid=8, margin=1, n_players=3)


def cross_entropy(net, x, y):
    """By hand, one sample after the other."""
    net = copy.deepcopy(net).eval()
    with torch.no_grad():
        rows = [net(x[i : i + 1])[0].double() for i in range(len(x))]
    return sum(float(row.exp().sum().log() - row[int(target)]) for row, target in zip(rows, y, strict=True)) / len(x)


@pytest.mark.parametrize("n_samples", [1, 64, 130])
def test_the_loss_is_that_of_the_network_in_evaluation_mode(net, digits, n_samples):
    x, y = (tensor[:n_samples] for tensor in digits[0].tensors)
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    found = evaluated_loss(net, Probe(x, y), Settings())
    assert found == pytest.approx(cross_entropy(net, x, y), rel=1e-5)
    assert net.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize(
    "targets", [None, torch.rand(5), torch.randint(3, (5, 2)), torch.full((5,), 7), torch.full((5,), -100)]
)
def test_targets_that_are_no_classes_have_no_loss(targets):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    assert evaluated_loss(net, Probe(torch.rand(5, 4), targets), Settings()) is None


def test_a_diverged_network_has_no_loss():
    net = nn.Linear(4, 3)
    nn.init.constant_(net.weight, torch.nan)
    assert evaluated_loss(net, Probe(torch.rand(5, 4), torch.arange(5) % 3), Settings()) is None


def test_the_first_training_samples_are_kept_as_they_come():
    x, y = torch.rand(12, 4), torch.arange(12)
    samples = TrainingSamples(5)
    for part in range(0, 12, 3):
        samples.add((x[part : part + 3], y[part : part + 3]))
    x.zero_()
    assert samples.probe.targets.tolist() == [0, 1, 2, 3, 4]
    assert samples.probe.inputs.abs().min() > 0
    again = TrainingSamples(5)
    again.load_state_dict(samples.state_dict())
    assert torch.equal(again.probe.inputs, samples.probe.inputs)
    named = TrainingSamples(2)
    named.add({"ids": torch.arange(3), "labels": torch.tensor([1, 0, 1])})
    assert (named.probe.inputs["ids"].tolist(), named.probe.targets.tolist()) == ([0, 1], [1, 0])
    for batch in ("text", (1, 2, 3), None):
        strange = TrainingSamples(2)
        strange.add(batch)
        strange.add((torch.rand(2, 4), torch.arange(2)))
        assert strange.probe is None


@pytest.mark.parametrize("other", [{"mask": torch.ones(3, 4)}, torch.ones(3, 4), {"ids": torch.ones(3, 5)}])
def test_batches_that_do_not_go_together_are_no_samples(other):
    samples = TrainingSamples(5)
    samples.add({"ids": torch.ones(3, 4)})
    samples.add(other)
    assert samples.probe is None
    whole = TrainingSamples(3)
    whole.add({"ids": torch.ones(3, 4)})
    whole.add(other)
    assert whole.probe.inputs["ids"].shape == (3, 4)


def test_a_loop_has_both_losses_beside_the_logged_ones(net, digits):
    (x, y), (other, targets) = (part.tensors for part in digits)
    probe, train = Probe(other[:4], targets[:4]), Probe(x[:6], y[:6])
    observer = Observer(probe, assign_players(net, FEATURES, probe), train_samples=train)
    row = observer.observe(net, epoch=0, step=0, train_loss=1.0, test_loss=2.0)
    assert row.evaluated_train_loss == pytest.approx(cross_entropy(net, x[:6], y[:6]), rel=1e-5)
    assert row.evaluated_test_loss == pytest.approx(cross_entropy(net, other[:4], targets[:4]), rel=1e-5)
    assert row.evaluated_gap == row.evaluated_test_loss - row.evaluated_train_loss
    assert row.loss_gap == 1.0


@pytest.mark.parametrize("logged", [True, False])
def test_the_gap_opens_between_logged_losses_or_else_between_these(logged):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    probe = Probe(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
    seen = []

    class Tracker:
        def __getattr__(self, name):
            return getattr(tracker, name)

        def update(self, *, train_loss, test_loss, **rest):
            seen.append((train_loss, test_loss))
            return tracker.update(train_loss=train_loss, test_loss=test_loss, **rest)

    players = assign_players(net, ImagePatches(grid=4, margin=0, n_players=3), probe)
    observer = Observer(probe, players, train_samples=probe)
    tracker, observer.tracker = observer.tracker, Tracker()
    for epoch in range(3):
        # As a trainer logs: nothing before the first epoch.
        losses = {"train_loss": 0.5, "test_loss": 0.6} if logged and epoch else {}
        row = observer.observe(net, epoch=epoch, step=epoch, **losses)
    evaluated = (row.evaluated_train_loss, row.evaluated_test_loss)
    assert seen == [(None, None), *[(0.5, 0.6) if logged else evaluated] * 2]


def test_a_lightning_run_has_them_without_reading_its_loader(loaders, make_trainer, net, monkeypatch):
    monkeypatch.setattr(loggers.Loggers, "draw", lambda *_, **__: None)
    batches = []

    class Taking(type(net)):
        def training_step(self, batch, batch_idx):
            batches.append([part.clone() for part in batch])
            return super().training_step(batch, batch_idx)

    net.__class__ = Taking
    monitor = InteractionMonitor(FEATURES, n_samples=6, every_n_epochs=1, on_error="raise")
    trainer = make_trainer(monitor)
    trainer.fit(net, *loaders)
    first, *later = monitor.observer.history
    assert first.evaluated_train_loss is None
    assert all(row.evaluated_train_loss is not None for row in later)
    x, y = (part[:6] for part in batches[0])
    assert later[-1].evaluated_train_loss == pytest.approx(cross_entropy(net, x, y), rel=1e-5)
    probe = monitor.observer.probe
    assert later[-1].evaluated_test_loss == pytest.approx(cross_entropy(net, probe.inputs, probe.targets), rel=1e-5)
    logged = trainer.callback_metrics["interactions/evaluated_gap"]
    assert float(logged) == pytest.approx(later[-1].evaluated_gap)


def test_a_lightning_run_without_validation_samples_has_no_test_loss(loaders, make_trainer, net, monkeypatch):
    monkeypatch.setattr(loggers.Loggers, "draw", lambda *_, **__: None)
    monitor = InteractionMonitor(FEATURES, n_samples=6, every_n_epochs=1, on_error="raise")
    with pytest.warns(UserWarning, match="no validation loader"):
        make_trainer(monitor).fit(net, loaders[0])
    assert np.isnan(shown_losses(monitor.observer.history).test).all()

    own = InteractionMonitor(FEATURES, probe=monitor.observer.probe, every_n_epochs=1, on_error="raise")
    make_trainer(own).fit(net, loaders[0])
    assert np.isfinite(shown_losses(own.observer.history).test[1:]).all()


def test_a_validation_loss_that_waits_to_be_read_outlives_an_interruption():
    before, after = Losses(), Losses()
    before.validated({"val_loss": torch.tensor(0.5)})
    after.load_state_dict(before.state_dict())
    assert after.read({}) == (None, 0.5)
    assert after.read({}) == (None, None)  # it is read once
    assert before.read({"val_loss": 0.5}) == (None, 0.5)
    assert "test" not in before.state_dict()


def test_batches_whose_loss_is_not_finite_do_not_count():
    losses = BatchLosses()
    for loss in (2.0, math.nan, math.inf, 4.0):
        losses.add(torch.tensor(loss), torch.zeros(3, 5))
    assert losses.mean() == 3.0


def test_of_several_validation_loaders_the_first_has_the_loss(loaders, make_trainer, make_net):
    class Several(make_net):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]) + 100 * dataloader_idx)

    monitor = InteractionMonitor(FEATURES, n_samples=5, interactions="and")
    trainer = make_trainer(monitor, max_epochs=1, logger=False)
    trainer.fit(Several(), loaders[0], [loaders[1], loaders[1]])
    assert 0 < monitor.observer.history[-1].test_loss < 50
    assert trainer.callback_metrics["val_loss/dataloader_idx_0"].item() == monitor.observer.history[-1].test_loss
