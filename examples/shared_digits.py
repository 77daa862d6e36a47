"""Train two differently built networks on the same handwritten digits and see which interactions they share.

    python -m examples.shared_digits           # about a minute on two cores
    tensorboard --logdir runs/shared_digits    # the pictures and tables

The same 20 test images, the same eight patches of each image as players; an absent patch shows the mean image, so
that the absence of ink counts too. The expectation of Chen et al. 2024: extracted together, the networks share more
interactions than extracted alone, and low orders more than high ones. The control says how much of that the
extraction makes by itself: it is the same on outputs of different images, which have nothing to share.
"""

from __future__ import annotations

import torch
from torch import nn

from examples import shared_steps, training
from examples.datasets import mnist_5k
from interaction_monitor import Probe
from interaction_monitor.comparison import Network, compare_networks
from interaction_monitor.players import ImagePatches


def lenet() -> nn.Module:
    """Large filters, max pooling, two linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def strided() -> nn.Module:
    """Small filters with strides, batch normalisation, average pooling, one linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, kernel_size=3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3)),
        *(nn.Flatten(), nn.Linear(288, 10)),
    )


def main() -> None:
    options = shared_steps.options(__doc__, "shared_digits", epochs=6, train=3000, samples=20, players=8)
    with training.refusals():
        data = mnist_5k(n_train=options.train)
        training.enough("--samples", options.samples, data.test, "test digits")
    images, labels = data.test.tensors
    probe = Probe(images[: options.samples], labels[: options.samples])
    patches = ImagePatches(
        grid=7, margin=2, n_players=options.players, baseline=lambda shown: shown.mean(dim=0, keepdim=True)
    )
    networks = []
    for seed, (name, build) in enumerate({"LeNet": lenet, "strided": strided}.items()):
        torch.manual_seed(seed)
        network = build()
        shared_steps.train(network, data.train, epochs=options.epochs, learning_rate=2e-3)
        print(f"{name}: {shared_steps.accuracy(network, data.test):.1%} of the test digits right", flush=True)
        networks.append(Network(network, probe, patches, name=name))
    shared_steps.conclude(compare_networks(networks, alpha=options.alpha, normalize=True), options.out)


if __name__ == "__main__":
    main()
