"""Watch LeNet or VGG-11 learn MNIST digits, of which some are wrongly labelled.

python -m examples.mnist --data FOLDER                    # LeNet
python -m examples.mnist --data FOLDER --network vgg11    # an eighth as wide as in the papers
python -m examples.mnist --data FOLDER --full             # the papers' settings, for a GPU
"""

from __future__ import annotations

from examples import training
from examples.datasets import mnist
from examples.networks import LeNet, vgg11
from interaction_monitor.players import FeaturePatches

SMALL = {
    "lenet": training.Size(epochs=64, train=2000, players=10, samples=40, wrong_labels=0.05),
    "vgg11": training.Size(epochs=32, train=2000, players=8, samples=20, wrong_labels=0.05),
}
FULL = training.Size(wrong_labels=0.01)


def main(command: list[str] | None = None) -> None:
    options = training.options(__doc__, SMALL, full=FULL, command=command)
    with training.refusals():
        data = mnist(
            options.data,
            size=32,
            n_train=options.train,
            n_test=None if options.full else 1000,
            wrong_labels=options.wrong_labels,
            seed=options.seed,
        )
    if options.network == "lenet":
        network = LeNet(size=32, padding=0 if options.full else 2)
        layer, grid = "network.features.1", 7
    else:
        network = vgg11(channels=1, width=64 if options.full else 8)
        layer, grid = "network.features.4", 8
    with training.refusals():
        players = FeaturePatches(layer, grid=grid, n_players=options.players)
    training.watch(network, data, players, options)


if __name__ == "__main__":
    main()
