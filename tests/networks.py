"""Small classifiers that several test files train; the processes that some of these start import them too."""

import lightning as L
import torch
from torch import nn


class Classifier(L.LightningModule):
    """What trains the networks here; a subclass makes one."""

    learning_rate = 0.1

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class Convolutional(Classifier):
    """A CNN of `features` and `head`."""

    def forward(self, x):
        return self.head(self.features(x))


class SmallNet(Convolutional):
    """One with everything that a careless monitor could disturb: BatchNorm and Dropout."""

    def __init__(self, learning_rate=0.1):
        super().__init__()
        self.learning_rate = learning_rate
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Flatten(), nn.Linear(512, 10))
