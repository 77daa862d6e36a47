"""Runs beside references: how each is trained beside finished networks and twins, and what is kept of it.

A run's references are trained on other samples, as many of them, with as many wrong labels, and taken at their lowest
validation loss. The data are MNIST, SST-2 and ModelNet10 from a folder, and what scikit-learn brings.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from examples import datasets, networks
from gallery.ingredients import with_wrong_labels
from gallery.train import evaluate
from interaction_monitor import Probe, assign_players, interpret, masked_outputs
from interaction_monitor.functional import generalizing_strength
from interaction_monitor.players import Columns, FeaturePatches, Players, PointClusters, Words

WRONG = {"wrong5": 0.05, "wrong10": 0.1, "wrong20": 0.2}
KINDS = ("finished", "twins_both", "twins_one")
# After each epoch. "cross": of each twin on the half that it does not learn from, with the labels as trained on, before
# each step; "changed": the part of the training samples that are told otherwise than an epoch before.
CURVES = (
    "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "cross_loss",
    "cross_accuracy", "changed",
)  # fmt: skip
Kept = dict[str, NDArray[np.generic]]
Seen = tuple[Tensor, Tensor | None, float]


@dataclass(frozen=True)
class Family:
    """What all runs of one kind of network have in common."""

    network: Callable[[int], nn.Module]  # of the number of words, where the data is text
    players: Callable[[tuple[str, ...]], Players]  # of the words
    n_train: int
    n_other: int  # samples of each finished reference
    references: int
    n_validation: int
    epochs: int
    every: int
    batch: int
    decay: float
    rate: float = 0.01


def _patches(layer: str, grid: int) -> Callable[[tuple[str, ...]], Players]:
    return lambda _: FeaturePatches(layer, grid=grid, margin=1, n_players=6)


FAMILIES = {
    "lenet": Family(
        lambda _: networks.LeNet(), _patches("features.1", 7), 1000, 1000, 2, 600, 72, 3, 128, 0.02,
    ),
    "vgg6": Family(
        lambda _: networks.Vgg((2, 2, 1), channels=1, width=8), _patches("features.3", 8),
        400, 390, 2, 250, 90, 4, 64, 0.02,
    ),
    "mlp": Family(
        lambda _: networks.Perceptron(30), lambda _: Columns(n_players=6), 160, 155, 1, 110, 300, 12, 64, 0.05,
    ),
    "resnet20": Family(
        lambda _: networks.ResNet20(channels=1, width=8), _patches("stem.2", 8),
        400, 390, 2, 250, 40, 2, 64, 0.02,
    ),
    "bert": Family(
        networks.BertTiny, lambda words: Words(list(words), n_players=6),
        1500, 1500, 2, 500, 20, 1, 32, 0.005, 0.05,
    ),
    "dgcnn": Family(
        lambda _: networks.DynamicGraph(width=16), lambda _: PointClusters(n_players=6),
        800, 800, 2, 500, 30, 2, 32, 0.005, 0.05,
    ),
}  # fmt: skip


def train(name: str, data: Path | None) -> Kept:
    """Train a run, its finished references and its twins.

    Args:
        name: family-condition-seed; see `references.names`.
        data: folder with MNIST, SST-2 and ModelNet10, for LeNets, BERT-Tiny and DGCNN.

    Returns:
        Its curves after each epoch (see `CURVES`); at each measurement the strength of each sample, (E, S), all of it
        and what references have too.
    """
    kind, condition, seed = name.split("-")[0], name.split("-")[1], int(name.split("-")[2])
    family = FAMILIES[kind]
    if condition == "much":
        family = replace(family, n_train=6000, n_other=3000, epochs=16, every=1)
    task = _task(family, kind, condition, data, seed)
    model, twins = _made(family, task, seed), [_made(family, task, 8000 + 10 * seed + number) for number in range(2)]
    probe = Probe.from_loader([task.validation], n_samples=25, seed=seed)
    players = assign_players(model, family.players(task.vocabulary), probe, seed=seed)

    def look(network: nn.Module) -> Seen:
        found = interpret(masked_outputs(network, probe, players))
        return found.and_, found.or_, found.tau

    finished = [look(each) for each in _finished(family, task, seed)]
    optimizers = [task.optimizer(network) for network in (model, *twins)]
    generator, curves, looks = torch.Generator().manual_seed(seed), [], []
    before = torch.full_like(task.labels, -1)
    for epoch in range(family.epochs + 1):
        crossed = torch.zeros(3, dtype=torch.float64)
        for optimizer in optimizers:
            task.set_rate(optimizer, (epoch - 1) / family.epochs)
        for batch in torch.randperm(len(task.labels), generator=generator).split(family.batch) if epoch else ():
            halves = batch[batch % 2 == 0], batch[batch % 2 == 1]
            crossed += sum(
                _crossed(twins[1 - i], task.inputs[half], task.labels[half]) for i, half in enumerate(halves)
            )
            for network, optimizer, part in zip((model, *twins), optimizers, (batch, *halves), strict=True):
                _step(network, optimizer, task.inputs[part], task.labels[part])
        logits = _logits(model, task.inputs)
        now = logits.argmax(1)
        curves.append(
            [
                float(functional.cross_entropy(logits, task.labels)),
                float((now == task.labels).double().mean()),
                *evaluate(model, *task.validation),
                *evaluate(model, *task.test),
                *(crossed[:2] / crossed[2]).tolist(),
                float((now != before).double().mean()),
            ]
        )
        before = now
        if epoch % family.every == 0 or epoch == family.epochs:
            looks.append((epoch, look(model), [look(network) for network in twins]))
    return dict(zip(CURVES, np.array(curves, dtype=np.float32).T, strict=True)) | _strengths(finished, looks)


def _strengths(
    finished: Sequence[Seen], looks: Sequence[tuple[int, Seen, list[Seen]]]
) -> dict[str, NDArray[np.generic]]:
    """Sum what is salient in each sample at each measurement, and what references have too."""
    rows = []
    for _, (and_, or_, tau), twins in looks:
        references = (([(and_, or_, tau)], 1), (finished, 1), (twins, 2), (twins, 1))
        held = [generalizing_strength(and_, or_, r, tau=tau, at_least=k) for r, k in references]
        rows.append(torch.stack(held).sum(-1).float().numpy())
    strengths = np.stack(rows, 1)
    return {
        "epochs": np.array([epoch for epoch, _, _ in looks], dtype=np.int32),
        **dict(zip(("strength", *KINDS), strengths, strict=True)),
    }


@dataclass(frozen=True)
class Task:
    """The samples of one run, and how it learns them."""

    inputs: Tensor
    labels: Tensor  # some of them wrong
    others: tuple[tuple[Tensor, Tensor], ...]  # of each finished reference
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    vocabulary: tuple[str, ...]
    rate: float
    decay: float
    annealed: bool

    def set_rate(self, optimizer: torch.optim.Optimizer, done: float) -> None:
        """Let the rate fall along a cosine as the run goes on, where it is to."""
        if self.annealed:
            optimizer.param_groups[0]["lr"] = self.rate * (1 + math.cos(math.pi * done)) / 2

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Give the optimizer of a network."""
        return torch.optim.SGD(network.parameters(), lr=self.rate, momentum=0.9, weight_decay=self.decay)


def _task(family: Family, kind: str, condition: str, data: Path | None, seed: int) -> Task:
    wrong = WRONG.get(condition, 0.0)
    x, y, test, vocabulary = _data(kind, data, seed)
    bounds = [family.n_train + number * family.n_other for number in range(family.references + 1)]
    held, n_classes = slice(bounds[-1], bounds[-1] + family.n_validation), int(y.max()) + 1

    def spoilt(part: slice, draw: int) -> tuple[Tensor, Tensor]:
        return x[part], with_wrong_labels(y[part], wrong, n_classes=n_classes, seed=draw)

    others = [spoilt(slice(begin, begin + family.n_other), 500 + seed + i) for i, begin in enumerate(bounds[:-1])]
    return Task(
        *spoilt(slice(family.n_train), seed),
        others=tuple(others),
        validation=(x[held], y[held]),
        test=test or (x[held.stop :], y[held.stop :]),
        vocabulary=vocabulary,
        rate=family.rate,
        decay=family.decay if condition in ("decay", "annealed") else 0.0,
        annealed=condition == "annealed",
    )


def _finished(family: Family, task: Task, seed: int) -> Iterator[nn.Module]:
    for number, samples in enumerate(task.others):
        network = _made(family, task, 7000 + 10 * seed + number)
        most = 1e9 if task.decay else 1.5
        _to_lowest_loss(network, samples, task, family, seed=900 + number, most=most)
        yield network


def _made(family: Family, task: Task, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family.network(len(task.vocabulary))


def _data(
    kind: str, data: Path | None, seed: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None, tuple[str, ...]]:
    """Load inputs and labels, those for testing where they are apart, and the vocabulary of text."""
    if kind == "lenet":
        loaded = datasets.mnist(data, n_train=20_000, n_test=1500, seed=seed)
        return *loaded.train.tensors, loaded.test.tensors, ()
    if kind == "dgcnn":
        loaded = datasets.modelnet10(data, n_points=64, seed=seed)
        return *loaded.train.tensors, loaded.test.tensors, ()
    if kind == "bert":
        loaded = datasets.sst2(data, longest=32, seed=seed)
        (x, y), (others, answers) = loaded.train.tensors, loaded.test.tensors
        width = 32
        # Short parts of sentences have too few words to be players.
        long = (x != 0).sum(1) >= 18
        padded = [functional.pad(ids, (0, width - ids.shape[1])) for ids in (x[long], others)]
        return padded[0], y[long], (padded[1], answers), loaded.vocabulary
    loaded = datasets.breast_cancer(seed=seed) if kind == "mlp" else datasets.sklearn_digits(seed=seed)
    x, y = (torch.cat(pair) for pair in zip(loaded.train.tensors, loaded.test.tensors, strict=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 + seed))
    return x[order], y[order], None, ()


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    if len(x) < 2:
        return
    network.train()
    optimizer.zero_grad()
    functional.cross_entropy(network(x), y).backward()
    optimizer.step()


@torch.no_grad()
def _crossed(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Give the loss, in sum, the right answers and the number of samples that a twin does not learn from."""
    network.eval()
    logits = network(x)
    loss = functional.cross_entropy(logits, y, reduction="sum").double()
    return torch.stack([loss, (logits.argmax(1) == y).sum().double(), torch.tensor(float(len(y))).double()])


@torch.no_grad()
def _logits(network: nn.Module, x: Tensor) -> Tensor:
    network.eval()
    return torch.cat([network(part) for part in x.split(500)])


def _to_lowest_loss(
    network: nn.Module, samples: tuple[Tensor, Tensor], task: Task, family: Family, *, seed: int, most: float
) -> None:
    """Train a network until its validation loss is so many times its lowest, and give it the weights that had that."""
    generator, best, weights = torch.Generator().manual_seed(seed), float("inf"), network.state_dict()
    optimizer = task.optimizer(network)
    for epoch in range(family.epochs):
        task.set_rate(optimizer, epoch / family.epochs)
        for batch in torch.randperm(len(samples[1]), generator=generator).split(family.batch):
            _step(network, optimizer, samples[0][batch], samples[1][batch])
        loss = evaluate(network, *task.validation)[0]
        if loss < best:
            best, weights = loss, copy.deepcopy(network.state_dict())
        elif epoch > 15 and loss > most * best:
            break
    network.load_state_dict(weights)
