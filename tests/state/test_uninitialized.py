"""Weights whose shapes only the first batch gives are drawn by the first training batch, as without the monitor."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor, Observer, Probe, assign_players, measure
from interaction_monitor.players import ImagePatches

PATCHES = ImagePatches(grid=2, margin=0, n_players=4)


def lazy():
    return nn.Sequential(
        nn.LazyConv2d(3, 2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.LazyLinear(3)
    )


def test_a_plain_loop_is_told_to_run_a_batch_first():
    net, probe = lazy(), Probe(torch.rand(5, 1, 4, 4), torch.arange(5) % 3)
    players = PATCHES.assign(probe, None, seed=0)
    state = torch.get_rng_state()
    for run in (measure, lambda *given: Observer(probe, players).observe(net, epoch=0, step=0)):
        with pytest.raises(ValueError, match=r"Sequential has weights without a shape, '0.weight'.*model\(inputs\)"):
            run(net, probe, players)
    assert all(torch.nn.parameter.is_lazy(parameter) for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    net(probe.inputs)
    assert measure(net, probe, assign_players(net, PATCHES, probe)).valid.all()


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = lazy()

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_lightning_run_is_measured_from_the_first_batch_on_and_trains_the_same_weights(make_trainer, sanity, capsys):
    def trained(*callbacks):
        L.seed_everything(0, verbose=False)
        data = TensorDataset(torch.rand(12, 1, 4, 4), torch.arange(12) % 3)
        net = Net()
        trainer = make_trainer(
            *callbacks, max_epochs=2, logger=False, enable_checkpointing=False, num_sanity_val_steps=sanity
        )
        trainer.fit(net, DataLoader(data, 6, shuffle=True), DataLoader(data, 6))
        return net.state_dict(), torch.get_rng_state()

    monitor = InteractionMonitor(PATCHES, n_samples=4, on_error="raise")
    (with_monitor, state), (without, expected) = trained(monitor), trained()
    assert torch.equal(state, expected)
    assert all(torch.equal(with_monitor[name], without[name]) for name in without)
    history = monitor.observer.history
    # The sanity check of the validation loader gives the shapes before training begins.
    assert (history.steps.tolist(), history.epochs.tolist()) == ([0 if sanity else 1, 2, 4], [0, 1, 2])
    told = "measures from the first batch on, which gives 'model.0.weight', 'model.0.bias'"
    assert (told in capsys.readouterr().out) == (sanity == 0)
