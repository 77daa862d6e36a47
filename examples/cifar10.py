"""Watch VGG-11, VGG-16 or a small AlexNet learn CIFAR-10 photographs, of which some are wrongly labelled.

python -m examples.cifar10 --data FOLDER
python -m examples.cifar10 --data FOLDER --network alexnet
python -m examples.cifar10 --data FOLDER --full    # the papers' settings, for a GPU
"""

from __future__ import annotations

from examples import training
from examples.datasets import cifar10
from examples.networks import AlexNet, vgg11, vgg16
from interaction_monitor.players import FeaturePatches

SMALL = {
    "vgg11": training.Size(epochs=48, train=2000, players=8, samples=20, wrong_labels=0.01),
    "alexnet": training.Size(epochs=48, train=2000, players=8, samples=20, wrong_labels=0.01),
    "vgg16": training.Size(epochs=48, train=2000, players=8, samples=20, wrong_labels=0.01),
}
FULL = training.Size(wrong_labels=0.01)


def main(command: list[str] | None = None) -> None:
    options = training.options(__doc__, SMALL, full=FULL, command=command)
    with training.refusals():
        data = cifar10(options.data, n_train=options.train, wrong_labels=options.wrong_labels, seed=options.seed)
    width = 64 if options.full else 16
    if options.network == "vgg11":
        network, layer = vgg11(width=width), "network.features.4"
    elif options.network == "vgg16":
        network, layer = vgg16(width=width), "network.features.3"
    else:
        network, layer = AlexNet(width=width), "network.features.1"
    with training.refusals():
        players = FeaturePatches(layer, grid=8, n_players=options.players)
    training.watch(network, data, players, options)


if __name__ == "__main__":
    main()
