"""What a forward logs is of the training alone, with the monitor as without it."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor
from interaction_monitor.players import ImagePatches


class Logs(L.LightningModule):
    def __init__(self, on_step):
        super().__init__()
        self.model, self.on_step = nn.Linear(16, 3), on_step

    def forward(self, x):
        self.log("norm", x.norm(), on_step=self.on_step, on_epoch=not self.on_step)
        self.log_dict({"largest": x.max()}, on_step=self.on_step, on_epoch=not self.on_step)
        return self.model(x.flatten(1))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("on_step", [False, True])
def test_a_forward_logs_what_training_gave_it_and_is_measured(make_trainer, on_step):
    def logged(*callbacks):
        L.seed_everything(0, verbose=False)
        data = TensorDataset(torch.rand(12, 1, 4, 4), torch.arange(12) % 3)
        trainer = make_trainer(*callbacks, max_epochs=2, logger=False, enable_checkpointing=False)
        trainer.fit(Logs(on_step), DataLoader(data, 6))
        return {key: trainer.callback_metrics[key].item() for key in ("norm", "largest")}

    monitor = InteractionMonitor(ImagePatches(grid=2, margin=0, n_players=4), n_samples=4, on_error="raise")
    with pytest.warns(UserWarning, match="no validation loader"):
        with_monitor = logged(monitor)
    assert with_monitor == logged()
    assert monitor.observer.history.epochs.tolist() == [0, 1, 2]
