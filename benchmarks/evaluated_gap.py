"""Where the loss gap opens: by logged losses, by losses in evaluation mode on 512 samples of each, and on all samples.

`python -m benchmarks evaluated_gap`, a few minutes: 24 LeNets of the demo, without and with dropout, with clean labels
and with 20% of them wrong.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.digits import LeNet, digits
from interaction_monitor import Probe
from interaction_monitor.batches import FixedSamples
from interaction_monitor.phases.loss_gap import gap_opening

SEEDS, EPOCHS, BATCH, MEASURED = range(200, 206), 36, 128, 25
Losses = list[tuple[float, float, float]]  # epoch, train and test loss


def network(*, dropout: bool) -> LeNet:
    net = LeNet()
    if dropout:
        net.classifier.insert(3, nn.Dropout(0.5))
    return net


@torch.no_grad()
def loss_of(net: nn.Module, samples: tuple[Tensor, ...]) -> float:
    net.eval()
    loss = functional.cross_entropy(net(samples[0]), samples[1])
    net.train()
    return float(loss)


def readings(*, dropout: bool, wrong: float, seed: int) -> tuple[Losses, Losses, Losses]:
    """Train a network and give its losses as logged, on 512 samples of each kind, and on all."""
    torch.manual_seed(seed)
    train, test = (part.tensors for part in digits(1500, wrong))
    net = network(dropout=dropout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    probe = Probe(test[0][:MEASURED], test[1][:MEASURED])
    some_train, some_test = FixedSamples(probe), FixedSamples(probe, spread=True)
    for images, labels in zip(test[0].split(500), test[1].split(500), strict=True):
        some_test.add((images, labels))
    some_test.close()
    logged: Losses = []
    evaluated: Losses = [(0, math.nan, loss_of(net, (probe.inputs, test[1][:MEASURED])))]
    complete: Losses = [(0, loss_of(net, train), loss_of(net, test))]
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for chosen in torch.randperm(len(train[0])).split(BATCH):
            batch = train[0][chosen], train[1][chosen]
            some_train.add(batch)
            loss = functional.cross_entropy(net(batch[0]), batch[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
        kept = [(part.parts[0].inputs, part.parts[0].targets) for part in (some_train, some_test)]
        complete.append((epoch, loss_of(net, train), loss_of(net, test)))
        logged.append((epoch, total / len(train[0]), complete[-1][2]))
        evaluated.append((epoch, loss_of(net, kept[0]), loss_of(net, kept[1])))
    return logged, evaluated, complete


def opening(losses: Losses) -> float:
    found = gap_opening(losses)
    return EPOCHS if found is None else found.epoch


def main() -> None:
    print("| network | all samples | logged | 512 of each |\n|---|---|---|---|")
    for dropout, wrong in ((False, 0.0), (False, 0.2), (True, 0.0), (True, 0.2)):
        runs = [readings(dropout=dropout, wrong=wrong, seed=seed) for seed in SEEDS]
        logged, evaluated, complete = ([opening(losses) for losses in each] for each in zip(*runs, strict=True))
        cells = [f"{'with dropout' if dropout else 'LeNet'}, {f'{wrong:.0%} wrong' if wrong else 'clean'}"]
        cells.append(", ".join(f"{epoch:.0f}" for epoch in complete))
        for found in (logged, evaluated):
            off = sum(abs(mine - true) for mine, true in zip(found, complete, strict=True)) / len(found)
            cells.append(f"{', '.join(f'{epoch:.0f}' for epoch in found)} (off by {off:.1f})")
        print(f"| {' | '.join(cells)} |", flush=True)
