"""The losses that a run logs, or that are averaged over its batches."""

import math

import torch
from torch import nn

from interaction_monitor import InteractionMonitor
from interaction_monitor.losses import BatchLosses, Losses
from interaction_monitor.players import FeaturePatches

FEATURES = FeaturePatches(layer="features.2", grid=8, margin=1, n_players=3)


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
