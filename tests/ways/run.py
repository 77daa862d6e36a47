"""One way to train, run with or without the monitor, and all that it leaves behind."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.utils.data import DataLoader, Dataset

from interaction_monitor import InteractionMonitor
from interaction_monitor.players import Columns

WAYS: dict[str, tuple[Callable[[Run], object], int, str | None]] = {}
N, WIDTH, BATCH = 20, 4, 5
STEP = 0  # counted by a forward in another module


def way(*, measured: int = 2, refused: str | None = None):
    """Put a function among the ways: it trains by what it is given, and returns what else is to be compared.

    Args:
        measured: how often the monitor measures at the least.
        refused: what it says before training where it refuses the run.
    """

    def register(function):
        assert function.__name__ not in WAYS
        WAYS[function.__name__] = function, measured, refused
        return function

    return register


def item(index):
    return torch.arange(WIDTH) * float(index) / N - 0.5, index % 2


class Map(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        return item(index)


class Net(L.LightningModule):
    """Keeps the losses of all batches, of training and of validation."""

    def __init__(self, layers=None):
        super().__init__()
        self.layers = layers or nn.Sequential(nn.Linear(WIDTH, 6), nn.ReLU(), nn.Linear(6, 2))
        self.losses = []

    def forward(self, x):
        return self.layers(x)

    def loss(self, batch):
        return nn.functional.cross_entropy(self(batch[0]).float(), batch[1])

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.losses.append(("train", loss.item()))
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        loss = self.loss(batch)
        self.losses.append(("val", loss.item()))
        self.log("val_loss", loss)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


class Kept(Logger):
    """Keeps what is logged, but for what the monitor logs."""

    name, version, experiment, save_dir = "kept", 0, None, None

    def __init__(self):
        super().__init__()
        self.logged = []

    def log_metrics(self, metrics, step=None):
        logged = {key: value for key, value in metrics.items() if not key.startswith("interactions")}
        if logged and logged.keys() != {"epoch"}:
            self.logged.append((step, logged))

    def log_hyperparams(self, *args, **kwargs):
        pass


class Run:
    """Trains with the monitor or without it, and knows what there is to compare."""

    def __init__(self, folder: Path, *, monitored: bool) -> None:
        self.folder, self.monitored = folder, monitored
        self.monitors: list[InteractionMonitor] = []
        self.left: list[object] = []

    def loader(self, data=None, batch_size=BATCH, **options):
        return DataLoader(data or Map(), batch_size, **options)

    def watch(self, **options) -> list[L.Callback]:
        """Make the callbacks to watch a run with: a monitor, or none."""
        given = {"players": Columns(n_players=3), "n_samples": 3, "interactions": "and", "on_error": "raise"}
        self.monitors.append(InteractionMonitor(**{**given, **options}))
        return self.monitors[-1:] if self.monitored else []

    def trainer(self, *callbacks, **options) -> L.Trainer:
        given = {
            "max_epochs": 2, "accelerator": "cpu", "default_root_dir": self.folder, "log_every_n_steps": 1,
            "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
        }  # fmt: skip
        if "logger" not in options:
            given["logger"] = Kept()
        return L.Trainer(callbacks=list(callbacks), **{**given, **options})

    def fit(self, net=None, *data, watch=(), callbacks=(), ckpt_path=None, **options) -> L.Trainer:
        """Train, and keep the module, the trainer and the data to be compared."""
        net = net or Net()
        data = data or (self.loader(shuffle=True), self.loader())
        trainer = self.trainer(*self.watch(**dict(watch)), *callbacks, **options)
        self.left += [net, data, trainer]
        datamodule = data[0] if isinstance(data[0], L.LightningDataModule) else None
        loaders = () if datamodule else data
        trainer.fit(net, *loaders, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=False)
        return trainer


def everything(name: str, folder: Path, *, monitored: bool) -> tuple[list[object], list[InteractionMonitor]]:
    """Run a way from the seed, and return what it leaves behind, and what has measured."""
    if not monitored:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    L.seed_everything(1, workers=True, verbose=False)
    run = Run(folder, monitored=monitored)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            returned = WAYS[name][0](run)
        except Exception as error:
            if WAYS[name][2] is None or not monitored:
                raise
            returned = error
    numbers = torch.get_rng_state(), np.random.get_state(), random.getstate()
    return [run.left, returned, numbers], run.monitors
