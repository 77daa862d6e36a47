"""What the example scripts share: a classifier with the papers' settings, the options, and a run that is watched."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from examples import resuming, schedules
from examples.datasets import Data
from interaction_monitor import InteractionMonitor, console
from interaction_monitor.history import History
from interaction_monitor.players import Players
from interaction_monitor.plots import run_figures
from interaction_monitor.record import Record, RecordError


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


@dataclass(frozen=True)
class Size:
    """How much of everything; the defaults are those of Ren et al. 2024, F.2 and F.3."""

    epochs: int = 256
    train: int | None = None  # samples, None takes all
    players: int = 10
    samples: int = 50  # test samples to measure on
    wrong_labels: float = 0.0
    learning_rate: float = 0.01


PAPERS = Size()
BATCH = 128
FREE = ("epochs", "data", "out", "resume")  # what may change where a run goes on


def options(
    description: str | None,
    small: Mapping[str, Size],
    *,
    full: Size = PAPERS,
    command: list[str] | None = None,
    **more: Callable[[str], Any],
) -> argparse.Namespace:
    """Read the command line, and seed what is built next, such as the network.

    Args:
        description: the script's docstring, of which the first line is shown.
        small: the networks to choose from, the first by default, and what two cores do with each in minutes.
        full: what `--full` takes instead.
        command: the words of the command line; None takes those that the script was called with.
        more: further options, each with what reads it; None where they are not given.

    Returns:
        The fields of `Size`, and `network`, `full`, `data`, `out`, `resume` and `seed`.

    Raises:
        SystemExit: with code 2 and a line that says why, if a value makes no sense.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the public data sets")
    parser.add_argument("--network", choices=tuple(small), default=next(iter(small)))
    parser.add_argument("--full", action="store_true", help="the papers' settings, for a GPU")
    name = Path(sys.argv[0]).stem
    parser.add_argument("--out", type=folder, default=Path("runs") / name, help="folder of the run")
    parser.add_argument(
        "--resume", action="store_true", help="keep a checkpoint of each epoch in --out, and go on from the one there"
    )
    parser.add_argument(
        "--seed",
        type=number(int, "0 to 4294967295", lambda value: 0 <= value < 2**32),
        default=0,
        help="of weights, batches, wrong labels, samples and players: the same gives the same run; default: 0",
    )
    parser.add_argument(
        "--early",
        type=number(int, "0 to 31", lambda value: 0 <= value < 32),
        default=0,
        help="halvings of the first epoch: 4 measures after 1/16, 1/8, 1/4 and 1/2 of it too; default: 0",
    )
    sizes = parser.add_argument_group("instead of what the network or --full would take")
    count = number(int, "1 or more", lambda value: value >= 1)
    share = number(float, "0 to 1", lambda value: 0 <= value <= 1)
    rate = number(float, "positive", lambda value: 0 < value < float("inf"))
    sizes.add_argument("--epochs", type=count)
    sizes.add_argument("--train", type=count, help="training samples")
    sizes.add_argument("--players", type=count)
    sizes.add_argument("--samples", type=count, help="test samples to measure on")
    sizes.add_argument("--wrong-labels", type=share, help="share of the training labels that are drawn anew")
    sizes.add_argument("--learning-rate", type=rate)
    for name_of_option, read in more.items():
        parser.add_argument(f"--{name_of_option}", type=read)
    found = parser.parse_args(command)
    for key, value in vars(full if found.full else small[found.network]).items():
        if getattr(found, key) is None:
            setattr(found, key, value)
    L.seed_everything(found.seed, verbose=False)
    return found


def number(kind: type[Any], allowed: str, is_allowed: Callable[[Any], bool]) -> Callable[[str], Any]:
    """Make what reads a number from the command line and refuses one that makes no sense."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not is_allowed(value):
            raise argparse.ArgumentTypeError(f"must be {allowed}, but is {text}")
        return value

    return read


def folder(text: str) -> Path:
    """Read a folder from the command line, one that is there or can be made."""
    path = Path(text)
    if not text.strip() or any(place.exists() and not place.is_dir() for place in (path, *path.parents)):
        raise argparse.ArgumentTypeError(f"must be a folder, or the name of a new one, but is {text!r}")
    return path


def one_of(*allowed: str) -> Callable[[str], str]:
    """Make what reads one of several words from the command line and refuses others."""
    return number(str, f"one of {', '.join(allowed)}", lambda word: word in allowed)


@contextmanager
def refusals(errors: tuple[type[Exception], ...] = (FileNotFoundError, ValueError)) -> Iterator[None]:
    """Turn what the data cannot give, known before anything is trained, into one line and exit code 2.

    Args:
        errors: what the block may raise; by default that files are missing, or that there are too few samples.

    Raises:
        SystemExit: in the place of these.
    """
    try:
        yield
    except errors as error:
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


def enough(option: str, asked: int, there: Sized, what: str) -> None:
    """Refuse to take more than there are.

    Raises:
        ValueError: if more are asked for.
    """
    if asked > len(there):
        raise ValueError(f"{option} {asked}, but there are only {len(there)} {what}")


def watch(network: nn.Module, data: Data, players: Players, options: argparse.Namespace, **settings: Any) -> History:
    """Train a network under the eyes of the monitor, print what it saw and draw it.

    Args:
        network: what to train.
        data: what on.
        players: what an input variable is.
        options: the command line.
        settings: further arguments of the monitor.

    Returns:
        The measurements.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|exists and is not empty).*")
    with refusals():
        enough("--samples", options.samples, data.test, "test samples")
    settings = {
        "n_samples": options.samples,
        "seed": options.seed,
    } | settings
    early = schedules.Early(options.early, n_samples=len(data.train), batch=BATCH, epochs=options.epochs)
    if options.early:
        settings["every_n_train_steps"] = early.after
    else:
        settings["every_n_epochs"] = schedules.epochs_of(options.epochs)
    monitor = InteractionMonitor(players, **settings)
    begun = resuming.interrupted(options.out) if options.resume else None
    asked = {name: value for name, value in vars(options).items() if name not in FREE}
    with refusals():
        resuming.require_same(begun, asked)
    if begun is not None and (done := resuming.epochs_done(begun)) >= options.epochs:
        print(f"{begun.parent} has {done} epochs already; for more ask by --epochs.")
        with refusals((RecordError,)):
            history = Record.open(begun.parent / "interactions").history
        conclude(history, begun.parent)
        return history
    logger = TensorBoardLogger(options.out.parent, name=options.out.name, version=begun and begun.parent.name)
    kept: list[L.Callback] = [early] if options.early else []
    if options.resume:
        kept += [resuming.RandomState(asked), resuming.each_epoch(Path(logger.log_dir))]
    trainer = L.Trainer(
        max_epochs=options.epochs,
        logger=logger,
        callbacks=[monitor, *kept],
        enable_checkpointing=options.resume,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    model = Classifier(network, learning_rate=options.learning_rate)
    with refusals((MisconfigurationException,)):  # the monitor's, before the first batch
        train, test = DataLoader(data.train, batch_size=BATCH, shuffle=True), DataLoader(data.test, batch_size=500)
        trainer.fit(model, train, test, ckpt_path=begun)
    print(f"\n{float(trainer.callback_metrics['val_accuracy']):.1%} of the test samples are classified rightly.")
    assert monitor.observer is not None
    conclude(monitor.observer.history, Path(trainer.log_dir or "."))
    return monitor.observer.history


def conclude(history: History, folder: Path) -> None:
    """Print the run as a table and a sentence, and draw it."""
    picture = folder / "story.png"
    run_figures.story(history).savefig(picture, dpi=110)
    print(f"\n{console.table(history)}\n\n{console.verdict(history)}\n")
    print(f"The whole story in one picture: {picture}")
    print(f"To open the panels:             {Path(sys.executable).with_name('tensorboard')} --logdir {folder}")
