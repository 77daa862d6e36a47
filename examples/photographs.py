"""What the examples on photographs in files share."""

from __future__ import annotations

from collections.abc import Callable

from examples import training
from examples.datasets import Data
from examples.networks import AlexNet, vgg16
from interaction_monitor.players import FeaturePatches

SMALL = {
    "alexnet": training.Size(epochs=16, train=1000, players=8, samples=20, wrong_labels=0.05),
    "vgg16": training.Size(epochs=16, train=1000, players=8, samples=20, wrong_labels=0.05),
}


def watch(
    description: str | None, load: Callable[..., Data], *, full: training.Size, command: list[str] | None
) -> None:
    """Train AlexNet, masked at its first ReLU, or VGG-16, at its second, on 224x224 pixels; 64x64 without --full."""
    options = training.options(description, SMALL, full=full, command=command)
    with training.refusals():
        data = load(
            options.data,
            size=224 if options.full else 64,
            n_train=options.train,
            wrong_labels=options.wrong_labels,
            seed=options.seed,
        )
    width = 64 if options.full else 8
    if options.network == "alexnet":
        network, layer = AlexNet(len(data.classes), width=width), "network.features.1"
    else:
        network, layer = vgg16(len(data.classes), width=width), "network.features.3"
    with training.refusals():
        players = FeaturePatches(layer, grid=8, n_players=options.players)
    training.watch(network, data, players, options)
