"""What several test files need: a small network on real digits, and a trainer that leaves nothing behind."""

import lightning as L
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class SmallNet(L.LightningModule):
    """A CNN with everything that a careless monitor could disturb: BatchNorm and Dropout."""

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

    def forward(self, x):
        return self.head(self.features(x))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


@pytest.fixture
def make_net():
    return SmallNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    return SmallNet()


@pytest.fixture(scope="session")
def digits():
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    return TensorDataset(x[:200], y[:200]), TensorDataset(x[1500:1600], y[1500:1600])


@pytest.fixture
def loaders(digits):
    train, test = digits
    return DataLoader(train, batch_size=50, shuffle=True), DataLoader(test, batch_size=50)


@pytest.fixture
def make_trainer(tmp_path):
    def make(*callbacks, **overrides):
        settings = {
            "max_epochs": 2,
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
        } | overrides
        return L.Trainer(callbacks=list(callbacks), **settings)

    return make
