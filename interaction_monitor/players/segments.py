"""Segments of the positions as players: those that somebody drew, and clusters of a point cloud."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interaction_monitor._checks import describe, require_whole
from interaction_monitor.loading import draw
from interaction_monitor.players.base import Baseline, Players, require_complete
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe

MAX_ITERATIONS = 100  # of k-means; a few hundred points settle in about ten


@dataclass(frozen=True, kw_only=True)
class Segments(Players):
    """Parts given by a label for each position, which may differ from sample to sample.

    Args:
        labels: integers, the segment at each position; negative numbers are background, which is always present.
            Either (S, *positions), one map per sample, or with as many axes as the masked tensor, such as
            (1 or S, 1 or C, H, W): that is Captum's `feature_mask`. One map (first axis 1) goes for all samples.
        n_players: how many segments are drawn per sample among its own; the others become background. 0 takes all:
            segment i is player i, and a sample without some of the segments is left out of the measurements.
        axes: which axes of the masked tensor the positions are. None finds out: the last ones if the sizes match,
            else those from 1 on.
        layer: the dotted name of a layer whose output is masked; None masks the input.
        baseline: what absent segments are replaced by: a number, a tensor, or a callable (masked tensor) -> number or
            tensor.
        input_key: which entry of a dict of inputs is masked; needed if there are several.

    Raises:
        ValueError: if there are no integer labels, or no segments.
        TypeError: if the labels are no tensor, or `n_players` is not whole.

    Examples:
        >>> halves = Segments(torch.tensor([[[0, 0, 1, 1]]]))
        >>> halves.n_players, halves.assign(Probe(torch.rand(3, 1, 1, 4)), None, seed=0).labels.shape
        (2, torch.Size([3, 1, 4]))
    """

    labels: Tensor = field(kw_only=False, repr=False)
    n_players: int = 0
    axes: tuple[int, ...] | None = None
    layer: str | None = None
    baseline: Baseline = 0.0
    input_key: str | None = None

    def __post_init__(self) -> None:
        require_whole(self, n_players=self.n_players)
        if not isinstance(self.labels, Tensor):
            raise TypeError(
                f"Segments(labels={describe(self.labels)}): give a tensor (samples, *positions) of integers; "
                "torch.as_tensor makes one"
            )
        if self.labels.is_floating_point() or self.labels.ndim < 2 or self.labels.numel() == 0 or self.labels.max() < 0:
            raise ValueError(
                f"labels must be integers of shape (samples, *positions) with some segment from 0 on, got "
                f"{self.labels.dtype} of {tuple(self.labels.shape)}"
            )
        if self.n_players < 0:
            raise ValueError(f"n_players={self.n_players} must be at least 1, or 0 for all segments")
        if self.n_players == 0:
            object.__setattr__(self, "n_players", int(self.labels.max()) + 1)
            object.__setattr__(self, "_all", True)

    @classmethod
    def from_indices(cls, indices: Sequence[Any], size: Sequence[int], **settings: Any) -> Segments:
        """Make segments from the flat positions of each player.

        Args:
            indices: for each sample, for each player, the flat indices of its positions: (S, n, any number).
            size: of the positions, for instance (height, width); index = row * width + column.
            settings: as for the class.

        Raises:
            ValueError: if two players of a sample share a position, or one lies outside.

        Examples:
            >>> Segments.from_indices([[[0, 1], [3]]], (2, 2)).labels
            tensor([[[ 0,  0],
                     [-1,  1]]])
        """
        n_positions = torch.Size(size).numel()
        labels = torch.full((len(indices), n_positions), -1, dtype=torch.int64)
        for sample, players in enumerate(indices):
            for player, places in enumerate(players):
                place = torch.as_tensor(places, dtype=torch.int64)
                if ((place < 0) | (place >= n_positions)).any():
                    raise ValueError(f"sample {sample}, player {player} lies outside of {n_positions} positions")
                if (labels[sample, place] >= 0).any():
                    raise ValueError(f"sample {sample}, player {player} shares a position with another player")
                labels[sample, place] = player
        return cls(labels.view(len(indices), *size), **settings)

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Fit the labels to the samples, and draw if there is something to draw, as `Players.assign` says.

        Raises:
            ValueError: if the labels do not fit the masked tensor, or no sample has enough segments.

        Warns:
            UserWarning: if some samples have too few segments.
        """
        key, masked = self._masked(probe, activation)
        assert masked is not None
        labels, axes = self._fit(masked)
        if len(labels) not in (1, len(probe)):
            raise ValueError(f"labels has maps for {len(labels)} samples, but the probe has {len(probe)}")
        labels = labels.expand(len(probe), *labels.shape[1:]).clone()
        if not getattr(self, "_all", False):
            labels = torch.stack([self._drawn(one, (seed, sample)) for sample, one in enumerate(labels)])
        return require_complete(self._map(labels, axes, masked, key=key), "segments")

    def _fit(self, masked: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return labels whose positions are axes of the masked tensor, and these axes."""
        labels = self.labels.detach().cpu().long().clamp(min=-1)
        sizes = tuple(masked.shape)
        if self.axes is None and labels.ndim == masked.ndim:
            # A feature_mask: what it says once for a whole axis is no position.
            shared = [axis for axis in range(1, labels.ndim) if labels.shape[axis] == 1 < sizes[axis]]
            axes = tuple(axis for axis in range(1, labels.ndim) if axis not in shared)
            labels = labels.squeeze(shared) if shared else labels
        else:
            n_axes = labels.ndim - 1
            last, first = tuple(range(masked.ndim - n_axes, masked.ndim)), tuple(range(1, n_axes + 1))
            axes = self.axes or (last if sizes[-n_axes:] == tuple(labels.shape[1:]) else first)
        if not axes or max(axes) >= masked.ndim or tuple(sizes[a] for a in axes) != tuple(labels.shape[1:]):
            raise ValueError(
                f"labels of shape {tuple(self.labels.shape)} do not fit the tensor to mask, {sizes}: their axes after "
                "the first must be axes of it (give axes=, if they are not the last ones)"
            )
        return labels, axes

    def _drawn(self, labels: Tensor, key: tuple[int, int]) -> Tensor:
        present = torch.unique(labels)
        present = present[present >= 0]
        result = torch.full_like(labels, -1)
        if len(present) >= self.n_players:
            for player, place in enumerate(sorted(draw(len(present), self.n_players, *key))):
                result[labels == present[place]] = player
        return result


@dataclass(frozen=True, kw_only=True)
class PointClusters(Players):
    """K-means clusters of a point cloud, some drawn per sample, each masked by its own mean [Ren et al. 2024, F.3].

    Args:
        n_clusters: into how many clusters each cloud is cut.
        n_players: how many of them are drawn; 2**n_players masked forwards follow for each cloud.
        baseline: what the points of absent clusters are replaced by: None for the mean of their cluster (the papers'
            choice; the cloud keeps its coarse shape), or a number, a tensor, or a callable (clouds) -> number or
            tensor.
        channels_first: whether clouds are (B, 3, N) and not (B, N, 3); None takes the shorter axis for coordinates.
        input_key: which entry of a dict of inputs holds the clouds; needed if there are several.

    Raises:
        ValueError: if there are more players than clusters.
        TypeError: if a number is not whole.

    Examples:
        >>> clouds = torch.rand(2, 64, 3)
        >>> drawn = PointClusters(n_clusters=8, n_players=4).assign(Probe(clouds), seed=0)
        >>> drawn.labels.shape, drawn.axes, drawn.baseline.shape
        (torch.Size([2, 64]), (1,), torch.Size([2, 64, 3]))
    """

    n_clusters: int = 30
    n_players: int = 10
    baseline: Baseline | None = None  # type: ignore[assignment]  # None stands for the default of the kind
    channels_first: bool | None = None
    input_key: str | None = None

    def __post_init__(self) -> None:
        require_whole(self, n_clusters=self.n_clusters, n_players=self.n_players)
        if not 1 <= self.n_players <= self.n_clusters:
            raise ValueError(f"n_players={self.n_players} must be from 1 to n_clusters={self.n_clusters}")

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Cluster clouds (S, N, C) or (S, C, N), as `Players.assign` says; the first three channels are coordinates.

        Raises:
            ValueError: if the inputs are no clouds, are not finite, or have fewer different points than clusters.
        """
        key, inputs = probe.entry(self.input_key)
        clouds, channels_first = self._clouds(inputs)
        if not clouds.isfinite().all():
            raise ValueError("PointClusters needs finite coordinates, but some are NaN or infinite")
        labels = torch.full(clouds.shape[:2], -1, dtype=torch.int64)
        means = torch.empty_like(clouds)
        for sample, cloud in enumerate(clouds):
            try:
                clusters = k_means(cloud[:, :3], self.n_clusters, (seed, sample))
            except ValueError as error:
                raise ValueError(
                    f"sample {sample} of the probe: {error}; take fewer clusters, or other samples"
                ) from None
            for player, cluster in enumerate(sorted(draw(self.n_clusters, self.n_players, seed, sample))):
                labels[sample, clusters == cluster] = player
            for cluster in range(self.n_clusters):
                means[sample, clusters == cluster] = cloud[clusters == cluster].mean(0)
        baseline = self.baseline
        if baseline is None:
            baseline = (means.transpose(1, 2) if channels_first else means).contiguous().to(inputs.dtype)
        return self._map(labels, (2,) if channels_first else (1,), inputs, baseline=baseline, key=key)

    def suits(self, probe: Probe) -> Tensor:
        """Tell which clouds can be cut into so many clusters, as `Players.suits` says; all where `assign` will refuse.

        Examples:
            >>> clouds = torch.stack([torch.arange(24.0).view(8, 3), torch.zeros(8, 3)])
            >>> PointClusters(n_clusters=4, n_players=2).suits(Probe(clouds))
            tensor([ True, False])
        """
        with suppress(ValueError):
            clouds, _ = self._clouds(probe.entry(self.input_key)[1])
            different = [len(torch.unique(cloud[:, :3], dim=0)) for cloud in clouds]
            return (torch.tensor(different) >= self.n_clusters) & clouds.isfinite().flatten(1).all(1)
        return super().suits(probe)

    def _clouds(self, inputs: Tensor) -> tuple[Tensor, bool]:
        """Return the clouds, (S, N, C) float64 on the CPU, and whether the inputs have their channels first."""
        if inputs.ndim != 3 or not inputs.is_floating_point():
            raise ValueError(
                f"PointClusters needs clouds (samples, points, coordinates) of floats, got {describe(inputs)} of "
                f"{inputs.dtype}"
            )
        _, rows, columns = inputs.shape
        if self.channels_first is None and rows == columns:
            raise ValueError(f"clouds of {rows}x{columns} may be read both ways: give channels_first=True or False")
        channels_first = rows < columns if self.channels_first is None else self.channels_first
        return (inputs.transpose(1, 2) if channels_first else inputs).detach().cpu().double(), channels_first


def k_means(points: Tensor, n_clusters: int, key: tuple[int, ...]) -> Tensor:
    """Cluster points by Lloyd's algorithm from k-means++ seeds (Arthur & Vassilvitskii 2007), decided by `key`.

    Args:
        points: (N, D) float64.
        n_clusters: how many; none stays empty.
        key: decides the seeds.

    Returns:
        (N,) int64, the cluster of each point.

    Raises:
        ValueError: if there are fewer different points than clusters.

    Examples:
        >>> k_means(torch.tensor([[0.0], [0.1], [9.0], [9.1]]), 2, (0,))
        tensor([1, 1, 0, 0])
    """
    different = len(torch.unique(points, dim=0))
    if different < n_clusters:
        raise ValueError(f"n_clusters={n_clusters}, but a cloud has only {different} different points")
    centers = _seeds(points, n_clusters, key)
    assigned = torch.full((len(points),), -1)
    for _ in range(MAX_ITERATIONS):
        squares = (points[:, None] - centers).square().sum(-1)
        nearest = squares.argmin(1)
        for cluster in (torch.bincount(nearest, minlength=n_clusters) == 0).nonzero()[:, 0]:
            # A center that lost all its points goes to the point that is worst off, if its cluster can spare it.
            spare = torch.bincount(nearest, minlength=n_clusters)[nearest] > 1
            far = squares.gather(1, nearest[:, None])[:, 0].masked_fill(~spare, -1.0).argmax()
            nearest[far] = cluster
            squares[far, cluster] = 0.0
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        counts = torch.bincount(assigned, minlength=n_clusters)[:, None]
        centers = torch.zeros_like(centers).index_add_(0, assigned, points) / counts
    return assigned


def _seeds(points: Tensor, n_clusters: int, key: tuple[int, ...]) -> Tensor:
    chosen = [int(_uniform("k-means", *key, 0) * len(points))]
    squares = torch.full((len(points),), torch.inf, dtype=points.dtype)
    for draws in range(1, n_clusters):
        squares = torch.minimum(squares, (points - points[chosen[-1]]).square().sum(1))
        heights = squares.cumsum(0)
        place = int(torch.searchsorted(heights, _uniform("k-means", *key, draws) * heights[-1], right=True))
        # Rounding may lead past the end, onto a point that is a seed already.
        chosen.append(min(place, int(squares.nonzero()[-1])))
    return points[chosen]


def _uniform(*key: int | str) -> float:
    """Return a number in [0, 1), uniformly distributed, decided by `key` alone, as `draw` is."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    # 53 bits are what a float holds: more would round up to one.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
