"""Data, networks and players of the runs, by name; the first two are those of the examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from examples import datasets, networks
from gallery.runs import Run
from interaction_monitor.players import Columns, FeaturePatches, Players, PointClusters, Words

Part = tuple[Tensor, Tensor]

# At most so many validation samples; more would only make each epoch slower.
N_VALIDATION = 1000


@dataclass(frozen=True)
class Splits:
    """Training samples; those that the monitor and early stopping see; and those that nobody sees."""

    train: Part
    validation: Part
    test: Part
    vocabulary: tuple[str, ...] = ()


def with_wrong_labels(labels: Tensor, share: float, *, n_classes: int, seed: int) -> Tensor:
    """Draw a share of the labels anew, among all classes alike.

    Args:
        labels: (N,) classes.
        share: of them.
        n_classes: to draw from.
        seed: of the draw.

    Returns:
        (N,) labels; of those drawn anew one in `n_classes` is right by chance.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    result = labels.clone()
    result[chosen] = torch.randint(n_classes, (len(chosen),), generator=generator)
    return result


def splits(run: Run, data: Path | None) -> Splits:
    """Load a run's samples.

    Validation samples are training samples that are left over; where these are parts of sentences, half of the test
    samples.

    Args:
        run: the run.
        data: folder with the data sets that no package brings; None where there is none.

    Returns:
        The three parts; only the training labels are wrong.

    Raises:
        FileNotFoundError: if the data is not there; the message says what to put where.
    """
    loaded = _DATA[run.dataset](data, run.seed)
    (x, y), test = loaded.train.tensors, loaded.test.tensors
    train = (x[: run.n_train], y[: run.n_train])
    validation = (x[run.n_train : run.n_train + N_VALIDATION], y[run.n_train : run.n_train + N_VALIDATION])
    if run.dataset == "sst2":
        width = max(train[0].shape[1], test[0].shape[1])
        train, test = (_padded(train[0], width), train[1]), (_padded(test[0], width), test[1])
        validation, test = (test[0][::2], test[1][::2]), (test[0][1::2], test[1][1::2])
        # Long ones first, since short ones have too few words to be players.
        longest = (validation[0] != 0).sum(1).argsort(descending=True, stable=True)
        validation = validation[0][longest], validation[1][longest]
    labels = with_wrong_labels(train[1], run.wrong_labels, n_classes=len(loaded.classes), seed=run.seed)
    return Splits((train[0], labels), validation, test, loaded.vocabulary)


def _padded(ids: Tensor, width: int) -> Tensor:
    return nn.functional.pad(ids, (0, width - ids.shape[1]))


_DATA: dict[str, Callable[[Path | None, int], datasets.Data]] = {
    "digits": lambda _, seed: datasets.sklearn_digits(seed=seed),
    "mnist-5k": lambda _, seed: datasets.mnist_5k(seed=seed),
    "mnist": lambda data, seed: datasets.mnist(data, seed=seed),
    "cifar-10": lambda data, seed: datasets.cifar10(data, seed=seed),
    "modelnet10": lambda data, seed: datasets.modelnet10(data, n_points=64, seed=seed),
    "breast-cancer": lambda _, seed: datasets.breast_cancer(seed=seed),
    "sst2": lambda data, seed: datasets.sst2(data, longest=32, seed=seed),
}


def network(run: Run, vocabulary: tuple[str, ...] = ()) -> tuple[nn.Module, Players]:
    """Build a run's network and say what its players are.

    Args:
        run: the run; its seed draws the weights.
        vocabulary: the words, where the data is text.

    Returns:
        The network and the kind of its players.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return _NETWORKS[run.network](run.n_players, vocabulary)


def _patches(layer: str, n_players: int, grid: int = 8) -> FeaturePatches:
    return FeaturePatches(layer=layer, grid=grid, margin=1, n_players=n_players)


_NETWORKS: dict[str, Callable[[int, tuple[str, ...]], tuple[nn.Module, Players]]] = {
    "LeNet": lambda n, _: (networks.LeNet(), _patches("features.1", n, grid=7)),
    "VGG-6": lambda n, _: (networks.Vgg((2, 2, 1), channels=1, width=8), _patches("features.3", n)),
    "VGG-11": lambda n, _: (networks.vgg11(width=8), _patches("features.4", n)),
    "ResNet-20": lambda n, _: (networks.ResNet20(channels=1, width=8), _patches("stem.2", n)),
    "DGCNN": lambda n, _: (networks.DynamicGraph(width=16), PointClusters(n_players=n)),
    "MLP": lambda n, _: (networks.Perceptron(30), Columns(n_players=n)),
    "BERT-Tiny": lambda n, words: (networks.BertTiny(len(words)), Words(list(words), n_players=n)),
}
