"""A network for tables."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


class Perceptron(nn.Sequential):
    """A multilayer perceptron with ReLUs; its input is masked.

    Args:
        n_inputs: columns of the table.
        n_classes: how many.
        width: units of each hidden layer.
        depth: hidden layers.
    """

    def __init__(self, n_inputs: int, n_classes: int = 2, *, width: int = 64, depth: int = 3) -> None:
        sizes = [n_inputs] + [width] * depth
        hidden = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
        super().__init__(*(layer for pair in hidden for layer in pair), nn.Linear(width, n_classes))
