"""The table of runs: what is trained, how, and what is expected of it."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Expectation = Literal["over-fits", "cannot over-fit", "never learns"]
Part = Literal["choosing", "held out", "fresh"]
FRESH_SEED = 2  # from this seed on


@dataclass(frozen=True)
class Run:
    """One training run. The settings are those of Ren et al. 2024, Appendix F, where nothing else is said."""

    name: str
    dataset: str
    network: str
    n_train: int
    expectation: Expectation = "over-fits"  # written down before the run was trained
    wrong_labels: float = 0.0  # share of training labels drawn anew; 1 is random labels
    seed: int = 0  # of the weights, the order of the batches and the choice of samples
    learning_rate: float = 0.01
    weight_decay: float = 0.0
    epochs: int = 60
    every: int = 2  # epochs between two measurements
    n_samples: int = 25
    n_train_samples: int = 0  # training samples measured beside them
    n_players: int = 10
    batch: int = 128
    small: bool = False  # part of the small preset

    @property
    def part(self) -> Part:
        """What its result may be used for.

        Parameters are chosen on some runs and checked on those held out, by the hash of their name; fresh ones are
        trained with new seeds after everything was chosen.
        """
        if self.seed >= FRESH_SEED:
            return "fresh"
        return "held out" if hashlib.sha256(self.name.encode()).digest()[0] % 2 == 1 else "choosing"


# Eight players take a tenth of the time of ten, so that training samples can be measured beside the others.
_EIGHT: dict[str, Any] = {"n_players": 8, "n_train_samples": 25}
# Small batches and steps that are large, so that networks of this kind learn from few samples in few epochs.
_FEW: dict[str, Any] = {"batch": 32, "learning_rate": 0.05, "n_samples": 15, "n_players": 8}


def _lenet(name: str, **changes: Any) -> Run:
    return Run(**{"name": f"lenet-{name}", "dataset": "mnist-5k", "network": "LeNet", "n_train": 1500, **changes})


def _digits(name: str, **changes: Any) -> Run:
    run = {"name": f"vgg6-{name}", "dataset": "digits", "network": "VGG-6", "n_train": 600, "epochs": 90, "every": 3}
    return Run(**{**run, **_EIGHT, **changes})


def _table(name: str, **changes: Any) -> Run:
    run = {"name": f"mlp-{name}", "dataset": "breast-cancer", "network": "MLP", "n_train": 250}
    return Run(**{**run, "epochs": 300, "every": 10, **_EIGHT, **changes})


# Those that tell most with least come first, and positives alternate with negatives, so that any beginning is of use.
_FIRST: tuple[Run, ...] = (
    _lenet("wrong-10", wrong_labels=0.1),
    _lenet("no-learning", learning_rate=0.0, expectation="never learns", epochs=40),
    _lenet("clean"),
    _digits("wrong-10", wrong_labels=0.1, small=True),
    _digits("decay", weight_decay=0.02, expectation="cannot over-fit", small=True),
    _digits("clean", small=True),
    _digits("no-learning", learning_rate=0.0, expectation="never learns"),
    _table("clean", small=True),
    _table("random-slow", wrong_labels=1.0, learning_rate=1e-4, expectation="never learns", small=True),
    _table("wrong-20", wrong_labels=0.2),
    _lenet("decay", weight_decay=0.02, expectation="cannot over-fit", **_EIGHT),
    _lenet("wrong-20", wrong_labels=0.2, **_EIGHT),
    _lenet("random-slow", wrong_labels=1.0, learning_rate=1e-4, expectation="never learns", epochs=40, **_EIGHT),
    _lenet("wrong-5", wrong_labels=0.05, **_EIGHT),
    _digits("wrong-20", wrong_labels=0.2),
    _lenet("much-data", dataset="mnist", n_train=12000, epochs=20, every=1, expectation="cannot over-fit", **_EIGHT),
    Run("vgg11-cifar-clean", "cifar-10", "VGG-11", 1500, epochs=40, **_EIGHT),
    _table("decay", weight_decay=0.05, expectation="cannot over-fit"),
    _lenet("small-wrong-10", wrong_labels=0.1, n_train=500, epochs=150, every=5, **_EIGHT),
    _digits("random-slow", wrong_labels=1.0, learning_rate=1e-4, expectation="never learns", epochs=60),
    _lenet("seed-1-wrong-10", wrong_labels=0.1, seed=1, **_EIGHT),
    _digits("seed-1-clean", seed=1),
    _digits("seed-1-wrong-10", wrong_labels=0.1, seed=1),
    Run("resnet20-digits-wrong-10", "digits", "ResNet-20", 600, wrong_labels=0.1, epochs=40, n_players=8),
    _lenet("wrong-1", wrong_labels=0.01, **_EIGHT),
    Run("bert-sst2-clean", "sst2", "BERT-Tiny", 800, epochs=20, every=1, **_FEW),
    Run("dgcnn-modelnet-clean", "modelnet10", "DGCNN", 400, epochs=30, **_FEW),
    _table("wrong-10", wrong_labels=0.1),
    _lenet("seed-1-clean", seed=1, **_EIGHT),
    _lenet("small-clean", n_train=500, epochs=150, every=5, **_EIGHT),
    _digits("seed-1-decay", weight_decay=0.02, seed=1, expectation="cannot over-fit"),
    Run("vgg11-cifar-wrong-20", "cifar-10", "VGG-11", 1500, wrong_labels=0.2, epochs=40, **_EIGHT),
    Run("resnet20-digits-clean", "digits", "ResNet-20", 600, epochs=40, n_players=8),
    _lenet("random", wrong_labels=1.0, epochs=100, every=4, **_EIGHT),
)

_AGAIN: dict[str, Any] = {"seed": 2}
_FRESH: tuple[Run, ...] = (
    _lenet("seed-2-wrong-10", wrong_labels=0.1, **_EIGHT, **_AGAIN),
    _digits("seed-2-wrong-20", wrong_labels=0.2, **_AGAIN),
    _table("seed-2-wrong-20", wrong_labels=0.2, **_AGAIN),
    _lenet("seed-2-clean", **_EIGHT, **_AGAIN),
    _digits("seed-2-clean", **_AGAIN),
    _table("seed-2-clean", **_AGAIN),
    _lenet("seed-2-decay", weight_decay=0.02, expectation="cannot over-fit", **_EIGHT, **_AGAIN),
    _digits("seed-2-decay", weight_decay=0.02, expectation="cannot over-fit", **_AGAIN),
    _table("seed-2-decay", weight_decay=0.05, expectation="cannot over-fit", **_AGAIN),
    _lenet("seed-2-wrong-20", wrong_labels=0.2, **_EIGHT, **_AGAIN),
    _digits("seed-2-wrong-10", wrong_labels=0.1, **_AGAIN),
    _table("seed-2-wrong-10", wrong_labels=0.1, **_AGAIN),
    _lenet("seed-2-wrong-5", wrong_labels=0.05, **_EIGHT, **_AGAIN),
    _digits(
        "seed-2-random-slow", wrong_labels=1.0, learning_rate=1e-4, expectation="never learns", epochs=60, **_AGAIN
    ),
    _table("seed-2-random-slow", wrong_labels=1.0, learning_rate=1e-4, expectation="never learns", **_AGAIN),
    _lenet("seed-2-small-clean", n_train=500, epochs=150, every=5, **_EIGHT, **_AGAIN),
    _lenet("seed-2-small-wrong-10", wrong_labels=0.1, n_train=500, epochs=150, every=5, **_EIGHT, **_AGAIN),
    Run("resnet20-digits-seed-2-wrong-20", "digits", "ResNet-20", 600, wrong_labels=0.2, epochs=40, **_EIGHT, **_AGAIN),
    Run("vgg11-cifar-seed-2-wrong-10", "cifar-10", "VGG-11", 1500, wrong_labels=0.1, epochs=40, **_EIGHT, **_AGAIN),
)

# Measured with as many samples and epochs as one can want, or players, to be analysed again with fewer.
_FINE: dict[str, Any] = {"n_samples": 50, "every": 1, "seed": 3}
_FINELY: tuple[Run, ...] = (
    _lenet("fine-wrong-10", wrong_labels=0.1, **_FINE),
    _digits("fine-wrong-20", **{"wrong_labels": 0.2, "epochs": 60, "n_train_samples": 0, **_FINE}),
    _table("fine-wrong-20", wrong_labels=0.2, **{"n_train_samples": 0, **_FINE, "every": 5}),
    _lenet("fine-clean", **{"epochs": 40, **_FINE}),
    _lenet("twelve-wrong-10", wrong_labels=0.1, n_players=12, n_samples=15, epochs=45, every=3, seed=3),
)

RUNS: tuple[Run, ...] = _FIRST + _FRESH + _FINELY


def select(patterns: Sequence[str], *, small: bool = False) -> list[Run]:
    """Give the runs whose names match one of the patterns, in the order of the table.

    Args:
        patterns: names or shell patterns such as ``lenet-*``; none means all.
        small: only those of the small preset.

    Returns:
        The runs.

    Raises:
        ValueError: if a pattern matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatch.fnmatch(run.name, pattern) for run in RUNS):
            raise ValueError(f"no run is called {pattern!r}; python -m gallery list names them")
    matching = [run for run in RUNS if not patterns or any(fnmatch.fnmatch(run.name, p) for p in patterns)]
    return [run for run in matching if run.small or not small]
