"""Whether what generalizes decays over the orders and the rest is a spindle: the table of docs/theory.md.

`python -m benchmarks shapes`, some ten minutes of one core: networks on a third of their data, beside two references
on the other thirds, with right labels and at their least test loss.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from examples.datasets import Data, breast_cancer, mnist_5k
from examples.networks import LeNet, Perceptron
from interaction_monitor import Probe, assign_players, measure
from interaction_monitor.functional import generalizing_share, generalizing_strength, order_strength
from interaction_monitor.functional.saliency import fit_shapes, order_cancellation
from interaction_monitor.players import Columns, FeaturePatches
from interaction_monitor.plots.theory_text import rank_correlation


@dataclass(frozen=True)
class Task:
    """What is trained."""

    name: str
    load: Callable[..., Data]
    network: Callable[[], nn.Module]
    epochs: int
    every: int
    weight_decay: float  # of the run that is called "decay"


TASKS = (
    Task("MLP, breast cancer", breast_cancer, lambda: Perceptron(30), epochs=300, every=15, weight_decay=0.05),
    Task("LeNet, MNIST", mnist_5k, lambda: LeNet(size=28), epochs=60, every=4, weight_decay=0.02),
)
SETTINGS = {"clean": (0.0, False), "20% wrong": (0.2, False), "decay": (0.0, True)}  # wrong labels, weight decay


def players_of(task: Task, data: Data) -> Any:
    if task.load is breast_cancer:
        return Columns([(m, m + 10, m + 20) for m in range(8)], baseline=data.train.tensors[0].mean(0))
    return FeaturePatches("features.1", grid=7, n_players=8)


def train_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, order: torch.Generator
) -> None:
    network.train()
    for part in torch.randperm(len(x), generator=order).split(128):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[part]), y[part]).backward()
        optimizer.step()
    network.eval()


def started(
    task: Task, seed: int, weight_decay: float = 0.0
) -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
    torch.manual_seed(seed)
    network = task.network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=weight_decay)
    return network, optimizer, torch.Generator().manual_seed(seed)


def reference(task: Task, data: Data, third: int) -> nn.Module:
    """Train on another third, and go back to the least test loss."""
    network, optimizer, order = started(task, third)
    x, y = (tensor.tensor_split(3)[third] for tensor in data.train.tensors)
    lowest, best = math.inf, network
    for _ in range(task.epochs):
        train_epoch(network, optimizer, x, y, order)
        with torch.no_grad():
            loss = float(nn.functional.cross_entropy(network(data.test.tensors[0]), data.test.tensors[1]))
        if loss < lowest:
            lowest, best = loss, copy.deepcopy(network)
    return best


def rows(task: Task, wrong: float, weight_decay: float) -> list[dict[str, float]]:
    clean, spoilt = task.load(seed=0), task.load(wrong_labels=wrong, seed=0)
    probe = Probe(*(tensor[:25] for tensor in clean.test.tensors))
    network, optimizer, order = started(task, 0, weight_decay)
    players = assign_players(network, players_of(task, clean), probe)
    found = [measure(reference(task, clean, third), probe, players) for third in (1, 2)]
    references = [(r.and_, r.or_, r.tau) for r in found]
    x, y = (tensor.tensor_split(3)[0] for tensor in spoilt.train.tensors)
    result = []
    for number in range(task.epochs + 1):
        if number:
            train_epoch(network, optimizer, x, y, order)
        if number % task.every == 0:
            m = measure(network, probe, players)
            strength = order_strength(m.and_, m.or_, m.tau)
            generalizing = generalizing_strength(m.and_, m.or_, references, tau=m.tau)
            rest = (strength - generalizing).sum(0).clamp_min(0)
            shares = [float(fit_shapes(s).decay_share) for s in (strength.sum(0), generalizing.sum(0), rest)]
            result.append(
                {
                    "epoch": number,
                    "share": generalizing_share(generalizing, strength)[1],
                    **dict(zip(("whole", "common", "rest"), shares, strict=True)),
                    "cancels": float(order_cancellation(m.and_, m.or_, m.tau)[0]),
                }
            )
    return result


def main() -> None:
    torch.set_num_threads(1)
    print("run, share at best (epoch) and end, decay of all, of the common part, of the rest, order one cancels, agree")
    for task in TASKS:
        for name, (wrong, decays) in SETTINGS.items():
            found = rows(task, wrong, task.weight_decay if decays else 0.0)
            best, last = max(found, key=lambda row: row["share"]), found[-1]
            common, rest = ([row[part] for row in found[1:]] for part in ("common", "rest"))
            agree = rank_correlation([row["share"] for row in found], [row["whole"] for row in found])
            cells = [
                f"{task.name}, {name}",
                f"{best['share']:.2f} ({best['epoch']}), {last['share']:.2f}",
                f"{best['whole']:.2f}, {last['whole']:.2f}",
                f"{np.median(common):.2f} ({min(common):.2f})",
                f"{np.median(rest):.2f} ({max(rest):.2f})",
                f"{best['cancels']:.0%}, {last['cancels']:.0%}",
                f"{agree:.2f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
