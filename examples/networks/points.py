"""Networks for point clouds (B, N, 3)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class PointNet(nn.Module):
    """PointNet without its alignment networks: the same layers for each point, then the largest of each feature.

    The points themselves are masked.
    """

    def __init__(self, n_classes: int = 10, *, width: int = 64) -> None:
        super().__init__()
        self.points = nn.Sequential(
            *(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2 * width), nn.ReLU()),
            *(nn.Linear(2 * width, 8 * width), nn.ReLU()),
        )
        self.classifier = nn.Sequential(nn.Linear(8 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, n_classes))

    def forward(self, clouds: Tensor) -> Tensor:
        return self.classifier(self.points(clouds).amax(dim=1))


class PointNorm(nn.BatchNorm1d):
    """Batch norm of features that lie last, (B, N, features)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


class EdgeConvolution(nn.Module):
    """Join each point with its nearest neighbours in the space of its features, and keep the largest responses."""

    def __init__(self, n_inputs: int, n_outputs: int, n_neighbours: int) -> None:
        super().__init__()
        self.n_neighbours = n_neighbours
        # W (x_i, x_j - x_i) in two parts, so that each is computed once per point and not once per edge.
        self.neighbour = nn.Linear(n_inputs, n_outputs, bias=False)
        self.centre = nn.Linear(n_inputs, n_outputs, bias=False)
        self.norm = PointNorm(n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        near = torch.cdist(x, x).topk(self.n_neighbours, largest=False).indices  # (B, N, k)
        seen = self.neighbour(x)
        index = near.flatten(1)[..., None].expand(-1, -1, seen.shape[-1])
        largest = seen.gather(1, index).unflatten(1, near.shape[1:]).amax(dim=2)
        # The leaky ReLU rises, so the largest response is the response to the largest neighbour.
        return nn.functional.leaky_relu(self.norm(largest - seen + self.centre(x)), 0.2)


class DynamicGraph(nn.Module):
    """DGCNN [Wang et al. 2019], with layers and neighbourhoods that a CPU can afford, or with those of its authors.

    The points themselves are masked. The batch norm of an edge convolution follows its maximum, which saves memory,
    where the authors' comes before it.

    Args:
        n_classes: how many.
        width: features of the first two edge convolutions; 64 are the authors'.
        n_neighbours: of each point; 20 are the authors'.
        whole: all of the authors' layers for the kinds of whole clouds: a fourth edge convolution, twice as many
            features of a cloud, and a second hidden layer, with dropout behind both.
    """

    def __init__(self, n_classes: int = 10, *, width: int = 32, n_neighbours: int = 10, whole: bool = False) -> None:
        super().__init__()
        sizes = [3, width, width, 2 * width, *([4 * width] if whole else [])]
        features = (16 if whole else 8) * width
        self.edges = nn.ModuleList(EdgeConvolution(a, b, n_neighbours) for a, b in pairwise(sizes))
        normed = [PointNorm(features)] if whole else []
        self.joined = nn.Sequential(nn.Linear(sum(sizes[1:]), features, bias=not whole), *normed, nn.LeakyReLU(0.2))
        hidden = [2 * features, *([8 * width] if whole else []), 4 * width]
        layers: list[nn.Module] = []
        for a, b in pairwise(hidden):
            layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.LeakyReLU(0.2), *([nn.Dropout(0.5)] if whole else [])]
        self.classifier = nn.Sequential(*layers, nn.Linear(hidden[-1], n_classes))

    def forward(self, clouds: Tensor) -> Tensor:
        levels = [clouds]
        for edge in self.edges:
            levels.append(edge(levels[-1]))
        features = self.joined(torch.cat(levels[1:], dim=2))
        return self.classifier(torch.cat([features.amax(dim=1), features.mean(dim=1)], dim=1))
