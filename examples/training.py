"""What the example scripts share: a classifier with the papers' settings, and a run that the monitor watches."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional


class Classifier(L.LightningModule):
    """Train any network to classify, by SGD with momentum and without decay, as in Ren et al. 2024, F.2.

    Args:
        network: gives logits (B, classes); its layers are named "network." and their own name.
        learning_rate: of SGD.
        momentum: of SGD.
    """

    def __init__(self, network: nn.Module, learning_rate: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__()
        self.network = network
        self.learning_rate, self.momentum = learning_rate, momentum

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", functional.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=self.momentum)
