"""Watch ResNet-20 or VGG-16 learn to tell the digit 3 from others, with parts of the 3 labelled by hand as players.

python -m examples.mnist3 --data FOLDER
python -m examples.mnist3 --data FOLDER --network vgg16
python -m examples.mnist3 --data FOLDER --full    # full width, 50 epochs, all 100 threes
"""

from __future__ import annotations

import torch

from examples import training
from examples.datasets import mnist3, mnist3_parts
from examples.networks import ResNet20, vgg16
from interaction_monitor import Probe
from interaction_monitor.players import Segments

SMALL = {
    "resnet20": training.Size(epochs=16, train=1000, players=8, samples=20),
    "vgg16": training.Size(epochs=16, train=1000, players=8, samples=20),
}
FULL = training.Size(epochs=50, players=8, samples=100)


def main(command: list[str] | None = None) -> None:
    options = training.options(__doc__, SMALL, full=FULL, command=command)
    with training.refusals():
        data = mnist3(options.data, n_train=options.train, wrong_labels=options.wrong_labels, seed=options.seed)
        images, parts = mnist3_parts(options.data)
        training.enough("--samples", options.samples, images, "threes with labelled parts")
        training.enough("--players", options.players, parts[0], "labelled parts")
    probe = Probe(images[: options.samples], torch.ones(options.samples, dtype=torch.long))
    players = Segments.from_indices(parts[: options.samples, : options.players], (32, 32))
    if options.network == "resnet20":
        network = ResNet20(2, channels=1, width=16 if options.full else 8)
        network = network.to(memory_format=torch.channels_last)  # a seventh faster on a CPU
    else:
        network = vgg16(2, channels=1, width=64 if options.full else 8, batch_norm=options.full)
    training.watch(network, data, players, options, probe=probe, output="logit")


if __name__ == "__main__":
    main()
