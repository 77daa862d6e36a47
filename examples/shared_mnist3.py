"""See which interactions ResNet-20 and VGG-16 share that learned to tell the digit 3 from others.

    python -m examples.shared_mnist3 --data FOLDER

The third task of Chen et al. 2024: the players are eight parts of a 3 that the authors labelled by hand, nine pixels
each, the output is the logit of "3", and absent parts are black. The networks are narrower than theirs, and trained on
fewer digits, so that this takes minutes on a CPU.
"""

from __future__ import annotations

import torch
from torch.utils.data import TensorDataset

from examples import shared_steps, training
from examples.datasets import mnist3, mnist3_parts
from examples.networks import ResNet20, vgg16
from interaction_monitor import Probe
from interaction_monitor.comparison import Network, compare_networks
from interaction_monitor.players import Segments


def main() -> None:
    options = shared_steps.options(__doc__, "shared_mnist3", epochs=3, train=8000, samples=30, width=8, background=1)
    with training.refusals():
        data = mnist3(options.data, n_train=options.train)
        images, parts = mnist3_parts(options.data)
        training.enough("--samples", options.samples, images, "threes with labelled parts")
    test = TensorDataset(*(tensor[:1000] for tensor in data.test.tensors))
    probe = Probe(images[: options.samples], torch.ones(options.samples, dtype=torch.long))
    players = Segments.from_indices(parts[: options.samples], (32, 32))
    networks = []
    for seed, (name, build) in enumerate({"ResNet-20": ResNet20, "VGG-16": vgg16}.items()):
        torch.manual_seed(seed)
        network = build(2, channels=1, width=options.width)
        shared_steps.train(network, data.train, epochs=options.epochs, learning_rate=1e-3)
        print(f"{name}: {shared_steps.accuracy(network, test):.1%} of the test digits right", flush=True)
        networks.append(
            Network(network, probe, players, output="logit", name=name, background_levels=options.background)
        )
    shared_steps.conclude(compare_networks(networks, alpha=options.alpha, normalize=True), options.out)


if __name__ == "__main__":
    main()
